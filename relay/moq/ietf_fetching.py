"""FETCH of a moq-transport peer: requests for one group after the other, answered on one stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Final, Protocol

from relay.model.backlog import send_priority
from relay.model.group import FrameStart, Object, Part
from relay.moq.core import IGNORE
from relay.moq.ietf_core import IetfCore
from relay.moq.ietf_exchange import Exchange, RequestHandler
from relay.moq.session import FetchRequested, InfoRequested, RequestCancelled
from relay.moq.session import Location as LastFrame
from relay.transport.session import Stream
from relay.wire.errors import StreamCode
from relay.wire.ietf.codes import Refusal
from relay.wire.ietf.data import FetchGap, FetchObject, GapKind
from relay.wire.ietf.messages import FetchOk, Message, RequestUpdate
from relay.wire.ietf.parameters import Parameters
from relay.wire.ietf.profile import FetchForm, refusal_code
from relay.wire.ietf.streams import FetchEncoder, fetch_header
from relay.wire.ietf.values import GroupOrder, Location, PropertyType
from relay.wire.varint import MAX_VARINT

MOST_MISSING: Final = 8  # groups in a row that do not exist

DEFAULT_PRIORITY: Final = 128


def in_order(parts: Sequence[Part]) -> Iterable[Part]:
    """Objects by their ids: those of several subgroups may have come otherwise."""
    ids = [part.id for part in parts if isinstance(part, Object)]
    if ids == sorted(ids):
        return parts
    begun = next(n for n, part in enumerate(parts) if isinstance(part, Object))
    objects: list[tuple[int, list[Part]]] = []
    for part in parts[begun:]:
        if isinstance(part, Object):
            objects.append((part.id, [part]))
        else:
            objects[-1][1].append(part)
    objects.sort(key=itemgetter(0))
    return [*parts[:begun], *(part for _, own in objects for part in own)]


class FetchOwner(Protocol):
    """The serving side."""

    def track_fetch(self, request: int, fetch: FetchAnswer) -> None:
        """`request` asks for the next group of the fetch, or for its end."""

    def fetch_over(self, request: int) -> None: ...

    def fetch_rank(self) -> int:
        """The rank of a new fetch among groups: it goes before older ones of its priority."""

    def wrote(self, stream: Stream, request: int, size: int) -> None:
        """Count unsent bytes."""


class FetchAnswer(RequestHandler):
    """`end` is the last object, inclusive; without an object, the whole group.

    Size: the range, the place in it, and the stream that is written, which change together.
    """

    def __init__(
        self,
        core: IetfCore,
        owner: FetchOwner,
        exchange: Exchange,
        named: tuple[str, str],
        params: Parameters,
        publisher_priority: int = DEFAULT_PRIORITY,
    ) -> None:
        self.request = 0  # for the present group, or the end of the track
        self._core = core
        self._owner = owner
        self._exchange = exchange
        self._named = named
        self._priority = 255 - (DEFAULT_PRIORITY if params.priority is None else params.priority)
        self._publisher_priority = publisher_priority
        self._descending = params.order is GroupOrder.DESCENDING
        self._start = Location(0, 0)
        self._end: tuple[int, int | None] = 0, None
        self._group = 0
        self._frame = -1  # number of the last frame in it
        self._wanted = False  # the present object
        self._left = 0  # bytes that it lacks
        self._is_last = False  # it is the end of the range
        self._missing = 0
        self._unknown: int | None = None  # the last of groups that are not here, since the last object
        self._back = 0
        self._rank = owner.fetch_rank()
        self._stream: Stream | None = None
        self._encoder = FetchEncoder(core.profile, descending=self._descending)
        self._over = False

    # --- the range

    def begin(self, start: Location, end: tuple[int, int | None]) -> None:
        """Begin the answer. `start` and `end` are inclusive."""
        self._start, self._end = start, end
        if start.group > end[0] or (start.group == end[0] and end[1] is not None and start.object > end[1]):
            self.refuse_range()
            return
        self._ask(end[0] if self._descending else start.group)

    def begin_back(self, back: int, floor: Location = Location(0, 0)) -> None:  # noqa: B008 - immutable
        """The newest `back` groups from `floor` on, up to the newest object, which our owner tells first."""
        self._back, self._start = back, floor
        self.request = self._core.new_request()
        self._owner.track_fetch(self.request, self)
        self._core.emit(InfoRequested(self.request, *self._named))

    def located(self, largest: LastFrame | None) -> None:
        self._owner.fetch_over(self.request)
        self.request = 0
        if largest is None:
            self.refuse_range()
        else:
            self.begin(max(Location(max(0, largest[0] + 1 - self._back), 0), self._start), largest)

    def _ask(self, group: int) -> None:
        self._group, self._frame = group, -1
        self._wanted = self._is_last = False
        self.request = self._core.new_request()
        self._owner.track_fetch(self.request, self)
        self._core.emit(FetchRequested(self.request, *self._named, group, self._priority, 0, None))

    def _next(self) -> None:
        """Go to the next group: the present one is done."""
        at_end = self._group <= self._start.group if self._descending else self._group >= self._end[0]
        beyond = (
            bool(self._missing) and self._end[0] == MAX_VARINT
        )  # an open end is at the first missing group
        if at_end or self._missing >= MOST_MISSING or beyond:
            if self._unknown is not None:
                self._unknown = self._start.group if self._descending else self._end[0]
            self._finish()
        else:
            self._ask(self._group + (-1 if self._descending else 1))

    # --- answers

    def take(self, parts: Sequence[Part], *, fin: bool, largest: LastFrame | None = None) -> None:
        """`largest` is the track's newest object when our owner got the request: what follows is not fetched."""
        if largest is not None and self._stream is None and not self._clamp(largest):
            self._drop(fin=fin)
            self.refuse_range()
            return
        self._missing = 0
        chunks: list[bytes] = []
        done = self._group > self._end[0]
        for part in in_order(parts):
            if done:
                break
            if isinstance(part, bytes):
                self._left -= len(part)
                if self._wanted:
                    chunks.append(part)
                done = self._is_last and not self._left
                continue
            header = self._begin_object(part)
            if header is not None:
                chunks.append(header)
            done = self._is_last and not self._left
        self._write(chunks)
        if done or fin:
            self._drop(fin=fin)
            self._next()

    def _clamp(self, largest: LastFrame) -> bool:
        """End there at the latest. False if nothing is left."""
        group, last = self._end
        if group > largest[0] or (group == largest[0] and (last is None or last > largest[1])):
            self._end = largest
        return self._start <= largest

    def _drop(self, *, fin: bool) -> None:
        """Done with the present group."""
        self._owner.fetch_over(self.request)
        if not fin:
            self._core.emit(RequestCancelled(self.request, None))

    def _begin_object(self, start: FrameStart) -> bytes | None:
        """The header of an object in the range."""
        number = start.id if isinstance(start, Object) else self._frame + 1
        late = number <= self._frame
        self._frame = max(number, self._frame)
        group, last = self._end
        bounded = last is not None and self._group == group
        if bounded and number > (last or 0):
            self._wanted, self._is_last, self._left = False, True, 0
            return None
        self._left = start.size
        self._is_last = bounded and number == last
        self._wanted = not late and (self._group != self._start.group or number >= self._start.object)
        if not self._wanted:
            return None
        if isinstance(start, Object):
            subgroup, properties = start.subgroup.number, start.properties
            priority = start.subgroup.priority
        else:
            subgroup, properties = 0, ((PropertyType.TIMESTAMP, start.timestamp),)
            priority = None
        if priority is None:
            priority = self._publisher_priority
        gap = self._gap()
        item = FetchObject(self._group, subgroup, number, priority, start.size, properties)
        return gap + self._encoder.header(item)

    def _gap(self) -> bytes:
        """Says that objects may exist which the answer leaves out (16 and later)."""
        group, self._unknown = self._unknown, None
        profile = self._core.profile
        if group is None or profile.fetch_form is FetchForm.FULL:
            return b""
        last = self._end[1] if group == self._end[0] else None
        return self._encoder.header(
            FetchGap(group, profile.max_varint if last is None else last, GapKind.UNKNOWN)
        )

    def missing(self, code: int) -> None:
        """The present group does not exist, or its publisher refuses."""
        self._owner.fetch_over(self.request)
        self._missing += 1
        self._unknown = self._group
        if self._frame >= 0:
            self.refuse(code)  # it broke off
        elif self._stream is None and self._missing >= MOST_MISSING:
            self.refuse(code)
        else:
            last = self._start.group if self._descending else self._end[0]
            if self._stream is None and self._group == last:
                self.refuse(code)
            else:
                self._next()

    def _write(self, chunks: list[bytes]) -> None:
        stream = self._stream
        if stream is None:
            stream = self._stream = self._core.session.open_uni(send_priority(self._priority, self._rank))
            stream.context = IGNORE
            self._agree()
            chunks = [fetch_header(self._exchange.id, self._core.profile), *chunks]
        if chunks:
            stream.write(chunks)
            self._owner.wrote(stream, self.request, sum(map(len, chunks)))

    def _finish(self) -> None:
        gap = self._gap()
        self._write([gap] if gap else [])
        assert self._stream is not None
        self._stream.write((), fin=True)
        self._over = True
        self._leave()

    def refuse(self, code: int) -> None:
        if self._over:
            return
        self._over = True
        if self._stream is None:
            self._deny(self._core.refusal(code))
        else:
            self._stream.reset(self._core.code(code))
            self._abort(code)

    def refuse_range(self) -> None:
        """Nothing is there, before anything was sent."""
        self._over = True
        self._deny(refusal_code(Refusal.INVALID_RANGE, self._core.profile))

    # --- messages

    def _agree(self) -> None:
        self._exchange.send(FetchOk(*self._end, request_id=self._exchange.id))

    def _deny(self, number: int) -> None:
        """`number`: as REQUEST_ERROR has it."""
        self._exchange.refuse_with(number)

    def _leave(self) -> None:
        self._exchange.leave()

    def _abort(self, code: int) -> None:
        """A reset of the stream of objects may come without its header: that of the request tells, too."""
        if self._core.profile.request_streams:
            self._exchange.cancel(code)
        else:
            self._exchange.leave()

    # --- the peer

    def on_message(self, message: Message) -> None:
        if isinstance(message, RequestUpdate):
            if message.params.priority is not None:
                self._priority = 255 - message.params.priority
                if self._stream is not None:
                    self._stream.prioritize(send_priority(self._priority, self._rank))
            self._exchange.updated(message)
        else:
            super().on_message(message)

    def on_left(self, code: int) -> None:
        if self._over:
            return
        self._over = True
        if self._stream is not None:
            self._stream.reset(self._core.code(StreamCode.CANCELLED))
        if self.request:
            self._owner.fetch_over(self.request)
            self._core.emit(RequestCancelled(self.request, code))


class Fill(FetchAnswer):
    """FILL_PARAMETERS: what precedes a SUBSCRIBE's start, on a fetch stream with its id, without an answer."""

    def _agree(self) -> None:
        pass

    def _deny(self, number: int) -> None:  # noqa: ARG002 - nothing to fill in
        self._over = False
        self._finish()

    def _leave(self) -> None:
        pass

    def _abort(self, code: int) -> None:
        pass
