"""The dashboard's files, with caching and a policy that lets the page load only these."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from aiohttp import web

PAGE: Final = "index.html"

TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; "  # with WebSockets of this host and port, in every browser that has WebCodecs
    "img-src 'self' blob:; "  # frames that are images
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

SECURITY: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # the page's address may hold a token
}

FOREVER: Final = "public, max-age=31536000, immutable"
"""For files under their digest: changed content has another address."""

ROUTES: Final = """\
/                              this list; in a browser the dashboard
/certificate.sha256            fingerprint of the certificate, to pin it
/announced/<prefix>            live broadcasts, one a line; as JSON: Accept: application/json
/fetch/<broadcast>/<track>     newest group of a track; ?track=NAME ?group=N ?follow=1 ?frames=1 ?wait=S
/state/<path>                  sessions, broadcasts, tracks, as JSON; with a token, or on the internal address
/events                        latest events, as JSON; ?after=N those after number N; rights as for /state
/history                       figures of the last hour and day, as JSON; rights as for /state
/health                        ok, or 503 while the relay is about to end
"""

_DIGEST_MARK: Final = b"@DIGEST@"


@dataclass(frozen=True, slots=True)
class Site:
    """The files by name, and a digest of all."""

    files: dict[str, bytes]
    digest: str

    @property
    def page(self) -> bytes:
        return self.files[PAGE].replace(_DIGEST_MARK, self.digest.encode())


@cache
def site() -> Site:
    """Read the files once."""
    folder = resources.files("relay.web") / "static"
    found = (file for file in folder.iterdir() if _suffix(file.name) in TYPES)
    files = {file.name: file.read_bytes() for file in sorted(found, key=lambda file: file.name)}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return Site(files, digest.hexdigest()[:16])


def add_dashboard(app: web.Application) -> None:
    """The caller routes `/` to `landing`."""
    site()  # fail at start, not at the first visit, if the package lacks them
    app.router.add_get("/static/{digest}/{name}", static)


async def landing(request: web.Request) -> web.Response:
    """The page for a browser, else a list of the routes."""
    if "text/html" in request.headers.get("accept", ""):
        return _response(site().page, PAGE, "no-cache")
    return web.Response(text=ROUTES, headers={"vary": "accept"})


async def static(request: web.Request) -> web.Response:
    """Serve a file of the page. For another version's digest it is this version's, not to be cached."""
    name = request.match_info["name"]
    content = site().files.get(name)
    if content is None or name == PAGE:
        raise web.HTTPNotFound
    current = request.match_info["digest"] == site().digest
    return _response(content, name, FOREVER if current else "no-cache")


def _response(body: bytes, name: str, caching: str) -> web.Response:
    headers = {**SECURITY, "cache-control": caching, "vary": "accept"}
    return web.Response(body=body, content_type=TYPES[_suffix(name)], charset="utf-8", headers=headers)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]
