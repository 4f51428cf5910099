"""The table of publications, by path and session, and their order of preference.

* A session that answers; surely no echo of ours; not lingering; not leaving.
* A publisher connected to this relay, the newest; else the nearest (by age, two relays might route to each other).
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
    prefix: bool = False
    tentative: bool = False
    relayed: bool = False
    onward: bool = True
    dead: bool = False
    lingering: bool = False  # lost; a successor may come
    leaving: bool = False
    usable: bool = True  # no peer on its route has withdrawn the path
    source: int = 0  # identity for watchers; a successor inherits it
    life: int = 0  # equal for routes announced side by side, with the same groups

    def __post_init__(self) -> None:
        self.source = self.life = self.id

    @property
    def standing(self) -> tuple[bool, bool, bool, bool]:
        """Sort key of trust; more is better."""
        return (not self.dead, not self.tentative, not self.lingering, not self.leaving)


def best(publications: Iterable[Publication]) -> Publication | None:
    """Among those that a requester can use."""
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
    """Sort key, nearest first. Hops decide between equal costs, so that all relays decide alike."""
    route = publication.route
    return (route.cost(), route.hops, -publication.source)


def same_groups(one: Publication, other: Publication) -> bool:
    """True if both are routes to one publisher at the same time.

    An equal id is not enough: a publisher may return and count anew while its old session hangs. But when a relay on
    one route is lost, the publisher's own relay, on both routes, still has it.
    """
    if not same_publisher(one.route, other.route) or one.route.hops == other.route.hops:
        return False
    return not one.lingering or (one.relayed and one.route.hops[:2] == other.route.hops[:2])


class Publications:
    """All publications of a relay."""

    def __init__(self, members: str = "") -> None:
        """`members`: path of the relays' own names."""
        self._members = members
        self._paths: dict[str, list[Publication]] = {}
        self._ordered = Ordered()
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
        return bool(self._members) and covers(self._members, path)

    def at(self, path: str) -> Sequence[Publication]:
        """Oldest first."""
        return self._paths.get(path, ())

    def of(self, session: int) -> list[Publication]:
        return list(self._sessions.get(session, {}).values())

    def find(self, session: int, path: str) -> Publication | None:
        return self._sessions.get(session, {}).get(path)

    def serves(self, publication: Publication) -> bool:
        """True if it gets the requests for its path."""
        return best(self.at(publication.path)) is publication

    def living(self, path: str) -> Sequence[Publication]:
        """Those that may serve a path; dead ones only if all are, whatever a requester can use.

        Else a relay with a publisher of its own would wait for our dead one.
        """
        present = [p for p in self.at(path) if p.usable]
        return [p for p in present if not p.dead] or present

    def above(self, path: str, usable: Callable[[Publication], bool]) -> Publication | None:
        """The longest."""
        if self.prefix_routes:
            for prefix in ancestors(path):
                chosen = best(p for p in self.living(prefix) if p.prefix and usable(p))
                if chosen is not None:
                    return chosen
        return None

    def under(self, prefixes: Sequence[str]) -> dict[str, None]:
        """Each once."""
        own = (prefix for prefix in prefixes if prefix in self._paths)
        return dict.fromkeys((*own, *(path for prefix in prefixes for path in self._ordered.below(prefix))))

    def announced(self, paths: Sequence[str]) -> str | None:
        """The first path that is announced itself, else the first that a prefix route serves (moq-lite-06)."""
        exact = next((path for path in paths if path in self._paths), None)
        if exact is not None or not self.prefix_routes:
            return exact
        return next(
            (path for path in paths if any(p.prefix for up in ancestors(path) for p in self.at(up))), None
        )
