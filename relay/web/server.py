"""The HTTP server: debug routes over TCP, and again with full permissions on an internal address (docs/http.md).

`/certificate.sha256`, `/announced` and `/fetch` are those of moq-relay 0.9.3, unless a query asks for more, and
with a newline after the last path of `/announced`.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from typing import Final, TypeAlias

import msgpack
from aiohttp import hdrs, web
from cachetools import TTLCache

from relay.actors import messages as m
from relay.actors.events import Happened, ListEvents
from relay.actors.expiry import Expiries
from relay.actors.reader import Over, ReaderActor, Reading
from relay.actors.runtime import ActorDeadError, ask, halt, send
from relay.auth.permissions import Permissions, Reason, UnauthorizedError, requested_path
from relay.logger import get_logger
from relay.model.address import address_of, readable_host
from relay.model.events import Kind
from relay.model.path import covers, is_text, join, normalize, strip
from relay.transport.refusal import challenge
from relay.web import fetching, state
from relay.web.cors import OPERATOR, PUBLIC, add_headers, foreign
from relay.web.dashboard import ROUTES, add_dashboard, landing
from relay.web.health import judge as health_of
from relay.web.metrics import Metrics
from relay.web.rows import plain
from relay.web.sampler import Sampler
from relay.web.state import Sources
from relay.wire.errors import StreamCode

logger = get_logger("relay.web")

LOG_INTERVAL: Final = 60.0  # seconds between log lines of refusals, per client and kind

MOST_LOGGED: Final = 1_024  # clients

MAX_DIGITS: Final = 18  # of a number in a request


class Readers:
    """Requests that read a track, on all listeners."""

    def __init__(self) -> None:
        self._queues: set[fetching.FetchQueue] = set()

    @contextmanager
    def one_more(self) -> Iterator[fetching.FetchQueue]:
        queue = fetching.FetchQueue()
        self._queues.add(queue)
        try:
            yield queue
        finally:
            self._queues.discard(queue)

    def end(self) -> None:
        """Refuse waiting readers and abort the others."""
        for queue in tuple(self._queues):
            queue.put(Over(StreamCode.GOING_AWAY, ours=True))


@dataclass(frozen=True, slots=True)
class Services:
    """The relay, as routes see it."""

    sources: Sources
    authorize: Callable[[str, str, str], Awaitable[Permissions]]
    """Takes path, query and remote address; raises UnauthorizedError."""
    fingerprint: Callable[[], str | None]
    expiries: Expiries  # reports expired tokens
    readers: Readers = field(default_factory=Readers)
    sampler: Sampler | None = None
    metrics: Metrics | None = None  # on the operator's listener: full permissions without a token
    hosts: Callable[[], Collection[str]] = tuple
    """Host names of the operator's listener, besides `localhost` and every address."""


SERVICES: Final = web.AppKey("services", Services)
LOGGED: Final = web.AppKey("logged", TTLCache[tuple[str, str], bool])
"""Logged refusals, by client and kind."""


def build(services: Services) -> web.Application:
    """The application with its routes."""
    operator = services.metrics is not None
    app = web.Application(middlewares=[_operator if operator else _preflight, _errors])
    app[SERVICES] = services
    app[LOGGED] = TTLCache(MOST_LOGGED, LOG_INTERVAL, services.sources.runtime.now)
    add_headers(app, OPERATOR if operator else PUBLIC)
    app.router.add_get("/", landing)
    add_dashboard(app)
    app.router.add_get("/certificate.sha256", certificate)
    for name, handler in (("announced", announced), ("state", show_state)):
        app.router.add_get(f"/{name}", handler)
        app.router.add_get(f"/{name}/{{path:.*}}", handler)
    app.router.add_get("/fetch/{path:.*}", fetch)
    app.router.add_get("/health", health)
    app.router.add_get("/history", show_history)
    app.router.add_get("/events", show_events)
    if operator:
        app.router.add_get("/metrics", show_metrics)
        app.router.add_post("/sessions/{number}/close", close_session)
    return app


def internal(services: Services, metrics: Metrics) -> Services:
    """The services for the operator's listener."""

    async def everything(path: str, query: str, remote: str) -> Permissions:  # noqa: ARG001 - no token is looked at
        return Permissions(root=normalize(path), publish=("",), subscribe=("",))

    return replace(services, authorize=everything, metrics=metrics)


Next: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _preflight(request: web.Request, handler: Next) -> web.StreamResponse:
    """Answer preflight requests: pages of any origin may ask."""
    if request.method == hdrs.METH_OPTIONS:
        return web.Response(headers={"access-control-allow-methods": "GET"})
    return await handler(request)


@web.middleware
async def _operator(request: web.Request, handler: Next) -> web.StreamResponse:
    """Refuse requests that may come from a foreign web page."""
    reason = foreign(request, request.app[SERVICES].hosts())
    if reason is None:
        return await handler(request)
    _log_refusal(request, request.path, f"{reason} is not ours", "foreign Host or Origin")
    return _text(
        403, f"forbidden: {reason} is not a name of this address; [internal] hosts lists further ones\n"
    )


