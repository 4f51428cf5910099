"""The two neighbours of a connection: the session above it, and its driver."""

from __future__ import annotations

from typing import Final

from mypy_extensions import mypyc_attr

from relay.quic.recovery import Recovery, Sent
from relay.quic.streams import Stream

APPLICATION: Final = -1  # `Close.frame_type` of an application close


class Close:
    """How a connection ended."""

    __slots__ = ("by_peer", "code", "frame_type", "idle", "reason", "reset")

    def __init__(
        self,
        code: int,
        reason: str,
        *,
        frame_type: int = APPLICATION,
        by_peer: bool = False,
        idle: bool = False,
        reset: bool = False,
    ) -> None:
        self.code = code
        self.reason = reason
        self.frame_type = frame_type  # that caused a transport error, 0 if none did; `APPLICATION`
        self.by_peer = by_peer
        self.idle = idle  # the peer was silent too long: nothing was sent
        self.reset = reset  # stateless

    @property
    def application(self) -> bool:
        return self.frame_type == APPLICATION


@mypyc_attr(allow_interpreted_subclasses=True)  # tests have some
class Handler:
    """A session. The connection calls it in the order of the wire; its calls on streams take effect at `flush`.

    Received codes are those of the wire.
    """

    def established(self) -> None:
        """The handshake is complete; the first packet may follow."""

    def deliver(self) -> None:
        """The packets of a turn are read, or a flush follows."""

    def close(self, code: int = 0, reason: str = "") -> None:
        """The endpoint closes."""

    def stream_data(self, stream: Stream, data: bytes, fin: bool) -> None:  # noqa: FBT001 - the hot path
        """The next bytes of a stream, in order; the first call for a peer's stream opens it."""

    def stream_reset(self, stream: Stream, code: int) -> None:
        """The peer aborted its half."""

    def stream_stopped(self, stream: Stream, code: int) -> None:
        """The peer stopped our half, which is reset already."""

    def wire_code(self, code: int) -> int:
        """The code on the wire of a session's code, for resets and stops of streams."""
        return code

    def datagram(self, data: bytes) -> None: ...

    def pong(self) -> None:
        """The peer answered a ping of the session."""

    def closed(self, close: Close) -> None:
        """Either side closes the connection. Called once; nothing follows."""


@mypyc_attr(allow_interpreted_subclasses=True)  # tests have some
class Waker:
    """The driver, as its connection sees it."""

    def wake(self) -> None:
        """There is something to send: call `flush` at the end of this turn."""


@mypyc_attr(allow_interpreted_subclasses=True)  # the log of `qlog.py`
class Trace:
    """A log of packets. `plain` is a packet's payload, all its frames. Must never change anything."""

    def sent(self, now: float, number: int, size: int, plain: bytes) -> None: ...

    def sent_train(self, now: float, record: Sent, stream_id: int) -> None:
        """The packets of a train hold one STREAM frame each."""

    def received(self, now: float, number: int, size: int, plain: bytes) -> None: ...

    def lost(self, now: float, first: int, last: int) -> None: ...

    def dropped(self, now: float, size: int, reason: str) -> None: ...

    def key_updated(self, now: float, *, by_peer: bool) -> None: ...

    def metrics(self, now: float, recovery: Recovery) -> None:
        """They may have changed."""

    def closed(self, now: float, close: Close) -> None: ...

    def end(self) -> None:
        """The connection is gone."""
