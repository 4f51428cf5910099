"""Answering the peer's requests, one object per stream that it opened.

Owns which broadcasts there are to serve, and which of them each Announce stream was told. Must never send a frame
itself: `outgoing` does. `Client` hands over each bidirectional stream of the peer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from relay.client.outgoing import FetchOut, SubscriptionOut
from relay.client.peer import Bell, Noted
from relay.model.path import strip
from relay.wire.decoder import RequestDecoder, RequestItem
from relay.wire.errors import ProtocolViolation, StreamCode, WireError
from relay.wire.frame import Request
from relay.wire.messages import (
    AnnounceActive,
    AnnounceEnded,
    AnnounceInit,
    AnnounceOk,
    AnnounceRequest,
    AnnounceUpdate,
    Fetch,
    Goaway,
    Probe,
    ProbeRequest,
    Subscribe,
    SubscribeUpdate,
    TrackRequest,
)
from relay.wire.version import Version

if TYPE_CHECKING:
    from relay.client.peer import Peer
    from relay.client.publish import Publication
    from relay.transport.session import Stream


class Served(Protocol):
    """Who answers one request."""

    def on_message(self, message: RequestItem) -> None:
        """What the peer sends after its request."""

    def on_end(self, code: int | None) -> None:
        """The peer ended its half (None), or gave the exchange up with a code."""


class Held:
    """A request that is answered already, or never will be: it only stays open."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def on_message(self, message: RequestItem) -> None:
        """What it says changes nothing."""

    def on_end(self, code: int | None) -> None:
        if code is None:
            self._stream.write((), fin=True)


class IncomingRequest:
    """Handler of a bidirectional stream that the peer opened."""

    def __init__(self, peer: Peer, stream: Stream, accept: Callable[[Stream, Request], Served]) -> None:
        self._peer = peer
        self._stream = stream
        self._accept = accept
        self._decoder = RequestDecoder(peer.version)
        self._served: Served | None = None
        self._ended = False

    def on_data(self, data: bytes, *, fin: bool) -> None:
        for item in self._decoder.feed(data):
            if self._served is not None:
                self._served.on_message(item)
            elif not isinstance(item, SubscribeUpdate | Probe):
                self._served = self._accept(self._stream, item)
        if fin:
            self._decoder.end()
            self._end(None)

    def on_reset(self, code: int) -> None:
        self._stream.reset(self._peer.code(StreamCode.CANCELLED))
        self._end(code)

    def on_stop(self, code: int) -> None:
        self._end(code)

    def on_fault(self, error: WireError) -> None:
        self._end(int(error.stream_code))

    def _end(self, code: int | None) -> None:
        if self._ended:
            return
        self._ended = True
        if self._served is not None:
            self._served.on_end(code)
        elif code is None:
            self._stream.write((), fin=True)


class AnnounceOut:
    """Tells the peer what is live under a prefix."""

    def __init__(
        self,
        peer: Peer,
        stream: Stream,
        request: AnnounceRequest,
        live: Iterable[Publication],
        gone: Callable[[AnnounceOut], None],
    ) -> None:
        self.request = request
        self._peer = peer
        self._stream = stream
        self._gone = gone
        self._told: dict[Publication, int] = {}
        self._ids = 0
        initial = [one for one in live if strip(one.path, request.prefix) is not None]
        version = peer.version
        if version <= Version.LITE_02:
            suffixes = tuple(strip(one.path, request.prefix) or "" for one in initial)
            for one in initial:
                self._remember(one)
            stream.write([AnnounceInit(suffixes).encode(version)])
            return
        if version >= Version.LITE_05:
            stream.write([AnnounceOk(peer.hop, len(initial)).encode(version)])
        for one in initial:
            self.announce(one)

    def announce(self, publication: Publication) -> None:
        """It is live now."""
        if publication not in self._told and strip(publication.path, self.request.prefix) is not None:
            self._remember(publication)
            self._stream.write([self._active(publication)])

    def update(self, publication: Publication) -> None:
        """It is reached another way now."""
        if publication not in self._told:
            return
        version = self._peer.version
        if version >= Version.LITE_06:
            announce_id = self._told[publication]
            update = AnnounceUpdate(announce_id, publication.hop_list(), publication.warm, publication.cold)
            self._stream.write([update.encode(version)])
        elif version == Version.LITE_05:
            self._stream.write([self._active(publication)])
        else:
            self.withdraw(publication)
            self.announce(publication)

    def withdraw(self, publication: Publication) -> None:
        """It is not live any more."""
        announce_id = self._told.pop(publication, None)
        if announce_id is not None:
            suffix = strip(publication.path, self.request.prefix) or ""
            self._stream.write([AnnounceEnded(suffix, announce_id).encode(self._peer.version)])

    def on_message(self, message: RequestItem) -> None:
        """There is none."""

    def on_end(self, code: int | None) -> None:  # noqa: ARG002 - FIN or reset, it wants to hear no more
        self._stream.write((), fin=True)
        self._gone(self)

    def _remember(self, publication: Publication) -> None:
        self._told[publication] = self._ids
        self._ids += 1

    def _active(self, publication: Publication) -> bytes:
        return AnnounceActive(
            strip(publication.path, self.request.prefix) or "",
            hops=publication.hop_list(),
            hop_count=publication.hop_count(),
            warm=publication.warm,
            cold=publication.cold,
        ).encode(self._peer.version)


