"""Durations as an operator writes them: `"10s"`, `"500ms"`, `"1m30s"`."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3_600.0,
    "d": 86_400.0,
}
_PART: Final = re.compile(r"(\d{1,12}(?:\.\d{1,9})?) ?([a-z]+)", re.ASCII)
_WHOLE: Final = re.compile(rf"(?:{_PART.pattern} ?)+", re.ASCII)

WANTED: Final = 'expected a number of seconds, or a duration such as "10s", "500ms" or "1m30s"'


def seconds(text: str) -> float:
    """`"0"` is none. ValueError says what would be right."""
    text = text.strip()
    if text == "0":
        return 0.0
    parts = (
        _PART.findall(text)
        if len(text) <= len("1234567890d 12h 30m 15s 100ms") and _WHOLE.fullmatch(text)
        else []
    )
    if not parts or any(unit not in _UNITS for _, unit in parts):
        raise ValueError(WANTED)
    # rounded to nanoseconds, which binary fractions miss
    return round(sum(float(number) * _UNITS[unit] for number, unit in parts), 9)
