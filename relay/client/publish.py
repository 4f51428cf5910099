"""What a client has on offer: broadcasts, their tracks, the groups written to them.

Owns the groups that are still held, and who is served from them. Must never touch a stream: `serve` does, once per
stream that the peer asked for. `Client.publish` makes publications; applications write to their tracks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from relay.client.peer import Bell, Noted
from relay.wire.announce import MAX_HOPS
from relay.wire.errors import StreamCode
from relay.wire.messages import Datagram, Fetch, Subscribe, SubscribeUpdate, TrackInfo, TrackRequest
from relay.wire.version import Version

if TYPE_CHECKING:
    from relay.client.outgoing import FetchOut, SubscriptionOut
    from relay.client.peer import Peer

KEPT_GROUPS: Final = 8
"""Groups that a track holds for those who come late or fetch, unless told otherwise."""

PublicationRequest: TypeAlias = Subscribe | TrackRequest | Fetch


class Announcer(Protocol):
    """Who tells the peer about publications: the client, to every Announce stream of the peer."""

    def announce(self, publication: Publication) -> None:
        """It is live now."""

    def update(self, publication: Publication) -> None:
        """It is reached another way now."""

    def withdraw(self, publication: Publication) -> None:
        """It is not live any more."""

    def forget(self, publication: Publication) -> None:
        """It answers no more requests."""


class PieceFrame:
    """A frame of which not everything may have been written."""

    __slots__ = ("chunks", "missing", "size", "timestamp")

    def __init__(self, size: int, timestamp: int) -> None:
        self.size = size
        self.timestamp = timestamp
        self.chunks: list[bytes] = []
        self.missing = size


class GroupWriter:
    """One group of a track. End it with `finish` or `abort`."""

    def __init__(self, track: TrackWriter, sequence: int, frame_start: int) -> None:
        self.track = track
        self.sequence = sequence
        self.frame_start = frame_start
        self.frames: list[PieceFrame] = []
        self.finished = False
        self.code: int | None = None
        self.stopped: list[int] = []
        """The codes with which the peer stopped a stream of this group."""
        self.outs: dict[SubscriptionOut | FetchOut, None] = {}

    def __repr__(self) -> str:
        return f"<GroupWriter {self.track.name} {self.sequence}>"

    @property
    def open(self) -> bool:
        """Whether more may be written."""
        return not self.finished and self.code is None

    def write(self, payload: bytes, timestamp: int | None = None) -> None:
        """Append a whole frame. `timestamp` counts in the track's timescale; None takes the clock."""
        self.start_frame(len(payload), timestamp)
        if payload:
            self.write_chunk(payload)

    def start_frame(self, size: int, timestamp: int | None = None) -> None:
        """Begin a frame of `size` bytes, which follow by `write_chunk`."""
        self._check_between_frames()
        if timestamp is None:
            timestamp = self.track.now()
        self.frames.append(PieceFrame(size, timestamp))
        self._pump()

    def write_chunk(self, data: bytes) -> None:
        """Append the next bytes of the frame begun; ValueError if they are more than it has left."""
        self._check_open()
        missing = self.frames[-1].missing if self.frames else 0
        if len(data) > missing:
            raise ValueError(f"the frame has room for {missing} bytes, not {len(data)}")
        self.frames[-1].chunks.append(data)
        self.frames[-1].missing -= len(data)
        self._pump()

    def finish(self) -> None:
        """The group is complete."""
        self._check_between_frames()
        self.finished = True
        self._pump()

    def abort(self, code: int = StreamCode.CANCELLED) -> None:
        """Give the group up. `code` is of the current stream table, and translated toward older peers."""
        if self.open:
            self.code = code
            self.track.held.pop(self.sequence, None)
            for out in list(self.outs):
                out.abort_group(self, code)

    def _pump(self) -> None:
        for out in list(self.outs):
            out.pump(self)

    def _check_open(self) -> None:
        if not self.open:
            raise ValueError(f"group {self.sequence} has ended")

    def _check_between_frames(self) -> None:
        self._check_open()
        if self.frames and self.frames[-1].missing:
            raise ValueError(f"the last frame of group {self.sequence} lacks {self.frames[-1].missing} bytes")


