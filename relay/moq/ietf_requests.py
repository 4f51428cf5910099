"""Our requests to a moq-transport peer, and the objects that it sends for them.

One call of `receive` makes one event of all data of a subscription. SUBSCRIBE_OK has the properties of a track,
so a question about them subscribes; a subscription that follows takes that one over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from relay.model.group import Part, Subgroup
from relay.model.track import (
    DEFAULT_PRIORITY,
    MICROSECONDS,
    SubscribeParams,
    TrackProperties,
)
from relay.moq.core import IGNORE, Handler
from relay.moq.ietf_announce import PeerNamespaces
from relay.moq.ietf_core import IetfCore, SessionFault
from relay.moq.ietf_exchange import Exchange, Exchanges, RequestHandler
from relay.moq.ietf_groups import Assembly, SubgroupStream, start_of
from relay.moq.ietf_names import fits, namespace_of, path_of, track_of
from relay.moq.session import (
    NEVER,
    DatagramReceived,
    FetchedData,
    GroupData,
    GroupPart,
    InfoReceived,
    LimitExceeded,
    RequestRejected,
    StrayGroup,
    SubscriptionEnded,
    SubscriptionStarted,
    TrackOffered,
)
from relay.transport.session import Stream
from relay.wire.errors import StreamCode, WireError
from relay.wire.ietf.codes import SessionCode
from relay.wire.ietf.data import FetchHeader, FetchObject, ObjectStatus, SubgroupHeader
from relay.wire.ietf.decoder import UniDecoder, UniItem
from relay.wire.ietf.messages import (
    Fetch,
    FetchOk,
    Goaway,
    JoiningFetch,
    Message,
    Publish,
    PublishDone,
    PublishStateNotify,
    RequestError,
    RequestOk,
    Subscribe,
    SubscribeOk,
)
from relay.wire.ietf.parameters import Parameters
from relay.wire.ietf.profile import DraftProfile
from relay.wire.ietf.streams import decode_datagram
from relay.wire.ietf.values import (
    CURRENT_GROUP,
    AbsoluteRange,
    Filter,
    GroupOrder,
    Location,
    NextObject,
    Properties,
    PropertyType,
)
from relay.wire.varint import MAX_VARINT

UNCLAIMED: Final = 2.0
"""Seconds that a subscription for a track's properties waits for a real one."""

UNCLAIMED_BYTES: Final = 1 << 20  # bytes of groups that it keeps

EARLY: Final = 3.0  # seconds that a group may precede the answer to its SUBSCRIBE

EARLY_STREAMS: Final = 64  # of subscriptions without an answer yet

NEUTRAL: Final = SubscribeParams(priority=DEFAULT_PRIORITY)  # of a track without subscribers yet

PUBLISH_GRACE: Final = 0.05
"""Seconds in which a subscription that waits for an offered track may take it, before the answer to PUBLISH."""

RETIRED: Final = 1_024  # aliases of ended subscriptions

LATE: Final = 1.0
"""Seconds at least that owners wait for late groups when a track has ended.

Groups wait half as long for further streams: they end before that.
"""

MOST_LATE: Final = 64  # groups of a subscription that wait for further streams


class DuplicateAlias(SessionFault):
    """A track alias that is in use."""

    ietf_code = SessionCode.DUPLICATE_TRACK_ALIAS


def info_of(properties: Properties) -> TrackProperties:
    """A track's properties from SUBSCRIBE_OK or PUBLISH."""
    known = {kind: value for kind, value in properties if isinstance(value, int)}
    priority = known.get(PropertyType.DEFAULT_PRIORITY)
    timescale = known.get(PropertyType.TIMESCALE, 0)
    return TrackProperties(
        priority=DEFAULT_PRIORITY if priority is None else max(0, 255 - priority),
        ordered=known.get(PropertyType.DEFAULT_ORDER) == GroupOrder.ASCENDING,
        max_latency_ms=min(known.get(PropertyType.MAX_CACHE_DURATION, 0), MAX_VARINT),
        timescale=timescale if 0 < timescale <= MAX_VARINT else MICROSECONDS,
        pairs=properties,
    )


def filter_of(params: SubscribeParams, profile: DraftProfile) -> Filter:
    """The current group from its start: where filters cannot say that, a fetch brings its beginning."""
    if params.start_group is not None and not params.start_is_floor:
        end = params.end_group
        return AbsoluteRange(Location(params.start_group, params.start_frame), end)
    return CURRENT_GROUP if profile.has_fill else NextObject()


