"""Announcements of moq-transport: namespaces, in both directions.

The peer publishes by PUBLISH_NAMESPACE, or by NAMESPACE where we asked. The writers write ours to a peer that
asked: NAMESPACE on the stream of its request, or on draft 14 requests of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from relay.model.path import covers, join, strip
from relay.model.route import Route
from relay.moq.ietf_core import IetfCore
from relay.moq.ietf_exchange import Exchange, Exchanges, Pending, RequestHandler
from relay.moq.ietf_names import fits, namespace_of, path_of
from relay.moq.session import (
    NEVER,
    Announced,
    AnnouncementsComplete,
    AnnouncementsEnded,
    AnnouncementsStarted,
    LimitExceeded,
    Offer,
    Unannounced,
)
from relay.transport.session import Stream
from relay.wire.errors import StreamCode, WireError
from relay.wire.ietf.codes import Refusal
from relay.wire.ietf.messages import (
    Message,
    Namespace,
    NamespaceDone,
    PublishBlocked,
    PublishNamespace,
    RequestError,
    RequestOk,
    RequestUpdate,
    SubscribeNamespace,
)
from relay.wire.ietf.values import TrackNamespace

ASKED_WITHIN = 1.0  # seconds in which our owner asks, if ever

MOST_WAITING = 1_024  # requests until then

MOST_UPDATES = 16  # of one request, that wait for the answer to the first


class PeerNamespaces:
    """The peer's namespaces under the prefixes of our owner."""

    def __init__(self, core: IetfCore, exchanges: Exchanges) -> None:
        self._core = core
        self._exchanges = exchanges
        self._interests: dict[int, tuple[str, Interest | None]] = {}  # prefixes, by request
        self._holders: dict[str, set[int]] = {}  # request ids that keep a path announced
        self._held = 0  # all of them
        self._told: dict[str, int] = {}  # the request of ours that such a path was announced to
        self._waiting: dict[Exchange, Callable[[], RequestHandler]] = {}  # until our owner asks
        self.deadline = NEVER

    def request(self, prefix: str) -> int:
        """A client asks; the clients of a server announce by themselves."""
        core = self._core
        request = core.new_request()
        interest: Interest | None = None
        if core.session.is_client:
            interest = Interest(core, self, request, prefix)
            interest.exchange = self._exchanges.ask(
                lambda number: SubscribeNamespace(number, namespace_of(prefix)), interest
            )
        else:
            core.emit(AnnouncementsComplete(request))
        self._interests[request] = prefix, interest
        self._tell(path for path in self._holders if path not in self._told)
        waiting, self._waiting = self._waiting, {}
        self.deadline = NEVER
        for exchange, again in waiting.items():
            early = exchange.handler
            try:
                exchange.handler = again()
                if isinstance(early, Pending):
                    early.pass_on(exchange)
            except WireError as error:
                core.fail(error)
                break
        return request

    def cancel(self, request: int) -> bool:
        """False if it is no request of announcements."""
        found = self._interests.pop(request, None)
        if found is None:
            return False
        interest = found[1]
        if interest is not None and interest.exchange is not None:
            interest.exchange.leave()
        self._pass_on(request)
        return True

    def ended(self, request: int, paths: Iterable[str], code: int | None) -> None:
        """The peer ended our request."""
        self._interests.pop(request, None)
        for path in paths:
            self._core.emit(Unannounced(request, path, said=False))
        self._core.emit(AnnouncementsEnded(request, code))
        self._pass_on(request)

    def _pass_on(self, request: int) -> None:
        """Paths of a request that is over go to another one, if it covers them."""
        paths = [path for path, told in self._told.items() if told == request]
        for path in paths:
            del self._told[path]
        self._tell(paths)

    def _tell(self, paths: Iterable[str]) -> None:
        for path in list(paths):
            request = self._interest_of(path)
            if request is not None:
                self._told[path] = request
                self._core.emit(Announced(request, path, (), Route()))

    def _interest_of(self, path: str) -> int | None:
        return next(
            (request for request, (prefix, _) in self._interests.items() if covers(prefix, path)), None
        )

    # --- PUBLISH_NAMESPACE, PUBLISH

    def published(self, exchange: Exchange, message: PublishNamespace) -> RequestHandler:
        path = path_of(message.namespace)
        waiting = self.defer(exchange, lambda: self.published(exchange, message))
        if waiting is not None:
            return waiting
        code = self.hold(path, exchange.id)
        if code is not None:
            exchange.error(code)
            return exchange.handler
        exchange.ok()
        return Holder(self, exchange, path)

    def defer(self, exchange: Exchange, again: Callable[[], RequestHandler]) -> RequestHandler | None:
        """Call `again` once our owner has asked: the peer's first requests come with its SETUP."""
        if self._interests or len(self._waiting) >= MOST_WAITING:
            return None
        self._waiting[exchange] = again
        self.deadline = min(self.deadline, self._core.now + ASKED_WITHIN)
        return Waiting(self._waiting, exchange)

    def on_time(self, now: float) -> None:
        if now >= self.deadline:
            self.deadline = NEVER
            waiting, self._waiting = self._waiting, {}
            for exchange in waiting:
                exchange.error(StreamCode.UNAUTHORIZED)

    def hold(self, path: str, number: int) -> int | None:
        """Request `number` keeps `path` announced. Returns the code of a refusal."""
        if self._interest_of(path) is None:
            return StreamCode.UNAUTHORIZED
        if self._held >= 2 * self._core.limits.announces:
            # our owner closes a session with too many paths; these are several requests for each
            self._core.emit(LimitExceeded("announces", {"path": path}))
            return StreamCode.NO_CAPACITY
        holders = self._holders.setdefault(path, set())
        if not holders:
            self._tell((path,))
        holders.add(number)
        self._held += 1
        return None

    def release(self, path: str, number: int, *, said: bool) -> None:
        holders = self._holders.get(path)
        if holders is None or number not in holders:
            return
        holders.remove(number)
        self._held -= 1
        if not holders:
            del self._holders[path]
            request = self._told.pop(path, None)
            if request is not None:
                self._core.emit(Unannounced(request, path, said=said))


