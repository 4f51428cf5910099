"""What a connection begins with, once its handshake is complete.

Must never import aioquic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from relay.quic.errors import CRYPTO, TRANSPORT_PARAMETER_ERROR, QuicError
from relay.quic.varint import read_varint

MIN_ACK_DELAY: Final = 0xFF04DE1B  # of draft-ietf-quic-ack-frequency: the peer takes ACK_FREQUENCY
OUR_MIN_ACK_DELAY: Final = 1_000
"""Microseconds. Announced because picoquic takes ACK_FREQUENCY only from peers that take it."""
TOKEN: Final = 16  # bytes of a stateless reset token
LARGEST_PAYLOAD: Final = 65527  # bytes of a UDP payload


@dataclass(slots=True, eq=False)
class PeerParameters:
    """RFC 9000, 18.2, with the defaults of absent ones."""

    max_data: int = 0
    max_stream_data_bidi_local: int = 0  # of streams that the peer opens
    max_stream_data_bidi_remote: int = 0  # of streams that we open
    max_stream_data_uni: int = 0
    max_streams_bidi: int = 0
    max_streams_uni: int = 0
    max_idle_timeout: float = 0.0  # seconds; 0 for none
    ack_delay_exponent: int = 3
    max_ack_delay: float = 0.025  # seconds
    max_datagram_frame_size: int = 0  # bytes; 0 if the peer takes none (RFC 9221)
    active_connection_id_limit: int = 2
    disable_active_migration: bool = False
    min_ack_delay: float = -1.0  # seconds; -1 if the peer takes no ACK_FREQUENCY
    max_udp_payload_size: int = LARGEST_PAYLOAD  # bytes
    token: bytes = b""  # for stateless reset, of its first connection id; empty for clients


@dataclass(slots=True, eq=False)
class Start:
    """What a connection begins with."""

    is_client: bool
    version: int  # of QUIC
    suite: int  # of TLS
    send_secret: bytes
    receive_secret: bytes
    host_cid: bytes  # ours of sequence number 0
    host_token: bytes  # for stateless reset; empty for clients, which announce none
    peer_cid: bytes  # the peer's of sequence number 0
    peer_token: bytes  # for stateless reset; empty if there is none
    peer: PeerParameters
    address: tuple[Any, ...]  # of the peer
    rtt: float  # smoothed seconds; 0 before the first sample
    rtt_variance: float
    rtt_min: float
    rtt_latest: float
    packet_number: int  # the next to send


def read_parameters(data: bytes) -> PeerParameters:
    """Parse what aioquic has checked as far as it knows.

    Raises QuicError for anything that is no list of distinct parameters, or a wrong min_ack_delay.
    """
    values: dict[int, bytes] = {}
    numbers: dict[int, int] = {}
    at = 0
    try:
        while at < len(data):
            name, at = read_varint(data, at)
            length, at = read_varint(data, at)
            value = data[at : at + length]
            at += length
            if name in values or at > len(data):
                raise _wrong("transport parameters are malformed, or one comes twice")
            values[name] = value
            if name in _NUMBERS:
                numbers[name] = _number(name, value)
    except IndexError:
        raise _wrong("transport parameters end early") from None
    peer = PeerParameters(
        max_idle_timeout=numbers.get(0x01, 0) / 1000,
        max_udp_payload_size=min(numbers.get(0x03, LARGEST_PAYLOAD), LARGEST_PAYLOAD),
        max_data=numbers.get(0x04, 0),
        max_stream_data_bidi_local=numbers.get(0x05, 0),
        max_stream_data_bidi_remote=numbers.get(0x06, 0),
        max_stream_data_uni=numbers.get(0x07, 0),
        max_streams_bidi=numbers.get(0x08, 0),
        max_streams_uni=numbers.get(0x09, 0),
        ack_delay_exponent=numbers.get(0x0A, 3),
        max_ack_delay=numbers.get(0x0B, 25) / 1000,
        disable_active_migration=0x0C in values,
        active_connection_id_limit=numbers.get(0x0E, 2),
        max_datagram_frame_size=numbers.get(0x20, 0),
        token=values.get(0x02, b""),
    )
    if peer.token and len(peer.token) != TOKEN:
        raise _wrong("stateless_reset_token must have 16 bytes")
    if MIN_ACK_DELAY in numbers:
        peer.min_ack_delay = numbers[MIN_ACK_DELAY] / 1_000_000
        if peer.min_ack_delay > peer.max_ack_delay:
            raise _wrong("min_ack_delay is above max_ack_delay")
    return peer


def _number(name: int, value: bytes) -> int:
    try:
        number, end = read_varint(value, 0)
    except IndexError:
        number, end = 0, -1
    if end != len(value):
        what = "min_ack_delay" if name == MIN_ACK_DELAY else f"transport parameter {name:#x}"
        raise _wrong(f"{what} is not a number")
    return number


_NUMBERS: Final = frozenset((1, *range(3, 0x0C), 0x0E, 0x20, MIN_ACK_DELAY))
"""Parameters that are one integer."""


def _wrong(reason: str) -> QuicError:
    return QuicError(TRANSPORT_PARAMETER_ERROR, CRYPTO, reason)