def is_timed(properties: Properties) -> bool:
    """Objects have timestamps in units that the track names."""
    return any(kind == PropertyType.TIMESCALE for kind, _ in properties)


class Subscription(RequestHandler):
    """A subscription of ours, and its open groups.

    Size: until its owner claims it, it keeps what a question found out, and the data of its first groups.
    """

    def __init__(
        self, core: IetfCore, owner: Requests, broadcast: str, track: str, params: SubscribeParams
    ) -> None:
        self.request = 0  # none while it serves a question alone
        self.name = broadcast, track
        self.params = params
        self.questions: list[int] = []
        self.alias: int | None = None  # once accepted
        self.held = 0
        self.timed = False
        self.takes_updates = True
        self.gone = False
        self.unclaimed_until = NEVER
        self.info: TrackProperties | None = None
        self.exchange: Exchange | None = None
        self.groups: dict[int, Assembly] = {}
        self._core = core
        self._owner = owner
        self._largest: Location | None = None
        self._newest = -1
        self._done = False  # no group follows
        self._layers: bool | None = None
        """Groups have several streams; `None`: not known yet. If one is all, no group waits for others."""
        self._over: deque[int] = deque(maxlen=MOST_LATE)  # groups
        self._final: int | None = None
        self._kept = 0  # bytes that wait for a claim
        self._joins = isinstance(filter_of(params, core.profile), NextObject)
        self._join: Join | None = None
        # the groups of this call, by sequence: first frame, parts, fin, code
        self._fresh: dict[int, tuple[int, list[Part], bool, int | None]] = {}

    # --- the answer

    def on_message(self, message: Message) -> None:
        match message:
            case SubscribeOk():
                if self.info is None:
                    self._accepted(message)
            case RequestError():
                if self.info is None:
                    self._rejected(message.code)
                else:
                    self.takes_updates = False  # some publishers then finish the stream, and go on
            case PublishDone():
                self._on_done(message)
            case RequestOk() | PublishStateNotify():
                pass
            case _:
                super().on_message(message)

    def _accepted(self, message: SubscribeOk) -> None:
        info = self.info = info_of(message.properties)
        self.timed = is_timed(message.properties)
        self._largest = message.params.largest
        self.alias = message.alias
        self._owner.name(self, message.alias)
        for question in self.questions:
            self._owner.answered(question)
            self._core.emit(InfoReceived(question, info))
        self.questions.clear()
        if not self.request:
            self.unclaimed_until = self._core.now + UNCLAIMED
        self._start()
        if self._largest is not None and self._joins:
            group = self._largest.group
            self._join = Join(self._core, self._owner, self, self._assembly(group, joining=True))
        self._owner.adopt(self)

    def claim(self, request: int) -> None:
        """The subscription that its owner wants."""
        self.request = request
        self.unclaimed_until = NEVER
        if self.info is not None:
            self._start()
        self.flush()

    def _start(self) -> None:
        if self.request and self.info is not None:
            first = self._largest.group if self._largest is not None and self._joins else None
            self._core.emit(SubscriptionStarted(self.request, first, self.info.priority))

    def _rejected(self, code: int) -> None:
        assert self.exchange is not None
        self._reject(self._core.refused(code, self.exchange.kind), code)

    def _reject(self, code: int, received: int) -> None:
        if self.gone:
            return
        self.end_late()
        self.flush()
        self._owner.forget(self)
        self._done = True
        if self.exchange is not None:
            self.exchange.leave()
        if self.request and self.groups:
            self._owner.linger(self)
        elif self.groups:
            self.leave(None)
        for request in (*self.questions, self.request):
            if request:
                self._owner.answered(request)
                self._core.emit(RequestRejected(request, code, received))
        self.questions.clear()

    def _on_done(self, message: PublishDone) -> None:
        code = self._core.ended(message.status)
        if code is not None:
            self._reject(code, message.status)
            return
        self._ended()

    def _ended(self) -> None:
        if self._done:
            return
        self._done = True
        for group in list(self.groups.values()):
            group.end_if_complete()
        self.flush()
        if self.exchange is not None:
            self.exchange.leave()
        if self.request:
            self._core.emit(SubscriptionEnded(self.request, self._final, closed=True))
        self._owner.settle(self)

    def on_finished(self) -> None:
        """The peer's end without PUBLISH_DONE is the end of the subscription, too."""
        if self.info is None:
            self._reject(StreamCode.NOT_FOUND, StreamCode.NOT_FOUND)
        elif self.takes_updates:
            self._ended()

    def on_left(self, code: int) -> None:
        self._reject(code, code)

    def unlink(self) -> None:
        """Break reference cycles."""
        for group in self.groups.values():
            group.unlink()
        self.groups.clear()
        self._join = None

    def leave(self, code: int | None) -> None:
        """We want no more of it."""
        for group in self.groups.values():
            group.stop(StreamCode.CANCELLED)
        self.groups.clear()
        if self._join is not None:
            self._join.leave()
            self._join = None
        if self.exchange is not None and not self._done:
            self.exchange.cancel(StreamCode.CANCELLED if code is None else code)

    # --- groups

    def begin(self, stream: SubgroupStream) -> None:
        """A stream of the peer begins."""
        sequence = stream.header.group
        group = self.groups.get(sequence)
        if group is None and sequence <= self._newest and sequence in self._over:
            self.has_layers()
            self._core.refuse(stream.stream, StreamCode.OLD)
            return
        largest = self._largest
        partial = self._joins and not stream.header.first_object
        if group is None and partial and largest is not None and sequence <= largest.group:
            self._core.refuse(stream.stream, StreamCode.OLD)  # its beginning does not come
            return
        stream.attach(self, self._assembly(sequence) if group is None else group)

    def _assembly(self, sequence: int, *, joining: bool = False) -> Assembly:
        group = self.groups[sequence] = Assembly(self, sequence, joining=joining)
        if sequence > self._newest:
            self._newest = sequence
            for older in list(self.groups.values()):
                if older is not group:
                    older.end_if_complete()
        return group

    def has_layers(self) -> None:
        self._layers = True

    def is_over(self, group: Assembly) -> bool:
        if not (self._done or group.final is not None or group.sequence < self._newest):
            return False
        if self._layers is False:
            return True
        now = self._core.now
        if group.late_until == NEVER:
            group.late_until = self._owner.late[group] = now + self._core.patience(LATE) / 2
            late = [group for group in self.groups.values() if group.late_until != NEVER]
            if len(late) > MOST_LATE:
                self._end_late(late[0])
        if group.late_until > now:
            return False
        if self._layers is None and group.opened:
            self._layers = False
            self.end_late()
        return True

    def end_late(self) -> None:
        """Wait for no further streams of groups."""
        for group in list(self.groups.values()):
            if group.late_until != NEVER:
                self._end_late(group)

    def _end_late(self, group: Assembly) -> None:
        group.late_until = self._core.now
        group.end_if_complete()

    def ends(self, final: int) -> None:
        self._final = final

    def group_over(self, group: Assembly) -> None:
        if self.groups.get(group.sequence) is group:
            del self.groups[group.sequence]
            self._owner.late.pop(group, None)
            if group.broken is None:
                self._over.append(group.sequence)
            self._end_join(group)
            self._owner.settle(self)

    def _end_join(self, group: Assembly) -> None:
        join = self._join
        if join is not None and join.group is group:
            self._join = None
            if not join.over:
                join.leave()

    def add(
        self, sequence: int, first_frame: int, parts: list[Part], *, fin: bool, code: int | None = None
    ) -> None:
        known = self._fresh.get(sequence)
        if known is not None:
            first_frame, former, _, _ = known
            former += parts
            parts = former
        elif not self._fresh and self.request:
            self._owner.fresh.append(self)
        self._fresh[sequence] = (first_frame, parts, fin, code)
        if not self.request:
            self._kept += sum(len(part) for part in parts if isinstance(part, bytes))
            if self._kept > UNCLAIMED_BYTES:
                self._owner.drop(self)

    def flush(self) -> None:
        if self._fresh and self.request:
            fresh, self._fresh = self._fresh, {}
            groups = [
                GroupPart(sequence, first, tuple(parts), fin, code)
                for sequence, (first, parts, fin, code) in fresh.items()
            ]
            self._core.emit(GroupData(self.request, tuple(groups)))

    def stop_group(self, sequence: int, code: int) -> None:
        group = self.groups.pop(sequence, None)
        if group is not None:
            group.stop(code)
            self._end_join(group)
            self._owner.settle(self)

    @property
    def settled(self) -> bool:
        """Nothing of it can come any more."""
        return self._done and not self.groups