class Waiting(Pending):
    """PUBLISH_NAMESPACE or PUBLISH without an answer yet."""

    def __init__(self, waiting: dict[Exchange, Callable[[], RequestHandler]], exchange: Exchange) -> None:
        super().__init__()
        self._waiting = waiting
        self._exchange = exchange

    def on_finished(self) -> None:
        self._waiting.pop(self._exchange, None)
        self._exchange.leave()

    def on_left(self, code: int) -> None:  # noqa: ARG002 - it is withdrawn either way
        self._waiting.pop(self._exchange, None)


class Holder(RequestHandler):
    """PUBLISH_NAMESPACE of the peer."""

    def __init__(self, owner: PeerNamespaces, exchange: Exchange, path: str) -> None:
        self._owner = owner
        self._exchange = exchange
        self._path = path

    def on_message(self, message: Message) -> None:
        if isinstance(message, RequestUpdate):
            self._exchange.updated(message)
        else:
            super().on_message(message)

    def on_finished(self) -> None:
        self._exchange.leave()
        self._owner.release(self._path, self._exchange.id, said=True)

    def on_left(self, code: int) -> None:  # noqa: ARG002 - some publishers withdraw by a reset
        self._owner.release(self._path, self._exchange.id, said=True)


class Interest(RequestHandler):
    """SUBSCRIBE_NAMESPACE of ours."""

    def __init__(self, core: IetfCore, owner: PeerNamespaces, request: int, prefix: str) -> None:
        self.exchange: Exchange | None = None
        self._core = core
        self._owner = owner
        self._request = request
        self._prefix = prefix
        self._live: set[str] = set()

    def on_message(self, message: Message) -> None:
        core = self._core
        match message:
            case RequestOk():
                core.emit(AnnouncementsStarted(self._request, None))
                core.emit(AnnouncementsComplete(self._request))
            case RequestError():
                assert self.exchange is not None
                self.exchange.leave()
                self._end(core.refused(message.code, self.exchange.kind))
            case Namespace():
                path = self._path(message.suffix)
                update = path in self._live
                self._live.add(path)
                core.emit(Announced(self._request, path, (), Route(), update))
            case NamespaceDone():
                path = self._path(message.suffix)
                if path in self._live:
                    self._live.remove(path)
                    core.emit(Unannounced(self._request, path))
            case PublishBlocked():
                pass
            case _:
                super().on_message(message)

    def _path(self, suffix: tuple[bytes, ...]) -> str:
        return join(self._prefix, path_of(suffix))

    def on_finished(self) -> None:
        assert self.exchange is not None
        self.exchange.leave()
        self._end(None)

    def on_left(self, code: int) -> None:
        self._end(code)

    def _end(self, code: int | None) -> None:
        live, self._live = self._live, set()
        self._owner.ended(self._request, live, code)


