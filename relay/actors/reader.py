"""The reader actor: reads the newest group of one track for someone who is not a session, such as an HTTP request.

It subscribes like a connection does, and passes on the first group it is given, as chunks of payload.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from relay.actors import messages as m
from relay.actors.runtime import LoopActor, Ref, send
from relay.model.track import Dialect, Interest
from relay.wire.errors import StreamCode


class Chunk(NamedTuple):
    """Payload of the group; `last` if the group is complete with it."""

    data: bytes
    last: bool


class NoGroup(NamedTuple):
    """There is none, or it broke off: `code` is the stream code, `None` if the track ended without a group."""

    code: int | None


Sink: TypeAlias = Callable[[Chunk | NoGroup], None]

KEY = 1


class ReaderActor(LoopActor):
    """Reads one group, then ends. Stop it to read no further."""

    def __init__(self, *, origin: Ref, number: int, path: str, track: str, sink: Sink) -> None:
        super().__init__()
        self._origin = origin
        self._number = number
        self._path = path
        self._name = track
        self._sink = sink
        self._track: Ref | None = None
        self._sequence: int | None = None

    def __str__(self) -> str:
        return f"reader {self._path} {self._name}"

    def on_start(self) -> None:
        message = m.Subscribe(
            path=self._path,
            track=self._name,
            subscriber=self.actor_ref,
            session=self._number,
            key=KEY,
            dialect=Dialect.RAW,
            interest=Interest(),
            exclude=0,
        )
        if not send(self._origin, message):
            self._finish(NoGroup(StreamCode.UNROUTABLE))

    def on_receive(self, message: object) -> object:
        match message:
            case m.Deliver():
                for piece in message.pieces:
                    self._on_piece(piece)
            case m.Accepted():
                self._track = message.track
            case m.Refused():
                self._finish(NoGroup(message.code))
            case m.Ended():
                self._finish(NoGroup(None))
            case m.DeliverDatagram():
                """A datagram is no part of a group stream."""
            case _:
                return super().on_receive(message)
        return None

    def on_end(self, error: BaseException | None) -> None:
        if self._track is not None:
            send(self._track, m.Leave(self.actor_ref, KEY))
        if error is not None:
            self._sink(NoGroup(StreamCode.INTERNAL))

    def _on_piece(self, piece: m.GroupPiece) -> None:
        if self._sequence is None:
            self._sequence = piece.sequence
        if piece.sequence != self._sequence or self.actor_stopped.is_set():
            return
        if piece.code is not None:
            self._finish(NoGroup(piece.code))
        elif piece.chunks or piece.fin:
            self._sink(Chunk(b"".join(piece.chunks), piece.fin))
            if piece.fin:
                self.stop()

    def _finish(self, outcome: NoGroup) -> None:
        self._sink(outcome)
        self.stop()