class OfferedTrack(Subscription):
    """PUBLISH of the peer: a subscription that it began, paused while the track has no subscribers here."""

    def __init__(
        self, core: IetfCore, owner: Requests, exchange: Exchange, message: Publish, name: tuple[str, str]
    ) -> None:
        super().__init__(core, owner, name[0], name[1], NEUTRAL)
        self.exchange = exchange
        self.info = info_of(message.properties)
        self.timed = is_timed(message.properties)
        self.alias = message.alias
        self.unanswered_until = core.now + PUBLISH_GRACE
        self._largest = message.params.largest
        self._forward = message.params.forward is not False
        self._awaited = 0  # answers to updates that bring the newest location
        owner.name(self, message.alias)

    def answer(self, *, forward: bool) -> None:
        """Accept the track. `forward` where the answer has it."""
        self.unanswered_until = NEVER
        core, exchange = self._core, self.exchange
        assert exchange is not None
        if core.profile.publish_ok_parameters:
            exchange.ok(
                Parameters(
                    forward=forward,
                    priority=255 - NEUTRAL.priority,
                    order=GroupOrder.DESCENDING,
                    filter=filter_of(self.params, core.profile),
                )
            )
            self._forward = forward
        else:
            exchange.ok()

    def on_time(self) -> None:
        """The track has no subscriber in time."""
        self.answer(forward=False)
        if self._forward:
            self._set_forward(forward=False)

    def _set_forward(self, *, forward: bool) -> None:
        assert self.exchange is not None
        self._forward = forward
        self.exchange.update(Parameters(forward=forward))

    def on_message(self, message: Message) -> None:
        if self.unanswered_until != NEVER:
            self.answer(forward=False)
        if isinstance(message, RequestOk):
            if message.params.largest is not None:
                self._largest = message.params.largest
            if self._awaited:
                self._awaited -= 1
                if not self._awaited and self.request:
                    self._begin_groups()
        elif isinstance(message, RequestError):
            self._awaited = 0
            self._reject(StreamCode.INTERNAL, message.code)
        else:
            super().on_message(message)

    def claim(self, request: int) -> None:
        self.request = request
        if self.unanswered_until != NEVER:
            self.answer(forward=True)
        if self._forward:
            self._begin_groups()
            return
        self._set_forward(forward=True)
        if self._core.profile.fixed_fields:
            self._begin_groups()  # updates have no answer
        else:
            self._awaited += 1

    def _begin_groups(self) -> None:
        self._start()
        if self._largest is not None and self._joins:
            group = self._largest.group
            self._join = Join(self._core, self._owner, self, self._assembly(group, joining=True))
        self._owner.adopt(self)
        self.flush()

    def begin(self, stream: SubgroupStream) -> None:
        if self.request:
            super().begin(stream)
        elif self.unanswered_until == NEVER or not self._owner.is_early(stream):
            self._core.cancel(stream.stream)

    def leave(self, code: int | None) -> None:  # noqa: ARG002 - it goes on, paused
        """Pause the offered track."""
        for group in self.groups.values():
            group.stop(StreamCode.CANCELLED)
        self.groups.clear()
        self._over.clear()
        self._fresh.clear()
        self.request = 0
        if self._join is not None:
            self._join.leave()
            self._join = None
        if self.exchange is not None and not self._done:
            self._set_forward(forward=False)