class InterestOwner(Protocol):
    """The serving side."""

    def cancelled(self, request: int, code: int | None) -> None: ...

    def change_prefix(self, writer: NamespaceWriter, prefix: str) -> None:
        """A new request, which `begin` answers."""


class NamespaceWriter(RequestHandler):
    """SUBSCRIBE_NAMESPACE of the peer: the initial set, then changes."""

    def __init__(
        self, core: IetfCore, owner: InterestOwner, request: int, prefix: str, exchange: Exchange
    ) -> None:
        self.request = request
        self.tracks = 0  # the request for tracks of the same interest, if it has one
        self._core = core
        self._owner = owner
        self._prefix = prefix
        self._base = prefix  # of the suffixes in messages
        self._exchange = exchange
        self._sent: dict[str, Offer] = {}  # by path
        self._updates: list[RequestUpdate] = []  # that wait for the set of another prefix
        self._begun = False

    @property
    def stream(self) -> Stream:
        return self._exchange.stream

    def covers(self, path: str) -> bool:
        return covers(self._prefix, path)

    def has_offered(self, path: str) -> bool:
        return self._shown(path) in self._sent

    def begin(self, offers: Iterable[Offer]) -> int:
        """The initial set, or the difference to it under another prefix. Returns the size in bytes.

        Suffixes are below the former prefix up to the answer of the update, below its own from there on.
        """
        size = 0 if self._begun else self._exchange.ok()
        self._begun = True
        live = {self._shown(offer.path): offer for offer in offers if self._fits(offer)}
        for path in [path for path in self._sent if path not in live]:
            size += self._withdraw(path)
        self._base = self._prefix
        updates, self._updates = self._updates, []
        for update in updates:
            self._exchange.updated(update)
        for path, offer in live.items():
            if path not in self._sent:
                size += self._write(path, live=True)
            self._sent[path] = offer
        return size

    def change(self, path: str, offer: Offer | None) -> int:
        """Announce, or withdraw (`None`) a path.

        Another route or publisher is no news: subscriptions go on, but some viewers would subscribe again.
        """
        if not self._begun or self._updates:
            return 0  # the whole set follows
        if offer is not None and not self._fits(offer):
            offer = None
        path = self._shown(path)
        if offer is None:
            return self._withdraw(path) if path in self._sent else 0
        size = 0 if path in self._sent else self._write(path, live=True)
        self._sent[path] = offer
        return size

    def refuse(self, code: int) -> None:
        if self._begun and not self._updates:
            self._exchange.cancel(code)
        else:
            self._exchange.error(code)

    def _shown(self, path: str) -> str:
        # a route above the prefix covers it
        return path if self.covers(path) else self._prefix

    def _fits(self, offer: Offer) -> bool:
        return fits(offer.path, "", self._core.profile)

    def _withdraw(self, path: str) -> int:
        del self._sent[path]
        return self._write(path, live=False)

    def _write(self, path: str, *, live: bool) -> int:
        fields = namespace_of(strip(path, self._base) or "")
        return self._exchange.send(Namespace(fields) if live else NamespaceDone(fields))

    # --- the peer

    def on_message(self, message: Message) -> None:
        if not isinstance(message, RequestUpdate):
            super().on_message(message)
        elif message.params.prefix is not None:
            self._on_prefix(message, message.params.prefix)
        elif self._updates:
            self._wait(message)
        else:
            self._exchange.updated(message)

    def _on_prefix(self, message: RequestUpdate, fields: TrackNamespace) -> None:
        prefix = path_of(fields)
        if "prefix" in self._core.profile.lacks:
            self._exchange.refuse(Refusal.NOT_SUPPORTED, "the prefix cannot change")
            self._owner.cancelled(self.request, None)
        elif self._wait(message):
            self._prefix = prefix
            self._owner.change_prefix(self, prefix)

    def _wait(self, message: RequestUpdate) -> bool:
        """False if too many wait: the request is over."""
        if len(self._updates) < MOST_UPDATES:
            self._updates.append(message)
            return True
        self._exchange.error(StreamCode.NO_CAPACITY)
        self._owner.cancelled(self.request, None)
        return False

    def on_finished(self) -> None:
        self._exchange.leave()
        self._owner.cancelled(self.request, None)

    def on_left(self, code: int) -> None:
        self._owner.cancelled(self.request, code)


