"""Groups and the byte streams derived from them, against a plain encoding of whole frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.group import FRAME_OVERHEAD
from relay.moq.encoding import COPY_BELOW, JOIN_BELOW, EncodedGroup, Encoder, Encoding
from relay.wire.frame import FrameHeader, frame_header_plain, frame_header_timed

Frame = tuple[int, bytes]
Parts = list[FrameHeader | bytes]

payloads = st.one_of(
    st.binary(max_size=6),
    st.sampled_from([b"", b"x" * COPY_BELOW, b"x" * (COPY_BELOW + 1), b"y" * (JOIN_BELOW + 1)]),
)
frames = st.lists(st.tuples(st.integers(0, 1 << 40), payloads), max_size=8)


def encoded(encoding: Encoding, some: list[Frame]) -> bytes:
    data = b""
    previous = 0
    for timestamp, payload in some:
        if encoding is Encoding.PLAIN:
            data += frame_header_plain(len(payload))
        elif encoding is Encoding.TIMED:
            data += frame_header_timed(timestamp - previous, len(payload))
            previous = timestamp
        data += payload
    return data


def split(some: list[Frame], cuts: list[int]) -> list[Parts]:
    """The frames as they might arrive: payloads in pieces, grouped into turns."""
    flat: Parts = []
    for timestamp, payload in some:
        flat.append(FrameHeader(timestamp, len(payload)))
        middle = len(payload) // 2
        flat += [piece for piece in (payload[:middle], payload[middle:]) if piece]
    turns: list[Parts] = []
    position = 0
    for cut in cuts:
        turns.append(flat[position : position + cut])
        position += cut
    return [*turns, flat[position:]]


@given(frames, st.lists(st.integers(0, 5), max_size=6), st.sampled_from(list(Encoding)))
def test_the_stream_is_the_same_however_it_arrives(
    some: list[Frame], cuts: list[int], encoding: Encoding
) -> None:
    group = EncodedGroup(0, 0.0)
    got = b""
    for turn in split(some, cuts):
        group.extend(turn, 0.0)
        got += b"".join(group.update(encoding))
    assert got == encoded(encoding, some)
    assert b"".join(group.encoded(encoding)) == got
    assert group.frames == len(some)
    assert group.size == sum(len(payload) + FRAME_OVERHEAD for _, payload in some)


@given(frames, st.lists(st.integers(0, 5), max_size=6), st.integers(0, 9), st.integers(0, 9) | st.none(),
       st.sampled_from(list(Encoding)))  # fmt: skip
def test_a_range_is_the_stream_of_its_frames(
    some: list[Frame], cuts: list[int], start: int, end: int | None, encoding: Encoding
) -> None:
    group = EncodedGroup(0, 0.0)
    encoder = Encoder(encoding, start, end)
    got = b""
    for turn in split(some, cuts):
        group.extend(turn, 0.0)
        got += b"".join(encoder.take(group.parts))
    wanted = some[start : None if end is None else end + 1]
    assert got == encoded(encoding, wanted)
    if end is not None and len(some) > end >= start:
        assert encoder.ended
    if end is None or len(some) < end:
        assert not encoder.ended


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_late_reader_of_a_dialect_gets_everything_and_then_only_what_is_new(encoding: Encoding) -> None:
    group = EncodedGroup(0, 0.0)
    group.extend([FrameHeader(1, 1), b"a", FrameHeader(2, 2), b"b"], 0.0)
    assert b"".join(group.update(encoding)) + b"" == encoded(encoding, [(1, b"a"), (2, b"bb")])[:-1]
    group.extend([b"b", FrameHeader(3, 0)], 0.0)
    rest = b"".join(group.update(encoding))
    assert b"".join(group.encoded(encoding)) == encoded(encoding, [(1, b"a"), (2, b"bb"), (3, b"")])
    assert b"".join(group.encoded(encoding)).endswith(rest)
    assert group.update(encoding) == ()


def test_large_payloads_are_the_same_objects_in_every_dialect() -> None:
    payload = b"p" * (JOIN_BELOW + 1)
    group = EncodedGroup(0, 0.0)
    group.extend([FrameHeader(5, len(payload)), payload], 0.0)
    for encoding in Encoding:
        assert any(chunk is payload for chunk in group.update(encoding))
        assert any(chunk is payload for chunk in group.encoded(encoding))


def test_small_frames_of_one_turn_travel_as_one_chunk() -> None:
    group = EncodedGroup(0, 0.0)
    group.extend([part for _ in range(20) for part in (FrameHeader(5, 3), b"abc")], 0.0)
    assert len(group.update(Encoding.PLAIN)) == 1


def test_the_first_frame_of_a_range_is_absolute() -> None:
    group = EncodedGroup(0, 0.0)
    group.extend([FrameHeader(1000, 1), b"a", FrameHeader(1500, 1), b"b"], 0.0)
    assert b"".join(Encoder(Encoding.TIMED, 1).take(group.parts)) == frame_header_timed(1500, 1) + b"b"


def test_frames_of_a_partial_group_keep_their_numbers() -> None:
    group = EncodedGroup(0, 0.0, first_frame=3)
    group.extend([FrameHeader(1, 1), b"d", FrameHeader(2, 1), b"e"], 0.0)
    assert b"".join(Encoder(Encoding.PLAIN, 4, None, 3).take(group.parts)) == b"\x01e"
    assert b"".join(group.update(Encoding.PLAIN)) == b"\x01d\x01e"


def test_frames_without_a_time_get_the_arrival_in_microseconds() -> None:
    group = EncodedGroup(0, 1.5)
    group.extend([FrameHeader(None, 1), b"a"], 1.5)
    group.extend([FrameHeader(None, 1), b"b"], 1.75)
    assert (group.first_timestamp, group.last_timestamp) == (1_500_000, 1_750_000)


def test_a_group_is_open_until_it_is_finished_or_aborted() -> None:
    group = EncodedGroup(0, 0.0)
    assert group.open
    group.finished = True
    assert not group.open
    aborted = EncodedGroup(0, 0.0)
    aborted.code = 0
    assert not aborted.open
