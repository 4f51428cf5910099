"""The scenarios, and rows of them along which something grows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


class Kind(Enum):
    """It determines the results."""

    STREAM = "stream"
    BULK = "bulk"
    IDLE = "idle"
    CONNECT = "connect"
    LATE = "late"


@dataclass(frozen=True)
class Scenario:
    """One load. Sizes in bytes, times in seconds."""

    name: str
    kind: Kind
    title: str
    viewers: int = 1
    tracks: int = 1
    fps: float = 30.0
    frame_size: int = 8300
    group: int = 60
    """Frames in a group."""
    count: int = 0
    """Connections or joins."""
    concurrent: bool = False
    stalled: bool = False
    """With two more viewers: one does not read, the other hardly."""
    warm_up: float = 1.5
    duration: float = 4.0
    series: str | None = None
    """Its row."""
    x: float = 0
    """Its value in the row."""

    @property
    def mbit(self) -> float:
        """Payload for one viewer, Mbit/s."""
        return self.fps * self.tracks * self.frame_size * 8 / 1e6


@dataclass(frozen=True)
class Series:
    name: str
    title: str
    axis: str
    scenarios: tuple[Scenario, ...]


def _viewers(count: int) -> str:
    return f"{count} viewer" if count == 1 else f"{count} viewers"


def _video(viewers: int) -> Scenario:
    title = "video, 30 frames/s of 8.3 kB"
    return Scenario(f"video-{viewers}", Kind.STREAM, f"{title}, {_viewers(viewers)}", viewers=viewers)


def _audio(viewers: int) -> Scenario:
    title = f"audio, 50 groups/s of one frame of 160 B, {_viewers(viewers)}"
    return Scenario(
        f"audio-{viewers}", Kind.STREAM, title, viewers=viewers, fps=50.0, frame_size=160, group=1
    )


def _idle(viewers: int) -> Scenario:
    title = f"idle, {viewers} viewers of a track without frames"
    return Scenario(f"idle-{viewers}", Kind.IDLE, title, viewers=viewers, duration=3.0)


def _connect(count: int, *, concurrent: bool) -> Scenario:
    how = "all at once" if concurrent else "one after the other"
    return Scenario(
        f"connect-{'concurrent' if concurrent else 'sequential'}",
        Kind.CONNECT,
        f"{count} connects, {how}",
        count=count,
        concurrent=concurrent,
    )


STANDARD = (
    *(_video(viewers) for viewers in (1, 10, 25, 50, 100)),
    *(_audio(viewers) for viewers in (10, 50)),
    Scenario(
        "bulk", Kind.BULK, "bulk, frames of 100 kB one to one, as fast as it goes", frame_size=100_000, group=10,
        warm_up=1.0,
    ),
    _idle(200),
    _connect(100, concurrent=False),
    _connect(100, concurrent=True),
    Scenario("late-join", Kind.LATE, "late join, into a running group of 2 s", count=8, warm_up=2.5),
)  # fmt: skip


def _row(series: str, x: float, scenario: Scenario) -> Scenario:
    return replace(scenario, name=f"{series}={x:g}", series=series, x=x)


SERIES = (
    Series(
        "viewers",
        "Cost by number of viewers",
        "viewers of one track, 30 frames/s of 8.3 kB",
        tuple(_row("viewers", n, _video(n)) for n in (1, 2, 5, 10, 25, 50, 100, 200)),
    ),
    Series(
        "tracks",
        "Cost by number of tracks",
        "tracks that each of 10 viewers watches, 10 frames/s of 2 kB each",
        tuple(
            _row(
                "tracks",
                n,
                Scenario(
                    "",
                    Kind.STREAM,
                    f"10 viewers of {n} {'track' if n == 1 else 'tracks'}",
                    viewers=10,
                    tracks=n,
                    fps=10.0,
                    frame_size=2000,
                    group=20,
                ),
            )
            for n in (1, 5, 20)
        ),
    ),
    Series(
        "size",
        "Cost by size of frames",
        "bytes of a frame, 10 viewers, 10 frames/s",
        tuple(
            _row(
                "size",
                size,
                Scenario(
                    "",
                    Kind.STREAM,
                    f"frames of {size} B, 10 viewers",
                    viewers=10,
                    fps=10.0,
                    frame_size=size,
                    group=20,
                ),
            )
            for size in (200, 1000, 8000, 100_000)
        ),
    ),
)

GROWTH = tuple(scenario for series in SERIES for scenario in series.scenarios)
EVERYTHING = {scenario.name: scenario for scenario in (*STANDARD, *GROWTH)}

SETS = {
    "short": (
        *(
            EVERYTHING[name]
            for name in (
                "video-1",
                "video-10",
                "video-50",
                "audio-10",
                "bulk",
                "connect-sequential",
                "late-join",
            )
        ),
        _idle(50),
    ),
    "standard": STANDARD,
    "growth": GROWTH,
    "stalled": (
        replace(_video(20), duration=15.0),
        replace(
            _video(20),
            name="stalled-20",
            title="the same, beside one viewer that does not read and one that hardly does",
            stalled=True,
            duration=15.0,
        ),
    ),
    **{series.name: series.scenarios for series in SERIES},
}
EVERYTHING |= {scenario.name: scenario for name in ("short", "stalled") for scenario in SETS[name]}


class UnknownScenarioError(ValueError):
    pass


def chosen(names: list[str]) -> list[Scenario]:
    """By names or sets, each once, in order."""
    found: dict[str, Scenario] = {}
    for name in names:
        if name in SETS:
            found |= {scenario.name: scenario for scenario in SETS[name]}
        elif name in EVERYTHING:
            found[name] = EVERYTHING[name]
        else:
            known = ", ".join([*SETS, *EVERYTHING])
            raise UnknownScenarioError(f"no scenario or set is called {name}; there are {known}")
    return list(found.values())
