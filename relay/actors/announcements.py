"""Part of the connection actor: the peer's announcements and their broadcasts."""

from __future__ import annotations

from relay.actors import messages as m
from relay.actors.broadcast import BroadcastActor
from relay.actors.environment import Context
from relay.actors.runtime import Ref, send
from relay.model.events import Kind
from relay.model.path import MAX_SEGMENTS, covers, join, size_of, strip
from relay.model.route import MAX_HOP_ID, MAX_HOPS, UNKNOWN_HOP, Route, same_publisher
from relay.moq import session as moq
from relay.runtime import Runtime
from relay.wire.errors import SessionCode

SUBSCRIBER_ONLY = 2  # in SETUP


def random_hop(runtime: Runtime) -> int:
    """A random id for a peer or relay without one."""
    return runtime.random.randint(1, MAX_HOP_ID)


class Announcement:
    """A live announcement of the peer."""

    __slots__ = ("broadcast", "generation", "identity", "route")

    def __init__(self, generation: int, route: Route, broadcast: Ref | None, identity: int) -> None:
        self.generation = generation
        self.route = route
        self.identity = identity  # publisher id where the peer gives none
        self.broadcast = broadcast  # `None` if unused: a loop, or too long


class Announcements:
    """The announcements of one session, by absolute path."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._moq = context.moq
        self._announced: dict[str, Announcement] = {}
        self._generation = 0

    def start(self, before: tuple[str, ...] = ()) -> None:
        """What the peer may publish, and was not asked `before`."""
        peer = self._moq.peer
        if peer is None or peer.role != SUBSCRIBER_ONLY:
            for prefix in self._context.permissions.publish:
                if prefix not in before:
                    self._moq.requests.request_announcements(prefix)

    def paths(self) -> tuple[str, ...]:
        return tuple(sorted(self._announced))

    def announced(self, event: moq.Announced) -> None:
        absolute = join(self._context.permissions.root, event.path)
        route = self._usable(event.route)
        known = self._announced.get(absolute)
        if known is None:
            self._announce(absolute, route)
            return
        if route is not None:
            route = self._identified(route, known.identity)
        # An update by another relay is the same broadcast, even if its publisher has another id now.
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

    def withdrawn(self, event: moq.Unannounced) -> None:
        self._withdraw(join(self._context.permissions.root, event.path), said=event.said)

    def _announce(self, absolute: str, route: Route | None) -> None:
        context = self._context
        environment = context.environment
        if not self._within_limits(absolute):
            route = None
        self._generation += 1
        if covers(environment.members, absolute) and not context.permissions.cluster:
            # We dial members with the cluster's token, so no other peer may name one.
            if not context.counts["refused", "members"]:
                context.log.warning("ignored announcement", path=absolute, reason="for relays of the cluster")
            context.counts["refused", "members"] += 1
            context.report(
                Kind.REFUSED, "only relays may announce below this path", absolute, limit="members"
            )
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
            # what relays tell each other is not counted as tracks and viewers
            counters=None if covers(environment.members, absolute) else environment.counters,
            cache_budget=environment.cache_budget,
            directory=environment.origin,
        )
        self._announced[absolute] = Announcement(self._generation, route, broadcast, identity)
        # Versions without hop ids cannot tell an echo of our announcement from a publisher.
        echo = not self._moq.features.hops and self._moq.serving.has_offered(
            strip(absolute, context.permissions.root) or ""
        )
        context.log.debug("announced", broadcast=absolute, hops=route.hops)
        send(
            environment.origin,
            m.Announce(
                session=context.number,
                connection=context.ref,
                path=absolute,
                generation=self._generation,
                route=route,
                broadcast=broadcast,
                prefix=self._moq.features.below,
                tentative=echo,
                relayed=context.permissions.cluster,
                onward=not context.permissions.cluster or self._moq.features.hops,
            ),
        )

    def _within_limits(self, absolute: str) -> bool:
        context = self._context
        limit = context.limit_of("announces")
        if len(self._announced) >= limit:
            context.over("announces", path=absolute)
            context.moq.close(SessionCode.PROTOCOL_VIOLATION, f"more than {limit} announcements")
            return False
        size, longest = size_of(absolute), context.environment.limits.path
        if size > longest:
            context.over("path", path=absolute)
            if not context.permissions.cluster:  # the passing relay is not at fault
                text = f"a path of {size} bytes, at most {longest} are allowed"
                context.moq.close(SessionCode.PROTOCOL_VIOLATION, text)
            return False
        # Too deep for messages to viewers of the root.
        return absolute.count("/") < MAX_SEGMENTS

    def _withdraw(self, absolute: str, *, said: bool = True) -> None:
        known = self._announced.pop(absolute, None)
        if known is not None and known.broadcast is not None:
            self._context.log.debug("unannounced", broadcast=absolute)
            message = m.Unannounce(self._context.number, absolute, known.generation, said)
            send(self._context.environment.origin, message)

    def _usable(self, route: Route) -> Route | None:
        """The route to pass on, if any (moq-lite, "Announce")."""
        chain = route.hops or (UNKNOWN_HOP,)
        known = [hop for hop in chain if hop != UNKNOWN_HOP]
        own = self._context.environment.hop
        if len(chain) > MAX_HOPS or len(set(known)) < len(known) or own in known:
            return None
        route = route._replace(hops=chain)
        if not self._moq.features.prefixes:  # the versions with costs
            return route
        peer = self._moq.peer
        return route.plus_cost(1 if peer is None or peer.cost is None else peer.cost)

    def _identified(self, route: Route, identity: int) -> Route:
        """Gives a route without a publisher id one of ours, so that the cluster's relays recognise it.

        For one announcement: the next by a 01 to 03 relay may be another publisher's.
        """
        newer_relay = self._context.permissions.cluster and self._moq.features.hops
        if route.publisher != UNKNOWN_HOP or newer_relay:
            return route
        return route._replace(hops=(identity, *route.hops[1:]))
