"""Streams: both halves, flow control both ways, the send order, and the end."""

from __future__ import annotations

import random
from typing import Any

import pytest

from relay.quic import errors
from relay.quic.errors import QuicError
from relay.quic.ranges import Ranges
from relay.quic.stream_table import GATHERED
from relay.quic.streams import FRAGMENT, LARGEST, MOST_FRAGMENTS, ReceiveHalf, SendHalf, Stream, StreamOwner
from tests.quic.lab import Hand, Packet, generous, numbers, stream_frame
from tests.sampling import repeats

# -- ranges


def test_ranges_are_those_of_sets() -> None:
    for seed in range(100):
        dice = random.Random(seed)
        ours, model = Ranges(), set[int]()
        for _ in range(40):
            match dice.randrange(4):
                case 0 | 1:
                    start = dice.randrange(60)
                    stop = start + dice.randrange(1, 9)
                    ours.add(start, stop)
                    model |= set(range(start, stop))
                case 2:
                    below = dice.randrange(30)
                    ours.remove_below(below)
                    model = {number for number in model if number >= below}
                case 3 if len(ours):
                    stop = ours.shift()
                    model = {number for number in model if number > stop}
            pairs = list(zip(ours.starts, ours.stops, strict=True))
            assert {number for start, stop in pairs for number in range(start, stop)} == model
            assert all(pairs[at][1] < pairs[at + 1][0] for at in range(len(pairs) - 1))
            assert all((number in ours) == (number in model) for number in range(70))
            start, stop = sorted((dice.randrange(70), dice.randrange(70)))
            missing = [number for low, high in ours.missing(start, stop) for number in range(low, high)]
            assert missing == [number for number in range(start, stop) if number not in model]


# -- the receiving half alone


def received(pieces: list[tuple[int, bytes]]) -> bytes:
    """What a session gets of these pieces, in this order."""
    hand = Hand()
    for offset, data in pieces:
        hand.deliver(hand.seal(stream_frame(2, offset, data)))
    assert hand.close is None
    return bytes(hand.log.received.get(2, b""))


def test_pieces_in_any_order_overlapping_and_repeated() -> None:
    for seed in range(60):
        dice = random.Random(seed)
        content = dice.randbytes(400)
        pieces = [(at, content[at : at + 20]) for at in range(0, 400, 20)]
        for _ in range(20):
            at = dice.randrange(400)
            pieces.append((at, content[at : at + dice.randrange(90)]))
        dice.shuffle(pieces)
        assert received(pieces) == content


def test_fragments_are_disjoint_and_counted() -> None:
    for seed in range(100):
        dice = random.Random(seed)
        half = ReceiveHalf(1000)
        half.offset = 5
        kept: set[int] = set()
        for _ in range(40):
            start = dice.randrange(6, 200)
            size = dice.randrange(1, 30)
            half.insert(start, bytes(number & 0xFF for number in range(start, start + size)))
            kept |= set(range(start, start + size))
            found = [
                number
                for begin, part in zip(half.starts, half.parts, strict=True)
                for number in range(begin, begin + len(part))
            ]
            assert found == sorted(kept)  # each byte once
            assert half.buffered == len(kept)
            assert all(
                part == bytes(number & 0xFF for number in range(begin, begin + len(part)))
                for begin, part in zip(half.starts, half.parts, strict=True)
            )


def test_a_fragment_below_the_offset_is_cut() -> None:
    half = ReceiveHalf(1000)
    half.offset = 10
    half.insert(5, b"0123456789")
    assert (half.starts, half.parts) == ([10], [b"56789"])
    half.insert(2, b"old")
    assert half.take() == b"56789"
    assert half.offset == 15


@pytest.mark.parametrize("size", [1, FRAGMENT])
def test_too_many_fragments(size: int) -> None:
    """Large ones pay for themselves."""
    half = ReceiveHalf(1 << 30)
    for number in range(MOST_FRAGMENTS + 1):
        half.insert(1 + number * 2 * FRAGMENT, bytes(size))
    at = 1 + (MOST_FRAGMENTS + 1) * 2 * FRAGMENT
    if size == FRAGMENT:
        for number in range(2000):
            half.insert(at + number * 2 * FRAGMENT, bytes(size))
        return
    with pytest.raises(QuicError) as caught:
        half.insert(at, bytes(size))
    assert caught.value.code == errors.INTERNAL_ERROR


# -- the sending half alone


