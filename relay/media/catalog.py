"""The hang catalog: the JSON of the track `catalog.json` that names the media tracks of a broadcast.

`moq-publish` writes it, `moq-watch` reads it, also from other publishers. A group holds the whole catalog, and then
perhaps changes to it, each a JSON merge patch (RFC 7396).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from relay.media.errors import MediaError

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


class Reader:
    """The catalog as its group goes on: the whole of it first, and then changes."""

    def __init__(self) -> None:
        self._value: Any = None

    def add(self, frame: bytes, *, first: bool) -> tuple[Rendition, ...]:
        """The renditions after the next frame of a group; MediaError if it is no catalog."""
        try:
            value = json.loads(frame)
        except ValueError as error:
            raise MediaError("the catalog is no JSON") from error
        self._value = value if first else merged(self._value, value)
        if not isinstance(self._value, dict):
            raise MediaError("the catalog is no JSON object")
        return tuple(found for kind in ("video", "audio") for found in _section(kind, self._value.get(kind)))


def merged(value: Any, patch: Any) -> Any:
    """`value` after a JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for name, change in patch.items():
        if change is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), change)
    return result


def _section(kind: str, section: Any) -> Iterable[Rendition]:
    if isinstance(section, list):  # as older publishers have it
        entries = [
            (item["track"].get("name"), item.get("config"))
            for item in section
            if isinstance(item, dict) and isinstance(item.get("track"), dict)
        ]
    elif isinstance(section, dict) and isinstance(section.get("renditions"), dict):
        entries = list(section["renditions"].items())
    else:
        return
    for track, entry in entries:
        if isinstance(track, str) and isinstance(entry, dict) and isinstance(entry.get("codec"), str):
            yield _rendition(kind, track, entry)


def _rendition(kind: str, track: str, entry: dict[str, Any]) -> Rendition:
    container = entry.get("container", LEGACY)
    init = container.get("init") if isinstance(container, dict) else None
    if isinstance(container, dict):
        container = container.get("kind")
    description = entry.get("description")
    try:
        return Rendition(
            kind=kind,
            track=track,
            codec=entry["codec"],
            container=str(container),
            init=base64.b64decode(init, validate=True) if isinstance(init, str) else b"",
            description=bytes.fromhex(description) if isinstance(description, str) else None,
            width=int(_number(entry, "codedWidth")),
            height=int(_number(entry, "codedHeight")),
            framerate=_number(entry, "framerate"),
            sample_rate=int(_number(entry, "sampleRate")),
            channels=int(_number(entry, "numberOfChannels")),
            bitrate=int(_number(entry, "bitrate")),
            jitter=_number(entry, "jitter") / 1000,
            broadcast=entry["broadcast"] if isinstance(entry.get("broadcast"), str) else "",
        )
    except (ValueError, binascii.Error) as error:
        raise MediaError(f"the catalog's entry of {track} is broken: {error}") from error


def _number(entry: dict[str, Any], name: str) -> float:
    value = entry.get(name)
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1 << 32
    return value if good else 0  # type: ignore[return-value] # mypy does not follow `good`


def best(renditions: Iterable[Rendition], kind: str) -> Rendition | None:
    """The largest picture, or the sound of the highest rate, of those whose container can be read; None without any."""
    usable = [found for found in renditions if found.kind == kind and found.container in (LEGACY, CMAF, LOC)]
    return max(usable, key=lambda found: (found.width * found.height, found.bitrate), default=None)


def broadcast_of(catalog: str, rendition: Rendition) -> str:
    """The broadcast that has the track of a rendition, of the catalog of the broadcast `catalog`.

    A reference replaces the last part of the path, as in relative URLs. MediaError if it leads out of the root.
    """
    if not rendition.broadcast:
        return catalog
    parts = catalog.split("/")[:-1]
    for part in rendition.broadcast.split("/"):
        if part == "..":
            if not parts:
                raise MediaError(
                    f"the catalog's entry of {rendition.track} refers to a broadcast outside of the root"
                )
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)
