"""State that all streams of a session share: transport, limits, request numbers, and waiting events."""

from __future__ import annotations

from collections import Counter
from enum import Enum

from mypy_extensions import mypyc_attr

from relay.model.limits import Limits
from relay.model.pace import TokenBucket
from relay.moq.session import Event, Fault, LimitExceeded, PeerInfo
from relay.transport.session import Session, Stream
from relay.wire.errors import StreamCode, TooManyMessages, WireError


class State(Enum):
    """Steps of a session's life."""

    NEGOTIATING = "negotiating"  # SETUP of 01 and 02 decides the version

    INTRODUCING = "introducing"  # awaits the peer's path, or the owner's admission

    OPEN = "open"
    """We may make requests; on 06 those of the peer are held until its SETUP."""

    ESTABLISHED = "established"
    CLOSED = "closed"


@mypyc_attr(allow_interpreted_subclasses=True)  # another dialect has some
class Handler:
    """Takes the events of a stream. Methods may raise WireError for a fault of the peer."""

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        """The next bytes, in order."""

    def on_reset(self, stream: Stream, code: int) -> None:
        """The peer aborted its half."""

    def on_stopped(self, stream: Stream, code: int) -> None:
        """The peer wants no more of our half."""

    def on_fault(self, error: WireError) -> None:
        """The peer broke a rule on this stream, which has been refused."""


class AnswerOwner:
    """The owner of a request of ours."""

    def finished(self, request: int) -> None:
        """Forget the request."""


class RequestOwner:
    """The owner of a request of the peer."""

    def cancelled(self, request: int, code: int | None) -> None:
        """`code` if the peer reset or stopped the stream."""


@mypyc_attr(allow_interpreted_subclasses=True)  # another dialect has some
class PeerRequest(Handler):
    """A stream of the peer, which ends when the peer leaves it."""

    def __init__(self, core: Core, owner: RequestOwner, request: int, stream: Stream) -> None:
        self.request = request
        self.stream = stream
        self._core = core
        self._owner = owner

    def refuse(self, code: int) -> None:
        """Refuse the stream. `code` is of the current stream registry."""
        self._core.refuse(self.stream, code)

    def on_reset(self, stream: Stream, code: int) -> None:
        stream.reset(self._core.code(StreamCode.CANCELLED))
        self._owner.cancelled(self.request, code)

    def on_stopped(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._owner.cancelled(self.request, code)

    def on_fault(self, error: WireError) -> None:
        self._owner.cancelled(self.request, error.stream_code)


IGNORE = Handler()  # for streams whose further events do not matter


def code_name(code: int) -> str:
    """A stream code in words, for logs and metrics."""
    try:
        return StreamCode(code).name.lower()
    except ValueError:
        return "application"


class Core:
    """The common part of one session."""

    def __init__(self, session: Session, limits: Limits, hop: int) -> None:
        self.session = session
        self.limits = limits
        self.hop = hop  # in hop lists
        self.state = State.NEGOTIATING if session.version is None else State.INTRODUCING
        self.peer: PeerInfo | None = None  # from SETUP (05 and newer)
        self.now = 0.0  # seconds, as of the last call
        self.counts: Counter[tuple[str, str]] = Counter()  # by name and label, for metrics
        self.control = TokenBucket(limits.control_rate, limits.control_burst)  # messages of the peer
        self.events: list[Event] = []  # not taken yet
        self._requests = 0

    def poll(self) -> list[Event]:
        """Take the events since the last call."""
        events, self.events = self.events, []
        return events

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def new_request(self) -> int:
        self._requests += 1
        return self._requests

    def spend(self) -> None:
        """Count a control message, or a stream opened for one. Raises TooManyMessages."""
        control = self.control
        if not control.spend(self.now):
            at_once = f"after {control.burst:g} at once"
            raise TooManyMessages(f"more than {control.rate:g} control messages a second, {at_once}")

    def code(self, code: int) -> int:
        """Translate a code of the current stream registry."""
        raise NotImplementedError

    def refuse(self, stream: Stream, code: int) -> None:
        """Stop and reset, with a code of the current stream registry."""
        wire = self.code(code)
        self.counts["streams_reset", code_name(code)] += 1
        stream.context = IGNORE
        if stream.opened_by_peer or not stream.unidirectional:
            stream.stop(wire)
        if not stream.opened_by_peer or not stream.unidirectional:
            stream.reset(wire)

    def refuse_for(self, stream: Stream, error: WireError) -> None:
        self.note(error)
        self.refuse(stream, error.stream_code)

    def note(self, error: WireError, *, fatal: bool = False) -> None:
        if error.limit:
            self.emit(LimitExceeded(error.limit, {"reason": error}))
        self.emit(Fault(error, fatal))
