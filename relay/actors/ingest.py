"""What the peer of a connection publishes: its announcements, our subscriptions to it, the groups it sends.

Part of the connection actor. For each track that somebody wants it holds one upstream subscription and hands what
arrives to the track's actor, one message per track and loop turn.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from relay.actors import messages as m
from relay.actors.broadcast import BroadcastActor
from relay.actors.runtime import Ref, send
from relay.actors.upstream import (
    AnnounceReplies,
    FetchReply,
    LeftSubscription,
    Parts,
    Past,
    PastReplies,
    PeerUni,
    SubscribeReplies,
    TrackReply,
    Upstream,
)
from relay.auth.permissions import loggable
from relay.model.path import covers, join
from relay.model.route import MAX_COST, MAX_HOPS, UNKNOWN_HOP, Route, same_publisher
from relay.model.track import Interest, TrackProperties
from relay.wire.errors import (
    ProtocolViolation,
    StreamCode,
    WireError,
)
from relay.wire.frame import open_request
from relay.wire.messages import (
    AnnounceRequest,
    Datagram,
    Fetch,
    GroupHeader,
    Role,
    Subscribe,
    SubscribeUpdate,
    TrackRequest,
)
from relay.wire.text import MAX_PATH_SEGMENTS
from relay.wire.varint import MAX_VARINT
from relay.wire.version import Version

if TYPE_CHECKING:
    from relay.actors.connection import ConnectionActor, Handler

UPSTREAM_LATENCY_MS = 5_000
"""How late groups may reach us: without it a publisher drops what a short stall on the way has held up."""

PAST_MS = 3_600_000
"""The age to ask of 06 for what older versions ask for by its number: there a first group alone asks for no past."""

MAX_HOP_ID = (1 << 53) - 1
"""Hop ids stay below it: older browser clients hold them in a double."""


def _latency(interest: Interest, version: Version) -> int:
    """The latency to ask upstream for, in milliseconds.

    Before 06 it is how late a group may come; a relay takes what it would keep, and leaves it to each subscriber what
    to skip. From 06 on it asks for the past, so it is no more than what the subscribers want.
    """
    if version >= Version.LITE_06:
        if interest.start_group is not None and not interest.start_is_floor:
            return PAST_MS
        return interest.history_ms
    return max(interest.latency_ms, UPSTREAM_LATENCY_MS)


def _update_of(interest: Interest, version: Version) -> SubscribeUpdate:
    """What all subscribers of a track together want, as it is said to its publisher."""
    return SubscribeUpdate(
        priority=interest.priority,
        ordered=interest.ordered,
        max_latency=_latency(interest, version),
        start_group=_bounded(interest.start_group),
    )


def _bounded(group: int | None) -> int | None:
    """A group number that still fits once it is stored as value + 1."""
    return None if group is None else min(group, MAX_VARINT - 1)


def random_hop() -> int:
    """An id for a peer or relay that has none."""
    return random.SystemRandom().randint(1, MAX_HOP_ID)


class Announced:
    """One live announcement of the peer."""

    __slots__ = ("broadcast", "generation", "identity", "path", "route")

    def __init__(
        self, path: str, generation: int, route: Route, broadcast: Ref | None, identity: int
    ) -> None:
        self.path = path
        self.generation = generation
        self.route = route
        self.identity = identity
        """Stands for its publisher where the peer does not say who that is."""
        self.broadcast = broadcast
        """`None` if the announcement is not used: it came back to us in a circle, or is too long."""


class Ingest:
    """The publishing side of one session."""

    def __init__(self, connection: ConnectionActor) -> None:
        self._connection = connection
        self._announced: dict[str, Announced] = {}
        self._generation = 0
        self._upstreams: dict[int, Upstream] = {}
        self._by_track: dict[str, Upstream] = {}
        self._pasts: dict[str, Past] = {}
        """Requests for the past, by track: one each at a time."""
        self._calls: dict[str, list[TrackReply | FetchReply]] = {}
        """Unanswered questions about tracks, by track."""
        self._next_id = 0
        self.fresh: dict[int, Upstream] = {}
        """Subscriptions of which something came in this turn: to be flushed at its end."""

    # --- for the connection ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Ask the peer for what it publishes, within what it may."""
        setup = self._connection.peer_setup
        if setup is not None and setup.role == Role.SUBSCRIBER:
            return
        for prefix in self._connection.permissions.publish:
            stream = self._connection.session.open_bidi()
            stream.context = AnnounceReplies(self._connection, self, prefix)
            request = AnnounceRequest(prefix, exclude_hop=self._connection.environment.hop)
            stream.write((open_request(self._connection.version, request),))

    def uni_handler(self) -> Handler:
        """For a unidirectional stream that the peer has just opened."""
        return PeerUni(self._connection, self)

    def flush(self) -> None:
        """End of a turn: one message per track."""
        fresh, self.fresh = self.fresh, {}
        for upstream in fresh.values():
            parts = upstream.take()
            if parts:
                send(upstream.track, upstream.report(parts))

    def end(self) -> None:
        """The session is over: tell the tracks. The origin hears it from the connection."""
        for upstream in list(self._by_track.values()):
            self.flush()
            send(upstream.track, m.UpstreamFailed(StreamCode.INTERNAL, gone=True))
        for calls in self._calls.values():
            for call in calls:
                send(call.track, m.UpstreamFailed(StreamCode.INTERNAL, gone=True))
        self._calls.clear()
        self._upstreams.clear()
        self._by_track.clear()
        self._pasts.clear()
        self._announced.clear()

    def on_message(self, message: object) -> bool:
        """Handle what tracks ask; whether it was for us."""
        match message:
            case m.OpenUpstream():
                self._open(message)
            case m.DescribeUpstream():
                self._describe(message.track, message.path, message.name)
            case m.FetchUpstream():
                self._fetch(message)
            case m.UpdateUpstream():
                self._update(message)
            case m.StopGroup():
                self._stop_group(message)
            case m.StopFetch():
                self._stop_fetch(message)
            case m.OpenPast():
                self._open_past(message)
            case m.ClosePast():
                self._close_past(message.track)
            case m.CloseUpstream():
                self._close(message.track)
            case _:
                return False
        return True

    def paths(self) -> list[str]:
        """Paths the peer announces, absolute."""
        return sorted(self._announced)

    def count(self) -> int:
        """Upstream subscriptions."""
        return len(self._by_track)

    # --- announcements ---------------------------------------------------------------------------------------------

    def announce(self, path: str, route: Route | None) -> None:
        """The peer announces `path` (relative to the root); without a usable `route` it is only remembered."""
        connection = self._connection
        limit = connection.limit_of("announces")
        absolute = join(connection.permissions.root, path)
        if len(self._announced) >= limit:
            connection.over("announces", f"path={loggable(absolute)}")
            raise ProtocolViolation(f"more than {limit} announcements")
        size, longest = len(absolute.encode()), connection.environment.limits.path
        if size > longest:
            connection.over("path", f"path={loggable(absolute)}")
            if not connection.permissions.cluster:
                raise ProtocolViolation(f"a path of {size} bytes, at most {longest} are allowed")
            route = None  # of another relay's publisher: not the link is to pay for it
        self._generation += 1
        if covers(connection.environment.members, absolute) and not connection.permissions.cluster:
            # who may announce members makes relays dial them, with the token of the cluster
            if not connection.counts["refused", "members"]:  # told once: it may happen a million times
                connection.log.warning(
                    "ignored announcement path=%s reason='for relays of the cluster'", loggable(absolute)
                )
            connection.counts["refused", "members"] += 1
            route = None
        if absolute.count("/") >= MAX_PATH_SEGMENTS:
            route = None  # no message could carry it to those who see all of it
        identity = random_hop()
        if route is None:
            self._announced[absolute] = Announced(absolute, self._generation, Route(), None, identity)
            return
        route = self._identified(route, identity)
        environment = connection.environment
        connection.counts["announcements_received", ""] += 1
        broadcast = BroadcastActor.start(
            path=absolute,
            source=connection.actor_ref,
            limits=environment.limits,
            ledger=environment.ledger,
            keeper=environment.keeper,
            directory=environment.origin,
        )
        self._announced[absolute] = Announced(absolute, self._generation, route, broadcast, identity)
        # versions up to 03 cannot tell an echo of our own announcement from a publisher
        echo = connection.version <= Version.LITE_03 and connection.egress.has_offered(absolute)
        connection.log.debug("announced path=%s hops=%s", absolute, route.hops)
        send(
            connection.environment.origin,
            m.Announce(
                session=connection.number,
                connection=connection.actor_ref,
                path=absolute,
                generation=self._generation,
                route=route,
                broadcast=broadcast,
                prefix=connection.version >= Version.LITE_06,
                tentative=echo,
                relayed=connection.permissions.cluster,
                onward=not connection.permissions.cluster or connection.version >= Version.LITE_04,
            ),
        )

    def reroute(self, path: str, route: Route | None, *, restart: bool = False) -> None:
        """A live announcement has a new route, or begins anew."""
        absolute = join(self._connection.permissions.root, path)
        known = self._announced[absolute]
        if route is not None:
            route = self._identified(route, known.identity)
        # another relay says by an update that it goes on, even if its publisher had to come back under another id
        goes_on = route is not None and (
            same_publisher(route, known.route) or self._connection.permissions.cluster
        )
        if restart or route is None or known.broadcast is None or not goes_on:
            self.withdraw(path)
            self.announce(path, route)
            return
        known.route = route
        message = m.Reroute(self._connection.number, absolute, known.generation, route)
        send(self._connection.environment.origin, message)

    def withdraw(self, path: str, *, said: bool = True) -> None:
        """The announcement ended; `said`: by a message of its own."""
        absolute = join(self._connection.permissions.root, path)
        known = self._announced.pop(absolute, None)
        if known is not None and known.broadcast is not None:
            self._connection.log.debug("unannounced path=%s", absolute)
            message = m.Unannounce(self._connection.number, absolute, known.generation, said)
            send(self._connection.environment.origin, message)

    def route_of(
        self, hops: tuple[int, ...], hop_count: int, origin: int | None, costs: tuple[int, int]
    ) -> Route | None:
        """The route as we pass it on, or `None` if it must not be used (moq-lite, announcements)."""
        version = self._connection.version
        if version <= Version.LITE_02:
            chain: tuple[int, ...] = (UNKNOWN_HOP,)
        elif version == Version.LITE_03:
            chain = (UNKNOWN_HOP,) * max(hop_count, 1)
        elif version == Version.LITE_04:
            chain = hops or (UNKNOWN_HOP,)
        else:
            chain = (*hops, origin if origin is not None else UNKNOWN_HOP)
        known = [hop for hop in chain if hop != UNKNOWN_HOP]
        if len(chain) > MAX_HOPS or len(set(known)) < len(known) or self._connection.environment.hop in known:
            return None
        if version < Version.LITE_06:
            return Route(chain, 0, MAX_COST)
        setup = self._connection.peer_setup
        link = 1 if setup is None or setup.cost is None else setup.cost
        return Route(chain, *costs).plus_cost(link)

    def _identified(self, route: Route, identity: int) -> Route:
        """The route with an id of ours for a publisher that gave none, good for one announcement.

        With it the routes across a cluster are known to lead to the same publisher. What a relay of 01 to 03 announces
        again may come from another publisher. Newer relays withhold an id on purpose.
        """
        connection = self._connection
        newer_relay = connection.permissions.cluster and connection.version >= Version.LITE_04
        if route.publisher != UNKNOWN_HOP or newer_relay:
            return route
        return route._replace(hops=(identity, *route.hops[1:]))

    # --- subscriptions ---------------------------------------------------------------------------------------------

    def _relative(self, path: str) -> str:
        root = self._connection.permissions.root
        return path[len(root) + 1 :] if root else path

    def _open(self, message: m.OpenUpstream) -> None:
        version = self._connection.version
        if message.describe:
            self._describe(message.track, message.path, message.name)
        stream = self._connection.session.open_bidi()
        upstream = Upstream(self._next_id, message.track, stream)
        self._next_id += 1
        self._upstreams[upstream.id] = upstream
        self._by_track[message.track.actor_urn] = upstream
        stream.context = SubscribeReplies(self._connection, self, upstream)
        update = _update_of(message.interest, version)
        upstream.told = update.encode(version) if version >= Version.LITE_03 else b""
        request = Subscribe(
            id=upstream.id,
            broadcast=self._relative(message.path),
            track=message.name,
            priority=update.priority,
            ordered=update.ordered,
            max_latency=update.max_latency,
            start_group=update.start_group,
        )
        stream.write((open_request(version, request),))

    def _open_past(self, message: m.OpenPast) -> None:
        version = self._connection.version
        self._close_past(message.track)
        interest = message.interest
        by_age = interest.start_group is None or interest.start_is_floor
        if version <= Version.LITE_02 or (by_age and version <= Version.LITE_05):  # has no field for that
            send(message.track, m.PastOver(message.number, 0.0))
            return
        stream = self._connection.session.open_bidi()
        past = Past(self._next_id, message.track, stream, message.number)
        self._next_id += 1
        self._upstreams[past.id] = self._pasts[message.track.actor_urn] = past
        stream.context = PastReplies(self._connection, self, past)
        update = _update_of(interest, version)
        request = Subscribe(
            id=past.id,
            broadcast=self._relative(message.path),
            track=message.name,
            priority=update.priority,
            ordered=update.ordered,
            max_latency=update.max_latency,
            start_group=update.start_group,
            end_group=_bounded(interest.end_group),
        )
        stream.write((open_request(version, request),))

    def _close_past(self, track: Ref) -> None:
        past = self._pasts.pop(track.actor_urn, None)
        if past is None:
            return
        self._upstreams.pop(past.id, None)
        self.fresh.pop(past.id, None)
        for stream in past.groups.values():
            self._connection.refuse(stream, StreamCode.CANCELLED)
        past.stream.context = LeftSubscription()
        past.end_request(self._connection.version)

    def _describe(self, track: Ref, path: str, name: str) -> None:
        version = self._connection.version
        if version < Version.LITE_05:
            send(track, m.UpstreamProperties(TrackProperties(), answered=False))
            return
        stream = self._connection.session.open_bidi()
        self._call(TrackReply(self._connection, self, track, stream))
        request = TrackRequest(self._relative(path), name)
        stream.write(
            (open_request(version, request),)
        )  # our FIN before the answer would withdraw the request

    def _update(self, message: m.UpdateUpstream) -> None:
        upstream = self._by_track.get(message.track.actor_urn)
        version = self._connection.version
        if upstream is None or version < Version.LITE_03:
            return
        update = _update_of(message.interest, version).encode(version)
        if update == upstream.told:
            return  # what has changed is nothing that this version has a field for
        waiting = upstream.stream.unsent
        if waiting > self._connection.environment.limits.message:
            # viewers may change their minds for ever, and it reads none of it
            self._connection.over("message", f"updates of a subscription waiting_bytes={waiting}")
            self._connection.refuse(upstream.stream, StreamCode.CANCELLED)
            self.failed(upstream, StreamCode.CONTROL_TIMEOUT)
            return
        upstream.told = update
        upstream.stream.write((update,))

    def _fetch(self, message: m.FetchUpstream) -> None:
        version = self._connection.version
        if version < Version.LITE_05:
            part = m.GroupPart(message.sequence, 0, (), fin=False, code=StreamCode.NOT_FOUND)
            send(message.track, m.UpstreamFetched(part))
            return
        stream = self._connection.session.open_bidi()
        self._call(FetchReply(self._connection, self, message.track, stream, message.sequence))
        request = Fetch(self._relative(message.path), message.name, message.priority, message.sequence)
        stream.write((open_request(version, request),))

    def _call(self, call: TrackReply | FetchReply) -> None:
        call.stream.context = call
        self._calls.setdefault(call.track.actor_urn, []).append(call)

    def answered(self, call: TrackReply | FetchReply) -> None:
        """A question needs no more care."""
        calls = self._calls.get(call.track.actor_urn, [])
        if call in calls:
            calls.remove(call)
            if not calls:
                del self._calls[call.track.actor_urn]

    def _stop_group(self, message: m.StopGroup) -> None:
        upstreams = self._pasts if message.past else self._by_track
        upstream = upstreams.get(message.track.actor_urn)
        stream = upstream.groups.pop(message.sequence, None) if upstream is not None else None
        if stream is not None:
            self._connection.refuse(stream, message.code)

    def _stop_fetch(self, message: m.StopFetch) -> None:
        for call in self._calls.get(message.track.actor_urn, ()):
            if isinstance(call, FetchReply) and call.sequence == message.sequence:
                self.answered(call)
                self._connection.refuse(call.stream, StreamCode.CANCELLED)
                return

    def _close(self, track: Ref) -> None:
        """Nobody wants the track any more."""
        self._close_past(track)
        for call in self._calls.pop(track.actor_urn, []):
            self._connection.refuse(call.stream, StreamCode.CANCELLED)
        upstream = self._by_track.get(track.actor_urn)
        if upstream is None:
            return
        self._forget(upstream)
        for stream in upstream.groups.values():
            self._connection.refuse(stream, StreamCode.CANCELLED)
        if self._connection.version <= Version.LITE_02 and not upstream.ended:
            self._connection.refuse(upstream.stream, StreamCode.CANCELLED)
        else:
            upstream.stream.context = LeftSubscription()
            upstream.end_request(self._connection.version)

    def _forget(self, upstream: Upstream) -> None:
        self._upstreams.pop(upstream.id, None)
        self._by_track.pop(upstream.track.actor_urn, None)
        self.fresh.pop(upstream.id, None)

    def failed(self, upstream: Upstream, code: int) -> None:
        """The peer refused or aborted a subscription."""
        if upstream.id not in self._upstreams:
            return
        self.flush()
        self._forget(upstream)
        for stream in upstream.groups.values():
            self._connection.refuse(stream, StreamCode.CANCELLED)
        send(upstream.track, m.UpstreamFailed(code, gone=self._is_elsewhere(code)))

    def track_failed(self, track: Ref, code: int) -> None:
        """The peer refused to describe a track: whatever else was asked of it goes too."""
        upstream = self._by_track.get(track.actor_urn)
        if upstream is not None:
            self._connection.refuse(upstream.stream, StreamCode.CANCELLED)
            self.failed(upstream, code)
        else:
            send(track, m.UpstreamFailed(code, gone=self._is_elsewhere(code)))

    def _is_elsewhere(self, code: int) -> bool:
        """Whether a refusal says nothing about the track: another relay that lost it is not its publisher."""
        return self._connection.permissions.cluster and code != StreamCode.NOT_FOUND

    # --- groups ----------------------------------------------------------------------------------------------------

    def upstream(self, number: int) -> Upstream | None:
        """The subscription with that id."""
        return self._upstreams.get(number)

    def add(
        self, upstream: Upstream, header: GroupHeader, parts: Parts, *, fin: bool, code: int | None = None
    ) -> None:
        """Part of a group arrived."""
        if upstream.id in self._upstreams:
            upstream.add(header.sequence, header.frame_start, parts, fin=fin, code=code)
            self.fresh[upstream.id] = upstream

    def on_datagram(self, data: bytes) -> None:
        """A one-frame group (05 and 06). What cannot be read or is not ours is dropped, as a lost one would be."""
        if self._connection.version < Version.LITE_05:
            return
        try:
            datagram = Datagram.decode(data, self._connection.version)
        except WireError:
            return
        upstream = self._upstreams.get(datagram.subscribe_id)
        if upstream is not None:
            message = m.UpstreamDatagram(datagram.sequence, datagram.timestamp, datagram.payload)
            send(upstream.track, message)