class Owner(StreamOwner):
    def __init__(self) -> None:
        super().__init__()
        self.ready: list[Stream] = []
        self.control: list[Stream] = []
        self.over: list[Stream] = []

    def stream_ready(self, stream: Stream) -> None:
        self.ready.append(stream)

    def stream_control(self, stream: Stream) -> None:
        self.control.append(stream)

    def stream_ended(self, stream: Stream) -> None:
        self.over.append(stream)

    def wire_code(self, code: int) -> int:
        return 1000 + code


def sending() -> tuple[Owner, Stream, SendHalf]:
    owner = Owner()
    stream = Stream(
        owner, 3, (0, 0), unidirectional=True, opened_by_peer=False, send_limit=1 << 30, receive_limit=0
    )
    return owner, stream, stream.out


def test_bytes_are_taken_once_lost_and_taken_again() -> None:
    """As a model of all the bytes says, whatever the fates of packets."""
    for seed in range(repeats(150)):
        dice = random.Random(seed)
        owner, stream, out = sending()
        content = b""
        flying: list[tuple[int, int, bool]] = []
        acked: set[int] = set()
        for _ in range(400):
            match dice.randrange(6):
                case 0 if out.fin_at < 0 and len(content) < 3000:
                    chunks = [dice.randbytes(dice.randrange(0, 60)) for _ in range(dice.randrange(1, 5))]
                    content += b"".join(chunks)
                    stream.write(chunks, fin=len(content) > 2500)
                case 1 if out.sent < out.written:
                    start = out.sent
                    stop = min(out.written, start + dice.randrange(1, 100))
                    assert out.take(stop) == content[start:stop]
                    fin = stop == out.fin_at
                    out.fin_pending &= not fin
                    flying.append((start, stop, fin))
                case 2 if out.lost:
                    start, stop, data = out.take_lost(dice.randrange(1, 100))
                    assert data == content[start:stop]
                    assert data
                    fin = stop == out.fin_at
                    out.fin_pending &= not fin
                    flying.append((start, stop, fin))
                case 3 if out.fin_pending and out.sent == out.written and not out.lost:
                    out.fin_pending = False
                    flying.append((out.written, out.written, True))
                case 4 if flying:
                    start, stop, fin = flying.pop(dice.randrange(len(flying)))
                    out.on_acked(start, stop, fin)
                    acked |= set(range(start, stop))
                case 5 if flying and dice.random() < 0.5:
                    fate = flying.pop(dice.randrange(len(flying)))
                    out.on_lost(*fate)
            first = next((at for at in range(len(content)) if at not in acked), len(content))
            assert out.acked == first
            assert stream.unsent == len(content) - out.sent
            lost = [number for start, stop in out.lost for number in range(start, stop)]
            assert len(set(lost)) == len(lost)
            assert not set(lost) & acked
            in_flight = {number for start, stop, _ in flying for number in range(start, stop)}
            assert set(range(out.sent)) == acked | set(lost) | in_flight
            assert out.cursor >= 0
            kept = b"".join(out.chunks)
            assert content.endswith(kept)
            assert len(kept) <= len(content) - first + 60
            if out.done:
                assert first == len(content) == out.fin_at
                assert owner.over == [stream]
                break


def test_what_is_written_after_the_end_is_dropped() -> None:
    owner, stream, out = sending()
    stream.write([b"all"], fin=True)
    stream.write([b"more"])
    stream.write([], fin=True)
    assert (out.written, out.fin_at) == (3, 3)
    assert len(owner.ready) == 1
    assert not stream.may_write


def test_a_prefix_comes_before_the_first_byte() -> None:
    _, stream, out = sending()
    stream.prefix = b"head"
    stream.write([b"", b"body"])
    stream.write([b"!"])
    assert out.take(9) == b"headbody!"


def test_a_reset_forgets_everything() -> None:
    owner, stream, out = sending()
    stream.write([b"x" * 100], fin=True)
    out.take(60)
    out.on_lost(0, 30, False)
    stream.reset(5)
    stream.reset(6)
    stream.write([b"more"])
    assert out.reset_code == 1005
    assert (out.sent, out.written, out.acked, out.chunks, out.lost) == (60, 60, 60, [], [])
    assert not out.has_data()
    assert not stream.undelivered
    assert owner.control == [stream]
    out.on_lost(30, 60, False)
    out.on_acked(30, 60, False)
    assert not out.has_data()
    assert owner.over == []  # not before the reset is acknowledged


def test_undelivered() -> None:
    _, stream, out = sending()
    assert not stream.undelivered
    stream.write([b"x"])
    assert stream.undelivered
    out.take(1)
    out.on_acked(0, 1, False)
    assert not stream.undelivered
    stream.write([], fin=True)
    assert stream.undelivered
    out.fin_pending = False
    out.on_acked(1, 1, True)
    assert not stream.undelivered


