"""The owner of a fuzzed session, of any transport: operates on its streams as the input says, and keeps a few."""

from __future__ import annotations

from typing import Any

from fuzz.source import Source
from relay.transport.session import Event, SessionClosed, Stream, StreamData

STREAMS_KEPT = 64


class Owner:
    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.session: Any = None
        self.ended = False

    def begin(self, session: Any) -> Any:
        self.session = session
        session.start(self.on_events)
        return session

    def on_events(self, events: tuple[Event, ...]) -> None:
        for event in events:
            assert not self.ended, f"{event} after the end"
            if isinstance(event, SessionClosed):
                self.ended = True
            elif isinstance(event, StreamData) and len(self.streams) < STREAMS_KEPT:
                self.streams[event.stream.id] = event.stream

    def act(self, source: Source) -> None:
        streams = tuple(self.streams.values())
        what = source.byte() % 6
        if self.session is None:
            return
        if what == 0 or not streams:
            stream: Stream = (
                self.session.open_uni(source.byte()) if source.flag() else self.session.open_bidi()
            )
            stream.write((source.chunk(),), fin=source.flag())
            if len(streams) < STREAMS_KEPT:
                self.streams[-1 - len(streams)] = stream
            return
        stream = source.pick(streams)
        match what:
            case 1:
                stream.write((bytes(source.byte() * 16),), fin=source.flag())
            case 2:
                stream.reset(source.number())
            case 3:
                stream.stop(source.number())
            case 4:
                stream.prioritize(source.byte())
            case _:
                self.session.ping()
                self.session.send_datagram(source.chunk())
