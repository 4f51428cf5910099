"""The unidirectional streams that the peer opens: groups, and on 05 and 06 its SETUP.

Owns one such stream each, from the first byte on. Must never keep payload: it goes to the group's reader. `Client`
makes one per stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from relay.client.frames import GroupReader
from relay.wire.errors import StreamCode, WireError
from relay.wire.frame_decoder import FrameItem, UniDecoder
from relay.wire.messages import GroupHeader, Setup

if TYPE_CHECKING:
    from relay.client.peer import Peer
    from relay.client.subscribe import Subscription
    from relay.transport.session import Stream


class IncomingUni:
    """Handler of a unidirectional stream."""

    def __init__(
        self,
        peer: Peer,
        stream: Stream,
        *,
        on_setup: Callable[[Setup], None],
        on_stray: Callable[[GroupHeader], None],
    ) -> None:
        self._peer = peer
        self._stream = stream
        self._on_setup = on_setup
        self._on_stray = on_stray
        self._decoder = UniDecoder(peer.version, peer.max_frame)
        self._group: GroupReader | None = None
        self._owner: Subscription | None = None

    def on_data(self, data: bytes, *, fin: bool) -> None:
        frames: list[FrameItem] = []
        try:
            for item in self._decoder.feed(data):
                if isinstance(item, GroupHeader):
                    if not self._begin(item):
                        return
                elif isinstance(item, Setup):
                    self._on_setup(item)
                else:
                    frames.append(item)
            if fin:
                self._decoder.end()
        finally:
            # What came before a fault is still the reader's.
            if self._group is not None and frames:
                self._group.feed(frames)
        if fin and self._group is not None:
            self._group.finish()
            self._closed()

    def on_reset(self, code: int) -> None:
        if self._group is not None:
            self._group.abort(code)
            self._closed()

    def on_stop(self, code: int) -> None:
        """We send nothing here."""

    def on_fault(self, error: WireError) -> None:
        self.on_reset(int(error.stream_code))

    def _begin(self, header: GroupHeader) -> bool:
        owner = self._peer.subscriptions.get(header.subscribe_id)
        if owner is None:
            # The subscription may have been closed while the group was under way.
            self._stream.stop(self._peer.code(StreamCode.CANCELLED))
            self._on_stray(header)
            return False
        self._owner = owner
        self._group = GroupReader(self._peer, header.sequence, header.frame_start, self._stream)
        owner.opened(self._group)
        return True

    def _closed(self) -> None:
        if self._owner is not None and self._group is not None:
            self._owner.closed(self._group)
