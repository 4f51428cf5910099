"""Requests of moq-transport on the wire, of either side.

From draft 18 on each has a bidirectional stream. Before, all share the control stream and are told apart by
their request ids, and a message takes the place of each end of a stream; a handler cannot tell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from mypy_extensions import mypyc_attr

from relay.moq.core import IGNORE, Handler
from relay.moq.ietf_core import IetfCore, SessionFault
from relay.transport.session import Stream
from relay.wire.errors import ProtocolViolation, StreamCode, WireError
from relay.wire.ietf.codes import Refusal, RequestKind, SessionCode
from relay.wire.ietf.control import MessageDecoder
from relay.wire.ietf.messages import (
    Fetch,
    FetchCancel,
    FetchOk,
    JoiningFetch,
    MaxRequestId,
    Message,
    Namespace,
    NamespaceDone,
    Publish,
    PublishBlocked,
    PublishDone,
    PublishNamespace,
    PublishNamespaceCancel,
    PublishNamespaceDone,
    PublishStateNotify,
    Request,
    RequestError,
    RequestOk,
    RequestsBlocked,
    RequestUpdate,
    Setup,
    Subscribe,
    SubscribeNamespace,
    SubscribeOk,
    SubscribeTracks,
    TrackStatus,
    Unsubscribe,
    UnsubscribeNamespace,
)
from relay.wire.ietf.parameters import NO_PARAMETERS, Parameters
from relay.wire.ietf.profile import refusal_code
from relay.wire.ietf.values import Properties, TrackNamespace

KINDS: Final = {
    Subscribe: RequestKind.SUBSCRIBE,
    Publish: RequestKind.PUBLISH,
    Fetch: RequestKind.FETCH,
    JoiningFetch: RequestKind.FETCH,
    TrackStatus: RequestKind.TRACK_STATUS,
    PublishNamespace: RequestKind.PUBLISH_NAMESPACE,
    SubscribeNamespace: RequestKind.SUBSCRIBE_NAMESPACE,
    SubscribeTracks: RequestKind.SUBSCRIBE_TRACKS,
}

RETRY_NEVER: Final = None

Name: TypeAlias = tuple[RequestKind, bool, TrackNamespace | None]
"""The key of a request about a namespace; the flag: it is ours."""

MOST_IDS: Final = 1 << 30
"""What the requests cost is limited elsewhere, so that no peer waits for ids."""

MOST_WAITING: Final = 4_096  # requests of ours that wait for the peer's MAX_REQUEST_ID


MOST_UNREAD: Final = 1 << 24
"""Bytes of our messages on the stream of a peer's message: it reads no answers."""


class UnreadAnswers(SessionFault):
    """The peer asks, and does not read what we answer."""

    ietf_code = SessionCode.TOO_MANY_REQUESTS
    limit = "backlog_session"


class InvalidRequestId(SessionFault):
    """A request id of the wrong side, or used before."""

    ietf_code = SessionCode.INVALID_REQUEST_ID


class TooManyRequests(SessionFault):
    """An id that was not granted."""

    ietf_code = SessionCode.TOO_MANY_REQUESTS


@mypyc_attr(allow_interpreted_subclasses=True)  # tests have some
class RequestHandler:
    """Takes the peer's messages and its end."""

    def on_message(self, message: Message) -> None:
        """Raises ProtocolViolation for a message that has no place here."""
        raise ProtocolViolation(f"{type(message).__name__} has no place here")

    def on_finished(self) -> None:
        """The peer sends no more messages."""

    def on_left(self, code: int) -> None:
        """`code` is of the current stream registry."""


class _NoHandler(RequestHandler):
    """The handler of an exchange that is over."""

    def on_message(self, message: Message) -> None:
        pass


NO_HANDLER: Final = _NoHandler()

MOST_EARLY: Final = 16  # messages of a request that waits


class Pending(RequestHandler):
    """Keeps the messages that follow a request which waits, for its handler."""

    def __init__(self) -> None:
        self._early: list[Message] = []

    def on_message(self, message: Message) -> None:
        if len(self._early) >= MOST_EARLY:
            super().on_message(message)
        self._early.append(message)

    def pass_on(self, exchange: Exchange) -> None:
        """To the handler that `exchange` has now."""
        for message in self._early:
            exchange.handler.on_message(message)


