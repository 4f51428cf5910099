"""Dialling the other relays of a cluster.

Owns how a target becomes a URL and which token goes with it. Must never say more of a URL than host and path, since
the token is in its query. The application makes one; peer actors call it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from relay.runtime import SYSTEM, Runtime
from relay.transport.client import ClientTls, connect
from relay.transport.quic.session import QuicSession
from relay.transport.quic.settings import QuicSettings
from relay.transport.quic.trust import Trust
from relay.wire.version import Version

TIMEOUT: Final = 30.0
"""Seconds for one attempt, from looking up the name to an open session."""

STREAMS: Final = 16_384
"""Streams of each kind that another relay may have open: it stands for all of its own peers."""

LONGEST_TOKEN: Final = 8_192
"""Characters; relays take no longer ones."""


class TokenError(ValueError):
    """The file of the token is unusable; the text says why, without its content."""


@dataclass(frozen=True, slots=True)
class Dialler:
    """What all attempts have in common."""

    versions: tuple[Version, ...]
    settings: QuicSettings
    tls: ClientTls
    bind: tuple[str, int] | None = None
    runtime: Runtime = SYSTEM
    token: Path | None = None
    """Read for each attempt, so that it can be renewed."""

    tokens: Mapping[str, Path | str] = field(default_factory=dict, repr=False)
    """Of targets with a token of their own: its file, or the token itself."""

    def check(self, target: str) -> str | None:
        """Raise CertificateError or TokenError for what would fail at every attempt; else give the token."""
        Trust(self.tls)
        return self._read(target)

    async def dial(self, target: str) -> QuicSession:
        """An open session with `target`, `host[:port]` or a URL. Raises ConnectError or TokenError."""
        url = target if "://" in target else f"https://{target}/"
        token = self._read(target)
        settings = replace(
            self.settings,
            max_streams_bidi=max(STREAMS, self.settings.max_streams_bidi),
            max_streams_uni=max(STREAMS, self.settings.max_streams_uni),
        )
        return await connect(
            url if token is None else f"{url}?jwt={quote(token, safe='')}",
            versions=self.versions,
            tls=self.tls,
            bind=self.bind,
            settings=settings,
            timeout=TIMEOUT,
            runtime=self.runtime,
        )

    def _read(self, target: str) -> str | None:
        file = self.tokens.get(target, self.token)
        if not isinstance(file, Path):
            return file
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise TokenError(f"the token cannot be read: {file}: {reason}") from None
        if not token:
            raise TokenError(f"the token cannot be read: {file}: the file is empty")
        if token.count(".") != len("..") or not token.isascii() or len(token) > LONGEST_TOKEN or " " in token:
            raise TokenError(f"the token cannot be read: {file}: not a token, as `moq-token sign` prints it")
        return token
