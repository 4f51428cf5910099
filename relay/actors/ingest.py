"""What the peer of a connection publishes: its announcements, our subscriptions to it, the groups it sends.

Part of the connection actor. Turns events of the session into messages to the directory and to tracks, and messages of
tracks into requests. One upstream subscription per track, however many viewers there are.
"""

from __future__ import annotations

from typing import NamedTuple

from relay.actors import messages as m
from relay.actors.broadcast import BroadcastActor
from relay.actors.environment import Context
from relay.actors.runtime import Ref, send
from relay.auth.permissions import loggable
from relay.model.path import MAX_SEGMENTS, covers, join
from relay.model.route import MAX_HOPS, UNKNOWN_HOP, Route, same_publisher
from relay.model.track import SubscribeParams, TrackProperties
from relay.model.track_end import LATE_AT_LEAST
from relay.moq import session as moq
from relay.runtime import Runtime
from relay.wire.errors import SessionCode, StreamCode

UPSTREAM_LATENCY_MS = 5_000
"""How late groups may reach us: with less, a publisher drops groups after a short stall."""

PAST_MS = 3_600_000
"""Age asked for with an explicit first group: on 06 the number alone brings nothing of the past."""

MAX_HOP_ID = (1 << 53) - 1
"""Largest hop id: older browser clients hold them in a double."""

SUBSCRIBER_ONLY = 2
"""Role in SETUP of a peer that publishes nothing."""


def random_hop(runtime: Runtime) -> int:
    """An id for a peer or relay that has none."""
    return runtime.random.randint(1, MAX_HOP_ID)


class Announcement:
    """One live announcement of the peer."""

    __slots__ = ("broadcast", "generation", "identity", "route")

    def __init__(self, generation: int, route: Route, broadcast: Ref | None, identity: int) -> None:
        self.generation = generation
        self.route = route
        self.identity = identity
        """Id of its publisher where the peer gives none."""
        self.broadcast = broadcast
        """`None` if the announcement is not used: a loop, or too long."""


class Question(NamedTuple):
    """A TRACK or FETCH that the peer has not answered."""

    track: Ref
    sequence: int | None
    """Of the group that is fetched."""


class Past(NamedTuple):
    """A subscription to groups before those of another."""

    track: Ref
    number: int
    """The track's name for it."""


