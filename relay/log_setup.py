"""Logging set-up of the program: one handler, and the form of its lines.

    2026-03-01T12:00:00.123Z INFO  [session 7] accepted transport=webtransport path=/demo
    {"time": "2026-03-01T12:00:00.123Z", "level": "info", "logger": "relay.session", "session": 7, ...}

Rooms log through `relay.logger`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TextIO

from relay.logger import FIELDS
from relay.model.pace import LogThrottle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

TRACE: Final = 5

LEVELS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "error": logging.ERROR,
        "warn": logging.WARNING,
        "info": logging.INFO,
        "debug": logging.DEBUG,
        "trace": TRACE,
    }
)
"""The words of `[log] level`."""

_NAMES: Final = MappingProxyType({number: word.upper() for word, number in LEVELS.items()})
_COLOURS: Final = MappingProxyType({"ERROR": "31", "WARN": "33", "INFO": "32", "DEBUG": "36", "TRACE": "90"})
_DIM: Final = "90"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Formatter(logging.Formatter):
    """Time in UTC, level, text; then a traceback."""

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as the standard library calls it
        time, level = _time(record), _NAMES.get(record.levelno, record.levelname)
        # libraries quote peers, too: no control character of theirs may start a line or drive a terminal
        text = _CONTROL.sub(_escaped, record.getMessage())
        if record.name.partition(".")[0] != "relay":
            text = f"[{record.name}] {text}"
        return f"{self._paint(_DIM, time)} {self._paint(_COLOURS.get(level), f'{level:<5}')} {text}"

    def _paint(self, colour: str | None, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour and colour else text


class JsonFormatter(Formatter):
    """One object per line. Lines of libraries have their text as the event."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, FIELDS, None) or {"event": record.getMessage()}
        level = _NAMES.get(record.levelno, record.levelname).lower()
        line = {"time": _time(record), "level": level, "logger": record.name, **fields}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, default=str)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


class LibraryThrottle(logging.Filter):
    """A few lines a minute of each place in a library: aioquic, for one, warns of every malformed packet.

    Lines below a warning pass: somebody asked for them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._throttles: dict[tuple[str, int], LogThrottle] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """A passed record reports how many were suppressed before it."""
        if record.levelno < logging.WARNING or record.name.partition(".")[0] == "relay":
            return True
        throttle = self._throttles.setdefault((record.pathname, record.lineno), LogThrottle())
        held_back = throttle.held_back
        if not throttle.passes(record.created):
            return False
        if held_back:
            record.msg, record.args = f"{record.getMessage()} (and {held_back} more like it)", None
            throttle.held_back = 0
        return True


@contextmanager
def warnings_to(say: Callable[[str], None]) -> Iterator[None]:
    """Call `say` with the relay's warnings, as text."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: say(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("relay")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def setup(level: str, form: str = "text", stream: TextIO | None = None) -> None:
    """Log to `stream` (standard error by default) from `level` on, a word of `LEVELS`, as `text` or `json`.

    A second call replaces the first. Libraries log only warnings, a few a minute of each kind, except at level
    trace.
    """
    stream = sys.stderr if stream is None else stream
    number = LEVELS[level]
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler(stream)
    handler.addFilter(LibraryThrottle())
    kind = JsonFormatter if form == "json" else Formatter
    handler.setFormatter(kind(colour=stream.isatty() and not os.environ.get("NO_COLOR")))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, Formatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if number == TRACE else max(number, logging.WARNING))
    logging.getLogger("relay").setLevel(number)
