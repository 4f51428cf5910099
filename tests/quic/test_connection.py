"""The connection: every frame right and wrong, close, time-outs, stateless reset, datagrams, ACK_FREQUENCY."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from relay.quic import errors
from relay.quic.connection import CLOSED, CLOSING, DRAINING, MOST_DATAGRAMS, OPEN, REASON
from relay.quic.handler import APPLICATION
from relay.quic.streams import Stream
from tests.quic.handshaking import CLIENT, token_of
from tests.quic.lab import (
    PEER_TOKEN,
    Hand,
    Lab,
    Network,
    Packet,
    Pairing,
    ack_frame,
    generous,
    new_cid,
    numbers,
    stream_frame,
)

PING = b"\x01"

# -- frames


RIGHT = {
    "padding": bytes(5),
    "ping": PING,
    "ack": ack_frame((0, 0)),
    "ack with ecn": numbers(3, 0, 0, 0, 0, 7, 8, 9),
    "reset": numbers(4, 16, 5, 0),
    "stop": numbers(5, 0, 5),
    "crypto": numbers(6, 0, 0),
    "stream": stream_frame(0, 0, b"x"),
    "stream to the end": numbers(8, 4) + b"data",
    "stream with everything": stream_frame(2, 5, b"x", fin=True),
    "max data": numbers(0x10, 1 << 40),
    "less max data": numbers(0x10, 1),
    "max stream data": numbers(0x11, 0, 1 << 40),
    "max streams bidi": numbers(0x12, 1 << 60),
    "max streams uni": numbers(0x13, 1 << 60),
    "data blocked": numbers(0x14, 7),
    "stream data blocked": numbers(0x15, 0, 7),
    "streams blocked bidi": numbers(0x16, 7),
    "streams blocked uni": numbers(0x17, 1 << 60),
    "new connection id": new_cid(1),
    "retire connection id": numbers(0x19, 1),
    "path challenge": b"\x1a12345678",
    "path response": b"\x1b12345678",
    "datagram": b"\x31\x02xy",
    "datagram to the end": b"\x30xyz",
    "ack frequency": numbers(0xAF, 0, 9, 5_000, 1),
    "immediate ack": b"\x1f",
}
TO_THE_END = {"stream to the end", "datagram to the end"}


@pytest.mark.parametrize("name", RIGHT)
def test_each_frame(name: str) -> None:
    hand = Hand().quiet()
    hand.say(RIGHT[name])
    assert hand.close is None
    hand.say(PING + RIGHT[name])
    assert hand.close is None


def test_all_frames_in_one_packet() -> None:
    hand = Hand().quiet()
    frames = [frame for name, frame in RIGHT.items() if name not in TO_THE_END]
    hand.say(*frames)
    assert hand.close is None
    assert hand.log.received == {0: b"x"}
    assert hand.log.datagrams == [b"xy"]


@pytest.mark.parametrize(
    "name", [name for name in RIGHT if name not in TO_THE_END | {"padding", "ping", "immediate ack"}]
)
def test_each_frame_cut_short(name: str) -> None:
    frame = RIGHT[name]
    for end in range(1, len(frame)):
        hand = Hand().quiet()
        hand.deliver(hand.seal(PING, PING, frame[:end]))
        assert hand.close is not None
        assert hand.close.code == errors.FRAME_ENCODING_ERROR
        assert hand.close.frame_type == frame[0]


@pytest.mark.parametrize(
    "frame, code",
    [
        (b"\x20\0", errors.FRAME_ENCODING_ERROR),  # unknown types
        (b"\x2f\0", errors.FRAME_ENCODING_ERROR),
        (b"\x32\0", errors.FRAME_ENCODING_ERROR),
        (b"\x3f\0", errors.FRAME_ENCODING_ERROR),
        (b"\x40\x7f", errors.FRAME_ENCODING_ERROR),
        (b"\x40\x01", errors.FRAME_ENCODING_ERROR),  # a ping, longer than it need be
        (numbers(0xAF, 0, 1, 999, 1), errors.PROTOCOL_VIOLATION),  # ACK_FREQUENCY: below our min_ack_delay
        (numbers(0xAF, 0, 1), errors.FRAME_ENCODING_ERROR),
        (b"\xff" * 8, errors.FRAME_ENCODING_ERROR),
        (b"\x07\x01t", errors.PROTOCOL_VIOLATION),  # a client's
        (b"\x1e", errors.PROTOCOL_VIOLATION),
        (numbers(2, 1000, 0, 0, 0), errors.PROTOCOL_VIOLATION),  # never sent
        (numbers(3, 1000, 0, 0, 0, 0, 0, 0), errors.PROTOCOL_VIOLATION),
        (numbers(2, 0, 0, 0, 1), errors.FRAME_ENCODING_ERROR),  # below packet 0
        (b"\x0a\0\x7f\xff", errors.FRAME_ENCODING_ERROR),  # longer than its packet
        (b"\x31\x40\xffx", errors.FRAME_ENCODING_ERROR),
        (b"\x06\0\x01x", errors.UNEXPECTED_MESSAGE),  # TLS, from a client
        (b"\x1c\0\0\x40\xffx", errors.FRAME_ENCODING_ERROR),
        (b"\x08\x01", errors.STREAM_STATE_ERROR),
        (b"\x0c\x00\x80\x7f\xff\xffx", errors.FLOW_CONTROL_ERROR),
        (b"\x08\x80\x0f\xff\xf8x", errors.STREAM_LIMIT_ERROR),
        (numbers(0x12, (1 << 60) + 1), errors.FRAME_ENCODING_ERROR),
        (numbers(0x17, (1 << 60) + 1), errors.FRAME_ENCODING_ERROR),
        (numbers(0x18, 1, 0) + b"\x15" + bytes(37), errors.FRAME_ENCODING_ERROR),  # an id of 21 bytes
        (numbers(0x18, 1, 2) + b"\x08" + bytes(24), errors.FRAME_ENCODING_ERROR),
        (numbers(0x19, 99), errors.PROTOCOL_VIOLATION),
    ],
)
def test_frames_that_close(frame: bytes, code: int) -> None:
    hand = Hand().quiet()
    sent = hand.say(PING, PING, frame)
    assert hand.close is not None
    assert hand.close.code == code
    assert not hand.close.by_peer
    assert hand.log.close_event is hand.close
    (close,) = hand.frames(errors.TRANSPORT_CLOSE, sent)
    assert close[1] == code
    assert close[2] == hand.close.frame_type


def test_frames_only_for_clients() -> None:
    hand = Hand(is_client=True)
    hand.say(b"\x06\0\x06ticket", b"\x07\x03tok")
    assert not hand.quic.confirmed
    hand.say(b"\x1e")
    hand.say(b"\x1e")
    assert hand.quic.confirmed
    assert hand.close is None
    hand.say(b"\x07\0\0")
    assert hand.close is not None
    assert hand.close.code == errors.FRAME_ENCODING_ERROR


@pytest.mark.parametrize("flags", [0x08, 0x10, 0x18])
def test_reserved_bits(flags: int) -> None:
    hand = Hand().quiet()
    hand.deliver(hand.seal(PING, flags=flags))
    assert hand.close is not None
    assert hand.close.code == errors.PROTOCOL_VIOLATION


def test_a_packet_without_frames() -> None:
    hand = Hand().quiet()
    hand.deliver(hand.seal())
    assert hand.close is not None
    assert hand.close.code == errors.PROTOCOL_VIOLATION


def test_frames_before_a_wrong_one_count_and_none_after_it() -> None:
    hand = Hand().quiet()
    hand.deliver(hand.seal(b"\x31\x01a", b"\x20", b"\x31\x01b"))
    assert hand.log.datagrams == [b"a"]
    assert hand.close is not None


def test_no_noise_raises_or_closes() -> None:
    hand = Hand().quiet()
    dice = random.Random(1)
    packet = hand.seal(PING, bytes(30))
    for size in range(1, 60):
        hand.deliver(b"\x41" + dice.randbytes(size))
        hand.deliver(packet[:size])
        damaged = bytearray(packet)
        damaged[size % len(packet)] ^= 1 << dice.randrange(7)
        hand.deliver(bytes(damaged))
    assert hand.close is None
    assert hand.quic.protection.failures > 100
    hand.deliver(packet)
    assert hand.quic.received.stop == hand.number


def test_too_many_packets_that_do_not_authenticate() -> None:
    """RFC 9001, 6.6."""
    hand = Hand().quiet()
    hand.quic.protection.failures = (1 << 36) - 2
    hand.deliver(bytes(50))
    assert hand.close is None
    hand.deliver(bytes(50))
    assert hand.close is not None
    assert hand.close.code == errors.AEAD_LIMIT_REACHED


# -- handshake done


def test_a_server_confirms_until_it_is_heard() -> None:
    hand = Hand()
    sent = hand.flush()
    assert hand.frames(errors.HANDSHAKE_DONE, sent) == [(errors.HANDSHAKE_DONE,)]
    for _ in range(3):
        hand.quic.ping()
        hand.flush()
    hand.now += 0.1
    sent = hand.ack((1, hand.heard[-1].number))
    assert hand.frames(errors.HANDSHAKE_DONE, sent) == [(errors.HANDSHAKE_DONE,)]
    hand.now += 0.1
    hand.ack()
    assert hand.frames(errors.HANDSHAKE_DONE, hand.wait(5.0)) == []


def test_a_client_does_not() -> None:
    hand = Hand(is_client=True)
    assert hand.frames(errors.HANDSHAKE_DONE, hand.flush()) == []


# -- close


@pytest.mark.parametrize("transport", [False, True])
def test_our_close(transport: bool) -> None:
    hand = Hand().quiet()
    hand.quic.close(77, "the end", transport=transport, frame_type=6)
    hand.quic.close(78, "again")
    assert hand.quic.over
    assert hand.wakes
    (packet,) = hand.flush()
    kind, blamed = (errors.TRANSPORT_CLOSE, 6) if transport else (errors.APPLICATION_CLOSE, APPLICATION)
    assert packet.frames == [(kind, 77, blamed, b"the end")]
    assert hand.log.close_event is hand.close
    assert hand.close is not None
    assert (hand.close.code, hand.close.frame_type, hand.close.application) == (77, blamed, not transport)
    assert hand.flush() == []
    timeout = 3 * hand.quic.recovery.probe_timeout()
    assert hand.wait(timeout * 0.99) == []
    assert hand.quic.state == CLOSING
    hand.wait(timeout * 0.02)
    assert hand.quic.state == CLOSED


def test_the_peers_close() -> None:
    for frame, blamed in ((numbers(0x1D, 9, 3) + b"bye", APPLICATION), (numbers(0x1C, 9, 6, 3) + b"bye", 6)):
        hand = Hand().quiet()
        hand.deliver(hand.seal(b"\x31\x01a", frame, b"\x31\x01b"))
        assert hand.log.datagrams == [b"a"]
        close = hand.log.close_event
        assert close is not None
        assert (close.code, close.reason, close.frame_type, close.by_peer) == (9, "bye", blamed, True)
        assert hand.quic.state == DRAINING
        hand.quic.close(1, "too late")
        assert hand.flush() == []
        hand.deliver(hand.seal(PING))
        assert hand.flush() == []
        assert hand.wait(5.0) == []
        assert hand.quic.state == CLOSED


@pytest.mark.parametrize("reason", ["", "é" * 5000, "\ud800", "x" * (REASON + 1)])
def test_any_reason_fits(reason: str) -> None:
    hand = Hand().quiet()
    hand.quic.close(1, reason)
    (packet,) = hand.flush()
    data = packet.frames[0][3]
    assert isinstance(data, bytes)
    assert len(data) <= REASON
    assert data.decode() in reason.encode("utf-8", "replace").decode()


def test_a_reason_that_is_no_text() -> None:
    hand = Hand().quiet()
    hand.deliver(hand.seal(numbers(0x1D, 9, 3) + b"\xff\xfe\xfd"))
    assert hand.close is not None
    assert hand.close.reason == "\ufffd" * 3


def test_a_close_is_repeated_ever_more_rarely_and_within_three_times_the_bytes() -> None:
    hand = Hand().quiet()
    hand.quic.close(1, "x" * 600)
    first = hand.flush()
    received = sent = repeated = 0
    for size in itertools.islice(itertools.cycle([50, 20, 300]), 300):
        data = hand.seal(PING, bytes(size))
        received += len(data)
        hand.quic.receive(data, CLIENT, hand.now)
        again = hand.quic.flush(hand.now)
        for buffers, _, _ in again:
            assert buffers[0]
            sent += len(buffers[0])
            repeated += 1
        assert sent <= 3 * received
    assert 4 <= repeated <= 9
    assert first[0].size > 600


def test_nothing_is_read_after_a_close() -> None:
    """One drain may hold a hundred further packets."""
    hand = Hand().quiet()
    hand.quic.close(0, "the end")
    failures = hand.quic.protection.failures
    hand.deliver(hand.seal(b"\x31\x01a"), bytes(50), hand.seal(stream_frame(0, 0, b"x")))
    assert hand.quic.protection.failures == failures
    assert hand.log.datagrams == []
    assert len(hand.quic.streams) == 0


@pytest.mark.parametrize("when", ["data", "datagram", "end", "reset", "stop"])
def test_a_session_that_closes_hears_nothing_more(when: str) -> None:
    """`Recorder` fails for whatever comes after its end."""
    hand = Hand().quiet()
    log: Any = hand.log
    close = hand.quic.close
    ours = hand.quic.open_stream(0, unidirectional=False)
    ours.write([b"x"])
    hand.flush()
    name = {"data": "stream_data", "end": "stream_data", "reset": "stream_reset", "stop": "stream_stopped"}
    name = name.get(when, "datagram")  # type: ignore[assignment]
    original = getattr(log, str(name))

    def closing(*arguments: Any) -> None:
        original(*arguments)
        close(5, "enough")

    setattr(log, str(name), closing)
    end = when == "end"
    frames = [
        stream_frame(0, 0, b"a", fin=end), stream_frame(4, 0, b"b", fin=end), b"\x31\x01c", b"\x31\x01d",
        stream_frame(8, 0, b"a"), numbers(4, 8, 0, 1), numbers(4, 12, 0, 0), numbers(5, 1, 7), numbers(5, 16, 7),
        stream_frame(0, 1, b"d"), numbers(0x1D, 0, 0),
    ]  # fmt: skip
    hand.deliver(hand.seal(*frames), hand.seal(*frames))
    assert hand.close is not None
    assert hand.close.code == 5
    assert not hand.close.by_peer


def test_data_before_a_close_is_delivered_first() -> None:
    hand = Hand().quiet()
    order: list[str] = []
    hand.log.stream_data = lambda stream, data, fin: order.append("data")  # type: ignore[method-assign]
    hand.log.closed = lambda close: order.append("closed")  # type: ignore[method-assign]
    hand.deliver(hand.seal(stream_frame(0, 0, b"x"), numbers(0x1D, 0, 0)))
    assert order == ["data", "closed"]


# -- idle, keep-alive, pauses


@pytest.mark.parametrize("ours, theirs, found", [(10.0, 0.0, 10.0), (10.0, 4.0, 4.0), (10.0, 40.0, 10.0)])
def test_the_smaller_idle_timeout(ours: float, theirs: float, found: float) -> None:
    hand = Hand(peer=generous(max_idle_timeout=theirs), idle_timeout=ours).quiet()
    assert hand.quic.idle_timeout == found
    hand.say(PING)
    assert hand.wait(found - 0.01) == []
    assert hand.quic.state == OPEN
    assert hand.wait(0.02) == []
    assert hand.quic.state == CLOSED
    assert hand.close is not None
    assert hand.close.idle
    assert hand.log.close_event is hand.close


def test_a_slow_path_needs_longer() -> None:
    """RFC 9000, 10.1: at least three probe time-outs."""
    hand = Hand(rtt=5.0, idle_timeout=10.0)
    hand.flush()
    hand.say(PING)
    assert 3 * hand.quic.recovery.probe_timeout() > 12
    hand.wait(11.0)
    assert hand.quic.state == OPEN
    hand.wait(60.0)
    assert hand.quic.state == CLOSED


def test_what_we_send_first_after_hearing_something_counts() -> None:
    hand = Hand(idle_timeout=10.0).quiet()
    hand.say(PING)
    hand.wait(6.0)
    hand.quic.ping()
    hand.flush()
    hand.wait(6.0)
    assert hand.quic.state == OPEN
    hand.quic.ping()  # nobody answers: no reason to wait longer
    hand.flush()
    hand.wait(5.0)
    assert hand.quic.state == CLOSED


def test_keep_alive() -> None:
    hand = Hand(idle_timeout=15.0, keep_alive=4.0).quiet()
    for _ in range(5):
        began = hand.now
        sent = hand.wait(4.1)
        assert [frame for packet in sent for frame in packet.frames if frame[0] == errors.PING] == [
            (errors.PING,)
        ]
        assert began + 4.1 == pytest.approx(hand.now)
        hand.ack()
    assert hand.log.pongs == 0  # these are not the session's
    hand.wait(15.1)
    assert hand.quic.state == CLOSED


@pytest.mark.parametrize("theirs, found", [(0.0, 4.0), (6.0, 2.0), (0.6, 0.5)])
def test_keep_alive_is_for_the_peers_timeout(theirs: float, found: float) -> None:
    hand = Hand(peer=generous(max_idle_timeout=theirs), idle_timeout=30.0, keep_alive=4.0)
    assert hand.quic.keep_alive == found


@pytest.mark.parametrize("pause, left", [(3.0, 10.0), (60.0, 5.0)])
def test_a_pause_of_ours_is_no_silence_of_the_peer(pause: float, left: float) -> None:
    hand = Hand(idle_timeout=10.0).quiet()
    hand.say(PING)
    hand.now += pause
    hand.quic.resume(hand.now, pause)
    hand.wait(left - 0.1)
    assert hand.quic.state == OPEN
    hand.wait(0.2)
    assert hand.quic.state == CLOSED


def test_pings_of_the_session() -> None:
    hand = Hand().quiet()
    hand.quic.ping()
    assert hand.wakes
    number = hand.flush()[0].number
    hand.now += 0.05
    hand.ack((number, number))
    assert hand.log.pongs == 1
    hand.quic.ping()
    number = hand.flush()[0].number
    for _ in range(3):
        hand.quic.send_datagram(b"x")
        hand.flush()
    hand.now += 0.05
    sent = hand.ack((number + 1, number + 3))
    assert hand.frames(errors.PING, sent) == [(errors.PING,)]  # it was lost
    hand.now += 0.05
    hand.ack()
    assert hand.log.pongs == 2


# -- stateless reset


def reset(token: bytes, size: int = 40) -> bytes:
    return b"\x41" + bytes(size - 17) + token


@pytest.mark.parametrize("size", [21, 40, 1200])
def test_a_stateless_reset(size: int) -> None:
    hand = Hand(is_client=True)
    hand.flush()
    hand.deliver(reset(PEER_TOKEN, size))
    assert hand.quic.state == DRAINING
    close = hand.log.close_event
    assert close is not None
    assert close.reset
    assert close.by_peer
    assert hand.flush() == []
    hand.wait(10.0)
    assert hand.quic.state == CLOSED


def test_what_looks_like_one() -> None:
    hand = Hand(is_client=True)
    hand.deliver(reset(PEER_TOKEN, 20))
    hand.deliver(reset(PEER_TOKEN[::-1]))
    hand.deliver(reset(PEER_TOKEN) + b"x")
    assert hand.quic.state == OPEN


def test_resets_belong_to_ids_in_use() -> None:
    hand = Hand(is_client=True)
    hand.say(new_cid(1))
    hand.deliver(reset(b"token%011d" % 1))
    assert hand.quic.state == OPEN
    hand.say(new_cid(2, 1))  # now the first is retired and the second used
    hand.deliver(reset(PEER_TOKEN))
    assert hand.quic.state == OPEN
    hand.deliver(reset(b"token%011d" % 1))
    assert hand.quic.state == DRAINING


def test_a_server_has_no_token_of_a_client() -> None:
    hand = Hand().quiet()
    hand.deliver(reset(bytes(16)))
    hand.deliver(reset(token_of(hand.cid)))
    assert hand.quic.state == OPEN


# -- datagrams


def test_datagrams_up_to_the_limit() -> None:
    hand = Hand().quiet()
    limit = hand.quic.datagram_limit
    assert limit == 1200 - 1 - 2 - 8 - 16 - 3
    hand.quic.send_datagram(b"x" * limit)
    hand.quic.send_datagram(b"x" * (limit + 1))
    hand.quic.send_datagram(b"")
    sent = hand.flush()
    assert [len(frame[1]) for frame in hand.frames(errors.DATAGRAM, sent)] == [limit, 0]
    assert max(packet.size for packet in sent) <= 1200


@pytest.mark.parametrize("theirs, limit", [(0, 0), (2, 0), (100, 97), (65535, 1170)])
def test_the_peers_limit(theirs: int, limit: int) -> None:
    hand = Hand(peer=generous(max_datagram_frame_size=theirs))
    assert hand.quic.datagram_limit == limit


def test_late_datagrams_are_dropped() -> None:
    hand = Hand().quiet()
    for number in range(MOST_DATAGRAMS + 10):
        hand.quic.send_datagram(b"%d" % number)
    found = hand.frames(errors.DATAGRAM, hand.flush())
    assert [frame[1] for frame in found] == [b"%d" % number for number in range(MOST_DATAGRAMS)]


def test_lost_datagrams_stay_lost() -> None:
    hand = Hand().quiet()
    hand.quic.send_datagram(b"gone")
    number = hand.flush()[0].number
    for _ in range(3):
        hand.quic.ping()
        hand.flush()
    hand.now += 0.1
    hand.ack((number + 1, number + 3))
    hand.wait(3.0)
    assert len(hand.frames(errors.DATAGRAM)) == 1
    assert hand.quic.recovery.congestion.in_flight == 0


def test_datagrams_are_paced_without_streams() -> None:
    """More than a burst of them leaves before the first answer."""
    hand = Hand().quiet()
    hand.quic.recovery.congestion.window = 200_000
    hand.quic.recovery._set_rate()
    for _ in range(60):
        hand.quic.send_datagram(b"x" * 1100)
    first = hand.frames(errors.DATAGRAM, hand.flush())
    assert 10 <= len(first) < 40
    rest = hand.frames(errors.DATAGRAM, hand.wait(0.09))
    assert len(first) + len(rest) == 60


def test_a_datagram_that_no_longer_fits_is_dropped() -> None:
    hand = Hand(max_datagram_size=1200).quiet()
    hand.quic.packet_size = 1452
    hand.quic.send_datagram(b"x" * 1400)
    hand.quic.packet_size = 1200
    hand.quic.send_datagram(b"y")
    assert hand.frames(errors.DATAGRAM, hand.flush()) == [(errors.DATAGRAM, b"y")]


def test_datagrams_come_in_order_with_streams() -> None:
    hand = Hand().quiet()
    order: list[str] = []
    hand.log.stream_data = lambda stream, data, fin: order.append(data.decode())  # type: ignore[method-assign]
    hand.log.datagram = lambda data: order.append(data.decode())  # type: ignore[method-assign]
    hand.deliver(hand.seal(stream_frame(0, 0, b"1"), b"\x31\x012", stream_frame(0, 1, b"3"), b"\x31\x014"))
    assert order == ["1", "2", "3", "4"]


# -- ACK_FREQUENCY


def test_fewer_acknowledgements_for_larger_windows() -> None:
    hand = Hand(peer=generous(min_ack_delay=0.001))
    hand.flush()
    hand.now += 0.1
    hand.ack()
    (first,) = hand.frames(errors.ACK_FREQUENCY)
    assert first[1:] == (0, 2, 25_000, 1)
    hand.quic.recovery.congestion.window = 1_000_000
    hand.quic.ping()
    sent = hand.flush()
    hand.now += 0.1
    sent = hand.ack() + hand.flush()
    asked = [frame for packet in sent for frame in packet.frames if frame[0] == errors.ACK_FREQUENCY]
    assert asked == [(errors.ACK_FREQUENCY, 1, 31, 25_000, 1)]


def test_a_lost_request_is_made_again() -> None:
    hand = Hand(peer=generous(min_ack_delay=0.001))
    hand.flush()
    hand.now += 0.1
    sent = hand.ack()
    (packet,) = [each for each in sent if any(frame[0] == errors.ACK_FREQUENCY for frame in each.frames)]
    for _ in range(3):
        hand.quic.ping()
        hand.flush()
    hand.now += 0.1
    hand.heard.remove(packet)
    sent = hand.ack() + hand.flush()
    asked = [frame for each in sent for frame in each.frames if frame[0] == errors.ACK_FREQUENCY]
    assert [frame[1] for frame in asked] == [1]


def test_no_request_to_who_does_not_take_it() -> None:
    hand = Hand().quiet()
    hand.quic.recovery.congestion.window = 1_000_000
    hand.quic.ping()
    hand.flush()
    hand.ack()
    hand.flush()
    assert hand.frames(errors.ACK_FREQUENCY) == []


# -- packets


def test_packet_numbers_grow_with_what_is_outstanding() -> None:
    """Two bytes are ambiguous from 32,768 on (RFC 9000, 17.1)."""
    hand = Hand(peer=generous(max_data=1 << 32, max_stream_data_uni=1 << 32)).quiet()
    hand.quic.recovery.congestion.window = 1 << 30
    hand.quic.recovery.pacer.rate = 0.0
    stream = hand.quic.open_stream(0, unidirectional=True)
    content = bytes(25_000_000)
    stream.write([content], fin=True)
    got = 0
    for _ in range(200):
        sent = hand.flush()
        got += sum(len(frame[3]) for packet in sent for frame in packet.frames if frame[0] == errors.STREAM)
        if not sent:
            break
    assert got == len(content)
    assert hand.heard[-1].number > 20_000
    hand.now += 0.1
    hand.ack()
    assert hand.quic.recovery.outstanding == 0


def test_full_packets_have_the_size_of_the_path() -> None:
    hand = Hand().quiet()
    hand.quic.open_stream(0, unidirectional=True).write([bytes(50_000)])
    sent = hand.flush()
    assert {packet.size for packet in sent[:-1]} == {1200}


def test_the_window_limits_what_is_in_flight() -> None:
    hand = Hand().quiet()
    congestion = hand.quic.recovery.congestion
    hand.quic.open_stream(0, unidirectional=True).write([bytes(1_000_000)])
    for number in range(40):
        hand.flush()
        assert congestion.in_flight <= congestion.window
        assert congestion.in_flight == sum(record.bytes for record in hand.quic.recovery.sent)
        hand.now += 0.02
        if number % 5 == 4:
            hand.ack()


def test_a_connection_that_was_released_is_silent() -> None:
    hand = Hand().quiet()
    hand.quic.open_stream(0, unidirectional=True).write([bytes(10_000)])
    hand.flush()
    hand.deliver(hand.seal(stream_frame(0, 0, b"x")))
    hand.quic.release()
    hand.deliver(hand.seal(PING))
    assert hand.flush() == []
    hand.quic.on_timer(hand.now + 100)
    assert not hand.quic.undelivered


def test_writes_wake_the_driver_once() -> None:
    hand = Hand().quiet()
    hand.wakes = 0
    stream: Stream = hand.quic.open_stream(0, unidirectional=True)
    stream.write([b"a"])
    stream.write([b"b"])
    hand.quic.send_datagram(b"c")
    assert hand.wakes == 1
    hand.flush()
    stream.reset(1)
    assert hand.wakes == 2


def test_it_wants_to_send_what_flush_sends() -> None:  # noqa: C901 - a choice of many
    """Whatever happens, no packet is left behind by a driver that asks first."""
    for seed in range(40):
        dice = random.Random(seed)
        hand = Hand(seed=seed).quiet()
        streams: list[Any] = []
        for _ in range(60):
            match dice.randrange(9):
                case 0:
                    streams.append(hand.quic.open_stream(dice.randrange(3), unidirectional=True))
                    streams[-1].write([bytes(dice.randrange(20_000))], fin=dice.random() < 0.5)
                case 1 if streams:
                    dice.choice(streams).write([bytes(dice.randrange(2000))])
                case 2 if streams:
                    dice.choice(streams).reset(1)
                case 3:
                    hand.quic.send_datagram(bytes(dice.randrange(1000)))
                case 4:
                    hand.deliver(hand.seal(stream_frame(4 * dice.randrange(9), 0, b"x", fin=True)))
                case 5:
                    hand.deliver(hand.seal(PING))
                case 6:
                    hand.deliver(hand.seal(b"\x1a12345678"))
                case 7:
                    hand.deliver(hand.seal(ack_frame(*hand.ranges())))
                case 8:
                    hand.now += dice.random() * 0.1
                    due = hand.quic.deadline()
                    if 0 <= due <= hand.now or 0 <= hand.quic.probe_at() <= hand.now:
                        hand.quic.on_timer(hand.now)
            wants = hand.quic.wants_to_send(hand.now)
            sent: list[Packet] = hand.flush()
            assert wants or not sent
            assert hand.close is None


# -- joined with the handshake


@pytest.mark.parametrize("pair", [("ours", "ours"), ("ours", "aioquic"), ("aioquic", "ours")])
@pytest.mark.parametrize("closer", ["client", "server"])
def test_a_close_reaches_the_other_end(pair: tuple[str, str], closer: str) -> None:
    lab = Lab(pair, 1, Network())
    lab.establish()
    lab.settle(0.5)
    end = lab.ends[closer]
    other = lab.server if closer == "client" else lab.client
    if hasattr(end.open, "handler"):
        end.open.close(300, "bye")
    else:
        end.open.close(error_code=300, reason_phrase="bye")
    lab.send(closer)
    lab.rest(0.5)
    close = other.log.close_event
    assert close is not None
    assert (close.code, close.reason) == (300, "bye")


def test_ids_of_the_peer_may_change_at_any_time() -> None:
    pairs: list[Pairing] = [("ours", "aioquic"), ("aioquic", "ours")]
    for pair in pairs:
        lab = Lab(pair, 1, Network(loss=0.02))
        lab.establish()
        lab.settle(0.5)
        theirs: Any = (lab.client if pair[0] == "aioquic" else lab.server).open
        payload = random.Random(1).randbytes(200_000)
        lab.client.give(payload)
        lab.send("client")
        changes = 0

        def done(lab: Lab = lab, theirs: Any = theirs) -> bool:
            nonlocal changes
            if len(lab.server.log.received.get(2, b"")) > (changes + 1) * 20_000:
                changes += 1
                theirs.change_connection_id()
            return 2 in lab.server.log.finished

        lab.run(done, within=60)
        assert changes >= 5
        assert lab.server.log.received[2] == payload
        lab.settle()
        lab.check_nothing_left()