def test_a_lost_end_is_sent_again() -> None:
    owner, stream, out = sending()
    stream.write([b"abc"], fin=True)
    out.take(3)
    out.fin_pending = False
    out.on_lost(0, 3, True)
    assert out.fin_pending
    assert out.take_lost(10) == (0, 3, b"abc")
    out.on_acked(0, 3, False)  # the first one after all: its record is gone, so only a test can say so
    assert owner.over == []
    out.on_acked(3, 3, True)
    assert owner.over == [stream]


# -- on a connection: what the peer sends


def test_data_is_gathered_for_each_drain() -> None:
    hand = Hand()
    calls: list[tuple[int, bytes, bool]] = []
    hand.log.stream_data = lambda stream, data, fin: calls.append((stream.id, data, fin))  # type: ignore[method-assign]
    hand.deliver(
        hand.seal(stream_frame(2, 0, b"ab"), stream_frame(2, 2, b"cd")),
        hand.seal(stream_frame(2, 4, b"ef")),
        hand.seal(stream_frame(6, 0, b"other")),
        hand.seal(stream_frame(2, 6, b"gh", fin=True)),
    )
    assert calls == [(2, b"abcdef", False), (6, b"other", False), (2, b"gh", True)]


def test_not_too_much_is_gathered() -> None:
    hand = Hand(stream_window=1 << 20)
    sizes: list[int] = []
    hand.log.stream_data = lambda stream, data, fin: sizes.append(len(data))  # type: ignore[method-assign]
    hand.deliver(*[hand.seal(stream_frame(2, 1000 * number, bytes(1000))) for number in range(200)])
    assert sum(sizes) == 200_000
    assert max(sizes) <= GATHERED + 2000


def test_an_end_of_its_own_and_one_above_a_gap() -> None:
    hand = Hand()
    hand.deliver(hand.seal(stream_frame(2, 0, b"ab")))
    hand.deliver(hand.seal(stream_frame(2, 2, b"", fin=True)))
    assert hand.log.finished == {2}
    hand.deliver(hand.seal(stream_frame(6, 5, b"", fin=True)))
    assert 6 not in hand.log.received
    hand.deliver(hand.seal(stream_frame(6, 0, b"hello")))
    assert hand.log.finished == {2, 6}
    hand.deliver(hand.seal(stream_frame(2, 0, b"ab", fin=True)))  # repeated
    assert hand.close is None


def test_a_stream_without_data() -> None:
    hand = Hand()
    hand.deliver(hand.seal(stream_frame(2, 0, b"")))
    assert hand.log.received == {2: b""}
    hand.deliver(hand.seal(stream_frame(2, 0, b"", fin=True)))
    assert hand.log.finished == {2}


def test_streams_below_are_opened_as_well() -> None:
    hand = Hand()
    hand.deliver(hand.seal(stream_frame(10, 0, b"x")))
    assert len(hand.quic.streams) == 3
    assert hand.log.received == {10: b"x"}
    hand.deliver(hand.seal(stream_frame(2, 0, b"y", fin=True), stream_frame(6, 0, b"z")))
    assert hand.log.received == {10: b"x", 2: b"y", 6: b"z"}


@pytest.mark.parametrize(
    "frames",
    [
        [stream_frame(0, 0, b"abc", fin=True), stream_frame(0, 3, b"d")],
        [stream_frame(0, 0, b"abc"), stream_frame(0, 0, b"ab", fin=True)],
        [stream_frame(0, 5, b"", fin=True), stream_frame(0, 4, b"", fin=True)],
        [stream_frame(0, 5, b"", fin=True), stream_frame(0, 6, b"", fin=True)],
        [stream_frame(0, 0, b"abc"), numbers(4, 0, 0, 2)],
        [stream_frame(0, 9, b"", fin=True), numbers(4, 0, 0, 8)],
        [stream_frame(0, 9, b"", fin=True), numbers(4, 0, 0, 10)],
        [numbers(4, 0, 0, 9), stream_frame(0, 9, b"x")],
        [numbers(4, 0, 0, 9), numbers(4, 0, 0, 8)],
    ],
)
def test_final_sizes_that_contradict(frames: list[bytes]) -> None:
    hand = Hand()
    for frame in frames[:-1]:
        hand.deliver(hand.seal(frame))
    assert hand.close is None
    hand.deliver(hand.seal(frames[-1]))
    assert hand.close is not None
    assert hand.close.code == errors.FINAL_SIZE_ERROR


