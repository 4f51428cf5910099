"""`[cluster] root`: a name, a URL, or a table of a URL and a token. No message repeats a token."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from relay.config.address import is_authority

WANTED: Final = (
    'expected host, host:port or a URL such as "https://relay.example.com:4443" or '
    '"moqt://relay.example.com", without a user and #, and with nothing but ?jwt=TOKEN behind its path'
)
_TABLE: Final = '{ url = "https://relay.example.com", token = "relay.jwt" }'
_JWT: Final = re.compile(r"ey[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)
"""A token in place of its file's name: it begins with a JSON object in base64url."""


@dataclass(frozen=True, slots=True)
class Root:
    """A relay to join. At most one of `token` and `jwt` is set."""

    target: str  # `host[:port]`, or a URL without a query
    token: Path | None = None
    """Default: `[cluster] token`."""

    jwt: str | None = field(default=None, repr=False)  # the token itself

    def __str__(self) -> str:
        return self.target


def parse_root(item: object) -> Root:
    """ValueError says what would be right."""
    if isinstance(item, str):
        return _from_text(item)
    if isinstance(item, Mapping):
        return _from_table(item)
    raise ValueError('expected a relay to join, e.g. "relay.example.com:4443", or a list of them')


def _from_text(text: str) -> Root:
    target, question, query = text.partition("?")
    scheme, separator, rest = target.rpartition("://")
    authority, slash, path = rest.partition("/")
    if separator and scheme.lower() not in ("https", "moqt"):
        raise ValueError(WANTED)
    # without a scheme it could be a file's path
    if not is_authority(authority) or authority.endswith(":0") or ((slash or question) and not separator):
        raise ValueError(WANTED)
    if not path.isascii() or not path.isprintable() or any(mark in path for mark in "#@ "):
        raise ValueError(WANTED)
    if not question:
        return Root(target)
    name, _, token = query.partition("=")
    if name != "jwt" or (token and not _JWT.fullmatch(token)):
        raise ValueError(WANTED)
    return Root(target, jwt=token or None)


def _from_table(table: Mapping[object, object]) -> Root:
    for name in table:
        if name not in ("url", "token"):
            raise ValueError(
                f"expected url and token in the table of a relay and nothing else, e.g. {_TABLE}"
            )
    url, token = table.get("url"), table.get("token")
    if not isinstance(url, str) or not (token is None or (isinstance(token, str) and token.strip())):
        raise ValueError(
            f"expected a table with url and perhaps token, both strings in quotes, e.g. {_TABLE}"
        )
    root = _from_text(url)
    if token is None:
        return root
    if root.jwt is not None:
        raise ValueError("expected one token for a relay, in token or behind ?jwt= in its url")
    if _JWT.fullmatch(token):
        return Root(root.target, jwt=token)
    if "\0" in token:
        raise ValueError(f"expected the path of a file as token, e.g. {_TABLE}")
    return Root(root.target, token=Path(token))


def parse_roots(raw: object) -> tuple[Root, ...]:
    """One relay or a list of them, without repetitions."""
    items = raw if isinstance(raw, list | tuple) else (raw,)
    roots: dict[str, Root] = {}
    for item in items:
        root = item if isinstance(item, Root) else parse_root(item)
        if roots.setdefault(root.target, root) != root:
            raise ValueError(f"{root.target} is there twice with different tokens, expected it once")
    return tuple(roots.values())
