"""Control streams: types by version, order, limits, and messages that we refuse to write."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from relay.wire.announce import (
    AnnounceActive,
    AnnounceEnded,
    AnnounceInit,
    AnnounceOk,
    AnnounceRequest,
    AnnounceUpdate,
)
from relay.wire.control import Fetch, Goaway, Probe, ProbeRequest, SessionInfo, TrackInfo, TrackRequest
from relay.wire.decoder import (
    AnnounceDecoder,
    ProbeDecoder,
    RequestDecoder,
    ServerSetupDecoder,
    SetupDecoder,
    SubscribeDecoder,
    TrackInfoDecoder,
)
from relay.wire.errors import (
    BadFrameRange,
    DecodeError,
    MessageTooLarge,
    ProtocolViolation,
    Truncated,
    UnknownStreamType,
    WireError,
)
from relay.wire.frame import Request, StreamType, open_request
from relay.wire.frame_decoder import FrameDecoder, UniDecoder
from relay.wire.setup import ClientSetup, ServerSetup, Setup, SetupForm
from relay.wire.subscribe import Subscribe, SubscribeDrop, SubscribeEnd, SubscribeOk, SubscribeUpdate
from relay.wire.varint import encode_varint
from relay.wire.version import Version

V = Version

REQUESTS: dict[StreamType, tuple[Request, Version]] = {
    StreamType.ANNOUNCE: (AnnounceRequest("a"), V.LITE_01),
    StreamType.SUBSCRIBE: (Subscribe(0, "a", "t"), V.LITE_01),
    StreamType.PROBE: (ProbeRequest(), V.LITE_03),
    StreamType.GOAWAY: (Goaway("moqt://b"), V.LITE_04),
    StreamType.FETCH: (Fetch("a", "t", 0, 1), V.LITE_05),
    StreamType.TRACK: (TrackRequest("a", "t"), V.LITE_05),
}


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("kind", REQUESTS)
def test_each_version_has_its_streams_and_no_others(version: Version, kind: StreamType) -> None:
    message, first = REQUESTS[kind]
    decoder = RequestDecoder(version)
    if version >= first:
        assert decoder.feed(open_request(version, message)) == [message]
        assert decoder.stream_type is kind
        decoder.end()
        return
    with pytest.raises(UnknownStreamType) as caught:
        decoder.feed(encode_varint(kind))
    assert caught.value.stream_only
    with pytest.raises(ValueError, match=f"{version.name_on_wire} has no"):
        open_request(version, message)


@pytest.mark.parametrize("kind", [0x00, 0x07, 0x20, 0x40, 0x41, 2**61])
@pytest.mark.parametrize("version", Version)
def test_setup_and_unknown_types_are_refused_on_a_running_session(version: Version, kind: int) -> None:
    decoder = RequestDecoder(version)
    with pytest.raises(UnknownStreamType):
        decoder.feed(encode_varint(kind))
    with pytest.raises(UnknownStreamType):
        decoder.feed(b"")


@pytest.mark.parametrize("version", Version)
def test_updates_follow_a_subscribe_from_03_on(version: Version) -> None:
    decoder = RequestDecoder(version)
    opening = open_request(version, Subscribe(0, "a", "t"))
    if version < V.LITE_03:
        with pytest.raises(DecodeError):
            decoder.feed(opening + b"\x01\x00")
        return
    update = SubscribeUpdate(3, max_latency=250, end_group=99)
    assert decoder.feed(opening + update.encode(version)) == [Subscribe(0, "a", "t"), update]
    assert decoder.feed(update.encode(version)) == [update]
    decoder.feed(b"\x07")
    with pytest.raises(Truncated):
        decoder.end()


@pytest.mark.parametrize("version", [V.LITE_03, V.LITE_04, V.LITE_05, V.LITE_06])
def test_probe_messages_from_the_subscriber_exist_from_05_on(version: Version) -> None:
    decoder = RequestDecoder(version)
    assert decoder.feed(b"\x04") == [ProbeRequest()]
    if version < V.LITE_05:
        with pytest.raises(DecodeError):
            decoder.feed(b"\x02\x00\x00")
    else:
        assert decoder.feed(Probe(9).encode(version)) == [Probe(9)]


@pytest.mark.parametrize("kind", [StreamType.ANNOUNCE, StreamType.GOAWAY, StreamType.FETCH, StreamType.TRACK])
def test_other_requests_stand_alone(kind: StreamType) -> None:
    decoder = RequestDecoder(V.LITE_06)
    decoder.feed(open_request(V.LITE_06, REQUESTS[kind][0]))
    with pytest.raises(DecodeError):
        decoder.feed(b"\x00")


def test_a_stream_that_ends_before_it_began_is_no_error() -> None:
    for decoder in (RequestDecoder(V.LITE_06), AnnounceDecoder(V.LITE_06), SubscribeDecoder(V.LITE_06)):
        decoder.end()
    SetupDecoder().end()
    reply = ServerSetupDecoder(SetupForm.SESSION)
    reply.feed(b"")
    reply.end()


@pytest.mark.parametrize(
    "decoder, begun",
    [
        (RequestDecoder(V.LITE_01), "01"),
        (RequestDecoder(V.LITE_01), "40"),
        (AnnounceDecoder(V.LITE_03), "05"),
        (SubscribeDecoder(V.LITE_06), "01"),
        (TrackInfoDecoder(V.LITE_05), "08"),
        (ProbeDecoder(V.LITE_03), "02"),
        (SetupDecoder(), "00"),
        (SetupDecoder(), "200003"),
        (ServerSetupDecoder(SetupForm.COMPAT), "4041"),
    ],
)
def test_a_stream_that_ends_inside_something_is_truncated(decoder: Any, begun: str) -> None:
    assert decoder.feed(bytes.fromhex(begun)) == []
    with pytest.raises(Truncated):
        decoder.end()
    with pytest.raises(Truncated):
        decoder.feed(b"\x00")


def test_typed_announcement_cut_after_its_type_is_truncated() -> None:
    decoder = AnnounceDecoder(V.LITE_06)
    decoder.feed(AnnounceOk(1, 1).encode(V.LITE_06) + b"\x00")
    with pytest.raises(Truncated):
        decoder.end()


@pytest.mark.parametrize(
    "make, opening",
    [
        (lambda size: RequestDecoder(V.LITE_01, max_message=size), "01"),
        (lambda size: AnnounceDecoder(V.LITE_01, max_message=size), ""),
        (lambda size: AnnounceDecoder(V.LITE_03, max_message=size), ""),
        (lambda size: SubscribeDecoder(V.LITE_03, max_message=size), "00"),
        (lambda size: TrackInfoDecoder(V.LITE_06, max_message=size), ""),
        (lambda size: ProbeDecoder(V.LITE_06, max_message=size), ""),
        (lambda size: SetupDecoder(max_message=size), "00"),
        (lambda size: ServerSetupDecoder(SetupForm.SESSION, max_message=size), ""),
    ],
)
def test_an_oversized_message_is_refused_from_its_length(make: Callable[[int], Any], opening: str) -> None:
    start = bytes.fromhex(opening)
    waiting = make(100)
    assert waiting.feed(start + encode_varint(100)) == []
    decoder = make(100)
    with pytest.raises(MessageTooLarge):
        decoder.feed(start + encode_varint(101))
    assert not decoder.buffered
    with pytest.raises(MessageTooLarge):
        decoder.feed(b"")


def test_an_oversized_draft14_setup_is_refused_from_its_length() -> None:
    with pytest.raises(MessageTooLarge):
        SetupDecoder(max_message=100).feed(bytes.fromhex("200065"))


def test_init_comes_first_even_if_it_looks_like_an_announcement() -> None:
    decoder = AnnounceDecoder(V.LITE_02)
    wire = AnnounceActive("cli/cam").encode(V.LITE_02)
    assert wire == AnnounceInit(("cli/cam",)).encode(V.LITE_02)
    assert decoder.feed(wire + wire) == [AnnounceInit(("cli/cam",)), AnnounceActive("cli/cam")]


def announce(version: Version) -> AnnounceDecoder:
    decoder = AnnounceDecoder(version)
    if version >= V.LITE_05:
        decoder.feed(AnnounceOk(1, 0).encode(version))
    elif version <= V.LITE_02:
        decoder.feed(AnnounceInit().encode(version))
    return decoder


@pytest.mark.parametrize("version", Version)
def test_status_2_is_a_restart_on_05_alone(version: Version) -> None:
    if version == V.LITE_06:
        with pytest.raises(DecodeError):
            announce(version).feed(b"\x03\x00")
        return
    tail = {V.LITE_01: "", V.LITE_02: ""}.get(version, "00")
    body = bytes.fromhex("020161" + tail)
    wire = encode_varint(len(body)) + body
    if version == V.LITE_05:
        assert announce(version).feed(wire) == [AnnounceActive("a", restart=True)]
        return
    with pytest.raises(DecodeError):
        announce(version).feed(wire)


@pytest.mark.parametrize(
    "version, body",
    [
        (V.LITE_03, "01016121"),  # 33 hops, as a count
        (V.LITE_04, "01016121" + "01" * 33),
        (V.LITE_05, "01016102" + "0505"),
        (V.LITE_04, "000161" + "21" + "00" * 33),  # an ended one, whose hops are skipped
        (V.LITE_03, "010161ffffffffffffffff"),
    ],
)
def test_hop_lists_too_long_or_repeating_are_violations(version: Version, body: str) -> None:
    data = bytes.fromhex(body)
    with pytest.raises(ProtocolViolation):
        announce(version).feed(encode_varint(len(data)) + data)


def test_unnamed_hops_may_repeat() -> None:
    message = AnnounceActive("a", (7, 0, 0))
    assert announce(V.LITE_06).feed(message.encode(V.LITE_06)) == [message]


def test_hops_of_an_ended_announcement_are_ignored() -> None:
    assert announce(V.LITE_04).feed(bytes.fromhex("06000161020505")) == [AnnounceEnded("a")]
    assert announce(V.LITE_03).feed(bytes.fromhex("0400016109")) == [AnnounceEnded("a")]


def test_paths_are_normalised_and_bounded_on_both_sides() -> None:
    deep = "/".join("a" * 33)
    decoder = RequestDecoder(V.LITE_01)
    assert decoder.feed(bytes.fromhex("010605") + b"//a//") == [AnnounceRequest("a")]
    body = encode_varint(len(deep)) + deep.encode()
    with pytest.raises(DecodeError):
        RequestDecoder(V.LITE_01).feed(b"\x01" + encode_varint(len(body)) + body)
    with pytest.raises(ValueError, match="32 segments"):
        AnnounceRequest(deep).encode(V.LITE_01)
    assert AnnounceRequest("/a//b/").encode(V.LITE_01) == AnnounceRequest("a/b").encode(V.LITE_01)


def test_track_names_are_not_paths() -> None:
    message = Subscribe(0, "a", "//t/" + "/x" * 40)
    assert RequestDecoder(V.LITE_01).feed(open_request(V.LITE_01, message)) == [message]


@pytest.mark.parametrize(
    "version, wire",
    [
        (V.LITE_01, "0102ff61"),  # a text longer than the message
        (V.LITE_01, "010201ff"),  # not UTF-8
        (V.LITE_01, "0100"),  # no prefix at all
        (V.LITE_01, "01020000"),  # a byte too many
        (V.LITE_03, "02090001610174" + "00" + "02" + "0000"),  # a flag of 2
        (V.LITE_06, "0215000864656d6f2f63616d05766964656f0000000000"),  # the 05 form with its `ordered`
    ],
)
def test_malformed_requests(version: Version, wire: str) -> None:
    with pytest.raises(DecodeError):
        RequestDecoder(version).feed(bytes.fromhex(wire))


def test_an_end_frame_needs_an_end_group() -> None:
    wire = bytes.fromhex("020b00016101740000000000" + "02")
    with pytest.raises(BadFrameRange) as caught:
        RequestDecoder(V.LITE_06).feed(wire)
    assert caught.value.stream_only
    with pytest.raises(ValueError, match="end group"):
        Subscribe(0, "a", "t", end_frame=1).encode(V.LITE_06)


def test_start_group_zero_is_a_choice_until_05_and_none_on_06() -> None:
    for version in (V.LITE_03, V.LITE_04, V.LITE_05):
        message = Subscribe(0, "a", "t", start_group=0)
        assert RequestDecoder(version).feed(open_request(version, message)) == [message]
    wire = open_request(V.LITE_06, Subscribe(0, "a", "t", start_group=0))
    assert RequestDecoder(V.LITE_06).feed(wire) == [Subscribe(0, "a", "t")]


def test_unknown_reply_types() -> None:
    for version, kind in ((V.LITE_03, 2), (V.LITE_04, 2), (V.LITE_05, 3), (V.LITE_06, 3)):
        with pytest.raises(DecodeError):
            SubscribeDecoder(version).feed(bytes((kind,)))


@pytest.mark.parametrize("version", [V.LITE_01, V.LITE_02])
def test_old_versions_accept_once(version: Version) -> None:
    decoder = SubscribeDecoder(version)
    ok = SubscribeOk(9 if version == V.LITE_01 else 0)
    assert decoder.feed(ok.encode(version)) == [ok]
    with pytest.raises(DecodeError):
        decoder.feed(b"\x00")


def test_track_info_comes_once_and_counts_time() -> None:
    info = TrackInfo(127, False, 5000, 1_000_000)
    decoder = TrackInfoDecoder(V.LITE_06)
    assert decoder.feed(info.encode(V.LITE_06)) == [info]
    with pytest.raises(DecodeError):
        decoder.feed(b"\x00")
    with pytest.raises(DecodeError, match="timescale"):
        TrackInfoDecoder(V.LITE_06).feed(bytes.fromhex("03000000"))


def test_goaway_uri_has_a_limit_of_its_own() -> None:
    uri = "a" * 8192
    assert RequestDecoder(V.LITE_06).feed(open_request(V.LITE_06, Goaway(uri))) == [Goaway(uri)]
    with pytest.raises(ValueError, match="8192"):
        Goaway(uri + "a").encode(V.LITE_06)
    body = encode_varint(8193) + b"a" * 8193
    with pytest.raises(DecodeError):
        RequestDecoder(V.LITE_06).feed(b"\x05" + encode_varint(len(body)) + body)


def test_setup_ignores_what_it_does_not_know_but_not_repetition() -> None:
    assert Setup.decode(bytes.fromhex("03" + "0901aa" + "010102" + "4fff00"), V.LITE_06) == Setup(probe=2)
    for body in (
        "02" + "010101" + "010101",
        "02" + "0900" + "0900",
        "4041" + "".join(f"{n:02x}00" for n in range(63)),
    ):
        with pytest.raises(ProtocolViolation):
            Setup.decode(bytes.fromhex(body), V.LITE_06)
    for body in ("01" + "01020101", "01" + "0100", "01" + "0201ff", "01"):
        with pytest.raises(DecodeError):
            Setup.decode(bytes.fromhex(body), V.LITE_06)


def test_older_setup_exchange() -> None:
    decoder = SetupDecoder()
    opening = ClientSetup(SetupForm.DRAFT14, (V.LITE_02.setup_code,), {1: b"/a?jwt=b", 2: 7})
    info = SessionInfo(5)
    assert decoder.feed(opening.encode() + info.encode(V.LITE_02) + b"\x03\x05zz") == [opening, info, info]
    assert opening.path == "/a?jwt=b"
    assert ClientSetup(SetupForm.SESSION, (), {1: b"/a"}).path is None
    with pytest.raises(ProtocolViolation):
        SetupDecoder().feed(b"\x01")
    repeated = bytes.fromhex("0006" + "00" + "02" + "0000" + "0000")
    with pytest.raises(ProtocolViolation):
        SetupDecoder().feed(repeated)
    not_text = ClientSetup(SetupForm.DRAFT14, (), {1: b"\xff"}).encode()
    with pytest.raises(DecodeError):
        SetupDecoder().feed(not_text)


@pytest.mark.parametrize("form, lead", [("SESSION", ""), ("COMPAT", "4041"), ("DRAFT14", "21")])
def test_server_setup_leads(form: str, lead: str) -> None:
    reply = ServerSetup(SetupForm[form], V.LITE_01.setup_code)
    assert reply.encode().startswith(bytes.fromhex(lead))
    assert ServerSetupDecoder(SetupForm[form]).feed(reply.encode()) == [reply]
    if lead:
        with pytest.raises(ProtocolViolation):
            ServerSetupDecoder(SetupForm[form]).feed(b"\x09")


@pytest.mark.parametrize(
    "version, write",
    [
        (V.LITE_03, AnnounceInit().encode),
        (V.LITE_04, AnnounceOk(0, 0).encode),
        (V.LITE_05, AnnounceUpdate(0).encode),
        (V.LITE_04, AnnounceActive("a", restart=True).encode),
        (V.LITE_06, AnnounceActive("a", restart=True).encode),
        (V.LITE_06, AnnounceEnded("a").encode),
        (V.LITE_05, AnnounceActive("a", (1,) * 2).encode),
        (V.LITE_05, AnnounceActive("a", (0,) * 33).encode),
        (V.LITE_03, AnnounceActive("a", hop_count=33).encode),
        (V.LITE_02, SubscribeUpdate().encode),
        (V.LITE_05, SubscribeOk().encode),
        (V.LITE_04, SubscribeEnd(0).encode),
        (V.LITE_02, SubscribeDrop(0, 0, 0).encode),
        (V.LITE_04, TrackInfo(0, False, 0, 1).encode),
        (V.LITE_05, TrackInfo(0, False, 0, 0).encode),
        (V.LITE_02, Probe(0).encode),
        (V.LITE_03, SessionInfo(0).encode),
        (V.LITE_04, Setup().encode),
        (V.LITE_01, Subscribe(0, "a", "t", priority=256).encode),
        (V.LITE_01, Subscribe(-1, "a", "t").encode),
        (V.LITE_03, Subscribe(0, "a", "t", end_group=-1).encode),
        (V.LITE_01, Subscribe(2**62, "a", "t").encode),
        (V.LITE_01, Subscribe(0, "a", "\ud800").encode),
        (V.LITE_01, lambda _: ClientSetup(SetupForm.SESSION, (), {1: 1}).encode()),
        (V.LITE_01, lambda _: ClientSetup(SetupForm.DRAFT14, (), {2: b""}).encode()),
        (V.LITE_01, lambda _: ClientSetup(SetupForm.DRAFT14, (), {1: bytes(70000)}).encode()),
    ],
)
def test_our_own_faults_are_value_errors(version: Version, write: Callable[[Version], bytes]) -> None:
    with pytest.raises(ValueError):
        write(version)


def test_decoders_of_streams_a_version_lacks_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="Track stream"):
        TrackInfoDecoder(V.LITE_04)
    with pytest.raises(ValueError, match="Probe stream"):
        ProbeDecoder(V.LITE_02)


MAKERS: list[tuple[Callable[[], Any], bytes]] = [
    (lambda: RequestDecoder(V.LITE_06), b"\x02\x10"),
    (lambda: UniDecoder(V.LITE_06), b"\x00\x10"),
    (lambda: FrameDecoder(V.LITE_06), b"\x00\x10"),
]
"""Decoders, and the beginning of something."""


@pytest.mark.parametrize(("make", "beginning"), MAKERS)
@pytest.mark.parametrize("cut", [False, True])
def test_a_dead_decoder_keeps_no_frames(make: Callable[[], Any], beginning: bytes, cut: bool) -> None:
    """It repeats its error, without the frames of the traceback, which refer to the decoder."""
    decoder = make()
    fail = partial(decoder.feed, b"\x3e\xff\xff\xff\xff\xff\xff\xff\xff\xff")
    if cut:
        decoder.feed(beginning)
        fail = decoder.end
    for _ in range(3):
        with pytest.raises(WireError):
            fail()
        assert decoder._error.__traceback__ is None
