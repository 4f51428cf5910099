"""Announcements to one Announce stream of the peer, in the form of its version. Part of the connection actor."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from relay.actors import messages as m
from relay.model.path import join, strip
from relay.model.route import MAX_HOPS, Route, same_publisher
from relay.transport.session import Stream
from relay.wire.errors import StreamCode, stream_code_for
from relay.wire.messages import (
    AnnounceActive,
    AnnounceEnded,
    AnnounceInit,
    AnnounceOk,
    AnnounceUpdate,
)
from relay.wire.version import Version

if TYPE_CHECKING:
    from relay.actors.connection import ConnectionActor
    from relay.actors.egress import Egress


INIT_SIZE = 32_768
"""Bytes of suffixes that ANNOUNCE_INIT holds at most; peers bound the size of one message."""

MAX_PREFIX = 8
"""Bytes that a length prefix takes at most."""


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
        first = b""
        if version <= Version.LITE_02:
            # one message holds the set; what exceeds a readable one follows as single announcements
            size, suffixes = 0, []
            for offer in usable:
                size += len(offer.path.encode()) + MAX_PREFIX
                if size > INIT_SIZE:
                    break
                suffixes.append(self._suffix(offer.path))
                self._start(offer)
            usable = usable[len(suffixes) :]
            first = AnnounceInit(tuple(suffixes)).encode(version)
        elif version >= Version.LITE_05:
            first = AnnounceOk(self._connection.environment.hop, len(usable)).encode(version)
        self._write(b"".join((first, *map(self._start, usable))))

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
                update = self._update(path, sent.announce_id, offer.route)
                # what this version has no field for, as costs before 06, is no news to the peer
                if update != self._update(path, sent.announce_id, sent.route):
                    chunks.append(update)
        else:
            chunks = [self._end(path, sent), self._start(offer)]
        data = b"".join(chunks)
        if data:
            self._write(data)

    def _write(self, data: bytes) -> None:
        self._stream.write((data,))
        self._egress.account(len(data))

    @property
    def unsent(self) -> int:
        """Bytes that wait for the peer to take them."""
        return self._stream.unsent

    def give_up(self) -> None:
        """The peer takes too little: it hears no more on this stream."""
        self._egress.forget_watch(self._key)
        self._connection.refuse(self._stream, StreamCode.TOO_FAR_BEHIND)

    def _sendable(self, route: Route) -> bool:
        own = self._connection.version in (Version.LITE_03, Version.LITE_04)  # these count the sender
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
            if unsent := stream.unsent:
                self._egress.loose(stream, self._key, unsent)

    def on_reset(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._egress.forget_watch(self._key)
        stream.reset(stream_code_for(self._connection.version, StreamCode.CANCELLED))

    def on_stopped(self, stream: Stream, code: int) -> None:  # noqa: ARG002
        self._egress.forget_watch(self._key)
