from __future__ import annotations

from relay.model.directory import Directory
from relay.model.route import Publication


def everything(directory: Directory) -> list[Publication]:
    table = directory.publications
    return [publication for path in table.under(("",)) for publication in table.at(path)]


def counts(directory: Directory) -> tuple[int, int, int]:
    """Paths, publications and watchers."""
    watchers = sum(map(len, directory.watchers._by_session.values()))
    return (len(directory.publications.under(("",))), len(everything(directory)), watchers)