def test_flow_control_of_a_stream_and_of_all() -> None:
    hand = Hand(stream_window=1000, connection_window=1500)
    hand.deliver(hand.seal(stream_frame(2, 1, bytes(999))))
    hand.deliver(hand.seal(stream_frame(6, 1, bytes(499))))
    assert hand.close is None
    hand.deliver(hand.seal(stream_frame(10, 0, b"x")))
    assert hand.close is not None
    assert hand.close.code == errors.FLOW_CONTROL_ERROR
    hand = Hand(stream_window=1000, connection_window=1500)
    hand.deliver(hand.seal(stream_frame(2, 1000, b"x")))
    assert hand.close is not None
    assert hand.close.code == errors.FLOW_CONTROL_ERROR


def test_a_reset_counts_for_flow_control() -> None:
    hand = Hand(stream_window=1000, connection_window=1500)
    hand.deliver(hand.seal(numbers(4, 2, 7, 900)))
    assert hand.log.resets == {2: 7}
    hand.deliver(hand.seal(numbers(4, 2, 7, 900)))  # again: the same
    assert hand.close is None
    hand.deliver(hand.seal(numbers(4, 6, 7, 700)))
    assert hand.close is not None
    assert hand.close.code == errors.FLOW_CONTROL_ERROR


def test_a_reset_above_the_streams_limit() -> None:
    hand = Hand(stream_window=1000)
    hand.deliver(hand.seal(numbers(4, 2, 7, 1001)))
    assert hand.close is not None
    assert hand.close.code == errors.FLOW_CONTROL_ERROR


def test_a_reset_delivers_what_was_in_order() -> None:
    hand = Hand()
    hand.deliver(hand.seal(stream_frame(2, 0, b"ab"), stream_frame(2, 5, b"x"), numbers(4, 2, 9, 6)))
    assert hand.log.received == {2: b"ab"}
    assert hand.log.resets == {2: 9}
    hand.deliver(hand.seal(stream_frame(2, 2, b"cde")))
    assert hand.log.received == {2: b"ab"}
    assert len(hand.quic.streams) == 0


def test_a_reset_after_the_end_is_ignored() -> None:
    hand = Hand()
    hand.deliver(hand.seal(stream_frame(0, 0, b"ab", fin=True)))
    hand.deliver(hand.seal(numbers(4, 0, 9, 2)))
    assert hand.log.resets == {}
    assert hand.close is None


def test_a_reset_drops_the_reorder_buffer() -> None:
    """The connection's window no longer counts it; our half may stay open."""
    hand = Hand(stream_window=1000, connection_window=4000)
    for number in range(50):
        stream_id = 4 * number
        hand.say(stream_frame(stream_id, 999, b"x"), numbers(4, stream_id, 0, 1000))
        hand.now += 0.05
        hand.ack()
    assert hand.close is None
    assert len(hand.log.resets) == 50
    streams = [hand.quic.streams.get(4 * number) for number in range(50)]
    assert all(stream is not None and stream.into.buffered == 0 for stream in streams)
    hand.say(stream_frame(0, 5, b"late"))
    assert streams[0] is not None
    assert streams[0].into.buffered == 0


def test_windows_are_renewed_at_half() -> None:
    hand = Hand(stream_window=1000, connection_window=10_000).quiet()
    sent = hand.say(stream_frame(2, 0, bytes(500)))
    assert hand.frames(errors.MAX_STREAM_DATA, sent) == []
    sent = hand.say(stream_frame(2, 500, bytes(1)))
    assert hand.frames(errors.MAX_STREAM_DATA, sent) == [(errors.MAX_STREAM_DATA, 2, 1501)]
    offset = 501
    granted: list[Packet] = []
    while offset < 4999:
        size = min(400, 5001 - offset)
        granted += hand.say(stream_frame(2, offset, bytes(size)))
        offset += size
    assert hand.frames(errors.MAX_DATA, granted) == [(errors.MAX_DATA, 10_000 + offset)]


@pytest.mark.parametrize("kind", [errors.MAX_DATA, errors.MAX_STREAM_DATA, errors.MAX_STREAMS_UNI])
def test_lost_grants_are_repeated(kind: int) -> None:
    """Even if nothing else is to be sent: the peer waits."""
    hand = Hand(stream_window=1000, connection_window=1000, max_streams_uni=2).quiet()
    fin = kind == errors.MAX_STREAMS_UNI
    sent = hand.say(stream_frame(2, 0, bytes(300), fin=fin), stream_frame(6, 0, bytes(300), fin=fin))
    if kind == errors.MAX_STREAM_DATA:
        sent = hand.say(stream_frame(2, 300, bytes(300)))
    lost = hand.frames(kind, sent)
    assert len(lost) == 1
    number = sent[-1].number
    for _ in range(3):
        hand.quic.ping()
        hand.flush()
    hand.now += 0.1
    sent = hand.ack((number + 1, number + 3))
    assert hand.frames(kind, sent) == lost


