"""Times and durations on the command line. `now` is in seconds since the epoch."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

FIRST: Final = 1_000_000_000  # September 2001; a smaller number is a duration without its unit

LAST: Final = 253_402_300_799  # the end of the year 9999, the last one of other languages

MILLISECONDS: Final = 100_000_000_000  # the year 5138; larger numbers are milliseconds, as in JavaScript

FORMS: Final = (
    "want a duration from now such as 90s, 15m, 1h30m, 7d or 2w, a time such as 2026-12-31T23:59:59Z, "
    "or seconds since 1970"
)

_UNITS: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_SPAN: Final = re.compile("".join(rf"(?:(\d{{1,9}}){unit})?" for unit in _UNITS), re.ASCII)
_NAMES: Final = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}


def moment_of(text: str, now: float) -> int:
    """Seconds since the epoch for a duration from `now`, a time in ISO 8601 (UTC by default), or such seconds.

    ValueError says what would be right.
    """
    text = text.strip()
    span = _SPAN.fullmatch(text)
    if text.isascii() and text.isdigit():
        moment = _timestamp(text)
    elif text and span:
        moment = int(now) + sum(
            int(count) * unit for count, unit in zip(span.groups("0"), _UNITS.values(), strict=True)
        )
    else:
        try:
            found = datetime.fromisoformat(text)
            moment = int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
        except (ValueError, OverflowError):
            raise ValueError(FORMS) from None
    if not FIRST <= moment <= LAST:
        raise ValueError("want a time between the years 2001 and 9999")
    return moment


def _timestamp(digits: str) -> int:
    if len(digits) > len("1700000000000000"):
        raise ValueError(FORMS)
    moment = int(digits)
    if moment < FIRST:
        raise ValueError(f"{digits} is a moment in {in_utc(moment)[:4]}, for a duration write {digits}s")
    if moment >= MILLISECONDS:
        raise ValueError(f"{digits} counts milliseconds, want seconds: {moment // 1_000}")
    return moment


def in_utc(moment: float) -> str:
    """A time for people, in UTC."""
    try:
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        # a token may hold any number
        return f"{moment:.0f} seconds after 1970"


def in_words(seconds: float) -> str:
    """A duration in its two largest units: `1 hour and 30 minutes`."""
    rest = max(int(seconds), 0)
    parts = []
    for name, unit in _NAMES.items():
        count, rest = divmod(rest, unit)
        if count:
            parts.append(f"{count} {name}{'' if count == 1 else 's'}")
        elif parts:
            break
    return " and ".join(parts[:2]) or "less than a second"