class Ingest:
    """The publishing side of one session."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._moq = context.moq
        self._announced: dict[str, Announcement] = {}
        self._generation = 0
        self._tracks: dict[int, Ref] = {}
        """Our subscriptions, by request."""
        self._requests: dict[str, int] = {}
        """The same, by the URN of the track."""
        self._ended: set[int] = set()
        """Subscriptions whose end was reported to the track."""
        self._questions: dict[int, Question] = {}
        self._pasts: dict[int, Past] = {}
        """Subscriptions to the past, by request: one for a track at a time."""

    def start(self) -> None:
        """Ask the peer for what it publishes, within its permissions."""
        peer = self._moq.peer
        if peer is None or peer.role != SUBSCRIBER_ONLY:
            for prefix in self._context.permissions.publish:
                self._moq.requests.request_announcements(prefix)

    def end(self) -> None:
        """The session is over. The connection tells the directory."""
        tracks = [*self._tracks.values(), *(question.track for question in self._questions.values())]
        for track in tracks:
            send(track, m.UpstreamFailed(StreamCode.INTERNAL, gone=True))
        self._tracks.clear()
        self._requests.clear()
        self._questions.clear()
        self._pasts.clear()
        self._announced.clear()

    def paths(self) -> tuple[str, ...]:
        """Paths the peer announces, absolute."""
        return tuple(sorted(self._announced))

    def count(self) -> int:
        """Upstream subscriptions."""
        return len(self._tracks)

    # --- messages of tracks ----------------------------------------------------------------------------------------

    def on_message(self, message: object) -> bool:  # noqa: C901 - one line per message
        """Handle a message of a track; whether it was one."""
        match message:
            case m.OpenUpstream():
                self._open(message)
            case m.DescribeUpstream():
                self._describe(message.track, message.path, message.name)
            case m.FetchUpstream():
                self._fetch(message)
            case m.UpdateUpstream():
                request = self._requests.get(message.track.actor_urn)
                if request is not None and self._moq.has_updates:
                    self._moq.requests.update(request, self._asked(message.params))
            case m.StopGroup():
                track = message.track
                request = self._past_of(track) if message.past else self._requests.get(track.actor_urn)
                if request is not None:
                    self._moq.requests.stop_group(request, message.sequence, message.code)
            case m.OpenPast():
                self._open_past(message)
            case m.ClosePast():
                self._close_past(message.track)
            case m.StopFetch():
                self._stop_questions(message.track, message.sequence)
            case m.CloseUpstream():
                self._close(message.track)
            case _:
                return False
        return True

    def _relative(self, path: str) -> str:
        root = self._context.permissions.root
        return path[len(root) + 1 :] if root else path

    def _asked(self, params: SubscribeParams) -> SubscribeParams:
        """The parameters of our subscription, for all subscribers together.

        How late a group may come is left to each subscriber: a relay takes what it would keep. History is no more than
        what the subscribers want (06).
        """
        explicit = params.start_group is not None and not params.start_is_floor
        return SubscribeParams(
            priority=params.priority,
            ordered=params.ordered,
            latency_ms=max(params.latency_ms, UPSTREAM_LATENCY_MS),
            history_ms=PAST_MS if explicit else params.history_ms,
            start_group=params.start_group,
        )

    def _open(self, message: m.OpenUpstream) -> None:
        track = message.track
        if message.describe:
            self._describe(track, message.path, message.name)
        request = self._moq.requests.subscribe(
            self._relative(message.path), message.name, self._asked(message.params)
        )
        self._tracks[request] = track
        self._requests[track.actor_urn] = request

    def _past_of(self, track: Ref) -> int | None:
        return next((request for request, past in self._pasts.items() if past.track == track), None)

    def _open_past(self, message: m.OpenPast) -> None:
        params, moq_session = message.params, self._moq
        self._close_past(message.track)
        by_age = params.start_group is None or params.start_is_floor
        if not (moq_session.has_history if by_age else moq_session.has_updates):  # it has no field for that
            send(message.track, m.PastOver(message.number, 0.0))
            return
        asked = self._asked(params)._replace(end_group=params.end_group)
        request = moq_session.requests.subscribe(self._relative(message.path), message.name, asked)
        self._pasts[request] = Past(message.track, message.number)

    def _close_past(self, track: Ref) -> None:
        request = self._past_of(track)
        if request is not None:
            del self._pasts[request]
            self._moq.requests.cancel(request)

    def _on_past(self, event: moq.Event, past: Past) -> None:
        """An event of a subscription to the past."""
        match event:
            case moq.GroupData():
                send(past.track, m.PastGroups(past.number, event.parts))
            case moq.SubscriptionStarted():
                send(past.track, m.PastStarted(past.number, event.group))
            case moq.SubscriptionEnded() | moq.RequestRejected():
                send(past.track, m.PastOver(past.number, self._moq.patience(LATE_AT_LEAST)))

    def _describe(self, track: Ref, path: str, name: str) -> None:
        if self._moq.describes_tracks:
            request = self._moq.requests.request_info(self._relative(path), name)
            self._questions[request] = Question(track, None)
        else:
            send(track, m.UpstreamProperties(TrackProperties(), answered=False))

    def _fetch(self, message: m.FetchUpstream) -> None:
        track, sequence = message.track, message.sequence
        if self._moq.describes_tracks:
            request = self._moq.requests.fetch(
                self._relative(message.path), message.name, sequence, priority=message.priority
            )
            self._questions[request] = Question(track, sequence)
        else:
            part = moq.GroupPart(sequence, 0, (), False, StreamCode.NOT_FOUND)
            send(track, m.UpstreamFetched(part))

    def _stop_questions(self, track: Ref, sequence: int | None = None) -> None:
        """Cancel one fetch of a track, or all its questions."""
        for request, question in list(self._questions.items()):
            if question.track == track and sequence in (None, question.sequence):
                del self._questions[request]
                self._moq.requests.cancel(request, StreamCode.CANCELLED)

    def _close(self, track: Ref) -> None:
        """The track has ended."""
        self._close_past(track)
        self._stop_questions(track)
        request = self._requests.get(track.actor_urn)
        if request is not None:
            self._forget(request)
            self._moq.requests.cancel(request)

    def _forget(self, request: int) -> Ref:
        track = self._tracks.pop(request)
        self._requests.pop(track.actor_urn, None)
        self._ended.discard(request)
        return track

    # --- events of the session -------------------------------------------------------------------------------------

    def on_event(self, event: moq.Event) -> bool:  # noqa: C901, PLR0912 - one line per event
        """Handle an event of the publishing side; whether it was one."""
        if self._pasts and (past := self._pasts.get(getattr(event, "request", 0))) is not None:
            self._on_past(event, past)
            return True
        match event:
            case moq.GroupData():
                track = self._tracks.get(event.request)
                if track is not None:
                    send(track, m.UpstreamGroups(event.parts))
            case moq.DatagramReceived():
                track = self._tracks.get(event.request)
                if track is not None:
                    send(track, m.UpstreamDatagram(event.sequence, event.timestamp, event.payload))
            case moq.SubscriptionStarted():
                self._tell(event.request, m.UpstreamStarted(event.group, self._moq.patience(LATE_AT_LEAST)))
            case moq.SubscriptionDropped():
                self._tell(event.request, m.UpstreamDropped(event.start, event.end))
            case moq.SubscriptionEnded():
                if event.request in self._tracks and event.request not in self._ended:
                    self._ended.add(event.request)
                    self._tell(event.request, m.UpstreamEnded(event.final, self._moq.patience(LATE_AT_LEAST)))
            case moq.InfoReceived():
                question = self._questions.pop(event.request, None)
                if question is not None:
                    send(question.track, m.UpstreamProperties(event.properties))
            case moq.FetchedData():
                self._on_fetched(event)
            case moq.RequestRejected():
                self._on_rejected(event)
            case moq.Announced():
                self._on_announced(event)
            case moq.Unannounced():
                self._withdraw(join(self._context.permissions.root, event.path), said=event.said)
            case _:
                return False
        return True

    def _tell(self, request: int, message: object) -> None:
        track = self._tracks.get(request)
        if track is not None:
            send(track, message)

    def _on_fetched(self, event: moq.FetchedData) -> None:
        question = self._questions.get(event.request)
        if question is not None:
            if event.part.fin:
                del self._questions[event.request]
            send(question.track, m.UpstreamFetched(event.part))

    def _on_rejected(self, event: moq.RequestRejected) -> None:
        question = self._questions.pop(event.request, None)
        if event.request in self._tracks:
            if event.request not in self._ended:
                track = self._forget(event.request)
                self._moq.requests.cancel(event.request)
                send(track, m.UpstreamFailed(event.code, gone=self._is_elsewhere(event.code)))
        elif question is not None and question.sequence is not None:
            part = moq.GroupPart(question.sequence, 0, (), False, event.code)
            send(question.track, m.UpstreamFetched(part))
        elif question is not None:
            # A track that cannot be described does not exist: its other requests go, too.
            self._close(question.track)
            send(question.track, m.UpstreamFailed(event.code, gone=self._is_elsewhere(event.code)))

    def _is_elsewhere(self, code: int) -> bool:
        """Whether the refusal comes from another relay that lost the track, and not from its publisher."""
        return self._context.permissions.cluster and code != StreamCode.NOT_FOUND

    # --- announcements ---------------------------------------------------------------------------------------------

    def _on_announced(self, event: moq.Announced) -> None:
        absolute = join(self._context.permissions.root, event.path)
        route = self._usable(event.route)
        known = self._announced.get(absolute)
        if known is None:
            self._announce(absolute, route)
            return
        if route is not None:
            route = self._identified(route, known.identity)
        # An update by another relay is the same broadcast, even if its publisher came back under another id.
        goes_on = route is not None and (
            same_publisher(route, known.route) or self._context.permissions.cluster
        )
        if event.restart or route is None or known.broadcast is None or not goes_on:
            self._withdraw(absolute)
            self._announce(absolute, route)
            return
        known.route = route
        message = m.Reroute(self._context.number, absolute, known.generation, route)
        send(self._context.environment.origin, message)

    def _announce(self, absolute: str, route: Route | None) -> None:
        """The peer announces a path; without a usable `route` it is only remembered."""
        context = self._context
        environment = context.environment
        if not self._within_limits(absolute):
            route = None
        self._generation += 1
        if covers(environment.members, absolute) and not context.permissions.cluster:
            # A member is dialled with the token of the cluster.
            if not context.counts["refused", "members"]:  # logged once
                context.log.warning(
                    "ignored announcement path=%s reason='for relays of the cluster'", loggable(absolute)
                )
            context.counts["refused", "members"] += 1
            route = None
        identity = random_hop(environment.runtime)
        if route is None:
            self._announced[absolute] = Announcement(self._generation, Route(), None, identity)
            return
        route = self._identified(route, identity)
        context.counts["announcements_received", ""] += 1
        broadcast = BroadcastActor.start(
            environment.runtime,
            path=absolute,
            source=context.ref,
            limits=environment.limits,
            counters=environment.counters,
            cache_budget=environment.cache_budget,
            directory=environment.origin,
        )
        self._announced[absolute] = Announcement(self._generation, route, broadcast, identity)
        # Versions without hop ids cannot tell an echo of our own announcement from a publisher.
        echo = not self._moq.has_hops and self._moq.serving.has_offered(self._relative(absolute))
        context.log.debug("announced path=%s hops=%s", absolute, route.hops)
        send(
            environment.origin,
            m.Announce(
                session=context.number,
                connection=context.ref,
                path=absolute,
                generation=self._generation,
                route=route,
                broadcast=broadcast,
                prefix=self._moq.announces_prefixes,
                tentative=echo,
                relayed=context.permissions.cluster,
                onward=not context.permissions.cluster or self._moq.has_hops,
            ),
        )

    def _within_limits(self, absolute: str) -> bool:
        """Whether a path may be used. Closes the session of a peer that announces too much."""
        context = self._context
        limit = context.limit_of("announces")
        if len(self._announced) >= limit:
            context.over("announces", f"path={loggable(absolute)}")
            context.moq.close(SessionCode.PROTOCOL_VIOLATION, f"more than {limit} announcements")
            return False
        size, longest = len(absolute.encode()), context.environment.limits.path
        if size > longest:
            context.over("path", f"path={loggable(absolute)}")
            if not context.permissions.cluster:  # not the fault of the relay that passes it on
                text = f"a path of {size} bytes, at most {longest} are allowed"
                context.moq.close(SessionCode.PROTOCOL_VIOLATION, text)
            return False
        # A deeper path fits into no message to viewers of the root.
        return absolute.count("/") < MAX_SEGMENTS

    def _withdraw(self, absolute: str, *, said: bool = True) -> None:
        known = self._announced.pop(absolute, None)
        if known is not None and known.broadcast is not None:
            self._context.log.debug("unannounced path=%s", absolute)
            message = m.Unannounce(self._context.number, absolute, known.generation, said)
            send(self._context.environment.origin, message)

    def _usable(self, route: Route) -> Route | None:
        """The route as it is passed on, or `None` if it must not be used (moq-lite, "Announce")."""
        chain = route.hops or (UNKNOWN_HOP,)
        known = [hop for hop in chain if hop != UNKNOWN_HOP]
        own = self._context.environment.hop
        if len(chain) > MAX_HOPS or len(set(known)) < len(known) or own in known:
            return None
        route = route._replace(hops=chain)
        if not self._moq.announces_prefixes:  # the versions with costs
            return route
        peer = self._moq.peer
        return route.plus_cost(1 if peer is None or peer.cost is None else peer.cost)

    def _identified(self, route: Route, identity: int) -> Route:
        """The route with an id of ours for a publisher that gave none, good for one announcement.

        With it the routes across a cluster are known to lead to the same publisher. A path that a relay of 01 to 03
        announces again may come from another publisher. Newer relays withhold an id on purpose.
        """
        newer_relay = self._context.permissions.cluster and self._moq.has_hops
        if route.publisher != UNKNOWN_HOP or newer_relay:
            return route
        return route._replace(hops=(identity, *route.hops[1:]))


__all__ = ["Ingest", "random_hop"]