def test_no_grant_for_a_stream_whose_end_is_known() -> None:
    hand = Hand(stream_window=1000).quiet()
    sent = hand.say(stream_frame(0, 700, bytes(100), fin=True), stream_frame(0, 0, bytes(690)))
    assert hand.frames(errors.MAX_STREAM_DATA, sent) == []


def test_ended_streams_are_given_back() -> None:
    """In time for a peer that opens all it may."""
    hand = Hand(max_streams_uni=10).quiet()
    limit, frames = 10, 0
    for number in range(200):
        assert number < limit
        sent = hand.say(stream_frame(number << 2 | 2, 0, b"x", fin=True))
        hand.now += 0.1
        hand.ack()
        for frame in hand.frames(errors.MAX_STREAMS_UNI, sent):
            limit = max(limit, frame[1])
            frames += 1
    assert frames <= 50
    assert len(hand.quic.streams) == 0


def test_open_streams_never_use_up_those_given_back() -> None:
    """Ten may be open at once, whatever has ended before."""
    hand = Hand(max_streams_uni=10).quiet()
    limit = 10
    for number in range(15):
        assert number < limit
        sent = hand.say(stream_frame(number << 2 | 2, 0, b"x", fin=number < 5))
        hand.now += 0.1
        sent += hand.ack()
        limit = max([limit, *(frame[1] for frame in hand.frames(errors.MAX_STREAMS_UNI, sent))])
    assert len(hand.quic.streams) == 10


def test_too_many_streams() -> None:
    hand = Hand(max_streams_uni=3, max_streams_bidi=2)
    hand.deliver(hand.seal(stream_frame(4, 0, b"x"), stream_frame(10, 0, b"x")))
    assert hand.close is None
    hand.deliver(hand.seal(stream_frame(14, 0, b"x")))
    assert hand.close is not None
    assert hand.close.code == errors.STREAM_LIMIT_ERROR


@pytest.mark.parametrize(
    "frame, code",
    [
        (stream_frame(1, 0, b"x"), errors.STREAM_STATE_ERROR),  # ours, not open
        (stream_frame(3, 0, b"x"), errors.STREAM_STATE_ERROR),  # only we write there
        (numbers(4, 1, 0, 0), errors.STREAM_STATE_ERROR),
        (numbers(4, 3, 0, 0), errors.STREAM_STATE_ERROR),
        (numbers(5, 1, 0), errors.STREAM_STATE_ERROR),
        (numbers(5, 3, 0), errors.STREAM_STATE_ERROR),  # not open
        (numbers(5, 2, 0), errors.STREAM_STATE_ERROR),  # only the peer writes there
        (numbers(0x11, 1, 9), errors.STREAM_STATE_ERROR),
        (numbers(0x11, 2, 9), errors.STREAM_STATE_ERROR),
        (numbers(0x15, 1, 9), errors.STREAM_STATE_ERROR),
        (numbers(0x15, 3, 9), errors.STREAM_STATE_ERROR),
        (numbers(0x05, 4 * 5000, 9), errors.STREAM_LIMIT_ERROR),
        (numbers(0x11, 4 * 5000, 9), errors.STREAM_LIMIT_ERROR),
        (numbers(0x15, 4 * 5000, 9), errors.STREAM_LIMIT_ERROR),
        (numbers(0x0E, 2, LARGEST, 1) + b"x", errors.FRAME_ENCODING_ERROR),
        (numbers(0x12, (1 << 60) + 1), errors.FRAME_ENCODING_ERROR),
        (numbers(0x13, (1 << 60) + 1), errors.FRAME_ENCODING_ERROR),
        (numbers(0x16, (1 << 60) + 1), errors.FRAME_ENCODING_ERROR),
        (numbers(0x17, (1 << 60) + 1), errors.FRAME_ENCODING_ERROR),
    ],
)
def test_frames_of_streams_that_cannot_be(frame: bytes, code: int) -> None:
    hand = Hand()
    hand.deliver(hand.seal(frame))
    assert hand.close is not None
    assert hand.close.code == code
    assert hand.close.frame_type == frame[0]


