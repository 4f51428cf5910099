"""Why a session was refused, beside the HTTP status: the field `www-authenticate` of RFC 6750.

Owns its form. Called by those who answer a request for a session, and by those who made one.
"""

from __future__ import annotations

import re
from typing import Final

_DESCRIPTION: Final = re.compile(r'(?i)error_description="([^"\\]*)"')


def challenge(reason: str) -> str:
    """Write the field `www-authenticate` that RFC 9110 section 15.5.2 demands beside 401, in the form of RFC 6750."""
    return 'Bearer error_description="{}"'.format(reason.replace("\\", "").replace('"', ""))


def answered(status: int, field: str | None) -> str:
    """Tell of a refusal, with the reason that `www-authenticate` gives."""
    found = _DESCRIPTION.search(field or "")
    return f"the server answered {status}" + (f", {found[1]}" if found and found[1] else "")
