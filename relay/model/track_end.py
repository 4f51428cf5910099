"""How a track ends: the announced end, and late groups.

Streams overtake each other and packets get lost: the end may arrive before the last groups.
"""

from __future__ import annotations

from enum import IntEnum

from relay.model.numbering import MAX_SEQUENCE

LATE_AT_LEAST = 1.0  # seconds to wait for a late group: a loss or two, or a slow publisher


class Phase(IntEnum):
    """The life of a track, in order."""

    RUNNING = 0
    ENDING = 1  # the publisher announced the end
    ENDED = 2  # and subscribers know it
    FAILED = 3  # the publisher rejected or aborted it
    LOST = 4  # the publisher is gone: subscribers may ask again


class TrackEnd:
    """The end of one track."""

    __slots__ = ("code", "final", "late", "numbered", "patience", "phase")

    def __init__(self) -> None:
        self.phase = Phase.RUNNING
        self.final = 0  # from `ENDING` on: first sequence that never comes
        self.numbered = False  # the publisher named `final`
        self.late = False  # groups before `final` may come
        self.patience = LATE_AT_LEAST  # seconds
        self.code = 0  # stream code of a failure

    @property
    def failed(self) -> bool:
        return self.phase >= Phase.FAILED

    def state(self, *, subscribed: bool) -> str:
        """The state of the track in words."""
        if self.phase is Phase.RUNNING:
            return "open" if subscribed else "idle"
        return "ending" if self.phase is Phase.ENDING else "ended"

    def announce(self, final: int | None, latest: int | None) -> None:
        """`final`: `None` if the publisher named no number. `latest`: the highest so far."""
        if self.phase is not Phase.RUNNING:
            return
        self.phase = Phase.ENDING
        self.numbered = final is not None
        self.final = final if final is not None else 0 if latest is None else latest + 1
        self.late = final != 0

    def complete(self, latest: int | None) -> None:
        self.phase = Phase.ENDED
        self.final = min(max(self.final, 0 if latest is None else latest + 1), MAX_SEQUENCE)

    def fail(self, code: int, *, lost: bool) -> None:
        self.phase = Phase.LOST if lost else Phase.FAILED
        self.code = code
