"""The state of the relay, queried from its actors by messages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from relay.actors import messages as m
from relay.actors.counters import ListFigures, Totals, TrackFigures
from relay.actors.rows import PeerRow, SessionRow, TrackRow
from relay.actors.runtime import ActorDeadError, Ref, ask
from relay.model.member import MemberStatus
from relay.model.path import covers, join, strip
from relay.runtime import Runtime
from relay.web.rows import AnnouncedRow, BroadcastRow, Health, Identity, State, Sums

MOST_OFFERS: Final = 100  # paths per peer relay; `broadcasts` lists all

ASK_TIMEOUT: Final = 5.0  # seconds for an actor's answer


@dataclass(frozen=True, slots=True)
class Sources:
    """Actors and values to query."""

    runtime: Runtime
    origin: Ref
    gate: Ref
    relay: Callable[[], Identity]  # the `relay` part
    counters: Ref
    refused: tuple[Mapping[str, int], ...]
    """Rejections by listeners and the authenticator, by reason; the gate reports its own."""
    quic_connections: Callable[[], int]
    segments_refused: Callable[[], int] = int
    cluster: Ref | None = None
    members: str = "internal/origins"  # of cluster members
    events: Ref | None = None
    receive_drops: Callable[[], int | None] = lambda: None
    """Datagrams that the kernel dropped on arrival since the start; None if it does not count them."""


async def gate_report(sources: Sources) -> m.GateReport:
    """Raises TimeoutError or ActorDeadError."""
    report: m.GateReport = await ask(sources.gate, m.DescribeGate(), timeout=ASK_TIMEOUT)
    refused = Counter(report.refused)
    for counted in sources.refused:
        refused.update(counted)
    return report._replace(refused=refused)


async def every(refs: Iterable[Ref], question: object) -> list[Any]:
    """The answers of the actors still alive."""
    answers = await asyncio.gather(
        *(ask(ref, question, timeout=ASK_TIMEOUT) for ref in refs), return_exceptions=True
    )
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, ActorDeadError | TimeoutError):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]


async def announced(sources: Sources, prefixes: tuple[str, ...], base: str) -> list[AnnouncedRow]:
    """The serving publications under the prefixes, relative to `base`."""
    published, figures = await asyncio.gather(
        ask(sources.origin, m.ListPublications(prefixes), timeout=ASK_TIMEOUT),
        ask(sources.counters, ListFigures(prefixes), timeout=ASK_TIMEOUT),
    )
    tracks: dict[str, list[TrackFigures]] = {}
    for track in figures:
        tracks.setdefault(track.broadcast, []).append(track)
    rows = []
    for publication in published:
        if publication.serving and not covers(sources.members, publication.path):
            running = tracks.get(publication.broadcast.actor_urn, ())
            rows.append(
                AnnouncedRow(
                    path=strip(publication.path, base) or "",
                    hops=_hops(publication),
                    session=publication.session,
                    tracks=tuple(sorted(track.name for track in running)),
                    viewers=sum(track.viewers for track in running),
                )
            )
    return rows


async def broadcasts(
    sources: Sources, question: m.ListPublications | m.ListWithdrawn
) -> tuple[BroadcastRow, ...]:
    """Raises TimeoutError or ActorDeadError of the directory."""
    published = await ask(sources.origin, question, timeout=ASK_TIMEOUT)
    # concurrently: each wait takes turns of a busy event loop
    rows = await asyncio.gather(
        *(
            _broadcast(publication)
            for publication in published
            # members are peers
            if not covers(sources.members, publication.path)
        )
    )
    return tuple(rows)


async def _broadcast(publication: m.Published) -> BroadcastRow:
    found = await every([publication.broadcast], m.ListTracks())
    tracks: list[TrackRow] = await every(found[0], m.DescribeTrack()) if found else []
    return BroadcastRow(
        publication.path, publication.session, _hops(publication), publication.serving, tuple(tracks)
    )


def _hops(publication: m.Published) -> tuple[str, ...]:
    return tuple(map(str, publication.route.hops))


async def _peers(
    sources: Sources, sessions: Iterable[SessionRow], rows: Iterable[BroadcastRow]
) -> Iterator[PeerRow]:
    """The rows of the cluster's other relays."""
    answers = [] if sources.cluster is None else await every([sources.cluster], m.ListPeers())
    found: list[PeerRow] = []
    for known in answers:
        found += [*await every(known.refs, m.DescribePeer()), *known.others]
    asked = [] if sources.cluster is None else await every([sources.cluster], m.ListStatuses())
    statuses: dict[str, MemberStatus] = asked[0] if asked else {}
    since: dict[int | None, float] = {session.session: session.since for session in sessions}
    offers: dict[int | None, list[str]] = {}
    for row in rows:
        offers.setdefault(row.session, []).append(row.path)
    return (
        replace(
            peer,
            since=since.get(peer.session),
            broadcasts=len(offers.get(peer.session, ())),
            offers=tuple(offers.get(peer.session, ())[:MOST_OFFERS]),
            totals=None if (status := statuses.get(peer.node)) is None else status.totals,
            dashboard=None if status is None else status.dashboard,
        )
        for peer in sorted(found, key=lambda peer: peer.node)
    )


