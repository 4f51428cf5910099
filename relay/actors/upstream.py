"""Streams on which the peer publishes: announcements, replies to our subscriptions, groups. Part of the connection actor.

Each class is attached to one stream and reports to `Ingest`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from relay.actors import messages as m
from relay.actors.runtime import Ref, send
from relay.model.path import join, normalize
from relay.model.route import Route
from relay.model.track import TrackProperties
from relay.transport.session import Session, Stream
from relay.wire.decoder import AnnounceDecoder, SubscribeDecoder, TrackInfoDecoder
from relay.wire.errors import (
    ProtocolViolation,
    StreamCode,
    WireError,
    relay_stream_code,
    stream_code_for,
)
from relay.wire.frame_decoder import FrameDecoder, UniDecoder
from relay.wire.messages import (
    AnnounceActive,
    AnnounceEnded,
    AnnounceInit,
    AnnounceOk,
    AnnounceUpdate,
    FrameHeader,
    GroupHeader,
    Setup,
    SubscribeDrop,
    SubscribeEnd,
    SubscribeOk,
)
from relay.wire.version import Version

if TYPE_CHECKING:
    from relay.actors.connection import ConnectionActor
    from relay.actors.ingest import Ingest

Parts = list[FrameHeader | bytes]

LATE_ROUND_TRIPS = 6
"""Round trips for which a group that is late is waited for: what was lost twice has come by then."""

LATE_AT_MOST = 10.0
"""Seconds of the same, at most: a peer decides how long its round trip looks."""


def patience(session: Session) -> float:
    """Seconds for which a group of that peer that is late is waited for."""
    return max(m.LATE_AT_LEAST, min(LATE_ROUND_TRIPS * (session.stats().rtt or 0.0), LATE_AT_MOST))


class Upstream:
    """One subscription of ours at the peer."""

    __slots__ = ("_ended", "groups", "id", "parts", "stream", "told", "track")

    def __init__(self, number: int, track: Ref, stream: Stream) -> None:
        self.id = number
        self.track = track
        self.stream = stream
        self.told = b""
        """What the peer was last told that we want, as an update of its version."""
        self._ended = False
        self.groups: dict[int, Stream] = {}
        """Open group streams."""
        self.parts: dict[int, tuple[int, Parts, bool, int | None]] = {}
        """What this turn brought, by sequence: first frame, parts, fin, code."""

    def end_request(self, version: Version) -> None:
        """End our half of the Subscribe stream; once.

        01 and 02 clients of 2026 take a FIN that comes before they look away for a fault of the session.
        """
        if not self._ended:
            self._ended = True
            if version <= Version.LITE_02:
                self.stream.reset(stream_code_for(version, StreamCode.CANCELLED))
            else:
                self.stream.write((), fin=True)

    @property
    def ended(self) -> bool:
        """Whether our half of the Subscribe stream is over."""
        return self._ended

    def add(
        self, sequence: int, first_frame: int, parts: Parts, *, fin: bool, code: int | None = None
    ) -> None:
        """Note what arrived of a group."""
        known = self.parts.get(sequence)
        if known is not None:
            first_frame, former, _, _ = known
            former += parts
            parts = former
        self.parts[sequence] = (first_frame, parts, fin, code)

    def has_ended(self, sequence: int) -> bool:
        """Whether that group began and ended in this very turn."""
        known = self.parts.get(sequence)
        return known is not None and (known[2] or known[3] is not None)

    def report(self, parts: tuple[m.GroupPart, ...]) -> m.UpstreamGroups | m.PastGroups:
        """What the track is told."""
        return m.UpstreamGroups(parts)

    def take(self) -> tuple[m.GroupPart, ...]:
        """What this turn brought."""
        taken = tuple(
            m.GroupPart(sequence, first_frame, tuple(parts), fin, code)
            for sequence, (first_frame, parts, fin, code) in self.parts.items()
        )
        self.parts = {}
        return taken


class Past(Upstream):
    """One that asks for groups before those of another."""

    __slots__ = ("number",)

    def __init__(self, number: int, track: Ref, stream: Stream, request: int) -> None:
        super().__init__(number, track, stream)
        self.number = request
        """What the track calls it."""

    def report(self, parts: tuple[m.GroupPart, ...]) -> m.PastGroups:
        return m.PastGroups(self.number, parts)


class AnnounceReplies:
    """One Announce stream of ours."""

    def __init__(self, connection: ConnectionActor, ingest: Ingest, prefix: str) -> None:
        self._connection = connection
        self._ingest = ingest
        self._prefix = prefix
        self._decoder = AnnounceDecoder(connection.version, connection.environment.limits.message)
        self._origin: int | None = None
        self._live: set[str] = set()
        self._by_id: dict[int, str] = {}
        self._next_id = 0

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        for message in self._decoder.feed(data):
            self._connection.spend()
            self._on_message(message)
        if fin:
            self._decoder.end()
            self._withdraw_all()
            stream.write((), fin=True)

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._withdraw_all()
        stream.write((), fin=True)

    def on_stopped(self, stream: Stream, code: int) -> None:
        """The peer ends its replies by itself."""

    def _withdraw_all(self) -> None:
        for path in self._live:
            self._ingest.withdraw(path, said=False)
        self._live.clear()
        self._by_id.clear()

    def _on_message(
        self, message: AnnounceInit | AnnounceOk | AnnounceActive | AnnounceEnded | AnnounceUpdate
    ) -> None:
        match message:
            case AnnounceInit():
                for suffix in message.suffixes:
                    self._connection.spend()
                    self._on_active(AnnounceActive(suffix))
            case AnnounceOk():
                self._origin = message.origin
            case AnnounceActive():
                self._on_active(message)
            case AnnounceUpdate():
                path = self._by_id.get(message.announce_id)
                if path is None:
                    raise ProtocolViolation(f"update of unknown announcement {message.announce_id}")
                self._ingest.reroute(path, self._route(message.hops, 0, (message.warm, message.cold)))
            case AnnounceEnded():
                self._on_ended(message)

    def _on_active(self, message: AnnounceActive) -> None:
        path = normalize(join(self._prefix, message.suffix))
        route = self._route(message.hops, message.hop_count, (message.warm, message.cold))
        self._by_id[self._next_id] = path
        self._next_id += 1
        if self._connection.version != Version.LITE_06:
            self._by_id.clear()
        if path not in self._live:
            self._live.add(path)
            self._ingest.announce(path, route)
        elif self._connection.version == Version.LITE_05:
            self._ingest.reroute(path, route, restart=message.restart)
        else:
            raise ProtocolViolation(f"{path!r} announced twice")

    def _on_ended(self, message: AnnounceEnded) -> None:
        if message.announce_id is not None:
            path = self._by_id.pop(message.announce_id, None)
            if path is None:
                raise ProtocolViolation(f"end of unknown announcement {message.announce_id}")
        else:
            path = normalize(join(self._prefix, message.suffix))
        if path in self._live:
            self._live.remove(path)
            self._ingest.withdraw(path)

    def _route(self, hops: tuple[int, ...], hop_count: int, costs: tuple[int, int]) -> Route | None:
        return self._ingest.route_of(hops, hop_count, self._origin, costs)


class SubscribeReplies:
    """The Subscribe stream of one upstream subscription."""

    def __init__(self, connection: ConnectionActor, ingest: Ingest, upstream: Upstream) -> None:
        self._connection = connection
        self._ingest = ingest
        self._upstream = upstream
        self._decoder = SubscribeDecoder(connection.version, connection.environment.limits.message)
        self._ended = False

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:  # noqa: ARG002
        track = self._upstream.track
        for message in self._decoder.feed(data):
            self._connection.spend()
            match message:
                case SubscribeOk():
                    send(track, m.UpstreamStarted(message.group, patience(self._connection.session)))
                case SubscribeEnd():
                    self._end(message.group)
                case SubscribeDrop():
                    send(track, m.UpstreamDropped(message.start, message.end))
        if fin:
            self._decoder.end()
            self._end(None)
            self._upstream.end_request(self._connection.version)

    def _end(self, final: int | None) -> None:
        if not self._ended:
            self._ended = True
            self._ingest.flush()
            send(self._upstream.track, m.UpstreamEnded(final, patience(self._connection.session)))

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._upstream.end_request(self._connection.version)
        if not self._ended:
            self._ingest.failed(self._upstream, relay_stream_code(code, self._connection.version))

    def on_stopped(self, stream: Stream, code: int) -> None:
        """Our half is of no interest to the peer: its own tells the rest."""


class PastReplies:
    """The Subscribe stream of a request for the past."""

    def __init__(self, connection: ConnectionActor, ingest: Ingest, past: Past) -> None:
        self._connection = connection
        self._ingest = ingest
        self._past = past
        self._decoder = SubscribeDecoder(connection.version, connection.environment.limits.message)

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:  # noqa: ARG002
        for message in self._decoder.feed(data):
            self._connection.spend()
            if isinstance(message, SubscribeOk):
                send(self._past.track, m.PastStarted(self._past.number, message.group))
            elif isinstance(message, SubscribeEnd):
                self._over()
        if fin:
            self._decoder.end()
            self._over()
            self._past.end_request(self._connection.version)

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._over()
        self._past.end_request(self._connection.version)

    def on_stopped(self, stream: Stream, code: int) -> None:
        """Its own half tells the rest."""

    def _over(self) -> None:
        self._ingest.flush()
        send(self._past.track, m.PastOver(self._past.number, patience(self._connection.session)))


class LeftSubscription:
    """A Subscribe stream that we have ended: the peer's half is read to its end."""

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        """What was under way."""

    def on_reset(self, stream: Stream, code: int) -> None:
        """Gone."""

    def on_stopped(self, stream: Stream, code: int) -> None:
        """Gone."""


