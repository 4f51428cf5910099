"""The send order of one session's streams, for WebSocket and memory."""

from __future__ import annotations

import bisect
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from mypy_extensions import mypyc_attr


class SendState(Enum):
    """The send state of a stream."""

    IDLE = "idle"  # nothing to send
    READY = "ready"
    BLOCKED = "blocked"  # waits for flow control
    UNOPENED = "unopened"  # waits for stream credit


@mypyc_attr(allow_interpreted_subclasses=True)
class Sender:
    """A stream in the queue."""

    __slots__ = ("order", "send_state", "unidirectional")

    def __init__(self, order: tuple[int, int], *, unidirectional: bool) -> None:
        self.order = order  # sort key, the most urgent last: (priority, minus the opening number)
        self.send_state = SendState.IDLE
        self.unidirectional = unidirectional


class StreamOwner(Protocol):
    """A session as its streams see it. Streams without a number wait for stream credit."""

    ended: bool  # `SessionClosed` was queued

    def ready(self, stream: Any) -> None: ...
    def reorder(self, stream: Any, order: tuple[int, int]) -> None: ...
    def abort(self, stream: Any, code: int) -> None: ...
    def ask_to_stop(self, stream: Any, code: int) -> None: ...


S = TypeVar("S", bound=Sender)


class SendQueue(Generic[S]):
    """Streams with something to send."""

    __slots__ = ("_blocked", "_unopened", "ready")

    def __init__(self) -> None:
        self.ready: list[S] = []  # the most urgent last
        self._blocked: dict[S, None] = {}
        self._unopened: dict[bool, dict[S, None]] = {True: {}, False: {}}

    def __bool__(self) -> bool:
        return bool(self.ready or self._blocked or self._unopened[True] or self._unopened[False])

    @property
    def top(self) -> S | None:
        return self.ready[-1] if self.ready else None

    def add(self, stream: S) -> bool:
        """True if it was idle."""
        if stream.send_state is not SendState.IDLE:
            return False
        ready = self.ready
        if not ready or ready[-1].order <= stream.order:
            ready.append(stream)
        else:
            bisect.insort(ready, stream, key=urgency)
        stream.send_state = SendState.READY
        return True

    def done(self) -> None:
        """The most urgent stream has nothing more to send."""
        self.ready.pop().send_state = SendState.IDLE

    def block(self) -> None:
        """Flow control blocks the most urgent stream."""
        stream = self.ready.pop()
        self._blocked[stream] = None
        stream.send_state = SendState.BLOCKED

    def hold(self) -> None:
        """The most urgent stream waits for stream credit."""
        stream = self.ready.pop()
        self._unopened[stream.unidirectional][stream] = None
        stream.send_state = SendState.UNOPENED

    def unblock(self) -> None:
        """The flow control limit has grown."""
        streams, self._blocked = self._blocked, {}
        self._return(streams)

    def admit(self, *, unidirectional: bool) -> None:
        """There is more stream credit for one kind."""
        streams, self._unopened[unidirectional] = self._unopened[unidirectional], {}
        self._return(streams)

    def remove(self, stream: S) -> None:
        match stream.send_state:
            case SendState.READY:
                del self.ready[bisect.bisect_left(self.ready, stream.order, key=urgency)]
            case SendState.BLOCKED:
                del self._blocked[stream]
            case SendState.UNOPENED:
                del self._unopened[stream.unidirectional][stream]
        stream.send_state = SendState.IDLE

    def reorder(self, stream: S, order: tuple[int, int]) -> None:
        """Change the urgency of a stream in any state."""
        if stream.send_state is SendState.READY:
            self.remove(stream)
            stream.order = order
            self.add(stream)
        else:
            stream.order = order

    def clear(self) -> list[S]:
        """Returns the streams that were in it."""
        streams = [*self.ready, *self._blocked, *self._unopened[True], *self._unopened[False]]
        for stream in streams:
            stream.send_state = SendState.IDLE
        self.ready.clear()
        self._blocked.clear()
        self._unopened = {True: {}, False: {}}
        return streams

    def _return(self, streams: dict[S, None]) -> None:
        for stream in streams:
            stream.send_state = SendState.IDLE
            self.add(stream)


def urgency(stream: Sender) -> tuple[int, int]:
    """Sort key: the most urgent comes last."""
    return stream.order