class Publisher:
    """The publishing half of a client."""

    def __init__(self, peer: Peer, *, offers_probe: bool) -> None:
        self.requests: Noted[Request] = Noted()
        self.goaway: str | None = None
        self.publications: dict[str, Publication] = {}
        self._peer = peer
        self._offers_probe = offers_probe
        self._announcing: list[AnnounceOut] = []
        self._bell = Bell(peer)

    @property
    def ending(self) -> bool:
        """Whether the end of a track is still to be told."""
        return any(track.ending for one in self.publications.values() for track in one.tracks.values())

    async def requested(self, count: int) -> None:
        """Wait until `count` requests have arrived in all."""
        await self._bell.until(lambda: self.requests.total >= count)

    # -- Announcer

    def announce(self, publication: Publication) -> None:
        for stream in self._announcing:
            stream.announce(publication)

    def update(self, publication: Publication) -> None:
        for stream in self._announcing:
            stream.update(publication)

    def withdraw(self, publication: Publication) -> None:
        for stream in self._announcing:
            stream.withdraw(publication)

    def forget(self, publication: Publication) -> None:
        if self.publications.get(publication.path) is publication:
            del self.publications[publication.path]

    # -- requests

    def accept(self, stream: Stream, request: Request) -> Served:
        """Answer a request of the peer; return who sees to the rest of its stream."""
        self.requests.append(request)
        self._bell.ring()
        if isinstance(request, AnnounceRequest):
            live = [one for one in self.publications.values() if one.announced]
            announcing = AnnounceOut(self._peer, stream, request, live, self._announcing.remove)
            self._announcing.append(announcing)
            return announcing
        if isinstance(request, Goaway):
            if self.goaway is not None:
                raise ProtocolViolation("GOAWAY came twice")
            self.goaway = request.uri
            return self._refuse(stream, StreamCode.CANCELLED)
        if isinstance(request, ProbeRequest):
            # Browser clients of 04 take a reset for the end of the session; newer ones were told not to ask.
            if self._peer.version >= Version.LITE_05 and not self._offers_probe:
                return self._refuse(stream, StreamCode.CANCELLED)
            return Held(stream)
        return self._serve(stream, request)

    def _serve(self, stream: Stream, request: Subscribe | TrackRequest | Fetch) -> Served:
        publication = self.publications.get(request.broadcast)
        if publication is None:
            return self._refuse(stream, StreamCode.UNROUTABLE)
        publication.note(request)
        track = publication.tracks.get(request.track)
        if track is None:
            return self._refuse(stream, StreamCode.NOT_FOUND)
        if track.code is not None:
            return self._refuse(stream, track.code)
        if isinstance(request, Subscribe):
            return SubscriptionOut(self._peer, stream, request, track)
        if isinstance(request, TrackRequest):
            stream.write([track.info.encode(self._peer.version)], fin=True)
            return Held(stream)
        group = track.held.get(request.group)
        if group is None or request.start_frame < group.frame_start:
            return self._refuse(stream, StreamCode.NOT_FOUND)
        if group.finished and request.start_frame >= group.frame_start + max(1, len(group.frames)):
            return self._refuse(stream, StreamCode.NOT_FOUND)
        return FetchOut(self._peer, stream, request, group)

    def _refuse(self, stream: Stream, code: int) -> Served:
        self._peer.refuse(stream, code)
        return Held(stream)
