"""What the relay is doing, gathered by asking its actors.

Owns the shape of `/state`. Must never touch an actor but by message, nor hold anything between two requests. The
debug routes and the metrics call it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from relay.actors import messages as m
from relay.actors.ledger import ListFigures, Totals, TrackFigures
from relay.actors.runtime import ActorDeadError, Ref, ask
from relay.model.path import covers, join

MOST_OFFERS: Final = 100
"""Paths that are listed of each other relay; `broadcasts` has all of them."""

ASK_TIMEOUT: Final = 5.0
"""Seconds that an actor gets to answer."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Whom to ask."""

    origin: Ref
    gate: Ref
    relay: Callable[[], dict[str, Any]]
    """Identity of the relay, for the `relay` part."""
    ledger: Ref
    refused: tuple[Mapping[str, int], ...]
    """What listeners and the authenticator turn away, by reason, as they count it; the gate tells its own."""
    links: Callable[[], int]
    """How many QUIC connections the endpoint has."""
    segments_refused: Callable[[], int] = int
    """How often the kernel refused to cut datagrams apart."""
    cluster: Ref | None = None
    members: str = "internal/origins"
    """Path under which other relays announce themselves."""


async def gate_report(sources: Sources) -> m.GateReport:
    """The sessions, and what the gate and the listeners rejected. Raises TimeoutError or ActorDeadError."""
    report: m.GateReport = await ask(sources.gate, m.DescribeGate(), timeout=ASK_TIMEOUT)
    refused = Counter(report.refused)
    for counted in sources.refused:
        refused.update(counted)
    return report._replace(refused=refused)


async def every(refs: Iterable[Ref], question: object) -> list[Any]:
    """The answers of those that are still there."""
    answers = await asyncio.gather(
        *(ask(ref, question, timeout=ASK_TIMEOUT) for ref in refs), return_exceptions=True
    )
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, ActorDeadError | TimeoutError):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]


async def broadcasts(sources: Sources, prefixes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Publications under the prefixes, with their tracks. Raises TimeoutError or ActorDeadError of the directory."""
    return await _rows(sources, m.ListPublications(prefixes))


async def announced(sources: Sources, prefixes: tuple[str, ...]) -> list[dict[str, Any]]:
    """The serving publications under the prefixes, with what their tracks have reported: no track is asked."""
    published, figures = await asyncio.gather(
        ask(sources.origin, m.ListPublications(prefixes), timeout=ASK_TIMEOUT),
        ask(sources.ledger, ListFigures(prefixes), timeout=ASK_TIMEOUT),
    )
    tracks: dict[str, list[TrackFigures]] = {}
    for track in figures:
        tracks.setdefault(track.broadcast, []).append(track)
    rows = []
    for publication in published:
        if publication.serving and not covers(sources.members, publication.path):
            running = tracks.get(publication.broadcast.actor_urn, ())
            rows.append(
                {
                    "path": publication.path,
                    "hops": _hops(publication),
                    "session": publication.session,
                    "tracks": sorted(track.name for track in running),
                    "viewers": sum(track.viewers for track in running),
                }
            )
    return rows


async def _rows(sources: Sources, question: m.ListPublications | m.ListWithdrawn) -> list[dict[str, Any]]:
    published = await ask(sources.origin, question, timeout=ASK_TIMEOUT)
    # All at once: one after the other, each would wait for turns of the event loop, of which a busy relay has few.
    return await asyncio.gather(
        *(
            _broadcast(publication)
            for publication in published
            # the other relays are no broadcasts to anybody; they are listed as peers
            if not covers(sources.members, publication.path)
        )
    )


async def _broadcast(publication: m.Published) -> dict[str, Any]:
    found = await every([publication.broadcast], m.ListTracks())
    return {
        "path": publication.path,
        "session": publication.session,
        "hops": _hops(publication),
        "serving": publication.serving,
        "tracks": await every(found[0], m.DescribeTrack()) if found else [],
    }


def _hops(publication: m.Published) -> list[str]:
    return [str(hop) for hop in publication.route.hops]


async def peers(
    sources: Sources, sessions: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The other relays of the cluster: how we stand with each, and how many broadcasts come from it."""
    if sources.cluster is None:
        return []
    answers = await every([sources.cluster], m.ListPeers())
    if not answers:
        return []
    known = answers[0]
    found = [*await every(known.refs, m.DescribePeer()), *known.others]
    since = {session["session"]: session["since"] for session in sessions}
    offers: dict[int, list[str]] = {}
    for row in rows:
        offers.setdefault(row["session"], []).append(row["path"])
    return sorted(
        (
            {
                **peer,
                "since": since.get(peer["session"]),
                "broadcasts": len(offers.get(peer["session"], ())),
                "offers": offers.get(peer["session"], [])[:MOST_OFFERS],
            }
            for peer in found
        ),
        key=lambda peer: str(peer["node"]),
    )


async def state(sources: Sources, prefixes: tuple[str, ...]) -> dict[str, Any]:
    """Everything under the prefixes; sessions are those whose root lies there, and those that publish there.

    `withdrawn` are broadcasts that are announced no more, whose tracks have viewers still: they count in `totals`.
    `refused` counts, by limit, what was turned away: of the sessions shown, or with everything shown since the start.
    """
    rows = await broadcasts(sources, prefixes)
    withdrawn = [row for row in await _rows(sources, m.ListWithdrawn(prefixes)) if row["tracks"]]
    gate = await gate_report(sources)
    sessions = await every(gate.connections, m.DescribeSession())
    if "" not in prefixes:
        publishing = {row["session"] for row in rows}
        sessions = [
            _narrowed(session, prefixes)
            for session in sessions
            if session["session"] in publishing or _under(session["path"], prefixes)
        ]
    running = [track for row in (*rows, *withdrawn) for track in row["tracks"]]
    refused: Counter[str] = Counter()
    for session in sessions:
        refused.update(session["refused"])
    if "" in prefixes:
        refused.update(gate.refused)
        ended = await ask(sources.ledger, Totals(), timeout=ASK_TIMEOUT)
        refused.update({limit: number for (name, limit), number in ended.items() if name == "refused"})
    return {
        "relay": {**sources.relay(), "now": time.time()},
        "totals": {
            "sessions": len(sessions),
            "broadcasts": len({row["path"] for row in rows}),
            "tracks": len(running),
            "viewers": sum(track["viewers"] for track in running),
            "bytes_received": sum(s["bytes_received"] for s in sessions),
            "bytes_sent": sum(s["bytes_sent"] for s in sessions),
            "cached_bytes": sum(track["cached_bytes"] for track in running),
            "refused": dict(sorted(refused.items())),
        },
        "sessions": sorted(sessions, key=lambda s: s["session"]),
        "broadcasts": rows,
        "withdrawn": withdrawn,
        "peers": await peers(sources, sessions, rows) if "" in prefixes else [],
    }


def _under(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(covers(prefix, path) for prefix in prefixes)


def _narrowed(session: dict[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    """A session without what it does and may do elsewhere."""

    def concerns(granted: str) -> bool:
        path = join(session["path"], granted)
        return _under(path, prefixes) or any(covers(path, prefix) for prefix in prefixes)

    return {
        **session,
        "publish": [granted for granted in session["publish"] if concerns(granted)],
        "subscribe": [granted for granted in session["subscribe"] if concerns(granted)],
        "publishing": [path for path in session["publishing"] if _under(path, prefixes)],
    }
