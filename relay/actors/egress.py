"""Part of the connection actor: our announcements to the peer, its subscriptions and fetches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from relay.actors import messages as m
from relay.actors.environment import Context
from relay.actors.runtime import Ref, send
from relay.actors.skips import Skips
from relay.model.failover import Failover
from relay.model.path import MAX_SEGMENTS, covers, join, narrow, size_of, strip
from relay.model.track import SubscribeParams
from relay.model.watchers import AnnounceInterest, Announcement
from relay.moq import session as moq
from relay.wire.errors import StreamCode

Requested: TypeAlias = moq.SubscribeRequested | moq.InfoRequested | moq.FetchRequested
Asked: TypeAlias = tuple[str, str, Ref, int, int]  # path, track, subscriber, session, key


class AskAgain(NamedTuple):
    """Timer: look for another publisher."""

    key: int


class Request:
    """A request of the peer."""

    __slots__ = ("message", "track")

    def __init__(self, message: m.Subscribe | m.Describe | m.Fetch) -> None:
        self.message = message
        self.track: Ref | None = None


class Subscription(Request):
    """SUBSCRIBE or TRACK: continues with another publisher when its own is lost."""

    __slots__ = ("bounded", "failover", "params")

    def __init__(self, message: m.Subscribe | m.Describe) -> None:
        super().__init__(message)
        self.failover = Failover()
        self.params: SubscribeParams | None = None  # from the last update
        self.bounded = isinstance(message, m.Subscribe) and message.params.end_group is not None
        """The last group has a number that another publisher would not use."""


class Egress:
    """The consuming side of one session."""

    def __init__(self, context: Context, call_later: Callable[[float, object], object]) -> None:
        self._context = context
        self._moq = context.moq
        self._serving = context.moq.serving
        self._call_later = call_later
        self._watches: dict[int, str] = {}  # prefixes, by request
        self._requests: dict[int, Request] = {}
        self.skips = Skips(context, call_later)

    def count(self) -> int:
        return len(self._requests)

    def end(self) -> None:
        for request in self._requests.values():
            self._leave(request)
        self._requests.clear()
        self._watches.clear()
        self.skips.end()

    def _leave(self, request: Request) -> None:
        """Cancel at the track, or at the directory if no track has accepted yet."""
        to = self._context.environment.origin if request.track is None else request.track
        send(to, m.Unsubscribe(self._context.ref, request.message.key))

    # --- requests of the peer

    def on_event(self, event: moq.Event) -> bool:
        """True if the event was a request of the peer."""
        match event:
            case moq.SubscribeRequested():
                self._on_subscribe(event)
            case moq.SubscribeUpdated():
                self._on_update(event)
            case moq.RequestCancelled():
                self._on_cancelled(event.request)
            case moq.RequestFinished():
                self._requests.pop(event.request, None)
            case moq.AnnounceRequested() | moq.TracksRequested():
                self._on_watch(event)
            case moq.InfoRequested():
                self._on_info(event)
            case moq.FetchRequested():
                self._on_fetch(event)
            case moq.GroupSkipped():
                self._on_skipped(event)
            case moq.GroupStopped() | moq.ProbeRequested():
                pass
            case _:
                return False
        return True

    def _on_watch(self, event: moq.AnnounceRequested | moq.TracksRequested) -> None:
        context = self._context
        permissions = context.permissions
        if len(self._watches) >= context.environment.limits.announce_streams:
            context.over("announce_streams", prefix=event.prefix)
            self._serving.reject(event.request, StreamCode.NO_CAPACITY)
            return
        if self._too_long(join(permissions.root, event.prefix)):
            self._serving.reject(event.request, StreamCode.UNROUTABLE)
            return
        self._watches[event.request] = event.prefix
        prefixes = narrow(permissions.subscribe, event.prefix)
        if isinstance(event, moq.TracksRequested):
            below = tuple(join(permissions.root, prefix) for prefix in prefixes)
            watch = m.WatchTracks(context.ref, context.number, event.request, below)
            send(context.environment.origin, watch)
            self._serving.accept(event.request)
            return
        peer = self._moq.peer
        exclude = event.exclude
        if self._moq.features.prefixes and peer is not None and peer.hop is not None:
            exclude = peer.hop
        interest = AnnounceInterest(
            session=context.number,
            watch=event.request,
            prefixes=tuple(join(permissions.root, prefix) for prefix in prefixes),
            exclude=exclude,
            routes_above=self._moq.features.prefixes,
            relay=permissions.cluster,
            one_hop=permissions.cluster and not self._moq.features.hops,
        )
        send(context.environment.origin, m.Watch(context.ref, interest))

    def _on_cancelled(self, number: int) -> None:
        if self._watches.pop(number, None) is not None:
            origin = self._context.environment.origin
            send(origin, m.Unwatch(self._context.number, number))
            send(origin, m.UnwatchTracks(self._context.number, number))
            return
        request = self._requests.pop(number, None)
        if request is not None:
            self._leave(request)

    def _too_long(self, *names: str) -> bool:
        longest = self._context.environment.limits.path
        for name in names:
            if size_of(name) > longest:
                self._context.over("path", path=name)
                return True
        return False

    def _begin(self, event: Requested) -> Asked | None:
        """Fields common to all requests; `None` if refused."""
        context, broadcast = self._context, event.broadcast
        if len(self._requests) >= context.limit_of("subscriptions"):
            context.over("subscriptions", path=broadcast)
            self._serving.reject(event.request, StreamCode.NO_CAPACITY)
            return None
        path = join(context.permissions.root, broadcast)
        # Without permission the peer learns the same as for a missing broadcast.
        allowed = path.count("/") < MAX_SEGMENTS and not self._too_long(path, event.track)
        if allowed and not context.permissions.may_subscribe(broadcast):
            context.log.info("refused subscribe", path=broadcast, reason="not permitted")
            allowed = False
        if covers(context.environment.members, path) and not context.permissions.cluster:
            allowed = False  # relays talk to each other there
        if not allowed:
            self._serving.reject(event.request, StreamCode.UNROUTABLE)
            return None
        return path, event.track, context.ref, context.number, event.request

    def _ask(self, request: Request) -> None:
        self._requests[request.message.key] = request
        send(self._context.environment.origin, request.message)

    @property
    def _exclude(self) -> int:
        peer = self._moq.peer
        return 0 if peer is None else peer.hop or 0

    def _on_subscribe(self, event: moq.SubscribeRequested) -> None:
        asked, context = self._begin(event), self._context
        if asked is not None:
            context.counts["subscriptions", ""] += 1
            relay = context.permissions.cluster
            params = self._any_age(event.params)
            message = m.Subscribe(*asked, self._moq.encoding, params, self._exclude, relay=relay)
            self._ask(Subscription(message))

    def _any_age(self, params: SubscribeParams) -> SubscribeParams:
        """06 limits the age of all groups, also for another relay, which asks anew for viewers that do not."""
        return params._replace(any_age=not self._moq.features.history)

    def _on_info(self, event: moq.InfoRequested) -> None:
        asked = self._begin(event)
        if asked is not None:
            self._ask(Subscription(m.Describe(*asked, self._exclude)))

    def _on_fetch(self, event: moq.FetchRequested) -> None:
        asked = self._begin(event)
        if asked is not None:
            params = SubscribeParams(
                priority=event.priority,
                start_group=event.group,
                start_frame=event.start_frame,
                end_frame=event.end_frame,
            )
            self._ask(Request(m.Fetch(*asked, self._moq.fetch_encoding, params, self._exclude)))

    def _on_update(self, event: moq.SubscribeUpdated) -> None:
        request, params = self._requests.get(event.request), self._any_age(event.params)
        if isinstance(request, Subscription):
            request.params = params
            request.bounded = params.end_group is not None
            if request.track is not None:
                send(request.track, m.UpdateSubscription(self._context.ref, event.request, params))

    def _on_skipped(self, event: moq.GroupSkipped) -> None:
        self.skips.begin()
        request = self._requests.get(event.request)
        if request is not None:
            self._context.log.warning(
                "slow subscriber",
                broadcast=request.message.path,
                track=request.message.track,
                group=event.sequence,
                reason=event.reason,
                waiting_bytes=event.unsent,
                kept_bytes=event.kept,
            )

    # --- answers of directory and tracks

    def deliver(self, message: m.Deliver) -> None:
        """Pass on groups of a subscription: the hot path."""
        request = self._requests.get(message.key)
        if isinstance(request, Subscription):
            failover = request.failover
            fragments = failover.take(message.fragments)
            for fragment in fragments:
                if fragment.first and fragment.code is None:
                    failover.passed(fragment.sequence)
            self._serving.send_group(message.key, fragments, self._context.clock())

    def on_message(self, message: object) -> bool:
        """True if the message was an answer."""
        match message:
            case m.WatchStarted():
                offers = [self._offer(offer) for offer in message.offers]
                self._serving.announce_initial(message.watch, offers)
            case m.WatchChanged():
                offer = None if message.offer is None else self._offer(message.offer)
                self._serving.announce(message.watch, self._relative(message.path), offer)
            case m.TrackChanged():
                path = self._relative(message.path)
                self._serving.offer_track(message.watch, path, message.track, offered=message.offered)
            case (
                m.Accepted()
                | m.Refused()
                | m.PublisherLost()
                | m.Ended()
                | m.DeliverDatagram()
                | m.Described()
                | m.FetchData()
                | AskAgain()
            ):
                request = self._requests.get(message.key)
                if request is not None:
                    self._on_answer(request, message)
                elif isinstance(message, m.Accepted):
                    send(message.track, m.Unsubscribe(self._context.ref, message.key))
            case _:
                return False
        return True

    def _relative(self, path: str) -> str:
        return strip(path, self._context.permissions.root) or ""

    def _offer(self, offer: Announcement) -> moq.Offer:
        return moq.Offer(self._relative(offer.path), offer.route, offer.source)

    def _on_answer(self, request: Request, message: object) -> None:  # noqa: C901 - one line per message
        key = request.message.key
        match message:
            case m.Accepted():
                self._on_accepted(request, message)
            case m.Ended() if isinstance(request, Subscription):
                floor = request.failover.floor
                missing = [(max(start, floor), end) for start, end in message.missing if end >= floor]
                final = max(message.final, floor)
                self._serving.end_track(key, final, self._context.clock(), missing)
            case m.DeliverDatagram() if isinstance(request, Subscription):
                if message.sequence < request.failover.floor:
                    return
                request.failover.passed(message.sequence)
                self._serving.send_datagram(
                    key, message.sequence, message.timestamp, message.payload, message.start
                )
            case m.Described():
                self._serving.send_info(key, message.properties, message.largest)
                del self._requests[key]
            case m.FetchData():
                if message.part.fin:
                    del self._requests[key]
                part = message.part
                self._serving.send_fetched(key, part.chunks, fin=part.fin, largest=message.largest)
            case m.Refused():
                code = message.code
                if isinstance(request, Subscription) and request.failover.code is not None:
                    code = request.failover.code  # the first publisher's loss is the cause
                self._refuse(key, code)
            case m.PublisherLost():
                self._on_lost(request, message.code)
            case AskAgain():
                send(self._context.environment.origin, request.message)

    def _on_accepted(self, request: Request, accepted: m.Accepted) -> None:
        request.track = track = accepted.track
        if isinstance(request, Subscription) and isinstance(request.message, m.Subscribe):
            params = request.params
            if request.failover.accepted():
                about = {"broadcast": request.message.path, "track": request.message.track}
                self._context.log.info("moved", **about, from_group=request.failover.floor)
                if params is not None:  # the first group was the former publisher's number
                    params = params._replace(start_group=None, start_frame=0)
            else:
                self._serving.accept(request.message.key, accepted.largest)
            if params is not None:
                send(track, m.UpdateSubscription(self._context.ref, request.message.key, params))

    def _on_lost(self, request: Request, code: int) -> None:
        """Ask for another publisher, now or later."""
        request.track = None
        key = request.message.key
        delay = None
        if isinstance(request, Subscription) and not request.bounded:
            delay = request.failover.lost(code, self._context.clock())
        if delay is None or not isinstance(request, Subscription):
            self._refuse(key, code)
            return
        if isinstance(request.message, m.Subscribe):
            request.message = again(request.message, request.failover)
        if delay:
            self._call_later(delay, AskAgain(key))
        else:
            send(self._context.environment.origin, request.message)

    def _refuse(self, key: int, code: int) -> None:
        self._requests.pop(key, None)
        self._serving.reject(key, code)


def again(request: m.Subscribe, failover: Failover) -> m.Subscribe:
    """The request without the first publisher's bounds: from the newest group on."""
    params = request.params._replace(start_group=None, start_frame=0, history_ms=0)
    return request._replace(params=params, floor=failover.next, life=0)
