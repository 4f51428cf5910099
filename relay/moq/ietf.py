"""A moq-transport session of one draft (`machine` says how to drive it).

It gives the events and takes the commands of `relay.moq.lite`. A server's owner decides on admission:
`Introduced` comes with the peer's SETUP, and `setup.admit` answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from relay.model.limits import Limits
from relay.moq.core import Handler, State
from relay.moq.encoding import Encoding
from relay.moq.ietf_core import IetfCore
from relay.moq.ietf_exchange import Exchange, Exchanges, Pending, RequestHandler
from relay.moq.ietf_requests import Requests
from relay.moq.ietf_serving import IetfServing
from relay.moq.ietf_setup import SetupExchange, token_of
from relay.moq.machine import AliveCheck
from relay.moq.session import Features, TokenOffered
from relay.moq.setup import Options
from relay.transport.session import Session, SessionClosed, Stream, StreamData
from relay.wire.errors import StreamCode, WireError
from relay.wire.ietf.data import FetchHeader, SubgroupHeader
from relay.wire.ietf.decoder import UniDecoder, UniItem
from relay.wire.ietf.messages import Message, Publish, PublishNamespace, Request
from relay.wire.version import Draft

FEATURES = Features(
    hops=False, prefixes=False, below=True, goaway=True, descriptions=True, history=False, updates=True
)

MAX_DATAGRAM_HEADER = 56  # bytes of five numbers, a priority and a timestamp

ENCODINGS = {
    Draft.DRAFT_14: Encoding.OBJECTS_14,
    Draft.DRAFT_16: Encoding.OBJECTS_16,
}


MOST_PARKED = 64  # requests that wait for a verdict on their token, and tokens remembered as good


class Parked(NamedTuple):
    """A request with a token, which awaits the verdict."""

    exchange: Exchange
    message: Request
    token: str


class ParkedParty(Pending):
    """Handles a parked request until the verdict."""

    def __init__(self, parked: dict[int, Parked], request: int) -> None:
        super().__init__()
        self._parked = parked
        self._request = request
        self.finished = False

    def on_finished(self) -> None:
        self.finished = True

    def on_left(self, code: int) -> None:  # noqa: ARG002 - it is over either way
        self._parked.pop(self._request, None)


class IetfSession(IetfCore):
    """One session."""

    __deletable__ = ("setup", "requests", "serving", "exchanges")

    setup: SetupExchange
    requests: Requests
    serving: IetfServing

    def __init__(
        self,
        session: Session,
        *,
        limits: Limits,
        hop: int,
        version: Draft,
        admitted: bool = False,
        options: Options | None = None,
    ) -> None:
        """With `admitted` there is no `Introduced`."""
        super().__init__(session, limits, hop, version)
        self.state = State.INTRODUCING
        self.exchanges = exchanges = Exchanges(self, self._opened)
        self.setup = self._setup_part = SetupExchange(
            self, exchanges, admitted=admitted, options=options or Options()
        )
        self.requests = self._requests_part = Requests(self, exchanges)
        self.serving = self._serving_part = IetfServing(self, exchanges)
        self.alive = AliveCheck(self)
        self._parked: dict[int, Parked] = {}  # by request; our owner checks their tokens
        self._tokens: set[str] = set()  # good ones

    def start(self, now: float) -> None:
        """The transport's events follow by `receive`."""
        self.now = now
        self.setup.start()

    def unlink(self) -> None:
        super().unlink()
        self.exchanges.unlink()
        del self.setup, self.requests, self.serving, self.exchanges

    def _end(self, event: SessionClosed) -> None:
        self.requests.end_late()
        super()._end(event)

    @property
    def name(self) -> str | None:
        return self.version.name_on_wire

    @property
    def features(self) -> Features:
        return FEATURES

    @property
    def encoding(self) -> Encoding:
        return ENCODINGS.get(self.version, Encoding.OBJECTS_18)

    @property
    def fetch_encoding(self) -> Encoding:
        return Encoding.FRAMES

    @property
    def datagram_limit(self) -> int:
        """Payload that a datagram can carry for certain, 0 if none can."""
        return max(0, self.session.datagram_limit - MAX_DATAGRAM_HEADER)

    # --- streams of the peer

    def _handler(self, event: StreamData) -> Handler | None:
        stream = event.stream
        held = self.setup.held
        if stream.unidirectional:
            if self.state is State.ESTABLISHED or stream not in held.streams:
                return _UniStream(self)
        elif self.state is State.ESTABLISHED:
            return self.exchanges.accept(stream)
        else:
            handler = self.setup.handler()
            if handler is not None:
                return handler
        held.add(event)
        return None

    def _opened(self, exchange: Exchange, message: Request) -> RequestHandler:
        """One with a token waits for our owner's verdict."""
        token = token_of(message.params.tokens)
        if token is None or token in self._tokens:
            return self._take(exchange, message)
        if len(self._parked) >= MOST_PARKED:
            exchange.error(StreamCode.NO_CAPACITY)
            return exchange.handler
        request = self.new_request()
        self._parked[request] = Parked(exchange, message, token)
        self.emit(TokenOffered(request, token))
        return ParkedParty(self._parked, request)

    def authorized(self, request: int, *, granted: bool, expired: bool = False) -> None:
        parked = self._parked.pop(request, None)
        if parked is None:
            return
        if granted:
            if len(self._tokens) < MOST_PARKED:
                self._tokens.add(parked.token)
            try:
                waited = parked.exchange.handler
                parked.exchange.handler = self._take(parked.exchange, parked.message)
                if isinstance(waited, ParkedParty):
                    waited.pass_on(parked.exchange)
                    if waited.finished:
                        parked.exchange.handler.on_finished()
            except WireError as error:
                self.fail(error)
        else:
            parked.exchange.unauthorized(expired=expired)

    def _take(self, exchange: Exchange, message: Request) -> RequestHandler:
        if isinstance(message, PublishNamespace):
            return self.requests.namespaces.published(exchange, message)
        if isinstance(message, Publish):
            return self.requests.published(exchange, message)
        return self.serving.open(exchange, message)


class _UniStream(Handler):
    """A unidirectional stream of the peer until its first message tells what it is."""

    def __init__(self, session: IetfSession) -> None:
        self._session = session
        limits = session.limits
        self._decoder = UniDecoder(session.profile, limits.frame, lambda _: False, limits.message)
        self._is_control = False

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        session, decoder = self._session, self._decoder
        items = list(decoder.feed(data))
        if self._is_control:
            session.setup.count_waiting(len(data))
            self._control(items)
        elif items:
            header = items.pop(0)
            if isinstance(header, SubgroupHeader):
                session.requests.begin_subgroup(stream, header, decoder, items, fin=fin)
                return
            if isinstance(header, FetchHeader):
                session.requests.begin_fetch(stream, header, decoder, items, fin=fin)
                return
            self._is_control = True
            self._control([header, *items])
        if fin:
            decoder.end()
            if self._is_control:
                session.setup.control_ended()

    def _control(self, items: Sequence[UniItem]) -> None:
        for item in items:
            self._session.setup.on_control(cast("Message", item))

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        if self._is_control:
            self._session.setup.control_ended()
