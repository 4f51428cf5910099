"""The private names of aioquic used by the fast path, and their replacements."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.recovery import QuicPacketNumberWindow, QuicPacketPacer
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender
from relay.quic.compat import KeyUpdatePair, RelayQuicConnection
from relay.quic.fast import base
from relay.quic.fast.connection import FastConnection
from relay.quic.fast.keys import FastPair
from relay.quic.fast.recovery import SEEN, Pacer, ReceivedPackets, SentPacket, TrainPacket
from relay.quic.fast.streams import FastReceiver, FastSender, FastStream

from tests.transport.lab import Lab, Network
from tests.transport.test_private_names import METHODS, STATE, plain
from tests.transport.virtual import Wire

FOLDER = Path(base.__file__).parent


def test_our_names_hide_nothing() -> None:
    ours = {
        name
        for cls in FastConnection.__mro__
        if cls.__module__.startswith("relay.quic.fast")
        for name in vars(cls)
    }
    public = {"close", "datagrams_to_send", "get_timer", "handle_timer", "next_event", "receive_datagram"}
    dunder = {name for name in ours if name.startswith("__")}
    assert ours & set(dir(QuicConnection)) - dunder == {name for name in METHODS if name in ours} | public
    quic = Wire().client_quic
    state = {name for name in vars(quic) if name in vars(plain())}
    used = set()
    for path in FOLDER.glob("*.py"):
        used |= set(re.findall(r"self\.(_[a-z]\w*)", path.read_text()))
    assert used & state <= set(STATE)


def test_keys_have() -> None:
    lab = Lab(("fast", "fast"), 1, Network())
    lab.open()
    for end in lab.ends.values():
        pair = end.quic._cryptos[max(end.quic._cryptos, key=lambda epoch: epoch.value)]
        assert isinstance(pair, FastPair)
        for context in (pair.send, pair.recv):
            assert context.aead is not None
            assert context.hp is not None
            assert hasattr(context.aead, "_aead")
            assert isinstance(context.aead._iv, int)
            assert hasattr(context.hp, "_encryptor")
            assert hasattr(context.hp, "_is_chacha20")
            assert hasattr(context.hp, "_mask")
    assert hasattr(CryptoPair(), "_update_key_requested")
    assert "trigger" in inspect.signature(KeyUpdatePair._update_key).parameters


def fields(cls: Any) -> set[str]:
    return {name for name in vars(cls()) if not name.startswith("_")}


def test_packets_stand_in_for_aioquics() -> None:
    expected = set(QuicSentPacket.__dataclass_fields__)
    sender = FastSender(None)
    for packet in (SentPacket(1, 2.0), TrainPacket(1, 2.0, 1200, sender, 0, 10, False)):
        assert all(hasattr(packet, name) for name in expected)
    assert TrainPacket(1, 2.0, 1200, sender, 0, 10, False).delivery_handlers == [
        (sender.on_data_delivery, (0, 10, False))
    ]
    full = SentPacket(1, 2.0)
    full.sender, full.start, full.stop, full.fin = sender, 0, 5, True
    full.more = [(sender, 5, 6, False)]
    full.handlers = [(print, ())]
    assert [arguments for _, arguments in full.delivery_handlers] == [(0, 5, True), (5, 6, False), ()]


def test_streams_stand_in_for_aioquics() -> None:
    stream = FastStream(Wire().client_quic, 0, max_stream_data_local=1, max_stream_data_remote=1)  # type: ignore[arg-type]
    for ours, theirs in (
        (stream, QuicStream()),
        (stream.sender, QuicStreamSender(0, writable=True)),
        (stream.receiver, QuicStreamReceiver(0, readable=True)),
    ):
        names = {name for name in dir(theirs) if not name.startswith("_")}
        assert {name for name in names if not hasattr(ours, name)} == set()
    receiver = FastReceiver(stream)
    for name in ("_buffer", "_buffer_start", "_final_size", "_ranges", "_stop_error_code", "_stream_id"):
        assert hasattr(QuicStreamReceiver(0, readable=True), name)
        assert hasattr(receiver, name)
    for name in ("_buffer_stop", "_reset_error_code"):
        assert hasattr(QuicStreamSender(0, writable=True), name)


def test_the_pacer_stands_in_for_aioquics() -> None:
    assert {name for name in dir(QuicPacketPacer) if not name.startswith("__")} <= set(dir(Pacer))
    pacer = Pacer(max_datagram_size=1200)
    assert pacer.next_send_time(1.0) is None
    pacer.update_rate(congestion_window=12_000, smoothed_rtt=0.1)
    pacer.tokens = 0
    pacer.filled = 1.0
    at = pacer.next_send_time(1.0)
    assert at is not None
    assert 1.0 < at < 1.1
    assert pacer.next_send_time(at) is None


def test_no_connection_is_paced_below_a_gigabit_for_want_of_timers() -> None:
    """Sixteen packets per millisecond were 150 Mbit/s."""
    pacer = Pacer(max_datagram_size=1200)
    pacer.update_rate(congestion_window=2_000_000, smoothed_rtt=0.01)
    sent, now = 0.0, 1.0
    pacer.fill(now)
    for _ in range(1000):
        now += 0.001
        while pacer.fill(now) > 0:
            pacer.tokens -= 1200
            sent += 1200
    assert sent * 8 > 1e9


def test_seen_agrees_with_aioquics() -> None:
    import random

    for seed in range(50):
        dice = random.Random(seed)
        ours, theirs = ReceivedPackets(), QuicPacketNumberWindow()
        number = 0
        for _ in range(1000):
            number = max(0, number + dice.choice([1, 1, 1, 1, 2, -1, -5, 40, -100, 300, -200]))
            assert (number in ours) == (number in theirs), (seed, number, ours.largest)
            if number not in ours:
                ours.add(number)
                theirs.add(number)
    assert QuicPacketNumberWindow()._size == SEEN


def test_lost_frames_are_reported() -> None:
    assert {state.name for state in QuicDeliveryState} == {"ACKED", "LOST"}
    assert issubclass(FastConnection, RelayQuicConnection)
