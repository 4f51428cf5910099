"""Warnings about certificates' validity, at start, reload, `--check` and hourly."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from cryptography import x509

SOON: Final = dt.timedelta(days=14)  # of remaining life
SOON_PART: Final = 6  # of the whole life left: tools renew with a third left


def validity_warning(certificate: x509.Certificate, now: dt.datetime) -> str | None:
    """The warning at `now`, which has a time zone."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= ends:
        return f"expired on {_written(ends)}, so clients refuse it"
    if now < begins:
        return f"is not valid before {_written(begins)}, so clients refuse it until then"
    if ends - now < min(SOON, (ends - begins) / SOON_PART):
        return f"expires on {_written(ends)}, in {_left(ends - now)}"
    return None


class ValidityWatch:
    """Gives each warning only once."""

    def __init__(self) -> None:
        self._said: frozenset[str] = frozenset()

    def new_warnings(
        self, files: Mapping[str, Sequence[x509.Certificate]], now: dt.datetime
    ) -> Iterator[str]:
        """New since the last call, one per certificate, the leaf first in each file."""
        found = {}
        for name, chain in files.items():
            for number, certificate in enumerate(chain):
                text = validity_warning(certificate, now)
                if text is not None:
                    what = f"certificate {number + 1} of the chain" if number else "the certificate"
                    # The remaining hours change; the warning does not.
                    found[f"{name}: {what} {text.partition(', in ')[0]}"] = f"{name}: {what} {text}"
        for key, text in found.items():
            if key not in self._said:
                yield text
        self._said = frozenset(found)


def _written(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _left(span: dt.timedelta) -> str:
    hours = int(span.total_seconds() // 3_600)
    count, noun = (hours // 24, "day") if hours >= 48 else (hours, "hour")
    return f"{count} {noun}{'' if count == 1 else 's'}" if hours else "less than an hour"
