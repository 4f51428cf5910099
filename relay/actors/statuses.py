"""Part of the cluster actor: what this relay and the others say of themselves, by a track of each relay's own broadcast.

A relay publishes its status while another one is subscribed, and subscribes to those of others while somebody looks at
`/state`. A relay without that track refuses the subscription, and has no status.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from relay.actors import messages as m
from relay.actors.reader import Over, ReaderActor, Reading
from relay.actors.runtime import Ref, Timer, halt, send
from relay.logger import get_logger
from relay.model.member import LONGEST_STATUS, MemberStatus
from relay.model.path import join
from relay.model.track import TrackProperties
from relay.model.translation import Frame
from relay.moq import session as moq
from relay.runtime import Runtime
from relay.wire.errors import StreamCode

logger = get_logger("relay.cluster")

TRACK: Final = "status.json"

LEASE: Final = 30.0  # seconds that subscriptions outlive the last look at `/state`

RETRY: Final = 10.0  # seconds until a relay that refused is asked again

FRESH: Final = 20.0  # seconds that a status holds: it is renewed every five


class StatusPart(NamedTuple):
    """From a reader: a part of the status of the relay `name`, or its end."""

    name: str
    reader: int  # its number
    part: m.GroupFragment | Over


class LeaseOver(NamedTuple):
    """Timer: there was no reader for a while."""


class OwnStatus:
    """This relay's status, for the tracks that other relays subscribe to."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._payload: bytes | None = None
        self._sequence = 0
        self._tracks: dict[str, Ref] = {}  # subscribed, by URN

    def set(self, status: MemberStatus) -> None:
        """Publish a new status, if another relay is subscribed."""
        self._payload = status.encode()
        if self._tracks:
            self._sequence += 1
            for track in self._tracks.values():
                self._send(track)

    def on_message(self, message: object) -> None:
        """A message of a track of our own broadcast, which has this one track."""
        match message:
            case m.OpenUpstream() if message.name == TRACK:
                if message.describe:
                    send(message.track, m.UpstreamProperties(TrackProperties()))
                send(message.track, m.UpstreamStarted(None))
                self._tracks[message.track.actor_urn] = message.track
                self._sequence += 1
                self._send(message.track)
            case m.DescribeUpstream() if message.name == TRACK:
                send(message.track, m.UpstreamProperties(TrackProperties()))
            case m.FetchUpstream() if message.name == TRACK:
                part = moq.GroupPart(message.sequence, 0, (), False, StreamCode.NOT_FOUND)
                send(message.track, moq.FetchedData(0, part))
            case m.OpenUpstream() | m.DescribeUpstream() | m.FetchUpstream():
                send(message.track, m.UpstreamFailed(StreamCode.NOT_FOUND))
            case m.OpenPast():
                send(message.track, m.PastOver(message.number, 0.0))
            case m.CloseUpstream():
                self._tracks.pop(message.track.actor_urn, None)

    def end(self) -> None:
        """This relay ends: subscribers may find another route."""
        for track in self._tracks.values():
            send(track, m.UpstreamFailed(StreamCode.INTERNAL, gone=True))
        self._tracks.clear()

    def _send(self, track: Ref) -> None:
        if self._payload is not None:
            start = Frame(int(self._runtime.wall_time() * 1_000_000), len(self._payload))
            part = moq.GroupPart(self._sequence, 0, (start, self._payload), True, None)
            send(track, moq.GroupData(0, (part,)))


class Reader:
    """The subscription to one relay's status."""

    __slots__ = ("chunks", "number", "over_at", "ref", "sequence", "size", "status", "taken_at")

    def __init__(self, ref: Ref, number: int) -> None:
        self.ref = ref
        self.number = number  # of its parts
        self.sequence = -1  # of the newest group
        self.chunks: list[bytes] = []
        self.size = 0
        self.over_at: float | None = None
        self.status: MemberStatus | None = None
        self.taken_at = 0.0


class Owner(Protocol):
    """The cluster actor."""

    @property
    def actor_ref(self) -> Ref: ...

    def call_later(self, delay: float, message: object) -> Timer: ...


class OtherStatuses:
    """The statuses of the other relays."""

    def __init__(self, owner: Owner, runtime: Runtime, origin: Ref, number: int, prefix: str) -> None:
        """`number` and `prefix` are those of the cluster actor."""
        self._owner, self._runtime = owner, runtime
        self._origin, self._number, self._prefix = origin, number, prefix
        self._readers: dict[str, Reader] = {}
        self._numbers = itertools.count(1)  # of readers: parts of a former one may be under way
        self._refused: set[str] = set()  # logged
        self._lease: Timer | None = None

    def ask(self, names: Iterable[str]) -> dict[str, MemberStatus]:
        """The latest statuses by name; subscribe to those that are missing."""
        if self._lease is not None:
            self._lease.cancel()
        self._lease = self._owner.call_later(LEASE, LeaseOver())
        now, found = self._runtime.now(), {}
        for name in names:
            reader = self._readers.get(name)
            if reader is None or (reader.over_at is not None and now - reader.over_at >= RETRY):
                self._start(name)
            elif reader.status is not None and now - reader.taken_at < FRESH:
                found[name] = reader.status
        return found

    def _start(self, name: str) -> None:
        number, owner = next(self._numbers), self._owner.actor_ref
        ref = ReaderActor.start(
            self._runtime,
            origin=self._origin,
            number=self._number,
            reading=Reading(join(self._prefix, name), TRACK, follow=True),
            sink=lambda part: send(owner, StatusPart(name, number, part)),
        )
        self._readers[name] = Reader(ref, number)

    def take(self, message: StatusPart) -> None:
        """Take a part of a status."""
        name, number, part = message
        reader = self._readers.get(name)
        if reader is None or reader.number != number or reader.over_at is not None:
            return
        if isinstance(part, Over):
            reader.over_at = self._runtime.now()
        elif part.sequence >= reader.sequence:
            if part.sequence > reader.sequence:
                reader.sequence, reader.size = part.sequence, 0
                reader.chunks.clear()
            chunks = [chunk for chunk in part.chunks if isinstance(chunk, bytes)]
            reader.chunks += chunks
            reader.size += sum(map(len, chunks))
            if reader.size > LONGEST_STATUS:
                self._refuse(name, reader, f"more than {LONGEST_STATUS} bytes")
            elif part.fin:
                self._decode(name, reader)

    def _decode(self, name: str, reader: Reader) -> None:
        try:
            reader.status = MemberStatus.decode(b"".join(reader.chunks), name)
        except ValueError as error:
            self._refuse(name, reader, str(error))
        else:
            reader.taken_at = self._runtime.now()

    def _refuse(self, name: str, reader: Reader, reason: str) -> None:
        if name not in self._refused:
            self._refused.add(name)
            logger.warning("status refused", peer=name, reason=reason)
        reader.status = None
        reader.chunks.clear()
        reader.over_at = self._runtime.now()
        halt(reader.ref)

    def drop(self, name: str) -> None:
        """The relay has left."""
        reader = self._readers.pop(name, None)
        self._refused.discard(name)
        if reader is not None:
            halt(reader.ref)

    def end(self) -> None:
        """There is no reader any more."""
        self._lease = None
        for reader in self._readers.values():
            halt(reader.ref)
        self._readers.clear()
