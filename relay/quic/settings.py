"""What an operator may set about QUIC: the `[server.quic]` table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class QuicSettings:
    """Transport parameters of our endpoints. Sizes are bytes, times are seconds."""

    idle_timeout: float = 10.0
    """A connection that is silent for so long is dead. The smaller of both ends' values holds."""

    keep_alive: float = 4.0
    """A connection that heard nothing for so long is pinged; 0 never pings."""

    max_streams_bidi: int = 1024
    """Streams that a peer may have open at once: announces, subscriptions, fetches."""

    max_streams_uni: int = 1024
    """Streams that a peer may have open at once: one per group."""

    stream_window: int = 1_250_000
    """Unread, on one stream."""

    connection_window: int = 16 * 1024 * 1024
    """Unread, on all streams of a peer together."""

    max_datagram_size: int = 1200
    """UDP payload that every path carries. Packets are larger where `mtu_discovery` finds that the path carries
    more.
    """

    mtu_discovery: bool = True
    """Busy connections try packets of up to 1452 bytes. On Linux and macOS."""

    congestion: Literal["cubic", "reno", "bbr"] = "cubic"
    """`bbr` does not take every loss for congestion: [when to choose it](delivery.md#on-a-lossy-path)."""

    socket_buffer: int = 4 * 1024 * 1024
    """The kernel's buffers for receiving and sending; it may grant less."""

    native: bool = True
    """The compiled kernel encrypts and decrypts packets, if it was built; otherwise Python does."""
