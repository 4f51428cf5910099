"""The track actor: one upstream subscription, a cache of the newest groups, any number of subscribers.

Its parts: `groups`, `subscribers`, `fetches`, `upstream`, `older_groups`, `numbers`, `reporting`;
`model/track_end.py` has the rules of the end. Each subscriber gets one message per turn; those of one encoding share
the bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from relay.actors import messages as m
from relay.actors.counters import TrackFigures
from relay.actors.fetches import Fetches
from relay.actors.groups import TrackGroups
from relay.actors.numbers import Numbers
from relay.actors.older_groups import Past, PastOverdue
from relay.actors.reporting import ReportDue, Reports
from relay.actors.runtime import LoopActor, Ref, Timer, send
from relay.actors.subscribers import RangeOverdue, Subscriber, Subscribers
from relay.actors.upstream import DESCRIBE, SUBSCRIBE, AnswerDue, Upstream
from relay.model.limits import Limits
from relay.model.numbering import MOST_REPEATED
from relay.model.track import TrackProperties, placed, together
from relay.model.track_end import Phase, TrackEnd
from relay.moq import session as moq
from relay.runtime import Runtime
from relay.wire.errors import StreamCode


class IdleCheck(NamedTuple):
    """Timer: stop if there is still no subscriber."""


class EndGraceOver(NamedTuple):
    """Timer: expect no more groups after the track's end."""


