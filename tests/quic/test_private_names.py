"""The private names of aioquic that the relay uses, all of them.

A failure shows what to check when another release is taken.
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import re
from pathlib import Path
from typing import Any

from aioquic import tls
from aioquic.h3.connection import H3Connection
from aioquic.quic.connection import END_STATES, QuicConnection, QuicConnectionState, QuicNetworkPath
from aioquic.quic.logger import QuicLoggerTrace
from aioquic.quic.recovery import QuicPacketRecovery
from aioquic.quic.stream import QuicStream

from relay.quic import handover, handshake, qlog
from relay.transport import http3
from tests.quic.handshaking import client, plain_client, server

MOST = 40  # more of them, and the next version of aioquic is a project of its own

STATE = {
    "_close_at": "when a silent peer is given up: later by a pause of ours",
    "_close_event": "the close that either side began: aioquic reports a peer's only after 3 PTO of draining",
    "_close_pending": "our close is not yet written",
    "_crypto_streams": "CRYPTO data buffered out of order is limited",
    "_handshake_complete": "the peer's Finished has come",
    "_host_cids": "the first connection id gets our stateless reset token",
    "_local_max_streams_bidi": "how many streams the peer may open, sent in the transport parameters",
    "_local_max_streams_uni": "the same for unidirectional ones",
    "_loss": "the round trip measured in the handshake",
    "_network_paths": "bytes of an unverified address; a Retry verifies it",
    "_quic_logger": "the trace goes on after the handshake",
    "_remote_initial_source_connection_id": "the peer's first connection id",
    "_state": "whether it is over, closed by the peer, or has decrypted nothing",
    "_version": "the negotiated version of QUIC",
}

METHODS = {
    "_find_network_path": (["addr"], "extended: a Retry verifies the address"),
    "_handle_crypto_frame": (["context", "frame_type", "buf"], "extended: limits"),
    "_initialize": (["peer_cid"], "extended: makes the TLS context"),
    "_parse_transport_parameters": (["data", "from_session_ticket"], "extended: reads what aioquic drops"),
    "_serialize_transport_parameters": ([], "extended: min_ack_delay, which aioquic does not know"),
    "_update_traffic_key": (
        ["direction", "epoch", "cipher_suite", "secret"],
        "extended: the secrets of 1-RTT packets are ours",
    ),
}

RECOVERY = {
    "_rtt_initialized": "there is a sample",
    "_rtt_latest": "the last one, in seconds",
    "_rtt_min": "the least one",
    "_rtt_smoothed": "their mean",
    "_rtt_variance": "their variance",
}
RECEIVER = {"_ranges": "fragments of CRYPTO data buffered out of order"}
TLS = {
    "_peer_certificate": "for pinning: aioquic verifies chains only",
    "_server_handle_hello": "called before the certificate is used, and with the offered protocols",
}

TRACE = {"_events": "the newest event, taken out so that a long trace stays short"}

HTTP3 = {
    "_decoder": "of QPACK: cancels a stream that waits for it",
    "_get_local_settings": "extended: the settings of WebTransport",
    "_local_decoder_stream_id": "where the cancellation goes",
    "_quic": "the adapter of our connection",
    "_stream": "records of request streams, dropped early; how much of a frame they hold",
}
ADAPTER = {
    "_quic_logger": "read by HTTP/3, of our adapter",
    "_remote_max_datagram_frame_size": "read by HTTP/3, of our adapter: the peer takes datagrams",
}

PUBLIC_OF_PRIVATE = {
    "path": {"is_validated", "bytes_sent", "bytes_received"},
    "receiver": {"starting_offset"},
    "TLS context": {
        *("alpn_negotiated", "certificate", "certificate_chain", "certificate_private_key"),
    },
}
"""Names without an underscore, of things that aioquic does not show."""


def private_names(module: Any, only: str = "") -> set[str]:
    """Attributes and methods of a file, or of one class in it, with an underscore."""
    tree: ast.AST = ast.parse(Path(module.__file__).read_text())
    if only:
        [tree] = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == only]
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


OURS = {"_credentials", "_early_size", "_handle_hello", "_read_hello", "_retried"}
"""Private names of ours in `handshake` and `handover`."""

ATTRIBUTES = {"early", "is_client", "offered", "peer", "receive_secret", "send_secret", "suite"}


def test_they_exist() -> None:
    """Lists all missing names at once."""
    assert importlib.metadata.version("aioquic") in handshake.TESTED_VERSIONS
    quic: Any = plain_client()
    receiver: Any = QuicStream().receiver
    context: Any = tls.Context(is_client=False)
    used: list[tuple[str, object, set[str]]] = [
        ("connection", quic, {*STATE, *METHODS}),
        ("receiver", receiver, {*RECEIVER, *PUBLIC_OF_PRIVATE["receiver"]}),
        ("recovery", quic._loss, set(RECOVERY)),
        ("network path", QuicNetworkPath(("192.0.2.1", 1)), PUBLIC_OF_PRIVATE["path"]),
        ("TLS context", context, {*TLS, *PUBLIC_OF_PRIVATE["TLS context"]}),
        ("trace", QuicLoggerTrace(is_client=True, odcid=b""), set(TRACE)),
        ("HTTP/3", H3Connection(quic), set(HTTP3)),
    ]
    missing = [
        f"{what} {name}" for what, thing, names in used for name in sorted(names) if not hasattr(thing, name)
    ]
    assert missing == []
    assert isinstance(quic._loss, QuicPacketRecovery)
    assert {state.name for state in QuicConnectionState} == {
        *("FIRSTFLIGHT", "CONNECTED"),
        *(state.name for state in END_STATES),
    }
    parameters = {name: list(inspect.signature(getattr(quic, name)).parameters) for name in METHODS}
    assert parameters == {name: signature for name, (signature, _) in METHODS.items()}
    hello = inspect.signature(tls.Context._server_handle_hello).parameters
    assert list(hello) == ["self", "input_buf", "initial_buf", "handshake_buf"]


def test_no_others_are_used() -> None:
    listed = {*STATE, *METHODS, *RECOVERY, *RECEIVER, *TLS}
    assert private_names(handshake) | private_names(handover) == listed | OURS
    assert private_names(http3, "Http3") == set(HTTP3)
    assert private_names(http3, "QuicAdapter") - {"_connection"} == set(ADAPTER)
    theirs = set(vars(QuicLoggerTrace(is_client=True, odcid=b""))) | set(vars(QuicLoggerTrace))
    assert private_names(qlog, "Trace") & theirs == set(TRACE)
    assert len(listed | set(HTTP3) | set(ADAPTER) | set(TRACE)) <= MOST


def test_http3_reads_nothing_else_of_its_connection() -> None:
    source = inspect.getsource(inspect.getmodule(H3Connection) or H3Connection)
    read = set(re.findall(r"\bquic\.(\w+)", source)) | set(re.findall(r"\bself\._quic\.(\w+)", source))
    adapter = {*vars(http3.QuicAdapter), *ADAPTER, "configuration"}
    read.remove("send_datagram_frame")  # sessions send their own datagrams
    assert {name for name in read if hasattr(plain_client(), name)} <= adapter


def test_our_names_hide_nothing() -> None:
    replaced = {"close", "datagrams_to_send", "receive_datagram", *METHODS}
    ours = {name for name in vars(handshake.Handshake) if not name.startswith("__")}
    assert ours & set(dir(QuicConnection)) == replaced
    theirs = set(vars(plain_client()))
    for end in (client(), server(b"original")):
        assert set(vars(end)) - theirs == (OURS & set(vars(end))) | ATTRIBUTES
        assert not (ATTRIBUTES | OURS) & theirs
