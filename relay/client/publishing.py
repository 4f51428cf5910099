"""The publishing side of a client: broadcasts, their tracks, the groups written to them; and answers to the peer.

`Client.publish` makes publications; applications write to their tracks. The rules of the relay's own tracks,
`GroupCache` and `Feed`, decide which groups are held and which a request gets. Must never read or write a message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from relay.client.endpoint import KEPT, UNLIMITED, Endpoint, Handle
from relay.model.cache import GroupCache
from relay.model.limits import Limits
from relay.model.route import Route
from relay.model.track import SubscribeParams, TrackProperties
from relay.moq import session as moq
from relay.moq.encoding import EncodedGroup
from relay.moq.feed import Feed, shared_fragments
from relay.wire.errors import StreamCode
from relay.wire.frame import FrameHeader
from relay.wire.varint import MAX_VARINT

KEPT_GROUPS: Final = 8  # groups that a track holds for late subscribers and fetches, by default

HELD: Final = replace(Limits(), cache_age=moq.NEVER, cache_track=UNLIMITED)
"""Limits of a track's cache: only the number of groups, since the application decides what it writes."""


class GroupWriter:
    """One group of a track. End it with `finish` or `abort`."""

    def __init__(self, track: TrackWriter, group: EncodedGroup) -> None:
        self.track = track
        self.sequence = group.sequence
        self.group = group
        self._missing = 0  # bytes that the last frame lacks

    def __repr__(self) -> str:
        return f"<GroupWriter {self.track.name} {self.sequence}>"

    @property
    def open(self) -> bool:
        """True if more may be written."""
        return self.group.open and self.track.code is None

    @property
    def finished(self) -> bool:
        """True if all of it is written."""
        return self.group.finished

    def write(self, payload: bytes, timestamp: int | None = None) -> None:
        """Append a whole frame. `timestamp` counts in the track's timescale; None takes the clock."""
        self._begin(len(payload), timestamp, payload)

    def start_frame(self, size: int, timestamp: int | None = None) -> None:
        """Begin a frame of `size` bytes, which follow by `write_chunk`."""
        self._begin(size, timestamp)
        self._missing = size

    def write_chunk(self, data: bytes) -> None:
        """Append the next bytes of the frame begun; ValueError if they are more than it has left."""
        self._check_open()
        if len(data) > self._missing:
            raise ValueError(f"the frame has room for {self._missing} bytes, not {len(data)}")
        if data:
            self._missing -= len(data)
            self.group.extend((data,))
            self.track.send(self.group)

    def finish(self) -> None:
        """The group is complete."""
        self._check_whole()
        self.group.finished = True
        self.track.send(self.group)

    def abort(self, code: int = StreamCode.CANCELLED) -> None:
        """Abort the group. `code` is of the current stream table, and translated toward older peers."""
        if self.open:
            self.group.code = code
            self.track.send(self.group)

    def _begin(self, size: int, timestamp: int | None, *payload: bytes) -> None:
        self._check_whole()
        header = FrameHeader(self.track.now() if timestamp is None else timestamp, size)
        self.group.extend((header, *payload))
        self.track.send(self.group)

    def _check_open(self) -> None:
        if not self.open:
            raise ValueError(f"group {self.sequence} has ended")

    def _check_whole(self) -> None:
        self._check_open()
        if self._missing:
            raise ValueError(f"the last frame of group {self.sequence} lacks {self._missing} bytes")


