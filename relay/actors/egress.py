"""What the peer of a connection consumes: our announcements to it, its subscriptions and fetches.

Part of the connection actor. Each request of the peer is a small handler attached to its stream; tracks deliver to it
through the connection, keyed by a number that is never used twice.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from relay.actors import messages as m
from relay.actors.runtime import Ref, send
from relay.model.path import join, narrow, strip
from relay.model.route import MAX_HOPS, Route, same_publisher
from relay.model.track import Dialect, Interest
from relay.transport.session import Stream
from relay.wire.decoder import RequestDecoder
from relay.wire.errors import StreamCode, stream_code_for
from relay.wire.frame import group_header
from relay.wire.messages import (
    AnnounceActive,
    AnnounceEnded,
    AnnounceInit,
    AnnounceOk,
    AnnounceRequest,
    AnnounceUpdate,
    Datagram,
    Fetch,
    Goaway,
    GroupHeader,
    Probe,
    ProbeRequest,
    Subscribe,
    SubscribeEnd,
    SubscribeOk,
    SubscribeUpdate,
    TrackInfo,
    TrackRequest,
)
from relay.wire.version import Version

if TYPE_CHECKING:
    from relay.actors.connection import ConnectionActor, Handler

SEQUENCE_BITS = 40
"""Low bits of a send priority: within one track priority the newer group goes first."""


def send_priority(priority: int, sequence: int) -> int:
    """Order of sending: higher track priority first, then newer groups; always below control streams."""
    return (priority << SEQUENCE_BITS) | (sequence & ((1 << SEQUENCE_BITS) - 1))


class Egress:
    """The consuming side of one session."""

    def __init__(self, connection: ConnectionActor) -> None:
        self._connection = connection
        self._next_key = 0
        self._watches: dict[int, AnnounceService] = {}
        self._requests: dict[int, SubscribeService | TrackService | FetchService] = {}
        self._subscribe_ids: set[int] = set()

    # --- for the connection ----------------------------------------------------------------------------------------

    def request_handler(self) -> Handler:
        """For a bidirectional stream that the peer has just opened."""
        return Request(self._connection, self)

    def deliver(self, message: m.Deliver) -> None:
        """Groups of a subscription: the path of every frame."""
        service = self._requests.get(message.key)
        if isinstance(service, SubscribeService):
            service.deliver(message.pieces)

    def on_message(self, message: object) -> bool:
        """Handle what the origin and the tracks say; whether it was for us."""
        match message:
            case m.WatchStarted() | m.WatchChanged():
                watch = self._watches.get(message.watch)
                if watch is None:
                    return True
                if isinstance(message, m.WatchStarted):
                    watch.begin(message.offers)
                else:
                    watch.change(message.path, message.offer)
            case m.Accepted() | m.Refused() | m.Ended() | m.DeliverDatagram() | m.Described() | m.FetchData():
                service = self._requests.get(message.key)
                if service is None:
                    if isinstance(message, m.Accepted):
                        send(message.track, m.Leave(self._connection.actor_ref, message.key))
                else:
                    service.on_message(message)
            case _:
                return False
        return True

    def end(self) -> None:
        """The session is over. The origin hears it from the connection."""
        for service in list(self._requests.values()):
            service.leave()
        self._requests.clear()
        self._watches.clear()

    def has_offered(self, path: str) -> bool:
        """Whether the peer has been told of that (absolute) path and not of its end."""
        return any(watch.has_offered(path) for watch in self._watches.values())

    def count(self) -> int:
        """Subscriptions and fetches."""
        return len(self._requests)

    # --- requests of the peer --------------------------------------------------------------------------------------

    def new_key(self) -> int:
        """A number for a watch or request."""
        self._next_key += 1
        return self._next_key

    def announce(self, stream: Stream, request: AnnounceRequest) -> Handler | None:
        """ANNOUNCE_REQUEST."""
        connection = self._connection
        if len(self._watches) >= connection.environment.limits.announce_streams:
            connection.log.warning("too many announce streams limit=%d", len(self._watches))
            connection.refuse(stream, StreamCode.NO_CAPACITY)
            return None
        key = self.new_key()
        watch = self._watches[key] = AnnounceService(connection, self, stream, key, request.prefix)
        setup = connection.peer_setup
        exclude = request.exclude_hop
        if connection.version >= Version.LITE_06 and setup is not None and setup.origin is not None:
            exclude = setup.origin
        prefixes = narrow(connection.permissions.subscribe, request.prefix)
        root = connection.permissions.root
        send(
            connection.environment.origin,
            m.Watch(
                session=connection.number,
                watcher=connection.actor_ref,
                watch=key,
                prefixes=tuple(join(root, prefix) for prefix in prefixes),
                exclude=exclude,
                routes_above=connection.version >= Version.LITE_06,
            ),
        )
        return watch

    def forget_watch(self, key: int) -> None:
        """The peer lost interest."""
        if self._watches.pop(key, None) is not None:
            send(self._connection.environment.origin, m.Unwatch(self._connection.number, key))

    def _may(self, stream: Stream, broadcast: str) -> bool:
        connection = self._connection
        if len(self._requests) >= connection.environment.limits.subscriptions:
            connection.log.warning("too many subscriptions limit=%d", len(self._requests))
            connection.refuse(stream, StreamCode.NO_CAPACITY)
            return False
        if not connection.permissions.may_subscribe(broadcast):
            # the answer for what does not exist, so that nothing can be learnt from it
            connection.log.info("refused subscribe path=%s reason='not permitted'", broadcast)
            connection.refuse(stream, StreamCode.UNROUTABLE)
            return False
        return True

    def _exclude(self) -> int:
        setup = self._connection.peer_setup
        return setup.origin or 0 if setup is not None else 0

    def subscribe(self, stream: Stream, request: Subscribe) -> Handler | None:
        """SUBSCRIBE."""
        connection = self._connection
        if request.id in self._subscribe_ids:
            connection.log.warning("subscribe id in use id=%d", request.id)
            connection.refuse(stream, StreamCode.CANCELLED)
            return None
        if not self._may(stream, request.broadcast):
            return None
        key = self.new_key()
        service = SubscribeService(connection, self, stream, key, request)
        self._requests[key] = service
        self._subscribe_ids.add(request.id)
        message = m.Subscribe(
            path=join(connection.permissions.root, request.broadcast),
            track=request.track,
            subscriber=connection.actor_ref,
            session=connection.number,
            key=key,
            dialect=Dialect.PLAIN if connection.version <= Version.LITE_04 else Dialect.TIMED,
            interest=interest_of(request, connection.version),
            exclude=self._exclude(),
        )
        send(connection.environment.origin, message)
        return service

    def describe(self, stream: Stream, request: TrackRequest) -> Handler | None:
        """TRACK."""
        connection = self._connection
        if not self._may(stream, request.broadcast):
            return None
        key = self.new_key()
        service = self._requests[key] = TrackService(connection, self, stream, key)
        path = join(connection.permissions.root, request.broadcast)
        message = m.Describe(
            path, request.track, connection.actor_ref, connection.number, key, self._exclude()
        )
        send(connection.environment.origin, message)
        return service

    def fetch(self, stream: Stream, request: Fetch) -> Handler | None:
        """FETCH."""
        connection = self._connection
        if not self._may(stream, request.broadcast):
            return None
        key = self.new_key()
        service = self._requests[key] = FetchService(connection, self, stream, key)
        interest = Interest(
            priority=request.priority,
            start_group=request.group,
            start_frame=request.start_frame,
            end_frame=request.end_frame,
        )
        message = m.Fetch(
            path=join(connection.permissions.root, request.broadcast),
            track=request.track,
            subscriber=connection.actor_ref,
            session=connection.number,
            key=key,
            dialect=Dialect.TIMED,
            interest=interest,
            exclude=self._exclude(),
        )
        send(connection.environment.origin, message)
        return service

    def forget(self, key: int) -> None:
        """A request is over."""
        service = self._requests.pop(key, None)
        if isinstance(service, SubscribeService):
            self._subscribe_ids.discard(service.id)


def interest_of(request: Subscribe | SubscribeUpdate, version: Version) -> Interest:
    """What a subscriber wants; `max_latency` means history on 06, lateness before."""
    history = request.max_latency if version >= Version.LITE_06 else 0
    return Interest(
        priority=request.priority,
        ordered=request.ordered,
        latency_ms=request.max_latency,
        history_ms=history,
        start_group=request.start_group,
        end_group=request.end_group,
        start_frame=request.start_frame,
        end_frame=request.end_frame,
    )


class Request:
    """A stream of the peer whose request is not complete yet."""

    def __init__(self, connection: ConnectionActor, egress: Egress) -> None:
        self._connection = connection
        self._egress = egress
        self._decoder = RequestDecoder(connection.version, connection.environment.limits.message)
        self._service: Handler | None = None

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        for message in self._decoder.feed(data):
            self._on_message(stream, message)
        if fin:
            self._decoder.end()
            if stream.context is self and self._service is None:
                stream.write((), fin=True)  # it ended before it asked for anything
            elif self._service is not None:
                self._service.on_data(stream, b"", fin=True)

    def _on_message(self, stream: Stream, message: object) -> None:  # noqa: C901 - one line per message
        egress = self._egress
        match message:
            case AnnounceRequest():
                self._service = egress.announce(stream, message)
            case Subscribe():
                self._service = egress.subscribe(stream, message)
            case TrackRequest():
                self._service = egress.describe(stream, message)
            case Fetch():
                self._service = egress.fetch(stream, message)
            case SubscribeUpdate():
                if isinstance(self._service, SubscribeService):
                    self._service.update(message)
            case ProbeRequest():
                if self._connection.version >= Version.LITE_05:
                    # our SETUP does not offer it
                    self._connection.refuse(stream, StreamCode.CANCELLED)
                else:
                    self._service = Silence()
            case Goaway():
                self._connection.log.info("peer is going away uri=%r", message.uri)
                self._service = Silence()
            case Probe():
                """A target bitrate: nothing here depends on it."""

    def on_reset(self, stream: Stream, code: int) -> None:
        if self._service is None:
            stream.reset(stream_code_for(self._connection.version, StreamCode.CANCELLED))
        else:
            self._service.on_reset(stream, code)

    def on_stopped(self, stream: Stream, code: int) -> None:
        if self._service is not None:
            self._service.on_stopped(stream, code)


class Silence:
    """A stream that is held open and never answered: closing it would end some clients' whole session."""

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:  # noqa: ARG002
        if fin:
            stream.write((), fin=True)

    def on_reset(self, stream: Stream, code: int) -> None:
        stream.reset(code)

    def on_stopped(self, stream: Stream, code: int) -> None:
        """Nothing was sent."""


