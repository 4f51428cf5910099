"""Announces this relay, watches for other members, and keeps a peer actor for each.

Of two members the one whose name comes first dials; the other dials if that fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from relay.actors import messages as m
from relay.actors.broadcast import BroadcastActor
from relay.actors.peer import Dialling, PeerActor, State
from relay.actors.rows import PeerRow
from relay.actors.runtime import LoopActor, Ref, Timer, halt, send
from relay.actors.statuses import LeaseOver, OtherStatuses, OwnStatus, StatusPart
from relay.logger import get_logger
from relay.model.events import Kind
from relay.model.limits import Limits
from relay.model.member import Member, MemberStatus, same_host
from relay.model.path import join, strip
from relay.model.route import UNKNOWN_HOP, Route
from relay.model.watchers import AnnounceInterest, Announcement
from relay.runtime import Runtime
from relay.transport.session import Session

logger = get_logger("relay.cluster")

WATCH: Final = 1
GENERATION: Final = 1

REVIVAL: Final = 10.0  # seconds until a failed peer actor starts again
INTRODUCTION: Final = 1.0  # seconds in which a relay that has connected announces its name


class Revive(NamedTuple):
    """Timer: start missing peers."""


class ReportUp(NamedTuple):
    """Timer: a session with another relay is an event. By now that relay has announced its name."""

    session: int


class Membership(NamedTuple):
    """This relay among others, as `[cluster]` says. `hop`: its id in hop lists."""

    hop: int
    node: str | None
    roots: tuple[str, ...]
    prefix: str
    mesh: bool
    dial: Callable[[str], Awaitable[Session]]


class Statuses(NamedTuple):
    """What this relay and the others say of themselves."""

    own: OwnStatus
    others: OtherStatuses


class ClusterActor(LoopActor):
    """One per relay."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        origin: Ref,
        number: int,
        membership: Membership,
        limits: Limits,
        gate: Ref,
        events: Ref | None = None,
    ) -> None:
        """`number` is unique among sessions. Without `roots` this relay is the root."""
        super().__init__(runtime)
        self._origin = origin
        self._number = number
        self._hop, node, roots, self._prefix, self._mesh, dial = membership
        self._node = node
        self._roots = tuple(root for root in roots if node is None or not same_host(root, node))
        self._limits = limits
        self._dialling = Dialling(dial, gate, events)
        self._peers: dict[str, Ref] = {}  # by target
        self._members: dict[str, Member] = {}  # announced, by name
        self._leaving: dict[str, Member] = {}  # withdrawn, but still connected
        self._sessions: dict[int, m.PeerConnected] = {}  # with other relays, by number
        self._revival: Timer | None = None
        self._statuses = Statuses(
            OwnStatus(runtime), OtherStatuses(self, runtime, origin, number, self._prefix)
        )

    def __str__(self) -> str:
        return "cluster"

    # --- life

    def on_start(self) -> None:
        if self._node is not None:
            path = join(self._prefix, self._node)
            broadcast = BroadcastActor.start(
                self.runtime, path=path, source=self.actor_ref, limits=self._limits
            )
            send(
                self._origin,
                m.Announce(
                    session=self._number,
                    connection=self.actor_ref,
                    path=path,
                    generation=GENERATION,
                    route=Route((), 0, 0),
                    broadcast=broadcast,
                    prefix=False,
                    tentative=False,
                ),
            )
        self._start_missing()
        interest = AnnounceInterest(self._number, WATCH, (self._prefix,), relay=True)
        send(self._origin, m.Watch(self.actor_ref, interest))

    def on_receive(self, message: object) -> object:  # noqa: C901, PLR0912 - one line per message
        match message:
            case m.WatchStarted():
                for offer in message.offers:
                    self._on_member(offer.path, offer)
            case m.WatchChanged():
                self._on_member(message.path, message.offer)
            case m.PeerConnected():
                self._on_connected(message)
            case ReportUp():
                self._report_up(message.session)
            case m.PeerDisconnected():
                self._on_disconnected(message)
            case m.PeerEnded():
                self._on_peer_ended(message)
            case m.NewLimits():
                self._limits = message.limits
            case m.Drain():
                self._leave()
            case Revive():
                self._revival = None
                self._start_missing()
            case m.ListPeers():
                return m.Peers(tuple(self._peers.values()), self._others())
            case m.CheckAlive():
                send(self._origin, m.Alive(self._number, alive=True))
            case m.SetStatus():
                self._statuses.own.set(message.status)
            case m.ListStatuses():
                return self._list_statuses()
            case StatusPart():
                self._statuses.others.take(message)
            case LeaseOver():
                self._statuses.others.end()
            case (
                m.OpenUpstream()
                | m.DescribeUpstream()
                | m.FetchUpstream()
                | m.OpenPast()
                | m.CloseUpstream()
                | m.UpdateUpstream()
                | m.ClosePast()
                | m.StopFetch()
                | m.StopGroup()
                | m.OverLimit()
            ):
                self._statuses.own.on_message(message)
            case _:
                return super().on_receive(message)
        return None

    def on_end(self, error: BaseException | None) -> None:  # noqa: ARG002 - the same either way
        send(self._origin, m.SessionGone(self._number))
        self._statuses.own.end()
        self._statuses.others.end()
        for peer in self._peers.values():
            halt(peer)
        self._peers.clear()

    def _leave(self) -> None:
        """Withdraw our name; existing sessions continue."""
        if self._node is not None:
            send(self._origin, m.Unannounce(self._number, join(self._prefix, self._node), GENERATION))

    # --- members

    def _on_member(self, path: str, offer: Announcement | None) -> None:
        name = strip(path, self._prefix)
        if not name:
            return
        if offer is None:
            member = self._members.pop(name, None)
            self._statuses.others.drop(name)
            if member is not None:
                logger.info("member has left", peer=name)
                if self._is_connected(member):
                    self._leaving[name] = member
                self._notify(name, m.MemberGone())
            return
        try:
            member = Member.parse(name, offer.route.publisher)
        except ValueError as error:
            logger.warning("member ignored", peer=name, reason=error)
            return
        if self._node is not None and same_host(name, self._node):
            return
        if member.hop == self._hop:
            reason = "it is this relay itself: set [cluster] node to that name"
            logger.warning("member ignored", peer=name, reason=reason)
            return
        known = name in self._members
        self._members[name] = member
        self._leaving.pop(name, None)
        if name in self._peers:
            self._notify(name, m.MemberBack())
        else:
            self._dial(name, known=known)
        self._deduplicate()

    def _dial(self, name: str, *, known: bool) -> None:
        """A root has its peer actor already."""
        if not self._roots or not self._mesh or self._target(name) in self._peers:
            return
        if len(self._peers) < self._limits.peers:
            logger.info("member found again" if known else "member found", peer=name)
            self._start(name, first=self._dials_first(name))
        elif not known:
            logger.warning("over limit", peer=name, limit="peers", value=self._limits.peers)

    def _start_missing(self) -> None:
        for root in self._roots:
            if root not in self._peers:
                self._start(root, first=True)
        for name in self._members:
            self._dial(name, known=True)
        self._deduplicate()

    def _on_peer_ended(self, ended: m.PeerEnded) -> None:
        if self._peers.get(ended.target) != ended.peer:
            return
        del self._peers[ended.target]
        # their actors ended before they could report it
        self._sessions = {n: s for n, s in self._sessions.items() if s.peer != ended.peer}
        if self._revival is None:
            self._revival = self.call_later(REVIVAL, Revive())

    def _target(self, name: str) -> str:
        return next((root for root in self._roots if same_host(name, root)), name)

    def _start(self, target: str, *, first: bool) -> None:
        self._peers[target] = PeerActor.start(
            self.runtime, cluster=self.actor_ref, target=target, dialling=self._dialling, first=first
        )

    def _notify(self, name: str, message: object) -> None:
        """Roots are dialled whether announced or not, so their peer actors get no notice."""
        peer = self._peers.get(name)
        if peer is not None and name not in self._roots:
            send(peer, message)

    # --- sessions

    def _on_connected(self, session: m.PeerConnected) -> None:
        self._sessions[session.session] = session
        if self._dialling.events is not None:
            self.call_later(INTRODUCTION, ReportUp(session.session))
        self._deduplicate()

    def _report_up(self, number: int) -> None:
        session = self._sessions.get(number)
        if session is not None:
            self._dialling.report(Kind.PEER_UP, number, self._name_of(session), None)

    def _on_disconnected(self, ended: m.PeerDisconnected) -> None:
        known = self._sessions.pop(ended.session, None)
        if known is not None:
            self._dialling.report(Kind.PEER_DOWN, ended.session, self._name_of(known), ended.reason)
        if known is not None and known.hop and ended.lost and known.peer is None:
            for name, member in self._known():
                if member.hop == known.hop:
                    self._notify(name, m.PeerSessionLost())
        self._deduplicate()
        self._leaving = {name: member for name, member in self._leaving.items() if self._is_connected(member)}

    def _is_connected(self, member: Member) -> bool:
        return member.hop != UNKNOWN_HOP and any(s.hop == member.hop for s in self._sessions.values())

    def _known(self) -> list[tuple[str, Member]]:
        return [*self._leaving.items(), *self._members.items()]

    def _deduplicate(self) -> None:
        """Report redundant sessions. The dialler whose name comes first keeps its own, so both ends agree."""
        for name, member in self._known():
            peer = self._peers.get(self._target(name))
            if peer is None or not member.hop:
                continue
            others = [s for s in self._sessions.values() if s.hop == member.hop and s.peer != peer]
            mine = any(s.peer == peer for s in self._sessions.values())
            keep = mine and all(s.peer is None for s in others) and self._dials_first(name)
            send(peer, m.OtherSession(None if keep or not others else others[0].session))

    def _name_of(self, session: m.PeerConnected) -> str:
        """The other relay's name, or its target, or its id."""
        targets = (target for target, peer in self._peers.items() if peer == session.peer)
        names = (name for name, member in self._known() if session.hop and member.hop == session.hop)
        return next(names, None) or next(targets, None) or nameless(session.hop)

    def _list_statuses(self) -> dict[str, MemberStatus]:
        """By name and by target: rows of `/state` have either."""
        found = self._statuses.others.ask(tuple(self._members)[: self._limits.peers])
        return found | {self._target(name): status for name, status in found.items()}

    def _others(self) -> tuple[PeerRow, ...]:
        """The rows of `/state` for relays that only dialled us."""
        names = {member.hop: name for name, member in self._known() if member.hop}
        return tuple(
            PeerRow(
                node=names.get(session.hop, nameless(session.hop)),
                state=State.CONNECTED,
                dialled_by="it",
                since=None,
                session=number,
                error=None,
            )
            for number, session in self._sessions.items()
            if session.peer is None and self._target(names.get(session.hop, "")) not in self._peers
        )

    def _dials_first(self, name: str) -> bool:
        return self._node is None or self._node < name


def nameless(hop: int) -> str:
    """Stands for the name of a relay that has none. `hop`: its id, or 0."""
    return f"relay {hop or '?'} without a name"
