"""Groups as bytes, against a plain encoding of whole frames, however they arrive."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.model.group import FRAME_OVERHEAD
from relay.moq.encoding import COPY_BELOW, JOIN_BELOW, EncodedGroup, Encoder, Encoding
from relay.wire.frame import FrameHeader, frame_header_plain, frame_header_timed

Frame = tuple[int, bytes]
Parts = list[FrameHeader | bytes]

AS_BYTES = [Encoding.PLAIN, Encoding.TIMED]
encodings = pytest.mark.parametrize("encoding", AS_BYTES, ids=lambda encoding: encoding.name)
payloads = st.one_of(
    st.binary(max_size=6),
    st.sampled_from([b"", b"x" * COPY_BELOW, b"x" * (COPY_BELOW + 1), b"y" * (JOIN_BELOW + 1)]),
)
some_frames = st.lists(st.tuples(st.integers(0, 1 << 40), payloads), max_size=8)
cuts = st.lists(st.integers(0, 5), max_size=6)


def plainly(encoding: Encoding, frames: list[Frame]) -> bytes:
    data = b""
    previous = 0
    for timestamp, payload in frames:
        if encoding is Encoding.PLAIN:
            data += frame_header_plain(len(payload))
        elif encoding is Encoding.TIMED:
            data += frame_header_timed(timestamp - previous, len(payload))
            previous = timestamp
        data += payload
    return data


def turns_of(frames: list[Frame], cuts: list[int]) -> list[Parts]:
    """Frames as they might arrive: payloads in chunks, several parts in each turn."""
    flat: Parts = []
    for timestamp, payload in frames:
        flat.append(FrameHeader(timestamp, len(payload)))
        middle = len(payload) // 2
        flat += [piece for piece in (payload[:middle], payload[middle:]) if piece]
    turns, position = [], 0
    for cut in cuts:
        turns.append(flat[position : position + cut])
        position += cut
    return [*turns, flat[position:]]


@settings(deadline=None)
@given(some_frames, cuts, st.sampled_from(AS_BYTES), st.integers(0, 6))
def test_readers_get_the_same_bytes_whenever_they_come(
    frames: list[Frame], cuts: list[int], encoding: Encoding, joins: int
) -> None:
    group = EncodedGroup(0, 0.0)
    followed = late = b""
    for number, turn in enumerate(turns_of(frames, cuts)):
        if number == joins:
            late = b"".join(group.encoded(encoding))
        group.extend(turn)
        fresh = b"".join(group.update(encoding))
        followed += fresh
        if number >= joins:
            late += fresh
    assert followed == plainly(encoding, frames)
    assert late in (followed, b"")
    assert b"".join(group.encoded(encoding)) == followed
    assert group.update(encoding) == ()
    assert group.frames == len(frames)
    assert group.size == sum(len(payload) + FRAME_OVERHEAD for _, payload in frames)


@settings(deadline=None)
@given(some_frames, cuts, st.integers(0, 9), st.integers(0, 9) | st.none(), st.sampled_from(AS_BYTES))
def test_a_range_is_the_stream_of_its_frames(
    frames: list[Frame], cuts: list[int], start: int, end: int | None, encoding: Encoding
) -> None:
    group = EncodedGroup(0, 0.0)
    encoder = Encoder(encoding, start, end)
    got = b""
    for turn in turns_of(frames, cuts):
        group.extend(turn)
        got += b"".join(encoder.take(group.parts))
    assert got == plainly(encoding, frames[start : None if end is None else end + 1])
    if end is not None and len(frames) > end >= start:
        assert encoder.ended
    if end is None or len(frames) <= end:
        assert not encoder.ended


@encodings
def test_each_encoding_is_made_once_and_shared(encoding: Encoding) -> None:
    group = EncodedGroup(0, 0.0)
    group.extend([FrameHeader(5, 3), b"abc"])
    (first,) = group.update(encoding)
    (again,) = group.encoded(encoding)
    assert again is first
    group.extend([FrameHeader(6, 1), b"d"])
    (second,) = group.update(encoding)
    assert [*map(id, group.encoded(encoding))] == [id(first), id(second)]
    # it does not disturb others
    other = Encoding((encoding + 1) % 2)
    assert b"".join(group.update(other)) == plainly(other, [(5, b"abc"), (6, b"d")])


def test_large_payloads_are_never_copied() -> None:
    payload = b"p" * (JOIN_BELOW + 1)
    group = EncodedGroup(0, 0.0)
    group.extend([FrameHeader(5, len(payload)), payload])
    for encoding in Encoding:
        assert any(chunk is payload for chunk in group.update(encoding))
        assert any(chunk is payload for chunk in group.encoded(encoding))
        assert any(chunk is payload for chunk in Encoder(encoding).take(group.parts))


@pytest.mark.parametrize(
    "size, count, chunks",
    [(3, 20, 1), (COPY_BELOW, 1, 1), (COPY_BELOW + 1, 1, 1), (JOIN_BELOW, 1, 2), (JOIN_BELOW, 3, 6)],
)
def test_what_one_turn_adds_is_joined_if_it_is_small(size: int, count: int, chunks: int) -> None:
    group = EncodedGroup(0, 0.0)
    group.extend([part for _ in range(count) for part in (FrameHeader(5, size), bytes(size))])
    assert len(group.update(Encoding.PLAIN)) == chunks


def test_the_first_frame_of_a_range_has_its_own_time() -> None:
    group = EncodedGroup(0, 0.0)
    group.extend([FrameHeader(1000, 1), b"a", FrameHeader(1500, 1), b"b", FrameHeader(1400, 0)])
    expected = frame_header_timed(1500, 1) + b"b" + frame_header_timed(-100, 0)
    assert b"".join(Encoder(Encoding.TIMED, 1).take(group.parts)) == expected


@pytest.mark.parametrize(
    "start, end, data", [(0, None, b"\x01d\x01e"), (4, None, b"\x01e"), (3, 3, b"\x01d")]
)
def test_frames_of_a_partial_group_keep_their_numbers(start: int, end: int | None, data: bytes) -> None:
    group = EncodedGroup(0, 0.0, first_frame=3)
    group.extend([FrameHeader(1, 1), b"d", FrameHeader(2, 1), b"e"])
    encoder = Encoder(Encoding.PLAIN, start, end, first=3)
    assert b"".join(encoder.take(group.parts)) == data
    assert encoder.ended == (end is not None)
    assert b"".join(group.update(Encoding.PLAIN)) == b"\x01d\x01e"


def test_a_cleared_group_holds_no_encoding() -> None:
    group = EncodedGroup(0, 0.0)
    group.extend([FrameHeader(1, 1), b"d"])
    group.update(Encoding.PLAIN)
    group.clear()
    assert group.encoded(Encoding.PLAIN) == ()
    assert (group.size, group.frames, group.parts) == (0, 0, [])


def test_frames_are_handed_on_as_they_are_in_the_group() -> None:
    group = EncodedGroup(0, 0.0)
    group.extend([FrameHeader(5, 3), b"ab"])
    assert group.update(Encoding.FRAMES) == ((5, 3), b"ab")
    group.extend([b"c", FrameHeader(6, 0)])
    assert group.update(Encoding.FRAMES) == (b"c", (6, 0))
    assert [*map(id, group.encoded(Encoding.FRAMES))] == [*map(id, group.parts)]
    assert Encoder(Encoding.FRAMES, 1).take(group.parts) == [(6, 0)]


def test_a_group_is_open_until_it_is_finished_or_aborted() -> None:
    group = EncodedGroup(0, 0.0)
    assert group.open
    group.finished = True
    assert not group.open
    aborted = EncodedGroup(0, 0.0)
    aborted.code = 0
    assert not aborted.open
