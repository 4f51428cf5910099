"""What a connection begins with, once its handshake is complete.

Plain records, which `handover` fills. Must never import aioquic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class PeerParameters:
    """The peer's transport parameters (RFC 9000, 18.2), with the defaults of absent ones."""

    max_data: int = 0
    max_stream_data_bidi_local: int = 0  # of streams that the peer opens
    max_stream_data_bidi_remote: int = 0  # of streams that we open
    max_stream_data_uni: int = 0
    max_streams_bidi: int = 0
    max_streams_uni: int = 0
    max_idle_timeout: float = 0.0  # seconds; 0 for none
    ack_delay_exponent: int = 3
    max_ack_delay: float = 0.025  # seconds
    max_datagram_frame_size: int = 0  # bytes of a DATAGRAM frame; 0 if the peer takes none (RFC 9221)
    active_connection_id_limit: int = 2
    disable_active_migration: bool = False
    min_ack_delay: float = -1.0  # seconds; -1 if the peer takes no ACK_FREQUENCY
    max_udp_payload_size: int = 65527  # bytes


@dataclass(slots=True, eq=False)
class Start:
    """A connection at the end of its handshake."""

    is_client: bool
    version: int  # of QUIC
    suite: int  # of TLS
    send_secret: bytes
    receive_secret: bytes
    host_cid: bytes  # ours of sequence number 0
    host_token: bytes  # its stateless reset token; empty for clients, which announce none
    peer_cid: bytes  # the peer's of sequence number 0
    peer_token: bytes  # its stateless reset token; empty if there is none
    peer: PeerParameters
    address: tuple[Any, ...]  # of the peer
    rtt: float  # smoothed round trip in seconds; 0 before the first sample
    rtt_variance: float
    rtt_min: float
    rtt_latest: float
    packet_number: int  # the next to send
