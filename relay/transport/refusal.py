"""The field `www-authenticate` of a rejected session request (RFC 6750)."""

from __future__ import annotations

import re
from typing import Final

_DESCRIPTION: Final = re.compile(r'(?i)error_description="([^"\\]*)"')


def challenge(reason: str) -> str:
    """RFC 9110, 15.5.2 demands the field with 401."""
    return 'Bearer error_description="{}"'.format(reason.replace("\\", "").replace('"', ""))


def answered(status: int, field: str | None) -> str:
    """Describe a rejection, with the reason in `www-authenticate`."""
    found = _DESCRIPTION.search(field or "")
    return f"the server answered {status}" + (f", {found[1]}" if found and found[1] else "")
