"""The moq-lite decoders of every version, fed whole and in slices.

Beyond "only WireError": slices never matter, memory is bounded, and a decoded message can be encoded and decodes the
same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from fuzz.source import Source
from relay.wire.decoder import (
    AnnounceDecoder,
    ProbeDecoder,
    RequestDecoder,
    ServerSetupDecoder,
    SetupDecoder,
    SubscribeDecoder,
    TrackInfoDecoder,
)
from relay.wire.errors import WireError, relay_stream_code, session_code_for, stream_code_for
from relay.wire.frame import (
    Datagram,
    FrameHeader,
    GroupHeader,
    frame_header_plain,
    frame_header_timed,
    group_header,
    open_request,
    setup_stream,
)
from relay.wire.frame_decoder import FrameDecoder, UniDecoder
from relay.wire.setup import Setup, SetupForm
from relay.wire.varint import encode_varint
from relay.wire.version import Version

VERSIONS = tuple(Version)
LIMIT = 4096
"""Bytes; small, so that inputs reach it."""

LONGEST_PREFIX = 16
"""Bytes buffered before a message: type and length."""


class Decoder(Protocol):
    """The interface of all decoders."""

    def feed(self, data: bytes, /) -> Sequence[Any]: ...
    def end(self) -> None: ...


def outcome(decoder: Decoder, slices: Sequence[bytes], *, limit: int = LIMIT) -> tuple[list[Any], str]:
    """The items, with payload chunks joined, and the end: `""`, or the name of the error."""
    items: list[Any] = []
    try:
        for piece in slices:
            for item in decoder.feed(piece):
                if isinstance(item, bytes) and items and isinstance(items[-1], bytes):
                    items[-1] += item
                else:
                    items.append(item)
            assert getattr(decoder, "buffered", 0) <= limit + LONGEST_PREFIX
        decoder.end()
    except WireError as error:
        try:
            decoder.feed(b"")
        except WireError as again:
            assert type(again) is type(error)
        else:
            raise AssertionError(f"alive after {error!r}") from error
        return items, type(error).__name__
    return items, ""


def drive(make: Callable[[], Decoder], data: bytes, step: int) -> list[Any]:
    """Feed `data` whole and in slices, with the same result. Returns the items of a valid input."""
    whole, fault = outcome(make(), [data])
    sliced, other = outcome(make(), Source(b"").slices(data, step))
    assert fault == other, (fault, other)
    if fault in {"", "Truncated"}:
        assert whole == sliced, (whole, sliced)
    return whole if not fault else []


def requests(data: bytes) -> None:
    """Bidirectional streams that a peer opens."""
    source = Source(data)
    version, step = source.pick(VERSIONS), source.byte() % 8
    items = drive(lambda: RequestDecoder(version, LIMIT), source.rest(), step)
    if items:
        first, *others = items
        again = open_request(version, first) + b"".join(item.encode(version) for item in others)
        assert RequestDecoder(version, 2 * LIMIT).feed(again) == items


def replies(data: bytes) -> None:
    """Answers of a peer on our streams."""
    source = Source(data)
    version, step = source.pick(VERSIONS), source.byte() % 8
    kinds: list[Callable[[int], Decoder]] = [
        lambda limit: AnnounceDecoder(version, limit),
        lambda limit: SubscribeDecoder(version, limit),
    ]
    if version >= Version.LITE_03:
        kinds.append(lambda limit: ProbeDecoder(version, limit))
    if version >= Version.LITE_05:
        kinds.append(lambda limit: TrackInfoDecoder(version, limit))
    kind = source.pick(kinds)
    items = drive(lambda: kind(LIMIT), source.rest(), step)
    again = b"".join(item.encode(version) for item in items)
    assert list(kind(2 * LIMIT).feed(again)) == items


def groups(data: bytes) -> None:
    """Unidirectional streams: a group with its frames, or SETUP."""
    source = Source(data)
    version, step, most = source.pick(VERSIONS), source.byte() % 8, source.pick((1 << 20, 64, 0))
    items = drive(lambda: UniDecoder(version, most, LIMIT), source.rest(), step)
    again = b""
    previous = 0
    for item in items:
        if isinstance(item, GroupHeader):
            again += group_header(version, item)
        elif isinstance(item, Setup):
            again += setup_stream(version, item)
        elif isinstance(item, FrameHeader):
            assert item.size <= most
            if not version.has_timestamps:
                again += frame_header_plain(item.size)
            else:
                again += frame_header_timed(item.timestamp - previous, item.size)
                previous = item.timestamp
        else:
            again += item
    assert outcome(UniDecoder(version, most, 2 * LIMIT), [again] if again else []) == (items, "")


def frames(data: bytes) -> None:
    """The reply to a FETCH: bare frames."""
    source = Source(data)
    version, step = source.pick(VERSIONS), source.byte() % 8
    drive(lambda: FrameDecoder(version, 1 << 16), source.rest(), step)


def setups(data: bytes) -> None:
    """The older SETUP exchange on the first stream, both sides."""
    source = Source(data)
    kind, step = source.byte() % 4, source.byte() % 8
    rest = source.rest()
    if kind == 0:
        items = drive(lambda: SetupDecoder(LIMIT), rest, step)
    else:
        form = tuple(SetupForm)[kind - 1]
        items = drive(lambda: ServerSetupDecoder(form, LIMIT), rest, step)
    for item in items[:1]:
        assert type(item).decode is not None
        # a form with both numbers and bytes may be ambiguous, and not encodable
        with suppress(ValueError):
            item.encode()


def datagrams(data: bytes) -> None:
    """Datagrams, and forwarded codes."""
    source = Source(data)
    version = source.pick(VERSIONS)
    code = source.number()
    for number in (
        relay_stream_code(code, version),
        stream_code_for(version, code),
        session_code_for(version, code),
    ):
        assert 0 <= number < 1 << 32
    if version < Version.LITE_05:
        return
    with suppress(WireError):
        found = Datagram.decode(source.rest(), version)
        assert Datagram.decode(found.encode(version), version) == found


def built(data: bytes) -> None:
    """Valid length prefixes and fields from the input, to pass the first checks."""
    source = Source(data)
    version, step, kind = source.pick(VERSIONS), source.byte() % 8, source.byte() % 6
    stream = b""
    while source:
        body = b""
        for _ in range(source.byte() % 12):
            match source.byte() % 4:
                case 0:
                    body += source.varint()
                case 1:
                    text = source.chunk(40)
                    body += encode_varint(len(text)) + text
                case 2:
                    body += bytes((source.byte(),))
                case _:
                    body += encode_varint(source.byte() % 8)
        lead = encode_varint(source.byte() % 8) if source.flag() else b""
        stream += lead + encode_varint(len(body)) + body
    prefix = bytes((VERSIONS.index(version), step))
    match kind:
        case 0 | 1:
            requests(prefix + stream)
        case 2 | 3:
            replies(prefix + bytes((kind,)) + stream)
        case 4:
            groups(prefix + b"\0" + stream)
        case _:
            setups(bytes((step % 4, step)) + stream)


TARGETS = {
    "wire-requests": requests,
    "wire-replies": replies,
    "wire-groups": groups,
    "wire-frames": frames,
    "wire-setups": setups,
    "wire-datagrams": datagrams,
    "wire-built": built,
}
