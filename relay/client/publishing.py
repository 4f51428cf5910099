"""What a client has on offer: broadcasts, their tracks, the groups written to them; and its answers to the peer.

Owns the groups that are still held, and the subscriptions that are served from them. `Client.publish` makes
publications; applications write to their tracks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from relay.client.peer import Bell, Noted, Peer
from relay.model.cache import oldest_fresh
from relay.model.path import strip
from relay.model.route import Route
from relay.model.track import SubscribeParams, TrackProperties
from relay.moq.encoding import EncodedGroup, Encoder
from relay.moq.feed import Feed, shared_pieces
from relay.moq.session import (
    AnnounceRequested,
    Event,
    FetchRequested,
    GroupPiece,
    GroupStopped,
    InfoRequested,
    Offer,
    RequestCancelled,
    RequestFinished,
    SubscribeRequested,
    SubscribeUpdated,
)
from relay.wire.errors import StreamCode
from relay.wire.frame import FrameHeader
from relay.wire.varint import MAX_VARINT

KEPT_GROUPS: Final = 8
"""Groups that a track holds for late subscribers and fetches, unless told otherwise."""

TrackRequest: TypeAlias = SubscribeRequested | InfoRequested | FetchRequested


class GroupWriter:
    """One group of a track. End it with `finish` or `abort`."""

    def __init__(self, track: TrackWriter, sequence: int, frame_start: int) -> None:
        self.track = track
        self.group = EncodedGroup(sequence, 0.0, frame_start)
        self.stopped: list[int] = []
        """The codes with which the peer stopped a stream of this group."""
        self._missing = 0
        """Bytes that the last frame lacks."""

    def __repr__(self) -> str:
        return f"<GroupWriter {self.track.name} {self.sequence}>"

    @property
    def sequence(self) -> int:
        """Its number."""
        return self.group.sequence

    @property
    def open(self) -> bool:
        """Whether more may be written."""
        return self.group.open

    @property
    def finished(self) -> bool:
        """Whether it is complete."""
        return self.group.finished

    def write(self, payload: bytes, timestamp: int | None = None) -> None:
        """Append a whole frame. `timestamp` counts in the track's timescale; None takes the clock."""
        self._append(len(payload), timestamp, *([payload] if payload else []))

    def start_frame(self, size: int, timestamp: int | None = None) -> None:
        """Begin a frame of `size` bytes, which follow by `write_chunk`."""
        self._append(size, timestamp)

    def _append(self, size: int, timestamp: int | None, *payload: bytes) -> None:
        self._check_between_frames()
        header = FrameHeader(self.track.now() if timestamp is None else timestamp, size)
        self.group.extend((header, *payload))
        self._missing = size - sum(map(len, payload))
        self.track.send(self)

    def write_chunk(self, data: bytes) -> None:
        """Append the next bytes of the frame begun; ValueError if they are more than it has left."""
        self._check_open()
        if len(data) > self._missing:
            raise ValueError(f"the frame has room for {self._missing} bytes, not {len(data)}")
        if data:
            self._missing -= len(data)
            self.group.extend((data,))
            self.track.send(self)

    def finish(self) -> None:
        """The group is complete."""
        self._check_between_frames()
        self.group.finished = True
        self.track.send(self)

    def abort(self, code: int = StreamCode.CANCELLED) -> None:
        """Give the group up. `code` is of the current stream table, and translated toward older peers."""
        if self.open:
            self.group.code = code
            self.track.held.pop(self.sequence, None)
            self.track.send(self)

    def _check_open(self) -> None:
        if not self.open:
            raise ValueError(f"group {self.sequence} has ended")

    def _check_between_frames(self) -> None:
        self._check_open()
        if self._missing:
            raise ValueError(f"the last frame of group {self.sequence} lacks {self._missing} bytes")


class _Fetch:
    """One FETCH of the peer, answered from one group."""

    def __init__(self, peer: Peer, request: FetchRequested, group: EncodedGroup) -> None:
        self.group = group
        self._peer = peer
        self._request = request.request
        self._encoder = Encoder(peer.moq.encoding, request.start_frame, request.end_frame, group.first_frame)

    def send(self) -> bool:
        """Send what is new; whether that was all."""
        serving = self._peer.moq.serving
        if self.group.code is not None:
            serving.reject(self._request, self.group.code)
            return True
        chunks = tuple(self._encoder.take(self.group.parts))
        fin = self.group.finished or self._encoder.ended
        serving.send_fetched(self._request, chunks, fin=fin)
        return fin


