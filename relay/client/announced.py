"""Watching what the peer announces under a prefix.

Owns one Announce stream of ours: which paths are live on it, and by which announce id. Must never let a peer's slip
pass: a broadcast that comes twice, or goes without having come, ends the session. `Client.announced` makes one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from relay.client.errors import AnnounceError, ClientError, DuplicateAnnounce, UnknownAnnounce
from relay.client.peer import KEPT, Bell
from relay.model.path import join
from relay.wire.decoder import AnnounceDecoder, AnnounceItem
from relay.wire.errors import WireError
from relay.wire.frame import open_request
from relay.wire.messages import AnnounceActive, AnnounceEnded, AnnounceInit, AnnounceOk, AnnounceRequest
from relay.wire.version import Version

if TYPE_CHECKING:
    from relay.client.peer import Peer


@dataclass(frozen=True, slots=True)
class Change:
    """A broadcast (06: a route) came, went, or is reached another way (`update`).

    `hops` are those listed by the peer, on 03 as many zeros as it counted; the peer's own id on 05 and 06 is
    `Announced.origin`. `warm` and `cold` are the costs of 06.
    """

    path: str
    active: bool
    hops: tuple[int, ...] = ()
    warm: int = 0
    cold: int = 0
    update: bool = False


class Announced:
    """The announcements under `prefix`, as changes in order (`async for`).

    Whoever leaves more than `KEPT` of them unread gets those that lead to what is live now, and no others.

    When the peer ends the stream, what was live on it is reported gone, then the iteration stops; a reset raises
    AnnounceError.
    """

    def __init__(self, peer: Peer, prefix: str) -> None:
        self.prefix = prefix
        self.origin: int | None = None
        """The peer's own hop id, told on 05 and 06 (0: withheld)."""
        self.live: dict[str, Change] = {}
        """What is announced now, by path, whether the change was read or not."""
        self.complete = peer.version in (Version.LITE_03, Version.LITE_04)
        """Whether the initial set is here. 03 and 04 do not say, so there it is from the start."""
        self.finished = False
        self.code: int | None = None
        self._peer = peer
        self._missing = 0
        self._unread: deque[Change] = deque()
        self._read: dict[str, Change] = {}
        """What was live when the last change was read."""
        self._by_id: dict[int, str] = {}
        self._starts = 0
        self._bell = Bell(peer)
        self._decoder = AnnounceDecoder(peer.version)
        self._stream = peer.session.open_bidi()
        self._stream.context = self
        self._stream.write([open_request(peer.version, AnnounceRequest(prefix, peer.hop))])

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        """Return the next change."""
        await self._bell.until(lambda: self._unread or self._over())
        if not self._unread:
            raise StopAsyncIteration
        change = self._unread.popleft()
        if change.active:
            self._read[change.path] = change
        else:
            self._read.pop(change.path, None)
        return change

    async def initial(self) -> dict[str, Change]:
        """Wait for the initial set and return what is live."""
        await self._bell.until(lambda: self.complete or self._over())
        return dict(self.live)

    async def wait_for(self, path: str, *, active: bool = True) -> None:
        """Wait until `path` is announced, or is not. Reads no change."""
        await self._bell.until(lambda: (path in self.live) == active or self._over())
        if active and path not in self.live:
            raise ClientError(f"the peer ended its announcements, {path!r} is not among them")

    def close(self) -> None:
        """Watch no longer."""
        self._finish()

    def _over(self) -> bool:
        if self.code is not None:
            raise AnnounceError(self.code)
        return self.finished

    # -- Handler

    def on_data(self, data: bytes, *, fin: bool) -> None:
        for item in self._decoder.feed(data):
            self._take(item)
        if fin:
            self._decoder.end()
            self._finish()
        self._bell.ring()

    def on_reset(self, code: int) -> None:
        self.code = code
        self._finish()

    def on_stop(self, code: int) -> None:
        """Nothing more was to be said anyway; the peer's own half tells how it goes on."""

    def on_fault(self, error: WireError) -> None:
        self.code = int(error.stream_code)
        self._finish()

    # -- what the peer says

    def _take(self, item: AnnounceItem) -> None:
        if isinstance(item, AnnounceInit):
            for suffix in item.suffixes:
                self._came(AnnounceActive(suffix))
            self.complete = True
        elif isinstance(item, AnnounceOk):
            self.origin = item.origin
            self._missing = item.active_count
            self.complete = not self._missing
        elif isinstance(item, AnnounceActive):
            self._came(item)
            self._missing -= 1
            self.complete = self.complete or self._missing <= 0
        elif isinstance(item, AnnounceEnded):
            self._went(self._path(item.announce_id, item.suffix), item.announce_id)
        else:
            path = self._path(item.announce_id)
            self._note(replace(self.live[path], hops=item.hops, warm=item.warm, cold=item.cold, update=True))

    def _came(self, item: AnnounceActive) -> None:
        version = self._peer.version
        path = join(self.prefix, item.suffix)
        live = path in self.live
        if live and version != Version.LITE_05:
            raise DuplicateAnnounce(f"{path!r} is announced twice")
        if item.restart and not live:
            raise UnknownAnnounce(f"{path!r} is announced anew and was not live")
        if version >= Version.LITE_06:
            self._by_id[self._starts] = path
            self._starts += 1
        hops = (0,) * item.hop_count if version == Version.LITE_03 else item.hops
        self._note(Change(path, active=True, hops=hops, warm=item.warm, cold=item.cold, update=live))

    def _path(self, announce_id: int | None, suffix: str = "") -> str:
        if announce_id is None:
            path = join(self.prefix, suffix)
            if path not in self.live:
                raise UnknownAnnounce(f"{path!r} ended and was not announced")
            return path
        found = self._by_id.get(announce_id)
        if found is None:
            raise UnknownAnnounce(f"announce id {announce_id} is not live")
        return found

    def _went(self, path: str, announce_id: int | None = None) -> None:
        if announce_id is not None:
            del self._by_id[announce_id]
        self._note(Change(path, active=False))

    def _note(self, change: Change) -> None:
        if change.active:
            self.live[change.path] = change
        else:
            del self.live[change.path]
        self._unread.append(change)
        if len(self._unread) > KEPT + len(self.live) + len(self._read):
            self._unread = deque(self._shortest())

    def _shortest(self) -> Iterator[Change]:
        """From what was live when the reader last looked to what is live now."""
        for path in self._read.keys() - self.live.keys():
            yield Change(path, active=False)
        for path, change in self.live.items():
            if change != self._read.get(path):
                yield replace(change, update=path in self._read)

    def _finish(self) -> None:
        if self.finished:
            return
        self.finished = True
        self._stream.write((), fin=True)
        self._stream.stop(self._peer.code(0))
        for path in list(self.live):
            self._went(path)
        self._bell.ring()
