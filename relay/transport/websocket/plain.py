"""The framing `webtransport` of the 0.9.3 generation: a frame per message, no flow control, no datagrams."""

from __future__ import annotations

from relay.transport.websocket.session import Framing
from relay.transport.websocket.stream import FramedStream
from relay.wire.qmux import Close, ResetStream, StopSending, StreamFrame
from relay.wire.websocket import decode_plain, plain_close, plain_reset, plain_stop, plain_stream_header


class PlainFraming(Framing):
    """The framing `webtransport`."""

    def handle(self, message: bytes) -> None:
        match decode_plain(message):
            case StreamFrame() as frame:
                self._streams.on_stream(frame)
            case ResetStream() as frame:
                self._streams.on_reset(frame)
            case StopSending() as frame:
                self._streams.on_stop(frame)
            case Close() as frame:
                self.on_close(frame)

    def stream_header(self, stream: FramedStream, size: int, *, fin: bool) -> bytes:  # noqa: ARG002
        return plain_stream_header(stream.id, fin=fin)

    def reset_frame(self, stream: FramedStream, code: int) -> bytes:
        return plain_reset(stream.id, code)

    def stop_frame(self, stream: FramedStream, code: int) -> bytes:
        return plain_stop(stream.id, code)

    def close_frame(self, code: int, reason: str, *, application: bool) -> bytes:  # noqa: ARG002
        return plain_close(code, reason)