class TrackWriter:
    """A track that may be subscribed and fetched."""

    def __init__(self, peer: Peer, name: str, info: TrackProperties, keep: int) -> None:
        self.name = name
        self.info = info
        self.keep = keep
        self.held: dict[int, GroupWriter] = {}
        """Groups that a late subscriber or a fetch can have, by sequence, the latest `keep` of them."""
        self.latest: int | None = None
        """The highest sequence of a group or datagram so far."""
        self.end: int | None = None
        """After `finish`: the first sequence that will never be."""
        self.code: int | None = None
        """After `abort`."""
        self.updates: Noted[SubscribeUpdated] = Noted()
        """Updates as they arrived, in order, the newest `KEPT` of them."""
        self.departed: list[tuple[SubscribeRequested, int | None]] = Noted()
        """Every subscription that the peer ended: by FIN (None), or the code it reset or stopped it with."""
        self._peer = peer
        self._feeds: dict[int, tuple[SubscribeRequested, Feed]] = {}
        """Running subscriptions, by request."""
        self._told: set[int] = set()
        """Of these, those whose end is told as soon as their groups are delivered."""
        self._fetches: dict[int, _Fetch] = {}
        self._bell = Bell(peer)

    def __repr__(self) -> str:
        return f"<TrackWriter {self.name}>"

    @property
    def subscribers(self) -> int:
        """How many subscriptions are running."""
        return len(self._feeds)

    @property
    def requests(self) -> list[SubscribeRequested]:
        """The running subscriptions as they were asked for, with the updates since."""
        return [request for request, _ in self._feeds.values()]

    async def used(self) -> None:
        """Wait until there is a subscription."""
        await self._bell.until(lambda: self._feeds)

    async def unused(self) -> None:
        """Wait until there is none."""
        await self._bell.until(lambda: not self._feeds)

    async def updated(self, count: int = 1) -> None:
        """Wait until `count` updates have arrived in all."""
        await self._bell.until(lambda: self.updates.total >= count)

    def now(self) -> int:
        """The clock in this track's timescale."""
        return int(self._peer.now() * self.info.timescale)

    def group(self, sequence: int | None = None, frame_start: int = 0) -> GroupWriter:
        """Begin a group, by default the one after the latest. Others stay open until they are ended.

        `frame_start` numbers its first frame, for a group without its beginning (06 only).
        """
        self._check_open()
        if sequence is None:
            sequence = self._next()
        if sequence in self.held:
            raise ValueError(f"group {sequence} exists already")
        if frame_start and not self._peer.moq.version.has_partial_groups:
            raise ValueError(f"{self._peer.moq.version.name_on_wire} has no partial groups")
        group = GroupWriter(self, sequence, frame_start)
        self._note(sequence)
        self.held[sequence] = group
        while len(self.held) > self.keep:
            del self.held[min(self.held)]
        self.send(group, new=True)
        return group

    def datagram(self, payload: bytes, timestamp: int | None = None, *, sequence: int | None = None) -> int:
        """Send a group of one frame as a datagram to every subscriber, once; return its sequence.

        ValueError on versions before 05, which have none, and for what is too large for the session.
        """
        self._check_open()
        moq = self._peer.moq
        if not moq.version.has_timestamps:
            raise ValueError(f"{moq.version.name_on_wire} has no datagrams")
        if len(payload) > moq.datagram_limit:
            raise ValueError(f"a datagram of this session has at most {moq.datagram_limit} bytes")
        sequence = self._next() if sequence is None else sequence
        timestamp = self.now() if timestamp is None else timestamp
        self._note(sequence)
        for request in self._feeds:
            moq.serving.send_datagram(request, sequence, timestamp, payload)
        return sequence

    def finish(self) -> None:
        """No new group will come. Open groups may still be written to, subscribers see the end after them."""
        self._check_open()
        self.end = self._next()
        self._end_if_complete()

    def abort(self, code: int = StreamCode.CANCELLED) -> None:
        """Give the track up, its open groups too. `code` is of the current stream table."""
        if self.code is None:
            self.code = code
            for group in list(self.held.values()):
                group.abort(code)
            for request in list(self._feeds):
                self._peer.moq.serving.reject(request, code)
                self._leave(request)
            self.held.clear()

    def _next(self) -> int:
        return 0 if self.latest is None else self.latest + 1

    def _note(self, sequence: int) -> None:
        self.latest = sequence if self.latest is None else max(self.latest, sequence)

    def _check_open(self) -> None:
        if self.end is not None or self.code is not None:
            raise ValueError(f"track {self.name} has ended")

    # -- serving

    def send(self, writer: GroupWriter, *, new: bool = False) -> None:
        """Send what is new of a group."""
        moq, now = self._peer.moq, self._peer.now()
        group = writer.group
        if self._feeds:
            touched = ((group, new),)
            pieces = shared_pieces(touched, moq.encoding)
            for request, (_, feed) in self._feeds.items():
                narrow = feed.is_narrow(group.sequence)
                moq.serving.send_group(request, feed.narrow(touched, pieces) if narrow else pieces, now)
        for request, fetch in list(self._fetches.items()):
            if fetch.group is group and fetch.send():
                del self._fetches[request]
        if not group.open:
            self._end_if_complete()
        self._peer.flush()

    def _end_if_complete(self) -> None:
        """Tell the end to the subscriptions that have all they asked for."""
        unfinished = [writer.group for writer in self.held.values() if writer.open]
        for request, (asked, feed) in self._feeds.items():
            if request in self._told:
                continue
            last = asked.params.end_group
            done = last is not None and self.latest is not None and self.latest >= last
            final = self.end if last is None or not done else min(last + 1, MAX_VARINT)
            if final is not None and all(feed.is_over(group) for group in unfinished):
                self._peer.moq.serving.end_track(request, final, self._peer.now())
                self._told.add(request)
        self._peer.flush()

    def subscribe(self, request: SubscribeRequested) -> None:
        """SUBSCRIBE of the peer."""
        moq, params = self._peer.moq, request.params
        groups = [self.held[sequence].group for sequence in sorted(self.held)]
        feed = Feed(moq.encoding, params, self._start_of(params, groups))
        self._feeds[request.request] = request, feed
        moq.serving.accept(request.request)
        joined = [piece for group in groups if feed.wants(group) for piece in feed.join(group)]
        self._send_now(request.request, tuple(joined))
        self._bell.ring()
        self._end_if_complete()

    def _start_of(self, params: SubscribeParams, groups: list[EncodedGroup]) -> int:
        start = params.start_group or 0
        if params.start_group is None or params.start_is_floor:
            fresh = oldest_fresh(groups, params.history_ms * self.info.timescale // 1000)
            return start if fresh is None else max(start, fresh)
        return start

    def _send_now(self, request: int, pieces: tuple[GroupPiece, ...]) -> None:
        if pieces:
            self._peer.moq.serving.send_group(request, pieces, self._peer.now())

    def fetch(self, request: FetchRequested) -> None:
        """FETCH of the peer."""
        writer = self.held.get(request.group)
        group = None if writer is None else writer.group
        if (
            group is None
            or request.start_frame < group.first_frame
            or (group.finished and request.start_frame >= group.first_frame + max(1, group.frames))
        ):
            self._peer.moq.serving.reject(request.request, StreamCode.NOT_FOUND)
            return
        fetch = _Fetch(self._peer, request, group)
        if not fetch.send():
            self._fetches[request.request] = fetch

    def on_event(self, event: Event) -> None:
        match event:
            case SubscribeUpdated():
                request, feed = self._feeds[event.request]
                self._feeds[event.request] = request._replace(params=event.params), feed
                groups = [self.held[sequence].group for sequence in sorted(self.held)]
                self._send_now(
                    event.request, feed.replace(event.params, self._start_of(event.params, groups), groups)
                )
                self.updates.append(event)
                self._end_if_complete()
            case GroupStopped():
                if (writer := self.held.get(event.sequence)) is not None:
                    writer.stopped.append(event.code)
            case RequestCancelled():
                self._fetches.pop(event.request, None)
                if event.request in self._feeds:
                    self.departed.append((self._feeds[event.request][0], event.code))
                self._leave(event.request)
            case RequestFinished():
                self._leave(event.request)
        self._bell.ring()

    def _leave(self, request: int) -> None:
        self._feeds.pop(request, None)
        self._told.discard(request)
        self._peer.owners.pop(request, None)
        self._bell.ring()


class Publication:
    """A broadcast of ours.

    What it is announced with is told as given, also to a peer that occurs in `hops`: a test may offer a loop.
    """

    def __init__(
        self, peer: Peer, publisher: Publisher, path: str, *, hops: Iterable[int], warm: int, cold: int
    ) -> None:
        self.path = path
        self.route = Route(tuple(hops), warm, cold)
        self.announced = False
        self.closed = False
        self.tracks: dict[str, TrackWriter] = {}
        self.requests: Noted[TrackRequest] = Noted()
        """What the peer asked of this broadcast, in order, the newest `KEPT` requests."""
        self._peer = peer
        self._publisher = publisher
        self._bell = Bell(peer)

    def __repr__(self) -> str:
        return f"<Publication {self.path}>"

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
        """Offer a track. One that has ended, or was aborted, may be offered anew under its name."""
        old = self.tracks.get(name)
        if old is not None and old.end is None and old.code is None:
            raise ValueError(f"track {name} exists already")
        info = TrackProperties(priority, ordered, latency_ms, timescale)
        self.tracks[name] = track = TrackWriter(self._peer, name, info, keep)
        return track

    def subscriptions(self) -> list[SubscribeRequested]:
        """The SUBSCRIBEs among the requests."""
        return [request for request in self.requests if isinstance(request, SubscribeRequested)]

    async def requested(self, count: int = 1) -> None:
        """Wait until `count` requests have arrived in all."""
        await self._bell.until(lambda: self.requests.total >= count)

    def announce(self) -> None:
        """Announce it (again)."""
        if self.closed:
            raise ValueError(f"{self.path} is closed")
        if not self.announced:
            self.announced = True
            self._publisher.tell(self)

    def update(
        self, *, hops: Iterable[int] | None = None, warm: int | None = None, cold: int | None = None
    ) -> None:
        """Change what it is announced with. Versions before 05 cannot express it: there nothing is sent."""
        old = self.route
        self.route = Route(
            old.hops if hops is None else tuple(hops),
            old.warm if warm is None else warm,
            old.cold if cold is None else cold,
        )
        if self.announced:
            self._publisher.tell(self)

    def unannounce(self) -> None:
        """Withdraw the announcement. Subscriptions go on, and requests for the path are still answered."""
        if self.announced:
            self.announced = False
            self._publisher.tell(self)

    def close(self, code: int = StreamCode.CANCELLED) -> None:
        """Withdraw it, and give up what its tracks have not ended by themselves."""
        if self.closed:
            return
        self.unannounce()
        self.closed = True
        self._publisher.forget(self)
        for track in self.tracks.values():
            track.abort(code)

    def note(self, request: TrackRequest) -> None:
        """The peer asks for something of it."""
        self.requests.append(request)
        self._bell.ring()


class Publisher:
    """The publishing half of a client."""

    def __init__(self, peer: Peer) -> None:
        self.publications: dict[str, Publication] = {}
        self._peer = peer
        self._interests: dict[int, str] = {}
        """Prefixes that the peer wants announcements for, by request."""

    def tell(self, publication: Publication) -> None:
        """Tell the peer that a publication is live, or is not."""
        for request, prefix in self._interests.items():
            if strip(publication.path, prefix) is not None:
                offer = self._offer(publication) if publication.announced else None
                self._peer.moq.serving.announce(request, publication.path, offer)
        self._peer.flush()

    @staticmethod
    def _offer(publication: Publication) -> Offer:
        return Offer(publication.path, publication.route, id(publication))

    def forget(self, publication: Publication) -> None:
        """It answers no more requests."""
        if self.publications.get(publication.path) is publication:
            del self.publications[publication.path]

    def on_request(self, event: AnnounceRequested | TrackRequest) -> None:
        """The peer asks for something."""
        serving = self._peer.moq.serving
        if isinstance(event, AnnounceRequested):
            self._interests[event.request] = event.prefix
            self._peer.owners[event.request] = self
            live = [one for one in self.publications.values() if one.announced]
            under = [self._offer(one) for one in live if strip(one.path, event.prefix) is not None]
            serving.announce_initial(event.request, under)
            return
        publication = self.publications.get(event.broadcast)
        if publication is None:
            serving.reject(event.request, StreamCode.UNROUTABLE)
            return
        publication.note(event)
        track = publication.tracks.get(event.track)
        if track is None:
            serving.reject(event.request, StreamCode.NOT_FOUND)
        elif track.code is not None:
            serving.reject(event.request, track.code)
        elif isinstance(event, InfoRequested):
            serving.send_info(event.request, track.info)
        else:
            self._peer.owners[event.request] = track
            if isinstance(event, SubscribeRequested):
                track.subscribe(event)
            else:
                track.fetch(event)

    def on_event(self, event: Event) -> None:
        if isinstance(event, RequestCancelled):
            self._interests.pop(event.request, None)
            self._peer.owners.pop(event.request, None)


__all__ = ["GroupWriter", "Publication", "Publisher", "TrackWriter"]
