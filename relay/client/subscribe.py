"""One subscription of ours, from the request to its last group.

Owns a Subscribe stream that we opened, the groups that came for it and were not read yet, and its datagrams. Must
never reorder groups or fill gaps: a reader sees what the peer sent. `Client.subscribe` makes one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from relay.client.errors import SubscribeError
from relay.client.frames import GroupReader
from relay.client.peer import KEPT, Bell, Noted
from relay.wire.decoder import SubscribeDecoder
from relay.wire.errors import ProtocolViolation, StreamCode, WireError
from relay.wire.frame import open_request
from relay.wire.messages import (
    Datagram,
    Subscribe,
    SubscribeDrop,
    SubscribeEnd,
    SubscribeOk,
    SubscribeUpdate,
    TrackInfo,
)

if TYPE_CHECKING:
    from relay.client.peer import Peer

LATE_GROUPS: Final = 0.2
"""Seconds for which groups are still taken after the end of a subscription, at least: it can overtake the last of them."""

LATE_ROUND_TRIPS: Final = 6
"""Round trips for the same: what was lost twice has come by then."""

LATE_AT_MOST: Final = 10.0
"""Seconds for the same, at most: a peer decides how long its round trip looks."""


class Datagrams:
    """The datagrams of a subscription: groups of one frame that may be lost."""

    def __init__(self, peer: Peer) -> None:
        self._unread: deque[Datagram] = deque(maxlen=KEPT)
        self._bell = Bell(peer)

    def __len__(self) -> int:
        return len(self._unread)

    def __aiter__(self) -> AsyncIterator[Datagram]:
        return self

    async def __anext__(self) -> Datagram:
        """Return the next datagram; as they have no end, only that of the session ends the wait."""
        await self._bell.until(lambda: self._unread)
        return self._unread.popleft()

    get = __anext__

    def put(self, datagram: Datagram) -> None:
        """Take one that arrived."""
        self._unread.append(datagram)
        self._bell.ring()


class Subscription:
    """A running subscription: its groups in order of arrival (`async for`), and what the peer said about it.

    The iteration stops when the track has ended and everything sent was read; it raises SubscribeError if the peer
    aborts. `end` is the first sequence that will never be sent (05 and 06), `drops` the newest ranges given up.
    """

    def __init__(self, peer: Peer, request: Subscribe, info: TrackInfo | None = None) -> None:
        self.request = request
        """As it was sent, with the updates since."""
        self.info = info
        self.ok: SubscribeOk | None = None
        self.end: int | None = None
        self.drops: list[SubscribeDrop] = Noted()
        self.code: int | None = None
        """Why the peer reset the Subscribe stream."""
        self.finished = False
        """Whether the Subscribe stream has ended, by either side."""
        self.latest: int | None = None
        """The highest sequence that arrived."""
        self.received = 0
        """Groups that arrived, read or not, datagrams among them."""
        self.datagrams = Datagrams(peer)
        self._peer = peer
        self._lost = 0
        self._late = False
        self._timer: asyncio.TimerHandle | None = None
        self._unread: deque[GroupReader] = deque()
        self._open: set[GroupReader] = set()
        self._bell = Bell(peer)
        self._decoder = SubscribeDecoder(peer.version)
        peer.subscriptions[request.id] = self
        self._stream = peer.session.open_bidi()
        self._stream.context = self
        self._stream.write([open_request(peer.version, request)])

    def __repr__(self) -> str:
        return f"<Subscription {self.request.id} {self.request.broadcast}/{self.request.track}>"

    def __aiter__(self) -> AsyncIterator[GroupReader]:
        return self

    async def __anext__(self) -> GroupReader:
        """Return the next group, as soon as it has begun."""
        await self._bell.until(lambda: self._unread or self._over())
        if not self._unread:
            raise StopAsyncIteration
        return self._unread.popleft()

    async def accepted(self) -> None:
        """Wait until the peer accepts, in words or by sending a group; raises SubscribeError if it refuses.

        05 and 06 accept with the first group, so this may take long.
        """
        await self._bell.until(
            lambda: self.ok is not None or self.received or self.end is not None or self._over()
        )

    async def ended(self) -> None:
        """Wait until the peer said that no new group will come, or aborted (no error here: see `code`)."""
        await self._bell.until(lambda: self.end is not None or self.finished)

    def update(
        self,
        *,
        priority: int | None = None,
        max_latency_ms: int | None = None,
        start_group: int | None = None,
        end_group: int | None = None,
        start_frame: int | None = None,
        end_frame: int | None = None,
    ) -> None:
        """Change what was asked for; None leaves a field. ValueError on 01 and 02, which have no updates."""
        changes: dict[str, Any] = {
            "priority": priority,
            "max_latency": max_latency_ms,
            "start_group": start_group,
            "end_group": end_group,
            "start_frame": start_frame,
            "end_frame": end_frame,
        }
        now = self.request
        update = SubscribeUpdate(
            now.priority,
            now.ordered,
            now.max_latency,
            now.start_group,
            now.end_group,
            now.start_frame,
            now.end_frame,
        )
        self.update_to(
            replace(update, **{name: value for name, value in changes.items() if value is not None})
        )

    def update_to(self, update: SubscribeUpdate) -> None:
        """Replace what was asked for, bounds that are taken away included."""
        self._stream.write([update.encode(self._peer.version)])
        self.request = replace(
            self.request,
            priority=update.priority,
            ordered=update.ordered,
            max_latency=update.max_latency,
            start_group=update.start_group,
            end_group=update.end_group,
            start_frame=update.start_frame,
            end_frame=update.end_frame,
        )

    async def close(self) -> None:
        """Unsubscribe, by ending our half of the Subscribe stream. Groups under way are given up."""
        self._stream.write((), fin=True)
        self._leave()

    def reset(self, code: int = StreamCode.CANCELLED) -> None:
        """Unsubscribe the rude way, by resetting the Subscribe stream."""
        self._peer.refuse(self._stream, code)
        self._leave()

    def _leave(self) -> None:
        self._forget()
        self.finished = True
        for group in list(self._open):
            group.stop()
        self._open.clear()
        self._bell.ring()

    def _over(self) -> bool:
        if self.code is not None:
            raise SubscribeError(self.code)
        if not self.finished:
            return False
        # after the session nothing comes either
        return self._late or self._all_here() or self._peer.ended is not None

    def _all_here(self) -> bool:
        """Whether every group from the first to the last has been seen or was declared lost."""
        if self.end is None:
            return False
        if self.ok is None or self.ok.group is None:
            return self.end == 0
        return self.received + self._lost >= self.end - self.ok.group

    def _forget(self) -> None:
        """Take no more groups."""
        if self._timer is not None:
            self._timer.cancel()
        self._peer.subscriptions.pop(self.request.id, None)
        self._late = True
        self._bell.ring()

    # -- Handler

    def on_data(self, data: bytes, *, fin: bool) -> None:
        for item in self._decoder.feed(data):
            if isinstance(item, SubscribeOk):
                if self.ok is not None:
                    raise ProtocolViolation("a subscription is accepted twice")
                self.ok = item
            elif isinstance(item, SubscribeEnd):
                if self.end is not None:
                    raise ProtocolViolation("a subscription ends twice")
                self.end = item.group
            else:
                self.drops.append(item)
                self._lost += item.end - item.start + 1
        if fin:
            self._decoder.end()
            self._stream.write((), fin=True)
            if not self.finished:
                self.finished = True
                late = min(LATE_ROUND_TRIPS * (self._peer.session.stats().rtt or 0.0), LATE_AT_MOST)
                self._timer = asyncio.get_running_loop().call_later(max(LATE_GROUPS, late), self._forget)
        self._bell.ring()

    def on_reset(self, code: int) -> None:
        if not self.finished:
            self.code = code
            self.finished = True
            self._stream.reset(self._peer.code(StreamCode.CANCELLED))
        self._forget()

    def on_stop(self, code: int) -> None:
        """The peer reads no more updates; its own half tells how it goes on."""

    def on_fault(self, error: WireError) -> None:
        self.on_reset(int(error.stream_code))

    # -- groups

    def opened(self, group: GroupReader) -> None:
        """A group stream of this subscription has begun."""
        self._count(group.sequence)
        self._unread.append(group)
        self._open.add(group)
        if len(self._unread) > KEPT:
            self._unread.popleft().stop(StreamCode.TOO_FAR_BEHIND)
        self._bell.ring()

    def closed(self, group: GroupReader) -> None:
        """That stream has ended."""
        self._open.discard(group)

    def datagram(self, datagram: Datagram) -> None:
        """A datagram of this subscription has come."""
        self._count(datagram.sequence)
        self.datagrams.put(datagram)

    def _count(self, sequence: int) -> None:
        self.received += 1
        self.latest = sequence if self.latest is None else max(self.latest, sequence)
