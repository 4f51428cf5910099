"""The relay's end of a session, which records every call on its streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from relay.transport.memory import MemorySession
from relay.transport.session import (
    CONTROL_PRIORITY,
    Event,
    SessionStats,
    Sink,
    Stream,
    StreamData,
    StreamReset,
    StreamStopped,
)
from relay.wire.version import Version


class RecordingStream:
    """Records every call, and misuse."""

    def __init__(self, session: RecordingSession, raw: Any) -> None:
        self.raw = raw
        self.id: int = raw.id
        self.unidirectional: bool = raw.unidirectional
        self.opened_by_peer: bool = raw.opened_by_peer
        self.context: Any = None
        self.calls: list[tuple[Any, ...]] = []
        self._session = session
        self._finished = False
        self._reset = False
        raw.context = self

    @property
    def unsent(self) -> int:
        return int(self.raw.unsent)

    @property
    def undelivered(self) -> bool:
        return bool(self.raw.undelivered)

    def write(self, chunks: Sequence[bytes], *, fin: bool = False) -> None:
        self.calls.append(("write", tuple(chunks), fin))
        if self._reset or self._finished:
            self._session.violations.append(f"stream {self.raw.id} written after its end: {self.calls}")
        self._finished = self._finished or fin
        self.raw.write(chunks, fin=fin)

    def prioritize(self, priority: int) -> None:
        self.raw.prioritize(priority)

    def reset(self, code: int) -> None:
        self.calls.append(("reset", code))
        if self._reset:
            self._session.violations.append(f"stream {self.raw.id} reset twice: {self.calls}")
        self._reset = True
        self.raw.reset(code)

    def stop(self, code: int) -> None:
        self.calls.append(("stop", code))
        self.raw.stop(code)


class RecordingSession:
    """Implements `Session`."""

    def __init__(self, raw: MemorySession) -> None:
        self.raw = raw
        self.violations: list[str] = []
        self.streams: list[RecordingStream] = []
        self.closes: list[tuple[int, str]] = []
        self.pings = 0
        self.trusted = False
        self.keep = True
        self._sink: Sink = lambda _: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)  # transport, remote, is_client, version, alpn, path, query

    transport: str
    remote: str
    is_client: bool
    version: Version | None
    alpn: str
    path: str | None
    query: str

    @property
    def datagram_limit(self) -> int:
        return self.raw.datagram_limit

    def start(self, sink: Sink) -> None:
        self._sink = sink
        self.raw.start(self._on_events)

    def _on_events(self, events: tuple[Event, ...]) -> None:
        self._sink(tuple(self._wrapped(event) for event in events))

    def _wrapped(self, event: Event) -> Event:
        if isinstance(event, StreamData | StreamReset | StreamStopped):
            return event._replace(stream=self._wrap(event.stream))
        return event

    def _wrap(self, raw: Any) -> RecordingStream:
        if raw.context is not None:
            return cast("RecordingStream", raw.context)
        stream = RecordingStream(self, raw)
        if self.keep:
            self.streams.append(stream)
        return stream

    def open_bidi(self, priority: int = CONTROL_PRIORITY) -> Stream:
        return self._wrap(self.raw.open_bidi(priority))

    def open_uni(self, priority: int = CONTROL_PRIORITY) -> Stream:
        return self._wrap(self.raw.open_uni(priority))

    def send_datagram(self, data: bytes) -> None:
        self.raw.send_datagram(data)

    def ping(self) -> None:
        self.pings += 1
        self.raw.ping()

    def trust(self) -> None:
        self.trusted = True

    def probe_timeout(self) -> float:
        return self.raw.probe_timeout()

    def close(self, code: int = 0, reason: str = "") -> None:
        self.closes.append((code, reason))
        self.raw.close(code, reason)

    def stats(self) -> SessionStats:
        return self.raw.stats()
