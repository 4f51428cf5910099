"""The interface between a transport and the protocol.

Each transport implements `Session`; protocol machines cannot tell the kinds apart. Codes are plain moq codes,
which each transport maps to its wire. Everything runs on one event loop: events reach the sink given to `start`
as one tuple per loop turn; calls on a session or stream take effect at the end of the turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from relay.wire.version import AnyVersion

CONTROL_PRIORITY = 1 << 62  # above every group


class Stream(Protocol):
    """A stream of either side. Calls on an ended half do nothing: the event of the end may be on its way."""

    id: int  # for logs, unique per session; -1 while a stream waits for stream credit
    unidirectional: bool
    opened_by_peer: bool

    context: Any  # free for the session's owner

    def write(self, chunks: Sequence[bytes], *, fin: bool = False) -> None:
        """Queue `chunks` in order; with `fin`, end the stream after them. Bytes are shared, never copied."""

    def reset(self, code: int) -> None:
        """Drops queued data."""

    def prioritize(self, priority: int) -> None:
        """Change the priority of unsent data, see `open_uni`."""

    def stop(self, code: int) -> None:
        """No more data events follow; a reset event may."""

    @property
    def unsent(self) -> int:
        """Queued bytes never sent."""

    @property
    def undelivered(self) -> bool:
        """Something written, the end included, may not have arrived.

        It is unacknowledged, or unsent where there are no acknowledgements. Reset data does not count.
        """


class StreamData(NamedTuple):
    """The next bytes of a stream, in order. The first event of an unknown stream also opens it."""

    stream: Stream
    data: bytes
    fin: bool


class StreamReset(NamedTuple):
    """The peer aborted its send half. No more data follows."""

    stream: Stream
    code: int


class StreamStopped(NamedTuple):
    """The peer stopped our half of the stream: the transport has already reset it."""

    stream: Stream
    code: int


class DatagramReceived(NamedTuple):
    """A datagram without the transport's prefix."""

    data: bytes


class Pong(NamedTuple):
    """The answer to `Session.ping`."""


class SessionClosed(NamedTuple):
    """The last event. `code` is the moq session code, `None` if the transport failed or timed out."""

    code: int | None
    reason: str
    by_peer: bool


Event: TypeAlias = StreamData | StreamReset | StreamStopped | DatagramReceived | Pong | SessionClosed
Sink: TypeAlias = Callable[[tuple[Event, ...]], object]


@dataclass(frozen=True, slots=True)
class SessionStats:
    """`rtt` in seconds, `estimate` in bit/s, `window` and `in_flight` in bytes; `None` if unknown."""

    rtt: float | None = None
    estimate: int | None = None
    bytes_received: int = 0
    bytes_sent: int = 0
    streams: int = 0
    window: int | None = None  # of congestion control
    in_flight: int | None = None  # sent and not acknowledged
    lost: int | None = None  # packets sent, since the start


class Session(Protocol):
    """A session, accepted or dialled."""

    transport: str  # `quic`, `webtransport`, `websocket` or `memory`
    remote: str  # `host:port`, for logs
    is_client: bool
    alpn: str  # or subprotocol, `""` if none
    path: str | None  # percent-encoded as sent; `None` where the transport has none (raw QUIC)
    query: str

    @property
    def version(self) -> AnyVersion | None:
        """Known by ALPN or subprotocol; `None` if SETUP decides (moq-lite-01 and 02, moq-transport-14)."""

    @property
    def datagram_limit(self) -> int:
        """Largest datagram that can be sent now, 0 if none."""

    @property
    def undelivered(self) -> bool:
        """`Stream.undelivered` of any stream: may be lost when the session is closed."""

    def start(self, sink: Sink) -> None:
        """Deliver events, past ones first. Called once."""

    def open_bidi(self, priority: int = CONTROL_PRIORITY) -> Stream:
        """The peer sees it with the first byte written."""

    def open_uni(self, priority: int = CONTROL_PRIORITY) -> Stream:
        """Higher `priority` is sent first. Without credit the stream waits."""

    def send_datagram(self, data: bytes) -> None:
        """Send or drop a datagram."""

    def ping(self) -> None:
        """A `Pong` follows if the peer answers."""

    def probe_timeout(self) -> float:
        """Seconds in which a healthy peer answers a ping (3 PTO on QUIC)."""

    def trust(self) -> None:
        """The peer is a relay of the cluster: limits on the cost of one peer's packets do not apply."""

    def close(self, code: int = 0, reason: str = "") -> None:
        """A `SessionClosed` event with `by_peer=False` follows."""

    def stats(self) -> SessionStats:
        """The present values."""


class SessionRequest(Protocol):
    """Accept or reject it exactly once."""

    transport: str
    remote: str
    path: str | None
    query: str
    offered: tuple[str, ...]  # subprotocols, or the negotiated ALPN on raw QUIC

    @property
    def token_may_follow(self) -> bool:
        """The version has a place for a token in SETUP, though the URL has one, too."""

    def accept(self) -> Session:
        """The version is the first offered one that the listener supports."""

    def reject(self, status: int, reason: str) -> None:
        """Reject with an HTTP status if the transport has one, else with the matching session code."""
