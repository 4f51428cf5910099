"""Announcements of moq-lite, one object per Announce stream.

Both keep the live paths of their stream: a sender must alternate between the begin and the end of a path
(moq-lite, "Announce").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from relay.model.path import is_text, join, normalize, strip
from relay.model.route import MAX_COST, MAX_HOPS, UNKNOWN_HOP, Route, same_publisher
from relay.moq.core import AnswerOwner, Handler, PeerRequest, RequestOwner
from relay.moq.lite_core import LiteCore
from relay.moq.session import (
    Announced,
    AnnouncementsComplete,
    AnnouncementsEnded,
    AnnouncementsStarted,
    Offer,
    Unannounced,
)
from relay.transport.session import Stream
from relay.wire.announce import AnnounceActive, AnnounceEnded, AnnounceInit, AnnounceOk, AnnounceUpdate
from relay.wire.decoder import AnnounceDecoder, AnnounceItem
from relay.wire.errors import DuplicateAnnounce, StreamCode, UnknownAnnounce, WireError

INIT_SIZE = 32_768  # bytes of suffixes in ANNOUNCE_INIT: peers limit messages

MAX_PREFIX = 8  # bytes


class AnnounceReader(Handler):
    """A stream of ours with an interest in announcements."""

    def __init__(self, core: LiteCore, owner: AnswerOwner, request: int, prefix: str, stream: Stream) -> None:
        self.stream = stream
        self._core = core
        self._owner = owner
        self._request = request
        self._prefix = prefix
        self._decoder = AnnounceDecoder(core.version, core.limits.message)
        self._origin: int | None = None
        self._live: set[str] = set()
        self._by_id: dict[int, str] = {}
        self._starts = 0
        self._missing = 0  # of the initial set (05, 06)
        self._over = False
        version = core.version
        if not (version.has_announce_init or version.has_announce_ok):
            core.emit(AnnouncementsComplete(request))

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        for item in self._decoder.feed(data):
            self._core.spend()
            self._take(item)
        if fin:
            self._decoder.end()
            self._end(None)
            stream.write((), fin=True)

    def on_reset(self, stream: Stream, code: int) -> None:
        self._end(code)
        stream.write((), fin=True)

    def on_fault(self, error: WireError) -> None:
        self._end(error.stream_code)

    def close(self) -> None:
        """End the interest. No event follows."""
        self._over = True
        self.stream.write((), fin=True)
        self.stream.stop(self._core.code(StreamCode.INTERNAL))

    def _end(self, code: int | None) -> None:
        if self._over:
            return
        self._over = True
        for path in self._live:
            self._core.emit(Unannounced(self._request, path, said=False))
        self._live.clear()
        self._by_id.clear()
        self._owner.finished(self._request)
        self._core.emit(AnnouncementsEnded(self._request, code))

    def _take(self, item: AnnounceItem) -> None:
        if self._over:
            return
        if isinstance(item, AnnounceActive):
            self._begin(item)
        elif isinstance(item, AnnounceEnded):
            self._finish(item)
        elif isinstance(item, AnnounceUpdate):
            path = self._by_id.get(item.announce_id)
            if path is None:
                raise UnknownAnnounce(f"update of unknown announcement {item.announce_id}")
            self._report(path, item.hops, item.warm, item.cold, update=True)
        elif isinstance(item, AnnounceOk):
            self._origin = item.origin
            self._missing = item.active_count
            self._core.emit(AnnouncementsStarted(self._request, item.origin))
            if not self._missing:
                self._core.emit(AnnouncementsComplete(self._request))
        else:
            self._core.emit(AnnouncementsStarted(self._request, None))
            for suffix in item.suffixes:
                self._core.spend()
                self._begin(AnnounceActive(suffix))
            self._core.emit(AnnouncementsComplete(self._request))

    def _begin(self, item: AnnounceActive) -> None:
        version = self._core.version
        path = normalize(join(self._prefix, item.suffix))
        live = path in self._live
        if live and not version.restarts_announcements:
            raise DuplicateAnnounce(f"{path!r} is announced twice")
        if version.has_announce_ids:
            self._by_id[self._starts] = path
            self._starts += 1
        self._live.add(path)
        hops = (UNKNOWN_HOP,) * item.hop_count if version.counts_hops else item.hops
        cold = item.cold if version.has_announce_ids else MAX_COST
        self._report(path, hops, item.warm, cold, update=live, restart=item.restart)
        if self._missing:
            self._missing -= 1
            if not self._missing:
                self._core.emit(AnnouncementsComplete(self._request))

    def _report(
        self, path: str, listed: tuple[int, ...], warm: int, cold: int, *, update: bool, restart: bool = False
    ) -> None:
        hops = listed
        if self._core.version.has_announce_ok:
            hops = (*listed, UNKNOWN_HOP if self._origin is None else self._origin)
        self._core.emit(Announced(self._request, path, listed, Route(hops, warm, cold), update, restart))

    def _finish(self, item: AnnounceEnded) -> None:
        path: str | None
        if item.announce_id is not None:
            path = self._by_id.pop(item.announce_id, None)
            if path is None:
                raise UnknownAnnounce(f"end of unknown announcement {item.announce_id}")
        else:
            path = normalize(join(self._prefix, item.suffix))
        if path in self._live:
            self._live.remove(path)
            self._core.emit(Unannounced(self._request, path))


class _Sent(NamedTuple):
    announce_id: int
    offer: Offer


class AnnounceWriter(PeerRequest):
    """A stream of the peer: the initial set, then changes."""

    def __init__(
        self, core: LiteCore, owner: RequestOwner, request: int, prefix: str, stream: Stream
    ) -> None:
        super().__init__(core, owner, request, stream)
        self._lite = core
        self._prefix = prefix
        self._sent: dict[str, _Sent] = {}  # by suffix: two routes above the prefix are one to the peer (06)
        self._next_id = 0

    def covers(self, path: str) -> bool:
        return strip(path, self._prefix) is not None

    def has_offered(self, path: str) -> bool:
        return self._suffix(path) in self._sent

    def begin(self, offers: Iterable[Offer]) -> int:
        """The initial set. Returns its size in bytes."""
        version = self._lite.version
        usable = list({self._suffix(offer.path): offer for offer in offers if self._sendable(offer)}.values())
        first = b""
        if version.has_announce_init:
            # one message holds the set; suffixes beyond its largest size follow as single announcements
            size, suffixes = 0, []
            for offer in usable:
                size += len(offer.path.encode()) + MAX_PREFIX
                if size > INIT_SIZE:
                    break
                suffixes.append(self._suffix(offer.path))
                self._start(offer)
            usable = usable[len(suffixes) :]
            first = AnnounceInit(tuple(suffixes)).encode(version)
        elif version.has_announce_ok:
            first = AnnounceOk(self._lite.hop, len(usable)).encode(version)
        return self._write(b"".join((first, *map(self._start, usable))))

    def change(self, path: str, offer: Offer | None) -> int:
        """Announce, withdraw (`None`) or update a path, if the version can. Returns the bytes written."""
        suffix = self._suffix(path)
        sent = self._sent.get(suffix)
        if offer is not None and not self._sendable(offer):
            offer = None
        if sent is None:
            return 0 if offer is None else self._write(self._start(offer))
        if offer is None:
            return self._write(self._end(suffix, sent))
        if offer.source == sent.offer.source or same_publisher(offer.route, sent.offer.route):
            self._sent[suffix] = sent._replace(offer=offer)
            return self._write(self._update(sent, offer))
        return self._write(self._end(suffix, sent) + self._start(offer))

    def _write(self, data: bytes) -> int:
        if data:
            self.stream.write((data,))
        return len(data)

    def _sendable(self, offer: Offer) -> bool:
        hops = len(offer.route.hops) + self._lite.version.sender_is_listed
        return hops <= MAX_HOPS and is_text(offer.path)

    def _suffix(self, path: str) -> str:
        # the empty suffix: a route above the prefix covers it
        return strip(path, self._prefix) or ""

    def _start(self, offer: Offer) -> bytes:
        self._sent[self._suffix(offer.path)] = _Sent(self._next_id, offer)
        self._next_id += 1
        return self._active(offer)

    def _active(self, offer: Offer) -> bytes:
        version = self._lite.version
        own = (self._lite.hop,) if version.sender_is_listed and version.has_hops else ()
        return AnnounceActive(
            self._suffix(offer.path),
            hops=(*offer.route.hops, *own),
            hop_count=len(offer.route.hops) + 1,
            warm=offer.route.warm,
            cold=offer.route.cold,
        ).encode(version)

    def _end(self, suffix: str, sent: _Sent) -> bytes:
        del self._sent[suffix]
        return AnnounceEnded(suffix, sent.announce_id).encode(self._lite.version)

    def _update(self, sent: _Sent, offer: Offer) -> bytes:
        version = self._lite.version
        new, old = offer.route, sent.offer.route
        if version.has_announce_ids and new != old:
            return AnnounceUpdate(sent.announce_id, new.hops, new.warm, new.cold).encode(version)
        if version.restarts_announcements and new.hops != old.hops:
            return self._active(offer)
        return b""

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:  # noqa: ARG002 - it has no messages
        if fin:
            stream.write((), fin=True)
            self._owner.cancelled(self.request, None)
