"""One subscription of a moq-transport peer: its messages, and the streams of its groups.

A group is a stream, and several if the publisher's group has several subgroups (`SubgroupStreams`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from relay.model.backlog import Ranks, send_priority
from relay.model.group import Object, Subgroup
from relay.model.track import Begin, SubscribeParams, TrackProperties
from relay.moq.core import RequestOwner
from relay.moq.delivery import Delivery, GroupStream
from relay.moq.ietf_core import IetfCore
from relay.moq.ietf_exchange import Exchange, RequestHandler
from relay.moq.ietf_fetching import FetchAnswer, Fill
from relay.moq.session import GroupFragment, Location, SubscribeRequested, SubscribeUpdated
from relay.transport.session import Stream
from relay.wire.errors import StreamCode
from relay.wire.ietf.codes import DoneStatus
from relay.wire.ietf.data import ObjectDatagram, SubgroupHeader
from relay.wire.ietf.messages import Message, PublishDone, RequestError, RequestOk, RequestUpdate, SubscribeOk
from relay.wire.ietf.parameters import Parameters
from relay.wire.ietf.profile import done_code
from relay.wire.ietf.streams import encode_datagram, subgroup_header
from relay.wire.ietf.values import (
    AbsoluteRange,
    Filter,
    GroupOrder,
    NextObject,
    Properties,
    PropertyType,
    RelativeGroup,
)
from relay.wire.ietf.values import Location as WireLocation
from relay.wire.ietf.varint import encode_vi64
from relay.wire.varint import encode_varint

DEFAULT_PRIORITY: Final = 128

MOST_JOINS: Final = 8  # joining fetches that wait for the answer to their SUBSCRIBE

MOST_UPDATES: Final = 16  # likewise; others are answered before it

TIMEOUTS: Final = (PropertyType.DELIVERY_TIMEOUT, PropertyType.SUBGROUP_DELIVERY_TIMEOUT)

HEADERS: Final = 64
"""Bytes of a group's streams: later subgroups are not known when it begins."""

END_OF_GROUP: Final = b"\x00\x00\x03"
"""An object without properties, behind its id."""


def params_of(params: Parameters, before: SubscribeParams | None = None) -> SubscribeParams:
    """Parameters of SUBSCRIBE, or an update of `before`. In the peer's priority lower is more urgent."""
    base = before or SubscribeParams(priority=255 - DEFAULT_PRIORITY)
    if params.priority is not None:
        base = base._replace(priority=255 - params.priority)
    if params.order is not None:
        base = base._replace(ordered=params.order is GroupOrder.ASCENDING)
    if params.delivery_timeout is not None:
        base = base._replace(latency_ms=params.delivery_timeout)
    return base if params.filter is None else _placed(base, params.filter)


def _placed(params: SubscribeParams, wanted: Filter) -> SubscribeParams:
    params = params._replace(
        start_group=None, start_frame=0, end_group=None, end_frame=None, begin=None, back=0
    )
    match wanted:
        case NextObject():
            return params._replace(begin=Begin.NEXT_OBJECT)
        case RelativeGroup(0):
            return params._replace(begin=Begin.NEXT_GROUP)
        case RelativeGroup(back):
            return params._replace(back=back - 1)
        case AbsoluteRange(start, end_group, end_object):
            return params._replace(
                start_group=start.group, start_frame=start.object, end_group=end_group, end_frame=end_object
            )
        case _:
            return params


def properties_of(info: TrackProperties) -> Properties:
    """Properties as the track's publisher gave them, or those that stand for a moq-lite one."""
    if info.pairs is not None:
        return info.pairs
    return (
        (PropertyType.TIMESCALE, info.timescale),
        (PropertyType.DEFAULT_PRIORITY, 255 - info.priority),
        (PropertyType.DEFAULT_ORDER, GroupOrder.ASCENDING if info.ordered else GroupOrder.DESCENDING),
    )


class Joining(NamedTuple):
    """A joining fetch from a group on: by its number, or by their count before the newest."""

    fetch: FetchAnswer
    start: int
    relative: bool


