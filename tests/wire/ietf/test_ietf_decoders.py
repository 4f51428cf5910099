"""moq-transport: limits, identity of payloads, what drafts refuse, and the rules that golden bytes do not show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import relay.wire.ietf
from relay.wire.errors import DecodeError, FrameTooLarge, MessageTooLarge, Truncated, UnknownStreamType
from relay.wire.ietf import profile as drafts
from relay.wire.ietf.codes import DoneStatus, Refusal, RequestKind, ResetCode
from relay.wire.ietf.control import MessageDecoder, encode
from relay.wire.ietf.cursor import MAX_BLOCK, MAX_PAIRS, Writer
from relay.wire.ietf.data import (
    FetchGap,
    FetchHeader,
    FetchObject,
    GapKind,
    ObjectDatagram,
    ObjectHeader,
    ObjectStatus,
    SubgroupHeader,
)
from relay.wire.ietf.decoder import UniDecoder
from relay.wire.ietf.messages import (
    Fetch,
    FetchOk,
    Goaway,
    Interest,
    JoiningFetch,
    PublishDone,
    PublishNamespace,
    PublishNamespaceDone,
    PublishStateNotify,
    RequestError,
    RequestOk,
    RequestUpdate,
    Setup,
    Subscribe,
    SubscribeNamespace,
    SubscribeOk,
    SubscribeTracks,
    Unsubscribe,
)
from relay.wire.ietf.parameters import MAX_PARAMETERS, Parameters
from relay.wire.ietf.profile import (
    BY_NAME,
    BY_SETUP_CODE,
    DRAFT_14,
    DRAFT_16,
    DRAFT_18,
    DRAFT_19,
    DRAFT_20,
    DRAFT_21,
    DRAFT_22,
    DRAFTS,
    DraftProfile,
)
from relay.wire.ietf.streams import (
    FetchEncoder,
    decode_datagram,
    encode_datagram,
    fetch_header,
    object_header,
    subgroup_header,
)
from relay.wire.ietf.values import (
    CURRENT_GROUP,
    AbsoluteRange,
    GroupOrder,
    Location,
    NextObject,
    Token,
    Unfiltered,
)
from relay.wire.ietf.varint import encode_vi64

NEW = (DRAFT_18, DRAFT_19, DRAFT_20, DRAFT_21, DRAFT_22)
OLD = (DRAFT_14, DRAFT_16)
NAME = (b"a", b"b"), b"v"


def drafts_of(*profiles: DraftProfile) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("profile", profiles, ids=lambda profile: profile.name)


every = drafts_of(*DRAFTS)


def framed(kind: int, body: bytes, profile: DraftProfile) -> bytes:
    writer = Writer(profile)
    writer.varint(kind)
    writer.raw(len(body).to_bytes(2, "big") + body)
    return bytes(writer)


def reads(data: bytes, profile: DraftProfile) -> Any:
    decoder = MessageDecoder(profile)
    (message,) = decoder.feed(data)
    decoder.end()
    return message


def with_parameters(profile: DraftProfile, data: bytes) -> bytes:
    """A SUBSCRIBE_NAMESPACE of a newer draft with these parameters."""
    return framed(0x50, b"\x00\x00" + data, profile)


# --- drafts


def test_only_one_file_names_drafts() -> None:
    folder = Path(relay.wire.ietf.__file__).parent
    assert [file.name for file in folder.glob("*.py") if "DRAFT_" in file.read_text()] == ["profile.py"]


def test_names_and_numbers() -> None:
    assert list(BY_NAME) == ["moqt-22", "moqt-21", "moqt-20", "moqt-19", "moqt-18", "moqt-16", "moq-00"]
    assert BY_SETUP_CODE == {0xFF00000E: DRAFT_14}


@every
def test_every_switch_that_a_parameter_lacks_is_an_attribute(profile: DraftProfile) -> None:
    assert all(hasattr(Parameters(), name) for name in profile.lacks)


# --- payloads and limits


@every
def test_a_slice_inside_one_object_is_passed_on_as_the_same_object(profile: DraftProfile) -> None:
    decoder = UniDecoder(profile)
    header = SubgroupHeader(1, 2, priority=3)
    lead = subgroup_header(header, profile) + object_header(
        ObjectHeader(0, 5000), None, profile, has_properties=False
    )
    assert decoder.feed(lead) == [header, ObjectHeader(0, 5000)]
    piece = bytes(1200)
    (passed,) = decoder.feed(piece)
    assert passed is piece
    assert decoder.in_object
    assert not decoder.buffered
    with pytest.raises(Truncated):
        decoder.end()


@every
def test_a_payload_is_not_waited_for(profile: DraftProfile) -> None:
    decoder = UniDecoder(profile)
    encoder = FetchEncoder(profile)
    one, two = FetchObject(1, 0, 0, 9, 10), FetchObject(1, 0, 1, 9, 0)
    lead = fetch_header(7, profile) + encoder.header(one)
    assert decoder.feed(lead + b"abc") == [FetchHeader(7), one, b"abc"]
    assert decoder.feed(b"defghij" + encoder.header(two)) == [b"defghij", two]
    assert not decoder.in_object
    decoder.end()


@every
def test_an_object_above_the_limit_is_refused_by_its_header(profile: DraftProfile) -> None:
    header = SubgroupHeader(1, 2, priority=3)
    lead = subgroup_header(header, profile)
    ok, large = (
        object_header(ObjectHeader(0, size), None, profile, has_properties=False) for size in (100, 101)
    )
    assert UniDecoder(profile, 100).feed(lead + ok)[1:] == [ObjectHeader(0, 100)]
    decoder = UniDecoder(profile, 100)
    for _ in range(2):
        with pytest.raises(FrameTooLarge):
            decoder.feed(lead + large)


@every
def test_a_block_of_properties_above_the_limit_is_refused_by_its_length(profile: DraftProfile) -> None:
    header = SubgroupHeader(1, 2, priority=3, has_properties=True)
    writer = Writer(profile)
    writer.varint(0)
    writer.varint(MAX_BLOCK + 1)
    with pytest.raises(DecodeError):
        UniDecoder(profile).feed(subgroup_header(header, profile) + bytes(writer))


@every
def test_properties_of_an_object_are_few(profile: DraftProfile) -> None:
    header = SubgroupHeader(1, 2, priority=3, has_properties=True)
    lead = subgroup_header(header, profile)
    most, more = (ObjectHeader(0, 1, ((0x10, 1),) * count) for count in (MAX_PAIRS, MAX_PAIRS + 1))
    assert UniDecoder(profile).feed(lead + object_header(most, None, profile, has_properties=True)) == [
        header,
        most,
    ]
    with pytest.raises(DecodeError):
        UniDecoder(profile).feed(lead + object_header(more, None, profile, has_properties=True))


@every
def test_a_large_block_of_properties_comes_byte_by_byte(profile: DraftProfile) -> None:
    header = SubgroupHeader(1, 2, priority=3, has_properties=True)
    first = ObjectHeader(4, 3, ((0x0D, bytes(20_000)),))
    stream = object_header(first, None, profile, has_properties=True) + b"abc"
    decoder = UniDecoder(profile)
    assert decoder.feed(subgroup_header(header, profile)) == [header]
    found: list[object] = []
    for at in range(len(stream)):
        found += decoder.feed(stream[at : at + 1])
        assert decoder.buffered <= 20_020
    assert found == [first, b"a", b"b", b"c"]


@drafts_of(*NEW)
def test_a_message_above_the_limit_is_refused_by_its_length(profile: DraftProfile) -> None:
    with pytest.raises(MessageTooLarge):
        MessageDecoder(profile, 100).feed(b"\x03\x00\x65")
    with pytest.raises(MessageTooLarge):
        UniDecoder(profile, max_message=100).feed(b"\xaf\x00\x00\x65")


@every
def test_an_unknown_message_is_refused_before_its_length(profile: DraftProfile) -> None:
    with pytest.raises(DecodeError):
        MessageDecoder(profile).feed(b"\x3f")


@every
def test_a_message_has_exactly_its_length(profile: DraftProfile) -> None:
    body = encode(PublishDone(2, 3, "ended", 5), profile)[3:]
    for wrong in (body + b"\x00", body[:-1]):
        with pytest.raises(DecodeError):
            MessageDecoder(profile).feed(framed(0x0B, wrong, profile))


@drafts_of(*NEW)
def test_a_short_message_on_a_control_stream_is_no_reason_to_wait(profile: DraftProfile) -> None:
    decoder = UniDecoder(profile)
    assert decoder.feed(encode(Setup(), profile)) == [Setup()]
    for _ in range(2):
        with pytest.raises(DecodeError):
            decoder.feed(framed(0x10, b"\x05ab", profile))
    with pytest.raises(DecodeError):
        UniDecoder(profile).feed(framed(0x2F00, b"\x01\x05ab", profile))


@drafts_of(*NEW)
def test_messages_may_come_behind_setup_on_its_stream(profile: DraftProfile) -> None:
    decoder = UniDecoder(profile)
    sent: list[Any] = [Setup(path="/a"), Goaway(timeout=5)]
    assert decoder.feed(b"".join(encode(message, profile) for message in sent)) == sent
    assert not decoder.in_object


# --- streams that a draft lacks


@every
@pytest.mark.parametrize("data", [b"\x0f", b"\x16", b"\x1e", b"\x80\x90", b"\x40"])
def test_unknown_streams(profile: DraftProfile, data: bytes) -> None:
    with pytest.raises(UnknownStreamType):
        UniDecoder(profile).feed(data + bytes(8))


@drafts_of(*OLD)
def test_older_drafts_have_neither_setup_streams_nor_padding_nor_first_objects(profile: DraftProfile) -> None:
    for kind in (0x2F00, 0x132B3E28, 0x50):
        writer = Writer(profile)
        writer.varint(kind)
        with pytest.raises(UnknownStreamType):
            UniDecoder(profile).feed(bytes(writer) + bytes(8))


def test_14_has_no_default_priority() -> None:
    with pytest.raises(UnknownStreamType):
        UniDecoder(DRAFT_14).feed(b"\x30\x00\x00")
    assert UniDecoder(DRAFT_16).feed(b"\x30\x00\x00") == [SubgroupHeader(0, 0)]
    assert subgroup_header(SubgroupHeader(0, 0), DRAFT_14) == b"\x10\x00\x00\x80"
    with pytest.raises(DecodeError):
        decode_datagram(b"\x08\x00\x00\x00", DRAFT_14)
    with pytest.raises(DecodeError):
        decode_datagram(b"\x24\x00\x00\x80\x03", DRAFT_14)
    assert decode_datagram(b"\x24\x00\x00\x80\x03", DRAFT_16) == ObjectDatagram(
        0, 0, 0, priority=128, status=ObjectStatus.END_OF_GROUP
    )


@drafts_of(*NEW)
def test_padding_is_read_and_dropped(profile: DraftProfile) -> None:
    decoder = UniDecoder(profile)
    for piece in (b"\xf0\x13\x2b", b"\x3e\x28", bytes(5000), bytes(5000)):
        assert decoder.feed(piece) == []
        assert decoder.buffered < 5
    decoder.end()


@every
def test_a_stream_that_ends_inside_its_header_is_cut(profile: DraftProfile) -> None:
    decoder = UniDecoder(profile)
    decoder.end()
    assert decoder.feed(b"\x10\x01") == []
    with pytest.raises(Truncated):
        decoder.end()


# --- objects


@every
def test_a_status_has_no_properties(profile: DraftProfile) -> None:
    header = SubgroupHeader(1, 2, priority=3, has_properties=True)
    lead = subgroup_header(header, profile)
    with pytest.raises(DecodeError):
        UniDecoder(profile).feed(
            lead + b"\x00\x02\x10\x05\x00" + (b"\x01" if profile is DRAFT_14 else b"\x03")
        )
    with pytest.raises(DecodeError):
        UniDecoder(profile).feed(lead + b"\x00\x00\x00\x02")


def test_14_lets_the_end_of_a_group_have_properties() -> None:
    header = SubgroupHeader(1, 2, priority=3, has_properties=True)
    found = UniDecoder(DRAFT_14).feed(subgroup_header(header, DRAFT_14) + b"\x00\x02\x10\x05\x00\x03")
    assert found == [header, ObjectHeader(0, 0, ((0x10, 5),), ObjectStatus.END_OF_GROUP)]


@drafts_of(DRAFT_16, *NEW)
@pytest.mark.parametrize(
    "flags",
    [
        b"\x10\x05",
        b"\x18\x00\x05",
        b"\x14\x00\x05",
        b"\x0c\x00\x00",
        b"\x1d\x00\x00\x05",
        b"\x1e\x00\x00\x05",
        b"\x70",
    ],
)
def test_the_first_fetched_object_refers_to_none(profile: DraftProfile, flags: bytes) -> None:
    with pytest.raises(DecodeError):
        UniDecoder(profile).feed(b"\x05\x00" + flags + bytes(4))


@drafts_of(DRAFT_16, *NEW)
def test_the_end_of_a_range_is_absolute(profile: DraftProfile) -> None:
    """As implementations agree, see moq-wg/moq-transport issue 1861."""
    one = FetchObject(4, 0, 0, 9, 0)
    gap = FetchGap(4, 8, GapKind.UNKNOWN)
    two = FetchObject(4, 0, 9, 9, 0)
    encoder = FetchEncoder(profile)
    encoder.header(one)
    lead = b"\x41\x0c" if profile is DRAFT_16 else b"\x81\x0c"
    assert encoder.header(gap) == lead + b"\x04\x08"
    assert encoder.header(two) == b"\x00\x00"
    stream = fetch_header(0, profile) + b"\x1c\x04\x00\x09\x00" + lead + b"\x04\x08" + b"\x00\x00"
    assert UniDecoder(profile).feed(stream) == [FetchHeader(0), one, gap, two]


@drafts_of(DRAFT_16, *NEW)
def test_behind_a_gap_alone_there_is_no_priority(profile: DraftProfile) -> None:
    lead = b"\x40\x8c" if profile is DRAFT_16 else b"\x80\x8c"
    with pytest.raises(DecodeError):
        UniDecoder(profile).feed(b"\x05\x00" + lead + b"\x04\x08\x00\x00")


def test_a_timed_out_range_is_newer() -> None:
    gap = FetchGap(4, 8, GapKind.TIMED_OUT)
    data = FetchEncoder(DRAFT_20).header(gap)
    assert UniDecoder(DRAFT_20).feed(b"\x05\x00" + data) == [FetchHeader(0), gap]
    with pytest.raises(DecodeError):
        UniDecoder(DRAFT_18).feed(b"\x05\x00" + data)
    for profile in (DRAFT_14, DRAFT_16, DRAFT_18):
        with pytest.raises(ValueError):
            FetchEncoder(profile).header(gap)


@drafts_of(*NEW)
def test_groups_below_zero(profile: DraftProfile) -> None:
    stream = b"\x05\x00" + b"\x1c\x02\x00\x09\x00" + b"\x08\x02\x00"
    assert UniDecoder(profile).feed(stream)[-1] == FetchObject(5, 0, 1, 9, 0)
    with pytest.raises(DecodeError):
        UniDecoder(profile, descending=lambda _: True).feed(stream)


# --- messages


@drafts_of(DRAFT_20, DRAFT_21)
def test_a_filter_counts_its_numbers_by_length(profile: DraftProfile) -> None:
    wanted = AbsoluteRange(Location(200, 0))
    data = encode(Subscribe(0, *NAME, Parameters(filter=wanted)), profile)
    assert data.endswith(bytes.fromhex("21 03 80c8 00"))
    assert reads(data, profile).params.filter == wanted


def test_a_filter_of_22_has_a_type() -> None:
    wanted = AbsoluteRange(Location(200, 0))
    data = encode(Subscribe(0, *NAME, Parameters(filter=wanted)), DRAFT_22)
    assert data.endswith(bytes.fromhex("21 02 80c8 00"))
    assert reads(data, DRAFT_22).params.filter == wanted


def test_from_the_very_first_object_is_everything_on_20() -> None:
    first = Subscribe(0, *NAME, Parameters(filter=AbsoluteRange(Location(0, 0))))
    assert reads(encode(first, DRAFT_20), DRAFT_20).params.filter == Unfiltered()
    for profile in (DRAFT_14, DRAFT_16, DRAFT_18, DRAFT_22):
        assert reads(encode(first, profile), profile).params.filter == first.params.filter


def test_the_end_of_a_filter_is_relative_from_18_on() -> None:
    wanted = Parameters(filter=AbsoluteRange(Location(5, 1), 7))
    ends = {profile.name: encode(Subscribe(0, *NAME, wanted), profile)[-5:].hex() for profile in DRAFTS}
    assert ends["moq-00"] == "0405010700"
    assert ends["moqt-16"] == "0404050107"
    assert ends["moqt-18"] == "0404050102"
    assert ends["moqt-20"] == "2103050102"
    assert ends["moqt-22"] == "2103050102"


@drafts_of(DRAFT_14, DRAFT_16, DRAFT_18, DRAFT_19)
def test_filters_that_older_drafts_lack(profile: DraftProfile) -> None:
    for wanted in (CURRENT_GROUP, AbsoluteRange(Location(1, 0), 2, 3), Unfiltered()):
        with pytest.raises(ValueError):
            encode(Subscribe(0, *NAME, Parameters(filter=wanted)), profile)


@every
def test_ends_of_fetches_are_inclusive(profile: DraftProfile) -> None:
    """{5, 3} is written as 5, 4 up to 19."""
    asked = Fetch(
        0, *NAME, AbsoluteRange(Location(5, 0), 5, 3), Parameters(priority=1, order=GroupOrder.ASCENDING)
    )
    answer = FetchOk(5, 3, request_id=0)
    data = encode(asked, profile), encode(answer, profile)
    assert reads(data[0], profile) == asked
    found = reads(data[1], profile)
    assert (found.end_group, found.end_object) == (5, 3)
    assert (b"\x05\x03" if profile.has_fill else b"\x05\x04") in data[1]
    if not profile.has_fill:
        whole = Fetch(0, *NAME, AbsoluteRange(Location(5, 0), 5), asked.params)
        assert b"\x05\x00\x05\x00" in encode(whole, profile)
        assert reads(encode(whole, profile), profile) == whole
        with pytest.raises(ValueError):
            encode(Fetch(0, *NAME, NextObject()), profile)


@every
def test_messages_that_a_draft_lacks(profile: DraftProfile) -> None:
    lacking: dict[bool, list[Any]] = {
        profile.request_streams: [Unsubscribe(0)],
        profile.has_fill: [JoiningFetch(0, 0, 0)],
        not profile.has_fill: [PublishStateNotify()],
        not profile.tracks_request: [SubscribeTracks(0, ())],
    }
    for message in lacking.get(True, []):
        with pytest.raises(ValueError):
            encode(message, profile)


@drafts_of(*OLD)
def test_replies_need_a_request_id(profile: DraftProfile) -> None:
    for message in (SubscribeOk(0), RequestError(0, to=RequestKind.FETCH), PublishDone(2)):
        with pytest.raises(ValueError):
            encode(message, profile)


def test_replies_of_14_say_to_what() -> None:
    for kind, code in (
        (RequestKind.FETCH, 0x19),
        (RequestKind.SUBSCRIBE, 0x05),
        (RequestKind.PUBLISH_NAMESPACE, 0x08),
    ):
        data = encode(RequestError(4, "gone", request_id=2, to=kind), DRAFT_14)
        assert data[0] == code
        assert reads(data, DRAFT_14).to is kind
    for message in (
        RequestOk(request_id=0),
        RequestError(0, request_id=0),
        RequestOk(request_id=0, to=RequestKind.FETCH),
    ):
        with pytest.raises(ValueError):
            encode(message, DRAFT_14)


@every
def test_an_accepted_publish(profile: DraftProfile) -> None:
    wanted = Parameters(forward=True, priority=5, order=GroupOrder.ASCENDING, filter=NextObject())
    data = encode(RequestOk(wanted, request_id=3, to=RequestKind.PUBLISH), profile)
    assert data[0] == (0x07 if profile.request_streams else 0x1E)
    assert reads(data, profile).params == wanted


def test_the_end_of_an_announcement_is_named_by_14_and_numbered_by_16() -> None:
    for profile, message in (
        (DRAFT_14, PublishNamespaceDone(request_id=1)),
        (DRAFT_16, PublishNamespaceDone((b"a",))),
    ):
        with pytest.raises(ValueError):
            encode(message, profile)


@drafts_of(DRAFT_16, *NEW)
def test_a_retry_is_written_plus_one(profile: DraftProfile) -> None:
    for after, written in ((None, 0), (0, 1), (9, 10)):
        error = RequestError(1, "", after, request_id=None if profile.request_streams else 5)
        data = encode(error, profile)
        assert data[-2] == written
        assert reads(data, profile) == error


@every
def test_the_number_of_streams_may_be_unknown(profile: DraftProfile) -> None:
    data = encode(PublishDone(2, None, "", 1), profile)
    assert b"\xff" * 8 in data
    assert reads(data, profile).streams is None


@every
def test_reasons_are_cut_and_mended(profile: DraftProfile) -> None:
    data = encode(PublishDone(2, 1, "é" * 1000, 1), profile)
    assert reads(data, profile).reason == "é" * 512
    id_ = b"" if profile.request_streams else b"\x01"
    assert reads(framed(0x0B, id_ + b"\x02\x01\x02\xffa", profile), profile).reason == "\ufffda"
    long = Writer(profile)
    long.raw(id_ + b"\x02\x01")
    long.sized(bytes(1025))
    with pytest.raises(DecodeError):
        reads(framed(0x0B, bytes(long), profile), profile)


# --- names


@every
def test_limits_of_names(profile: DraftProfile) -> None:
    most = tuple([b"x"] * 32)
    assert reads(encode(PublishNamespace(0, most), profile), profile).namespace == most
    for namespace, track in (((*most, b"x"), b""), ((b"x" * 4097,), b""), ((b"x" * 4000,), b"y" * 97)):
        with pytest.raises(ValueError):
            encode(Subscribe(0, namespace, track), profile)
    writer = Writer(profile)
    writer.varint(0)
    writer.varint(2)
    writer.sized(bytes(4000))
    writer.sized(bytes(97))
    with pytest.raises(DecodeError):
        reads(framed(0x06, bytes(writer) + b"\x00", profile), profile)
    name = Writer(profile)
    name.varint(0)
    name.varint(1)
    name.sized(bytes(4000))
    name.sized(bytes(97))
    with pytest.raises(DecodeError):
        reads(framed(0x0D, bytes(name) + bytes(6), profile), profile)
    with pytest.raises(DecodeError):
        reads(framed(0x06, b"\x00\x21" + b"\x01x" * 33 + b"\x00", profile), profile)


@every
def test_empty_namespaces_and_fields(profile: DraftProfile) -> None:
    assert reads(encode(SubscribeNamespace(0, ()), profile), profile).prefix == ()
    for data, allowed in (
        (b"\x00\x00\x00", profile.empty_namespaces),
        (b"\x00\x01\x00\x00", profile.empty_fields),
    ):
        if allowed:
            reads(framed(0x06, data, profile), profile)
        else:
            with pytest.raises(DecodeError):
                reads(framed(0x06, data, profile), profile)
    for namespace, allowed in (((), profile.empty_namespaces), ((b"",), profile.empty_fields)):
        if not allowed:
            with pytest.raises(ValueError):
                encode(PublishNamespace(0, namespace), profile)


# --- parameters


@drafts_of(DRAFT_16, *NEW)
def test_parameters_that_close_the_session(profile: DraftProfile) -> None:
    kind, lead = (0x50, b"\x00\x00") if profile.request_streams else (0x11, b"\x00\x00\x01")
    for data in (
        b"\x01\x40" + bytes(4),  # unknown
        b"\x02\x10\x01\x00\x01",  # repeated
        b"\x01\x10\x02",  # neither 0 nor 1
        b"\x01\x22\x03",  # no order
        b"\x01\x03\x01\x04",  # no kind of token
        b"\x01\x21\x05" + bytes(5),  # too many numbers, or no filter
        b"\x01\x02",  # cut
    ):
        with pytest.raises(DecodeError):
            reads(framed(kind, lead + data, profile), profile)
    many = Writer(profile)
    many.varint(MAX_PARAMETERS + 1)
    many.raw(b"\x03\x02\x03\x00" + b"\x00\x02\x03\x00" * MAX_PARAMETERS)
    with pytest.raises(DecodeError):
        reads(framed(kind, lead + bytes(many), profile), profile)


@drafts_of(DRAFT_16, *NEW)
def test_an_order_of_zero_is_absent(profile: DraftProfile) -> None:
    kind, lead = (0x50, b"\x00\x00") if profile.request_streams else (0x11, b"\x00\x00\x01")
    assert reads(framed(kind, lead + b"\x01\x22\x00", profile), profile).params == Parameters()


@drafts_of(*NEW)
def test_fill_parameters_do_not_nest(profile: DraftProfile) -> None:
    with pytest.raises(DecodeError):
        reads(with_parameters(profile, b"\x01\x23\x04\x01\x23\x01\x00"), profile)


def test_14_ignores_what_it_does_not_know() -> None:
    body = b"\x00\x00" + b"\x03" + b"\x40\x40\x05" + b"\x41\x01\x02ab" + b"\x02\x07"
    assert reads(framed(0x11, body, DRAFT_14), DRAFT_14).params == Parameters(delivery_timeout=7)


def test_parameters_that_a_draft_lacks_are_not_written() -> None:
    for profile, params in (
        (DRAFT_14, Parameters(rendezvous_timeout=1)),
        (DRAFT_14, Parameters(hidden=1)),
        (DRAFT_16, Parameters(subgroup_delivery_timeout=1)),
        (DRAFT_18, Parameters(fill=Parameters())),
        (DRAFT_22, Parameters(max_cache_duration=1)),
    ):
        with pytest.raises(ValueError):
            encode(Subscribe(0, *NAME, params), profile)


@every
def test_tokens_repeat(profile: DraftProfile) -> None:
    tokens = Token(b"a"), Token(b"b", 7)
    found = reads(encode(PublishNamespace(0, (b"a",), Parameters(tokens=tokens)), profile), profile)
    assert found.params.tokens == tokens


# --- set-up


@every
def test_an_option_of_setup_comes_once(profile: DraftProfile) -> None:
    again = b"\x01\x01b" if profile is DRAFT_14 else b"\x00\x01b"
    pairs = b"\x01\x01a" + again
    lead = b"" if profile.request_streams else b"\x02"
    versions = b"\x00" if profile.versions_in_setup else b""
    kind = 0x2F00 if profile.request_streams else 0x20
    with pytest.raises(DecodeError):
        reads(framed(kind, versions + lead + pairs, profile), profile)


@every
def test_unknown_options_of_setup_are_kept(profile: DraftProfile) -> None:
    sent = Setup(
        path="/a?jwt=b", other=((0x7F, b"x"), (0x9D9E, 5)), versions=(1,) if profile is DRAFT_14 else ()
    )
    assert reads(encode(sent, profile), profile) == sent


# --- codes


@every
def test_codes_come_back(profile: DraftProfile) -> None:
    for refusal in Refusal:
        code = drafts.refusal_code(refusal, profile)
        if refusal not in profile.refusals:
            assert code == 0
        elif refusal not in (Refusal.UNINTERESTED, Refusal.PREFIX_OVERLAP):
            assert drafts.refusal_of(code, profile) is refusal
    for status in DoneStatus:
        code = drafts.done_code(status, profile)
        assert drafts.done_of(code, profile) is (
            status if status in profile.done_codes else DoneStatus.INTERNAL
        )
    assert drafts.refusal_of(404, profile) is Refusal.INTERNAL
    assert drafts.done_of(200, profile) is DoneStatus.INTERNAL
    uninterested = drafts.refusal_code(Refusal.UNINTERESTED, profile)
    assert drafts.refusal_of(uninterested, profile, RequestKind.PUBLISH) is Refusal.UNINTERESTED
    overlap = drafts.refusal_code(Refusal.PREFIX_OVERLAP, profile)
    assert drafts.refusal_of(overlap, profile, RequestKind.SUBSCRIBE_NAMESPACE) is Refusal.PREFIX_OVERLAP


def test_codes_that_moved() -> None:
    missing = [
        drafts.refusal_code(Refusal.DOES_NOT_EXIST, profile)
        for profile in (DRAFT_14, DRAFT_16, DRAFT_18, DRAFT_22)
    ]
    assert missing == [4, 0x10, 0x10, 0x10]
    assert drafts.refusal_of(4, DRAFT_14) is Refusal.DOES_NOT_EXIST
    assert drafts.refusal_of(4, DRAFT_16) is Refusal.BAD_TOKEN
    behind = [
        drafts.done_code(DoneStatus.TOO_FAR_BEHIND, profile) for profile in (DRAFT_14, DRAFT_16, DRAFT_18)
    ]
    assert behind == [6, 6, 5]
    resets = [
        drafts.reset_code(ResetCode.TOO_FAR_BEHIND, profile) for profile in (DRAFT_14, DRAFT_16, DRAFT_18)
    ]
    assert resets == [2, 2, 5]
    assert drafts.reset_code(ResetCode.MALFORMED_TRACK, DRAFT_16) == 0
    assert drafts.reset_of(5) is ResetCode.TOO_FAR_BEHIND
    assert drafts.reset_of(77) is ResetCode.INTERNAL


def test_a_datagram_has_a_payload_or_a_status() -> None:
    both = ObjectDatagram(0, 0, 0, b"x", 1, status=ObjectStatus.END_OF_GROUP)
    with pytest.raises(ValueError):
        encode_datagram(both, DRAFT_18)
    for data in (
        b"\x01\x00\x00\x00\x80\x00x",
        b"\x22\x00\x00\x00\x80\x03",
        b"\x20\x00\x00\x00\x80\x03x",
        b"\x10\x00\x00",
    ):
        with pytest.raises(DecodeError):
            decode_datagram(data, DRAFT_18)


# --- our own faults


@every
def test_values_that_do_not_fit_are_our_fault(profile: DraftProfile) -> None:
    id_ = 0
    for message in (
        Subscribe(-1, *NAME),
        Subscribe(1 << 64, *NAME),
        Subscribe(id_, *NAME, Parameters(priority=256)) if profile.typed_parameters else Subscribe(-1, *NAME),
        Subscribe(id_, *NAME, Parameters(filter=AbsoluteRange(Location(1, 0), None, 3))),
        PublishNamespace(id_, (b"x",) * 33),
        PublishNamespace(id_, (b"x",), Parameters(tokens=(Token(bytes(40_000)), Token(bytes(40_000))))),
        PublishNamespace(id_, (b"x",), Parameters(tokens=(Token(bytes(70_000)),))),
        Goaway("x" * 8193),
        Setup(other=((0x7F, 5),), versions=(1,)),
    ):
        with pytest.raises(ValueError):
            encode(message, profile)
    writer = Writer(profile)
    for wrong in (-1, 256):
        with pytest.raises(ValueError):
            writer.byte(wrong)
    with pytest.raises(ValueError):
        object_header(ObjectHeader(0, 1, ((0x10, 1),)), None, profile, has_properties=False)
    with pytest.raises(ValueError):
        object_header(ObjectHeader(3, 1), 3, profile, has_properties=False)


def test_an_integer_has_64_bits() -> None:
    for wrong in (-1, 1 << 64):
        with pytest.raises(ValueError):
            encode_vi64(wrong)


def test_a_server_of_14_chooses_one_version() -> None:
    with pytest.raises(ValueError):
        encode(Setup(versions=(1, 2), from_server=True), DRAFT_14)


@drafts_of(DRAFT_16, *NEW)
def test_a_status_in_a_fetch_is_of_14(profile: DraftProfile) -> None:
    ended = FetchObject(1, 0, 0, 9, 0, status=ObjectStatus.END_OF_GROUP)
    with pytest.raises(ValueError):
        FetchEncoder(profile).header(ended)
    stream = fetch_header(0, DRAFT_14) + FetchEncoder(DRAFT_14).header(ended)
    assert UniDecoder(DRAFT_14).feed(stream) == [FetchHeader(0), ended]


def test_an_update_of_14_has_a_range() -> None:
    with pytest.raises(ValueError):
        encode(RequestUpdate(0, Parameters(filter=NextObject()), 0), DRAFT_14)


@drafts_of(*NEW)
def test_tracks_are_asked_for_by_a_message_of_their_own(profile: DraftProfile) -> None:
    with pytest.raises(ValueError):
        encode(SubscribeNamespace(0, (), interest=Interest.BOTH), profile)


def test_numbers_without_a_meaning() -> None:
    for data in (
        framed(0x11, b"\x00\x00\x03\x00", DRAFT_16),
        framed(0x16, b"\x00\x04\x00\x00\x00", DRAFT_16),
    ):
        with pytest.raises(DecodeError):
            reads(data, DRAFT_16)
    for kind in (0, 5):
        with pytest.raises(DecodeError):
            reads(with_parameters(DRAFT_18, bytes((1, 0x21, 1, kind))), DRAFT_18)
    with pytest.raises(DecodeError):
        reads(with_parameters(DRAFT_22, b"\x01\x21\x06"), DRAFT_22)
    with pytest.raises(DecodeError):
        reads(with_parameters(DRAFT_22, b"\x01\x21\x03" + b"\xff" * 9 + b"\x00\x01"), DRAFT_22)