class TrackReply:
    """A Track stream of ours."""

    def __init__(self, connection: ConnectionActor, ingest: Ingest, track: Ref, stream: Stream) -> None:
        self.track = track
        self.stream = stream
        self._connection = connection
        self._ingest = ingest
        self._decoder = TrackInfoDecoder(connection.version, connection.environment.limits.message)
        self._answered = False

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        for info in self._decoder.feed(data):
            self._answered = True
            self._ingest.answered(self)
            properties = TrackProperties(info.priority, info.ordered, info.max_latency, info.timescale)
            send(self.track, m.UpstreamProperties(properties))
        if fin:
            self._over(stream, StreamCode.NOT_FOUND)

    def on_reset(self, stream: Stream, code: int) -> None:
        self._over(stream, relay_stream_code(code, self._connection.version))

    def _over(self, stream: Stream, code: int) -> None:
        stream.write((), fin=True)
        self._ingest.answered(self)
        if not self._answered:
            self._answered = True
            self._ingest.track_failed(self.track, code)

    def on_stopped(self, stream: Stream, code: int) -> None:
        """The peer's half tells how it ends."""


class FetchReply:
    """A Fetch stream of ours: bare frames."""

    def __init__(
        self, connection: ConnectionActor, ingest: Ingest, track: Ref, stream: Stream, sequence: int
    ) -> None:
        self.track = track
        self.stream = stream
        self._connection = connection
        self._ingest = ingest
        self.sequence = sequence
        self._decoder = FrameDecoder(connection.version, connection.environment.limits.frame)

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        try:
            parts = tuple(self._decoder.feed(data))
            if fin:
                self._decoder.end()
        except WireError as error:
            self._connection.over_by(error)
            self._tell((), code=error.stream_code)
            self._connection.refuse(stream, error.stream_code)
            return
        if fin:
            stream.write((), fin=True)
        self._tell(parts, fin=fin)

    def on_reset(self, stream: Stream, code: int) -> None:
        stream.write((), fin=True)
        self._tell((), code=relay_stream_code(code, self._connection.version))

    def on_stopped(self, stream: Stream, code: int) -> None:
        """The peer's half tells how it ends."""

    def _tell(
        self, parts: tuple[FrameHeader | bytes, ...], *, fin: bool = False, code: int | None = None
    ) -> None:
        if fin or code is not None:
            self._ingest.answered(self)
        send(self.track, m.UpstreamFetched(m.GroupPart(self.sequence, 0, parts, fin, code)))