@web.middleware
async def _errors(request: web.Request, handler: Next) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return _text(404, f"not found\n\n{ROUTES}")
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return _text(405, f"{error.method} is not possible here, only {allowed}\n", allow=allowed)
    except (TimeoutError, ActorDeadError):
        return _text(504, "the relay is too busy to answer\n")


def _text(status: int, text: str, **headers: str) -> web.Response:
    if status == HTTPStatus.UNAUTHORIZED:
        headers[hdrs.WWW_AUTHENTICATE] = challenge(text.strip())
    return web.Response(status=status, text=text, headers=headers)


def _structure(request: web.Request, value: object) -> web.Response:
    if "application/msgpack" in request.headers.get("accept", ""):
        return web.Response(body=_packed(value), content_type="application/msgpack")
    return web.Response(text=json.dumps(value, default=plain) + "\n", content_type="application/json")


def _packed(value: object) -> bytes:
    return bytes(msgpack.packb(value, default=plain, unicode_errors="backslashreplace"))


async def health(request: web.Request) -> web.Response:
    """Health for load balancers."""
    gate = await ask(request.app[SERVICES].sources.gate, m.DescribeGate(), timeout=state.ASK_TIMEOUT)
    return _text(503, "draining\n") if gate.draining else _text(200, "ok\n")


async def show_metrics(request: web.Request) -> web.Response:
    """Metrics for Prometheus."""
    metrics = request.app[SERVICES].metrics
    assert metrics is not None
    body, content_type = await metrics.render()
    return web.Response(body=body, headers={"content-type": content_type})


async def certificate(request: web.Request) -> web.Response:
    """SHA-256 of the first certificate as 64 hex digits, for `serverCertificateHashes`."""
    fingerprint = request.app[SERVICES].fingerprint()
    return _text(404, "no certificate\n") if fingerprint is None else _text(200, fingerprint)


async def _authorized(request: web.Request, path: str, *, below: str = "") -> Permissions | web.Response:
    """The permissions at `path`, or the refusal to send. `below` is requested there."""
    try:
        requested_path(join(path, below))
    except UnauthorizedError as error:
        return _text(400, f"{error}\n")
    try:
        # not `query_string`: the fields must be decoded only once, later
        query = request.rel_url.raw_query_string
        permissions = await request.app[SERVICES].authorize(path, query, str(request.remote))
    except UnauthorizedError as error:
        return _refused(request, join(path, below), error)
    return permissions if permissions.subscribe else _not_granted(request, join(path, below))


def _not_granted(request: web.Request, path: str) -> web.Response:
    reason = Reason.NOT_GRANTED if request.query.get("jwt") else Reason.NEEDED
    return _refused(request, path, UnauthorizedError("no right to subscribe", reason))


def _refused(request: web.Request, path: str, error: UnauthorizedError) -> web.Response:
    _log_refusal(request, path, str(error), error.answer)
    return _text(error.status, f"{error.answer}\n")


def _log_refusal(request: web.Request, path: str, reason: str, kind: str) -> None:
    """Log once in a while for each client and kind: a refused page may repeat every second."""
    client, logged = str(request.remote), request.app[LOGGED]
    key = address_of(client), kind
    if key not in logged:
        logged[key] = True
        path = "/" + path.lstrip("/")
        remote = readable_host(client)
        logger.info("refused", remote=remote, path=path, reason=reason)
        events = request.app[SERVICES].sources.events
        if events is not None:
            send(events, Happened(Kind.REFUSED, None, remote, path, kind))


def _prefixes(permissions: Permissions) -> tuple[str, ...]:
    return tuple(join(permissions.root, granted) for granted in permissions.subscribe)


async def announced(request: web.Request) -> web.Response:
    """Live broadcasts below the prefix, relative to it, one a line; or a structure with more fields."""
    prefix = normalize(request.match_info.get("path", ""))
    permissions = await _authorized(request, prefix)
    if isinstance(permissions, web.Response):
        return permissions
    services, prefixes = request.app[SERVICES], _prefixes(permissions)
    if not any(
        kind in request.headers.get("accept", "") for kind in ("application/json", "application/msgpack")
    ):
        offers = await ask(services.sources.origin, m.ListAnnounced(prefixes), timeout=state.ASK_TIMEOUT)
        paths = [strip(offer.path, prefix) or "" for offer in offers if is_text(offer.path)]
        return _text(200, "".join(f"{path}\n" for path in sorted(paths)))
    return _structure(request, await state.announced(services.sources, prefixes, prefix))


async def _known(request: web.Request, path: str, what: str) -> tuple[str, ...] | web.Response:
    """What the operator or a token may see at `path`, or the refusal: anonymous permissions are not enough."""
    if request.app[SERVICES].metrics is None and not request.query.get("jwt"):
        return _text(401, f"unauthorized: {what} shown on the internal address, or with a token (?jwt=)\n")
    permissions = await _authorized(request, path)
    return permissions if isinstance(permissions, web.Response) else _prefixes(permissions)


