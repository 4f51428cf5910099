"""Dials the other relays of a cluster. Logs show no query of a URL: it has the token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from relay.quic.settings import QuicSettings
from relay.quic.trust import Trust
from relay.runtime import SYSTEM, Runtime
from relay.transport.client import ClientTls, connect
from relay.transport.quic_session import QuicSession
from relay.wire.version import AnyVersion, Version

TIMEOUT: Final = 30.0  # seconds, from name resolution to an open session
STREAMS: Final = 16_384  # of each kind: a relay serves many peers
LONGEST_TOKEN: Final = 8_192  # characters that relays accept


class TokenError(ValueError):
    """The text says why, without the file's content."""


@dataclass(frozen=True, slots=True)
class Dialler:
    """Dials cluster members."""

    versions: tuple[AnyVersion, ...]
    settings: QuicSettings
    tls: ClientTls
    bind: tuple[str, int] | None = None
    runtime: Runtime = SYSTEM
    token: Path | None = None  # read for each attempt, so that it can be replaced
    tokens: Mapping[str, Path | str] = field(default_factory=dict, repr=False)
    """The tokens of single targets: a file, or the token itself."""

    def check(self, target: str) -> str | None:
        """Return the token. Raises CertificateError or TokenError if every attempt would fail."""
        Trust(self.tls)
        return self._read(target)

    async def dial(self, target: str) -> QuicSession:
        """`target`: `host[:port]` or a URL. Raises ConnectError or TokenError."""
        url = target if "://" in target else f"https://{target}/"
        token = self._read(target)
        settings = replace(
            self.settings,
            max_streams_bidi=max(STREAMS, self.settings.max_streams_bidi),
            max_streams_uni=max(STREAMS, self.settings.max_streams_uni),
        )
        return await connect(
            url if token is None else f"{url}?jwt={quote(token, safe='')}",
            # relays tell each other their hops, which moq-transport lacks
            versions=tuple(v for v in self.versions if isinstance(v, Version)) or tuple(Version),
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
