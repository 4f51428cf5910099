"""A track that this side publishes in one session: holds its groups, and answers the peer's requests.

The rules are those of a relay's own tracks: `GroupCache`, `Feed`, `GroupFetch`.
"""

from __future__ import annotations

from collections.abc import Callable

from relay.model.cache import GroupCache
from relay.model.limits import Limits
from relay.model.track import SubscribeParams, TrackProperties, placed
from relay.moq import session as moq
from relay.moq.encoding import EncodedGroup
from relay.moq.feed import Feed, GroupFetch, shared_fragments
from relay.moq.protocol import ProtocolSession
from relay.wire.errors import StreamCode
from relay.wire.frame import FrameHeader
from relay.wire.varint import MAX_VARINT


class PublishedTrack:
    """One track of ours in one session."""

    def __init__(
        self,
        session: ProtocolSession,
        clock: Callable[[], float],
        on_change: Callable[[], object],
        name: str,
        info: TrackProperties,
        keep: int,
    ) -> None:
        """`keep` counts the groups held for late requests; `on_change` handles the events of the session."""
        self.name = name
        self.info = info
        self.latest: int | None = None  # the highest sequence so far
        self.end: int | None = None  # after `finish`: the first sequence that will never exist
        self.code: int | None = None  # after `abort`
        # The application decides what it writes.
        limits = Limits(cache_groups=keep, cache_age=moq.NEVER, cache_track=1 << 62)
        self.cache: GroupCache[EncodedGroup] = GroupCache(limits)
        self._feeds: dict[int, Feed] = {}  # by request
        self._fetches: dict[int, GroupFetch] = {}
        self._session, self._clock, self._on_change = session, clock, on_change

    @property
    def subscribers(self) -> int:
        """Running subscriptions."""
        return len(self._feeds)

    def now(self) -> int:
        return int(self._clock() * self.info.timescale)

    def group(self, sequence: int | None = None, frame_start: int = 0) -> GroupWriter:
        """Begin a group, by default the one after the latest. Others stay open until they are ended.

        `frame_start` numbers its first frame, for a group without its beginning (06 only).
        """
        version, now = self._session.version, self._clock()
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
        """A group of one frame, to every subscriber, once; return its sequence.

        ValueError before 05, which has none, and for a payload too large for the session.
        """
        version, limit = self._session.version, self._session.datagram_limit
        if not version.has_timestamps:
            raise ValueError(f"{version.name_on_wire} has no datagrams")
        if len(payload) > limit:
            raise ValueError(f"a datagram of this session has at most {limit} bytes")
        sequence = self._number(sequence)
        timestamp = self.now() if timestamp is None else timestamp
        for request in self._feeds:
            self._session.serving.send_datagram(request, sequence, timestamp, payload)
        return sequence

    def finish(self) -> None:
        """No new group will come. Open groups may still be written to; subscribers get the end after them."""
        self._check_open()
        self.end = self._next()
        self._end_if_complete()
        self._on_change()

    def abort(self, code: int = StreamCode.CANCELLED) -> None:
        """Abort the track and its open groups. `code` is of the current stream table."""
        if self.code is None:
            self.code = code
            self.cache.groups.clear()
            for request in (*self._feeds, *self._fetches):
                self._reject(request, code)
            self._on_change()

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

    def on_event(self, event: moq.Event) -> None:
        match event:
            case moq.SubscribeRequested() | moq.InfoRequested() | moq.FetchRequested() if (
                self.code is not None
            ):
                self._reject(event.request, self.code)
            case moq.InfoRequested(request):
                self._session.serving.send_info(request, self.info, self.cache.largest)
            case moq.SubscribeRequested(request, _, _, params):
                params = placed(params, self.cache.newest)
                self._session.serving.accept(request, self.cache.largest)
                feed = self._feeds[request] = Feed(self._session.encoding, params, self._start_of(params))
                self._send(request, feed.begin(self.cache))
                self._end_if_complete()
            case moq.FetchRequested(request):
                group = self.cache.groups.get(event.group)
                if group is None or group.code is not None:
                    self._reject(request, StreamCode.NOT_FOUND)
                    return
                fetch = GroupFetch(group, self._session.fetch_encoding, event.start_frame, event.end_frame)
                self._fetches[request] = fetch
                self._continue(request, fetch)
            case moq.SubscribeUpdated(request, params):
                params = placed(params, self.cache.newest)
                self._send(request, self._feeds[request].replace(params, self._start_of(params), self.cache))
                self._end_if_complete()
            case moq.RequestCancelled(request) | moq.RequestFinished(request):
                self._leave(request)

    def send(self, group: EncodedGroup, *, new: bool = False) -> None:
        """New data of a group."""
        if self._feeds:
            touched = ((group, new),)
            shared = shared_fragments(touched, self._session.encoding)
            for request, feed in self._feeds.items():
                narrow = feed.is_narrow(group.sequence)
                self._send(request, feed.narrow(touched, shared) if narrow else shared)
        for request, fetch in list(self._fetches.items()):
            if fetch.group is group:
                self._continue(request, fetch)
        if not group.open:
            self._end_if_complete()
        self._on_change()

    def _send(self, request: int, fragments: tuple[moq.GroupFragment, ...]) -> None:
        self._session.serving.send_group(request, fragments, self._clock())

    def _continue(self, request: int, fetch: GroupFetch) -> None:
        new = fetch.take()
        if new.code is not None:
            self._reject(request, new.code)
            return
        if new.chunks or new.fin:
            largest = self.cache.largest
            self._session.serving.send_fetched(request, new.chunks, fin=new.fin, largest=largest)
        if new.fin:
            self._leave(request)

    def _start_of(self, params: SubscribeParams) -> int:
        return self.cache.start_of(params, params.history_ms * self.info.timescale // 1000)

    def _end_if_complete(self) -> None:
        """Send the end to the subscriptions that have all they asked for."""
        unfinished = [group for group in self.cache if group.open]
        for request, feed in self._feeds.items():
            last, final = feed.params.end_group, self.end
            if last is not None and self.latest is not None and self.latest >= last:
                final = min(last + 1, MAX_VARINT)
            if final is not None and all(map(feed.is_over, unfinished)):
                self._session.serving.end_track(request, final, self._clock())

    def _reject(self, request: int, code: int) -> None:
        self._session.serving.reject(request, code)
        self._leave(request)

    def _leave(self, request: int) -> None:
        self._feeds.pop(request, None)
        self._fetches.pop(request, None)


class GroupWriter:
    """End it with `finish` or `abort`."""

    def __init__(self, track: PublishedTrack, group: EncodedGroup) -> None:
        self.track = track
        self.sequence = group.sequence
        self.group = group
        self._missing = 0  # bytes that the last frame lacks

    @property
    def open(self) -> bool:
        return self.group.open and self.track.code is None

    @property
    def finished(self) -> bool:
        return self.group.finished

    def write(self, payload: bytes, timestamp: int | None = None) -> None:
        """Append a whole frame. `timestamp` counts in the track's timescale; None takes the clock."""
        self._begin(len(payload), timestamp, payload)

    def start_frame(self, size: int, timestamp: int | None = None) -> None:
        """A frame of `size` bytes, which follow by `write_chunk`."""
        self._begin(size, timestamp)
        self._missing = size

    def write_chunk(self, data: bytes) -> None:
        """The next bytes of the frame begun; ValueError if they are more than it has left."""
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
        """`code` is of the current stream table, and translated toward older peers."""
        if self.open:
            self.group.code = code
            self.track.send(self.group)

    def _begin(self, size: int, timestamp: int | None, *payload: bytes) -> None:
        self._check_whole()
        header = FrameHeader(self.track.now() if timestamp is None else timestamp, size)
        self.group.extend((header, *filter(None, payload)))  # chunks are never empty
        self.track.send(self.group)

    def _check_open(self) -> None:
        if not self.open:
            raise ValueError(f"group {self.sequence} has ended")

    def _check_whole(self) -> None:
        self._check_open()
        if self._missing:
            raise ValueError(f"the last frame of group {self.sequence} lacks {self._missing} bytes")