def test_frames_of_streams_that_have_ended_are_ignored() -> None:
    hand = Hand().quiet()
    stream = hand.quic.open_stream(0, unidirectional=True)
    stream.write([b"x"], fin=True)
    hand.flush()
    hand.now += 0.1
    hand.say(stream_frame(0, 0, b"y", fin=True), numbers(5, 3, 7))
    hand.ack()
    theirs = hand.log.streams[0]
    theirs.write([], fin=True)
    hand.flush()
    hand.ack()
    assert len(hand.quic.streams) == 0
    hand.say(stream_frame(0, 0, b"y", fin=True), numbers(4, 0, 1, 1), numbers(5, 0, 1), numbers(0x11, 0, 99))
    hand.say(numbers(5, 3, 1), numbers(0x11, 3, 99), numbers(0x15, 0, 7))
    assert hand.close is None
    assert len(hand.quic.streams) == 0


# -- on a connection: what we send


def opened(hand: Hand, data: bytes, *, priority: int = 0, fin: bool = False, uni: bool = True) -> Any:
    stream = hand.quic.open_stream(priority, unidirectional=uni)
    if data or fin:
        stream.write([data], fin=fin)
    return stream


def data_of(packets: list[Packet]) -> list[tuple[int, int, int, bool]]:
    """Stream id, offset, size and end of all STREAM frames."""
    return [
        (frame[1], frame[2], len(frame[3]), frame[4])
        for packet in packets
        for frame in packet.frames
        if frame[0] == errors.STREAM
    ]


def test_an_id_comes_with_the_first_packet() -> None:
    hand = Hand().quiet()
    one, two = opened(hand, b"", fin=False), opened(hand, b"b")
    assert (one.id, two.id) == (-1, -1)
    hand.flush()
    assert (one.id, two.id) == (-1, 3)
    one.write([b"a"])
    three = opened(hand, b"c", uni=False)
    hand.flush()
    assert (one.id, three.id) == (7, 1)


def test_the_most_urgent_stream_first() -> None:
    hand = Hand().quiet()
    streams = [opened(hand, bytes(3000), priority=priority) for priority in (2, 9, 5)]
    sent = data_of(hand.flush())
    ids = list(dict.fromkeys(stream_id for stream_id, *_ in sent))
    assert ids == [streams[1].id, streams[2].id, streams[0].id]
    assert sum(size for _, _, size, _ in sent) == 9000


def test_a_priority_may_change() -> None:
    hand = Hand().quiet()
    slow = opened(hand, bytes(100_000), priority=5, fin=True)
    fast = opened(hand, bytes(100_000), priority=1, fin=True)
    first = data_of(hand.flush())
    assert {stream_id for stream_id, *_ in first} == {slow.id}
    fast.prioritize(7)
    hand.now += 0.1
    second = data_of(hand.ack())
    assert {stream_id for stream_id, *_ in second} == {fast.id}
    fast.prioritize(0)
    hand.now += 0.1
    assert {stream_id for stream_id, *_ in data_of(hand.ack())} == {slow.id}


def test_lost_bytes_come_before_new_ones_of_their_stream() -> None:
    hand = Hand().quiet()
    opened(hand, bytes(100_000))
    sent = hand.flush()
    first = sent[0]
    hand.now += 0.1
    again = data_of(hand.ack((first.number + 1, sent[-1].number)))
    assert again[0][:2] == (3, 0)
    assert again[0][2] == data_of([first])[0][2]
    assert again[1][1] > again[0][2]


def test_a_stream_blocked_by_its_limit() -> None:
    hand = Hand(peer=generous(max_stream_data_uni=1000)).quiet()
    stream = opened(hand, bytes(1500), fin=True)
    other = opened(hand, b"other", priority=-1)
    sent = hand.flush()
    assert hand.frames(errors.STREAM_DATA_BLOCKED, sent) == [(errors.STREAM_DATA_BLOCKED, 3, 1000)]
    assert data_of(sent) == [(3, 0, 1000, False), (other.id, 0, 5, False)]
    assert hand.flush() == []
    sent = hand.say(numbers(0x11, 3, 900))  # no more
    assert data_of(sent) == []
    sent = hand.say(numbers(0x11, 3, 1200))
    assert data_of(sent) == [(3, 1000, 200, False)]
    assert hand.frames(errors.STREAM_DATA_BLOCKED, sent) == [(errors.STREAM_DATA_BLOCKED, 3, 1200)]
    assert data_of(hand.say(numbers(0x11, 3, 1500))) == [(3, 1200, 300, True)]
    assert stream.unsent == 0


