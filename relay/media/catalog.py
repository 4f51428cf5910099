"""The hang catalog: the JSON of the track `catalog.json` that names the media tracks of a broadcast.

`moq-publish` writes it, `moq-watch` reads it, also from other publishers. A group holds the whole catalog, and then
perhaps changes to it, each a JSON merge patch (RFC 7396).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

TRACK: Final = "catalog.json"

CATALOG_PRIORITY: Final = 100
PRIORITIES: Final = {"audio": 80, "video": 60}
"""Of the tracks, as other hang publishers have them; higher ones are sent first."""

LEGACY: Final = "legacy"
CMAF: Final = "cmaf"
LOC: Final = "loc"


@dataclass(frozen=True, slots=True)
class Rendition:
    """One media track. Numbers are zero where they are unknown."""

    kind: str
    """`video` or `audio`"""

    track: str
    codec: str
    """as WebCodecs writes it"""

    container: str = LEGACY
    init: bytes = b""
    """ftyp and moov of CMAF"""

    description: bytes | None = None
    width: int = 0
    height: int = 0
    framerate: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    bitrate: int = 0
    """bits a second"""

    jitter: float = 0.0
    """seconds that a frame may come after its time of presentation"""

    broadcast: str = ""
    """the broadcast of the track, relative to the catalog's; empty for the same one"""

    def entry(self) -> dict[str, Any]:
        """The JSON object of this rendition."""
        found: dict[str, Any] = {"codec": self.codec, "container": {"kind": self.container}}
        if self.init:
            found["container"]["init"] = base64.b64encode(self.init).decode()
        if self.description is not None:
            found["description"] = self.description.hex()
        if self.kind == "video":
            numbers: dict[str, float] = {
                "codedWidth": self.width,
                "codedHeight": self.height,
                "framerate": self.framerate,
            }
        else:
            numbers = {"sampleRate": self.sample_rate, "numberOfChannels": self.channels}
        numbers |= {"bitrate": self.bitrate, "jitter": round(1000 * self.jitter)}
        return found | {name: number for name, number in numbers.items() if number}


def encode(renditions: Iterable[Rendition]) -> bytes:
    """The catalog of `renditions`."""
    sections: dict[str, Any] = {}
    for rendition in renditions:
        section = sections.setdefault(rendition.kind, {"renditions": {}})
        section["renditions"][rendition.track] = rendition.entry()
    return json.dumps(sections, separators=(",", ":")).encode()
