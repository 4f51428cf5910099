"""The URL of a key server, in place of a directory."""

from __future__ import annotations

import re

from relay.config.address import host_of, is_loopback

# One letter is a drive. Without a slash only http and https count: a directory may have a colon in its name.
_SCHEME = re.compile(r"(?i)(https?(?=:)|[a-z][a-z0-9+.-]+(?=:/))")
_EXAMPLE = 'e.g. "https://keys.example.com/moq"'


def is_url(text: str) -> bool:
    """Valid or not; False for a path."""
    return _SCHEME.match(text.strip()) is not None


def key_server(text: str) -> str:
    """The URL without slashes at its end. ValueError says what would be right, without the URL."""
    text = text.strip()
    found = _SCHEME.match(text)
    scheme = found[0].lower() if found else ""
    if scheme not in ("http", "https"):
        raise ValueError('expected a directory, e.g. "keys", or a URL that starts with https://')
    if " " in text or not text.isprintable():
        raise ValueError(f"expected a URL without spaces and control characters, {_EXAMPLE}")
    slashes, rest = text[len(scheme) + 1 :][:2], text[len(scheme) + 3 :]
    authority, _, path = rest.partition("/")
    if "@" in authority:
        raise ValueError(f"expected a URL without a user name or password, {_EXAMPLE}")
    if "?" in rest or "#" in rest:
        raise ValueError(f"expected a URL without ? and #, because /<kid>.jwk is added to it, {_EXAMPLE}")
    host = host_of(authority)
    if slashes != "//" or not host:
        raise ValueError(f"expected a host behind {scheme}://, {_EXAMPLE}")
    if scheme == "http" and not is_loopback(host):
        raise ValueError(
            "expected https://, because a key that is changed on its way can admit anybody; "
            "http:// is for this machine only, e.g. localhost"
        )
    return f"{scheme}://{authority}/{path}".rstrip("/")


def redacted(text: str) -> str:
    """The URL, but only its scheme if it may hold a password or a signature."""
    if is_url(text):
        return f"{text.strip().partition(':')[0]}://..." if re.search("[@?#]", text) else text
    # a URL with a wrong or missing scheme may hold one, too
    return "..." if re.search(r"(?s):.*@|\?.*=", text) else text
