"""One end of a session on asyncio, with the state machine and its timer; and the base of every handle on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final, Generic, Self, TypeVar
from weakref import WeakSet

from relay.client.errors import RequestError, SessionEnded
from relay.logger import get_logger
from relay.model.limits import Limits
from relay.model.route import MAX_HOP_ID
from relay.moq import session as moq
from relay.moq.core import State
from relay.moq.protocol import open_session
from relay.moq.setup import Options
from relay.runtime import SYSTEM, Runtime
from relay.transport.session import Event as TransportEvent
from relay.transport.session import Session, SessionClosed
from relay.wire.errors import SessionCode, StreamCode, WireError
from relay.wire.frame_decoder import MAX_FRAME
from relay.wire.version import ALL_VERSIONS, AnyVersion, Version

logger = get_logger(__name__)

T = TypeVar("T")

KEPT: Final = 4_096  # items that a reader may leave unread
SETUP_TIMEOUT: Final = 10.0  # seconds for the peer's part of the set-up
CLOSE_TIMEOUT: Final = 5.0  # seconds for written data to reach the peer, and then for the transport to end
FLUSH_POLL: Final = 0.005  # seconds between checks for that

TRUSTING: Final = Limits(control_rate=1 << 62, control_burst=1 << 62)  # the peer is a relay


class Handle:
    """A changing part of a session that tasks wait for."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._news = asyncio.Event()  # set for a moment at each change
        endpoint.all.add(self)

    def on_event(self, event: moq.Event) -> None:
        """A request of this handle has changed."""

    def ring(self) -> None:
        """Let all waiting tasks check again."""
        self._news.set()
        self._news.clear()

    async def until(self, ready: Callable[[], object]) -> None:
        """Wait until `ready()` is true. An exception that it raises ends the wait, and so does the session's end."""
        while not ready():
            self._endpoint.check()
            await self._news.wait()