class FetchParty(RequestHandler):
    """A fetch of ours: its answer, and the objects of its stream."""

    def __init__(self, core: IetfCore, owner: Requests) -> None:
        self.exchange: Exchange | None = None
        self.timed = False
        self.subgroups: dict[int, Subgroup] = {}
        self._core = core
        self._owner = owner
        self.over = False

    def on_message(self, message: Message) -> None:
        match message:
            case RequestError():
                assert self.exchange is not None
                self.failed(self._core.refused(message.code, self.exchange.kind), message.code)
            case FetchOk() | RequestOk():
                pass
            case _:
                super().on_message(message)

    def on_finished(self) -> None:
        """The objects have a stream of their own."""

    def on_left(self, code: int) -> None:
        self.failed(code, code)

    def leave(self, code: int = StreamCode.CANCELLED) -> None:
        self.over = True
        if self.exchange is not None:
            self._owner.fetches.pop(self.exchange.id, None)
            self.exchange.cancel(code)

    def end(self) -> None:
        self.over = True
        if self.exchange is not None:
            self._owner.fetches.pop(self.exchange.id, None)
            self.exchange.leave()

    def failed(self, code: int, received: int) -> None:
        raise NotImplementedError

    def took(self, parts: list[Part], *, fin: bool) -> None:
        raise NotImplementedError