class TrackActor(LoopActor):
    """One track of one publication of a broadcast.

    Size: its parts own the state. Here is the order between them, one method for each request and each step of the
    end, which touch nearly all parts.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        broadcast: Ref,
        source: Ref,
        path: str,
        name: str,
        limits: Limits,
        counters: Ref | None = None,
        cache_budget: Ref | None = None,
        directory: Ref | None = None,
        life: int = 0,
    ) -> None:
        """`directory` gives out group numbers; `life` numbers the publication."""
        super().__init__(runtime)
        ref, timeout = self.actor_ref, limits.answer_timeout
        self._broadcast = broadcast
        self._path, self._name = path, name
        self._limits = limits
        self._numbers = numbers = Numbers(ref, directory, path, name, life)
        self._groups = groups = TrackGroups(limits)
        self._subscribers = subscribers = Subscribers(self.call_later)
        self._upstream = upstream = Upstream(self, source, path, name, numbers, timeout)
        self._fetches = fetches = Fetches(ref, upstream, numbers, limits.cache_track)
        self._past = Past(self, upstream, numbers, groups, subscribers, timeout)
        self._ending = TrackEnd()
        figures = TrackFigures(broadcast.actor_urn, path, name, 0, 0, 0)
        self._reports = Reports(
            self, figures, groups, subscribers, fetches, counters=counters, budget=cache_budget
        )
        self._describing: dict[m.Key, m.Describe] = {}
        self._handled = 0  # requests that the broadcast forwarded
        self._idle: Timer | None = None

    def __str__(self) -> str:
        return f"track {self._path} {self._name}"

    # --- messages

    def on_start(self) -> None:
        self._numbers.open()

    def on_receive(self, message: object) -> object:  # noqa: C901, PLR0912, PLR0915 - one line per message
        numbers = self._numbers
        if numbers.deferred.messages is not None and isinstance(message, numbers.deferred.types):
            self._defer(message)
            return None
        match message:
            case moq.GroupData():
                if not self._upstream.answered:
                    self._upstream.answer()
                parts = self._numbered(message)
                if parts:
                    self._groups.take(parts, self.runtime.now())
                    if self._groups.stopped:
                        self._upstream.stop(self._groups.take_stopped())
            case m.Numbered():
                self._groups.skip(numbers.add(message.span, message.timescale, free=message.free))
                for deferred in numbers.deferred.take():
                    self.on_receive(deferred)
            case m.Subscribe():
                self._on_subscribe(message)
            case m.Unsubscribe():
                key = message.subscriber.actor_urn, message.key
                self._remove(key)
                self._describing.pop(key, None)
                self._fetches.leave(key)
            case m.UpdateSubscription():
                self._on_update(message)
            case m.Describe():
                self._on_describe(message)
            case m.Fetch():
                self._on_fetch(message)
            case m.UpstreamProperties():
                self._on_properties(message)
            case m.UpstreamStarted():
                self._upstream.answer()  # whichever group is first
                self._ending.patience = message.patience
                numbers.first_published = message.group
            case moq.SubscriptionDropped():
                start, end = numbers.shown(message.start), numbers.shown(message.end)
                if start is not None and end is not None and start <= end:
                    self._groups.dropped.add(start, end)
            case m.RouteChanged():
                if message.lost or self._groups.seen.first is None:
                    self._fail(StreamCode.INTERNAL, lost=True)
            case moq.DatagramReceived():
                self._on_datagram(message)
            case moq.FetchedData():
                self._fetches.take(message.part)
            case m.UpstreamEnded():
                self._upstream.answer()
                final = None if message.final is None else numbers.end(message.final)
                self._ending.announce(final, self._groups.seen.last)
                if self._ending.late:
                    self.call_later(message.patience, EndGraceOver())
            case m.UpstreamFailed():
                self._fail(message.code, lost=message.gone)
            case m.EvictTo():
                self._evict_to(message)
            case AnswerDue():
                self._on_due(message.what)
            case ReportDue():
                self._reports.due()
            case m.DescribeTrack():
                return self._reports.row(
                    self._ending.state(subscribed=self._upstream.opened is not None), self.runtime.now()
                )
            case EndGraceOver():
                self._ending.late = False
            case m.PastGroups() | m.PastStarted() | m.PastOver() | PastOverdue():
                self._past.on_message(message, self.runtime.now())
                self._upstream.stop(self._groups.take_stopped())
            case RangeOverdue():
                subscriber = self._subscribers.overdue(message.subscriber, self._groups)
                if subscriber is not None:
                    self._end_range(subscriber)
            case IdleCheck():
                self._idle = None
                if self._unused():
                    # the broadcast stops us, unless a request is under way
                    send(self._broadcast, m.TrackIdle(self._path, self._name, self._handled))
            case _:
                return super().on_receive(message)
        return None

    def on_turn_end(self) -> None:
        subscribers, past, phase = self._subscribers, self._past, self._ending.phase
        if self._groups.touched:
            self.flush()
        if past.queue:
            past.seek(wait=phase is Phase.RUNNING)
        if phase is Phase.ENDING:
            self._end_if_complete()
        if subscribers.bounded:
            first, patience = self._numbers.first, self._ending.patience
            for subscriber in subscribers.complete(self._groups, first, patience, past.concerns):
                self._end_range(subscriber)
        self._reports.turn()
        if subscribers.changed:
            self._want()
        if self._ending.phase >= Phase.FAILED:
            self.stop()
        elif not subscribers.all and self._idle is None and self._unused():
            self._idle = self.call_later(self._limits.track_idle, IdleCheck())

    def on_end(self, error: BaseException | None) -> None:
        self._upstream.close()
        self._close_numbers()
        self._refuse_all(StreamCode.INTERNAL if error is not None else StreamCode.CANCELLED)
        for deferred in self._numbers.deferred.take():
            self.on_dead_letter(deferred)
        send(self._broadcast, m.TrackEnded(self._path, self._name, self.actor_ref))
        self._reports.end()

    def on_dead_letter(self, message: object) -> None:
        if isinstance(message, m.Subscribe | m.Describe | m.Fetch):
            self._refuse(message, self._ending.code if self._ending.failed else StreamCode.UNROUTABLE)

    def _unused(self) -> bool:
        return not (self._subscribers.all or self._describing or self._fetches.all)

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    # --- subscribers

    def _on_subscribe(self, request: m.Subscribe) -> None:
        numbers, groups = self._numbers, self._groups
        if self._ending.failed:
            self._handled += 1
            self._refuse(request, self._ending.code)
            return
        self.flush()
        latest = groups.cache.newest if request.floor else None
        published = None if latest is None else numbers.published(latest.sequence)
        number = None if published is None else numbers.shown(published)
        if number is not None and number < request.floor - MOST_REPEATED:
            # the subscriber saw higher numbers of another publisher: renumber the newest group
            numbers.ask(published, request.floor)
            self._defer(request)
            return
        self._handled += 1
        params = request.params
        if params.begin is not None or params.back:
            request = request._replace(params=placed(params, groups.cache.newest))
        if not send(request.subscriber, m.Accepted(request.key, self.actor_ref, groups.cache.largest)):
            return
        numbers.expect(request.floor)
        subscriber = Subscriber(request, groups.cache.start_of(request.params, numbers.age(request.params)))
        if latest is not None and number is not None and number != latest.sequence:
            subscriber.renumbered = latest.sequence, number
            groups.seen.add(number, number)
        fragments = subscriber.feed.begin(groups.cache)
        if fragments:
            subscriber.deliver(fragments)
        if self._ending.phase is Phase.ENDED:
            send(request.subscriber, m.Ended(request.key, self._ending.final))
            return
        self._subscribers.add(subscriber)
        if request.params.start_group is not None or request.params.history_ms:
            self._past.want(subscriber.id)
        self._stay()
        if self._upstream.opened is None:
            self._want()

    def _on_update(self, message: m.UpdateSubscription) -> None:
        subscriber = self._subscribers.all.get((message.subscriber.actor_urn, message.key))
        if subscriber is None:
            return
        self.flush()
        params, former = placed(message.params, self._groups.cache.newest), subscriber.feed.params
        start = self._groups.cache.start_of(params, self._numbers.age(params))
        fragments = subscriber.feed.replace(params, start, self._groups.cache)
        if params.start_group != former.start_group or params.history_ms > former.history_ms:
            self._past.want(subscriber.id)
        if fragments:
            subscriber.deliver(fragments)
        self._subscribers.bind(subscriber)

    def _remove(self, key: m.Key) -> None:
        self._subscribers.remove(key)
        self._past.drop(key)

    def _want(self) -> None:
        """Subscribe upstream for all subscribers together."""
        self._subscribers.changed = False
        wanted = self._subscribers.wanted
        if wanted and self._ending.phase is Phase.RUNNING and not self._upstream.want(together(wanted)):
            self._fail(StreamCode.UNROUTABLE, lost=True)

    def flush(self) -> None:
        """Deliver all changes so far: one message per subscriber."""
        if not self._groups.touched:
            return
        touched = list(self._groups.touched.values())
        self._groups.touched = {}
        for key in self._subscribers.deliver(touched):
            self._remove(key)
        if self._fetches.all:
            for group, _ in touched:
                self._fetches.feed(group)

    # --- numbers

    def _defer(self, message: object) -> None:
        self._numbers.deferred.add(message)
        if isinstance(message, moq.GroupData):
            if not self._upstream.answered:
                self._upstream.answer()
            if self._numbers.deferred.size > self._limits.cache_track:
                self._upstream.over_limit("cache_track", reason="groups before the properties of the track")
                self._fail(StreamCode.GROUP_TOO_LARGE)

    def _numbered(self, message: moq.GroupData) -> tuple[m.GroupPart, ...]:
        """The groups with the viewers' numbers and timestamps."""
        numbers = self._numbers
        for part in message.parts:
            if part.sequence >= numbers.below:
                if not self._upstream.may_number([part.sequence for part in message.parts]):
                    self._defer(message)
                    return ()
                break
        if numbers.plain:
            return message.parts
        parts = []
        for part in message.parts:
            known = list(numbers.all_of(part.sequence))
            # it goes on under the number it began with
            number = next((n for n in known if n in self._groups.unfinished), known[0] if known else None)
            if number is not None:
                parts.append(numbers.part(part, number))
            elif not part.fin and part.code is None:
                self._upstream.stop_published(part.sequence, StreamCode.OLD)
        return tuple(parts)

    def _close_numbers(self) -> None:
        watched = self._ending.phase is Phase.LOST and bool(self._subscribers.all)
        self._numbers.close(self._groups.seen.last, watched=watched)

    # --- groups from upstream

    def _evict_to(self, message: m.EvictTo) -> None:
        """The caches together are full, and this one exceeds its share."""
        self.flush()
        groups, reports = self._groups, self._reports
        groups.evict_to(message.size)
        if message.newest and reports.held > message.size:
            self._fetches.give_up(StreamCode.NO_CAPACITY)
            latest = groups.cache.latest
            if latest is not None and reports.held > message.size:
                if latest.open:
                    groups.abort(latest, StreamCode.GROUP_TOO_LARGE, "cache")
                else:
                    self._upstream.over_limit("cache", group=latest.sequence)
                    latest.code = latest.code or StreamCode.EVICTED
                    groups.cache.empty(latest)
        self._upstream.stop(self._groups.take_stopped())
        reports.size(reports.held, answer=True)

    def _on_datagram(self, message: moq.DatagramReceived) -> None:
        numbers = self._numbers
        if message.sequence >= numbers.below and not self._upstream.may_number([message.sequence]):
            self._defer(message)
            return
        self._upstream.answer()
        number = numbers.shown(message.sequence)
        if number is not None:
            self._groups.seen.add(number, number)
            timestamp = numbers.timestamp(message.timestamp)
            start = None if message.start is None else numbers.restated(message.start)
            self._subscribers.deliver_datagram(number, timestamp, message.payload, start)

    # --- properties and fetches

    def _on_describe(self, request: m.Describe) -> None:
        self._handled += 1
        if self._ending.failed:
            self._refuse(request, self._ending.code)
        elif self._numbers.properties is not None:
            self._describe(request, self._numbers.properties)
        elif send(request.subscriber, m.Accepted(request.key, self.actor_ref)):
            self._describing[request.subscriber.actor_urn, request.key] = request
            self._stay()
            if not self._upstream.describe():
                self._fail(StreamCode.UNROUTABLE, lost=True)

    def _describe(self, request: m.Describe, properties: TrackProperties) -> None:
        send(request.subscriber, m.Described(request.key, properties, self._groups.cache.largest))

    def _on_properties(self, message: m.UpstreamProperties) -> None:
        properties = message.properties
        if properties.pairs is not None and not properties.max_latency_ms:
            # viewers of moq-lite are told how long groups stay here
            properties = properties._replace(max_latency_ms=round(1000 * self._limits.cache_age))
        properties = self._numbers.describe(properties)
        self._upstream.answer(DESCRIBE, real=message.answered)
        if message.answered:
            # 0: our default
            self._groups.cache.age = properties.max_latency_ms / 1000 or self._limits.cache_age
        for request in self._describing.values():
            self._describe(request, properties)
        self._describing.clear()
        if self._numbers.deferred.for_unit:
            for deferred in self._numbers.deferred.take():
                self.on_receive(deferred)

    def _on_fetch(self, request: m.Fetch) -> None:
        self._handled += 1
        self.flush()
        if self._ending.failed:
            self._refuse(request, self._ending.code)
        elif not self._fetches.begin(request, self._groups.cache, self.runtime.now()):
            self._fail(StreamCode.UNROUTABLE, lost=True)
        elif self._fetches.all:
            self._stay()

    def _on_due(self, what: int | str) -> None:
        """The publisher did not answer: refuse the requests that wait."""
        code = StreamCode.CONTROL_TIMEOUT
        if not self._upstream.is_overdue(what):
            return
        if isinstance(what, int):
            self._fetches.fail(what, code)
        elif what == SUBSCRIBE or self._numbers.deferred.for_unit:
            self._fail(code)
        else:
            for request in self._describing.values():
                send(request.subscriber, m.Refused(request.key, code))
            self._describing.clear()

    # --- the end

    def _end_if_complete(self) -> None:
        end, groups = self._ending, self._groups
        if groups.unfinished or self._past.queue or self._past.request is not None:
            return
        if end.late:
            # streams overtake each other, and lost packets come late
            if not end.numbered or groups.seen.last is None:
                return
            if groups.missing(0, end.final - 1, self._numbers.first):
                return
        self._finish()

    def _finish(self) -> None:
        """No more groups can come."""
        self.flush()
        self._ending.complete(self._groups.seen.last)
        self._close_numbers()  # the next publisher's numbers concern no viewer
        self._subscribers.finish(self._groups, self._ending.final)

    def _end_range(self, subscriber: Subscriber) -> None:
        self.flush()
        subscriber.end(self._groups)
        self._remove(subscriber.id)

    def _fail(self, code: int, *, lost: bool = False) -> None:
        """The source cannot serve the track any more."""
        if self._ending.failed:
            return
        self._groups.break_off(code)
        self.flush()
        self._past.fail()
        if lost and self._ending.phase is Phase.ENDING:
            self._finish()  # it had finished before
        self._ending.fail(code, lost=lost)
        self._close_numbers()  # before viewers ask again
        self._refuse_all(code)

    def _refuse(self, request: m.Subscribe | m.Describe | m.Fetch, code: int) -> None:
        lost = self._ending.phase is Phase.LOST and not isinstance(request, m.Fetch)
        send(request.subscriber, (m.PublisherLost if lost else m.Refused)(request.key, code))

    def _refuse_all(self, code: int) -> None:
        answer = m.PublisherLost if self._ending.phase is Phase.LOST else m.Refused
        self._subscribers.refuse(answer, code)
        for request in self._describing.values():
            send(request.subscriber, answer(request.key, code))
        self._describing.clear()
        self._fetches.refuse(code)
