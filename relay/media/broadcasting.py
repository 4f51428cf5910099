"""Writes samples into the tracks of a broadcast: a group for each key frame, short groups of sound, and the catalog."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from relay.media import catalog, legacy, mp4
from relay.media.catalog import CATALOG_PRIORITY, PRIORITIES, Rendition
from relay.media.source import Sample

SOUND_GROUP: Final = 100_000
"""Microseconds of sound in a group: few frames are lost with one, and a stream for each frame would cost more."""

KEPT: Final = {"video": 2, "audio": 20}
"""Groups held for late viewers: the picture's current group and the one before, two seconds of sound."""

TIMESCALE: Final = 1_000_000


class Group(Protocol):
    """An open group of a track."""

    def write(self, payload: bytes, timestamp: int | None = None) -> None: ...

    def finish(self) -> None: ...


class Track(Protocol):
    """A track that frames can be written to."""

    @property
    def subscribers(self) -> int: ...

    def group(self) -> Group: ...

    def finish(self) -> None: ...


class Offer(Protocol):
    """A broadcast that tracks can be added to."""

    def track(
        self, name: str, priority: int = ..., latency_ms: int = ..., timescale: int = ..., *, keep: int = ...
    ) -> Track: ...


class Broadcast:
    """The tracks of one broadcast in one session."""

    def __init__(self, offer: Offer, renditions: Iterable[Rendition]) -> None:
        self._offer = offer
        self._catalog = offer.track(catalog.TRACK, CATALOG_PRIORITY, keep=1)
        self._tracks: dict[str, Track] = {}
        self._groups: dict[str, Group] = {}
        self._begun: dict[str, int] = {}  # time of the first frame of each open group
        self._fragments: dict[str, int] = {}  # number of the latest, of tracks in CMAF
        self.describe(renditions)

    def describe(self, renditions: Iterable[Rendition]) -> None:
        """Publish the catalog, at first and when it changes. Open groups end: a decoder starts anew."""
        for rendition in renditions:
            kind = rendition.kind
            if kind not in self._tracks:
                priority, keep = PRIORITIES[kind], KEPT[kind]
                if rendition.container == catalog.CMAF:
                    self._fragments[kind] = 1
                self._tracks[kind] = self._offer.track(
                    rendition.track, priority, timescale=TIMESCALE, keep=keep
                )
        self.end_groups()
        group = self._catalog.group()
        group.write(catalog.encode(renditions))
        group.finish()

    def write(self, sample: Sample, offset: int) -> None:
        """Write a sample, `offset` microseconds after its own time. Pictures before the first key frame are left out."""
        kind, time = sample.kind, sample.time + offset
        group = self._groups.get(kind)
        if sample.key and (group is None or kind == "video" or time - self._begun[kind] >= SOUND_GROUP):
            if group is not None:
                group.finish()
            group = self._groups[kind] = self._tracks[kind].group()
            self._begun[kind] = time
        if group is not None:
            group.write(self._packed(sample, offset), time)

    def _packed(self, sample: Sample, offset: int) -> bytes:
        """A sample in the container of its track."""
        time = sample.time + offset
        number = self._fragments.get(sample.kind)
        if number is None:
            return legacy.encode(time, sample.data)
        self._fragments[sample.kind] = number + 1
        due = max(0, sample.due + offset)
        return mp4.fragment(number, due, time - due, sample.duration, sample.data, key=sample.key)

    def end_groups(self) -> None:
        """Finish the open groups: the next frames begin new ones."""
        for group in self._groups.values():
            group.finish()
        self._groups.clear()

    def finish(self) -> None:
        """End all tracks."""
        self.end_groups()
        for track in (*self._tracks.values(), self._catalog):
            track.finish()

    @property
    def watched(self) -> list[str]:
        """Kinds of media that are subscribed to."""
        return [kind for kind, track in self._tracks.items() if track.subscribers]