async def show_state(request: web.Request) -> web.Response:
    """The state. It shows sessions."""
    prefixes = await _known(request, normalize(request.match_info.get("path", "")), "the state is")
    if isinstance(prefixes, web.Response):
        return prefixes
    services = request.app[SERVICES]
    judge = None if services.sampler is None else partial(health_of, services.sampler)
    found = await state.state(services.sources, prefixes, judge)
    relay = replace(found.relay, operator=services.metrics is not None)
    return _structure(request, replace(found, relay=relay))


async def show_history(request: web.Request) -> web.Response:
    """Figures of the last hour and the last day, of the whole relay; with `?after=T`, those after that time."""
    refusal = await _unless_everything(request, "the history is")
    if refusal is not None:
        return refusal
    services = request.app[SERVICES]
    if services.sampler is None:
        return _text(404, "no history is kept\n")
    text = request.query.get("after", "0")
    try:
        after = float(text)
    except ValueError:
        after = math.nan
    if not math.isfinite(after):
        return _text(400, f"after={text[:40]!r}: expected seconds since 1970\n")
    return _structure(request, services.sampler.history.shown(services.sources.runtime.wall_time(), after))


async def show_events(request: web.Request) -> web.Response:
    """The latest events of the whole relay; with `?after=N`, those with greater numbers."""
    refusal = await _unless_everything(request, "the events are")
    if refusal is not None:
        return refusal
    after = request.query.get("after", "0")
    if not (after.isascii() and after.isdigit() and len(after) <= MAX_DIGITS):
        return _text(400, f"after={after[:40]!r}: expected the number of an event\n")
    events = request.app[SERVICES].sources.events
    found = [] if events is None else await ask(events, ListEvents(int(after)), timeout=state.ASK_TIMEOUT)
    return _structure(request, {"events": found})


async def _unless_everything(request: web.Request, what: str) -> web.Response | None:
    """The refusal of a request that may not see the whole relay."""
    prefixes = await _known(request, "", what)
    if isinstance(prefixes, web.Response):
        return prefixes
    return None if "" in prefixes else _not_granted(request, "")


async def close_session(request: web.Request) -> web.Response:
    """Close a session, on the operator's listener."""
    text = request.match_info["number"]
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None
    gate = request.app[SERVICES].sources.gate
    if number is None or not await ask(gate, m.CloseByOperator(number), timeout=state.ASK_TIMEOUT):
        return _text(404, f"no session {text[:40]!r}: /state lists their numbers\n")
    client = readable_host(str(request.remote))
    logger.info("the operator closes a session", session=number, remote=client)
    return _text(200, f"session {number} is closed\n")


async def fetch(request: web.Request) -> web.StreamResponse:
    """See `relay.web.fetching`."""
    path = request.match_info["path"]
    candidates = fetching.candidates(path, request.query.get("track"))
    if not candidates:
        return _text(400, "expected /fetch/<broadcast>/<track> or /fetch/<broadcast>?track=<track>\n")
    # at the top: the split into broadcast and track is not known yet
    permissions = await _authorized(request, "", below=normalize(path))
    if isinstance(permissions, web.Response):
        return permissions
    members = request.app[SERVICES].sources.members
    operator = request.app[SERVICES].metrics is not None
    granted = [
        each
        for each in candidates
        # relays talk to each other below `members`
        if permissions.may_subscribe(each[0]) and (operator or not covers(members, each[0]))
    ]
    if not granted:
        return _not_granted(request, path)
    try:
        reading, frames = fetching.reading_of(granted, request.query)
    except fetching.BadQueryError as error:
        return _text(400, f"{error}\n")
    services = request.app[SERVICES]
    gate = services.sources.gate
    with services.readers.one_more() as queue:
        try:
            entered: m.ReaderEntered = await ask(gate, m.EnterReader(queue), timeout=state.ASK_TIMEOUT)
            if entered.draining:
                return _text(*fetching.refusal(Over(StreamCode.GOING_AWAY, ours=True)))
            if entered.number is None:
                return _text(503, "too many requests read tracks at the moment\n")
            async with _reading(services, queue, entered.number, reading, permissions.expires):
                outcome = await fetching.respond(request, queue, reading, frames=frames)
        finally:
            send(gate, m.LeaveReader(queue))
    return _text(*fetching.refusal(outcome)) if outcome is None or isinstance(outcome, Over) else outcome


@asynccontextmanager
async def _reading(
    services: Services, queue: fetching.FetchQueue, number: int, reading: Reading, expires: float | None
) -> AsyncIterator[None]:
    """Fill the queue until the token expires, at `expires` in seconds since the epoch."""
    expiry = None
    if expires is not None:
        over = Over(StreamCode.UNAUTHORIZED, ours=True)
        expiry = services.expiries.at(expires, lambda: queue.cut(over))
    sources = services.sources
    reader = ReaderActor.start(
        sources.runtime, origin=sources.origin, number=number, reading=reading, sink=queue.put
    )
    try:
        yield
    finally:
        if expiry is not None:
            expiry.cancel()
        halt(reader)
