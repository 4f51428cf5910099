"""A moq-lite session, 01 to 06 (`machine` says how to drive it).

A server's owner decides on admission: `Introduced` comes once the peer's path is known, and `setup.admit`
answers. After `Opened` requests may be made, after `Established` those of the peer follow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from relay.model.limits import Limits
from relay.moq.core import Handler, State
from relay.moq.encoding import Encoding
from relay.moq.lite_core import LiteCore
from relay.moq.lite_requests import Requests
from relay.moq.lite_serving import IncomingRequest, LiteServing
from relay.moq.lite_setup import SetupExchange
from relay.moq.machine import AliveCheck
from relay.moq.session import Features
from relay.moq.setup import Options
from relay.transport.session import Event as TransportEvent
from relay.transport.session import Session, Stream, StreamData
from relay.wire.errors import NoCommonVersion, WireError, session_code_for
from relay.wire.frame import FrameHeader, GroupHeader
from relay.wire.frame_decoder import UniDecoder
from relay.wire.setup import Setup
from relay.wire.version import Draft, Version

__all__ = ["LiteSession", "Options", "State"]

FEATURES = {
    version: Features(
        hops=version.has_hops,
        prefixes=version.has_announce_ids,
        below=version.has_announce_ids,
        goaway=version.has_goaway,
        descriptions=version.has_timestamps,
        history=version.latency_is_history,
        updates=version.has_updates,
    )
    for version in Version
}

MAX_DATAGRAM_HEADER = 24  # bytes of three varints


class LiteSession(LiteCore):
    """One session."""

    __deletable__ = ("setup", "requests", "serving")

    setup: SetupExchange
    requests: Requests
    serving: LiteServing

    def __init__(
        self,
        session: Session,
        *,
        limits: Limits,
        hop: int,
        versions: Iterable[Version],
        drafts: Iterable[Draft] = (),
        admitted: bool = False,
        options: Options | None = None,
    ) -> None:
        """`versions`: those that SETUP may choose. With `admitted` there is no `Introduced`.

        SETUP may also choose one of `drafts`: then `DialectChosen` is the last event.
        """
        super().__init__(session, limits, hop)
        options = options or Options()
        self.setup = self._setup_part = SetupExchange(
            self, versions, drafts, admitted=admitted, options=options
        )
        self.requests = self._requests_part = Requests(self)
        self.serving = self._serving_part = LiteServing(self, offers_probe=bool(options.probe))
        self.alive = AliveCheck(self)

    # --- the owner's side

    def start(self, now: float) -> None:
        """The transport's events follow by `receive`."""
        self.now = now
        try:
            self.setup.start()
        except NoCommonVersion as error:
            self._on_wire_error(error, None)

    def receive(self, events: Iterable[TransportEvent], now: float) -> None:
        super().receive(events, now)
        self.setup.give_away()

    def unlink(self) -> None:
        super().unlink()
        del self.setup, self.requests, self.serving

    @property
    def name(self) -> str | None:
        chosen = self.setup.chosen
        return None if chosen is None else chosen.name_on_wire

    @property
    def features(self) -> Features:
        return FEATURES[self.version]

    @property
    def encoding(self) -> Encoding:
        return Encoding.TIMED if self.version.has_timestamps else Encoding.PLAIN

    @property
    def fetch_encoding(self) -> Encoding:
        return Encoding.TIMED

    @property
    def datagram_limit(self) -> int:
        """Payload that a datagram can carry for certain, 0 if none can."""
        limit = self.session.datagram_limit - MAX_DATAGRAM_HEADER if self.version.has_timestamps else 0
        return max(0, limit)

    def close(self, code: int, reason: str) -> None:
        self._close(session_code_for(self.version, code), reason)

    def close_code(self, error: WireError) -> int:
        return error.close_code(self.version)

    def _on_late(self, event: TransportEvent) -> None:
        self.setup.on_late(event)

    # --- streams of the peer

    def _handler(self, event: StreamData) -> Handler | None:
        """`None` while the stream's events are held."""
        stream = event.stream
        held = self.setup.held
        if self.state is State.NEGOTIATING:
            handler = self.setup.handler(stream)
            if handler is not None:
                return handler
        elif stream.unidirectional and stream not in held.streams:
            return _UniStream(self)
        elif self.state is State.ESTABLISHED:
            self.spend()
            return IncomingRequest(self, self.serving)
        held.add(event)
        return None


class _UniStream(Handler):
    """A unidirectional stream of the peer until its first message: a group, or SETUP."""

    def __init__(self, session: LiteSession) -> None:
        self._session = session
        self._decoder = UniDecoder(session.version, session.limits.frame, session.limits.message)

    def on_data(self, stream: Stream, data: bytes, *, fin: bool) -> None:
        self._decoder.arrival = self._session.now
        items = list(self._decoder.feed(data))
        header = items.pop(0) if items else None
        if isinstance(header, GroupHeader):
            frames = self._decoder.frames
            assert frames is not None
            group = self._session.requests.begin_group(stream, header, frames)
            if group is not None:
                group.add(cast("list[FrameHeader | bytes]", items), fin=fin)
            return
        if fin:
            self._decoder.end()
        if isinstance(header, Setup):
            self._session.setup.on_peer_setup(header)