async def state(
    sources: Sources,
    prefixes: tuple[str, ...],
    judge: Callable[[Identity, Sequence[PeerRow]], Health] | None = None,
) -> State:
    """Everything under the prefixes; sessions with their root there, or publications there.

    `withdrawn` are broadcasts no longer announced whose tracks still have viewers: they count in `totals`.
    `refused` counts by limit: of the sessions shown, or since the start if everything is shown. `judge` is asked
    for the health of the relay only then.
    """
    rows = await broadcasts(sources, m.ListPublications(prefixes))
    withdrawn = tuple(row for row in await broadcasts(sources, m.ListWithdrawn(prefixes)) if row.tracks)
    gate = await gate_report(sources)
    sessions: list[SessionRow] = await every(gate.connections, m.DescribeSession())
    if "" not in prefixes:
        publishing = {row.session for row in rows}
        sessions = [
            _narrowed(session, prefixes)
            for session in sessions
            if session.session in publishing or _under(session.path, prefixes)
        ]
    running = [track for row in (*rows, *withdrawn) for track in row.tracks]
    refused: Counter[str] = Counter()
    for session in sessions:
        refused.update(session.refused)
    if "" in prefixes:
        refused.update(gate.refused)
        ended = await ask(sources.counters, Totals(), timeout=ASK_TIMEOUT)
        refused.update({limit: number for (name, limit), number in ended.items() if name == "refused"})
    totals = Sums(
        sessions=len(sessions),
        broadcasts=len({row.path for row in rows}),
        tracks=len(running),
        viewers=sum(track.viewers for track in running),
        bytes_received=sum(session.bytes_received for session in sessions),
        bytes_sent=sum(session.bytes_sent for session in sessions),
        cached_bytes=sum(track.cached_bytes for track in running),
        refused=dict(sorted(refused.items())),
    )
    everything = "" in prefixes
    peers = tuple(await _peers(sources, sessions, rows)) if everything else ()
    relay = replace(sources.relay(), now=sources.runtime.wall_time())
    return State(
        relay=relay,
        health=judge(relay, peers) if everything and judge is not None else None,
        totals=totals,
        sessions=tuple(sorted(sessions, key=lambda session: session.session)),
        broadcasts=rows,
        withdrawn=withdrawn,
        peers=peers,
    )


def _under(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(covers(prefix, path) for prefix in prefixes)


def _narrowed(session: SessionRow, prefixes: tuple[str, ...]) -> SessionRow:
    """The session without its publications and permissions elsewhere."""

    def concerns(granted: str) -> bool:
        path = join(session.path, granted)
        return _under(path, prefixes) or any(covers(path, prefix) for prefix in prefixes)

    return replace(
        session,
        publish=tuple(filter(concerns, session.publish)),
        subscribe=tuple(filter(concerns, session.subscribe)),
        publishing=tuple(path for path in session.publishing if _under(path, prefixes)),
    )
