"""What a session is: the one interface between a transport and whoever speaks moq over it.

Owns the vocabulary (streams, resets, datagrams, close) and nothing else. Each kind of transport (raw QUIC,
WebTransport, in-memory) implements `Session`; connection actors and the client library drive it and cannot tell the
kinds apart. Codes are plain moq codes here: each transport maps them to its wire.

Everything happens on one event loop. A session delivers what its peer did in batches, one tuple per loop turn, to
the sink given to `start`; calls made on a session or stream take effect when the loop turn ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from relay.wire.version import Version

CONTROL_PRIORITY = 1 << 62
"""Send priority of control streams: above every group."""


class Stream(Protocol):
    """One stream of a session, opened by either side.

    Calls on a half that has ended (finished, reset, refused by the peer, or the session is closed) do nothing: the
    event that tells of the end may still be under way to the caller.
    """

    id: int
    """Number for logs; unique per session, -1 while a stream waits for the peer's stream credit."""

    unidirectional: bool
    opened_by_peer: bool

    context: Any
    """Free for the session's owner: whatever handles the events of this stream."""

    def write(self, chunks: Sequence[bytes], *, fin: bool = False) -> None:
        """Queue `chunks`, in order; with `fin`, end the stream after them. Bytes are shared, never copied by us."""

    def reset(self, code: int) -> None:
        """Abort the send half: what is queued is dropped."""

    def prioritize(self, priority: int) -> None:
        """Give what of the stream is still to be sent another priority, as `open_uni` takes one."""

    def stop(self, code: int) -> None:
        """Ask the peer to stop sending. No more data events follow; a reset event may."""

    @property
    def unsent(self) -> int:
        """Bytes queued and not yet sent for the first time (0 once all went out, acknowledged or not)."""

    @property
    def undelivered(self) -> bool:
        """Whether the peer may lack something that was written, the end included.

        True until all of it is acknowledged, or sent where the transport hears of no acknowledgements. What was reset
        is not missed.
        """


class StreamData(NamedTuple):
    """The next bytes of a stream, in order. The first one of an unknown stream is also its opening."""

    stream: Stream
    data: bytes
    fin: bool


class StreamReset(NamedTuple):
    """The peer aborted its send half. No more data follows."""

    stream: Stream
    code: int


class StreamStopped(NamedTuple):
    """The peer wants no more of what we send on this stream. The transport has reset our half already."""

    stream: Stream
    code: int


class DatagramReceived(NamedTuple):
    """One datagram, without the transport's own prefix."""

    data: bytes


class Pong(NamedTuple):
    """The peer showed a sign of life after `Session.ping`."""


class SessionClosed(NamedTuple):
    """The last event of a session. `code` is the moq session code, `None` if the transport failed or timed out."""

    code: int | None
    reason: str
    by_peer: bool


Event: TypeAlias = StreamData | StreamReset | StreamStopped | DatagramReceived | Pong | SessionClosed
Sink: TypeAlias = Callable[[tuple[Event, ...]], object]


@dataclass(frozen=True, slots=True)
class SessionStats:
    """A snapshot for people and probes. `rtt` in seconds, `estimate` in bits per second; `None` if unknown."""

    rtt: float | None = None
    estimate: int | None = None
    bytes_received: int = 0
    bytes_sent: int = 0
    streams: int = 0


class Session(Protocol):
    """An accepted (or dialled) transport session."""

    transport: str
    """`quic`, `webtransport`, `websocket` or `memory`."""

    remote: str
    """The peer's address, `host:port`, for logs."""

    is_client: bool
    version: Version | None
    """Fixed by ALPN or subprotocol; `None` where the moq SETUP messages decide (moq-lite-01 and 02)."""

    alpn: str
    """The raw ALPN or subprotocol that was negotiated, `""` if none."""

    path: str | None
    """URL path the peer asked for, percent-encoded as sent; `None` where the transport has none (raw QUIC)."""

    query: str

    @property
    def datagram_limit(self) -> int:
        """Largest datagram that can be sent now, 0 if none can."""

    @property
    def undelivered(self) -> bool:
        """Whether that holds for any stream. What is undelivered when the session is closed may be lost."""

    def start(self, sink: Sink) -> None:
        """Begin delivering events, those of the past first. Called once."""

    def open_bidi(self, priority: int = CONTROL_PRIORITY) -> Stream:
        """Open a bidirectional stream. It exists for the peer with the first byte written."""

    def open_uni(self, priority: int = CONTROL_PRIORITY) -> Stream:
        """Open a unidirectional stream. Higher `priority` is sent first. Without credit it waits, queued."""

    def send_datagram(self, data: bytes) -> None:
        """Send, or drop, one datagram."""

    def ping(self) -> None:
        """Ask for a sign of life; a `Pong` event follows if the peer gives one."""

    def probe_timeout(self) -> float:
        """Seconds after which a healthy peer would have answered a ping (3 PTO on QUIC)."""

    def trust(self) -> None:
        """The peer is a relay of ours: it stands for many peers, and what one peer's packets may cost is no limit for it."""

    def close(self, code: int = 0, reason: str = "") -> None:
        """End the session. A `SessionClosed` event with `by_peer=False` follows."""

    def stats(self) -> SessionStats:
        """Measure now."""


class SessionRequest(Protocol):
    """A peer that wants a session and has not been answered yet. Answer exactly once."""

    transport: str
    remote: str
    path: str | None
    query: str
    offered: tuple[str, ...]
    """Protocols the peer offers: its subprotocols, or the ALPN already chosen on raw QUIC."""

    def accept(self) -> Session:
        """Accept; the version is the first offered one that the listener supports."""

    def reject(self, status: int, reason: str) -> None:
        """Refuse with an HTTP status where the transport has one, else close with the matching session code."""