class PeerUni:
    """A unidirectional stream of the peer: a group, or its SETUP."""

    __slots__ = ("_connection", "_decoder", "_header", "_ingest", "_upstream")

    def __init__(self, connection: ConnectionActor, ingest: Ingest) -> None:
        limits = connection.environment.limits
        self._connection = connection
        self._ingest = ingest
        self._decoder = UniDecoder(connection.version, limits.frame, limits.message)
        self._header: GroupHeader | None = None
        self._upstream: Upstream | None = None

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        try:
            items = list(self._decoder.feed(data))
            if fin:
                self._decoder.end()
        except WireError as error:
            if self._header is None and not error.stream_only:
                raise
            self._connection.over_by(error)
            self._abort(error.stream_code)
            self._connection.refuse(stream, error.stream_code)
            return
        if items and self._header is None:
            first = items.pop(0)
            if isinstance(first, Setup):
                self._connection.on_peer_setup(first)
                return
            if not isinstance(first, GroupHeader) or not self._begin(stream, first):
                return
        if self._header is not None and self._upstream is not None:
            # after the header a group stream holds frames only
            self._ingest.add(self._upstream, self._header, cast("Parts", items), fin=fin)
            if fin:
                self._upstream.groups.pop(self._header.sequence, None)

    def _begin(self, stream: Stream, header: GroupHeader) -> bool:
        upstream = self._ingest.upstream(header.subscribe_id)
        if upstream is None:
            self._connection.refuse(stream, StreamCode.CANCELLED)
            return False
        if header.sequence in upstream.groups or upstream.has_ended(header.sequence):
            self._connection.refuse(stream, StreamCode.OLD)
            return False
        self._header = header
        self._upstream = upstream
        upstream.groups[header.sequence] = stream
        self._ingest.add(upstream, header, [], fin=False)
        return True

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._abort(relay_stream_code(code, self._connection.version))

    def on_stopped(self, stream: Stream, code: int) -> None:
        """Not possible on a stream of the peer."""

    def _abort(self, code: int) -> None:
        if self._header is not None and self._upstream is not None:
            self._upstream.groups.pop(self._header.sequence, None)
            self._ingest.add(self._upstream, self._header, [], fin=False, code=code)
