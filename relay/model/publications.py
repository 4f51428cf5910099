"""The table of publications, by path and session."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relay.model.path import Ordered, ancestors, covers
from relay.model.route import Publication, preferred


class Publications:
    """The publications of a relay."""

    def __init__(self, members: str = "") -> None:
        """`members`: path of the relays' own names."""
        self._members = members
        self._paths: dict[str, list[Publication]] = {}
        self._ordered = Ordered()
        self._sessions: dict[int, dict[str, Publication]] = {}
        self.prefix_routes = 0
        self._member_paths = 0

    @property
    def count(self) -> int:
        """The number of paths, without the relays' names."""
        return len(self._paths) - self._member_paths

    def add(self, publication: Publication) -> None:
        present = self._paths.get(publication.path)
        if present is None:
            present = self._paths[publication.path] = []
            self._ordered.add(publication.path)
            self._member_paths += self.is_member(publication.path)
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
            self._member_paths -= self.is_member(publication.path)

    def is_member(self, path: str) -> bool:
        return bool(self._members) and covers(self._members, path)

    def at(self, path: str) -> Sequence[Publication]:
        """The publications of a path, oldest first."""
        return self._paths.get(path, ())

    def of(self, session: int) -> list[Publication]:
        return list(self._sessions.get(session, {}).values())

    def find(self, session: int, path: str) -> Publication | None:
        return self._sessions.get(session, {}).get(path)

    def serves(self, publication: Publication) -> bool:
        """True if the publication gets the requests for its path."""
        return preferred(self.at(publication.path)) is publication

    def living(self, path: str) -> Sequence[Publication]:
        """Those that may serve a path; dead ones only if all are, whatever a requester can use.

        Else a relay with a publisher of its own would wait for our dead one.
        """
        present = [p for p in self.at(path) if p.usable]
        return [p for p in present if not p.dead] or present

    def above(self, path: str, usable: Callable[[Publication], bool]) -> Publication | None:
        """The usable prefix route with the longest path."""
        if self.prefix_routes:
            for prefix in ancestors(path):
                chosen = preferred(p for p in self.living(prefix) if p.prefix and usable(p))
                if chosen is not None:
                    return chosen
        return None

    def under(self, prefixes: Sequence[str]) -> dict[str, None]:
        """The published paths under the prefixes, each once."""
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
