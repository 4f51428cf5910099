"""A client of one session.

Owns the way between the transport, the state machine and the parts of the client, and the end of the session. Must
never read or write a message: `relay.moq` does. Applications and tests make one, by `Client.connect` or over any
`Session`; it works on either end of a session, so two of them can talk to each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, Self, TypeAlias
from urllib.parse import urlsplit

from relay.client.errors import SessionEnded, SubscribeError, TrackInfoError
from relay.client.groups import Frame
from relay.client.peer import Bell, Noted, Peer
from relay.client.publishing import Publication, Publisher
from relay.client.watching import Announced, FetchedGroup, Probes, Subscription, TrackInfoCall
from relay.model.limits import Limits
from relay.model.path import checked
from relay.model.track import SubscribeParams, TrackProperties
from relay.moq.lite import LiteSession, Options, State
from relay.moq.session import (
    NEVER,
    AnnounceRequested,
    BitrateReported,
    Closed,
    Established,
    Event,
    Fault,
    FetchRequested,
    InfoRequested,
    PeerInfo,
    PeerLeaving,
    ProbeRequested,
    StrayGroup,
    SubscribeRequested,
)
from relay.runtime import SYSTEM, Runtime
from relay.transport.quic.trust import ClientTls
from relay.transport.session import Event as TransportEvent
from relay.transport.session import Session, SessionClosed
from relay.wire.errors import SessionCode, WireError
from relay.wire.frame_decoder import MAX_FRAME
from relay.wire.setup import SetupForm
from relay.wire.version import ALL_VERSIONS, Version

logger = logging.getLogger(__name__)

MAX_HOP_ID: Final = 2**53 - 1
"""Older browser clients keep ids in a double."""

SETUP_TIMEOUT: Final = 10.0
"""Seconds that a peer has for its part of the set-up."""

FLUSH_TIMEOUT: Final = 5.0
"""Seconds that what was written gets to reach the peer before the session is closed."""

FLUSH_POLL: Final = 0.005
"""Seconds between looks whether it has."""

CLOSE_TIMEOUT: Final = 5.0
"""Seconds that a transport gets to close."""

Request: TypeAlias = (
    AnnounceRequested | SubscribeRequested | InfoRequested | FetchRequested | ProbeRequested | PeerLeaving
)


class Client:
    """A session in use. No wait outlasts the session: each then raises SessionEnded.

    `versions` are those that may be spoken where SETUP decides, `hop` is the own origin id (random by default),
    `target` path and query for a transport without a URL, instead of those it was dialled with. `role`, `cost` and
    `probe` go into SETUP (05 and 06); `form` is how the older SETUP opens. `max_frame` bounds what the peer may send
    in one frame.
    """

    def __init__(
        self,
        session: Session,
        *,
        versions: Iterable[Version] = ALL_VERSIONS,
        hop: int | None = None,
        target: str | None = None,
        authority: str | None = None,
        role: int | None = None,
        cost: int | None = None,
        probe: int | None = None,
        form: SetupForm | None = None,
        max_frame: int = MAX_FRAME,
        runtime: Runtime = SYSTEM,
    ) -> None:
        if hop is None:
            hop = runtime.random.randint(1, MAX_HOP_ID)
        self.session = session
        # The relay at the other end is trusted with what it sends, but for the size of a frame.
        self._limits = replace(
            Limits(), frame=max_frame, control_rate=UNLIMITED, control_burst=UNLIMITED, setup_timeout=NEVER
        )
        self._moq = LiteSession(
            session,
            limits=self._limits,
            hop=hop,
            versions=versions,
            admitted=True,
            options=Options(
                role=role,
                cost=cost,
                probe=probe,
                target=target,
                authority=authority,
                form=form,
                waits_for_setup=False,
            ),
        )
        self.peer = Peer(self._moq, self._flush, runtime)
        self.peer_setup: PeerInfo | None = None
        """What the peer said of itself in SETUP (05 and 06), once it is here."""
        self.faults: list[WireError] = Noted()
        """What the peer did wrong, whether it cost the session or a stream; the newest `KEPT`."""
        self.stray_groups: list[StrayGroup] = Noted()
        """Groups that came for no subscription of ours, and were refused; the newest `KEPT`."""
        self.requests: Noted[Request] = Noted()
        """The requests of the peer, in order, the newest `KEPT` of them."""
        self.bitrates: list[int] = Noted()
        """What SESSION_INFO of the peer said (01 and 02), the newest `KEPT` times."""
        self.goaway: str | None = None
        """The URI of the peer's GOAWAY, which may be empty."""
        self._started = False
        self._publisher = Publisher(self.peer)
        self._timer: asyncio.TimerHandle | None = None
        self._closed: SessionClosed | None = None
        self._gone = asyncio.Event()
        self._bell = Bell(self.peer)

    def __repr__(self) -> str:
        return f"<Client {self.session!r}>"

    # -- beginning and end

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        versions: Iterable[Version] = ALL_VERSIONS,
        tls: ClientTls | None = None,
        bind: tuple[str, int] | None = None,
        timeout: float = SETUP_TIMEOUT,  # noqa: ASYNC109 - it bounds two steps, and the second closes the session
        **options: Any,
    ) -> Self:
        """Dial `url` and set the session up; `options` are those of `Client`.

        Raises what the transport raises when it cannot connect, and SessionEnded if the peer then closes.
        """
        # Heavy, and not needed over other sessions.
        from relay.transport.client import connect, connect_websocket
        from relay.transport.quic.trust import ClientTls

        chosen = tuple(versions)
        trust = tls or ClientTls()
        session: Session
        if url.partition(":")[0].lower() in ("ws", "wss"):
            session = await connect_websocket(url, versions=chosen, tls=trust, bind=bind, timeout=timeout)
        else:
            session = await connect(url, versions=chosen, tls=trust, bind=bind, timeout=timeout)
        client = cls(session, versions=chosen, authority=urlsplit(url).netloc.rpartition("@")[2], **options)
        await client.start(timeout)
        return client

    async def start(self, timeout: float = SETUP_TIMEOUT) -> None:  # noqa: ASYNC109 - running out closes the session
        """Do our part of the set-up, and wait for the peer's where nothing can be said before (01 and 02).

        Raises SessionEnded if the session does not come about.
        """
        if self._started:
            raise RuntimeError("a client is started once")
        self._started = True
        self.session.start(self._on_events)
        self._moq.start(self.peer.now())
        self._flush()
        try:
            async with asyncio.timeout(timeout):
                await self._bell.until(lambda: self._moq.state is State.ESTABLISHED)
        except TimeoutError:
            self._end(SessionCode.CONTROL_TIMEOUT, f"no answer to SETUP within {timeout:g} s")
            self.peer.check()
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
    def version(self) -> Version:
        """What is spoken; RuntimeError before the set-up has told."""
        if not self._started or self._moq.state is State.NEGOTIATING:
            raise RuntimeError("the version is not known before the client has started")
        return self._moq.version

    @property
    def hop(self) -> int:
        """Our own origin id."""
        return self._moq.hop

    async def requested(self, count: int = 1) -> None:
        """Wait until the peer has made `count` requests in all."""
        await self._bell.until(lambda: self.requests.total >= count)

    async def introduced(self) -> PeerInfo:
        """Wait for the peer's SETUP and return it. Versions before 05 have none: there it waits for the session's end."""
        await self._bell.until(lambda: self.peer_setup is not None)
        assert self.peer_setup is not None
        return self.peer_setup

    def check(self) -> None:
        """Raise SessionEnded if the session is over."""
        self.peer.check()

    async def closed(self) -> SessionClosed:
        """Wait for the session's end."""
        await self._gone.wait()
        assert self._closed is not None
        return self._closed

    async def close(self, code: int = 0, reason: str = "") -> None:
        """End the session and wait until its transport is released. Every waiting task gets SessionEnded.

        Without a `code`, what was written reaches the peer first, ends of tracks included, within `FLUSH_TIMEOUT`.
        """
        try:
            if not code and self._started:
                await self._deliver()
        finally:
            self._end(code, reason)
        if not self._started:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._gone.wait()
                released = getattr(self.session, "wait_closed", None)
                if released is not None:
                    await released()
        except TimeoutError:
            logger.debug("the transport is not released after %g s", CLOSE_TIMEOUT)

    async def _deliver(self) -> None:
        """Wait until the peer has what was written."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_TIMEOUT):
                while self.peer.ended is None and (self._moq.serving.ending or self.session.undelivered):  # noqa: ASYNC110 - transports do not tell
                    await asyncio.sleep(FLUSH_POLL)

    # -- publishing

    def publish(
        self,
        path: str,
        *,
        hops: Iterable[int] = (),
        tracks: Iterable[str] = (),
        warm: int = 0,
        cold: int = 0,
        announce: bool = True,
    ) -> Publication:
        """Offer a broadcast, and announce it to a peer that asked or will ask.

        `hops` are those before this client, `warm` and `cold` the costs of 06; `tracks` are opened with default
        properties. Without `announce` it only answers requests for the path.
        """
        path = checked(path)
        publications = self._publisher.publications
        if path in publications and publications[path].announced:
            raise ValueError(f"{path} is published already")
        publication = Publication(self.peer, self._publisher, path, hops=hops, warm=warm, cold=cold)
        publications[path] = publication
        for name in tracks:
            publication.track(name)
        if announce:
            publication.announce()
        return publication

    # -- watching

    def announced(self, prefix: str = "") -> Announced:
        """Ask for the announcements under `prefix`, at once."""
        self.peer.check()
        return Announced(self.peer, checked(prefix))

    async def subscribe(
        self,
        broadcast: str,
        track: str,
        *,
        priority: int = 0,
        max_latency_ms: int = 0,
        ordered: bool = False,
        start_group: int | None = None,
        end_group: int | None = None,
        start_frame: int = 0,
        end_frame: int | None = None,
        describe: bool = True,
        wait: bool = True,
    ) -> Subscription:
        """Subscribe a track; SubscribeError if the peer refuses. What a version lacks is not sent.

        With `describe`, 05 and 06 ask for the track's properties first. With `wait`, 01..04 wait until the peer
        accepts; on 05 and 06, which accept by the first group, a late refusal is raised by the iteration.
        """
        info: TrackProperties | None = None
        if describe and self.version.has_timestamps:
            try:
                info = await self.track_info(broadcast, track)
            except TrackInfoError as error:
                raise SubscribeError(error.code) from error
        self.peer.check()
        params = SubscribeParams(
            priority,
            ordered,
            latency_ms=max_latency_ms,
            history_ms=max_latency_ms,
            start_group=start_group,
            end_group=end_group,
            start_frame=start_frame,
            end_frame=end_frame,
        )
        subscription = Subscription(self.peer, checked(broadcast), track, params, info)
        if wait and self.version.accepts_at_once:
            try:
                await subscription.accepted()
            except BaseException:
                subscription.reset()
                raise
        return subscription

    async def track_info(self, broadcast: str, track: str) -> TrackProperties:
        """Ask for a track's properties (05 and 06, else ValueError); TrackInfoError if the peer refuses."""
        self.peer.check()
        return await TrackInfoCall(self.peer, checked(broadcast), track).answer()

    async def fetch(self, broadcast: str, track: str, group: int, **bounds: Any) -> list[Frame]:
        """Fetch a group whole, or with `bounds` as in `fetch_group`; FetchError if the peer refuses."""
        reader = self.fetch_group(broadcast, track, group, **bounds)
        try:
            return await reader.read_all()
        except BaseException:
            reader.stop()
            raise

    def fetch_group(
        self,
        broadcast: str,
        track: str,
        group: int,
        *,
        priority: int = 0,
        start_frame: int = 0,
        end_frame: int | None = None,
    ) -> FetchedGroup:
        """Fetch a group (05 and 06, else ValueError), or on 06 some of its frames, to be read as it comes."""
        self.peer.check()
        return FetchedGroup(
            self.peer,
            checked(broadcast),
            track,
            group,
            priority=priority,
            start_frame=start_frame,
            end_frame=end_frame,
        )

    def probe(self) -> Probes:
        """Ask for the peer's estimates of the connection (03 and newer, else ValueError)."""
        self.peer.check()
        return Probes(self.peer)

    # -- what the session tells

    def _on_events(self, events: tuple[TransportEvent, ...]) -> None:
        try:
            self._moq.receive(events, self.peer.now())
            self._flush()
        except Exception:  # the boundary: a fault of ours must not leave a task waiting
            logger.exception("closing the session over an internal error")
            self._end(SessionCode.INTERNAL, "internal error")
        for event in events:
            if isinstance(event, SessionClosed):
                self._closed = event
                self._gone.set()

    def _on_timer(self) -> None:
        self._timer = None
        self._moq.on_time(self.peer.now())
        self._flush()

    def _flush(self) -> None:
        """Handle what has happened in the state machine."""
        while events := self._moq.poll():
            for event in events:
                self._on_event(event)
        if self._timer is None and self._moq.deadline != NEVER:
            delay = max(0.0, self._moq.deadline - self.peer.now())
            self._timer = self.peer.runtime.call_later(delay, self._on_timer)

    def _on_event(self, event: Event) -> None:  # noqa: C901 - one line per event
        match event:
            case Closed():
                fault = self.faults[-1] if self.faults and not event.by_peer else None
                self.peer.end(SessionEnded(event.code, event.reason, by_peer=event.by_peer, fault=fault))
            case Fault():
                self.faults.append(event.error)
            case StrayGroup():
                self.stray_groups.append(event)
            case Established():
                """Tasks that wait for the set-up go on."""
            case PeerInfo():
                self.peer_setup = event
            case BitrateReported():
                self.bitrates.append(event.bitrate)
            case AnnounceRequested() | SubscribeRequested() | InfoRequested() | FetchRequested():
                self.requests.append(event)
                self._publisher.on_request(event)
            case ProbeRequested():
                self.requests.append(event)
            case PeerLeaving():
                self.requests.append(event)
                self.goaway = event.uri
            case _:
                owner = self.peer.owners.get(getattr(event, "request", 0))
                if owner is not None:
                    owner.on_event(event)
                return
        self._bell.ring()

    def _end(self, code: int, reason: str) -> None:
        self._moq.close(code, reason)
        self._flush()


UNLIMITED: Final = 1 << 62
