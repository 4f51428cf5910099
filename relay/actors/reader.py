"""Reads frames of one track for an HTTP request.

It ends with the newest or the requested group or, following, with the track.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from relay.actors import messages as m
from relay.actors.runtime import LoopActor, Ref, Timer, send
from relay.model.failover import Failover
from relay.model.track import SubscribeParams
from relay.moq.encoding import Encoding
from relay.runtime import Runtime
from relay.wire.errors import StreamCode


class Over(NamedTuple):
    """Stream code of a refusal or abort, `None` at the end of the track."""

    code: int | None
    ours: bool = False  # this relay ended it, not the publisher or its absence


Sink: TypeAlias = Callable[[m.GroupFragment | Over], None]

KEY = 1


@dataclass(frozen=True, slots=True)
class Reading:
    """The track to read, and how much of it."""

    path: str
    track: str
    group: int | None = None  # a sequence; `None`: the newest
    follow: bool = False  # read on until the track ends
    otherwise: tuple[tuple[str, str], ...] = ()
    """Each with its track there: the longest announced path is read."""
    wait: float = 0.0  # seconds to wait for an announcement


class AskAgain(NamedTuple):
    """Timer: look for another publisher."""


class WaitOver(NamedTuple):
    """Timer: no announcement in time."""


class ReaderActor(LoopActor):
    """Stops when it has read everything."""

    def __init__(self, runtime: Runtime, *, origin: Ref, number: int, reading: Reading, sink: Sink) -> None:
        super().__init__(runtime)
        self._clock = self.runtime.now
        self._origin = origin
        self._number = number
        self._reading = reading
        self._path, self._track_name = reading.path, reading.track
        self._waiting: Timer | None = None
        self._sink = sink
        self._track: Ref | None = None
        self._sequence = reading.group
        self._failover = Failover()
        self._done = False

    def __str__(self) -> str:
        return f"reader {self._path} {self._track_name}"

    def on_start(self) -> None:
        reading = self._reading
        if not reading.otherwise and not reading.wait:
            self._ask(reading.group)
            return
        paths = (reading.path, *(path for path, _ in reading.otherwise))
        if not send(self._origin, m.Find(paths, self.actor_ref, KEY, wait=reading.wait > 0)):
            self._finish(StreamCode.UNROUTABLE)
        elif reading.wait:
            self._waiting = self.call_later(reading.wait, WaitOver())

    def _on_found(self, path: str | None) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        if path is None:
            self._finish(StreamCode.UNROUTABLE)
            return
        self._path = path
        self._track_name = dict(self._reading.otherwise).get(path, self._reading.track)
        self._ask(self._reading.group)

    def _ask(self, group: int | None) -> None:
        reading = self._reading
        fetch = reading.group is not None and not reading.follow
        message: m.Fetch | m.Subscribe = (m.Fetch if fetch else m.Subscribe)(
            path=self._path,
            track=self._track_name,
            subscriber=self.actor_ref,
            session=self._number,
            key=KEY,
            encoding=Encoding.FRAMES,
            params=SubscribeParams(start_group=group),
            exclude=0,
        )
        if isinstance(message, m.Subscribe):
            message = message._replace(floor=self._failover.next)
        if not send(self._origin, message):
            self._finish(StreamCode.UNROUTABLE)

    def on_receive(self, message: object) -> object:  # noqa: C901, PLR0912 - one line per message
        match message:
            case m.Deliver():
                for fragment in self._failover.take(message.fragments):
                    self._failover.passed(fragment.sequence)
                    self._on_fragment(fragment)
            case m.FetchData():
                self._on_fragment(message.part)
            case m.Found():
                self._on_found(message.path)
            case WaitOver():
                if self._waiting is not None:
                    self._finish(StreamCode.UNROUTABLE)
            case m.Accepted():
                self._track = message.track
                self._failover.accepted()
            case AskAgain():
                self._ask(None)
            case m.Refused():
                self._finish(message.code if self._failover.code is None else self._failover.code)
            case m.PublisherLost():
                self._on_lost(message.code)
            case m.Ended():
                self._finish(None)
            case m.DeliverDatagram():
                pass
            case _:
                return super().on_receive(message)
        return None

    def on_end(self, error: BaseException | None) -> None:
        send(self._origin if self._track is None else self._track, m.Unsubscribe(self.actor_ref, KEY))
        if error is not None and not self._done:
            self._sink(Over(StreamCode.INTERNAL, ours=True))

    def on_dead_letter(self, message: object) -> None:
        if isinstance(message, m.Accepted):
            send(message.track, m.Unsubscribe(self.actor_ref, KEY))

    def _on_lost(self, code: int) -> None:
        self._track = None
        delay = self._failover.lost(code, self._clock()) if self._reading.follow else None
        if delay is None:
            self._finish(code)
        elif delay:
            self.call_later(delay, AskAgain())
        else:
            self._ask(None)

    def _on_fragment(self, fragment: m.GroupFragment) -> None:
        if self._done:
            return
        if self._reading.follow:
            self._sink(fragment)
            return
        if self._sequence is None:
            self._sequence = fragment.sequence
        if fragment.sequence != self._sequence:
            return
        if fragment.code is not None:
            self._finish(fragment.code)
            return
        self._sink(fragment)
        if fragment.fin:
            self._done = True
            self.stop()

    def _finish(self, code: int | None) -> None:
        if not self._done:
            self._done = True
            self._sink(Over(code))
            self.stop()
