"""Options that all commands share: the relay's URL, the token, protocol versions, and whom to trust.

Messages about wrong usage never quote what may be a token.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

from relay.client import Client, ClientTls
from relay.model.path import checked, is_text
from relay.terminal import printable
from relay.wire.version import ALL_VERSIONS, AnyVersion, preferred, version_from_name

DEFAULT_URL: Final = "http://localhost:4443/"
SCHEMES: Final = ("http", "https", "moqt", "moql", "ws", "wss")
TOKEN_VARIABLE: Final = "MOQ_TOKEN"  # noqa: S105 - the name of a variable of the environment

URLS: Final = """\
URL is http:// (a development server: its certificate is fetched first), https:// (WebTransport), moqt:// (raw QUIC) or
ws:// and wss:// (WebSocket); http://localhost:4443/ if left out. A path limits what is seen, as the relay's rules say.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """The relay of the command line, and how to reach it."""

    url: str  # with the token in its query: never shown
    versions: tuple[AnyVersion, ...]
    roots: tuple[Path, ...] | None
    fingerprints: tuple[str, ...]
    disable_verify: bool

    async def connect(self, *, hop: int | None = None) -> Client:
        """Dial the relay, with an origin id of ours that is random by default."""
        tls = ClientTls(self.roots, self.fingerprints, self.disable_verify)
        return await Client.connect(self.url, versions=self.versions, tls=tls, hop=hop)


class Parser(argparse.ArgumentParser):
    """Reports a fault in one line, with the place of help. Flags may stand before and after positional arguments."""

    def __init__(self, name: str, usage: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=name,
            usage=f"{name} {usage}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)}\nTry: {self.prog} --help\n")

    def read(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Exits with status 2 if the command line is wrong, 0 after --help."""
        found, unknown = self.parse_known_intermixed_args(argv)
        if unknown:
            # names only: after a misspelt --jwt comes a token
            flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
            self.error(f"unknown flag {', '.join(flags)}" if flags else "too many arguments")
        return found

    def add_url(self, *, optional: bool = True) -> None:
        """Add the relay's URL as the next positional argument."""
        if optional:
            self.add_argument(
                "url", metavar="URL", nargs="?", default=DEFAULT_URL, type=url_of, help="the relay"
            )
        else:
            self.add_argument("url", metavar="URL", type=url_of, help="the relay")

    def add_connection(self) -> None:
        """Add the options of the connection: versions, token, trust."""
        self.add_argument(
            "--version",
            metavar="VERSION",
            action="append",
            type=version_of,
            help="offer only this protocol version, such as moq-lite-04 or moq-transport-18; may be repeated",
        )
        token = self.add_mutually_exclusive_group()
        token.add_argument(
            "--jwt", metavar="TOKEN", help="token, appended to the query of the URL; never printed"
        )
        token.add_argument(
            "--token-file",
            metavar="FILE",
            type=Path,
            help=f"file with the token; without it the variable {TOKEN_VARIABLE}, if the URL has no ?jwt=",
        )
        tls = self.add_argument_group("whom to trust (default: the system's roots)")
        tls.add_argument("--tls-disable-verify", action="store_true", help="accept any certificate")
        tls.add_argument(
            "--tls-root",
            metavar="FILE",
            action="append",
            type=Path,
            help="PEM file of roots to trust instead; may be repeated",
        )
        tls.add_argument(
            "--tls-fingerprint",
            metavar="HEX",
            action="append",
            type=fingerprint_of,
            help="SHA-256 of the one certificate to trust; may be repeated",
        )

    def target(self, found: argparse.Namespace) -> Target:
        """The relay of a command line that was read. Exits with status 2 if the file of the token cannot be read."""
        token: str | None = found.jwt
        if found.token_file is not None:
            try:
                token = found.token_file.read_text()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "no text"
                self.error(f"--token-file {found.token_file}: {reason}")
        if token is None and not has_token(found.url):
            token = os.environ.get(TOKEN_VARIABLE) or None
        if not is_text(token or ""):
            self.error("the token is not UTF-8")
        return Target(
            url=with_token(found.url, token),
            versions=preferred(found.version or ALL_VERSIONS),
            roots=tuple(found.tls_root) if found.tls_root else None,
            fingerprints=tuple(found.tls_fingerprint or ()),
            disable_verify=found.tls_disable_verify,
        )


def word_of(*words: str) -> Callable[[str], str]:
    """A check for one of `words`, which quotes nothing: a URL in its place may hold a token."""

    def check(text: str) -> str:
        if text not in words:
            raise argparse.ArgumentTypeError(f"want {' or '.join(words)}")
        return text

    return check


def text_of(text: str) -> str:
    """Refuse bytes that are no UTF-8, which Python passes on as lone surrogates."""
    if not is_text(text):
        raise argparse.ArgumentTypeError("want UTF-8")
    return text


def url_of(text: str) -> str:
    """Check a URL as far as one can without dialling."""
    try:
        parts = urlsplit(text_of(text))
        usable = parts.scheme in SCHEMES and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise argparse.ArgumentTypeError(
            "want http://, https://, moqt://, moql://, ws:// or wss://, a host, and perhaps a port"
        )
    return text


def path_of(text: str) -> str:
    """Bring a path into its normal form; it may be empty."""
    try:
        return checked(text_of(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def broadcast_of(text: str) -> str:
    """The same for a path that may not be empty."""
    path = path_of(text)
    if not path:
        raise argparse.ArgumentTypeError("a broadcast needs a name")
    return path


def version_of(text: str) -> AnyVersion:
    """ArgumentTypeError lists the valid names."""
    try:
        return version_from_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def fingerprint_of(text: str) -> str:
    """Read 64 hex digits, with or without colons."""
    digits = text.replace(":", "").strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise argparse.ArgumentTypeError("want the 64 hex digits of a SHA-256")
    return digits


def has_token(url: str) -> bool:
    """The query of `url` has a token."""
    return any(part.startswith("jwt=") for part in urlsplit(url).query.split("&"))


def with_token(url: str, token: str | None) -> str:
    """Put `token` into the query of `url`."""
    if token is None:
        return url
    parts = urlsplit(url)
    query = f"jwt={quote(token.strip(), safe='')}"
    return urlunsplit(parts._replace(query=f"{parts.query}&{query}" if parts.query else query))
