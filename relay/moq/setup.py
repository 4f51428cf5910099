"""What dialects share: options, and events held until the set-up is complete."""

from __future__ import annotations

from dataclasses import dataclass

from relay.transport.session import Event, Stream, StreamData
from relay.wire.errors import ProtocolViolation
from relay.wire.setup import SetupForm

HELD_BYTES = 262_144  # bytes from a peer before admission

EVENT_COST = 64
"""Bytes besides the data."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a session introduces itself; the defaults are a relay's."""

    role: int | None = None
    cost: int | None = None
    probe: int | None = None
    target: str | None = None
    """Path and query for a transport without a URL, in place of the dialled ones."""

    authority: str | None = None
    token: str | None = None
    """The token for moq-transport's SETUP; moq-lite has it in the URL alone."""

    form: SetupForm | None = None
    """The form of the older SETUP; `None` takes what servers of the peer's generation know."""

    waits_for_setup: bool = True
    """Hold the peer's requests until its hop id is known, where the version has routes to exclude (06)."""


class Held:
    """Events from before the end of the set-up."""

    __slots__ = ("_bytes", "events", "streams")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.streams: set[Stream] = set()
        self._bytes = 0

    def add(self, event: Event) -> None:
        """Raises ProtocolViolation above `HELD_BYTES`."""
        self.events.append(event)
        self._bytes += EVENT_COST
        if isinstance(event, StreamData):
            self.streams.add(event.stream)
            self._bytes += len(event.data)
        if self._bytes > HELD_BYTES:
            raise ProtocolViolation("too much before SETUP")

    def take(self) -> list[Event]:
        events, self.events = self.events, []
        self.streams.clear()
        return events