class TrackWriter:
    """A track that may be subscribed and fetched."""

    def __init__(self, peer: Peer, name: str, info: TrackInfo, keep: int) -> None:
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
        self.updates: Noted[SubscribeUpdate] = Noted()
        """SUBSCRIBE_UPDATEs as they arrived, in order, the newest `KEPT` of them."""
        self.departed: list[tuple[Subscribe, int | None]] = Noted()
        """Every subscription that the peer ended: by FIN (None), or the code it reset or stopped it with."""
        self._peer = peer
        self._subscribers: list[SubscriptionOut] = []
        self._bell = Bell(peer)

    def __repr__(self) -> str:
        return f"<TrackWriter {self.name}>"

    @property
    def subscribers(self) -> int:
        """How many subscriptions are running."""
        return len(self._subscribers)

    @property
    def requests(self) -> list[Subscribe]:
        """The running subscriptions as they were asked for."""
        return [subscriber.request for subscriber in self._subscribers]

    @property
    def ending(self) -> bool:
        """Whether the end is still to be told to a subscription that has all groups before it."""
        return any(subscriber.ending for subscriber in self._subscribers)

    async def used(self) -> None:
        """Wait until somebody is subscribed."""
        await self._bell.until(lambda: self._subscribers)

    async def unused(self) -> None:
        """Wait until nobody is."""
        await self._bell.until(lambda: not self._subscribers)

    async def updated(self, count: int = 1) -> None:
        """Wait until `count` updates have arrived in all."""
        await self._bell.until(lambda: self.updates.total >= count)

    def now(self) -> int:
        """The clock in this track's timescale."""
        return time.monotonic_ns() * self.info.timescale // 1_000_000_000

    def group(self, sequence: int | None = None, frame_start: int = 0) -> GroupWriter:
        """Begin a group, by default the one after the latest. Others stay open until they are ended.

        `frame_start` numbers its first frame, for a group of which the beginning is missing (06 only).
        """
        self._check_open()
        if sequence is None:
            sequence = self._next()
        if sequence in self.held:
            raise ValueError(f"group {sequence} exists already")
        if frame_start and self._peer.version < Version.LITE_06:
            raise ValueError(f"{self._peer.version.name_on_wire} has no partial groups")
        group = GroupWriter(self, sequence, frame_start)
        self._note(sequence)
        self.held[sequence] = group
        while len(self.held) > self.keep:
            del self.held[min(self.held)]
        for subscriber in list(self._subscribers):
            subscriber.offer(group)
        return group

    def datagram(self, payload: bytes, timestamp: int | None = None, *, sequence: int | None = None) -> int:
        """Send a group of one frame as a datagram to every subscriber, once; return its sequence.

        ValueError on versions before 05, which have none, and for what is too large for the session.
        """
        self._check_open()
        session = self._peer.session
        if sequence is None:
            sequence = self._next()
        if timestamp is None:
            timestamp = self.now()
        # Encoded for nobody as well: whether it is possible must not depend on who listens.
        identities = [subscriber.request.id for subscriber in self._subscribers] or [0]
        datagrams = [
            Datagram(one, sequence, timestamp, payload).encode(self._peer.version) for one in identities
        ]
        if max(map(len, datagrams)) > session.datagram_limit:
            raise ValueError(f"a datagram of this session has at most {session.datagram_limit} bytes")
        self._note(sequence)
        if self._subscribers:
            for data in datagrams:
                session.send_datagram(data)
        return sequence

    def finish(self) -> None:
        """No new group will come. Open groups may still be written to, subscribers see the end after them."""
        self._check_open()
        self.end = self._next()
        for subscriber in list(self._subscribers):
            subscriber.end()

    def abort(self, code: int = StreamCode.CANCELLED) -> None:
        """Give the track up, its open groups too. `code` is of the current stream table."""
        if self.code is None:
            self.code = code
            for group in list(self.held.values()):
                group.abort(code)
            for subscriber in list(self._subscribers):
                subscriber.abort(code)
            self.held.clear()

    def _next(self) -> int:
        return 0 if self.latest is None else self.latest + 1

    def _note(self, sequence: int) -> None:
        self.latest = sequence if self.latest is None else max(self.latest, sequence)

    def _check_open(self) -> None:
        if self.end is not None or self.code is not None:
            raise ValueError(f"track {self.name} has ended")

    # -- for those who serve it

    def joined(self, subscriber: SubscriptionOut) -> None:
        """A subscription has begun."""
        self._subscribers.append(subscriber)
        self._bell.ring()

    def left(self, subscriber: SubscriptionOut) -> None:
        """A subscription is over."""
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)
            self._bell.ring()

    def noted(self) -> None:
        """Something was added to the lists that a test reads."""
        self._bell.ring()


