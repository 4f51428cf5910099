"""Groups that a moq-transport peer sends: the streams of one group, merged into one list of objects.

Objects go on as they arrive. Where several streams of a group are open, ids decide the order as far as that
delays an object only until the missing ones come or cannot come any more.

The end of a stream ends its subgroup alone, and streams overtake each other. A group is over if all its objects
up to the last are here, and that one is known; else `Receiver.is_over` decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from relay.model.group import FRAME_OVERHEAD, Object, Part, Subgroup
from relay.moq.core import IGNORE, Handler
from relay.moq.ietf_core import IetfCore
from relay.moq.session import NEVER
from relay.transport.session import Stream
from relay.wire.errors import BadTimestamp, StreamCode, WireError
from relay.wire.frame import MAX_TIMESTAMP
from relay.wire.ietf.data import ObjectHeader, ObjectStatus, SubgroupHeader
from relay.wire.ietf.decoder import UniDecoder, UniItem
from relay.wire.ietf.values import Properties, PropertyType

EARLY_BYTES = 1 << 16  # bytes of a group that waits for its track

HELD_BYTES = 1 << 20  # bytes of a subscription that wait for lower ids of another stream

JOINING_BYTES = 8 << 20  # bytes of streams that wait for the fetch of what precedes them


class Receiver(Protocol):
    """The subscription, as its groups see it."""

    held: int
    """Bytes that wait in all its groups."""

    @property
    def timed(self) -> bool:
        """True if objects have timestamps in units that the track named."""

    def add(
        self, sequence: int, first_frame: int, parts: list[Part], *, fin: bool, code: int | None = None
    ) -> None: ...

    def group_over(self, group: Assembly) -> None:
        """The group has ended."""

    def ends(self, final: int) -> None:
        """The track ends before that group."""

    def is_over(self, group: Assembly) -> bool:
        """Those streams that came have ended. False to wait for others: `end_if_complete` is called again."""

    def has_layers(self) -> None:
        """A group has several streams."""


def start_of(
    number: int, size: int, properties: Properties, subgroup: Subgroup, *, timed: bool, arrival: float
) -> Object:
    """The start of an object. Without a usable timestamp its time is that of arrival, in microseconds."""
    timestamp = None
    if timed:
        timestamp = next((v for kind, v in properties if kind == PropertyType.TIMESTAMP), None)
    if not isinstance(timestamp, int):
        timestamp = int(arrival * 1_000_000)
    elif timestamp > MAX_TIMESTAMP:
        raise BadTimestamp(f"object at time {timestamp}, at most {MAX_TIMESTAMP} is allowed")
    return Object(timestamp, size, number, subgroup, properties)


class Assembly:
    """One group."""

    __slots__ = (
        *("_count", "_highest", "_last", "_receiver", "_streams", "_void", "_writing", "closed"),
        *("broken", "final", "joining", "late_until", "opened", "sequence", "subgroups"),
    )

    def __init__(self, receiver: Receiver, sequence: int, *, joining: bool = False) -> None:
        """`joining`: the objects so far come by a fetch, and precede those of the streams."""
        self.sequence = sequence
        self.joining = joining
        self.subgroups: dict[int, Subgroup] = {}
        self.final: int | None = None  # once known: no object has that id, or a higher one
        self.late_until = NEVER  # for other streams, once those so far have ended
        self.opened = False  # a stream began
        self.closed = False
        self._receiver = receiver
        self._streams: dict[SubgroupStream, None] = {}  # open, or not delivered
        self._writing: SubgroupStream | None = None  # in the middle of an object
        self._last = -1  # highest id of an object
        self._highest: Subgroup | None = None  # of that object
        self._count = 0  # objects
        self._void = False  # it holds the end of the track alone
        self.broken: int | None = None  # code of a stream's reset

    # --- streams

    def begin(self, stream: SubgroupStream) -> None:
        self._streams[stream] = None
        if self.opened:
            self._receiver.has_layers()
        self.opened = True

    def add(self, stream: SubgroupStream, parts: list[Part]) -> None:
        """The next parts; `stream.inside` and `stream.ended` are set."""
        if self.closed:
            return
        if not self.joining and len(self._streams) == 1 and not stream.pending():
            if parts:
                self._emit(parts)
                self._writing = stream if stream.inside else None
            if not stream.ended:
                return  # the hot path
        else:
            stream.hold(parts)
            if self.joining and self._receiver.held > JOINING_BYTES:
                self.stop(StreamCode.GROUP_TOO_LARGE)
                self._receiver.group_over(self)
                return
        self.advance()

    def advance(self) -> None:
        if self.joining:
            return
        while (stream := self._writing or self._next()) is not None and stream.pending():
            self._emit(stream.take())
            self._writing = stream if not stream.pending() and stream.inside else None
        self._streams = {stream: None for stream in self._streams if stream.pending() or not stream.ended}
        self.end_if_complete()

    def _next(self) -> SubgroupStream | None:
        """The stream with the next object."""
        ready = [stream for stream in self._streams if stream.pending()]
        if not ready:
            return None
        best = min(ready, key=lambda stream: stream.head)
        if best.head <= self._last + 1 or len(ready) == len(self._streams):
            return best
        if all(stream.pending() or stream.ended for stream in self._streams):
            return best
        return best if self._receiver.held > HELD_BYTES else None

    def _emit(self, parts: list[Part]) -> None:
        last: Object | None = None
        for part in parts:
            if isinstance(part, Object):
                self._count += 1
                last = part
        if last is not None and last.id > self._last:
            self._last, self._highest = last.id, last.subgroup
        self._receiver.add(self.sequence, 0, parts, fin=False)

    def end_if_complete(self) -> None:
        """All streams have ended, and no other will come."""
        final = self.final
        if self.closed or self.joining or self._streams or not (self._count or final is not None):
            return
        if self.broken is not None:
            self.abort(self.broken)
        elif (final is not None and self._count >= final) or self._receiver.is_over(self):
            self.closed = True
            if final is not None and self._highest is not None and not self._highest.ends_group:
                self._highest.tail = max(0, final - self._last - 1)
            if not self._void:
                self._receiver.add(self.sequence, 0, [], fin=True)
            self._receiver.group_over(self)

    def abort(self, code: int) -> None:
        """Abort the group. `code` is of the current stream registry."""
        if not self.closed:
            self.closed = True
            for stream in self._streams:
                stream.drop()
            self._streams.clear()
            if self._count:
                self._receiver.add(self.sequence, 0, [], fin=False, code=code)
            self._receiver.group_over(self)

    def lost(self, stream: SubgroupStream, code: int) -> None:
        """A stream was reset: with it the group, unless other subgroups go on."""
        self._streams.pop(stream, None)
        stream.drop()
        self.broken = code
        if self._writing is stream or not self._streams:
            self.abort(code)
        else:
            self.advance()

    def ends_with(self, status: ObjectStatus, number: int) -> None:
        """An object without payload, with that id, marks the end of the group or of the track."""
        self.final = number
        if status is ObjectStatus.END_OF_TRACK:
            self._void = not number  # with the group before
            self._receiver.ends(self.sequence + bool(number))

    def stop(self, code: int) -> None:
        """Stop the group's streams. `code` is of the current stream registry."""
        self.closed = True
        streams, self._streams = self._streams, {}
        for stream in streams:
            stream.stop(code)

    def unlink(self) -> None:
        """Break reference cycles."""
        for stream in self._streams:
            stream.stream.context = IGNORE
        self._streams.clear()
        self._writing = None

    # --- the joining fetch

    def fetched(self, parts: list[Part]) -> None:
        if parts and not self.closed:
            self._emit(parts)

    def joined(self) -> None:
        """The fetch has ended: the streams go on behind it."""
        for stream in self._streams:
            stream.skip(self._last)
        waiting = [stream.head for stream in self._streams if stream.pending()]
        if self._last < 0 and (not waiting or min(waiting)):
            self.join_failed()  # it brought nothing, and the streams lack the beginning
            return
        self.joining = False
        self.advance()

    def join_failed(self) -> None:
        """The beginning of the group does not come."""
        self.joining = False
        if not self.closed:
            self.stop(StreamCode.OLD)
            self._receiver.group_over(self)