class Offered(RequestHandler):
    """PUBLISH_NAMESPACE of ours. A refusal ends it, and is no news to our owner."""

    def __init__(self) -> None:
        self.exchange: Exchange | None = None

    def on_message(self, message: Message) -> None:
        if isinstance(message, RequestError) and self.exchange is not None:
            self.exchange.finish()


class OwnNamespaces:
    """Our PUBLISH_NAMESPACEs: one for each path, for any number of reasons."""

    def __init__(self, exchanges: Exchanges) -> None:
        self._exchanges = exchanges
        self._by_path: dict[str, Exchange] = {}
        self._reasons: dict[str, int] = {}

    def hold(self, path: str) -> None:
        """Count one more reason to announce `path`."""
        if path not in self._by_path:
            handler = Offered()
            handler.exchange = self._by_path[path] = self._exchanges.ask(
                lambda number: PublishNamespace(number, namespace_of(path)), handler
            )
        self._reasons[path] = self._reasons.get(path, 0) + 1

    def release(self, path: str) -> None:
        """One less; withdraws the path after the last one."""
        left = self._reasons.pop(path) - 1
        if left:
            self._reasons[path] = left
        else:
            self._by_path.pop(path).leave()


class RequestingWriter(NamespaceWriter):
    """Sends a PUBLISH_NAMESPACE for each path (draft 14). It outlives the interest, so we withdraw it."""

    def __init__(
        self,
        core: IetfCore,
        owner: InterestOwner,
        request: int,
        prefix: str,
        exchange: Exchange,
        namespaces: OwnNamespaces,
    ) -> None:
        super().__init__(core, owner, request, prefix, exchange)
        self._namespaces = namespaces
        self._held: set[str] = set()

    def _write(self, path: str, *, live: bool) -> int:
        if live:
            self._held.add(path)
            self._namespaces.hold(path)
        else:
            self._held.discard(path)
            self._namespaces.release(path)
        return 0

    def refuse(self, code: int) -> None:
        super().refuse(code)
        self._withdraw_all()

    def on_finished(self) -> None:
        super().on_finished()
        self._withdraw_all()

    def on_left(self, code: int) -> None:
        super().on_left(code)
        self._withdraw_all()

    def _withdraw_all(self) -> None:
        held, self._held = self._held, set()
        for path in held:
            self._namespaces.release(path)