class TrackWriter(Handle):
    """A track that may be subscribed and fetched."""

    def __init__(self, endpoint: Endpoint, name: str, info: TrackProperties, keep: int) -> None:
        super().__init__(endpoint, name)
        self.name = name
        self.info = info
        self.latest: int | None = None  # the highest sequence of a group or datagram so far
        self.end: int | None = None  # after `finish`: the first sequence that will never exist
        self.code: int | None = None  # after `abort`
        self.cache: GroupCache[EncodedGroup] = GroupCache(replace(HELD, cache_groups=keep))
        self._feeds: dict[int, Feed] = {}
        """Served requests, by number. A fetch is a feed of one group."""
        self._fetches: set[int] = set()
        self.requests: deque[moq.SubscribeRequested | moq.FetchRequested] = deque(maxlen=KEPT)  # the newest

    @property
    def subscribers(self) -> int:
        """Number of running subscriptions."""
        return len(self._feeds) - len(self._fetches)

    async def used(self) -> None:
        """Wait until there is a subscription."""
        await self.until(lambda: self.subscribers)

    async def unused(self) -> None:
        """Wait until there is none."""
        await self.until(lambda: not self.subscribers)

    def now(self) -> int:
        """The clock in this track's timescale."""
        return int(self._endpoint.now() * self.info.timescale)

    def group(self, sequence: int | None = None, frame_start: int = 0) -> GroupWriter:
        """Begin a group, by default the one after the latest. Others stay open until they are ended.

        `frame_start` numbers its first frame, for a group without its beginning (06 only).
        """
        version, now = self._endpoint.moq.version, self._endpoint.now()
        if frame_start and not version.has_partial_groups:
            raise ValueError(f"{version.name_on_wire} has no partial groups")
        if sequence in self.cache.groups:
            raise ValueError(f"group {sequence} exists already")
        group = EncodedGroup(self._number(sequence), now, frame_start)
        self.cache.add(group)
        self.cache.evict(now)
        self.send(group, new=True)
        return GroupWriter(self, group)

    def datagram(self, payload: bytes, timestamp: int | None = None, *, sequence: int | None = None) -> int:
        """Send a group of one frame as a datagram to every subscriber, once; return its sequence.

        ValueError before 05, which has none, and for a payload too large for the session.
        """
        session = self._endpoint.moq
        if not session.version.has_timestamps:
            raise ValueError(f"{session.version.name_on_wire} has no datagrams")
        if len(payload) > session.datagram_limit:
            raise ValueError(f"a datagram of this session has at most {session.datagram_limit} bytes")
        sequence = self._number(sequence)
        timestamp = self.now() if timestamp is None else timestamp
        for request in self._feeds:
            session.serving.send_datagram(request, sequence, timestamp, payload)
        return sequence

    def finish(self) -> None:
        """No new group will come. Open groups may still be written to; subscribers get the end after them."""
        self._check_open()
        self.end = self._next()
        self._end_if_complete()
        self._endpoint.flush()

    def abort(self, code: int = StreamCode.CANCELLED) -> None:
        """Abort the track and its open groups. `code` is of the current stream table."""
        if self.code is None:
            self.code = code
            self.cache.groups.clear()
            for request in list(self._feeds):
                self._endpoint.moq.serving.reject(request, code)
                self._leave(request)
            self._endpoint.flush()

    def _next(self) -> int:
        return 0 if self.latest is None else self.latest + 1

    def _number(self, sequence: int | None) -> int:
        self._check_open()
        sequence = self._next() if sequence is None else sequence
        self.latest = max(sequence, self.latest or 0)
        return sequence

    def _check_open(self) -> None:
        if self.end is not None or self.code is not None:
            raise ValueError(f"track {self.name} has ended")

    # -- serving

    def send(self, group: EncodedGroup, *, new: bool = False) -> None:
        """Send new data of a group."""
        if self._feeds:
            touched = ((group, new),)
            shared = shared_fragments(touched, self._endpoint.moq.encoding)
            for request, feed in list(self._feeds.items()):
                self._send(
                    request, feed.narrow(touched, shared) if feed.is_narrow(group.sequence) else shared
                )
        if not group.open:
            self._end_if_complete()
        self._endpoint.flush()

    def _send(self, request: int, fragments: tuple[moq.GroupFragment, ...]) -> None:
        serving = self._endpoint.moq.serving
        if request not in self._fetches:
            serving.send_group(request, fragments, self._endpoint.now())
            return
        for fragment in fragments:
            if fragment.code is not None:
                serving.reject(request, fragment.code)
            else:
                serving.send_fetched(request, fragment.chunks, fin=fragment.fin)
            if fragment.fin or fragment.code is not None:
                self._leave(request)

    def _end_if_complete(self) -> None:
        """Send the end to the subscriptions that have all they asked for."""
        unfinished = [group for group in self.cache if group.open]
        for request, feed in self._feeds.items():
            last, final = feed.params.end_group, self.end
            if last is not None and self.latest is not None and self.latest >= last:
                final = min(last + 1, MAX_VARINT)
            if final is not None and all(map(feed.is_over, unfinished)):
                self._endpoint.moq.serving.end_track(request, final, self._endpoint.now())

    def serve(self, asked: moq.SubscribeRequested | moq.FetchRequested) -> None:
        """Begin to answer a subscription or a fetch of the peer."""
        session, request = self._endpoint.moq, asked.request
        self.requests.append(asked)
        if isinstance(asked, moq.SubscribeRequested):
            params, start = asked.params, self._start_of(asked.params)
            session.serving.accept(request)
        else:
            start, first = asked.group, asked.start_frame
            if not can_serve(self.cache.groups.get(start), first):
                session.serving.reject(request, StreamCode.NOT_FOUND)
                return
            params = SubscribeParams(
                start_group=start, end_group=start, start_frame=first, end_frame=asked.end_frame
            )
            self._fetches.add(request)
        feed = self._feeds[request] = Feed(session.encoding, params, start)
        self._endpoint.handles[request] = self
        self._send(request, feed.begin(self.cache))
        self._end_if_complete()
        self.ring()

    def _start_of(self, params: SubscribeParams) -> int:
        return self.cache.start_of(params, params.history_ms * self.info.timescale // 1000)

    def on_event(self, event: moq.Event) -> None:
        match event:
            case moq.SubscribeUpdated(request, params):
                self._send(request, self._feeds[request].replace(params, self._start_of(params), self.cache))
                self._end_if_complete()
            case moq.RequestCancelled() | moq.RequestFinished():
                self._leave(event.request)

    def _leave(self, request: int) -> None:
        del self._feeds[request]
        self._fetches.discard(request)
        self._endpoint.handles.pop(request, None)
        self.ring()


def can_serve(group: EncodedGroup | None, first: int) -> bool:
    """True if a group has frame `first`, or may get it."""
    if group is None or group.code is not None or first < group.first_frame:
        return False
    return group.open or first < group.first_frame + max(1, group.frames)


class Publication(Handle):
    """A broadcast of ours. Its route is announced as given, also to a peer in its `hops`: a test may offer a loop."""

    def __init__(self, endpoint: Endpoint, path: str, route: Route) -> None:
        super().__init__(endpoint, path)
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
            self._endpoint.offer(self.path, moq.Offer(self.path, self.route, id(self)))

    def unannounce(self) -> None:
        """Withdraw the announcement. Subscriptions continue, and requests for the path are still answered."""
        if self.announced:
            self.announced = False
            self._endpoint.offer(self.path, None)

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
        serving = self._endpoint.moq.serving
        track = self.tracks.get(event.track)
        if track is None:
            serving.reject(event.request, StreamCode.NOT_FOUND)
        elif track.code is not None:
            serving.reject(event.request, track.code)
        elif isinstance(event, moq.InfoRequested):
            serving.send_info(event.request, track.info)
        else:
            track.serve(event)
