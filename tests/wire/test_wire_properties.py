"""Properties of all messages and versions, for any bytes: round trips, no error but WireError, any slices."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.paths import normalize
from relay.wire.announce import (
    AnnounceActive,
    AnnounceEnded,
    AnnounceInit,
    AnnounceOk,
    AnnounceRequest,
    AnnounceUpdate,
)
from relay.wire.control import Fetch, Goaway, Probe, ProbeRequest, SessionInfo, TrackInfo, TrackRequest
from relay.wire.cursor import Cursor
from relay.wire.decoder import (
    AnnounceDecoder,
    ProbeDecoder,
    RequestDecoder,
    ServerSetupDecoder,
    SetupDecoder,
    SubscribeDecoder,
    TrackInfoDecoder,
)
from relay.wire.errors import WireError
from relay.wire.frame import (
    MAX_TIMESTAMP,
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
from relay.wire.setup import ClientSetup, ServerSetup, Setup, SetupForm
from relay.wire.subscribe import Subscribe, SubscribeDrop, SubscribeEnd, SubscribeOk, SubscribeUpdate
from relay.wire.text import encode_path, encode_string
from relay.wire.varint import MAX_VARINT, decode_varint, encode_varint
from relay.wire.version import Version
from relay.wire.webtransport import (
    CloseCapsuleDecoder,
    WebTransportClose,
    encode_close_capsule,
    parse_protocol_list,
    quote_protocol,
)
from tests.sampling import repeats

V = Version
EXAMPLES = repeats(60)  # per version and kind of stream
quick = settings(max_examples=EXAMPLES, deadline=None)
Messages = list[Any]


class Decoder(Protocol):
    def feed(self, data: bytes, /) -> Sequence[object]: ...
    def end(self) -> None: ...


def dedupe(hops: list[int]) -> tuple[int, ...]:
    return tuple(hop for index, hop in enumerate(hops) if not hop or hop not in hops[:index])


numbers = st.integers(0, 100) | st.integers(0, MAX_VARINT)
optional = st.none() | st.integers(0, 100) | st.integers(0, MAX_VARINT - 1)
octets = st.integers(0, 255)
texts = st.text(max_size=40)
segments = st.text(min_size=1, max_size=8).filter(lambda text: "/" not in text)
paths = st.lists(segments, max_size=5).map("/".join) | st.just("/".join("a" * 32))
hop_lists = st.lists(st.integers(0, 50) | st.integers(0, 2**53), max_size=32).map(dedupe)
cuts = st.lists(st.integers(1, 40), min_size=1, max_size=20)


def ranges(version: Version) -> dict[str, Any]:
    given_: dict[str, Any] = {"priority": octets}
    if version >= V.LITE_03:
        given_ |= {"max_latency": numbers, "start_group": optional, "end_group": optional}
    if V.LITE_03 <= version <= V.LITE_05:
        given_["ordered"] = st.booleans()
    if version >= V.LITE_06:
        given_ |= {
            "start_group": st.none() | st.integers(1, MAX_VARINT),
            "end_group": numbers.map(lambda n: n // 2),
        }
        given_ |= {"start_frame": numbers, "end_frame": optional}
    return given_


def requests(version: Version) -> st.SearchStrategy[Messages]:
    has_exclude = version in (V.LITE_04, V.LITE_05)
    subscribes = st.builds(Subscribe, numbers, paths, texts, **ranges(version))
    updates = st.builds(SubscribeUpdate, **ranges(version))
    listed: list[st.SearchStrategy[Messages]] = [
        st.builds(AnnounceRequest, paths, numbers if has_exclude else st.just(0)).map(lambda one: [one]),
        st.tuples(subscribes, st.lists(updates, max_size=2 if version >= V.LITE_03 else 0)).map(
            lambda pair: [pair[0], *pair[1]]
        ),
    ]
    if version >= V.LITE_03:
        probes = st.lists(st.builds(Probe, numbers, numbers), max_size=2 if version >= V.LITE_05 else 0)
        listed.append(probes.map(lambda found: [ProbeRequest(), *found]))
    if version >= V.LITE_04:
        listed.append(st.builds(Goaway, texts).map(lambda one: [one]))
    if version >= V.LITE_05:
        frames = (numbers, optional) if version >= V.LITE_06 else ()
        listed.append(st.builds(Fetch, paths, texts, octets, numbers, *frames).map(lambda one: [one]))
        listed.append(st.builds(TrackRequest, paths, texts).map(lambda one: [one]))
    return st.one_of(listed)


def announcements(version: Version) -> st.SearchStrategy[Messages]:
    changes: list[st.SearchStrategy[Any]]
    if version >= V.LITE_06:
        changes = [
            st.builds(AnnounceActive, paths, hop_lists, warm=numbers, cold=numbers),
            st.builds(AnnounceEnded, announce_id=numbers),
            st.builds(AnnounceUpdate, numbers, hop_lists, numbers, numbers),
        ]
    else:
        fields: dict[str, Any] = {}
        if version == V.LITE_03:
            fields = {"hop_count": st.integers(0, 32)}
        elif version >= V.LITE_04:
            fields = {"hops": hop_lists, "restart": st.booleans() if version == V.LITE_05 else st.just(False)}
        changes = [st.builds(AnnounceActive, paths, **fields), st.builds(AnnounceEnded, paths)]
    opening: st.SearchStrategy[Messages] = st.just([])
    if version <= V.LITE_02:
        opening = st.lists(paths, max_size=5).map(lambda found: [AnnounceInit(tuple(found))])
    elif version >= V.LITE_05:
        opening = st.builds(AnnounceOk, numbers, numbers).map(lambda one: [one])
    return st.tuples(opening, st.lists(st.one_of(changes), max_size=5)).map(lambda pair: pair[0] + pair[1])


def subscribe_replies(version: Version) -> st.SearchStrategy[Messages]:
    if version == V.LITE_01:
        return st.builds(SubscribeOk, octets).map(lambda one: [one])
    if version == V.LITE_02:
        return st.just([SubscribeOk()])
    drops = st.builds(SubscribeDrop, numbers, numbers, numbers)
    if version <= V.LITE_04:
        return st.lists(st.builds(SubscribeOk, octets, st.booleans(), numbers, optional, optional) | drops)
    return st.lists(st.builds(SubscribeOk, group=numbers) | st.builds(SubscribeEnd, numbers) | drops)


def client_setups(form: SetupForm) -> st.SearchStrategy[Messages]:
    keys = st.integers(0, 20).map(lambda n: 2 * n + 1) if form is SetupForm.DRAFT14 else numbers
    params: st.SearchStrategy[dict[int, Any]] = st.dictionaries(keys, texts.map(str.encode), max_size=4)
    if form is SetupForm.DRAFT14:
        even = st.dictionaries(st.integers(0, 20).map(lambda n: 2 * n), numbers, max_size=3)
        params = st.tuples(params, even).map(lambda pair: pair[0] | pair[1])
    opening = st.builds(ClientSetup, st.just(form), st.lists(numbers, max_size=5).map(tuple), params)
    infos = st.lists(st.builds(SessionInfo, numbers), max_size=3)
    return st.tuples(opening, infos).map(lambda pair: [pair[0], *pair[1]])


def server_setups(form: SetupForm) -> st.SearchStrategy[Messages]:
    def answer(messages: Messages) -> Messages:
        return [ServerSetup(form, 0xFF0DAD01, messages[0].params), *messages[1:]]

    return client_setups(form).map(answer)


def setups() -> st.SearchStrategy[Messages]:
    maybe = st.none() | numbers
    return st.builds(Setup, maybe, st.none() | texts, maybe, maybe, maybe).map(lambda one: [one])


Kind = tuple[Callable[[], Decoder], st.SearchStrategy[Messages]]


@cache
def kinds(version: Version) -> dict[str, Kind]:
    """Every decoder of a version with a strategy for its stream."""
    found: dict[str, Kind] = {
        "request": (lambda: RequestDecoder(version), requests(version)),
        "announce": (lambda: AnnounceDecoder(version), announcements(version)),
        "subscribe": (lambda: SubscribeDecoder(version), subscribe_replies(version)),
    }
    if version <= V.LITE_02:
        for form in SetupForm:
            found[f"setup {form.name}"] = (SetupDecoder, client_setups(form))
            found[f"reply {form.name}"] = (partial(ServerSetupDecoder, form), server_setups(form))
    if version >= V.LITE_03:
        rtt = numbers if version >= V.LITE_04 else st.just(0)
        found["probe"] = (lambda: ProbeDecoder(version), st.lists(st.builds(Probe, numbers, rtt)))
    if version >= V.LITE_05:
        ordered = st.booleans() if version == V.LITE_05 else st.just(False)
        infos = st.builds(TrackInfo, octets, ordered, numbers, st.integers(1, MAX_VARINT))
        found["track info"] = (lambda: TrackInfoDecoder(version), infos.map(lambda one: [one]))
        found["setup"] = (lambda: UniDecoder(version), setups())
    return found


ALL_KINDS = [(version, name) for version in Version for name in kinds(version)]


def written(messages: Messages, version: Version, name: str) -> bytes:
    wire = []
    for index, message in enumerate(messages):
        if isinstance(message, ClientSetup | ServerSetup):
            wire.append(message.encode())
        elif isinstance(message, Setup):
            wire.append(setup_stream(version, message))
        elif name == "request" and not index:
            wire.append(open_request(version, message))
        else:
            wire.append(message.encode(version))
    return b"".join(wire)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces: list[bytes] = []
    while data:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def glued(items: list[object]) -> list[object]:
    found: list[object] = []
    for item in items:
        if isinstance(item, bytes) and found and isinstance(found[-1], bytes):
            found[-1] += item
        else:
            found.append(item)
    return found


def outcome(decoder: Decoder, pieces: list[bytes]) -> tuple[list[object], type[WireError] | None]:
    """Feed it all; a decoder that raised must repeat the error."""
    items: list[object] = []
    try:
        for piece in pieces:
            items.extend(decoder.feed(piece))
            assert getattr(decoder, "buffered", 0) <= sum(map(len, pieces))
        decoder.end()
    except WireError as error:
        with pytest.raises(type(error)):
            decoder.feed(b"\x00")
        with pytest.raises(type(error)):
            decoder.end()
        return glued(items), type(error)
    return glued(items), None


@pytest.mark.parametrize("version, name", ALL_KINDS)
@quick
@given(data=st.data())
def test_messages_survive_the_wire(version: Version, name: str, data: st.DataObject) -> None:
    make, strategy = kinds(version)[name]
    messages = data.draw(strategy)
    wire = written(messages, version, name)
    expected = [
        Probe(one.bitrate) if isinstance(one, Probe) and version == V.LITE_03 else one for one in messages
    ]
    assert outcome(make(), [wire]) == (expected, None)
    assert outcome(make(), cut(wire, data.draw(cuts))) == (expected, None)


frame_lists = st.lists(st.tuples(st.integers(0, MAX_TIMESTAMP), st.binary(max_size=100)), max_size=6)


@pytest.mark.parametrize("version", Version)
@quick
@given(header=st.builds(GroupHeader, numbers, numbers, numbers), listed=frame_lists, sizes=cuts)
def test_groups_survive_the_wire(
    version: Version, header: GroupHeader, listed: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    if version < V.LITE_06:
        header = GroupHeader(header.subscribe_id, header.sequence)
    wire, now, expected = [group_header(version, header)], 0, [header]
    items: list[object] = [*expected]
    for timestamp, payload in listed:
        timed = version >= V.LITE_05
        start = (
            frame_header_timed(timestamp - now, len(payload)) if timed else frame_header_plain(len(payload))
        )
        wire += [start, payload]
        items += [FrameHeader(timestamp if timed else 0, len(payload)), *([payload] if payload else [])]
        now = timestamp
    for pieces in ([b"".join(wire)], cut(b"".join(wire), sizes)):
        decoder = UniDecoder(version)
        assert outcome(decoder, pieces) == (items, None)
        assert decoder.frames is not None
        assert decoder.frames.frames == len(listed)
        assert not decoder.frames.in_frame


@cache
def makers(version: Version) -> dict[str, Callable[[], Decoder]]:
    limit = 64
    found: dict[str, Callable[[], Decoder]] = {
        "request": lambda: RequestDecoder(version, max_message=limit),
        "announce": lambda: AnnounceDecoder(version, max_message=limit),
        "subscribe": lambda: SubscribeDecoder(version, max_message=limit),
        "frame": lambda: FrameDecoder(version, max_frame=limit),
        "uni": lambda: UniDecoder(version, max_frame=limit, max_message=limit),
        "setup": lambda: SetupDecoder(max_message=limit),
        "reply": lambda: ServerSetupDecoder(SetupForm.SESSION, max_message=limit),
        "reply draft14": lambda: ServerSetupDecoder(SetupForm.DRAFT14, max_message=limit),
    }
    if version >= V.LITE_03:
        found["probe"] = lambda: ProbeDecoder(version, max_message=limit)
    if version >= V.LITE_05:
        found["track info"] = lambda: TrackInfoDecoder(version, max_message=limit)
    return found


small = st.integers(0, 9).map(lambda n: bytes((n,)))
garbage = st.binary(max_size=200) | st.lists(small | st.binary(max_size=6), max_size=40).map(b"".join)


@pytest.mark.parametrize("version, name", [(v, name) for v in Version for name in makers(v)])
@quick
@given(data=garbage, sizes=cuts)
def test_garbage_never_does_worse_than_a_wire_error(
    version: Version, name: str, data: bytes, sizes: list[int]
) -> None:
    make = makers(version)[name]
    decoder, fault = make(), None
    for piece in cut(data, sizes):
        try:
            decoder.feed(piece)
        except WireError as error:
            fault = type(error)
            break
        assert getattr(decoder, "buffered", 0) < 64 + 16
    _, whole_fault = outcome(make(), [data])
    if fault is not None:
        assert whole_fault is fault


@pytest.mark.parametrize("version, name", ALL_KINDS)
@quick
@given(data=st.data())
def test_a_damaged_stream_reads_the_same_in_any_slices(
    version: Version, name: str, data: st.DataObject
) -> None:
    make, strategy = kinds(version)[name]
    wire = bytearray(written(data.draw(strategy), version, name))
    for _ in range(data.draw(st.integers(1, 3)) if wire else 0):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(octets)
    items, fault = outcome(make(), [bytes(wire)])
    sliced_items, sliced_fault = outcome(make(), cut(bytes(wire), data.draw(cuts)))
    assert sliced_fault is fault
    if fault is None:
        assert sliced_items == items


@quick
@given(data=garbage, sizes=cuts)
def test_garbage_on_the_connect_stream(data: bytes, sizes: list[int]) -> None:
    decoder = CloseCapsuleDecoder()
    try:
        for piece in cut(data, sizes):
            decoder.feed(piece)
            assert decoder.buffered <= 1028
    except WireError as error:
        with pytest.raises(type(error)):
            decoder.feed(b"\x00")


@quick
@given(code=st.integers(0, 2**32 - 1), reason=st.text(max_size=200), wrapped=st.booleans(), sizes=cuts)
def test_close_survives_the_wire(code: int, reason: str, wrapped: bool, sizes: list[int]) -> None:
    decoder = CloseCapsuleDecoder()
    found = [decoder.feed(piece) for piece in cut(encode_close_capsule(code, reason, wrapped), sizes)]
    assert found[-1] == WebTransportClose(code, reason)


@pytest.mark.parametrize("version", [V.LITE_05, V.LITE_06])
@quick
@given(
    message=st.builds(Datagram, numbers, numbers, st.integers(0, MAX_TIMESTAMP), st.binary()), data=garbage
)
def test_datagrams(version: Version, message: Datagram, data: bytes) -> None:
    assert Datagram.decode(message.encode(version), version) == message
    with contextlib.suppress(WireError):
        Datagram.decode(data, version)


@quick
@given(value=numbers, tail=st.binary(max_size=3), width=st.sampled_from([1, 2, 4, 8]))
def test_varints_in_any_width(value: int, tail: bytes, width: int) -> None:
    data = encode_varint(value)
    assert decode_varint(data + tail) == (value, len(data))
    if width >= len(data):
        longer = (value | (width.bit_length() - 1) << (8 * width - 2)).to_bytes(width, "big")
        assert decode_varint(memoryview(tail + longer), len(tail)) == (value, len(tail) + width)


@quick
@given(text=texts, path=st.text("a/é", max_size=40), data=garbage)
def test_texts(text: str, path: str, data: bytes) -> None:
    assert Cursor(encode_string(text)).text() == text
    normal = normalize(path)
    assert normalize(normal) == normal
    assert "//" not in normal
    assert Cursor(encode_path(path)).path() == normal
    with contextlib.suppress(WireError):
        Cursor(data).path()


@quick
@given(names=st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126))), text=st.text())
def test_protocol_lists(names: list[str], text: str) -> None:
    assert parse_protocol_list(" ,\t".join(map(quote_protocol, names))) == names
    with contextlib.suppress(ValueError):
        parse_protocol_list(text)
