"""How a track ends: the announced end, and late groups. Called by track actors, which own the timers.

Streams overtake each other and packets are lost: the end may arrive before the last groups.
"""

from __future__ import annotations

from enum import IntEnum

from relay.model.numbering import MAX_SEQUENCE

LATE_AT_LEAST = 1.0  # least seconds to wait for a late group: a loss or two, or a slow publisher


class Phase(IntEnum):
    """The life of a track, in order."""

    RUNNING = 0
    ENDING = 1  # the publisher has announced the end
    ENDED = 2  # nothing more can come, and subscribers know the end
    FAILED = 3  # the publisher rejected or aborted it
    LOST = 4  # the publisher is gone: subscribers may ask again


class TrackEnd:
    """The end of one track."""

    __slots__ = ("code", "final", "late", "numbered", "patience", "phase")

    def __init__(self) -> None:
        self.phase = Phase.RUNNING
        self.final = 0  # from `ENDING` on: the first sequence that will never come
        self.numbered = False  # the publisher named `final`
        self.late = False  # groups before `final` are still waited for
        self.patience = LATE_AT_LEAST  # seconds to wait for them
        self.code = 0  # stream code of a failure

    @property
    def failed(self) -> bool:
        """Requests are refused."""
        return self.phase >= Phase.FAILED

    def announce(self, final: int | None, latest: int | None) -> None:
        """The publisher announced the end; `final` is `None` if it named no number. `latest` is the highest so far."""
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
        """The publisher cannot serve the track, or no longer can."""
        self.phase = Phase.LOST if lost else Phase.FAILED
        self.code = code