class IetfDelivery(Delivery):
    """A subscription of the peer, until `over`.

    Size: what every dialect needs (`Delivery`), and the messages and answers of this one.
    """

    def __init__(
        self,
        core: IetfCore,
        owner: RequestOwner,
        request: int,
        params: Parameters,
        exchange: Exchange,
        ranks: Ranks,
    ) -> None:
        wanted = params_of(params)
        self.info = TrackProperties()
        super().__init__(core, owner, request, exchange.stream, wanted, ranks)
        self.wanted = wanted
        self.exchange = exchange
        self.named = "", ""  # broadcast and track
        self.begun = False  # of a track that we offer: our owner was asked for it
        self.patient_until = 0.0
        """The time until which it waits for a publisher (RENDEZVOUS_TIMEOUT)."""
        self._ietf = core
        self._accepted = False
        self._paused = params.forward is False
        self._streams = 0
        self._largest: Location | None = None
        self.fill: Fill | None = None
        self.fills: Filter | None = None  # what that selects
        self._leads: dict[bool, tuple[bytes, bytes]] = {}
        self._number = encode_varint if core.profile.quic_varints else encode_vi64
        self._joins: list[Joining] = []  # that wait for the answer to SUBSCRIBE
        self._updates: list[RequestUpdate] = []  # likewise
        exchange.handler = Subscribing(self)

    def describe(self, info: TrackProperties) -> None:
        self.info = info
        self._prefer(self.wanted)

    def _prefer(self, params: SubscribeParams) -> None:
        """The timeout is the publisher's, too: the shorter one counts."""
        limits = [params.latency_ms]
        limits += [v for kind, v in self.info.pairs or () if kind in TIMEOUTS and isinstance(v, int)]
        super()._prefer(params._replace(latency_ms=min(filter(None, limits), default=0)))

    # --- the peer

    def on_update(self, message: RequestUpdate) -> None:
        if self.over:
            return
        params = message.params
        if params.forward is not None and params.forward is self._paused:
            self._paused = not params.forward
            if self._paused:
                self._abort_groups()
        former, self.wanted = self.wanted, params_of(params, self.wanted)
        if self._accepted or len(self._updates) >= MOST_UPDATES:
            self.exchange.updated(message)
        else:
            self._updates.append(message)
        if self.wanted != former:
            self._prefer(self.wanted)
            if self._accepted:
                self._core.emit(SubscribeUpdated(self.request, self.wanted))

    def on_finished(self) -> None:
        if self._ietf.profile.fin_cancels and not self.over:
            self._stop_filling(StreamCode.CANCELLED)
            self.unsubscribe(None)
            self._done(DoneStatus.SUBSCRIPTION_ENDED)

    def on_left(self, code: int) -> None:
        if not self.over:
            self._stop_filling(code)
            self.unsubscribe(code)
            if self.exchange.shares_stream and self._accepted:
                self._done(DoneStatus.SUBSCRIPTION_ENDED)

    def _stop_filling(self, code: int) -> None:
        if self.fill is not None:
            self.fill.on_left(code)

    def _abort_groups(self) -> None:
        wire = self._core.code(StreamCode.CANCELLED)
        for sending in list(self.backlog):
            if sending.open or sending.stream.unsent:
                sending.stream.reset(wire)
            self.backlog.drop(sending.sequence)

    # --- messages

    def accept(self, largest: Location | None) -> None:
        if self._accepted:
            return
        self._accepted = True
        core = self._ietf
        where = None if largest is None else WireLocation(*largest)
        properties = properties_of(self.info) if core.profile.track_properties else ()
        params = Parameters(largest=where)
        if core.profile.fixed_fields:
            params = Parameters(
                largest=where,
                expires=0,
                order=GroupOrder.ASCENDING if self.info.ordered else GroupOrder.DESCENDING,
            )
        self.exchange.send(SubscribeOk(self.exchange.id, params, properties, request_id=self.exchange.id))
        for update in self._updates:
            self.exchange.updated(update)
        self._updates.clear()
        self._largest = largest
        if self.fill is not None:
            self._fill_in(self.fill, largest)
        joins, self._joins = self._joins, []
        for join in joins:
            self.join(*join)

    def _fill_in(self, fill: Fill, largest: Location | None) -> None:
        wanted = self.fills
        if largest is None:
            fill.refuse_range()
            return
        start = WireLocation(largest[0] + 1, 0)  # nothing
        if isinstance(wanted, RelativeGroup) and wanted.back:
            start = WireLocation(max(0, largest[0] + 1 - wanted.back), 0)
        elif isinstance(wanted, AbsoluteRange):
            start = wanted.start
        fill.begin(start, largest)

    def join(self, fetch: FetchAnswer, start: int, relative: bool) -> None:  # noqa: FBT001 - as in `Joining`
        """Begin a joining fetch, which ends where this subscription begins."""
        if not self._accepted and len(self._joins) < MOST_JOINS:
            self._joins.append(Joining(fetch, start, relative))
        elif not self._accepted:
            fetch.refuse(StreamCode.NO_CAPACITY)
        elif self._largest is None or (self._paused and self._ietf.profile.request_streams):
            fetch.refuse_range()
        else:
            group, last = self._largest
            fetch.begin(WireLocation(max(0, group - start) if relative else start, 0), (group, last))

    def send(self, fragments: tuple[GroupFragment, ...], now: float) -> int:
        return 0 if self._paused else super().send(fragments, now)

    def _open(self, fragment: GroupFragment, rank: int) -> tuple[Stream, int]:
        chunks, sequence = fragment.chunks, fragment.sequence
        priority = send_priority(self.backlog.priority, rank)
        if not chunks or isinstance(chunks[0], Subgroup):
            streams = SubgroupStreams(self, sequence, priority, starts=not fragment.start_frame)
            streams.write(chunks, fin=fragment.fin)
            return streams, HEADERS
        stream, header = self.open_stream(sequence, priority, None, starts=not fragment.start_frame)
        stream.write((header, *chunks), fin=fragment.fin)
        return stream, len(header)

    def open_stream(
        self, sequence: int, priority: int, subgroup: Subgroup | None, *, starts: bool
    ) -> tuple[Stream, bytes]:
        """Open a group's stream, with its header, which is not written. `starts`: with the first object."""
        stream = self._core.session.open_uni(priority)
        stream.context = GroupStream(self, sequence)
        self._streams += 1
        ends = self.wanted.end_frame is None or not self._cuts(sequence)
        if subgroup is None and ends:
            lead, tail = self._leads.get(starts) or self._lead(starts=starts)
            return stream, lead + self._number(sequence) + tail
        own = None if subgroup is None else subgroup.priority
        header = SubgroupHeader(
            self.exchange.id,
            sequence,
            0 if subgroup is None else subgroup.number,
            255 - self.info.priority if own is None else own,
            end_of_group=ends and subgroup is not None and subgroup.ends_group,
            first_object=starts and (subgroup is None or subgroup.starts),
            has_properties=True,
        )
        return stream, subgroup_header(header, self._ietf.profile)

    def _cuts(self, sequence: int) -> bool:
        """The subscription ends within the group: its end is not that of the streams."""
        return self.wanted.end_frame is not None and sequence == self.wanted.end_group

    def mark_of(self, sequence: int, tail: int) -> tuple[bytes, ...]:
        """The end of the group, on the stream of a subgroup with `tail`."""
        return () if self._cuts(sequence) else (self._number(tail) + END_OF_GROUP,)

    def _lead(self, *, starts: bool) -> tuple[bytes, bytes]:
        """What is before and behind the group in the header of a moq-lite publisher's."""
        header = SubgroupHeader(
            self.exchange.id,
            0,
            priority=255 - self.info.priority,
            end_of_group=True,
            first_object=starts,
            has_properties=True,
        )
        data = subgroup_header(header, self._ietf.profile)
        self._leads[starts] = data[:-2], data[-1:]
        return self._leads[starts]

    def send_datagram(self, sequence: int, timestamp: int, payload: bytes, start: Object | None) -> bool:
        if self._paused:
            return False
        session = self._core.session
        number, priority, ends = 0, None, True
        properties: Properties = ((PropertyType.TIMESTAMP, timestamp),)
        if start is not None:
            number, properties = start.id, start.properties
            priority, ends = start.subgroup.priority, start.subgroup.ends_group
        if priority is None:
            priority = 255 - self.info.priority
        datagram = ObjectDatagram(
            self.exchange.id, sequence, number, payload, priority, properties, end_of_group=ends
        )
        data = encode_datagram(datagram, self._ietf.profile)
        if len(data) > session.datagram_limit:
            return False
        session.send_datagram(data)
        return True

    def _end(self, final: int) -> None:
        last = self.wanted.end_group
        of_range = last is not None and final > last and not self._ietf.profile.has_fill
        self._done(DoneStatus.SUBSCRIPTION_ENDED if of_range else DoneStatus.TRACK_ENDED)

    def refuse(self, code: int) -> None:
        for join in self._joins:
            join.fetch.refuse(code)
        if self.fill is not None and self._accepted:
            self.fill.refuse(code)
        if self._accepted:
            self._finish(self._ietf.done(code))
        else:
            self.exchange.error(code)

    def _done(self, status: DoneStatus) -> None:
        self._finish(done_code(status, self._ietf.profile))

    def _finish(self, status: int) -> None:
        self.exchange.send(PublishDone(status, self._streams, request_id=self.exchange.id), fin=True)


