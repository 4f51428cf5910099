"""Standard streams of a command that may be closed, full, or a pipe without a reader."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO


def open_closed_streams() -> None:
    """Open the null device for each closed standard stream (`2>&-`, as some init systems do).

    Else the next socket would get its number, and all that libraries write to it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # the lowest free number is the stream's, unless it is taken
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), mode))  # noqa: PTH123, SIM115 - open for good


def write(text: str) -> None:
    """Print at once. Raises OSError, such as BrokenPipeError; then output is closed."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError:
        give_up(sys.stdout)
        raise


def put(text: str) -> str | None:
    """Print, and return the reason of a failure; a closed pipe is none."""
    try:
        write(text)
    except BrokenPipeError:
        return None
    except OSError as error:
        return f"standard output: {error.strerror or error}"
    return None


def printable(text: str) -> str:
    """Replace control characters of untrusted text, which could drive a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def say(text: str) -> None:
    """Print to standard error, if possible."""
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except OSError:
        give_up(sys.stderr)


def give_up(stream: TextIO) -> None:
    """Redirect to the null device: Python would report the error again when it flushes at exit."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