class Join(FetchParty):
    """The beginning of the group in which a subscription starts."""

    def __init__(self, core: IetfCore, owner: Requests, subscription: Subscription, group: Assembly) -> None:
        super().__init__(core, owner)
        self.subscription = subscription
        self.subgroups = group.subgroups
        self.timed = subscription.timed
        self.group = group
        exchange = subscription.exchange
        assert exchange is not None
        self.exchange = owner.exchanges.ask(
            lambda number: JoiningFetch(
                number, exchange.id, 0, params=Parameters(order=GroupOrder.ASCENDING)
            ),
            self,
        )
        owner.fetches[self.exchange.id] = self

    def took(self, parts: list[Part], *, fin: bool) -> None:
        self.group.fetched(parts)
        if fin:
            self.end()
            self.group.joined()

    def failed(self, code: int, received: int) -> None:  # noqa: ARG002 - the subscription goes on without
        if not self.over:
            self.end()
            self.group.joined()


class GroupFetch(FetchParty):
    """Fetches a group for our owner."""

    def __init__(
        self, core: IetfCore, owner: Requests, request: int, group: int, start: int, *, timed: bool
    ) -> None:
        super().__init__(core, owner)
        self.request = request
        self.timed = timed
        self._group = group
        self._start = start

    def took(self, parts: list[Part], *, fin: bool) -> None:
        if not self.over:
            if fin:
                self.end()
                self._owner.forget_fetch(self.request)
            part = GroupPart(self._group, self._start, tuple(parts), fin, None)
            self._core.emit(FetchedData(self.request, part))

    def failed(self, code: int, received: int) -> None:
        if not self.over:
            self.end()
            self._owner.forget_fetch(self.request)
            self._core.emit(RequestRejected(self.request, code, received))


class FetchReader(Handler):
    """A stream of the peer that answers a fetch."""

    def __init__(self, core: IetfCore, fetch: FetchParty, decoder: UniDecoder) -> None:
        self._core = core
        self._fetch = fetch
        self._decoder = decoder

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:  # noqa: ARG002
        self.take(self._decoder.feed(data), fin=fin)

    def take(self, items: Sequence[UniItem], *, fin: bool) -> None:
        if fin:
            self._decoder.end()
        fetch, parts = self._fetch, list[Part]()
        for item in items:
            if isinstance(item, bytes):
                parts.append(item)
            elif isinstance(item, FetchObject) and item.status is ObjectStatus.NORMAL:
                subgroup = fetch.subgroups.get(item.subgroup)
                if subgroup is None:
                    subgroup = Subgroup(item.subgroup, item.priority, starts=True, ends_group=False)
                    fetch.subgroups[item.subgroup] = subgroup
                subgroup.starts = True
                parts.append(
                    start_of(
                        item.id,
                        item.size,
                        item.properties,
                        subgroup,
                        timed=fetch.timed,
                        arrival=self._core.now,
                    )
                )
        fetch.took(parts, fin=fin)

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._fetch.failed(self._core.received(code), code)

    def on_fault(self, error: WireError) -> None:
        self._fetch.failed(error.stream_code, error.stream_code)