class OfferedDelivery(IetfDelivery):
    """A track that we offer by PUBLISH: a subscription of the peer once it agrees."""

    def __init__(
        self,
        core: IetfCore,
        owner: RequestOwner,
        request: int,
        params: Parameters,
        exchange: Exchange,
        ranks: Ranks,
    ) -> None:
        super().__init__(core, owner, request, params, exchange, ranks)
        self._accepted = True  # there is no SUBSCRIBE to answer
        exchange.handler = Offering(self)

    def agreed(self, params: Parameters) -> None:
        """PUBLISH_OK, or an update of the peer: it wants objects, unless `forward` is 0."""
        if params.forward is False or self.over:
            return
        if not self.begun:
            self.begun = True
            self.wanted = params_of(params, self.wanted)
            self._prefer(self.wanted)
            self._core.emit(SubscribeRequested(self.request, *self.named, self.wanted))

    def denied(self) -> None:
        if not self.over:
            self.unsubscribe(None)

    def on_update(self, message: RequestUpdate) -> None:
        if self.begun:
            super().on_update(message)
        else:
            self.exchange.updated(message)
            self.agreed(message.params)


class Subscribing(RequestHandler):
    """The exchange of a subscription of the peer."""

    def __init__(self, delivery: IetfDelivery) -> None:
        self._delivery = delivery

    def on_message(self, message: Message) -> None:
        if isinstance(message, RequestUpdate):
            self._delivery.on_update(message)
        else:
            super().on_message(message)

    def on_finished(self) -> None:
        self._delivery.on_finished()

    def on_left(self, code: int) -> None:
        self._delivery.on_left(code)