def test_all_blocked_by_the_connections_limit() -> None:
    hand = Hand(peer=generous(max_data=1000)).quiet()
    opened(hand, bytes(900), priority=1)
    opened(hand, bytes(900), fin=True)
    sent = hand.flush()
    assert [each[:3] for each in data_of(sent)] == [(3, 0, 900), (7, 0, 100)]
    assert hand.frames(errors.DATA_BLOCKED, sent) == [(errors.DATA_BLOCKED, 1000)]
    assert hand.flush() == []
    sent = hand.say(numbers(0x10, 1799))
    assert data_of(sent) == [(7, 100, 799, False)]
    assert data_of(hand.say(numbers(0x10, 5000))) == [(7, 899, 1, True)]


def test_lost_bytes_need_no_credit() -> None:
    hand = Hand(peer=generous(max_data=3000)).quiet()
    opened(hand, bytes(4000))
    first = hand.flush()[0]
    assert hand.quic.streams.send_used == 3000
    for _ in range(3):
        hand.quic.ping()
        hand.flush()
    hand.now += 0.1
    sent = hand.ack((first.number + 1, hand.heard[-1].number))
    assert data_of(sent) == data_of([first])
    assert hand.quic.streams.send_used == 3000


def test_an_end_needs_no_credit() -> None:
    hand = Hand(peer=generous(max_data=100)).quiet()
    stream = opened(hand, bytes(100))
    assert data_of(hand.flush()) == [(3, 0, 100, False)]
    stream.write([], fin=True)
    assert data_of(hand.flush()) == [(3, 100, 0, True)]


@pytest.mark.parametrize("uni", [True, False])
def test_streams_wait_for_the_peers_leave(uni: bool) -> None:
    hand = Hand(peer=generous(max_streams_uni=2, max_streams_bidi=2)).quiet()
    for number in range(4):
        opened(hand, b"%d" % number, uni=uni)
    lead = 3 if uni else 1
    assert [each[0] for each in data_of(hand.flush())] == [lead, 4 + lead]
    assert hand.flush() == []
    sent = hand.say(numbers(0x12 if uni else 0x13, 9))
    assert data_of(sent) == []
    sent = hand.say(numbers(0x13 if uni else 0x12, 3))
    assert data_of(sent) == [(8 + lead, 0, 1, False)]
    assert [each[0] for each in data_of(hand.say(numbers(0x13 if uni else 0x12, 9)))] == [12 + lead]


def test_a_stream_reset_before_it_is_opened_is_never_seen() -> None:
    hand = Hand(peer=generous(max_streams_uni=1)).quiet()
    first = opened(hand, b"one")
    second = opened(hand, b"two", priority=-1)
    third = opened(hand, b"three", priority=-2)
    hand.flush()
    assert (first.id, second.id) == (3, -1)
    second.reset(4)
    sent = hand.say(numbers(0x13, 2))
    assert data_of(sent) == [(7, 0, 5, False)]
    assert hand.frames(errors.RESET_STREAM) == []
    assert (second.id, third.id) == (-1, 7)


def test_a_reset_takes_the_place_of_the_data() -> None:
    hand = Hand(peer=generous(max_stream_data_uni=1000)).quiet()
    stream = opened(hand, bytes(5000), fin=True)
    hand.flush()
    stream.reset(9)
    sent = hand.flush()
    assert hand.frames(errors.RESET_STREAM, sent) == [(errors.RESET_STREAM, 3, 9, 1000)]
    assert data_of(hand.say(numbers(0x11, 3, 9000))) == []
    hand.now += 0.1
    hand.ack()
    assert len(hand.quic.streams) == 0


def test_a_lost_reset_is_repeated() -> None:
    hand = Hand().quiet()
    stream = opened(hand, b"x")
    hand.flush()
    stream.reset(9)
    number = hand.flush()[-1].number
    for _ in range(3):
        hand.quic.ping()
        hand.flush()
    hand.now += 0.1
    sent = hand.ack((number + 1, number + 3))
    assert hand.frames(errors.RESET_STREAM, sent) == [(errors.RESET_STREAM, 3, 9, 1)]


def test_the_peer_stops_a_stream() -> None:
    hand = Hand().quiet()
    stream = opened(hand, bytes(100))
    hand.flush()
    sent = hand.say(numbers(5, 3, 77))
    assert hand.log.stops == {3: 77}
    assert hand.frames(errors.RESET_STREAM, sent) == [(errors.RESET_STREAM, 3, 77, 100)]
    stream.write([b"more"])
    stream.reset(5)
    hand.say(numbers(5, 3, 78))
    assert hand.frames(errors.RESET_STREAM) == [(errors.RESET_STREAM, 3, 77, 100)]
    assert hand.log.stops == {3: 77}


