"""Reads the frames of a rendition's track, in any container."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from relay.media import catalog, legacy, loc, mp4
from relay.media.catalog import Rendition
from relay.media.errors import MediaError
from relay.media.form import Mp4Form


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, as MP4 has it. Times are in microseconds; `duration` is zero if it is unknown."""

    kind: str
    time: int
    data: bytes
    key: bool
    duration: int


class Unpacker:
    """The frames of one track, group after group."""

    def __init__(self, rendition: Rendition) -> None:
        """MediaError if its container or its header cannot be read."""
        self._form = Mp4Form(rendition)
        self._defaults: mp4.Defaults | None = None
        if rendition.container == catalog.CMAF:
            self._defaults = mp4.defaults_of(rendition.init)
        elif rendition.container not in (catalog.LEGACY, catalog.LOC):
            raise MediaError(f"{rendition.track}: the container {rendition.container!r} is not known here")

    @property
    def rendition(self) -> Rendition:
        """As the catalog has it, with what the stream told since."""
        return self._form.rendition

    @property
    def header(self) -> bytes | None:
        """Ftyp and moov; None until the first key frame has told what they say."""
        return self.rendition.init or self._form.header

    def frames(self, payload: bytes, *, first: bool) -> Iterator[Frame]:
        """The frames of one frame of the track, `first` in its group. MediaError if it is broken."""
        kind, form = self.rendition.kind, self._form
        if self._defaults is not None:
            for sample in mp4.samples(payload, self._defaults):
                key = sample.key or kind == "audio"
                yield Frame(kind, sample.time, sample.data, key, form.duration(sample.data))
            return
        decode = legacy.decode if self.rendition.container == catalog.LEGACY else loc.decode
        time, data = decode(payload)
        key = first or kind == "audio"
        if data and (data := form.plain(data, key=key)):
            yield Frame(kind, time, data, key, form.duration(data))
