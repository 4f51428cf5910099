"""The decoders of moq-transport in every draft, fed whole and in slices.

As in `wire`: only WireError, slices never matter, memory is bounded, and what was read can be written and reads the same.
Properties of objects can be written for peers of every other draft.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from fuzz.source import Source
from fuzz.targets.wire import LIMIT, drive, outcome
from relay.wire.errors import WireError
from relay.wire.ietf import profile as drafts
from relay.wire.ietf import streams
from relay.wire.ietf.codes import RequestKind, ResetCode
from relay.wire.ietf.control import MessageDecoder, encode
from relay.wire.ietf.cursor import Reader, Writer
from relay.wire.ietf.data import FetchGap, FetchHeader, FetchObject, ObjectHeader, SubgroupHeader
from relay.wire.ietf.decoder import UniDecoder
from relay.wire.ietf.profile import DRAFTS, DraftProfile
from relay.wire.ietf.values import Properties

TYPES = (0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x0B, 0x0D, 0x0E, 0x10, 0x11, 0x16, 0x18, 0x1D, 0x1E, 0x20, 0x21, 0x22,
         0x50, 0x51, 0x2F00)  # fmt: skip


def again(items: Sequence[Any], profile: DraftProfile, *, descending: bool = False) -> bytes:
    """The items of a stream, written."""
    out = bytearray()
    before: int | None = None
    has_properties = False
    fetch = streams.FetchEncoder(profile, descending=descending)
    for item in items:
        if isinstance(item, bytes):
            out += item
        elif isinstance(item, SubgroupHeader):
            has_properties = item.has_properties
            out += streams.subgroup_header(item, profile)
        elif isinstance(item, ObjectHeader):
            out += streams.object_header(item, before, profile, has_properties=has_properties)
            before = item.id
        elif isinstance(item, FetchHeader):
            out += streams.fetch_header(item.request_id, profile)
        elif isinstance(item, FetchObject | FetchGap):
            out += fetch.header(item)
        else:
            out += encode(item, profile)
    return bytes(out)


def writable(items: Sequence[Any], profile: DraftProfile) -> bool:
    """False if a peer sent a parameter that its draft lacks: read, but never written."""
    found = [getattr(item, "params", None) for item in items]
    params = [param for outer in found if outer for param in (outer, outer.fill) if param]
    return all(getattr(param, name) in (None, ()) for param in params for name in profile.lacks)


def messages(data: bytes) -> None:
    """A control stream or a request stream."""
    source = Source(data)
    profile, step = source.pick(DRAFTS), source.byte() % 8
    items = drive(lambda: MessageDecoder(profile, LIMIT), source.rest(), step)
    if writable(items, profile):
        assert MessageDecoder(profile).feed(again(items, profile)) == items


def unis(data: bytes) -> None:
    """Unidirectional streams of every type."""
    source = Source(data)
    profile, step, most = source.pick(DRAFTS), source.byte() % 8, source.pick((1 << 20, 64, 0))
    descending = source.flag()
    items = drive(lambda: UniDecoder(profile, most, lambda _: descending, LIMIT), source.rest(), step)
    for item in items:
        if isinstance(item, ObjectHeader | FetchObject):
            assert item.size <= most
            translated(item.properties)
    if writable(items, profile):
        written = again(items, profile, descending=descending)
        assert outcome(UniDecoder(profile, most, lambda _: descending), [written]) == (items, "")


def translated(properties: Properties) -> None:
    for profile in DRAFTS:
        writer = Writer(profile)
        writer.block(properties)
        found = Reader(bytes(writer), profile).block()
        assert len(found) <= len(properties)
        assert set(found) <= set(properties)


def datagrams(data: bytes) -> None:
    """Datagrams, and codes."""
    source = Source(data)
    profile, code = source.pick(DRAFTS), source.number()
    for to in (None, *RequestKind):
        refusal = drafts.refusal_of(code, profile, to)
        assert drafts.refusal_code(refusal, profile) in (code, 0)
    assert drafts.done_code(drafts.done_of(code, profile), profile) in (code, 0)
    assert isinstance(drafts.reset_of(code), ResetCode)
    with suppress(WireError):
        found = streams.decode_datagram(source.rest(), profile)
        if found:
            assert streams.decode_datagram(streams.encode_datagram(found, profile), profile) == found
            translated(found.properties)


def built(data: bytes) -> None:
    """Valid types and lengths, and fields from the input, to pass the first checks."""
    source = Source(data)
    number, step, is_uni = source.byte() % len(DRAFTS), source.byte() % 8, source.flag()
    stream = Writer(DRAFTS[number])
    if is_uni and source.flag():
        stream.varint(source.pick((0x05, 0x10, 0x14, 0x19, 0x31, 0x5D)))
        while source:
            _field(stream, source)
    else:
        while source:
            body = Writer(DRAFTS[number])
            for _ in range(source.byte() % 16):
                _field(body, source)
            stream.varint(source.pick(TYPES))
            stream.raw(len(bytes(body)).to_bytes(2, "big") + bytes(body))
    if is_uni:
        unis(bytes((number, step, 0, 0)) + bytes(stream))
    else:
        messages(bytes((number, step)) + bytes(stream))


def _field(writer: Writer, source: Source) -> None:
    match source.byte() % 5:
        case 0:
            writer.varint(source.number())
        case 1:
            writer.sized(source.chunk(40))
        case 2:
            writer.byte(source.byte())
        case 3:
            writer.varint(source.byte() % 8)
        case _:
            writer.namespace(tuple([source.chunk(8) or b"x" for _ in range(source.byte() % 4)]))


TARGETS = {
    "ietf-messages": messages,
    "ietf-streams": unis,
    "ietf-datagrams": datagrams,
    "ietf-built": built,
}