class Publication:
    """A broadcast of ours.

    What it is announced with is told as given, also to a peer that occurs in `hops`: a test may offer a loop.
    """

    def __init__(
        self, peer: Peer, announcer: Announcer, path: str, *, hops: Iterable[int], warm: int, cold: int
    ) -> None:
        self.path = path
        self.hops = tuple(hops)
        self.warm = warm
        self.cold = cold
        self.announced = False
        self.closed = False
        self.tracks: dict[str, TrackWriter] = {}
        self.requests: Noted[PublicationRequest] = Noted()
        """SUBSCRIBE, TRACK and FETCH, as the peer asked them of this broadcast, in order, the newest `KEPT` of them."""
        self._peer = peer
        self._announcer = announcer
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
        info = TrackInfo(priority, ordered, latency_ms, timescale)
        self.tracks[name] = track = TrackWriter(self._peer, name, info, keep)
        return track

    def subscriptions(self) -> list[Subscribe]:
        """The SUBSCRIBEs among the requests."""
        return [request for request in self.requests if isinstance(request, Subscribe)]

    async def requested(self, count: int = 1) -> None:
        """Wait until `count` requests have arrived in all."""
        await self._bell.until(lambda: self.requests.total >= count)

    def announce(self) -> None:
        """Announce it (again)."""
        if self.closed:
            raise ValueError(f"{self.path} is closed")
        if not self.announced:
            self.announced = True
            self._announcer.announce(self)

    def update(
        self, *, hops: Iterable[int] | None = None, warm: int | None = None, cold: int | None = None
    ) -> None:
        """Change what it is announced with: an update on 06, a restart on 05, before that it ends and comes anew."""
        self.hops = self.hops if hops is None else tuple(hops)
        self.warm = self.warm if warm is None else warm
        self.cold = self.cold if cold is None else cold
        if self.announced:
            self._announcer.update(self)

    def unannounce(self) -> None:
        """Withdraw the announcement. Subscriptions go on, and who knows the path still gets an answer."""
        if self.announced:
            self.announced = False
            self._announcer.withdraw(self)

    def close(self, code: int = StreamCode.CANCELLED) -> None:
        """Withdraw it, and give up what its tracks have not ended by themselves."""
        if self.closed:
            return
        self.unannounce()
        self.closed = True
        self._announcer.forget(self)
        for track in self.tracks.values():
            track.abort(code)

    def note(self, request: PublicationRequest) -> None:
        """The peer asks for something of it."""
        self.requests.append(request)
        self._bell.ring()

    def hop_list(self) -> tuple[int, ...]:
        """What stands in the announcement of 04 and newer: 04 alone has the sender sign."""
        return (*self.hops, self._peer.hop) if self._peer.version == Version.LITE_04 else self.hops

    def hop_count(self) -> int:
        """What stands in the announcement of 03, which counts the sender."""
        return min(len(self.hops) + 1, MAX_HOPS)
