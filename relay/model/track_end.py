"""How a track ends: the end that its publisher announced, and the groups that are late.

Streams overtake each other and packets are lost, so the end may arrive before the last groups. Called by track actors;
timers are theirs.
"""

from __future__ import annotations

from enum import IntEnum

from relay.model.numbering import MAX_SEQUENCE

LATE_AT_LEAST = 1.0
"""Seconds for which a late group is waited for, at least: a loss or two, or a publisher short of time."""


class Phase(IntEnum):
    """The life of a track, in order."""

    RUNNING = 0
    ENDING = 1
    """The publisher has announced the end."""
    ENDED = 2
    """Nothing more can come, and subscribers know the end."""
    FAILED = 3
    """The publisher rejected or aborted it."""
    LOST = 4
    """The publisher is gone: subscribers may ask again."""


class TrackEnd:
    """The end of one track."""

    __slots__ = ("code", "final", "late", "numbered", "patience", "phase")

    def __init__(self) -> None:
        self.phase = Phase.RUNNING
        self.final = 0
        """From `ENDING` on: the first sequence that will never come."""
        self.numbered = False
        """The publisher named `final`."""
        self.late = False
        """Groups before `final` are still waited for."""
        self.patience = LATE_AT_LEAST
        """Seconds for which they are."""
        self.code = 0
        """Stream code of a failure."""

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
        """Nothing more can come."""
        self.phase = Phase.ENDED
        self.final = min(max(self.final, 0 if latest is None else latest + 1), MAX_SEQUENCE)

    def fail(self, code: int, *, lost: bool) -> None:
        """The publisher cannot serve the track, or no longer can."""
        self.phase = Phase.LOST if lost else Phase.FAILED
        self.code = code
