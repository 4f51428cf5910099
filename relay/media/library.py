"""PyAV, imported on first use, and its errors in one line."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from urllib.parse import urlsplit

from relay.media.errors import MediaError

MISSING = "this needs PyAV, FFmpeg's libraries for Python: pip install 'moq-relay[media]'"


def load() -> ModuleType:
    """The module `av`; MediaError if it is not installed."""
    try:
        return import_module("av")
    except ImportError as error:
        raise MediaError(MISSING) from error


def shown(place: str) -> str:
    """A file or URL as it may be printed: without what may be a password or a token."""
    if "://" not in place:
        return place
    try:
        parts = urlsplit(place)
    except ValueError:
        return place.partition("://")[0] + "://..."
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def reason_of(error: Exception) -> str:
    """What FFmpeg or PyAV says, without the name of the input, which may hold a password."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
