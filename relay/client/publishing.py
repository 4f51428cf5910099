"""The publishing side of a client.

`PublishedTrack` of `relay.moq` holds the groups and answers the peer; here a task can wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from relay.client.endpoint import KEPT, Endpoint, Handle
from relay.model.route import Route
from relay.model.track import TrackProperties
from relay.moq import session as moq
from relay.moq.published import PublishedTrack
from relay.wire.errors import StreamCode

KEPT_GROUPS: Final = 8  # held for late subscribers and fetches, by default


class TrackWriter(PublishedTrack, Handle):
    """A track of ours, which peers may subscribe to and fetch."""

    def __init__(self, endpoint: Endpoint, name: str, info: TrackProperties, keep: int) -> None:
        PublishedTrack.__init__(self, endpoint.moq, endpoint.runtime.now, endpoint.flush, name, info, keep)
        Handle.__init__(self, endpoint)
        self.requests: deque[moq.SubscribeRequested | moq.FetchRequested] = deque(maxlen=KEPT)  # the newest

    async def used(self) -> None:
        """Wait for a subscription."""
        await self.until(lambda: self.subscribers)

    async def unused(self) -> None:
        """Wait until there is no subscription."""
        await self.until(lambda: not self.subscribers)

    def on_event(self, event: moq.Event) -> None:
        if isinstance(event, moq.SubscribeRequested | moq.FetchRequested):
            self.requests.append(event)
            self._endpoint.handles[event.request] = self
        super().on_event(event)
        self.ring()

    def _leave(self, request: int) -> None:
        super()._leave(request)
        self._endpoint.handles.pop(request, None)
        self.ring()


class Publication(Handle):
    """A broadcast of ours. Its route is announced as given, also to a peer in its `hops`: a test may offer a loop."""

    def __init__(self, endpoint: Endpoint, path: str, route: Route) -> None:
        super().__init__(endpoint)
        self.path = path
        self.route = route
        self.announced = False
        self.closed = False
        self.tracks: dict[str, TrackWriter] = {}
        self.requests: deque[moq.Event] = deque(maxlen=KEPT)  # the newest for any of its tracks
        endpoint.publications[path] = self

    def track(
        self,
        name: str,
        priority: int = 127,
        latency_ms: int = 5000,
        timescale: int = 1_000_000,
        *,
        ordered: bool = False,
        keep: int = KEPT_GROUPS,
    ) -> TrackWriter:
        """Offer a track; after its end or abort it may be offered anew under its name.

        `timescale` is in units a second; `keep` counts the groups held for late subscribers and fetches.
        """
        old = self.tracks.get(name)
        if old is not None and old.end is None and old.code is None:
            raise ValueError(f"track {name} exists already")
        info = TrackProperties(priority, ordered, latency_ms, timescale)
        self.tracks[name] = track = TrackWriter(self._endpoint, name, info, keep)
        return track

    def announce(self) -> None:
        """Announce it (again)."""
        if self.closed:
            raise ValueError(f"{self.path} is closed")
        self.announced = True
        self.update()

    def update(
        self, *, hops: Iterable[int] | None = None, warm: int | None = None, cold: int | None = None
    ) -> None:
        """Change the announced route. Versions before 05 cannot express it: nothing is sent to them."""
        old = self.route
        self.route = Route(
            old.hops if hops is None else tuple(hops),
            old.warm if warm is None else warm,
            old.cold if cold is None else cold,
        )
        if self.announced:
            self._endpoint.moq.serving.offer(self.path, moq.Offer(self.path, self.route, id(self)))
            self._endpoint.flush()

    def unannounce(self) -> None:
        """Subscriptions continue, and requests for the path are still answered."""
        if self.announced:
            self.announced = False
            self._endpoint.moq.serving.offer(self.path, None)
            self._endpoint.flush()

    def close(self, code: int = StreamCode.CANCELLED) -> None:
        """Withdraw it, and abort its tracks that have not ended."""
        self.unannounce()
        self.closed = True
        if self._endpoint.publications.get(self.path) is self:
            del self._endpoint.publications[self.path]
        for track in self.tracks.values():
            track.abort(code)

    def on_event(self, event: moq.Event) -> None:
        assert isinstance(event, moq.SubscribeRequested | moq.InfoRequested | moq.FetchRequested)
        self.requests.append(event)
        if (track := self.tracks.get(event.track)) is None:
            self._endpoint.moq.serving.reject(event.request, StreamCode.NOT_FOUND)
        else:
            track.on_event(event)
