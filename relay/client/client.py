"""A client of one moq-lite session.

Owns the set-up, the hand-over of every stream to who handles it, and the end of the session. Must never read or write
a message itself but SETUP. Applications and tests make one, by `Client.connect` or over any `Session`; it works on
either end of a session, so two of them can talk to each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias
from urllib.parse import urlsplit

from relay.client.announced import Announced
from relay.client.calls import FetchedGroup, Probes, TrackInfoCall
from relay.client.errors import SessionEnded, SubscribeError, TrackInfoError
from relay.client.frames import Frame
from relay.client.incoming import IncomingUni
from relay.client.peer import Bell, Handler, Noted, Peer
from relay.client.publish import Publication
from relay.client.serve import IncomingRequest, Publisher
from relay.client.setup import OldSetup, SetupStream
from relay.client.subscribe import Subscription
from relay.transport.session import (
    DatagramReceived,
    Event,
    SessionClosed,
    StreamData,
    StreamReset,
    StreamStopped,
)
from relay.wire.errors import (
    ProtocolViolation,
    SessionCode,
    WireError,
    session_code_for,
)
from relay.wire.frame import Request, setup_stream
from relay.wire.frame_decoder import MAX_FRAME
from relay.wire.messages import (
    Datagram,
    Fetch,
    GroupHeader,
    Setup,
    SetupForm,
    Subscribe,
    TrackInfo,
    TrackRequest,
)
from relay.wire.text import checked_path
from relay.wire.version import Version

if TYPE_CHECKING:
    from relay.transport.quic.trust import ClientTls
    from relay.transport.session import Session, Stream

logger = logging.getLogger(__name__)

ALL_VERSIONS: Final = tuple(sorted(Version, reverse=True))
"""Newest first."""

MAX_HOP_ID: Final = 2**53 - 1
"""Older browser clients keep ids in a double."""

SETUP_TIMEOUT: Final = 10.0
"""Seconds that a peer has for its part of the set-up."""

FLUSH_TIMEOUT: Final = 5.0
"""Seconds that what was written gets to reach the peer before the session is closed."""

FLUSH_POLL: Final = 0.005
"""Seconds between looks whether it has."""

CLOSE_TIMEOUT: Final = 5.0
"""Seconds that a transport gets to say goodbye."""

OLDEST_ALPN: Final = "moql-01"
"""Names the generation that opens with the first form of SETUP."""

_PATH_PARAM: Final = 1
_AUTHORITY_PARAM: Final = 5

PeerSetup: TypeAlias = Setup | OldSetup


class Client:
    """A session in use. Nothing it waits for outlasts the session: every wait then raises SessionEnded.

    `versions` are those that may be spoken where SETUP decides, `hop` is the own origin id (random by default),
    `target` path and query for a transport without a URL, instead of those it was dialled with. `role`, `cost` and `probe` go into SETUP (05 and 06); `form`
    is how the older SETUP opens. `max_frame` bounds what the peer may send in one frame.
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
    ) -> None:
        if hop is None:
            hop = secrets.randbelow(MAX_HOP_ID) + 1
        self.session = session
        self.peer = Peer(session, hop=hop, max_frame=max_frame)
        self.peer_setup: PeerSetup | None = None
        """What the peer said of itself: SETUP on 05 and 06 once it is here, the older one on 01 and 02."""
        self.faults: list[WireError] = Noted()
        """What the peer did wrong, whether it cost the session or a stream; the newest `KEPT`."""
        self.stray_groups: list[GroupHeader] = Noted()
        """Groups that came for no subscription of ours, and were refused; the newest `KEPT`."""
        self._versions = tuple(versions)
        self._target = target
        self._authority = authority
        self._setup = Setup(role=role, cost=cost, probe=probe, origin=hop)
        self._form = form
        self._setup_stream: SetupStream | None = None
        self._started = False
        self._early: list[Event] = []
        self._publisher = Publisher(self.peer, offers_probe=bool(probe))
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
        version = self.session.version
        if version is not None and version >= Version.LITE_03:
            self._speak(version)
        elif self.session.is_client:
            stream = self.session.open_bidi()
            self._setup_stream = SetupStream(self.peer, stream, self._old_versions(), self._chosen)
            stream.context = self._setup_stream
            try:
                self._open_setup(self._setup_stream)
            except WireError as error:
                self._fail(error)
        try:
            async with asyncio.timeout(timeout):
                await self._bell.until(lambda: self.peer.known_version is not None)
        except TimeoutError:
            code = session_code_for(Version.LITE_01, SessionCode.CONTROL_TIMEOUT)
            self._end(code, f"no answer to SETUP within {timeout:g} s")
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
        """What is spoken."""
        return self.peer.version

    @property
    def hop(self) -> int:
        """Our own origin id."""
        return self.peer.hop

    @property
    def bitrates(self) -> list[int]:
        """What SESSION_INFO of the peer said (01 and 02), the newest `KEPT` times."""
        return self._setup_stream.bitrates if self._setup_stream is not None else []

    @property
    def requests(self) -> list[Request]:
        """The requests of the peer, in order, the newest `KEPT` of them."""
        return self._publisher.requests

    @property
    def goaway(self) -> str | None:
        """The URI of the peer's GOAWAY, which may be empty."""
        return self._publisher.goaway

    async def requested(self, count: int = 1) -> None:
        """Wait until the peer has made `count` requests in all."""
        await self._publisher.requested(count)

    async def introduced(self) -> PeerSetup:
        """Wait for the peer's SETUP and return it. 03 and 04 have none, so there it waits for the session's end."""
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
        """End the session and wait until its transport is released. Everyone who waits gets SessionEnded.

        Without a `code`, what was written reaches the peer first, ends of tracks included, within `FLUSH_TIMEOUT`.
        """
        try:
            if not code and self._started:
                await self._flush()
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

    async def _flush(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_TIMEOUT):
                while self.peer.ended is None and (self._publisher.ending or self.session.undelivered):  # noqa: ASYNC110 - transports do not tell
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
        """Offer a broadcast, and announce it to whoever asked or will ask.

        `hops` are those before this client, `warm` and `cold` the costs of 06; `tracks` are opened with default
        properties. Without `announce` it only answers those who know the path.
        """
        path = checked_path(path)
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
        return Announced(self.peer, checked_path(prefix))

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
        info: TrackInfo | None = None
        if describe and self.version >= Version.LITE_05:
            try:
                info = await self.track_info(broadcast, track)
            except TrackInfoError as error:
                raise SubscribeError(error.code) from error
        self.peer.check()
        request = Subscribe(
            self.peer.next_id(),
            checked_path(broadcast),
            track,
            priority,
            ordered,
            max_latency_ms,
            start_group,
            end_group,
            start_frame,
            end_frame,
        )
        subscription = Subscription(self.peer, request, info)
        if wait and self.version <= Version.LITE_04:
            try:
                await subscription.accepted()
            except BaseException:
                subscription.reset()
                raise
        return subscription

    async def track_info(self, broadcast: str, track: str) -> TrackInfo:
        """Ask for a track's properties (05 and 06, else ValueError); TrackInfoError if the peer refuses."""
        self.peer.check()
        return await TrackInfoCall(self.peer, TrackRequest(checked_path(broadcast), track)).answer()

    async def fetch(
        self,
        broadcast: str,
        track: str,
        group: int,
        *,
        priority: int = 0,
        start_frame: int = 0,
        end_frame: int | None = None,
    ) -> list[Frame]:
        """Fetch a group whole (05 and 06, else ValueError), or on 06 some of its frames; FetchError if refused."""
        reader = self.fetch_group(
            broadcast, track, group, priority=priority, start_frame=start_frame, end_frame=end_frame
        )
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
        """As `fetch`, to be read as it comes."""
        self.peer.check()
        request = Fetch(checked_path(broadcast), track, priority, group, start_frame, end_frame)
        return FetchedGroup(self.peer, request)

    def probe(self) -> Probes:
        """Ask for the peer's estimates of the connection (03 and newer, else ValueError)."""
        self.peer.check()
        return Probes(self.peer)

    # -- set-up

    def _old_versions(self) -> tuple[Version, ...]:
        """The versions that the older SETUP may choose, favourite first."""
        if self.session.version is not None:
            return (self.session.version,)
        if self.session.alpn == OLDEST_ALPN:
            return (Version.LITE_01,)
        return tuple(sorted((one for one in self._versions if one <= Version.LITE_02), reverse=True))

    def _open_setup(self, stream: SetupStream) -> None:
        form = self._form
        if form is None:
            # Servers of that generation choose no subprotocol on WebTransport, and know the first form alone.
            first = self.session.alpn in ("", OLDEST_ALPN) and Version.LITE_01 in self._versions
            form = SetupForm.SESSION if first else SetupForm.DRAFT14
        params: dict[int, int | bytes] = {}
        target = self._own_target()
        if form is SetupForm.DRAFT14 and target is not None:
            params[_PATH_PARAM] = target.encode()
            if self._authority is not None:
                params[_AUTHORITY_PARAM] = self._authority.encode()
        stream.open(form, params)

    def _own_target(self) -> str | None:
        """Path and query, where SETUP has to tell them: a client's alone, without a URL in the transport."""
        session = self.session
        if not session.is_client or session.transport not in ("quic", "memory"):
            return None
        if self._target is not None or session.transport == "memory":
            return self._target
        return (
            ((session.path or "/") + (f"?{session.query}" if session.query else ""))
            if session.path or session.query
            else None
        )

    def _chosen(self, version: Version, setup: OldSetup) -> None:
        self.peer_setup = setup
        self._speak(version)

    def _speak(self, version: Version) -> None:
        """From now on the version is known: introduce ourselves, and take what came too early."""
        self.peer.known_version = version
        if version >= Version.LITE_05:
            setup = self._setup
            own = Setup(setup.probe, self._own_target(), setup.role, setup.cost, setup.origin)
            self.session.open_uni().write([setup_stream(version, own)], fin=True)
        early, self._early = self._early, []
        for event in early:
            self._on_event(event)
        self._bell.ring()

    def _introduced(self, setup: Setup) -> None:
        if self.peer_setup is not None:
            raise ProtocolViolation("SETUP came twice")
        self.peer_setup = setup
        self._bell.ring()

    # -- what the session tells

    def _on_events(self, events: tuple[Event, ...]) -> None:
        for event in events:
            try:
                self._on_event(event)
            except Exception:  # the boundary: a fault of ours must not leave anyone waiting
                logger.exception("closing the session over an internal error")
                self._end(SessionCode.INTERNAL, "internal error")

    def _on_event(self, event: Event) -> None:
        if isinstance(event, SessionClosed):
            self._closed = event
            self.peer.end(SessionEnded(event.code, event.reason, by_peer=event.by_peer))
            self._gone.set()
        elif self.peer.ended is not None:
            return
        elif isinstance(event, StreamData | StreamReset | StreamStopped):
            handler = self._handler(event.stream)
            if handler is not None:
                self._hand_over(handler, event)
            elif self.peer.known_version is None:
                self._early.append(event)
        elif isinstance(event, DatagramReceived):
            self._on_datagram(event.data)

    def _handler(self, stream: Stream) -> Handler | None:
        """Who handles `stream`; None before the version is known, and for a stream that someone opened by hand."""
        handler: Handler | None = stream.context
        if handler is not None or not stream.opened_by_peer:
            return handler
        if self.peer.known_version is None:
            if stream.unidirectional or self.session.is_client or self._setup_stream is not None:
                return None
            handler = self._setup_stream = SetupStream(self.peer, stream, self._old_versions(), self._chosen)
        elif stream.unidirectional:
            on_stray = self.stray_groups.append
            handler = IncomingUni(self.peer, stream, on_setup=self._introduced, on_stray=on_stray)
        else:
            handler = IncomingRequest(self.peer, stream, self._publisher.accept)
        stream.context = handler
        return handler

    def _hand_over(self, handler: Handler, event: StreamData | StreamReset | StreamStopped) -> None:
        try:
            if isinstance(event, StreamData):
                handler.on_data(event.data, fin=event.fin)
            elif isinstance(event, StreamReset):
                handler.on_reset(event.code)
            else:
                handler.on_stop(event.code)
        except WireError as error:
            if not error.stream_only:
                self._fail(error)
                return
            self.faults.append(error)
            self.peer.refuse(event.stream, error.stream_code)
            handler.on_fault(error)

    def _on_datagram(self, data: bytes) -> None:
        version = self.peer.known_version
        if version is None or version < Version.LITE_05:
            return
        try:
            datagram = Datagram.decode(data, version)
        except WireError as error:
            self._fail(error)
            return
        subscription = self.peer.subscriptions.get(datagram.subscribe_id)
        if subscription is not None:
            subscription.datagram(datagram)

    def _fail(self, error: WireError) -> None:
        """Close the session over what the peer did."""
        self.faults.append(error)
        code = error.close_code(self.peer.known_version or Version.LITE_01)
        self._end(code, str(error), fault=error)

    def _end(self, code: int, reason: str, *, fault: WireError | None = None) -> None:
        if self.peer.ended is None:
            self.session.close(int(code), reason)
            self.peer.end(SessionEnded(int(code), reason, by_peer=False, fault=fault))
