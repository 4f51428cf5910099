"""Loggers of the relay: a line is a fixed phrase and fields, with the context that the logger is bound to.

    log = get_logger("relay.session", session=7)
    log.info("accepted", transport="webtransport", path="/demo")
    [session 7] accepted transport=webtransport path=/demo

Concerns about the configuration are whole sentences: `--check` prints them, too. Lines go through the standard
`logging`, so an embedding program decides where. A record's message is the whole text; formatters also get its
fields. Disabled levels format nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Final, Self

import structlog

FIELDS: Final = "relay_fields"
"""Attribute of a log record: its context, `event` (the phrase) and fields."""

_OUTERMOST_FIRST: Final = ("peer", "session", "broadcast", "track")
"""The subject of a line, before the phrase, bound or not."""

_OF_PEERS: Final = ("path", "broadcast", "track", "prefix", "uri")  # peers choose their length and content

_SHOWN: Final = 200  # characters of such a field

TOKEN: Final = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*")
"""A token of RFC 7515 section 7.1. It starts where its letters do: a search elsewhere is quadratic."""

_AMBIGUOUS: Final = re.compile(r"""[ '"\\]|^$""")


class Seconds(float):
    """A duration: `1.5s` in text, a number in JSON."""

    def __new__(cls, value: float) -> Self:
        return super().__new__(cls, round(value, 3))

    def __str__(self) -> str:
        return f"{self:.1f}s"


class Logger(structlog.BoundLoggerBase):
    """Writes lines with its context."""

    def debug(self, event: str, /, **fields: Any) -> None:
        if self._logger.isEnabledFor(logging.DEBUG):  # saves a call: it is mostly off
            self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """`exc_info`: an exception."""
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: Any) -> None:
        """Write an error with the current exception."""
        self._write(logging.ERROR, event, {"exc_info": True, **fields})

    def log(self, level: int, event: str, /, **fields: Any) -> None:
        self._write(level, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if self._logger.isEnabledFor(level):
            arguments, options = self._process_event("log", event, fields)
            self._logger.log(level, *arguments, **options)


def get_logger(name: str, **context: Any) -> Logger:
    """The standard `logging` logger of that name, bound to `context`."""
    return Logger(logging.getLogger(name), (_as_record,), context)


def loggable(path: str) -> str:
    """Shorten a peer's path, and remove a stray token."""
    shown = TOKEN.sub("<token>", path.encode("utf-8", "backslashreplace").decode())
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}... ({len(path)} characters)"


def _as_record(_logger: object, _method: str, fields: Any) -> tuple[tuple[str], dict[str, Any]]:
    """Keeps our caller as the source line."""
    exc_info = fields.pop("exc_info", None)
    fields |= {key: loggable(fields[key]) for key in _OF_PEERS if key in fields}
    return (_line(fields),), {"exc_info": exc_info, "extra": {FIELDS: fields}, "stacklevel": 3}


def _line(fields: Mapping[str, Any]) -> str:
    shown = {key: _text(value, quoted=key == "reason") for key, value in fields.items() if key != "event"}
    about = {key: shown.pop(key) for key in _OUTERMOST_FIRST if key in shown}
    if "track" in about:
        about["track"] = f"{about.pop('broadcast')} {about['track']}"
    words = [*(f"[{key} {value}]" for key, value in about.items()), fields["event"]]
    return " ".join([*words, *(f"{key}={value}" for key, value in shown.items())])


def _text(value: object, *, quoted: bool) -> str:
    """Quoted if a peer's character could end it or drive a terminal."""
    if value is None:
        return "-"
    text = ",".join(map(str, value)) or "-" if isinstance(value, list | tuple) else str(value)
    return repr(text) if quoted or not text.isprintable() or _AMBIGUOUS.search(text) else text