class Exchange(Handler):
    """One request. Nothing can be sent after `finish`, `cancel` or a message with `fin`."""

    def __init__(
        self, core: IetfCore, owner: Exchanges, number: int, kind: RequestKind, stream: Stream
    ) -> None:
        self.id = number
        self.kind = kind
        self.stream = stream
        """For the account of unsent bytes."""
        self.handler: RequestHandler = NO_HANDLER
        self.over = False  # our half
        self._core = core
        self._owner = owner

    @property
    def shares_stream(self) -> bool:
        return False

    def send(self, message: Message, *, fin: bool = False) -> int:
        """Returns the bytes written."""
        raise NotImplementedError

    def leave(self) -> None:
        """End it in order: no messages follow ours; the peer may finish."""
        raise NotImplementedError

    def finish(self) -> None:
        """We send no more."""
        raise NotImplementedError

    def cancel(self, code: int = StreamCode.CANCELLED) -> None:
        """Leave it, and take no more messages. `code` is of the current stream registry."""
        raise NotImplementedError

    def ok(self, params: Parameters = NO_PARAMETERS, properties: Properties = ()) -> int:
        return self.send(RequestOk(params, properties, request_id=self.id, to=self.kind))

    def error(self, code: int, reason: str = "") -> None:
        """`code` is of the current stream registry."""
        self.refuse_with(self._core.refusal(code), reason)

    def refuse(self, refusal: Refusal, reason: str = "") -> None:
        """As `error`, for reasons that moq-lite lacks."""
        self.refuse_with(refusal_code(refusal, self._core.profile), reason)

    def unauthorized(self, *, expired: bool) -> None:
        """Refuse it for its token, which perhaps has `expired`: PUBLISH_ERROR (14) has no code for that."""
        if self.kind is RequestKind.PUBLISH and self._core.profile.fixed_fields:
            expired = False
        self.refuse(Refusal.EXPIRED_TOKEN if expired else Refusal.UNAUTHORIZED)

    def refuse_with(self, number: int, reason: str = "") -> None:
        """`number`: the code on the wire."""
        self.send(RequestError(number, reason, RETRY_NEVER, request_id=self.id, to=self.kind), fin=True)
        self.handler = NO_HANDLER

    def update(self, params: Parameters) -> int:
        """A later answer comes as a message. Returns the id of the update."""
        number = self._owner.next_id()
        self.send(RequestUpdate(number, params, existing_id=self.id))
        return number

    def updated(self, update: RequestUpdate) -> None:
        """Answer an update by the peer, where the draft has an answer."""
        if not self._core.profile.fixed_fields:
            self.send(RequestOk(request_id=update.request_id, to=RequestKind.UPDATE))


class StreamExchange(Exchange):
    """A request with a stream of its own."""

    def __init__(
        self,
        core: IetfCore,
        owner: Exchanges,
        stream: Stream,
        number: int = 0,
        kind: RequestKind = RequestKind.SUBSCRIBE,
        opened: Callable[[Exchange, Request], RequestHandler] | None = None,
    ) -> None:
        """`opened`: takes the first message of a stream of the peer."""
        super().__init__(core, owner, number, kind, stream)
        self._opened = opened
        self._decoder = MessageDecoder(core.profile, core.limits.message)
        self._read = False  # the peer's half has ended
        stream.context = self
        owner.on_streams.add(self)

    def send(self, message: Message, *, fin: bool = False) -> int:
        if self.over:
            return 0
        data = self._core.encoded(message)
        self.stream.write((data,))
        if fin:
            self.finish()
        return len(data)

    def leave(self) -> None:
        self.handler = NO_HANDLER
        self.finish()

    def finish(self) -> None:
        if not self.over:
            self.over = True
            self._owner.release(self.id)
            self.stream.write((), fin=True)
            if self._read:
                self._end()

    def cancel(self, code: int = StreamCode.CANCELLED) -> None:
        self._end()
        self._core.refuse(self.stream, code)

    def _end(self) -> None:
        """Leaves no reference cycle."""
        self.over = True
        self.handler = NO_HANDLER
        self.stream.context = IGNORE
        self._owner.on_streams.discard(self)
        self._owner.release(self.id)

    # --- events of the stream

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        core = self._core
        for message in self._decoder.feed(data):
            if stream.context is not self:
                return  # left for an earlier message
            core.spend()
            self._owner.check_read(stream)
            if self._opened is not None:
                opened, self._opened = self._opened, None
                if not isinstance(message, Request):
                    raise ProtocolViolation(f"a request stream begins with {type(message).__name__}")
                self._owner.claim(message.request_id)
                self.id, self.kind = message.request_id, KINDS[type(message)]
                self.handler = opened(self, message)
            else:
                self.handler.on_message(message)
        if fin and stream.context is self:
            self._decoder.end()
            self._read = True
            self.handler.on_finished()
            if self._opened is not None:
                self.finish()  # without a request
            elif self.over:
                self._end()

    def on_reset(self, stream: Stream, code: int) -> None:
        handler = self.handler
        self._end()
        stream.reset(self._core.code(StreamCode.CANCELLED))
        handler.on_left(self._core.received(code))

    def on_stopped(self, stream: Stream, code: int) -> None:
        handler = self.handler
        self._end()
        stream.stop(self._core.code(StreamCode.CANCELLED))
        handler.on_left(self._core.received(code))

    def on_fault(self, error: WireError) -> None:
        handler = self.handler
        self._end()
        handler.on_left(error.stream_code)


