"""The table of publications, by path and session, and their order of preference. Called by the directory.

Criteria, the first decides:
* A session that answers; surely no echo of ours; not lingering; not leaving.
* A publisher connected to this relay, the newest; else the nearest. If the newest of others won, two relays that learn
  of two publishers in different orders would each route to the other for ever.
* Of routes to the same original publisher, the cheapest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from relay.model.path import Ordered, ancestors, covers
from relay.model.route import Route, same_publisher


@dataclass(slots=True, eq=False)
class Publication:
    """One session's announcement of one path."""

    id: int  # larger for later announcements
    session: int
    path: str
    generation: int
    route: Route
    prefix: bool = False  # also serves every path below
    tentative: bool = False  # may be an echo of our own announcement
    relayed: bool = False  # from another relay of the cluster
    onward: bool = True  # other relays may be offered it
    dead: bool = False  # its session did not answer a ping
    lingering: bool = False  # its session was lost, and a successor is awaited
    leaving: bool = False  # its session is about to end
    usable: bool = True  # its route avoids peers of ours that have withdrawn the path
    source: int = 0  # tells publications apart for watchers; a successor inherits it
    life: int = 0  # equal for routes announced beside each other, with the same groups

    def __post_init__(self) -> None:
        self.source = self.life = self.id

    @property
    def standing(self) -> tuple[bool, bool, bool, bool]:
        """Sort key of trust: real, and likely to stay; more is better."""
        return (not self.dead, not self.tentative, not self.lingering, not self.leaving)


def best(publications: Iterable[Publication]) -> Publication | None:
    """The publication that serves, among those that a requester can use."""
    present = [p for p in publications if p.usable]
    if len(present) <= 1:
        return present[0] if present else None
    standing = max(p.standing for p in present)
    trusted = [p for p in present if p.standing == standing]
    own = [p for p in trusted if not p.relayed]
    chosen = max(own, key=lambda p: p.source) if own else min(trusted, key=_distance)
    alike = [p for p in trusted if same_publisher(p.route, chosen.route)]
    return min(alike, key=_distance, default=chosen)


def _distance(publication: Publication) -> tuple[object, ...]:
    """Sort key, nearest first. The hops decide between equal costs, so that all relays decide alike."""
    route = publication.route
    return (route.cost(), route.hops, -publication.source)


def same_groups(one: Publication, other: Publication) -> bool:
    """True if both are routes to one publisher at the same time.

    An id alone proves nothing: a publisher may return and count anew, and one of its two sessions may hang. If a relay
    on one route was lost, the publisher's own relay, common to both routes, has not lost the publisher.
    """
    if not same_publisher(one.route, other.route) or one.route.hops == other.route.hops:
        return False
    return not one.lingering or (one.relayed and one.route.hops[:2] == other.route.hops[:2])


class Publications:
    """All publications of a relay."""

    def __init__(self, members: str = "") -> None:
        """`members` is the path under which the relays of a cluster announce themselves."""
        self._members = members
        self._paths: dict[str, list[Publication]] = {}
        self._ordered = Ordered()  # the same paths
        self._sessions: dict[int, dict[str, Publication]] = {}
        self.prefix_routes = 0

    def add(self, publication: Publication) -> None:
        present = self._paths.get(publication.path)
        if present is None:
            present = self._paths[publication.path] = []
            self._ordered.add(publication.path)
        present.append(publication)
        self._sessions.setdefault(publication.session, {})[publication.path] = publication
        self.prefix_routes += publication.prefix

    def remove(self, publication: Publication) -> None:
        mine = self._sessions[publication.session]
        del mine[publication.path]
        if not mine:
            del self._sessions[publication.session]
        self.prefix_routes -= publication.prefix
        present = self._paths[publication.path]
        present.remove(publication)
        if not present:
            del self._paths[publication.path]
            self._ordered.remove(publication.path)

    def is_member(self, path: str) -> bool:
        """True for the names of relays."""
        return bool(self._members) and covers(self._members, path)

    def at(self, path: str) -> Sequence[Publication]:
        """The publications of a path, oldest first."""
        return self._paths.get(path, ())

    def of(self, session: int) -> list[Publication]:
        return list(self._sessions.get(session, {}).values())

    def find(self, session: int, path: str) -> Publication | None:
        return self._sessions.get(session, {}).get(path)

    def serves(self, publication: Publication) -> bool:
        """True if requests for its path go to it."""
        return best(self.at(publication.path)) is publication

    def living(self, path: str) -> Sequence[Publication]:
        """The publications that may serve a path; dead ones only if all are, even if a requester can use no other.

        A relay with a publisher of its own would wait for the dead one as long as we offer it.
        """
        present = [p for p in self.at(path) if p.usable]
        return [p for p in present if not p.dead] or present

    def above(self, path: str, usable: Callable[[Publication], bool]) -> Publication | None:
        """The longest prefix route that covers a path, among those that a requester can use."""
        if self.prefix_routes:
            for prefix in ancestors(path):
                chosen = best(p for p in self.living(prefix) if p.prefix and usable(p))
                if chosen is not None:
                    return chosen
        return None

    def under(self, prefixes: Sequence[str]) -> dict[str, None]:
        """The paths that one of the prefixes covers, each once."""
        own = (prefix for prefix in prefixes if prefix in self._paths)
        return dict.fromkeys((*own, *(path for prefix in prefixes for path in self._ordered.below(prefix))))

    def announced(self, paths: Sequence[str]) -> str | None:
        """The first of the paths that is announced itself, else that a prefix route serves (moq-lite-06)."""
        exact = next((path for path in paths if path in self._paths), None)
        if exact is not None or not self.prefix_routes:
            return exact
        return next(
            (path for path in paths if any(p.prefix for up in ancestors(path) for p in self.at(up))), None
        )
