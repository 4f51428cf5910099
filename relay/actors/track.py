"""The track actor: one upstream subscription, a cache of the newest groups, any number of subscribers.

Started by its broadcast. Talks to the connection that publishes the track (its source), to the connections and
readers that subscribe, and to the broadcast when nobody is left. What arrives in one turn leaves as one message per
subscriber; subscribers of one encoding share the encoded bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from relay.actors import messages as m
from relay.actors.fetches import Fetches
from relay.actors.keeper import worth_telling
from relay.actors.ledger import Counts, TrackFigures
from relay.actors.numbers import GROUPS, Numbers
from relay.actors.past import Past, past_of
from relay.actors.reporting import ReportDue, Reports
from relay.actors.rows import GroupRow, TrackRow
from relay.actors.runtime import LoopActor, Ref, Timer, send
from relay.auth.permissions import loggable
from relay.model.cache import GroupCache
from relay.model.limits import Limits
from relay.model.numbering import MOST_REPEATED
from relay.model.ranges import Range, Ranges
from relay.model.track import SubscribeParams, TrackProperties
from relay.moq.encoding import EncodedGroup, Encoding
from relay.moq.feed import Feed, shared_pieces
from relay.runtime import Runtime
from relay.wire.errors import StreamCode
from relay.wire.varint import MAX_VARINT


class IdleCheck(NamedTuple):
    """Timer: time to see whether anybody has come back."""


class EndGraceOver(NamedTuple):
    """Timer: no more groups are expected after the end of the track."""


class RangeOverdue(NamedTuple):
    """Timer: groups inside the range of a bounded subscription are not waited for any longer."""

    subscriber: m.Key


class PastOverdue(NamedTuple):
    """Timer: nothing more is expected of a request for the past."""

    number: int


class AnswerDue(NamedTuple):
    """Timer: the publisher should have answered by now. `what` is a fetched group's sequence, or a word."""

    what: int | str


SUBSCRIBE = "subscribe"
DESCRIBE = "describe"


class Subscriber:
    """One subscription and where it stands."""

    __slots__ = ("feed", "key", "overdue", "ref", "relay", "renumbered")

    def __init__(self, request: m.Subscribe, start: int) -> None:
        self.ref = request.subscriber
        self.key = request.key
        self.relay = request.relay
        self.feed = Feed(request.encoding, request.interest, start)
        self.overdue: Timer | None = None
        """Set once the last group of its range is here, and one before it is not."""
        self.renumbered: tuple[int, int] | None = None
        """The group that it began with, and another number of it that it gets it under."""

    @property
    def id(self) -> m.Key:
        """Its place among the subscriptions of all subscribers."""
        return self.ref.actor_urn, self.key

    def deliver(self, pieces: tuple[m.GroupPiece, ...]) -> bool:
        """Send it what it gets; whether it is alive."""
        if self.renumbered is not None:
            number, other = self.renumbered
            pieces = tuple(p._replace(sequence=other) if p.sequence == number else p for p in pieces)
        return send(self.ref, m.Deliver(self.key, pieces))