class Reader(Handle, Generic[T]):
    """Items that arrived, in order (`async for`). The iteration stops at the end, or raises `error` for an abort.

    What had arrived is read first. A reader that leaves more than `KEPT` items unread loses the oldest.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        request: int = 0,
        error: type[RequestError] = RequestError,
        unread: Any = None,
    ) -> None:
        """`request` is 0 for a reader that is fed by another handle."""
        super().__init__(endpoint)
        self.finished = False  # no more will come
        self.code: int | None = None  # of the peer's refusal or abort, as received
        self._error = error
        self._request = request
        self._unread: Any = deque(maxlen=KEPT) if unread is None else unread
        if request:
            endpoint.handles[request] = self
            endpoint.flush()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        await self.until(lambda: self._unread or self._over())
        if not self._unread:
            raise StopAsyncIteration
        return self._take()

    def put(self, item: Any) -> None:
        self._unread.append(item)
        self.ring()

    def on_event(self, event: moq.Event) -> None:
        match event:
            case moq.RequestRejected():
                self.conclude(event.received)
            case moq.RequestFinished():
                self.conclude()
            case _:
                self.put(event)

    def conclude(self, code: int | None = None) -> None:
        """No more items come; `code` if the peer refused or aborted."""
        if not self.finished:
            self.finished, self.code = True, code
        self._endpoint.handles.pop(self._request, None)
        self.ring()

    def _take(self) -> T:
        item: T = self._unread.popleft()
        return item

    def _over(self) -> bool:
        if self.code is not None:
            raise self._error(self.code)
        return self.finished


class Endpoint(Handle):
    """One end of a session. At its end each wait raises SessionEnded.

    SETUP may choose one of `versions`, `hop` is our origin id (random by default), `max_frame` limits a
    received frame, in bytes. `setup` are further `Options` of `relay.moq.lite`.
    """

    def __init__(
        self,
        session: Session,
        *,
        versions: Iterable[AnyVersion] = ALL_VERSIONS,
        hop: int | None = None,
        max_frame: int = MAX_FRAME,
        runtime: Runtime = SYSTEM,
        **setup: Any,
    ) -> None:
        self.session = session
        self.runtime = runtime
        self.goaway: str | None = None  # URI, which may be empty
        self.moq = open_session(
            session,
            replace(TRUSTING, frame=max_frame),
            runtime.random.randint(1, MAX_HOP_ID) if hop is None else hop,
            [
                version for version in versions if isinstance(version, Version)
            ],  # of those that SETUP may choose
            admitted=True,
            options=Options(waits_for_setup=False, **setup),
        )
        self.handles: dict[int, Handle] = {}  # by request
        self.publications: dict[str, Handle] = {}  # handlers of the peer's requests, by path
        self.all: WeakSet[Handle] = WeakSet()  # the end of the session concerns them
        self.ended: SessionEnded | None = None
        self._started = False
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._fault: WireError | None = None  # the last of the peer
        self._released = asyncio.Event()  # the transport has ended
        super().__init__(self)

    async def start(self, timeout: float = SETUP_TIMEOUT) -> None:  # noqa: ASYNC109 - running out closes the session
        """Do our part of the set-up; where nothing can be sent before (01 and 02), wait for the peer's.

        Raises SessionEnded if the session is not established in `timeout` seconds.
        """
        if self._started:
            raise RuntimeError("a client is started once")
        self._started = True
        self.session.start(self._on_transport)
        self.moq.limits = replace(self.moq.limits, setup_timeout=timeout)
        self.moq.start(self.runtime.now())
        self.flush()
        try:
            await self.until(lambda: self.moq.state is State.ESTABLISHED)
        except BaseException:
            self._end(SessionCode.NO_ERROR, "")
            raise

    async def __aenter__(self) -> Self:
        if not self._started:
            await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def version(self) -> AnyVersion:
        """RuntimeError before SETUP has decided it."""
        if not self._started or self.moq.state is State.NEGOTIATING:
            raise RuntimeError("the version is not known before the client has started")
        return self.moq.version

    @property
    def hop(self) -> int:
        """Our origin id in announcements."""
        return self.moq.hop

    def check(self) -> None:
        if (over := self.ended) is not None:  # each waiting task raises an exception of its own
            raise SessionEnded(over.code, over.reason, by_peer=over.by_peer, fault=over.fault) from over.fault

    async def closed(self) -> SessionClosed:
        """Wait for the session's end."""
        await self._released.wait()
        assert self.ended is not None
        return SessionClosed(self.ended.code, self.ended.reason, self.ended.by_peer)

    async def close(self, code: int = 0, reason: str = "") -> None:
        """End the session and wait until its transport is released. Every waiting task gets SessionEnded.

        Without a `code`, written data reaches the peer first, ends of tracks included, within `CLOSE_TIMEOUT`.
        """
        try:
            if not code and self._started:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_TIMEOUT):
                        while self.ended is None and (self.moq.serving.ending or self.session.undelivered):  # noqa: ASYNC110 - transports have no event for it
                            await asyncio.sleep(FLUSH_POLL)
        finally:
            self._end(code, reason)
        if self._started:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._released.wait()
                    if (released := getattr(self.session, "wait_closed", None)) is not None:
                        await released()

    def _end(self, code: int, reason: str) -> None:
        self.moq.close(code, reason)
        self.flush()

    def cancel(self, request: int, code: int | None = None) -> None:
        """End a request of ours, unless it is over."""
        if (handle := self.handles.pop(request, None)) is not None:
            self.moq.requests.cancel(request, code)
            self.flush()
            handle.ring()

    def flush(self) -> None:
        """Handle events of the state machine. Called after commands."""
        if self._flushing:
            return  # a handler gave the command: its events follow earlier ones
        self._flushing = True
        try:
            while self.moq.events:
                self.on_event(self.moq.events.pop(0))  # one by one: after a fault the others are still there
        finally:
            self._flushing = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.moq.deadline != moq.NEVER:
            self._timer = self.runtime.call_later(self.moq.deadline - self.runtime.now(), self._on_timer)

    def _on_transport(self, events: tuple[TransportEvent, ...]) -> None:
        try:
            self.moq.receive(events, self.runtime.now())
            self.flush()
        except Exception:  # a fault of ours must not leave a task waiting
            logger.exception("closing the session over an internal error")
            self.handles.clear()  # remaining events must not fail again
            self.publications.clear()
            self._end(SessionCode.INTERNAL, "internal error")
        if any(isinstance(event, SessionClosed) for event in events):
            self._released.set()

    def _on_timer(self) -> None:
        self.moq.on_time(self.runtime.now())
        self.flush()

    def on_event(self, event: moq.Event) -> None:
        """Handle all events of the state machine, in order."""
        match event:
            case moq.AnnounceRequested():
                self.moq.serving.announce_initial(event.request)
            case moq.SubscribeRequested() | moq.InfoRequested() | moq.FetchRequested():
                if (publication := self.publications.get(event.broadcast)) is None:
                    self.moq.serving.reject(event.request, StreamCode.UNROUTABLE)
                else:
                    publication.on_event(event)
            case moq.PeerLeaving():
                self.goaway = event.uri
            case moq.Fault():
                self._fault = event.error
            case moq.Established():
                self.ring()
            case moq.Closed():
                fault = None if event.by_peer else self._fault
                self.ended = SessionEnded(event.code, event.reason, by_peer=event.by_peer, fault=fault)
                self.handles.clear()
                for handle in list(self.all):
                    handle.ring()
            case _:
                if (found := self.handles.get(getattr(event, "request", 0))) is not None:
                    found.on_event(event)
