"""What the peer of a connection consumes: our announcements to it, its subscriptions and fetches.

Part of the connection actor. Each request of the peer is a small handler attached to its stream; tracks deliver to it
through the connection, keyed by a number that is never used twice.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from relay.actors import messages as m
from relay.actors.announcing import AnnounceService
from relay.actors.backlog import Ranks
from relay.actors.moving import AskAgain
from relay.actors.runtime import send
from relay.actors.serving import (
    EndTrack,
    FetchService,
    SubscribeService,
    TrackService,
    interest_of,
)
from relay.auth.permissions import loggable
from relay.model.path import join, narrow
from relay.model.track import Dialect, Interest
from relay.transport.session import Stream
from relay.wire.decoder import RequestDecoder
from relay.wire.errors import DecodeError, ProtocolViolation, StreamCode, stream_code_for
from relay.wire.messages import (
    AnnounceRequest,
    Fetch,
    Goaway,
    Probe,
    ProbeRequest,
    Subscribe,
    SubscribeUpdate,
    TrackRequest,
)
from relay.wire.text import MAX_PATH_SEGMENTS
from relay.wire.version import Version

if TYPE_CHECKING:
    from relay.actors.connection import ConnectionActor, Handler


LOOK_AT_LEAST = 64
"""Streams of fetches, and of what is over, before it is looked which of them have been sent."""

STREAM_COST = 2_048
"""Bytes that one of them holds besides what waits in it."""


class Egress:
    """The consuming side of one session."""

    def __init__(self, connection: ConnectionActor) -> None:
        self._connection = connection
        self._next_key = 0
        self._watches: dict[int, AnnounceService] = {}
        self._requests: dict[int, SubscribeService | TrackService | FetchService] = {}
        self._subscribe_ids: set[int] = set()
        self._leaving = False
        """Whether the peer has said GOAWAY."""
        self.ranks = Ranks()
        self._backlog = 0
        """Bytes that wait on all streams of the session, at most: measured anew when that is too much."""
        self._loose: dict[Stream, int] = {}
        """Streams of fetches that may have something unsent, also after their end, and others whose request has ended;
        with the key of each."""
        self._look_at = LOOK_AT_LEAST

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
            case (
                m.Accepted()
                | m.Refused()
                | m.Lost()
                | AskAgain()
                | m.Ended()
                | m.DeliverDatagram()
                | m.Described()
                | m.FetchData()
                | EndTrack()
            ):
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
        self._loose.clear()

    def has_offered(self, path: str) -> bool:
        """Whether the peer has been told of that (absolute) path and not of its end."""
        return any(watch.has_offered(path) for watch in self._watches.values())

    def count(self) -> int:
        """Subscriptions and fetches."""
        return len(self._requests)

    def account(self, change: int) -> None:
        """So much more, or less, than before waits for the peer."""
        self._backlog += change
        if self._backlog > self._connection.environment.limits.backlog_session and change > 0:
            self._shed()

    def _shed(self) -> None:
        """If the session holds too much, the least important subscription loses its oldest group, then the next."""
        limit = self._connection.limit_of("backlog_session")
        if self._backlog <= limit:
            return
        services = [s for s in self._requests.values() if isinstance(s, SubscribeService)]
        self._look_at_loose()
        self._backlog = sum(service.backlog.measure() for service in services)
        self._backlog += sum(stream.unsent + STREAM_COST for stream in self._loose)
        self._backlog += sum(watch.unsent for watch in self._watches.values())
        if self._backlog <= limit:
            return
        for stream, key in list(
            self._loose.items()
        ):  # the oldest first: they are the past, subscriptions are now
            if self._backlog <= limit * 3 // 4:
                break
            self._backlog -= stream.unsent + STREAM_COST
            self._give_up_loose(stream, key)
        order = [(s.backlog.priority, -s.backlog.unsent, number) for number, s in enumerate(services)]
        heapify(order)
        # not to the limit itself, or it would have to be done again at once
        while self._backlog > limit * 3 // 4 and order:
            priority, unsent, number = heappop(order)
            least = services[number]
            if least.shed():
                heappush(order, (priority, -least.backlog.unsent, number))
            self._backlog += least.backlog.unsent + unsent
        # groups first: without announcements, the peer would know of nothing
        for watch in sorted(self._watches.values(), key=lambda watch: -watch.unsent):
            if self._backlog <= limit * 3 // 4:
                break
            self._connection.over("backlog_session", f"announcements waiting_bytes={watch.unsent}")
            self._backlog -= watch.unsent
            watch.give_up()

    def loose(self, stream: Stream, key: int, size: int) -> None:
        """So much more waits in a fetch, or in a stream whose request is over: kept, whatever else goes."""
        if stream not in self._loose:
            size += STREAM_COST
        self._loose[stream] = key
        if len(self._loose) >= self._look_at:
            self._look_at_loose()
        self.account(size)

    def _look_at_loose(self) -> None:
        self._loose = {stream: key for stream, key in self._loose.items() if stream.unsent}
        self._look_at = max(LOOK_AT_LEAST, 2 * len(self._loose))

    def _give_up_loose(self, stream: Stream, key: int) -> None:
        del self._loose[stream]
        self._connection.over("backlog_session", f"key={key} waiting_bytes={stream.unsent}")
        service = self._requests.get(key)
        if service is not None:
            service.leave()
            self.forget(key)
        self._connection.refuse(stream, StreamCode.TOO_FAR_BEHIND)

    # --- requests of the peer --------------------------------------------------------------------------------------

    def new_key(self) -> int:
        """A number for a watch or request."""
        self._next_key += 1
        return self._next_key

    def announce(self, stream: Stream, request: AnnounceRequest) -> Handler | None:
        """ANNOUNCE_REQUEST."""
        connection = self._connection
        if len(self._watches) >= connection.environment.limits.announce_streams:
            connection.over("announce_streams", f"prefix={loggable(request.prefix)}")
            connection.refuse(stream, StreamCode.NO_CAPACITY)
            return None
        if self._too_long(join(connection.permissions.root, request.prefix)):
            connection.refuse(stream, StreamCode.UNROUTABLE)
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
                relay=connection.permissions.cluster,
                one_hop=connection.permissions.cluster and connection.version < Version.LITE_04,
            ),
        )
        return watch

    def forget_watch(self, key: int) -> None:
        """The peer lost interest."""
        if self._watches.pop(key, None) is not None:
            send(self._connection.environment.origin, m.Unwatch(self._connection.number, key))

    def _too_long(self, *names: str) -> bool:
        """Whether one of them, paths and names of tracks, is longer than any that is announced can be."""
        longest = self._connection.environment.limits.path
        for name in names:
            if len(name.encode()) > longest:
                self._connection.over("path", f"path={loggable(name)}")
                return True
        return False

    def _may(self, stream: Stream, broadcast: str, track: str) -> bool:
        connection = self._connection
        if len(self._requests) >= connection.limit_of("subscriptions"):
            connection.over("subscriptions", f"path={loggable(broadcast)}")
            connection.refuse(stream, StreamCode.NO_CAPACITY)
            return False
        path = join(connection.permissions.root, broadcast)
        if path.count("/") >= MAX_PATH_SEGMENTS or self._too_long(path, track):
            connection.refuse(stream, StreamCode.UNROUTABLE)  # deeper or longer than any announcement can be
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
        if not self._may(stream, request.broadcast, request.track):
            return None
        key = self.new_key()
        message = m.Subscribe(
            path=join(connection.permissions.root, request.broadcast),
            track=request.track,
            subscriber=connection.actor_ref,
            session=connection.number,
            key=key,
            dialect=Dialect.PLAIN if connection.version <= Version.LITE_04 else Dialect.TIMED,
            interest=interest_of(request, connection.version),
            exclude=self._exclude(),
            relay=connection.permissions.cluster,
        )
        service = SubscribeService(connection, self, stream, request, message)
        self._requests[key] = service
        connection.counts["subscriptions", ""] += 1
        self._subscribe_ids.add(request.id)
        send(connection.environment.origin, message)
        return service

    def describe(self, stream: Stream, request: TrackRequest) -> Handler | None:
        """TRACK."""
        connection = self._connection
        if not self._may(stream, request.broadcast, request.track):
            return None
        key = self.new_key()
        path = join(connection.permissions.root, request.broadcast)
        message = m.Describe(
            path, request.track, connection.actor_ref, connection.number, key, self._exclude()
        )
        service = self._requests[key] = TrackService(connection, self, stream, message)
        send(connection.environment.origin, message)
        return service

    def fetch(self, stream: Stream, request: Fetch) -> Handler | None:
        """FETCH."""
        connection = self._connection
        if not self._may(stream, request.broadcast, request.track):
            return None
        key = self.new_key()
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
        service = self._requests[key] = FetchService(connection, self, stream, message)
        send(connection.environment.origin, message)
        return service

    def on_goaway(self, message: Goaway) -> None:
        """GOAWAY. We have nowhere else to go: a relay that we dialled is dialled again when it has closed."""
        if self._leaving:
            raise ProtocolViolation("second GOAWAY")
        self._leaving = True
        self._connection.log.info("peer is going away uri=%r", loggable(message.uri))
        send(self._connection.environment.origin, m.Leaving(self._connection.number))

    def forget(self, key: int) -> None:
        """A request is over."""
        service = self._requests.pop(key, None)
        if isinstance(service, SubscribeService):
            self._subscribe_ids.discard(service.id)


class Request:
    """A stream of the peer whose request is not complete yet."""

    def __init__(self, connection: ConnectionActor, egress: Egress) -> None:
        self._connection = connection
        self._egress = egress
        self._decoder = RequestDecoder(connection.version, connection.environment.limits.message)
        self._service: Handler | None = None
        self._asked = False

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        try:
            messages = self._decoder.feed(data)
            if fin:
                self._decoder.end()
        except DecodeError as error:
            self._connection.over_by(error)
            # a request that cannot be read concerns nobody but who made it
            self._connection.log.debug("request refused stream=%s reason=%r", stream.id, str(error))
            if self._service is not None:
                self._service.on_stopped(stream, error.stream_code)
            self._connection.refuse(stream, error.stream_code)
            return
        for message in messages:
            self._on_message(stream, message)
        if fin:
            if stream.context is self and self._service is None:
                stream.write((), fin=True)  # it ended before it asked for anything
            elif self._service is not None:
                self._service.on_data(stream, b"", fin=True)

    def _on_message(self, stream: Stream, message: object) -> None:  # noqa: C901 - one line per message
        egress = self._egress
        if self._asked:
            self._connection.spend()  # what opens the stream has been paid for with it
        self._asked = True
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
                egress.on_goaway(message)
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
