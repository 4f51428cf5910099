"""The cluster actor: which other relays there are, and that there is a session with each of them.

Owns the membership: it announces this relay under the members' path, watches that path, and keeps a peer actor for the
roots and for every other member. Whatever else passes between relays (broadcasts, tracks) is the business of their
sessions. Members dial each other; of two, the one whose name comes first does, and the other one only if that fails.
"""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

from relay.actors import messages as m
from relay.actors.broadcast import BroadcastActor
from relay.actors.peer import Dialling, PeerActor, State
from relay.actors.rows import PeerRow
from relay.actors.runtime import LoopActor, Ref, Timer, halt, send
from relay.model.limits import Limits
from relay.model.member import Member, same_host
from relay.model.path import join, strip
from relay.model.route import UNKNOWN_HOP, Route
from relay.model.watchers import AnnounceInterest, Announcement
from relay.runtime import Runtime
from relay.wire.errors import StreamCode

logger = logging.getLogger("relay.cluster")

WATCH: Final = 1
GENERATION: Final = 1

REVIVAL: Final = 10.0
"""Seconds from the end of a peer until another one takes its place, if its relay is still wanted: for one that failed."""


class Revive(NamedTuple):
    """Timer: start the peers that are missing."""


class ClusterActor(LoopActor):
    """The membership of one relay."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        origin: Ref,
        number: int,
        hop: int,
        node: str | None,
        roots: tuple[str, ...],
        prefix: str,
        mesh: bool,
        limits: Limits,
        dialling: Dialling,
    ) -> None:
        """`number` is one of a session. Without `roots` this relay is the root: others come to it."""
        super().__init__(runtime)
        self._origin = origin
        self._number = number
        self._hop = hop
        self._node = node
        self._roots = tuple(root for root in roots if node is None or not same_host(root, node))
        self._prefix = prefix
        self._mesh = mesh
        self._limits = limits
        self._dialling = dialling
        self._peers: dict[str, Ref] = {}
        """By target."""
        self._members: dict[str, Member] = {}
        """Announced members, by name."""
        self._leaving: dict[str, Member] = {}
        """Those that are announced no more, but have a session with us still."""
        self._links: dict[int, m.LinkUp] = {}
        """Sessions with other relays, by the number of the session."""
        self._revival: Timer | None = None

    def __str__(self) -> str:
        return "cluster"

    # --- life ------------------------------------------------------------------------------------------------------

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
            case m.LinkUp():
                self._on_up(message)
            case m.LinkDown():
                self._on_down(message)
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
            case m.OpenUpstream() | m.DescribeUpstream() | m.FetchUpstream():
                # a member's broadcast has no tracks: that it exists says everything
                send(message.track, m.UpstreamFailed(StreamCode.NOT_FOUND))
            case m.UpdateUpstream() | m.CloseUpstream() | m.StopGroup():
                """Of a track that was refused."""
            case _:
                return super().on_receive(message)
        return None

    def on_end(self, error: BaseException | None) -> None:  # noqa: ARG002 - the same either way
        send(self._origin, m.SessionGone(self._number))
        for peer in self._peers.values():
            halt(peer)
        self._peers.clear()

    def _leave(self) -> None:
        """Nobody is to dial us any more. The sessions there are stay, and go on carrying what they carry."""
        if self._node is not None:
            send(self._origin, m.Unannounce(self._number, join(self._prefix, self._node), GENERATION))

    # --- members ---------------------------------------------------------------------------------------------------

    def _on_member(self, path: str, offer: Announcement | None) -> None:
        name = strip(path, self._prefix)
        if not name:
            return
        if offer is None:
            member = self._members.pop(name, None)
            if member is not None:
                logger.info("member %s has left", name)
                if self._linked(member):
                    self._leaving[name] = member
                self._tell(name, m.Withdrawn())
            return
        try:
            member = Member.parse(name, offer.route.publisher)
        except ValueError as error:
            logger.warning("member %r ignored: %s", name, error)
            return
        if self._node is not None and same_host(name, self._node):
            return
        if member.hop == self._hop:
            logger.warning("member %s is this relay itself: set [cluster] node to that name", name)
            return
        known = name in self._members
        self._members[name] = member
        self._leaving.pop(name, None)
        if name in self._peers:
            self._tell(name, m.AnnouncedAgain())
        else:
            self._dial(name, known=known)
        self._settle()

    def _dial(self, name: str, *, known: bool) -> None:
        """Start the peer of a member, unless it is one of the roots."""
        if not self._roots or not self._mesh or self._target(name) in self._peers:
            return
        if len(self._peers) < self._limits.peers:
            logger.info("member %s found%s", name, " again" if known else "")
            self._start(name, first=self._dials_first(name))
        elif not known:
            logger.warning("member %s ignored: more than [limits] peers = %d", name, self._limits.peers)

    def _start_missing(self) -> None:
        for root in self._roots:
            if root not in self._peers:
                self._start(root, first=True)
        for name in self._members:
            self._dial(name, known=True)
        self._settle()

    def _on_peer_ended(self, ended: m.PeerEnded) -> None:
        """It has nothing left to do, or it failed; either way there is room for another one."""
        if self._peers.get(ended.target) != ended.peer:
            return
        del self._peers[ended.target]
        # nobody is left to tell us of their end
        self._links = {session: link for session, link in self._links.items() if link.peer != ended.peer}
        if self._revival is None:
            self._revival = self.call_later(REVIVAL, Revive())

    def _target(self, name: str) -> str:
        """What the peer of a member is called: if it is a root, as the configuration spells it."""
        return next((root for root in self._roots if same_host(name, root)), name)

    def _start(self, target: str, *, first: bool) -> None:
        self._peers[target] = PeerActor.start(
            self.runtime, cluster=self.actor_ref, target=target, dialling=self._dialling, first=first
        )

    def _tell(self, name: str, message: object) -> None:
        """About a member that is no root: those are dialled whether they are announced or not."""
        peer = self._peers.get(name)
        if peer is not None and name not in self._roots:
            send(peer, message)

    # --- sessions --------------------------------------------------------------------------------------------------

    def _on_up(self, link: m.LinkUp) -> None:
        self._links[link.session] = link
        self._settle()

    def _on_down(self, ended: m.LinkDown) -> None:
        link = self._links.pop(ended.session, None)
        if link is not None and link.hop and ended.lost and link.peer is None:
            for name, member in self._known():
                if member.hop == link.hop:
                    self._tell(name, m.LinkLost())
        self._settle()
        self._leaving = {name: member for name, member in self._leaving.items() if self._linked(member)}

    def _linked(self, member: Member) -> bool:
        """Whether a session with that member exists."""
        return member.hop != UNKNOWN_HOP and any(link.hop == member.hop for link in self._links.values())

    def _known(self) -> list[tuple[str, Member]]:
        """The members that are announced, and those that have a session with us still."""
        return [*self._leaving.items(), *self._members.items()]

    def _settle(self) -> None:
        """Tell every peer whether another session with the same relay makes its own needless.

        Of a session that we dialled and one that we did not, the dialler whose name comes first keeps its own: both
        ends decide alike, each about what it dialled.
        """
        for name, member in self._known():
            peer = self._peers.get(self._target(name))
            if peer is None or not member.hop:
                continue
            others = [link for link in self._links.values() if link.hop == member.hop and link.peer != peer]
            mine = any(link.peer == peer for link in self._links.values())
            keep = mine and all(link.peer is None for link in others) and self._dials_first(name)
            send(peer, m.OtherLink(None if keep or not others else others[0].session))

    def _others(self) -> tuple[PeerRow, ...]:
        """Relays that have dialled us and that we do not dial, as rows of `/state`."""
        names = {member.hop: name for name, member in self._known() if member.hop}
        return tuple(
            PeerRow(
                node=names.get(link.hop, f"relay {link.hop or '?'} without a name"),
                state=State.CONNECTED,
                dialled_by="it",
                since=None,
                session=session,
                error=None,
            )
            for session, link in self._links.items()
            if link.peer is None and self._target(names.get(link.hop, "")) not in self._peers
        )

    def _dials_first(self, name: str) -> bool:
        return self._node is None or self._node < name