class Requests:
    """The requests of our side.

    Size: a method for each command, and for each kind of stream that answers one.
    """

    def __init__(self, core: IetfCore, exchanges: Exchanges) -> None:
        self.exchanges = exchanges
        self.namespaces = PeerNamespaces(core, exchanges)
        self.fresh: list[Subscription] = []  # with data in this call
        self.fetches: dict[int, FetchParty] = {}  # by request id on the wire
        self._core = core
        self._subscriptions: dict[int, Subscription] = {}  # by request
        self._unclaimed: dict[tuple[str, str], Subscription] = {}
        self._offered: dict[tuple[str, str], OfferedTrack] = {}  # by PUBLISH
        self._questions: dict[int, Subscription] = {}
        self._group_fetches: dict[int, GroupFetch] = {}  # by request
        self._aliases: dict[int, Subscription] = {}
        self._retired: deque[int] = deque(maxlen=RETIRED)
        self._asked_to_leave = False
        self._early: dict[SubgroupStream, float] = {}  # until when they wait for their track
        self.late: dict[Assembly, float] = {}  # until when they wait for further streams

    def unlink(self) -> None:
        for subscription in (*self._subscriptions.values(), *self._unclaimed.values()):
            subscription.unlink()
        for fetch in self.fetches.values():
            fetch.exchange = None
        tables = (self._subscriptions, self._unclaimed, self._offered, self._questions, self._aliases)
        for table in tables:
            table.clear()
        self.fetches.clear()
        self._group_fetches.clear()
        for stream in self._early:
            stream.stream.context = IGNORE
        self._early.clear()
        self.late.clear()

    def end_late(self) -> None:
        """No further streams come."""
        for subscription in list(self._subscriptions.values()):
            subscription.end_late()

    def flush(self) -> None:
        """One event per subscription."""
        fresh, self.fresh = self.fresh, []
        for subscription in fresh:
            subscription.flush()

    # --- commands

    def request_announcements(self, prefix: str) -> int:
        return self.namespaces.request(prefix)

    def subscribe(self, broadcast: str, track: str, params: SubscribeParams) -> int:
        request = self._core.new_request()
        if not self._has_name(request, broadcast, track):
            return request
        offered = self._offered.get((broadcast, track))
        if offered is not None and not offered.request:
            self._subscriptions[request] = offered
            offered.claim(request)
            return request
        subscription = self._unclaimed.pop((broadcast, track), None)
        if subscription is None:
            subscription = self._subscribe(broadcast, track, params)
            self._subscriptions[request] = subscription
            subscription.claim(request)
        else:
            # no update of the priority for that: few publishers need it, and some take none
            self._subscriptions[request] = subscription
            subscription.claim(request)
        return request

    def _has_name(self, request: int, broadcast: str, track: str) -> bool:
        """True if the draft can name the track; else the request is rejected."""
        found = fits(broadcast, track, self._core.profile)
        if not found:
            self._core.emit(RequestRejected(request, StreamCode.NOT_FOUND, StreamCode.NOT_FOUND))
        return found

    def _subscribe(self, broadcast: str, track: str, params: SubscribeParams) -> Subscription:
        core = self._core
        subscription = Subscription(core, self, broadcast, track, params)
        wanted = Parameters(
            forward=True,
            priority=255 - params.priority,
            order=GroupOrder.ASCENDING if params.ordered else GroupOrder.DESCENDING,
            filter=filter_of(params, core.profile),
        )
        namespace, name = namespace_of(broadcast), track.encode()
        subscription.exchange = self.exchanges.ask(
            lambda number: Subscribe(number, namespace, name, wanted), subscription
        )
        return subscription

    def update(self, request: int, params: SubscribeParams) -> None:
        """Update the priority of a subscription."""
        subscription = self._subscriptions.get(request)
        if subscription is None or subscription.exchange is None:
            return
        idle = subscription.exchange.stream.unsent <= self._core.limits.message  # the peer reads
        if params.priority != subscription.params.priority and subscription.takes_updates and idle:
            subscription.exchange.update(Parameters(priority=255 - params.priority))
        subscription.params = params

    def request_info(self, broadcast: str, track: str) -> int:
        core = self._core
        request = core.new_request()
        if not self._has_name(request, broadcast, track):
            return request
        key = broadcast, track
        subscription: Subscription | None = self._offered.get(key) or self._unclaimed.get(key)
        if subscription is None:
            subscription = next((s for s in self._subscriptions.values() if s.name == key), None)
        if subscription is None:
            subscription = self._unclaimed[key] = self._subscribe(broadcast, track, NEUTRAL)
        if subscription.info is not None:
            core.emit(InfoReceived(request, subscription.info))
        else:
            subscription.questions.append(request)
            self._questions[request] = subscription
        return request

    def fetch(
        self,
        broadcast: str,
        track: str,
        group: int,
        *,
        priority: int = 0,
        start_frame: int = 0,
        end_frame: int | None = None,
    ) -> int:
        core = self._core
        request = core.new_request()
        if not self._has_name(request, broadcast, track):
            return request
        named = [*self._subscriptions.values(), *self._unclaimed.values()]
        timed = any(s.timed for s in named if s.name == (broadcast, track))
        fetch = GroupFetch(core, self, request, group, start_frame, timed=timed)
        where = AbsoluteRange(Location(group, start_frame), group, end_frame)
        wanted = Parameters(priority=255 - priority, order=GroupOrder.ASCENDING)
        namespace, name = namespace_of(broadcast), track.encode()
        fetch.exchange = self.exchanges.ask(
            lambda number: Fetch(number, namespace, name, where, wanted), fetch
        )
        self._group_fetches[request] = self.fetches[fetch.exchange.id] = fetch
        return request

    def probe(self) -> int:
        """Raises ValueError: moq-transport has no such request."""
        raise ValueError(f"{self._core.version.name_on_wire} has no Probe stream")

    def goaway(self, uri: str = "") -> bool:
        core = self._core
        if core.session.is_client:
            uri = ""
        if not self._asked_to_leave:  # once for each session
            self._asked_to_leave = True
            self.exchanges.write(Goaway(uri))
        return True

    def cancel(self, request: int, code: int | None = None) -> None:
        """No event of the request follows."""
        subscription = self._subscriptions.get(request)
        question = self._questions.pop(request, None)
        if isinstance(subscription, OfferedTrack) and not subscription.gone:
            del self._subscriptions[request]
            subscription.leave(code)
            self.settle(subscription)
        elif subscription is not None:
            self.forget(subscription)
            subscription.leave(code)
        elif question is not None:
            question.questions.remove(request)
            if not question.questions and self._unclaimed.get(question.name) is question:
                self.drop(question)
        elif (fetch := self._group_fetches.pop(request, None)) is not None:
            fetch.leave(StreamCode.CANCELLED if code is None else code)
        else:
            self.namespaces.cancel(request)

    def stop_group(self, request: int, sequence: int, code: int) -> None:
        subscription = self._subscriptions.get(request)
        if subscription is not None:
            subscription.stop_group(sequence, code)

    # --- time

    @property
    def deadline(self) -> float:
        waiting = [subscription.unclaimed_until for subscription in self._unclaimed.values()]
        offered = [track.unanswered_until for track in self._offered.values()]
        early, late = self._early.values(), self.late.values()
        return min((*waiting, *offered, *early, *late, self.namespaces.deadline))

    def on_time(self, now: float) -> None:
        self.namespaces.on_time(now)
        for subscription in [s for s in self._unclaimed.values() if s.unclaimed_until <= now]:
            self.drop(subscription)
        for track in [track for track in self._offered.values() if track.unanswered_until <= now]:
            track.on_time()
        for stream in [stream for stream, until in self._early.items() if until <= now]:
            del self._early[stream]
            self._stray(stream)
        for group in [group for group, until in self.late.items() if until <= now]:
            self.late.pop(group, None)  # another one may have ended it
            group.end_if_complete()
        self.flush()

    # --- for subscriptions

    def name(self, subscription: Subscription, alias: int) -> None:
        """The peer's, on data streams. Raises DuplicateAlias."""
        if self._aliases.get(alias, subscription) is not subscription:
            raise DuplicateAlias(f"track alias {alias} is in use")
        self._aliases[alias] = subscription

    def adopt(self, subscription: Subscription) -> None:
        """Pass on its groups that came before the answer."""
        for stream in [s for s in self._early if s.header.alias == subscription.alias]:
            del self._early[stream]
            subscription.begin(stream)

    def drop(self, subscription: Subscription) -> None:
        """End the subscription of a question that no subscription took over."""
        self.forget(subscription)
        subscription.leave(None)

    def forget(self, subscription: Subscription) -> None:
        subscription.gone = True
        if self._offered.get(subscription.name) is subscription:
            del self._offered[subscription.name]
            self._core.emit(TrackOffered(*subscription.name, offered=False))
            assert subscription.exchange is not None
            self.namespaces.release(subscription.name[0], subscription.exchange.id, said=True)
        if self._unclaimed.get(subscription.name) is subscription:
            del self._unclaimed[subscription.name]
        self._subscriptions.pop(subscription.request, None)
        self._retire(subscription)

    def linger(self, subscription: Subscription) -> None:
        """The subscription is over but for its open groups: our owner cancels them."""
        self._subscriptions[subscription.request] = subscription

    def _retire(self, subscription: Subscription) -> None:
        if subscription.alias is not None and self._aliases.get(subscription.alias) is subscription:
            del self._aliases[subscription.alias]
            self._retired.append(subscription.alias)

    def settle(self, subscription: Subscription) -> None:
        """Forget it if all has come. One with an owner stays until the owner cancels it."""
        if subscription.settled and (subscription.gone or not subscription.request):
            self.forget(subscription)

    def answered(self, question: int) -> None:
        self._questions.pop(question, None)

    def forget_fetch(self, request: int) -> None:
        self._group_fetches.pop(request, None)

    # --- tracks that the peer offers

    def published(self, exchange: Exchange, message: Publish) -> RequestHandler:
        """PUBLISH: the first of a namespace announces it."""
        broadcast, track = path_of(message.namespace), track_of(message.track)
        if track is None:
            exchange.error(StreamCode.NOT_FOUND, "the name has no path")
        elif len(message.track) > self._core.limits.path:
            self._core.emit(LimitExceeded("path", {"path": broadcast, "track_bytes": len(message.track)}))
            exchange.error(StreamCode.UNROUTABLE)
        elif (
            waiting := self.namespaces.defer(exchange, lambda: self.published(exchange, message))
        ) is not None:
            return waiting
        elif (broadcast, track) in self._offered:
            exchange.error(StreamCode.INTERNAL, "the track is published already")
        elif (code := self.namespaces.hold(broadcast, exchange.id)) is not None:
            exchange.error(code)
        else:
            offered = OfferedTrack(self._core, self, exchange, message, (broadcast, track))
            self._offered[broadcast, track] = offered
            self._core.emit(TrackOffered(broadcast, track, offered=True))
            return offered
        return exchange.handler

    # --- streams of the peer

    def begin_subgroup(
        self, stream: Stream, header: SubgroupHeader, decoder: UniDecoder, items: list[UniItem], *, fin: bool
    ) -> None:
        group = SubgroupStream(self._core, stream, header, decoder)
        stream.context = group
        group.begin(items, fin=fin)
        subscription = self._aliases.get(header.alias)
        if subscription is not None:
            subscription.begin(group)
        elif header.alias in self._retired or not self._is_waiting or not self.is_early(group):
            self._stray(group)

    def is_early(self, group: SubgroupStream) -> bool:
        """Keep it for a while. False if there are too many."""
        if len(self._early) >= EARLY_STREAMS:
            return False
        self._early[group] = self._core.now + EARLY
        return True

    @property
    def _is_waiting(self) -> bool:
        """An answer to a SUBSCRIBE is due."""
        known = (*self._subscriptions.values(), *self._unclaimed.values())
        return any(subscription.info is None for subscription in known)

    def _stray(self, stream: SubgroupStream) -> None:
        self._core.emit(StrayGroup(stream.header.alias, stream.header.group))
        self._core.cancel(stream.stream)

    def begin_fetch(
        self, stream: Stream, header: FetchHeader, decoder: UniDecoder, items: list[UniItem], *, fin: bool
    ) -> None:
        fetch = self.fetches.get(header.request_id)
        if fetch is None:
            self._core.cancel(stream)
            return
        reader = FetchReader(self._core, fetch, decoder)
        stream.context = reader
        reader.take(items, fin=fin)

    def on_datagram(self, data: bytes) -> None:
        """An object. Drops unreadable datagrams, those without a subscription, and states of objects."""
        core = self._core
        try:
            datagram = decode_datagram(data, core.profile)
        except WireError:
            return
        subscription = None if datagram is None else self._aliases.get(datagram.alias)
        if datagram is None or subscription is None or not subscription.request:
            return
        if datagram.status is not None or max(datagram.group, datagram.object) > MAX_VARINT:
            return
        alone = Subgroup(0, datagram.priority, starts=True, ends_group=datagram.end_of_group)
        properties, size, timed = datagram.properties, len(datagram.payload), subscription.timed
        try:
            start = start_of(datagram.object, size, properties, alone, timed=timed, arrival=core.now)
        except WireError:
            return
        subscription.flush()
        request, group = subscription.request, datagram.group
        core.emit(DatagramReceived(request, group, start.timestamp, datagram.payload, start))