class Sent(NamedTuple):
    """An announcement the peer has been told of."""

    announce_id: int
    route: Route
    source: int


class AnnounceService:
    """One Announce stream of the peer: initial set, then strictly alternating active and ended per path."""

    def __init__(
        self, connection: ConnectionActor, egress: Egress, stream: Stream, key: int, prefix: str
    ) -> None:
        self._connection = connection
        self._egress = egress
        self._stream = stream
        self._key = key
        self._prefix = join(connection.permissions.root, prefix)
        self._sent: dict[str, Sent] = {}
        self._next_id = 0

    def has_offered(self, path: str) -> bool:
        return path in self._sent

    def begin(self, offers: tuple[m.Offered, ...]) -> None:
        """The initial set, in the form of the version."""
        version = self._connection.version
        usable = [offer for offer in offers if self._sendable(offer.route)]
        lead: list[bytes] = []
        if version <= Version.LITE_02:
            lead.append(AnnounceInit(tuple(self._suffix(offer.path) for offer in usable)).encode(version))
        elif version >= Version.LITE_05:
            lead.append(AnnounceOk(self._connection.environment.hop, len(usable)).encode(version))
        actives = [self._start(offer) for offer in usable]
        self._stream.write((b"".join(lead if version <= Version.LITE_02 else lead + actives),))

    def change(self, path: str, offer: m.Offered | None) -> None:
        """One path came, went, or is reached another way."""
        sent = self._sent.get(path)
        if offer is not None and not self._sendable(offer.route):
            offer = None
        chunks: list[bytes] = []
        if sent is None:
            if offer is not None:
                chunks.append(self._start(offer))
        elif offer is None:
            chunks.append(self._end(path, sent))
        elif offer.source == sent.source or same_publisher(offer.route, sent.route):
            if offer.route != sent.route:
                self._sent[path] = sent._replace(route=offer.route, source=offer.source)
                chunks.append(self._update(path, sent.announce_id, offer.route))
        else:
            chunks = [self._end(path, sent), self._start(offer)]
        data = b"".join(chunks)
        if data:
            self._stream.write((data,))

    def _sendable(self, route: Route) -> bool:
        own = self._connection.version == Version.LITE_04
        return len(route.hops) + own <= MAX_HOPS

    def _suffix(self, path: str) -> str:
        # a prefix route above what was asked for covers it: that is the empty suffix
        return strip(path, self._prefix) or ""

    def _active(self, path: str, route: Route) -> AnnounceActive:
        hop = self._connection.environment.hop
        hops = (*route.hops, hop) if self._connection.version == Version.LITE_04 else route.hops
        return AnnounceActive(
            self._suffix(path), hops=hops, hop_count=len(route.hops) + 1, warm=route.warm, cold=route.cold
        )

    def _start(self, offer: m.Offered) -> bytes:
        self._sent[offer.path] = Sent(self._next_id, offer.route, offer.source)
        self._next_id += 1
        return self._active(offer.path, offer.route).encode(self._connection.version)

    def _end(self, path: str, sent: Sent) -> bytes:
        del self._sent[path]
        return AnnounceEnded(self._suffix(path), sent.announce_id).encode(self._connection.version)

    def _update(self, path: str, announce_id: int, route: Route) -> bytes:
        version = self._connection.version
        if version >= Version.LITE_06:
            return AnnounceUpdate(announce_id, route.hops, route.warm, route.cold).encode(version)
        if version == Version.LITE_05:
            return self._active(path, route).encode(version)
        return b""  # older versions have no way to say it, and no need to know

    # --- stream events ---------------------------------------------------------------------------------------------

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:  # noqa: ARG002
        if fin:
            self._egress.forget_watch(self._key)
            stream.write((), fin=True)

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._egress.forget_watch(self._key)
        stream.reset(stream_code_for(self._connection.version, StreamCode.CANCELLED))

    def on_stopped(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._egress.forget_watch(self._key)


class TrackService:
    """One Track stream of the peer."""

    def __init__(self, connection: ConnectionActor, egress: Egress, stream: Stream, key: int) -> None:
        self._connection = connection
        self._egress = egress
        self._stream = stream
        self._key = key

    def on_message(self, message: object) -> None:
        version = self._connection.version
        if isinstance(message, m.Described):
            info = TrackInfo(*message.properties)
            self._stream.write((info.encode(version),), fin=True)
            self._egress.forget(self._key)
        elif isinstance(message, m.Refused):
            self._connection.refuse(self._stream, message.code)
            self._egress.forget(self._key)

    def leave(self) -> None:
        """The track answers or ends; either finds nobody here."""

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        """Our half ends with the answer."""

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._egress.forget(self._key)
        stream.reset(stream_code_for(self._connection.version, StreamCode.CANCELLED))

    def on_stopped(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._egress.forget(self._key)


class FetchService(TrackService):
    """One Fetch stream of the peer."""

    def __init__(self, connection: ConnectionActor, egress: Egress, stream: Stream, key: int) -> None:
        super().__init__(connection, egress, stream, key)
        self._track: Ref | None = None

    def on_message(self, message: object) -> None:
        if isinstance(message, m.FetchData):
            self._stream.write(message.chunks, fin=message.fin)
            if message.fin:
                self._egress.forget(self._key)
        elif isinstance(message, m.Accepted):
            self._track = message.track
        else:
            super().on_message(message)

    def leave(self) -> None:
        if self._track is not None:
            send(self._track, m.Leave(self._connection.actor_ref, self._key))

    def on_reset(self, stream: Stream, code: int) -> None:
        self.leave()
        super().on_reset(stream, code)

    def on_stopped(self, stream: Stream, code: int) -> None:
        self.leave()
        super().on_stopped(stream, code)


class Sending(NamedTuple):
    """A group stream toward the peer."""

    since: float
    sequence: int
    stream: Stream


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
        self, connection: ConnectionActor, egress: Egress, stream: Stream, key: int, request: Subscribe
    ) -> None:
        self.id = request.id
        self._connection = connection
        self._egress = egress
        self._stream = stream
        self._key = key
        self._name = f"{request.broadcast} {request.track}"
        self._priority = request.priority
        self._track: Ref | None = None
        self._open: dict[int, Stream] = {}
        self._recent: list[Sending] = []
        self._started = False
        self._behind = False
        self._over = False

    def on_message(self, message: object) -> None:
        match message:
            case m.Accepted():
                self._track = message.track
                if self._connection.version <= Version.LITE_04:
                    self._stream.write(
                        (SubscribeOk(priority=self._priority).encode(self._connection.version),)
                    )
            case m.DeliverDatagram():
                self._send_datagram(message)
            case m.Ended():
                self._end(message.final)
            case m.Refused():
                self._refuse(message.code)

    def update(self, message: SubscribeUpdate) -> None:
        """SUBSCRIBE_UPDATE."""
        self._priority = message.priority
        if self._track is not None:
            interest = interest_of(message, self._connection.version)
            send(self._track, m.UpdateInterest(self._connection.actor_ref, self._key, interest))

    # --- groups ----------------------------------------------------------------------------------------------------

    def deliver(self, pieces: tuple[m.GroupPiece, ...]) -> None:
        """Write what the track has for us."""
        for piece in pieces:
            if piece.first and piece.code is None:
                stream = self._begin(piece)
            else:
                found = self._open.get(piece.sequence)
                if found is None:
                    continue  # refused by the peer, or given up
                stream = found
                if piece.chunks or piece.fin:
                    stream.write(piece.chunks, fin=piece.fin)
            if piece.code is not None:
                stream.reset(stream_code_for(self._connection.version, piece.code))
                self._drop(piece.sequence)
            elif piece.fin:
                self._open.pop(piece.sequence, None)
            elif stream.unsent > self._connection.environment.limits.backlog_bytes:
                self._fall_behind(piece.sequence, stream)

    def _begin(self, piece: m.GroupPiece) -> Stream:
        connection = self._connection
        version = connection.version
        if not self._started:
            self._started = True
            if version >= Version.LITE_05:
                self._stream.write((SubscribeOk(group=piece.sequence).encode(version),))
        self._give_up_oldest()
        stream = connection.session.open_uni(send_priority(self._priority, piece.sequence))
        stream.context = GroupStopped(self, piece.sequence)
        header = group_header(version, GroupHeader(self.id, piece.sequence, piece.start_frame))
        stream.write((header, *piece.chunks), fin=piece.fin)
        self._open[piece.sequence] = stream
        self._recent.append(Sending(time.monotonic(), piece.sequence, stream))
        return stream

    def _give_up_oldest(self) -> None:
        """A new group begins: beyond the backlog the oldest that waits is given up."""
        waiting = [s for s in self._recent if s.stream.unsent or s.sequence in self._open]
        self._recent = waiting
        if len(waiting) <= 1:
            self._behind = self._behind and bool(waiting)
            return
        limits = self._connection.environment.limits
        queued = [sending for sending in waiting if sending.stream.unsent]
        unsent = sum(sending.stream.unsent for sending in queued)
        now = time.monotonic()
        for count, oldest in zip(range(len(queued), 0, -1), queued, strict=True):
            late = count >= limits.backlog_groups and now - oldest.since > limits.backlog_time
            if not late and unsent <= limits.backlog_bytes:
                break
            unsent -= oldest.stream.unsent
            self._fall_behind(oldest.sequence, oldest.stream)

    def _fall_behind(self, sequence: int, stream: Stream) -> None:
        connection = self._connection
        if not self._behind:
            self._behind = True
            connection.log.warning(
                "slow subscriber track=%r group=%d waiting_bytes=%d limit_groups=%d",
                self._name,
                sequence,
                stream.unsent,
                connection.environment.limits.backlog_groups,
            )
        stream.reset(stream_code_for(connection.version, StreamCode.TOO_FAR_BEHIND))
        self._drop(sequence)

    def _drop(self, sequence: int) -> None:
        self._open.pop(sequence, None)
        self._recent = [sending for sending in self._recent if sending.sequence != sequence]

    def group_stopped(self, sequence: int) -> None:
        """The peer refused the rest of a group."""
        self._drop(sequence)

    def _send_datagram(self, message: m.DeliverDatagram) -> None:
        session = self._connection.session
        if self._connection.version < Version.LITE_05:
            return
        datagram = Datagram(self.id, message.sequence, message.timestamp, message.payload)
        data = datagram.encode(self._connection.version)
        if len(data) <= session.datagram_limit:
            session.send_datagram(data)

    # --- the end ---------------------------------------------------------------------------------------------------

    def _end(self, final: int) -> None:
        """The track is over and everything of it is written."""
        version = self._connection.version
        end = SubscribeEnd(final).encode(version) if version >= Version.LITE_05 else b""
        self._stream.write((end,), fin=True)
        self._finish()

    def _refuse(self, code: int) -> None:
        wire = stream_code_for(self._connection.version, code)
        for stream in self._open.values():
            stream.reset(wire)
        self._connection.refuse(self._stream, code)
        self._finish()

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._open.clear()
            self._recent.clear()
            self._egress.forget(self._key)

    def leave(self) -> None:
        """The peer unsubscribed, or is gone."""
        if self._track is not None and not self._over:
            send(self._track, m.Leave(self._connection.actor_ref, self._key))

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
        for sending in self._recent:
            if sending.sequence in self._open or sending.stream.unsent:
                sending.stream.reset(wire)
        self._finish()