class ControlExchange(Exchange):
    """A request on the control stream. `leaving` makes the message that ends it from our side."""

    def __init__(
        self,
        core: IetfCore,
        owner: Exchanges,
        number: int,
        kind: RequestKind,
        stream: Stream,
        leaving: Callable[[], Message | None],
    ) -> None:
        super().__init__(core, owner, number, kind, stream)
        self._leaving = leaving
        self.name: Name | None = None  # in the owner's table of names

    @property
    def shares_stream(self) -> bool:
        return True

    def send(self, message: Message, *, fin: bool = False) -> int:
        if self.over:
            return 0
        size = self._owner.write(message)
        if fin:
            self.finish()
        return size

    def leave(self) -> None:
        self.cancel()

    def finish(self) -> None:
        self.over = True
        self._owner.forget(self)

    def update(self, params: Parameters) -> int:
        number = super().update(params)
        if not self.over:
            self._owner.await_update(number, self)
        return number

    def cancel(self, code: int = StreamCode.CANCELLED) -> None:  # noqa: ARG002 - messages of the end have no code
        if not self.over:
            message = self._leaving()
            if message is not None:
                self.send(message)
        self.handler = NO_HANDLER
        self.finish()


class Exchanges:
    """All requests of a session: their ids, and the control stream of the older drafts."""

    def __init__(self, core: IetfCore, opened: Callable[[Exchange, Request], RequestHandler]) -> None:
        """`opened` takes a request of the peer, and returns our side."""
        self._core = core
        self._opened = opened
        self._next = 0 if core.session.is_client else 1
        self._granted = 0 if not core.profile.request_streams else 1 << 62  # ids of ours, by MAX_REQUEST_ID
        self._waiting: deque[tuple[int, Message]] = deque()
        self._live: set[int] = set()  # ids of the peer's requests
        self._expected = (
            1 if core.session.is_client else 0
        )  # least next id of the peer, on the control stream
        self.on_streams: set[StreamExchange] = set()
        self._by_id: dict[int, ControlExchange] = {}  # of both sides, which have ids of their own
        self._updates: dict[int, ControlExchange] = {}  # unanswered ones of ours
        self._names: dict[Name, list[int]] = {}
        """The oldest first: 14 ends requests about namespaces by name."""
        self.control: Stream | None = None  # of our control messages
        self._most_unread = min(MOST_UNREAD, core.limits.backlog_session)

    def unlink(self) -> None:
        """Break reference cycles."""
        for exchange in (*self.on_streams, *self._by_id.values()):
            exchange.handler = NO_HANDLER
            exchange.stream.context = IGNORE
        self.on_streams.clear()
        self._by_id.clear()
        self._updates.clear()

    # --- ids

    def next_id(self) -> int:
        number = self._next
        self._next += 2
        return number

    def claim(self, number: int) -> None:
        """The peer uses a request id. Raises InvalidRequestId, TooManyRequests."""
        if number >= MOST_IDS and not self._core.profile.request_streams:
            raise TooManyRequests(f"request id {number} was not granted")
        if number % 2 == (0 if self._core.session.is_client else 1) or number in self._live:
            raise InvalidRequestId(f"request id {number} is in use, or not the peer's")
        self._live.add(number)

    def release(self, number: int) -> None:
        self._live.discard(number)

    def grant(self, maximum: int) -> None:
        """MAX_REQUEST_ID: ours are below."""
        self._granted = max(self._granted, maximum)
        while self._waiting and self._waiting[0][0] < self._granted:
            self.write(self._waiting.popleft()[1])

    def check_read(self, stream: Stream) -> None:
        """Raises UnreadAnswers."""
        if stream.unsent > self._most_unread:
            raise UnreadAnswers(f"{stream.unsent} bytes of answers are not read")

    # --- streams of requests

    def accept(self, stream: Stream) -> Handler:
        """The handler of a bidirectional stream of the peer."""
        return StreamExchange(self._core, self, stream, opened=self._opened)

    def ask(self, make: Callable[[int], Request], handler: RequestHandler) -> Exchange:
        """`make` takes an id. ValueError for what does not fit."""
        core = self._core
        number = self._next
        message = make(number)
        data = core.encoded(message)
        self._next += 2
        kind = KINDS[type(message)]
        exchange: Exchange
        namespaces = kind is RequestKind.SUBSCRIBE_NAMESPACE and core.profile.namespace_streams
        if core.profile.request_streams or namespaces:
            exchange = StreamExchange(core, self, core.session.open_bidi(), number, kind)
            exchange.stream.write((data,))
        else:
            exchange = self._on_control(number, kind, message, ours=True)
            if number < self._granted:
                self.write(message)
            elif len(self._waiting) < MOST_WAITING:
                self._waiting.append((number, message))
        exchange.handler = handler
        return exchange

    def _on_control(self, number: int, kind: RequestKind, message: Request, *, ours: bool) -> ControlExchange:
        assert self.control is not None
        leaving = _leaving(message, ours=ours)
        exchange = self._by_id[number] = ControlExchange(
            self._core, self, number, kind, self.control, leaving
        )
        if isinstance(message, PublishNamespace):
            exchange.name = kind, ours, message.namespace
        elif isinstance(message, SubscribeNamespace):
            exchange.name = kind, ours, message.prefix
        if exchange.name is not None:
            self._names.setdefault(exchange.name, []).append(number)
        return exchange

    def write(self, message: Message) -> int:
        """Write to the control stream. Returns the bytes."""
        if self.control is None:
            return 0
        data = self._core.encoded(message)
        self.control.write((data,))
        return len(data)

    def await_update(self, number: int, exchange: ControlExchange) -> None:
        """The answer to an update has the id of the update."""
        if not self._core.profile.fixed_fields and len(self._updates) < MOST_WAITING:
            self._updates[number] = exchange

    def forget(self, exchange: ControlExchange) -> None:
        if self._by_id.pop(exchange.id, None) is not None:
            self.release(exchange.id)
            if self._updates:
                self._updates = {n: other for n, other in self._updates.items() if other is not exchange}
            if exchange.name is not None:
                same = self._names[exchange.name]
                same.remove(exchange.id)
                if not same:
                    del self._names[exchange.name]

    # --- the control stream of the older drafts

    def on_control(self, message: Message) -> None:  # noqa: C901 - one line per message
        """A message of the peer that belongs to a request. Raises WireError."""
        core = self._core
        core.spend()
        if self.control is not None:
            self.check_read(self.control)
        if isinstance(message, Request):
            if message.request_id < self._expected:
                raise InvalidRequestId(f"request id {message.request_id} is not new")
            self.claim(message.request_id)
            self._expected = message.request_id + 1
            kind = KINDS[type(message)]
            exchange = self._on_control(message.request_id, kind, message, ours=False)
            exchange.handler = self._opened(exchange, message)
            return
        match message:
            case RequestUpdate():
                self._pass(message, message.existing_id)
            case SubscribeOk() | FetchOk() | RequestOk() | RequestError() | PublishDone():
                self._pass(message, message.request_id)
            case Unsubscribe() | FetchCancel():
                self._left(message.request_id)
            case PublishNamespaceDone():
                published = RequestKind.PUBLISH_NAMESPACE, False, message.namespace
                self._left(self._named(published) if message.request_id is None else message.request_id)
            case PublishNamespaceCancel():
                published = RequestKind.PUBLISH_NAMESPACE, True, message.namespace
                self._left(self._named(published) if message.request_id is None else message.request_id)
            case UnsubscribeNamespace():
                self._left(self._named((RequestKind.SUBSCRIBE_NAMESPACE, False, message.prefix)))
            case MaxRequestId():
                self.grant(message.request_id)
            case RequestsBlocked():
                pass
            case Setup() | Namespace() | NamespaceDone() | PublishBlocked() | PublishStateNotify():
                raise ProtocolViolation(f"{type(message).__name__} on the control stream")

    def _named(self, name: Name) -> int | None:
        """The id of the oldest request of that name."""
        same = self._names.get(name)
        return same[0] if same else None

    def _pass(self, message: Message, number: int | None) -> None:
        exchange = None if number is None else self._by_id.get(number) or self._updates.pop(number, None)
        if exchange is not None:  # else it is over
            exchange.handler.on_message(message)

    def _left(self, number: int | None) -> None:
        exchange = None if number is None else self._by_id.get(number)
        if exchange is not None:
            handler, exchange.handler = exchange.handler, NO_HANDLER
            handler.on_left(StreamCode.CANCELLED)
            exchange.finish()


def _leaving(message: Request, *, ours: bool) -> Callable[[], Message | None]:
    """What ends a request on the control stream, from our side."""
    number = message.request_id
    if isinstance(message, PublishNamespace):
        name = message.namespace
        if ours:
            return lambda: PublishNamespaceDone(name, number)
        return lambda: PublishNamespaceCancel(0, "", name, number)
    if isinstance(message, SubscribeNamespace) and ours:
        return lambda: UnsubscribeNamespace(message.prefix)
    if isinstance(message, Fetch | JoiningFetch) and ours:
        return lambda: FetchCancel(number)
    if (isinstance(message, Subscribe) and ours) or (isinstance(message, Publish) and not ours):
        return lambda: Unsubscribe(number)
    return lambda: None
