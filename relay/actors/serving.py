"""Subscriptions, descriptions and fetches of the peer, each attached to its stream. Part of the connection actor.

Tracks deliver here through the connection; what a slow peer cannot take is given up here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from relay.actors import messages as m
from relay.actors.backlog import Backlog, GivenUp, Sending, send_priority
from relay.actors.moving import AskAgain, Search, again, fresh
from relay.actors.runtime import Ref, send
from relay.model.ranges import Range
from relay.model.track import Interest
from relay.transport.session import Stream
from relay.wire.errors import StreamCode, stream_code_for
from relay.wire.frame import group_header
from relay.wire.messages import (
    Datagram,
    GroupHeader,
    Subscribe,
    SubscribeDrop,
    SubscribeEnd,
    SubscribeOk,
    SubscribeUpdate,
    TrackInfo,
)
from relay.wire.varint import MAX_VARINT
from relay.wire.version import Version

if TYPE_CHECKING:
    from relay.actors.connection import ConnectionActor
    from relay.actors.egress import Egress


def interest_of(request: Subscribe | SubscribeUpdate, version: Version) -> Interest:
    """What a subscriber wants; `max_latency` means history on 06, lateness before."""
    history = request.max_latency if version >= Version.LITE_06 else 0
    return Interest(
        priority=request.priority,
        ordered=request.ordered,
        latency_ms=request.max_latency,
        history_ms=history,
        start_group=request.start_group,
        start_is_floor=version >= Version.LITE_06,
        end_group=request.end_group,
        start_frame=request.start_frame,
        end_frame=request.end_frame,
    )


def leave(connection: ConnectionActor, track: Ref | None, key: int) -> None:
    """Take back a request: at its track, or at the directory, where it waits if there is none yet."""
    send(connection.environment.origin if track is None else track, m.Leave(connection.actor_ref, key))


class TrackService:
    """One Track stream of the peer."""

    def __init__(
        self,
        connection: ConnectionActor,
        egress: Egress,
        stream: Stream,
        request: m.Describe | m.Fetch,
    ) -> None:
        self._connection = connection
        self._egress = egress
        self._stream = stream
        self._key = request.key
        self._track: Ref | None = None
        self._search = None if isinstance(request, m.Fetch) else Search(connection, request)

    def on_message(self, message: object) -> None:
        match message:
            case m.Described():
                info = TrackInfo(*message.properties)
                self._stream.write((info.encode(self._connection.version),), fin=True)
                self._egress.forget(self._key)
            case m.Accepted():
                self._track = message.track
            case m.Lost():
                self._track = None
                if self._search is None or not self._search.lost(message.code):
                    self._refuse(message.code)
            case AskAgain():
                assert self._search is not None
                self._search.ask()
            case m.Refused():
                lost = None if self._search is None else self._search.code
                self._refuse(message.code if lost is None else lost)

    def _refuse(self, code: int) -> None:
        self._connection.refuse(self._stream, code)
        self._egress.forget(self._key)

    def leave(self) -> None:
        """The peer withdrew the request, or is gone."""
        leave(self._connection, self._track, self._key)

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        """Our half ends with the answer."""

    def on_reset(self, stream: Stream, code: int) -> None:
        self.on_stopped(stream, code)
        stream.reset(stream_code_for(self._connection.version, StreamCode.CANCELLED))

    def on_stopped(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self.leave()
        self._egress.forget(self._key)


class FetchService(TrackService):
    """One Fetch stream of the peer."""

    def on_message(self, message: object) -> None:
        if isinstance(message, m.FetchData):
            self._stream.write(message.chunks, fin=message.fin)
            self._egress.loose(self._stream, self._key, sum(map(len, message.chunks)))
            if message.fin:
                self._egress.forget(self._key)
        else:
            super().on_message(message)


END_POLL = 0.02
"""Seconds between looks at what is left to deliver before the end of a track: at first, and then a quarter of those
passed."""

END_POLL_MAX = 5.0
"""Seconds between such looks, at most."""


STREAM_OVERHEAD = 16
"""Bytes that a transport may put in front of a stream, at most."""


class EndTrack(NamedTuple):
    """Timer: see whether the groups have been delivered."""

    key: int
    final: int
    waited: float


class GroupStopped:
    """Attached to our group streams: the peer may refuse one."""

    __slots__ = ("_sequence", "_service")

    def __init__(self, service: SubscribeService, sequence: int) -> None:
        self._service = service
        self._sequence = sequence

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        """Not possible on a unidirectional stream of ours."""

    def on_reset(self, stream: Stream, code: int) -> None:
        """Not possible on a unidirectional stream of ours."""

    def on_stopped(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._service.group_stopped(self._sequence)


class SubscribeService:
    """One subscription of the peer."""

    def __init__(
        self,
        connection: ConnectionActor,
        egress: Egress,
        stream: Stream,
        request: Subscribe,
        message: m.Subscribe,
    ) -> None:
        """`message` is what `request` says to the origin; it is said again if the publisher is lost."""
        self.id = request.id
        self._connection = connection
        self._egress = egress
        self._stream = stream
        self._key = message.key
        self._name = f"{request.broadcast} {request.track}"
        self._priority = request.priority
        self._track: Ref | None = None
        self._clock = asyncio.get_running_loop().time
        self.backlog = Backlog(connection.environment.limits, egress.ranks, request.priority)
        """The groups on their way to the peer."""
        self._prefer(request)
        self._started = False
        self._behind = False
        self._over = False
        self._update: SubscribeUpdate | None = None
        self._bounded = request.end_group is not None
        self._search = Search(connection, again(message))
        self._accepted = False
        self._next = 0
        """The sequence after the newest that the peer has been sent."""
        self._floor = 0
        """What is below it had been sent when the subscription moved."""

    def on_message(self, message: object) -> None:
        match message:
            case m.Accepted():
                self._on_accepted(message)
            case m.DeliverDatagram():
                self._send_datagram(message)
            case m.Ended():
                self._note_missing(message.missing)
                self.end_when_delivered(self._end_of(message.final))
            case EndTrack():
                self.end_when_delivered(message.final, message.waited)
            case m.Lost():
                self._on_lost(message.code)
            case AskAgain():
                self._search.ask()
            case m.Refused():
                self._refuse(message.code if self._search.code is None else self._search.code)

    def _on_accepted(self, message: m.Accepted) -> None:
        self._track = message.track
        if self._accepted:
            self._floor = self._next
            self._connection.log.info("moved track=%r from_group=%d", self._name, self._next)
        elif self._connection.version <= Version.LITE_04:
            self._stream.write((SubscribeOk(priority=self._priority).encode(self._connection.version),))
        if self._update is not None:
            interest = interest_of(self._update, self._connection.version)
            if self._accepted:  # the groups it asked to begin with were the former publisher's
                interest = interest._replace(start_group=None, start_frame=0)
            self._change(interest)
        self._accepted = True

    def _end_of(self, final: int) -> int:
        return max(self._floor, final)

    def _note_missing(self, missing: tuple[Range, ...]) -> None:
        """Groups that will never come. Versions before 03 have no word for them."""
        version = self._connection.version
        if version < Version.LITE_03:
            return
        for first, end in missing:
            start = max(first, self._floor)
            if start <= end:
                self._stream.write((SubscribeDrop(start, end, StreamCode.DELIVERY_TIMEOUT).encode(version),))

    def _on_lost(self, code: int) -> None:
        """The publisher is gone: go on with another one, if there is one or comes soon."""
        self._track = None
        # what was asked for by numbers of groups, another publisher would not have
        if self._over or self._bounded or not self._search.lost(code, self._next):
            self._refuse(code)

    def update(self, message: SubscribeUpdate) -> None:
        """SUBSCRIBE_UPDATE."""
        self._priority = message.priority
        self._prefer(message)
        self._update = message
        self._bounded = message.end_group is not None
        self._change(interest_of(message, self._connection.version))

    def _change(self, interest: Interest) -> None:
        if self._track is not None:
            send(self._track, m.UpdateInterest(self._connection.actor_ref, self._key, interest))

    def _prefer(self, request: Subscribe | SubscribeUpdate) -> None:
        self.backlog.prefer(request.priority, ordered=request.ordered, latency=request.max_latency / 1000)

    # --- groups ----------------------------------------------------------------------------------------------------

    def deliver(self, pieces: tuple[m.GroupPiece, ...]) -> None:
        """Write what the track has for us."""
        if self._floor:
            pieces = fresh(pieces, self._floor)
        backlog = self.backlog
        before = backlog.unsent
        now = self._clock()
        if waiting := backlog.waiting():
            begins = any(piece.first for piece in pieces)
            self._give_up(backlog.review(waiting, now, begins=begins))
        else:
            self._behind = False
        for piece in pieces:
            size = overhead = 0
            if piece.first and piece.code is None:
                sending, size = self._begin(piece, now)
                overhead = STREAM_OVERHEAD
            else:
                found = backlog.get(piece.sequence)
                if found is None or not self._continue(found, piece):
                    continue  # refused by the peer, or given up
                sending = found
            for chunk in piece.chunks:
                size += len(chunk)
            if size:
                backlog.wrote(sending, size, now, overhead)
            if piece.fin:
                sending.open = False
        if backlog.unsent > self._connection.environment.limits.backlog_bytes:
            self._give_up(backlog.review(backlog.waiting(), now, begins=False))
        self._egress.account(backlog.unsent - before)

    def _begin(self, piece: m.GroupPiece, now: float) -> tuple[Sending, int]:
        """Open a stream and write. Returns it, and how many bytes went before the group's own."""
        connection = self._connection
        backlog = self.backlog
        version = connection.version
        if not self._started:
            self._started = True
            if version >= Version.LITE_05:
                self._stream.write((SubscribeOk(group=piece.sequence).encode(version),))
        rank = backlog.rank(piece.sequence)
        stream = connection.session.open_uni(send_priority(backlog.priority, rank))
        stream.context = GroupStopped(self, piece.sequence)
        header = group_header(version, GroupHeader(self.id, piece.sequence, piece.start_frame))
        stream.write((header, *piece.chunks), fin=piece.fin)
        connection.counts["groups_sent", ""] += 1
        self._search.found()
        if piece.sequence >= self._next:
            self._next = min(piece.sequence + 1, MAX_VARINT)
        return backlog.begin(piece.sequence, stream, rank, now), len(header)

    def _continue(self, sending: Sending, piece: m.GroupPiece) -> bool:
        """Write on, or break off; whether there is more to come."""
        if piece.code is not None:
            if sending.open or sending.stream.unsent:
                sending.stream.reset(stream_code_for(self._connection.version, piece.code))
            self.backlog.drop(sending.sequence)
            return False
        if sending.open and (piece.chunks or piece.fin):
            sending.stream.write(piece.chunks, fin=piece.fin)
        return sending.open

    def shed(self) -> bool:
        """The session as a whole holds too much: give up a group; whether there was one."""
        given_up = self.backlog.shed()
        self._give_up(given_up)
        return bool(given_up)

    def _give_up(self, given_up: list[GivenUp]) -> None:
        connection = self._connection
        for sending, unsent, code in given_up:
            if not self._behind:
                self._behind = True
                connection.log.warning(
                    "slow subscriber track=%r group=%d reason=%s waiting_bytes=%d kept_bytes=%d",
                    self._name,
                    sending.sequence,
                    code.name.lower(),
                    unsent,
                    self.backlog.unsent,
                )
            connection.counts["groups_dropped", code.name.lower()] += 1
            sending.stream.reset(stream_code_for(connection.version, code))

    def group_stopped(self, sequence: int) -> None:
        """The peer refused the rest of a group."""
        self.backlog.drop(sequence)

    def _send_datagram(self, message: m.DeliverDatagram) -> None:
        session = self._connection.session
        if self._connection.version < Version.LITE_05:
            return
        sequence = message.sequence
        if sequence < self._floor:
            return
        self._next = max(self._next, min(sequence + 1, MAX_VARINT))
        datagram = Datagram(self.id, sequence, message.timestamp, message.payload)
        data = datagram.encode(self._connection.version)
        if len(data) <= session.datagram_limit:
            session.send_datagram(data)

    # --- the end ---------------------------------------------------------------------------------------------------

    def end_when_delivered(self, final: int, waited: float = 0.0) -> None:
        """Nothing more is written: tell so when the peer has all of it.

        The end may arrive before groups that were written earlier, and some clients then take no more of them. It
        waits as long as they do, so a peer that reads nothing is told when it reads again, or never.
        """
        if self._over:
            return
        backlog = self.backlog
        before = backlog.unsent
        self._give_up(backlog.review(backlog.waiting(), self._clock(), begins=False))
        self._egress.account(backlog.unsent - before)
        if not backlog.undelivered:
            self._end(final)
        else:
            # at first in the next loop turn, when a session without acknowledgements has sent what it was given
            wait = min(max(END_POLL, waited / 4), END_POLL_MAX) if waited else 0.0
            self._connection.call_later(wait, EndTrack(self._key, final, waited + (wait or END_POLL)))

    def _end(self, final: int) -> None:
        version = self._connection.version
        end = SubscribeEnd(final).encode(version) if version >= Version.LITE_05 else b""
        self._stream.write((end,), fin=True)
        self._finish()

    def _refuse(self, code: int) -> None:
        wire = stream_code_for(self._connection.version, code)
        for sending in self.backlog:
            if sending.open:
                sending.stream.reset(wire)
        self._connection.refuse(self._stream, code)
        self._finish()

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._egress.account(-self.backlog.unsent)
            groups = [sending.stream for sending in self.backlog]
            self.backlog.clear()
            self._egress.forget(self._key)
            for stream in groups:
                if unsent := stream.unsent:
                    self._egress.loose(stream, self._key, unsent)

    def leave(self) -> None:
        """The peer unsubscribed, or is gone."""
        if not self._over:
            leave(self._connection, self._track, self._key)

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:  # noqa: ARG002
        if fin and not self._over:
            self._unsubscribe()
            stream.write((), fin=True)

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        if not self._over:
            self._unsubscribe()
            stream.reset(stream_code_for(self._connection.version, StreamCode.CANCELLED))

    def on_stopped(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        if not self._over:
            self._unsubscribe()

    def _unsubscribe(self) -> None:
        self.leave()
        wire = stream_code_for(self._connection.version, StreamCode.CANCELLED)
        for sending in self.backlog:
            if sending.open or sending.stream.unsent:
                sending.stream.reset(wire)
        self._finish()
