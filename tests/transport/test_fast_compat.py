"""The private names of aioquic that the quick way leans on, and what it puts in their place."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicNetworkPath
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.recovery import QuicPacketNumberWindow, QuicPacketPacer, QuicPacketSpace
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender

from relay.transport.quic.compat import PatientPair, RelayQuicConnection
from relay.transport.quic.fast import base
from relay.transport.quic.fast.connection import FastConnection
from relay.transport.quic.fast.keys import FastPair
from relay.transport.quic.fast.recovery import SEEN, Pacer, RunPacket, Seen, SentPacket
from relay.transport.quic.fast.streams import FastReceiver, FastSender, FastStream
from tests.transport.lab import Lab, Network
from tests.transport.virtual import Wire

FOLDER = Path(base.__file__).parent

STATE = {
    # what decides who sends: `FastBase._review`
    "_close_event": "a close goes aioquic's way",
    "_crypto_streams": "CRYPTO data goes aioquic's way",
    "_handshake_confirmed": "before it everything goes aioquic's way",
    "_handshake_done_pending": "a frame for aioquic",
    "_host_cids": "NEW_CONNECTION_ID is a frame for aioquic",
    "_network_paths": "an unvalidated path goes aioquic's way, with the anti-amplification limit",
    "_quic_logger": "a trace wants every frame",
    "_remote_preferred_address": "a probe for aioquic",
    "_retire_connection_ids": "a frame for aioquic",
    "_state": "a connection that closes goes aioquic's way",
    "_streams_blocked_pending": "a frame for aioquic",
    # streams
    "_local_max_stream_data_bidi_remote": "windows of new streams",
    "_local_max_stream_data_uni": "windows of new streams",
    "_local_max_streams_bidi": "credit given to the peer",
    "_local_max_streams_uni": "credit given to the peer",
    "_remote_max_stream_data_bidi_local": "windows of new streams",
    "_remote_max_stream_data_uni": "windows of new streams",
    "_remote_max_streams_uni": "streams that may be opened",
    "_local_next_stream_id_uni": "id of the next stream",
    "_streams": "all streams, ours in place of aioquic's",
    "_streams_blocked_bidi": "beyond the peer's credit",
    "_streams_blocked_uni": "beyond the peer's credit",
    "_streams_queue": "hidden from aioquic's writer",
    # sending
    "_ack_eliciting_sent_since_receipt": "restarts the idle time-out once",
    "_close_at": "the idle time-out",
    "_datagrams_pending": "DATAGRAM frames to send",
    "_local_ack_delay_exponent": "unit of the delay in our ACKs",
    "_loss": "loss recovery",
    "_loss_at": "when its timer is due",
    "_max_datagram_size": "of packets",
    "_pacing_at": "when pacing lets the next packet go",
    "_packet_number": "of the next packet, shared with aioquic's writer",
    "_peer_cid": "goes into each header",
    "_ping_pending": "pings asked for",
    "_probe_pending": "a probe asked for by the PTO",
    "_remote_max_data": "the peer's connection window",
    "_remote_max_data_used": "how much of it is used",
    # the start of a server's connection, and what is forgotten after its handshake: `start.ServerStart`
    "_crypto_buffers": "what the TLS context writes into",
    "_cryptos_initial": "Initial keys, by version",
    "_host_cid_seq": "of the next connection id",
    "_local_active_connection_id_limit": "how many ids the peer may give us",
    "_local_initial_source_connection_id": "a transport parameter",
    "_logger": "a quiet one in its place",
    "_original_destination_connection_id": "a transport parameter",
    "_remote_active_connection_id_limit": "how many ids we may give the peer",
    "_retry_source_connection_id": "a transport parameter",
    "_version": "of QUIC",
    # receiving
    "_configuration": "limit of DATAGRAM frames",
    "_cryptos": "where our pair of keys goes",
    "_events": "for the session",
    "_is_client": "which streams are ours",
    "_remote_ack_delay_exponent": "unit of the delay in the peer's ACKs",
    "_spaces": "of packet numbers",
}

METHODS = {
    # used
    "_alpn_handler": ["alpn_protocol"],
    "_send_probe": [],
    "_update_traffic_key": ["direction", "epoch", "cipher_suite", "secret"],
    "_assert_stream_can_receive": ["frame_type", "stream_id"],
    "_idle_timeout": [],
    "_payload_received": ["context", "plain", "crypto_frame_required"],
    "_stream_is_discarded": ["stream_id"],
    "_stream_limit": ["stream_id"],
    # replaced or extended
    "_get_or_create_stream": ["frame_type", "stream_id"],
    "_get_or_create_stream_for_send": ["stream_id"],
    "_initialize": ["peer_cid"],
    "_on_ack_delivery": ["delivery", "space", "highest_acked"],
    "_on_connection_limit_delivery": ["delivery", "limit"],
    "_on_handshake_done_delivery": ["delivery"],
    "_on_max_stream_data_delivery": ["delivery", "stream"],
    "_on_new_connection_id_delivery": ["delivery", "connection_id"],
    "_on_path_challenge_delivery": ["delivery", "network_path"],
    "_on_ping_delivery": ["delivery", "uids"],
    "_on_retire_connection_id_delivery": ["delivery", "sequence_number"],
    "_handle_padding_frame": ["context", "frame_type", "buf"],
    "_parse_transport_parameters": ["data", "from_session_ticket"],
    "_replenish_connection_ids": [],
    "_serialize_transport_parameters": [],
    "_set_state": ["state"],
}


def plain() -> Any:
    return QuicConnection(configuration=QuicConfiguration(is_client=True))


@pytest.mark.parametrize("name", STATE)
def test_connection_has(name: str) -> None:
    assert hasattr(plain(), name)


@pytest.mark.parametrize("name", METHODS)
def test_connection_can(name: str) -> None:
    assert list(inspect.signature(getattr(plain(), name)).parameters) == METHODS[name]


def test_our_names_hide_nothing() -> None:
    ours = {
        name
        for cls in FastConnection.__mro__
        if cls.__module__.startswith("relay.transport.quic.fast")
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


@pytest.mark.parametrize(
    "name",
    [
        *("_cc", "_detect_loss", "_pacer", "_pto_count", "_rtt_first_sample_time", "_rtt_initial"),
        *("_rtt_initialized", "_rtt_latest", "_rtt_min", "_rtt_smoothed", "_rtt_variance"),
        *("_time_of_last_sent_ack_eliciting_packet", "max_ack_delay"),
    ],
)
def test_recovery_has(name: str) -> None:
    assert hasattr(plain()._loss, name)


@pytest.mark.parametrize("algorithm", ["cubic", "reno"])
def test_congestion_control_has(algorithm: str) -> None:
    cc = QuicConnection(
        configuration=QuicConfiguration(is_client=True, congestion_control_algorithm=algorithm)
    )._loss._cc
    names = "_congestion_recovery_start_time", "bytes_in_flight", "congestion_window", "ssthresh"
    assert all(hasattr(cc, name) for name in names)
    if algorithm == "cubic":
        assert hasattr(cc, "last_ack")


@pytest.mark.parametrize(
    "name",
    [
        *("ack_at", "ack_eliciting_in_flight", "ack_queue", "expected_packet_number", "largest_acked_packet"),
        *(
            "largest_received_packet",
            "largest_received_time",
            "loss_time",
            "received_packets",
            "sent_packets",
        ),
    ],
)
def test_space_has(name: str) -> None:
    assert hasattr(QuicPacketSpace(), name)


def test_path_has() -> None:
    path = QuicNetworkPath(("192.0.2.1", 1))
    assert all(
        hasattr(path, name) for name in ("addr", "is_validated", "local_challenge_sent", "remote_challenges")
    )


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
    assert "trigger" in inspect.signature(PatientPair._update_key).parameters


def fields(cls: Any) -> set[str]:
    return {name for name in vars(cls()) if not name.startswith("_")}


def test_packets_stand_in_for_aioquics() -> None:
    expected = set(QuicSentPacket.__dataclass_fields__)
    sender = FastSender(None)
    for packet in (SentPacket(1, 2.0), RunPacket(1, 2.0, 1200, sender, 0, 10, False)):
        assert all(hasattr(packet, name) for name in expected)
    assert RunPacket(1, 2.0, 1200, sender, 0, 10, False).delivery_handlers == [
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
    """Sixteen packets a millisecond were 150 Mbit/s."""
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
        ours, theirs = Seen(), QuicPacketNumberWindow()
        number = 0
        for _ in range(1000):
            number = max(0, number + dice.choice([1, 1, 1, 1, 2, -1, -5, 40, -100, 300, -200]))
            assert (number in ours) == (number in theirs), (seed, number, ours.largest)
            if number not in ours:
                ours.add(number)
                theirs.add(number)
    assert QuicPacketNumberWindow()._size == SEEN


def test_lost_frames_are_told_of() -> None:
    assert {state.name for state in QuicDeliveryState} == {"ACKED", "LOST"}
    assert issubclass(FastConnection, RelayQuicConnection)