class TrackActor(LoopActor):
    """One track of one publication of a broadcast."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        broadcast: Ref,
        source: Ref,
        path: str,
        name: str,
        limits: Limits,
        ledger: Ref | None = None,
        keeper: Ref | None = None,
        directory: Ref | None = None,
        life: int = 0,
    ) -> None:
        """`directory` gives out the numbers of groups; `life` is what it calls the publication."""
        super().__init__(runtime)
        self._reports = Reports(ledger)
        self._keeper = keeper
        self._told_size = 0
        """What the keeper believes that we hold."""
        self._broadcast, self._source = broadcast, source
        self._path, self._name = path, name
        self._numbers = Numbers(directory, path, name, life)
        self._limits = limits
        self._cache: GroupCache[EncodedGroup] = GroupCache(limits)
        self._subscribers: dict[tuple[str, int], Subscriber] = {}
        self._bounded: dict[tuple[str, int], Subscriber] = {}
        """Those of them that end with a certain group."""
        self._describing: dict[tuple[str, int], m.Describe] = {}
        self._fetches = Fetches()
        self._properties: TrackProperties | None = None
        self._subscribed = False
        self._answered = False
        """Whether the publisher has said or sent anything about this track."""
        self._due: dict[int | str, Timer] = {}
        """What the publisher has been asked and not answered."""
        self._asked_properties = False
        self._asked = False
        """Whether the source may hold anything for us."""
        self._wanted = self._opened = SubscribeParams()
        """What our upstream subscription was told last, and what it began with."""
        self._past = Past()
        self._wants_changed = False
        """Whether subscribers came, went or changed their mind in this turn: to look at all of them once is enough."""
        self._handled = 0
        self._unfinished: dict[int, EncodedGroup] = {}
        """Groups that more may come of."""
        self._touched: dict[int, tuple[EncodedGroup, bool]] = {}
        """Groups that this turn added to, and whether it began them."""
        self._received_bytes = self._received_groups = self._received_frames = self._received_datagrams = 0
        self._seen, self._dropped = Ranges(), Ranges()
        """Numbers of the groups that came, datagrams and refused ones included, and of those that never will."""
        self._first: int | None = None
        """The group that the upstream subscription began with, if the publisher said so."""
        self._patience = m.LATE_AT_LEAST
        self._ending: int | None = None
        self._numbered_end = False
        """Whether the publisher said which group is the last."""
        self._grace: Timer | None = None
        self._final: int | None = None
        self._failed: int | None = None
        self._gone = False
        """Whether it failed because its publisher left: whoever wants it may ask again."""
        self._idle: Timer | None = None

    def __str__(self) -> str:
        return f"track {self._path} {self._name}"

    # --- messages --------------------------------------------------------------------------------------------------

    def on_start(self) -> None:
        self._numbers.start(self.actor_ref)

    def on_receive(self, message: object) -> object:  # noqa: C901, PLR0912, PLR0915 - one line per message
        numbers = self._numbers
        if numbers.deferred is not None and isinstance(message, numbers.deferring):
            self._defer(message)
            return None
        match message:
            case m.UpstreamGroups():
                if not self._answered:
                    self._hear()
                parts = self._numbered(message)
                if parts:
                    self._on_groups(parts)
            case m.Numbered():
                self._skip(numbers.granted(message))
                self._release()
            case m.Subscribe():
                self._on_subscribe(message)
            case m.Leave():
                self._on_leave(message)
            case m.UpdateInterest():
                self._on_update(message)
            case m.Describe():
                self._on_describe(message)
            case m.Fetch():
                self._on_fetch(message)
            case m.UpstreamProperties():
                self._on_properties(message.properties, answered=message.answered)
            case m.UpstreamStarted():
                self._on_started(message)
            case m.UpstreamDropped():
                self._on_dropped(message)
            case m.Unsure():
                if not (self._received_groups or self._received_datagrams):
                    self._fail(StreamCode.INTERNAL, gone=True)
            case m.PublisherLost():
                self._fail(StreamCode.INTERNAL, gone=True)
            case m.UpstreamDatagram():
                self._on_datagram(message)
            case m.UpstreamFetched():
                self._on_fetched(message.part)
            case m.UpstreamEnded():
                self._on_upstream_end(message)
            case m.UpstreamFailed():
                self._fail(message.code, gone=message.gone)
            case m.Shrink():
                self._shrink(message)
            case AnswerDue():
                self._on_due(message.what)
            case ReportDue():
                self._reports.due()
            case m.DescribeTrack():
                return self._describe_self()
            case EndGraceOver():
                self._grace = None
                self._end_if_complete()
            case m.PastGroups() | m.PastStarted() | m.PastOver() | PastOverdue():
                self._on_past(message)
            case RangeOverdue():
                self._on_overdue(message.subscriber)
            case IdleCheck():
                self._on_idle_check()
            case _:
                return super().on_receive(message)
        return None

    def on_turn_end(self) -> None:
        self._flush()
        if self._past:
            self._seek()
        if self._ending is not None:
            self._end_if_complete()
        if self._bounded:
            self._end_ranges()
        subscribers = len(self._subscribers)
        if self._reports.wanted(subscribers):
            self._reports.tell(self, subscribers, self._figures(), self._counted())
        if self._wants_changed:
            self._wants_changed = False
            self._want()
        if self._failed is not None:
            self.stop()
        elif self._idle is None and self._nobody():
            self._idle = self.call_later(self._limits.track_idle, IdleCheck())
        if self._keeper is not None:
            held = self._held
            if worth_telling(self._told_size, held):
                self._tell_size(held)

    def on_end(self, error: BaseException | None) -> None:
        if self._asked:  # also of a track that has failed: not all that was asked need be answered
            send(self._source, m.CloseUpstream(self.actor_ref))
        code = StreamCode.INTERNAL if error is not None else StreamCode.CANCELLED
        self._say_numbers_over()
        self._refuse_all(code)
        for deferred in self._numbers.release():
            self.on_dead_letter(deferred)
        send(self._broadcast, m.TrackEnded(self._path, self._name, self.actor_ref))
        if self._told_size:
            self._tell_size(0)
        self._reports.end(self, self._counted())

    def on_dead_letter(self, message: object) -> None:
        if isinstance(message, m.Subscribe | m.Describe | m.Fetch):
            self._refuse(message, StreamCode.UNROUTABLE if self._failed is None else self._failed)

    def _on_idle_check(self) -> None:
        self._idle = None
        if self._nobody():
            # the broadcast stops us, unless a request of its own is on its way to us
            send(self._broadcast, m.TrackIdle(self._path, self._name, self._handled))

    def _nobody(self) -> bool:
        return not (self._subscribers or self._describing or self._fetches)

    # --- subscribers -----------------------------------------------------------------------------------------------

    def _on_subscribe(self, request: m.Subscribe) -> None:
        if self._failed is not None:
            self._handled += 1
            self._refuse(request, self._failed)
            return
        self._flush()
        latest = self._cache.newest if request.floor else None
        number = None if latest is None else self._numbers.newest_of(latest.sequence)
        if latest is not None and number is not None and number < request.floor - MOST_REPEATED:
            # the subscriber has seen higher numbers of another publisher: the newest group gets another number
            published = self._numbers.published(latest.sequence)
            self._numbers.ask(self.actor_ref, published, request.floor, self._properties)
            self._defer(request)
            return
        self._handled += 1
        if not send(request.subscriber, m.Accepted(request.key, self.actor_ref)):
            return
        self._numbers.expect(request.floor)
        start = self._start_of(request.interest)
        subscriber = Subscriber(request, start)
        if latest is not None and number is not None and number != latest.sequence:
            subscriber.renumbered = latest.sequence, number
            self._seen.add(number, number)
        feed = subscriber.feed
        pieces = tuple(
            piece
            for group in self._cache
            if group.code is None and feed.wants(group)
            for piece in feed.join(group)
        )
        if pieces:
            subscriber.deliver(pieces)
        if self._final is not None:
            send(request.subscriber, m.Ended(request.key, self._final))
            return
        self._subscribers[subscriber.id] = subscriber
        if request.interest.start_group is not None or request.interest.history_ms:
            self._past.want(subscriber.id)
        if request.interest.end_group is not None:
            self._bounded[subscriber.id] = subscriber
        self._stay()
        if self._subscribed:
            self._wants_changed = True
        else:
            self._want()

    def _start_of(self, interest: SubscribeParams) -> int:
        floor = interest.start_group or 0
        if interest.start_group is not None and not interest.start_is_floor:
            return floor
        start = self._cache.start(self._age(interest))
        # without a group, whatever our own upstream subscription starts with is the newest there is
        return floor if start is None else max(floor, start)

    def _age(self, interest: SubscribeParams) -> int:
        """How old a group may be that is wanted at the start, in the track's timescale."""
        timescale = self._properties.timescale if self._properties else TrackProperties().timescale
        return interest.history_ms * timescale // 1000

    def _on_update(self, message: m.UpdateInterest) -> None:
        subscriber = self._subscribers.get((message.subscriber.actor_urn, message.key))
        if subscriber is None:
            return
        self._flush()
        params, former = message.interest, subscriber.feed.params
        pieces = subscriber.feed.replace(params, self._start_of(params), self._cache)
        if params.start_group != former.start_group or params.history_ms > former.history_ms:
            self._past.want(subscriber.id)
        if pieces:
            subscriber.deliver(pieces)
        self._unbind(subscriber)
        if params.end_group is not None:
            self._bounded[subscriber.id] = subscriber
        self._wants_changed = True

    def _on_leave(self, message: m.Leave) -> None:
        key = (message.subscriber.actor_urn, message.key)
        if self._forget(key) is not None:
            self._wants_changed = True
        self._describing.pop(key, None)
        self._stop_fetches(self._fetches.leave(key))

    def _unbind(self, subscriber: Subscriber) -> None:
        self._bounded.pop(subscriber.id, None)
        if subscriber.overdue is not None:
            subscriber.overdue.cancel()
            subscriber.overdue = None

    def _forget(self, key: m.Key) -> Subscriber | None:
        subscriber = self._subscribers.pop(key, None)
        if subscriber is not None:
            self._unbind(subscriber)
        self._past.drop(key)
        if self._past.key == key:
            self._close_past()
        return subscriber

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _want(self) -> None:
        """Tell upstream what all subscribers together want; subscribe with the first of them."""
        interests = [subscriber.feed.params for subscriber in self._subscribers.values()]
        if not interests or self._failed is not None or self._ending is not None:
            return
        # a floor is ours to keep; an explicit start concerns upstream if nobody wants anything else
        starts = [None if i.start_is_floor else i.start_group for i in interests]
        together = SubscribeParams(
            priority=max(i.priority for i in interests),
            ordered=all(i.ordered for i in interests),
            latency_ms=max(i.latency_ms for i in interests),
            history_ms=max(i.history_ms for i in interests),
            start_group=None if None in starts else min(s for s in starts if s is not None),
        )
        if not self._subscribed:
            self._subscribed = self._asked = True
            self._wanted = self._opened = together
            describe = self._properties is None and not self._asked_properties
            interest = self._as_published(together)
            message = m.OpenUpstream(self.actor_ref, self._path, self._name, interest, describe)
            if not send(self._source, message):
                self._fail(StreamCode.UNROUTABLE, gone=True)
            elif not self._answered:
                self._await(SUBSCRIBE)
        elif together != self._wanted:
            self._wanted = together
            send(self._source, m.UpdateUpstream(self.actor_ref, self._as_published(together)))

    # --- deadlines -------------------------------------------------------------------------------------------------

    def _await(self, what: int | str) -> None:
        """The publisher has been asked for something."""
        if what not in self._due:
            self._due[what] = self.call_later(self._limits.answer_timeout, AnswerDue(what))

    def _hear(self, what: int | str = SUBSCRIBE) -> None:
        """It has answered that, which tells too that it knows the track."""
        self._answered = True
        self._drop_due(what)
        self._drop_due(SUBSCRIBE)

    def _drop_due(self, what: int | str) -> None:
        timer = self._due.pop(what, None)
        if timer is not None:
            timer.cancel()

    def _on_due(self, what: int | str) -> None:
        """It has not: whoever waits hears so, and the publisher that nobody does any more."""
        if self._due.pop(what, None) is None:
            return  # answered in this very turn
        self._over_limit("answer_timeout", what if isinstance(what, str) else f"fetch of group {what}")
        if what == SUBSCRIBE:
            self._fail(StreamCode.CONTROL_TIMEOUT)
        elif what == DESCRIBE:
            for request in self._describing.values():
                send(request.subscriber, m.Refused(request.key, StreamCode.CONTROL_TIMEOUT))
            self._describing.clear()
            if self._numbers.await_unit:
                self._fail(StreamCode.CONTROL_TIMEOUT)
        elif isinstance(what, int):
            group = self._fetches.coming(what)
            if group is not None:
                group.code = StreamCode.CONTROL_TIMEOUT
                self._stop_fetches([what, *self._fetches.feed(group)])

    def _over_limit(self, limit: str, what: str) -> None:
        send(self._source, m.OverLimit(limit, f"path={loggable(self._path)} track={self._name!r} {what}"))

    # --- numbers ---------------------------------------------------------------------------------------------------

    def _as_published(self, interest: SubscribeParams) -> SubscribeParams:
        start = interest.start_group
        return interest if start is None else interest._replace(start_group=self._numbers.published(start))

    def _defer(self, message: object) -> None:
        self._numbers.defer(message)
        if isinstance(message, m.UpstreamGroups):
            if not self._answered:
                self._hear()
            if self._numbers.deferred_bytes > self._limits.cache_track:
                self._over_limit("cache_track", "groups before the properties of the track")
                self._fail(StreamCode.GROUP_TOO_LARGE)

    def _skip(self, elsewhere: int) -> None:
        """Numbers between the newest and `elsewhere` are other publishers', and not to be waited for."""
        last = self._seen.last
        if last is not None and last + 1 < elsewhere:
            self._seen.add(last + 1, elsewhere - 1)

    def _release(self) -> None:
        for message in self._numbers.release():
            self.on_receive(message)

    def _may_number(self, message: object, sequences: list[int]) -> bool:
        """Whether numbers and unit of these groups are known; else the message waits until they are."""
        numbers = self._numbers
        if numbers.timescale is not None and self._properties is None:
            # viewers were told of a unit, and may not get timestamps in another one
            numbers.wait(GROUPS)
            self._await(DESCRIBE)
        else:
            missing = numbers.missing(sequences)
            if missing is None:
                return True
            numbers.ask(self.actor_ref, *missing, self._properties)
        self._defer(message)
        return False

    def _numbered(self, message: m.UpstreamGroups) -> tuple[m.GroupPart, ...]:
        """What arrived, as viewers see it."""
        numbers = self._numbers
        for part in message.parts:
            if part.sequence >= numbers.below:
                if not self._may_number(message, [part.sequence for part in message.parts]):
                    return ()
                break
        if numbers.plain:
            return message.parts
        parts = []
        for part in message.parts:
            known = list(numbers.all_of(part.sequence))
            # one that began under an older number goes on under it
            number = next((n for n in known if n in self._unfinished), known[0] if known else None)
            if number is not None:
                parts.append(numbers.part(part, number))
            elif not part.fin and part.code is None:
                send(self._source, m.StopGroup(self.actor_ref, part.sequence, StreamCode.OLD))
        return tuple(parts)

    def _say_numbers_over(self) -> None:
        watched = self._gone and bool(self._subscribers)
        self._numbers.over(self.actor_ref, self._seen.last, self._properties, watched=watched)

    # --- groups from upstream --------------------------------------------------------------------------------------

    def _on_groups(self, parts: tuple[m.GroupPart, ...], *, past: bool = False) -> None:
        now = self.runtime.now()
        cache = self._cache
        for part in parts:
            group = cache.get(part.sequence)
            if group is None:
                group = self._begin(part, now, past=past)
                if group is None:
                    continue
            elif not group.open or group.past is not past:
                if not part.fin and part.code is None:
                    self._refuse_group(part.sequence, StreamCode.OLD, past=past)
                continue
            frames, payload = group.frames, group.payload
            cache.extend(group, part.parts)
            self._received_frames += group.frames - frames
            self._received_bytes += group.payload - payload
            if part.fin:
                group.finished = True
                self._unfinished.pop(part.sequence, None)
            elif part.code is not None:
                group.code = part.code
                self._unfinished.pop(part.sequence, None)
            self._touched.setdefault(part.sequence, (group, False))
            if cache.size > self._limits.cache_track:
                self._evict(now)
                if group.open and group.size > self._limits.cache_track:
                    self._abort_group(group, StreamCode.GROUP_TOO_LARGE, "cache_track")

    def _begin(self, part: m.GroupPart, now: float, *, past: bool) -> EncodedGroup | None:
        group = EncodedGroup(part.sequence, now, part.first_frame)
        group.past = past
        self._seen.add(part.sequence, part.sequence)
        # a group without its beginning was not asked for, and is of use to nobody
        if part.first_frame or not self._cache.add(group):
            self._refuse_group(part.sequence, StreamCode.OLD, past=past)
            return None
        self._touched[part.sequence] = (group, True)
        self._unfinished[part.sequence] = group
        self._received_groups += 1
        self._evict(now)
        if len(self._unfinished) > self._limits.groups_in_flight:
            oldest = self._unfinished[min(self._unfinished)]
            self._abort_group(oldest, StreamCode.TOO_FAR_BEHIND, "groups_in_flight")
        return group

    def _evict(self, now: float) -> None:
        limit = "cache_track" if self._cache.size > self._limits.cache_track else "cache_groups"
        for dropped in self._cache.evict(now):
            if dropped.open:
                self._abort_group(dropped, StreamCode.TOO_FAR_BEHIND, limit)

    @property
    def _held(self) -> int:
        """Bytes of groups."""
        return self._cache.size + self._fetches.size if self._fetches else self._cache.size

    def _tell_size(self, size: int, *, answer: bool = False) -> None:
        self._told_size = size
        if self._keeper is not None:
            send(self._keeper, m.Held(self.actor_ref, size, answer))

    def _shrink(self, message: m.Shrink) -> None:
        """All tracks together hold too much, and this one more than its share."""
        self._flush()
        for dropped in self._cache.shrink(message.size):
            if dropped.open:
                self._abort_group(dropped, StreamCode.TOO_FAR_BEHIND, "cache")
        if message.newest and self._held > message.size:
            self._stop_fetches(self._fetches.give_up(StreamCode.NO_CAPACITY))
            latest = self._cache.latest
            if latest is not None and self._held > message.size:
                if latest.open:
                    self._abort_group(latest, StreamCode.GROUP_TOO_LARGE, "cache")
                else:
                    self._over_limit("cache", f"group={latest.sequence}")
                    latest.code = latest.code or StreamCode.EVICTED
                    self._cache.empty(latest)
        self._tell_size(self._held, answer=True)

    def _refuse_group(self, sequence: int, code: int, *, past: bool) -> None:
        published = self._numbers.published(sequence)
        if published is not None:
            send(self._source, m.StopGroup(self.actor_ref, published, code, past))

    def _abort_group(self, group: EncodedGroup, code: StreamCode, limit: str) -> None:
        self._over_limit(limit, f"group={group.sequence}")
        group.code = code
        self._unfinished.pop(group.sequence, None)
        self._cache.empty(group)
        self._refuse_group(group.sequence, code, past=group.past)
        self._touched.setdefault(group.sequence, (group, False))

    def _flush(self) -> None:
        """Deliver what the messages so far have added: one message per subscriber."""
        if not self._touched:
            return
        touched = list(self._touched.values())
        self._touched = {}
        shared: dict[Encoding, tuple[m.GroupPiece, ...]] = {}
        lowest = min(group.sequence for group, _ in touched)
        past = any(group.past for group, _ in touched)
        gone = []
        for key, subscriber in self._subscribers.items():
            feed = subscriber.feed
            pieces = shared.get(feed.encoding)
            if pieces is None:
                pieces = shared[feed.encoding] = shared_pieces(touched, feed.encoding)
            if past or feed.is_narrow(lowest):
                pieces = feed.narrow(touched, pieces)
            if pieces and not subscriber.deliver(pieces):
                gone.append(key)
        for key in gone:
            self._forget(key)
        if self._fetches:
            for group, _ in touched:
                self._fetches.feed(group)

    def _on_datagram(self, message: m.UpstreamDatagram) -> None:
        if message.sequence >= self._numbers.below and not self._may_number(message, [message.sequence]):
            return
        self._received_datagrams += 1
        self._hear()
        number = self._numbers.shown(message.sequence)
        if number is None:
            return
        self._seen.add(number, number)
        timestamp = self._numbers.timestamp(message.timestamp)
        for subscriber in self._subscribers.values():
            datagram = m.DeliverDatagram(subscriber.key, number, timestamp, message.payload)
            send(subscriber.ref, datagram)

    # --- properties and fetches ------------------------------------------------------------------------------------

    def _on_describe(self, request: m.Describe) -> None:
        self._handled += 1
        if self._failed is not None:
            self._refuse(request, self._failed)
            return
        if self._properties is not None:
            send(request.subscriber, m.Described(request.key, self._properties))
            return
        if not send(request.subscriber, m.Accepted(request.key, self.actor_ref)):
            return
        self._describing[(request.subscriber.actor_urn, request.key)] = request
        self._stay()
        self._await(DESCRIBE)
        if not self._subscribed and not self._asked_properties:
            self._asked_properties = self._asked = True
            if not send(self._source, m.DescribeUpstream(self.actor_ref, self._path, self._name)):
                self._fail(StreamCode.UNROUTABLE, gone=True)

    def _on_properties(self, properties: TrackProperties, *, answered: bool) -> None:
        properties = self._numbers.properties(properties)
        self._properties = properties
        if answered:
            self._hear(DESCRIBE)
            # 0 leaves it to us
            self._cache.age = properties.max_latency_ms / 1000 or self._limits.cache_age
        else:
            self._drop_due(DESCRIBE)
        for request in self._describing.values():
            send(request.subscriber, m.Described(request.key, properties))
        self._describing.clear()
        if self._numbers.await_unit:
            self._release()

    def _on_fetch(self, request: m.Fetch) -> None:
        self._handled += 1
        self._flush()
        wanted = request.interest.start_group
        group = self._cache.newest if wanted is None else self._cache.get(wanted)
        if group is not None and group.code is not None and wanted is not None:
            group = None  # broken off here; upstream may have it whole
        if self._failed is not None or (group is None and wanted is None):
            code = StreamCode.NOT_FOUND if self._failed is None else self._failed
            send(request.subscriber, m.Refused(request.key, code))
            return
        if group is None and wanted is not None:
            group = self._fetches.coming(wanted)
        if group is not None:
            self._fetches.serve(request, group, self.actor_ref)
        elif wanted is not None:
            self._fetch_upstream(request, wanted)
        if self._fetches:
            self._stay()

    def _fetch_upstream(self, request: m.Fetch, sequence: int) -> None:
        published = self._numbers.published(sequence)
        if published is None:  # of another publisher, or of nobody yet
            send(request.subscriber, m.Refused(request.key, StreamCode.NOT_FOUND))
            return
        group = EncodedGroup(sequence, self.runtime.now())
        self._fetches.expect(group)
        self._fetches.serve(request, group, self.actor_ref)
        self._asked = True
        fetch = m.FetchUpstream(self.actor_ref, self._path, self._name, published, request.interest.priority)
        if not send(self._source, fetch):
            self._fail(StreamCode.UNROUTABLE, gone=True)
        else:
            self._await(sequence)

    def _stop_fetches(self, sequences: list[int]) -> None:
        """Nobody waits for these groups, and upstream has not ended them."""
        for sequence in sequences:
            self._drop_due(sequence)
            self._stop_fetch(sequence)

    def _stop_fetch(self, sequence: int) -> None:
        published = self._numbers.published(sequence)
        if published is not None:
            send(self._source, m.StopFetch(self.actor_ref, published))

    def _on_fetched(self, part: m.GroupPart) -> None:
        group = next(filter(None, map(self._fetches.coming, self._numbers.all_of(part.sequence))), None)
        if group is None:
            return
        part = self._numbers.part(part, group.sequence)
        if part.sequence in self._due:
            self._hear(part.sequence)
        self._fetches.extend(group, part.parts)
        group.finished = part.fin
        group.code = part.code
        if self._fetches.size > self._limits.cache_track:
            self._over_limit("cache_track", f"fetch of group {part.sequence}")
            if group.open:
                self._stop_fetch(part.sequence)
            group.code = StreamCode.GROUP_TOO_LARGE
        self._stop_fetches(self._fetches.feed(group))

    # --- for people ------------------------------------------------------------------------------------------------

    def _describe_self(self) -> TrackRow:
        """The row of this track in the debug API."""
        now = self.runtime.now()
        latest = self._cache.latest
        return TrackRow(
            path=self._path,
            name=self._name,
            viewers=len(self._subscribers) - self._relays,
            relays=self._relays,
            upstream=self._upstream_state(),
            groups=tuple(
                GroupRow(
                    sequence=group.sequence,
                    frames=group.frames,
                    bytes=group.payload,
                    open=group.open,
                    age=round(now - group.arrived, 3),
                )
                for group in self._cache
            ),
            cached_bytes=self._cache.size,
            received_bytes=self._received_bytes,
            received_groups=self._received_groups,
            received_frames=self._received_frames,
            latest=None if latest is None else latest.sequence,
        )

    def _figures(self) -> TrackFigures:
        viewers = len(self._subscribers) - self._relays
        cache = self._cache
        return TrackFigures(
            self._broadcast.actor_urn, self._path, self._name, viewers, cache.size, len(cache)
        )

    @property
    def _relays(self) -> int:
        """Subscriptions of other relays."""
        return sum(subscriber.relay for subscriber in self._subscribers.values())

    def _counted(self) -> Counts:
        return {
            ("groups_received", ""): self._received_groups,
            ("frames_received", ""): self._received_frames,
            ("payload_received", ""): self._received_bytes,
        }

    def _upstream_state(self) -> str:
        if self._failed is not None or self._final is not None:
            return "ended"
        if self._ending is not None:
            return "ending"
        return "open" if self._subscribed else "idle"

    # --- the end ---------------------------------------------------------------------------------------------------

    def _on_started(self, message: m.UpstreamStarted) -> None:
        self._hear()  # groups are taken as they come, whichever the first one is
        self._first, self._patience = message.group, message.patience

    def _on_dropped(self, message: m.UpstreamDropped) -> None:
        start, end = self._numbers.shown(message.start), self._numbers.shown(message.end)
        if start is not None and end is not None and start <= end:
            self._dropped.add(start, end)

    def _missing(self, start: int, end: int) -> list[Range]:
        """Groups from `start` to `end` that may still come."""
        first = None if self._first is None else self._numbers.shown(self._first)
        first = self._seen.first if first is None else first
        if first is None:
            return []  # before the first group, nothing is on its way
        start = max(start, first, self._cache.floor)
        return [late for gap in self._seen.gaps(start, end) for late in self._dropped.gaps(*gap)]

    def _lost(self, subscriber: Subscriber, end: int) -> tuple[Range, ...]:
        """Groups up to `end` that will never come, though the subscriber wants them."""
        if self._seen.first is None:
            return ()
        start = max(subscriber.feed.start, self._seen.first, self._cache.floor)
        return tuple(self._seen.gaps(start, end))

    def _on_upstream_end(self, message: m.UpstreamEnded) -> None:
        self._hear()
        latest = self._seen.last
        final = None if message.final is None else self._numbers.end(message.final)
        self._numbered_end = final is not None
        self._ending = final if final is not None else 0 if latest is None else latest + 1
        if final != 0:
            self._grace = self.call_later(message.patience, EndGraceOver())

    def _end_if_complete(self) -> None:
        if self._final is not None or self._ending is None or self._unfinished or self._past:
            return
        if self._grace is not None:
            # streams overtake each other, and what is lost takes a while to come again
            if not self._numbered_end or self._seen.last is None or self._missing(0, self._ending - 1):
                return
            self._grace.cancel()
            self._grace = None
        self._finish()

    def _finish(self) -> None:
        """The track is over, and nothing of it can come any more."""
        self._flush()
        latest = self._seen.last
        self._final = min(max(self._ending or 0, latest + 1 if latest is not None else 0), MAX_VARINT)
        self._say_numbers_over()  # what the next publisher counts concerns no viewer of this track
        for subscriber in self._subscribers.values():
            last = subscriber.feed.params.end_group
            end = self._final if last is None else min(self._final, last + 1)
            send(subscriber.ref, m.Ended(subscriber.key, self._final, self._lost(subscriber, end - 1)))
        for key in list(self._bounded):
            self._forget(key)
        self._subscribers.clear()

    # --- the past --------------------------------------------------------------------------------------------------

    def _lowest(self) -> int | None:
        """The first group that is here, or on its way without being asked for."""
        first = None if self._first is None else self._numbers.shown(self._first)
        known = [number for number in (first, self._seen.first) if number is not None]
        return max(min(known), self._cache.floor) if known else None

    def _seek(self) -> None:
        """Ask the publisher for what subscribers want of the time before our subscription."""
        while (key := self._past.next()) is not None:
            subscriber, lowest = self._subscribers.get(key), self._lowest()
            if lowest is None and self._ending is None and self._failed is None:
                return  # the first group tells where the past ends
            wanted = None
            if subscriber is not None and lowest is not None and self._failed is None:
                age = self._age(subscriber.feed.params)
                wanted = past_of(subscriber.feed.params, self._opened, lowest, self._cache, age)
            last = None if wanted is None else self._numbers.published(wanted.end_group or 0)
            if subscriber is None or wanted is None or last is None:
                self._past.drop(key)
                continue
            self._past.begin(key, wanted)
            subscriber.feed.past = self._past.start
            first = None if wanted.start_group is None else self._numbers.published(wanted.start_group) or 0
            asked = wanted._replace(start_group=first, end_group=last)
            number = self._past.number
            self._past.timer = self.call_later(self._limits.answer_timeout, PastOverdue(number))
            send(self._source, m.OpenPast(self.actor_ref, self._path, self._name, number, asked))

    def _on_past(self, message: m.PastGroups | m.PastStarted | m.PastOver | PastOverdue) -> None:
        past = self._past
        if past.key is None or message.number != past.number:
            return
        match message:
            case m.PastGroups():
                self._on_groups(self._of_the_past(message.parts), past=True)
            case m.PastStarted():
                past.first = None if message.group is None else self._numbers.shown(message.group)
            case m.PastOver():
                self._flush()
                past.over()
                self._wait_for_past(message.patience)
            case PastOverdue():
                if not self._past_arrives():
                    self._close_past()
                    return
                self._wait_for_past(self._limits.answer_timeout)
        if past.complete(self._seen) and not self._past_arrives():
            self._close_past()

    def _of_the_past(self, parts: tuple[m.GroupPart, ...]) -> tuple[m.GroupPart, ...]:
        """What arrived of it, as viewers see it."""
        found = []
        for part in parts:
            number = self._numbers.shown(part.sequence)
            if number is not None and self._past.came(number):
                found.append(part if self._numbers.plain else self._numbers.part(part, number))
            elif not part.fin and part.code is None:
                send(self._source, m.StopGroup(self.actor_ref, part.sequence, StreamCode.OLD, past=True))
        return tuple(found)

    def _past_arrives(self) -> bool:
        return any(group.past for group in self._unfinished.values())

    def _wait_for_past(self, seconds: float) -> None:
        if self._past.timer is not None:
            self._past.timer.cancel()
        self._past.timer = self.call_later(seconds, PastOverdue(self._past.number))

    def _close_past(self) -> None:
        key, past = self._past.key, self._past
        past.finish()
        send(self._source, m.ClosePast(self.actor_ref))
        for group in [group for group in self._unfinished.values() if group.past]:
            group.code = StreamCode.CANCELLED
            del self._unfinished[group.sequence]
            self._touched.setdefault(group.sequence, (group, False))
        subscriber = None if key is None else self._subscribers.get(key)
        if subscriber is not None and not past.explicit:
            self._flush()
            subscriber.feed.past = past.lowest  # not what others want of the past

    # --- bounded subscriptions -------------------------------------------------------------------------------------

    def _end_ranges(self) -> None:
        """End the subscriptions that have all they asked for."""
        latest = self._seen.last
        for key, subscriber in list(self._bounded.items()):
            last = subscriber.feed.params.end_group
            assert last is not None
            if self._past.concerns(key):
                continue
            if subscriber.feed.start <= last and (latest is None or latest < last):
                continue
            if any(self._is_awaited(subscriber, group) for group in self._unfinished.values()):
                continue
            if not self._missing(subscriber.feed.start, last):
                self._end_range(subscriber, last)
            elif subscriber.overdue is None:
                subscriber.overdue = self.call_later(self._patience, RangeOverdue(key))

    def _is_awaited(self, subscriber: Subscriber, group: EncodedGroup) -> bool:
        """Whether more will come of a group that is not finished."""
        return not subscriber.feed.is_over(group)

    def _on_overdue(self, key: m.Key) -> None:
        subscriber = self._bounded.get(key)
        if subscriber is None or subscriber.overdue is None or subscriber.feed.params.end_group is None:
            return
        subscriber.overdue = None
        last = subscriber.feed.params.end_group
        if not any(self._is_awaited(subscriber, group) for group in self._unfinished.values()):
            self._end_range(subscriber, last)

    def _end_range(self, subscriber: Subscriber, last: int) -> None:
        self._flush()
        final = min(last + 1, MAX_VARINT)
        send(subscriber.ref, m.Ended(subscriber.key, final, self._lost(subscriber, last)))
        self._forget(subscriber.id)
        self._wants_changed = True

    def _fail(self, code: int, *, gone: bool = False) -> None:
        """The source cannot serve the track, or no longer can."""
        if self._failed is not None:
            return
        self._failed = code
        self._gone = gone
        for group in self._unfinished.values():
            group.code = code
            self._touched.setdefault(group.sequence, (group, False))
        self._unfinished.clear()
        self._flush()
        self._past.finish()
        if gone and self._ending is not None and self._final is None:
            self._finish()  # it had finished before it left
        self._say_numbers_over()  # before viewers ask again
        self._refuse_all(code)

    def _refuse(self, request: m.Subscribe | m.Describe | m.Fetch, code: int) -> None:
        answer = m.Lost if self._gone and not isinstance(request, m.Fetch) else m.Refused
        send(request.subscriber, answer(request.key, code))

    def _refuse_all(self, code: int) -> None:
        answer = m.Lost if self._gone else m.Refused
        for subscriber in self._subscribers.values():
            send(subscriber.ref, answer(subscriber.key, code))
        for request in self._describing.values():
            send(request.subscriber, answer(request.key, code))
        self._fetches.refuse(code)
        for key in list(self._bounded):
            self._forget(key)
        self._subscribers.clear()
        self._describing.clear()
