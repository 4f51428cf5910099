"""Groups as they come in: of a subscription, or fetched.

Owns the frames that have arrived and were not read yet. `Subscription` and `Client.fetch_group` make readers and feed
them; applications read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from relay.client.errors import GroupAborted, RequestError
from relay.client.peer import Bell, Peer
from relay.model.group import FrameStart, Part
from relay.moq.session import GroupPart
from relay.wire.errors import StreamCode


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame. `timestamp` counts in the track's timescale; None on 01..04, which carry none."""

    payload: bytes
    timestamp: int | None = None


class _Incoming:
    """A frame of which not everything may be here."""

    __slots__ = ("chunks", "header", "missing")

    def __init__(self, header: FrameStart) -> None:
        self.header = header
        self.chunks: list[bytes] = []
        self.missing = header.size


class GroupReader:
    """One group, read frame by frame (`async for`), all at once (`read_all`) or in pieces (`pieces`).

    `code` is set once the peer has aborted the group; what arrived whole before that is still read, then GroupAborted
    is raised (FetchError for a fetched group).
    """

    def __init__(
        self,
        peer: Peer,
        sequence: int,
        frame_start: int,
        stop: Callable[[int], None],
        error: type[RequestError] = GroupAborted,
    ) -> None:
        """`stop` asks the peer to send no more."""
        self.sequence = sequence
        self.frame_start = frame_start
        self.code: int | None = None
        self.finished = False
        self.pieces_received = 0
        """How many pieces of payload have arrived: more than frames if those came bit by bit."""
        self._peer = peer
        self._stop = stop
        self._error = error
        self._frames: deque[_Incoming] = deque()
        self._last: _Incoming | None = None
        self._bell = Bell(peer)

    def __repr__(self) -> str:
        return f"<GroupReader {self.sequence}>"

    def __aiter__(self) -> AsyncIterator[Frame]:
        return self

    async def __anext__(self) -> Frame:
        """Return the next whole frame."""
        await self._bell.until(self._frame_or_end)
        if not self._frames or self._frames[0].missing:
            raise StopAsyncIteration
        incoming = self._frames.popleft()
        chunks = incoming.chunks
        timestamp = incoming.header.timestamp if self._peer.moq.version.has_timestamps else None
        return Frame(chunks[0] if len(chunks) == 1 else b"".join(chunks), timestamp)

    async def read_all(self) -> list[Frame]:
        """Return all frames not read yet, once the group is complete."""
        return [frame async for frame in self]

    async def pieces(self) -> AsyncIterator[Part]:
        """Give the start of each frame (on 01..04 its time is the arrival), then its payload as the chunks arrive."""
        while True:
            await self._bell.until(lambda: self._frames or self._over())
            if not self._frames:
                return
            incoming = self._frames[0]
            yield incoming.header
            while incoming.missing or incoming.chunks:
                await self._piece(incoming)
                yield incoming.chunks.pop(0)
            self._frames.popleft()

    async def _piece(self, incoming: _Incoming) -> None:
        await self._bell.until(lambda: incoming.chunks or self._over())

    def stop(self, code: int = StreamCode.CANCELLED) -> None:
        """Read no more of it: ask the peer to stop sending."""
        if not self.finished and self.code is None:
            self._stop(code)
            self.abort(code)

    def _over(self) -> bool:
        if self.code is not None:
            raise self._error(self.code)
        return self.finished

    def _frame_or_end(self) -> bool:
        return (bool(self._frames) and not self._frames[0].missing) or self._over()

    def feed(self, part: GroupPart) -> None:
        """Take what arrived."""
        for item in part.parts:
            if not isinstance(item, bytes):
                self._last = _Incoming(item)
                self._frames.append(self._last)
            elif self._last is not None:
                self._last.chunks.append(item)
                self._last.missing -= len(item)
                self.pieces_received += 1
        if part.code is not None:
            self.abort(part.code)
        elif part.fin:
            self.finished = True
        self._bell.ring()

    def abort(self, code: int) -> None:
        """The rest will not come."""
        if not self.finished and self.code is None:
            self.code = code
            self._bell.ring()
