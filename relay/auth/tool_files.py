"""Files and standard streams of `moq-token`. No message quotes a name that may be a secret."""

from __future__ import annotations

import os.path
import sys
from pathlib import Path

from relay import terminal
from relay.auth.key import LARGEST_FILE, Key, KeyFileError


class Refused(Exception):  # noqa: N818 - it says what happened
    """Ends the command with status 1 and this line."""


class UsageError(Exception):
    """Ends the command with status 2 and this line."""


def read_key(name: str | None) -> Key:
    """Read the key of `--key`."""
    if name is None:
        raise UsageError("want --key FILE, as `moq-token generate --out FILE` writes it")
    try:
        if name != "-":
            return Key.load(_file(name, "--key"))
        return Key.parse(
            read("-", "--key", LARGEST_FILE, "a key").decode("utf-8", "replace"), "standard input"
        )
    except KeyFileError as error:
        raise Refused(str(error)) from None
    except OSError as error:
        raise Refused(f"{name}: {error.strerror}") from None


def _file(name: str, flag: str) -> Path:
    if name.lstrip().startswith(("eyJ", "{")) and not os.path.lexists(name):
        # not quoted: this is a key or a token
        raise UsageError(f"{flag}: want the name of a file, not its content")
    return Path(name)


def read(name: str, flag: str, limit: int, what: str) -> bytes:
    """Read a file, or standard input."""
    try:
        if name != "-":
            with _file(name, flag).open("rb") as stream:
                return stream.read(limit)
        if sys.stdin is None:
            raise Refused(f"standard input is closed, {what} was to come from there")
        if sys.stdin.isatty():
            say(f"reading {what} from standard input, Ctrl-D ends it")
        return sys.stdin.buffer.read(limit)
    except OSError as error:
        raise Refused(f"{'standard input' if name == '-' else name}: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{flag}: this is no name of a file") from None


def put(text: str) -> None:
    """Print at once. Raises BrokenPipeError, or Refused."""
    if sys.stdout is None:
        raise Refused("standard output is closed")
    try:
        terminal.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Refused(f"standard output: {error.strerror}") from None


def say(text: str) -> None:
    """Print to standard error: standard output is for keys and tokens."""
    if sys.stderr is not None:
        terminal.say(f"moq-token: {terminal.printable(text)}")
