"""What can be wrong with media."""

from __future__ import annotations


class MediaError(Exception):
    """An input, a codec or a catalog cannot be used; the text says which and what would be right, in one line."""
