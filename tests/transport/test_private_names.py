"""The private names of aioquic that the relay uses.

A failure shows what to check when the pinned version changes.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from typing import Any

from aioquic import tls
from aioquic.h3.connection import H3Connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionState, QuicNetworkPath
from aioquic.quic.recovery import QuicPacketRecovery, QuicPacketSpace
from aioquic.quic.stream import QuicStream

from relay.quic import compat

STATE = {
    # the choice of the path: `FastBase._review`
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
    # start of a server's connection, and the state freed after its handshake: `start.ServerStart`
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

CONNECTION = {
    "_close_at",
    "_close_event",
    "_close_pending",
    "_datagrams_pending",
    "_find_network_path",
    "_handshake_confirmed",
    "_initialize",
    "_local_max_data",
    "_local_max_streams_bidi",
    "_local_max_streams_uni",
    "_local_next_stream_id_bidi",
    "_local_next_stream_id_uni",
    "_loss",
    "_max_datagram_size",
    "_on_max_stream_data_delivery",
    "_network_paths",
    "_pacing_at",
    "_peer_cid",
    "_quic_logger",
    "_remote_max_data",
    "_remote_max_data_used",
    "_remote_max_datagram_frame_size",
    "_remote_max_streams_bidi",
    "_remote_max_streams_uni",
    "_retry_source_connection_id",
    "_state",
    "_streams",
    "_write_stream_limits",
}
"""Of `QuicConnection`, used by `compat`."""

SENDER = {
    *("_buffer_fin", "_buffer_start", "_buffer_stop", "_reset_error_code", "buffer_is_empty"),
    *("highest_offset", "is_finished"),
}
RECEIVER = {"_buffer", "_ranges", "highest_offset", "starting_offset", "is_finished"}
RECOVERY = {
    *("_cc", "_detect_loss", "_pacer", "_pto_count", "_rtt_first_sample_time", "_rtt_initial"),
    *("_rtt_initialized", "_rtt_latest", "_rtt_min", "_rtt_smoothed", "_rtt_variance"),
    *("_time_of_last_sent_ack_eliciting_packet", "bytes_in_flight", "congestion_window"),
    *("get_probe_timeout", "max_ack_delay"),
}
SPACE = {
    *("ack_at", "ack_eliciting_in_flight", "ack_queue", "expected_packet_number", "largest_acked_packet"),
    *("largest_received_packet", "largest_received_time", "loss_time", "received_packets", "sent_packets"),
}
PATH = {"addr", "is_validated", "local_challenge_sent", "remote_challenges"}
TLS = {
    *("_peer_certificate", "_server_handle_hello", "alpn_negotiated"),
    *("certificate", "certificate_chain", "certificate_private_key"),
}
STATES = {"FIRSTFLIGHT", "CONNECTED", "CLOSING", "DRAINING", "TERMINATED"}


def plain(algorithm: str = "reno") -> Any:
    return QuicConnection(
        configuration=QuicConfiguration(is_client=True, congestion_control_algorithm=algorithm)
    )


def test_the_private_names_of_aioquic_exist() -> None:
    """One test for the pin: it lists all missing names at once."""
    assert importlib.metadata.version("aioquic") == compat.TESTED_VERSION
    quic, stream = plain(), QuicStream()
    cubic = plain("cubic")
    congestion = {"_congestion_recovery_start_time", "bytes_in_flight", "congestion_window", "ssthresh"}
    used: list[tuple[str, object, set[str]]] = [
        ("connection", quic, CONNECTION | set(STATE)),
        ("sender", stream.sender, SENDER),
        ("receiver", stream.receiver, RECEIVER),
        ("stream", stream, {"max_stream_data_local", "max_stream_data_local_sent"}),
        ("recovery", quic._loss, RECOVERY),
        ("reno", quic._loss._cc, congestion),
        ("cubic", cubic._loss._cc, congestion | {"last_ack"}),
        ("packet space", QuicPacketSpace(), SPACE),
        ("network path", QuicNetworkPath(("192.0.2.1", 1)), PATH),
        ("TLS context", tls.Context(is_client=False), TLS),
        ("HTTP/3 connection", H3Connection, {"_get_local_settings"}),
        ("connection states", QuicConnectionState, STATES),
    ]
    missing = [
        f"{what} {name}" for what, thing, names in used for name in sorted(names) if not hasattr(thing, name)
    ]
    assert missing == []
    assert {state.name for state in QuicConnectionState} == STATES
    assert isinstance(quic._loss, QuicPacketRecovery)
    assert {name: list(inspect.signature(getattr(quic, name)).parameters) for name in METHODS} == METHODS
    hello = inspect.signature(tls.Context(is_client=False)._server_handle_hello).parameters
    assert next(iter(hello)) == "input_buf"
