"""Web pages may read answers on the public address, and nothing on the operator's.

The operator's address asks for no token, and pages in the operator's browser can reach it: hence its check of
Host, Origin and Sec-Fetch-Site.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

PUBLIC: Final = {
    "access-control-allow-origin": "*",
    "vary": "origin, access-control-request-method, access-control-request-headers",
}

OPERATOR: Final = {
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",  # a track that is JavaScript must not run as a script of another page
}
"""Pages of other origins may not read an answer, show it as an image or run it as a script."""

SHOWN: Final = 100  # characters of a header in a refusal


def add_headers(app: web.Application, headers: Mapping[str, str]) -> None:
    """Send `headers` with every answer."""

    async def add(request: web.Request, response: web.StreamResponse) -> None:  # noqa: ARG001
        vary = response.headers.get(hdrs.VARY, "")
        response.headers.update(headers)
        if vary and hdrs.VARY in response.headers and vary != response.headers[hdrs.VARY]:
            response.headers[hdrs.VARY] = f"{vary}, {response.headers[hdrs.VARY]}"

    app.on_response_prepare.append(add)


def foreign(request: web.Request, hosts: Collection[str]) -> str | None:
    """Why a request to the operator's address may come from a foreign web page.

    A name other than `localhost` and `hosts` may be an attacker's that resolves to this machine (DNS
    rebinding). Addresses cannot be rebound.
    """
    headers = request.headers
    for host in headers.getall(hdrs.HOST, ()):
        if not _ours(_name(host), hosts):
            return f"Host {host[:SHOWN]!r}"
    for origin in headers.getall(hdrs.ORIGIN, ()):
        _, _, authority = origin.partition("://")
        same = authority.lower() == headers.get(hdrs.HOST, "").lower()
        if not authority or not (same or _name(authority) in hosts):
            return f"Origin {origin[:SHOWN]!r}"
    # Image and script requests have no Origin. Links are allowed, but no forms.
    site, mode = (headers.get(f"sec-fetch-{name}", "") for name in ("site", "mode"))
    link = mode == "navigate" and request.method in (hdrs.METH_GET, hdrs.METH_HEAD)
    if site in ("cross-site", "same-site") and not link:
        return f"Sec-Fetch-Site {site!r}"
    return None


def _name(authority: str) -> str:
    """The host of `host:port`, in lower case without brackets."""
    try:
        return (urlsplit(f"//{authority}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _ours(name: str, hosts: Collection[str]) -> bool:
    if name == "localhost" or name.endswith(".localhost") or name in hosts:
        return True
    try:
        ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
