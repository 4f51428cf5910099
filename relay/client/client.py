"""A client of one session. Two clients can talk to each other."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Self, Unpack
from urllib.parse import urlsplit

from relay.client.endpoint import SETUP_TIMEOUT, Endpoint, Reader
from relay.client.errors import SubscribeError, TrackInfoError
from relay.client.publishing import Publication
from relay.client.watching import Announced, Frame, GroupReader, Probes, Subscription, Wanted, params_of
from relay.model.path import checked
from relay.model.route import Route
from relay.model.track import SubscribeParams, TrackProperties
from relay.moq.session import InfoReceived, SubscribeRequested
from relay.runtime import SYSTEM, Runtime
from relay.transport.client import ClientTls, connect, connect_websocket
from relay.transport.session import Session
from relay.wire.version import ALL_VERSIONS, AnyVersion


class Client(Endpoint):
    """A session in use, at either end."""

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        versions: Iterable[AnyVersion] = ALL_VERSIONS,
        tls: ClientTls | None = None,
        bind: tuple[str, int] | None = None,
        timeout: float = SETUP_TIMEOUT,  # noqa: ASYNC109 - it bounds two steps, and the second closes the session
        runtime: Runtime = SYSTEM,
        **options: Any,
    ) -> Self:
        """Dial `url` and set the session up, with `options` of `Endpoint`.

        ConnectError if that fails, SessionEnded if the peer then closes.
        """
        chosen = tuple(versions)
        dial = connect_websocket if url.lower().startswith(("ws:", "wss:")) else connect
        session: Session = await dial(
            url, versions=chosen, tls=tls or ClientTls(), bind=bind, timeout=timeout, runtime=runtime
        )
        authority = urlsplit(url).netloc.rpartition("@")[2]
        client = cls(session, versions=chosen, runtime=runtime, authority=authority, **options)
        await client.start(timeout)
        return client

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
        if path in self.moq.serving.offers:
            raise ValueError(f"{path} is published already")
        publication = Publication(self, path, Route(tuple(hops), warm, cold))
        for name in tracks:
            publication.track(name)
        if announce:
            publication.announce()
        return publication

    def announced(self, prefix: str = "") -> Announced:
        """Ask for the announcements under `prefix`, at once."""
        self.check()
        return Announced(self, checked(prefix))

    async def subscribe(
        self,
        broadcast: str,
        track: str,
        *,
        ordered: bool = False,
        describe: bool = True,
        wait: bool = True,
        **wanted: Unpack[Wanted],
    ) -> Subscription:
        """SubscribeError if the peer refuses. `ordered` asks for older groups first.

        With `describe`, 05 and 06 ask for the track's properties first. With `wait`, 01..04 wait until the peer
        accepts; on 05 and 06, which accept by the first group, a late refusal is raised by the iteration.
        """
        params = params_of(wanted, SubscribeParams(ordered=ordered))
        info: TrackProperties | None = None
        if describe and self.version.has_timestamps:
            try:
                info = await self.track_info(broadcast, track)
            except TrackInfoError as error:
                raise SubscribeError(error.code) from error
        self.check()
        path = checked(broadcast)
        request = self.moq.requests.subscribe(path, track, params)
        subscription = Subscription(self, SubscribeRequested(request, path, track, params), info)
        if wait and self.version.accepts_at_once:
            try:
                await subscription.accepted()
            except BaseException:
                subscription.reset()
                raise
        return subscription

    async def track_info(self, broadcast: str, track: str) -> TrackProperties:
        """Ask for a track's properties (05 and 06, else ValueError); TrackInfoError if the peer refuses."""
        self.check()
        request = self.moq.requests.request_info(checked(broadcast), track)
        try:
            return (await anext(Reader[InfoReceived](self, request, TrackInfoError))).properties
        finally:
            self.cancel(request)

    async def fetch(self, broadcast: str, track: str, group: int, **bounds: Any) -> list[Frame]:
        """Fetch a group whole, or with `bounds` as in `fetch_group`; FetchError if the peer refuses."""
        reader = self.fetch_group(broadcast, track, group, **bounds)
        try:
            return await reader.read_all()
        finally:
            reader.stop()

    def fetch_group(
        self,
        broadcast: str,
        track: str,
        group: int,
        *,
        priority: int = 0,
        start_frame: int = 0,
        end_frame: int | None = None,
    ) -> GroupReader:
        """Fetch a group (05 and 06, else ValueError), or on 06 some of its frames, to be read as it comes."""
        self.check()
        path = checked(broadcast)
        request = self.moq.requests.fetch(
            path, track, group, priority=priority, start_frame=start_frame, end_frame=end_frame
        )
        return GroupReader(self, group, start_frame, partial(self.cancel, request), request)

    def probe(self) -> Probes:
        """The peer's estimates of the connection (03 and newer, else ValueError)."""
        self.check()
        return Probes(self, self.moq.requests.probe())