class SubgroupStream(Handler):
    """A subgroup stream of the peer. Until its track is known, its items wait in `early`."""

    __slots__ = (
        *("_assembly", "_core", "_decoder", "_last", "_parts", "_receiver", "_subgroup"),
        *("early", "ended", "header", "inside", "size", "stream"),
    )

    def __init__(self, core: IetfCore, stream: Stream, header: SubgroupHeader, decoder: UniDecoder) -> None:
        self.stream = stream
        self.header = header
        self.inside = False  # an object
        self.ended = False
        self.early: list[UniItem] = []
        self.size = 0  # bytes in `early`
        self._core = core
        self._decoder = decoder
        self._assembly: Assembly | None = None
        self._receiver: Receiver | None = None
        self._subgroup: Subgroup | None = None
        self._last = -1  # id of an object
        self._parts: deque[Part] = deque()

    def pending(self) -> int:
        """The number of parts that wait for lower ids of other streams."""
        return len(self._parts)

    @property
    def head(self) -> int:
        """The id of the first waiting object; -1 for the rest of one."""
        part = self._parts[0]
        return part.id if isinstance(part, Object) else -1

    def hold(self, parts: Sequence[Part]) -> None:
        self._parts.extend(parts)
        self._count(parts)

    def _count(self, parts: Iterable[Part], sign: int = 1) -> None:
        if self._receiver is not None:
            size = sum(len(part) if isinstance(part, bytes) else FRAME_OVERHEAD for part in parts)
            self._receiver.held += sign * size

    def drop(self) -> None:
        """Forget the waiting parts."""
        self._count(self._parts, -1)
        self._parts.clear()

    def stop(self, code: int) -> None:
        self.drop()
        self._core.refuse(self.stream, code)

    def take(self) -> list[Part]:
        """The first waiting object, as far as it is here."""
        parts = [self._parts.popleft()]
        while self._parts and isinstance(self._parts[0], bytes):
            parts.append(self._parts.popleft())
        self._count(parts, -1)
        return parts

    def skip(self, last: int) -> None:
        """Drop objects up to that id."""
        while self._parts and self.head <= last:
            self.take()

    def attach(self, receiver: Receiver, assembly: Assembly) -> None:
        """The track is known: pass on the early events."""
        self._receiver, self._assembly = receiver, assembly
        assembly.begin(self)
        early, self.early = self.early, []
        self._pass(early)

    # --- events of the stream

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        self.size += len(data)
        self.begin(self._decoder.feed(data), fin=fin)
        if self._assembly is None and self.size > EARLY_BYTES:
            self._core.cancel(stream)
            self.early.clear()

    def begin(self, items: Sequence[UniItem], *, fin: bool) -> None:
        """`fin`: they are the last."""
        if fin:
            self._decoder.end()
            self.ended = True
        self.inside = self._decoder.in_object
        if self._assembly is None:
            self.early += items
        else:
            self._pass(items)

    def _pass(self, items: Sequence[UniItem]) -> None:
        assembly, receiver = self._assembly, self._receiver
        assert assembly is not None
        assert receiver is not None
        parts: list[Part] = []
        for item in items:
            if isinstance(item, bytes):
                parts.append(item)
            elif isinstance(item, ObjectHeader):
                if item.status is ObjectStatus.NORMAL:
                    subgroup = self._subgroup or self._named(item.id, assembly)
                    self._last = item.id
                    timed, now = receiver.timed, self._core.now
                    parts.append(
                        start_of(item.id, item.size, item.properties, subgroup, timed=timed, arrival=now)
                    )
                elif item.status is not ObjectStatus.DOES_NOT_EXIST:
                    assembly.ends_with(item.status, item.id)
        if self.ended and self.header.end_of_group and assembly.final is None:
            assembly.final = self._last + 1
        assembly.add(self, parts)

    def _named(self, first: int, assembly: Assembly) -> Subgroup:
        header = self.header
        number = first if header.subgroup is None else header.subgroup
        starts = header.first_object or not first
        known = Subgroup(number, header.priority, starts=starts, ends_group=header.end_of_group)
        self._subgroup = assembly.subgroups.setdefault(number, known)
        return self._subgroup

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._lost(self._core.received(code))

    def on_fault(self, error: WireError) -> None:
        self._lost(error.stream_code)

    def _lost(self, code: int) -> None:
        self.ended = True
        self.early.clear()
        if self._assembly is not None:
            self._assembly.lost(self, code)