class Offering(Subscribing):
    """The exchange of a track that we offer."""

    def __init__(self, delivery: OfferedDelivery) -> None:
        super().__init__(delivery)
        self._offered = delivery

    def on_message(self, message: Message) -> None:
        if isinstance(message, RequestOk):
            self._offered.agreed(message.params)
        elif isinstance(message, RequestError):
            self._offered.denied()
        else:
            super().on_message(message)


class SubgroupStreams:
    """The streams of one group, as one: `Subgroup` among the chunks says whose bytes follow."""

    __slots__ = (
        *("_current", "_delivery", "_fin", "_priority", "_sequence", "_starts", "_streams"),
        *("context", "id", "opened_by_peer", "unidirectional"),
    )

    def __init__(self, delivery: IetfDelivery, sequence: int, priority: int, *, starts: bool) -> None:
        self.context: Any = None
        self.id = -1
        self.unidirectional, self.opened_by_peer = True, False
        self._delivery = delivery
        self._sequence = sequence
        self._priority = priority
        self._starts = starts
        self._streams: dict[Subgroup | None, Stream] = {}
        self._current: Subgroup | None = None

    def write(self, chunks: Sequence[Any], *, fin: bool = False) -> None:
        run: list[bytes] = []
        for chunk in chunks:
            if isinstance(chunk, Subgroup):
                self._flush(run)
                run = []
                self._current = chunk
            else:
                run.append(chunk)
        self._flush(run)
        if fin:
            if not self._streams:
                self._open(None)
            for subgroup, stream in self._streams.items():
                mark: tuple[bytes, ...] = ()
                if subgroup is not None and subgroup.tail is not None:
                    mark = self._delivery.mark_of(self._sequence, subgroup.tail)
                stream.write(mark, fin=True)

    def _flush(self, run: Sequence[bytes]) -> None:
        if run:
            stream = self._streams.get(self._current)
            if stream is None:
                stream = self._open(self._current)
            stream.write(run)

    def _open(self, subgroup: Subgroup | None) -> Stream:
        stream, header = self._delivery.open_stream(
            self._sequence, self._priority, subgroup, starts=self._starts
        )
        self._streams[subgroup] = stream
        stream.write((header,))
        return stream

    def reset(self, code: int) -> None:
        for stream in self._streams.values():
            stream.reset(code)

    def stop(self, code: int) -> None:
        """Nothing to stop: the peer never sends on our streams."""

    def prioritize(self, priority: int) -> None:
        self._priority = priority
        for stream in self._streams.values():
            stream.prioritize(priority)

    @property
    def unsent(self) -> int:
        return sum(stream.unsent for stream in self._streams.values())

    @property
    def undelivered(self) -> bool:
        return any(stream.undelivered for stream in self._streams.values())
