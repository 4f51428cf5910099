"""The short requests of ours: a track's properties, one group, the peer's estimates.

Owns one stream of ours each. Must never ask again by itself. `Client.track_info`, `fetch` and `probe` make them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, ClassVar

from relay.client.errors import FetchError, RequestError, TrackInfoError
from relay.client.frames import GroupReader
from relay.client.peer import KEPT, Bell
from relay.wire.decoder import FrameDecoder, ProbeDecoder, TrackInfoDecoder
from relay.wire.errors import StreamCode, Truncated, WireError
from relay.wire.frame import open_request
from relay.wire.messages import Fetch, Probe, ProbeRequest, TrackInfo, TrackRequest

if TYPE_CHECKING:
    from relay.client.peer import Peer


class TrackInfoCall:
    """One TRACK request."""

    def __init__(self, peer: Peer, request: TrackRequest) -> None:
        self.info: TrackInfo | None = None
        self.code: int | None = None
        self._bell = Bell(peer)
        self._peer = peer
        self._decoder = TrackInfoDecoder(peer.version)
        self._stream = peer.session.open_bidi()
        self._stream.context = self
        self._stream.write([open_request(peer.version, request)])

    async def answer(self) -> TrackInfo:
        """Wait for the reply; TrackInfoError if the peer refuses."""
        try:
            await self._bell.until(lambda: self.info is not None or self.code is not None)
        finally:
            if self.info is None and self.code is None:
                self._peer.refuse(self._stream, StreamCode.CANCELLED)
        if self.info is None:
            raise TrackInfoError(self.code or 0)
        return self.info

    def on_data(self, data: bytes, *, fin: bool) -> None:
        for info in self._decoder.feed(data):
            self.info = info
            self._stream.write((), fin=True)
        if fin:
            self._decoder.end()
            if self.info is None:
                raise Truncated("the stream ended without TRACK_INFO")
        self._bell.ring()

    def on_reset(self, code: int) -> None:
        if self.info is None:
            self.code = code
            self._stream.reset(self._peer.code(StreamCode.CANCELLED))
        self._bell.ring()

    def on_stop(self, code: int) -> None:
        """Says less than the reset that comes with it, in either order."""

    def on_fault(self, error: WireError) -> None:
        self.on_reset(int(error.stream_code))


class FetchedGroup(GroupReader):
    """The group that answers a FETCH, read like any other; FetchError if the peer gives up."""

    error: ClassVar[type[RequestError]] = FetchError

    def __init__(self, peer: Peer, request: Fetch) -> None:
        stream = peer.session.open_bidi()
        super().__init__(peer, request.group, request.start_frame, stream)
        self._decoder = FrameDecoder(peer.version, peer.max_frame)
        self._request_stream = stream
        stream.context = self
        stream.write([open_request(peer.version, request)])

    def stop(self, code: int = StreamCode.CANCELLED) -> None:
        """Want no more of it."""
        self._request_stream.reset(self._peer.code(code))
        super().stop(code)

    def on_data(self, data: bytes, *, fin: bool) -> None:
        self.feed(self._decoder.feed(data))
        if fin:
            self._decoder.end()
            self._request_stream.write((), fin=True)
            self.finish()

    def on_reset(self, code: int) -> None:
        self._request_stream.reset(self._peer.code(StreamCode.CANCELLED))
        self.abort(code)

    def on_stop(self, code: int) -> None:
        """Our half said all it had to say."""

    def on_fault(self, error: WireError) -> None:
        self.abort(int(error.stream_code))


class Probes:
    """The peer's estimates of the connection (`async for`), until it ends the stream or `close`."""

    def __init__(self, peer: Peer) -> None:
        self.finished = False
        self.code: int | None = None
        self._unread: deque[Probe] = deque(maxlen=KEPT)
        self._bell = Bell(peer)
        self._decoder = ProbeDecoder(peer.version)
        self._stream = peer.session.open_bidi()
        self._stream.context = self
        self._stream.write([open_request(peer.version, ProbeRequest())])

    def __aiter__(self) -> AsyncIterator[Probe]:
        return self

    async def __anext__(self) -> Probe:
        """Return the next estimate; RequestError if the peer gives none."""
        await self._bell.until(lambda: self._unread or self.finished)
        if self._unread:
            return self._unread.popleft()
        if self.code is not None:
            raise RequestError(self.code)
        raise StopAsyncIteration

    def close(self) -> None:
        """Ask for no more."""
        self._stream.write((), fin=True)
        self.finished = True
        self._bell.ring()

    def on_data(self, data: bytes, *, fin: bool) -> None:
        self._unread.extend(self._decoder.feed(data))
        if fin:
            self._decoder.end()
            self.close()
        self._bell.ring()

    def on_reset(self, code: int) -> None:
        self.code = code
        self.close()

    def on_stop(self, code: int) -> None:
        """Our half said all it had to say."""

    def on_fault(self, error: WireError) -> None:
        self.on_reset(int(error.stream_code))