def test_a_stop_of_a_stream_that_is_reset_or_delivered_is_nothing_new() -> None:
    hand = Hand().quiet()
    one, two = opened(hand, b"x"), opened(hand, b"y", fin=True, uni=False)
    hand.flush()
    one.reset(4)
    hand.flush()
    hand.ack()
    hand.say(numbers(5, one.id, 7), numbers(5, two.id, 7))
    assert hand.log.stops == {}
    assert hand.close is None


def test_a_stop_of_the_peers_stream() -> None:
    hand = Hand().quiet()
    hand.say(stream_frame(0, 0, b"one"))
    stream = hand.log.streams[0]
    stream.stop(6)
    stream.stop(7)
    assert hand.frames(errors.STOP_SENDING, hand.flush()) == [(errors.STOP_SENDING, 0, 6)]
    hand.say(stream_frame(0, 3, b"two"))
    assert hand.log.received == {0: b"one"}
    hand.say(numbers(4, 0, 6, 6))
    assert hand.log.resets == {0: 6}


def test_a_stop_is_repeated_unless_the_stream_has_ended() -> None:
    for ended in (False, True):
        hand = Hand().quiet()
        hand.say(stream_frame(0, 0, b"one"))
        hand.log.streams[0].stop(6)
        number = hand.flush()[-1].number
        for _ in range(3):
            hand.quic.ping()
            hand.flush()
        if ended:
            hand.deliver(hand.seal(stream_frame(0, 3, b"", fin=True)))
        hand.now += 0.1
        sent = hand.ack((number + 1, number + 3))
        assert len(hand.frames(errors.STOP_SENDING, sent)) == (not ended)


def test_a_stopped_stream_of_ours_that_is_not_yet_open() -> None:
    hand = Hand().quiet()
    stream = opened(hand, b"", uni=False)
    stream.stop(6)
    assert hand.flush() == []
    stream.write([b"x"])
    sent = hand.flush() + hand.flush()
    assert data_of(sent) == [(1, 0, 1, False)]
    assert hand.frames(errors.STOP_SENDING, sent) == [(errors.STOP_SENDING, 1, 6)]


def test_data_of_a_stopped_stream_frees_its_window() -> None:
    hand = Hand(stream_window=1000, connection_window=1000).quiet()
    hand.say(stream_frame(2, 0, bytes(10)))
    hand.log.streams[2].stop(1)
    sent = hand.say(stream_frame(2, 10, bytes(900)))
    assert hand.frames(errors.MAX_DATA, sent) == [(errors.MAX_DATA, 1910)]


def test_ended_streams_are_forgotten() -> None:
    hand = Hand().quiet()
    stream = opened(hand, b"x", fin=True, uni=False)
    hand.flush()
    hand.now += 0.1
    hand.ack()
    assert len(hand.quic.streams) == 1
    hand.say(stream_frame(1, 0, b"y", fin=True))
    assert len(hand.quic.streams) == 0
    assert not hand.quic.undelivered
    stream.write([b"z"])
    stream.reset(1)
    stream.stop(1)
    assert all(packet.frames[0][0] == errors.ACK for packet in hand.wait(1.0))


def test_a_large_stream_beyond_the_offsets_of_trains() -> None:
    """Four bytes of offset end at 1 GiB."""
    hand = Hand(peer=generous(max_data=1 << 40, max_stream_data_uni=1 << 40)).quiet()
    stream = opened(hand, b"x")
    hand.flush()
    hand.ack()
    stream.out.acked = stream.out.sent = stream.out.written = (1 << 30) - 3000  # as if it had been sent
    content = random.Random(1).randbytes(8000)
    stream.write([content], fin=True)
    sent = [frame for packet in hand.flush() for frame in packet.frames if frame[0] == errors.STREAM]
    assert b"".join(frame[3] for frame in sent) == content
    at = (1 << 30) - 3000
    for frame in sent:
        assert frame[2] == at
        at += len(frame[3])
    assert sent[-1][4]
    hand.now += 0.1
    hand.ack()
    assert len(hand.quic.streams) == 0


def test_released_streams_keep_nothing() -> None:
    hand = Hand().quiet()
    stream = opened(hand, bytes(10_000))
    hand.flush()
    hand.quic.release()
    assert stream.out.stream is None
    stream.write([b"x"])
    stream.reset(1)
    assert len(hand.quic.streams) == 0
