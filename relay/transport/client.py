"""Dialling: from a URL to a session.

Owns name resolution, the race between addresses, the check of the server's certificate, and errors that people can
act on. Must never say more of a URL than its path: the query may hold a token. Cluster peers, tools and tests call
`connect`.
"""

from __future__ import annotations

import asyncio
import datetime
import hmac
import itertools
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, urlsplit

from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription
from cryptography.hazmat.primitives import serialization

from relay.transport.quic import compat
from relay.transport.quic.certificates import CertificateError, fingerprint, load_certificates
from relay.transport.quic.endpoint import Endpoint, quic_configuration
from relay.transport.quic.link import Handler, Link
from relay.transport.quic.session import QuicSession, SessionLost
from relay.transport.quic.settings import QuicSettings
from relay.transport.quic.udp import Address, UdpSocket
from relay.transport.raw import RawSession
from relay.transport.webtransport import WebTransportClientSession
from relay.wire.version import Version, alpns_for

if TYPE_CHECKING:
    from aioquic.quic.configuration import QuicConfiguration

logger = logging.getLogger(__name__)

HEAD_START = 0.25
"""Seconds that one address is tried alone before the next one joins in (RFC 8305)."""

RAW_PORT = 4443
"""Port of `moqt` and `moql` URLs without one."""

FINGERPRINT_BODY = 256
"""Bytes read of `/certificate.sha256`, which has 64."""

RAW_SCHEMES = ("moqt", "moql")

ErrorKind = Literal["url", "resolve", "refused", "timeout", "tls", "rejected", "protocol"]


class ConnectError(Exception):
    """No session came about.

    `kind` tells what to look at: the URL, the name, a port that nobody listens on, silence, the certificate, a server
    that said no (`status` has the HTTP status, e.g. 401), or a server that speaks something else.
    """

    def __init__(self, message: str, *, kind: ErrorKind, status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Whom to trust. The system's roots unless something else is given."""

    roots: tuple[Path, ...] | None = None
    """PEM files to use instead of the system's roots."""

    fingerprints: tuple[str, ...] = ()
    """Hex SHA-256 of acceptable leaf certificates, instead of any root; names are not checked then."""

    disable_verify: bool = False
    """Accept whoever answers."""


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL taken apart."""

    shown: str
    """The URL for people: no query, no user."""
    raw: bool
    host: str
    port: int
    path: str
    query: str = field(repr=False)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _parse(url: str) -> tuple[_Target, bool]:
    """Take a URL apart; the flag says that a fingerprint has to be fetched first."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConnectError(f"not a usable URL: {error}", kind="url") from None
    scheme = parts.scheme.lower()
    if scheme not in ("https", "http", *RAW_SCHEMES) or not host:
        shown = f"{scheme}://{host or ''}"
        raise ConnectError(
            f"cannot connect to {shown!r}: want https://, http://, moqt:// or moql:// and a host", kind="url"
        )
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError as error:
            raise ConnectError(f"not a host name: {host!r}", kind="url") from error
    if port is None:
        port = RAW_PORT if scheme in RAW_SCHEMES else 80 if scheme == "http" else 443
    raw = scheme in RAW_SCHEMES
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    target = _Target(
        shown=f"{scheme}://{where}{path}",
        raw=raw,
        host=host,
        port=port,
        path=path if raw else path or "/",
        query=query,
    )
    return target, scheme == "http"


async def connect(
    url: str,
    *,
    versions: tuple[Version, ...] = tuple(Version),
    tls: ClientTls = ClientTls(),  # noqa: B008 - frozen
    bind: tuple[str, int] | None = None,
    settings: QuicSettings = QuicSettings(),  # noqa: B008 - frozen
    timeout: float = 10.0,  # noqa: ASYNC109
) -> QuicSession:
    """Dial a server and return an open session, not yet started. Raises `ConnectError`.

    `https` is WebTransport, `moqt` and `moql` are raw QUIC; `http` fetches the fingerprint of the server's certificate
    from the same host and port first, then goes on as `https` pinned to it (a development server). The socket goes
    away with the session.
    """
    target, insecure = _parse(url)
    dialled: list[_ClientEndpoint] = []
    try:
        async with asyncio.timeout(timeout):
            if insecure and not (tls.fingerprints or tls.roots or tls.disable_verify):
                tls = replace(tls, fingerprints=(await _fetch_fingerprint(target),))
            return await _dial(target, versions, _Trust(tls), bind, settings, dialled)
    except TimeoutError:
        for endpoint in dialled:
            endpoint.give_up()
        raise ConnectError(f"cannot connect to {target.shown}: timed out after {timeout:g} s", kind="timeout") from None
    except BaseException:
        for endpoint in dialled:
            endpoint.give_up()
        raise


# -- trust


class _Trust:
    """`ClientTls` with its files read, so that a bad file is reported before anything is dialled."""

    def __init__(self, tls: ClientTls) -> None:
        self.pins = tuple(pin.replace(":", "").strip().lower() for pin in tls.fingerprints)
        self.verify = not (tls.disable_verify or self.pins)
        self.roots: bytes | None = None
        if tls.roots is not None and self.verify:
            try:
                roots = [certificate for path in tls.roots for certificate in load_certificates(path)]
            except CertificateError as error:
                raise ConnectError(f"cannot use the trusted root: {error}", kind="tls") from error
            # Written anew: the TLS engine trips over text between certificates.
            self.roots = b"".join(root.public_bytes(serialization.Encoding.PEM) for root in roots)

    def apply(self, configuration: QuicConfiguration) -> None:
        if not self.verify:
            configuration.verify_mode = ssl.CERT_NONE
        elif self.roots is not None:
            configuration.cadata = self.roots
        else:
            paths = ssl.get_default_verify_paths()
            configuration.cafile = paths.cafile
            configuration.capath = None if paths.cafile else paths.capath

    def complaint(self, quic: compat.RelayQuicConnection) -> tuple[AlertDescription, str] | None:
        """What is wrong with a pinned certificate; everything else the TLS engine has checked."""
        if not self.pins:
            return None
        certificate = compat.peer_certificate(quic)
        if certificate is None:
            return AlertDescription.bad_certificate, "the server presented no certificate"
        found = fingerprint(certificate)
        matches = [hmac.compare_digest(found.encode(), pin.encode("utf-8", "replace")) for pin in self.pins]
        if not any(matches):
            return AlertDescription.bad_certificate, f"the certificate's fingerprint {found} is not the expected one"
        now = datetime.datetime.now(datetime.timezone.utc)
        if now > certificate.not_valid_after_utc:
            return AlertDescription.certificate_expired, "the pinned certificate has expired"
        if now < certificate.not_valid_before_utc:
            return AlertDescription.certificate_expired, "the pinned certificate is not valid yet"
        return None


async def _fetch_fingerprint(target: _Target) -> str:
    import aiohttp  # heavy, and only development servers need it

    url = f"http://{target.authority}/certificate.sha256"
    try:
        async with aiohttp.ClientSession() as http, http.get(url, allow_redirects=False) as response:
            body = (await response.content.read(FINGERPRINT_BODY)).decode("ascii", "replace").strip().lower()
            status = response.status
    except aiohttp.ClientError as error:
        raise ConnectError(f"cannot fetch {url}: {error}", kind="refused") from error
    if status != 200:
        raise ConnectError(f"cannot fetch {url}: HTTP status {status}", kind="rejected", status=status)
    if len(body) != 64 or not set(body) <= set("0123456789abcdef"):
        raise ConnectError(f"cannot use {url}: not the hex digits of a SHA-256", kind="protocol")
    return body


# -- dialling


async def _dial(
    target: _Target,
    versions: tuple[Version, ...],
    trust: _Trust,
    bind: tuple[str, int] | None,
    settings: QuicSettings,
    dialled: list[_ClientEndpoint],
) -> QuicSession:
    addresses = await _resolve(target)
    protocols = alpns_for(sorted(versions, reverse=True))
    configuration = quic_configuration(settings, is_client=True, alpns=protocols if target.raw else ["h3"])
    configuration.server_name = target.host
    trust.apply(configuration)

    def handler(link: Link, alpn: str) -> QuicSession:
        if target.raw:
            session: QuicSession = RawSession(link, alpn=alpn, is_client=True)
            session.path, session.query = target.path, target.query
            return session
        return WebTransportClientSession(
            link, authority=target.authority, path=target.path, query=target.query, protocols=protocols
        )

    tasks: set[asyncio.Task[_ClientEndpoint]] = set()
    errors: list[ConnectError] = []
    queue = list(addresses)
    winner: _ClientEndpoint | None = None
    try:
        while winner is None and (queue or tasks):
            if queue:
                family, address = queue.pop(0)
                attempt = _attempt(target, family, address, configuration, trust, bind, settings, handler, dialled)
                tasks.add(asyncio.create_task(attempt))
            done, tasks = await asyncio.wait(
                tasks, timeout=HEAD_START if queue else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if isinstance(error, ConnectError):
                    errors.append(error)
                elif error is not None:
                    raise error
                elif winner is None:
                    winner = task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for endpoint in dialled:
        if endpoint is not winner:
            endpoint.give_up()
    if winner is None:
        # A certificate that was refused says more than a port that was.
        errors.sort(key=lambda error: error.kind == "refused")
        raise errors[0]
    session = winner.session
    assert session is not None
    assert session.opened is not None
    try:
        await session.opened
    except SessionLost as lost:
        status = session.status if isinstance(session, WebTransportClientSession) else None
        raise _explain(target, lost, status) from None
    return session


async def _attempt(
    target: _Target,
    family: int,
    address: Address,
    configuration: QuicConfiguration,
    trust: _Trust,
    bind: tuple[str, int] | None,
    settings: QuicSettings,
    handler: Callable[[Link, str], QuicSession],
    dialled: list[_ClientEndpoint],
) -> _ClientEndpoint:
    """Get one address through the handshake."""
    try:
        sock = _bind(family, bind)
    except OSError as error:
        message = f"cannot connect to {target.shown}: {error.strerror or error}"
        raise ConnectError(message, kind="refused") from error
    endpoint = _ClientEndpoint(settings, trust, handler)
    dialled.append(endpoint)
    try:
        endpoint.dial(sock, address, configuration)
        await endpoint.handshake
    except OSError as error:
        endpoint.give_up()
        message = f"cannot connect to {target.shown}: {error.strerror or error}"
        raise ConnectError(message, kind="refused") from error
    except SessionLost as lost:
        raise _explain(target, lost, None) from None
    return endpoint


def _explain(target: _Target, lost: SessionLost, status: int | None) -> ConnectError:
    kinds: dict[str, ErrorKind] = {"timeout": "timeout", "tls": "tls", "http": "rejected", "transport": "protocol"}
    kind = kinds.get(lost.kind, "rejected")
    if kind == "rejected" and status is None and lost.code is not None:
        reason = f"the server closed with code {lost.code}" + (f": {lost.reason}" if lost.reason else "")
    else:
        reason = lost.reason or "the connection was closed"
    if kind == "tls":
        reason = f"TLS handshake failed: {reason}"
    elif kind == "timeout":
        reason = "no answer (timed out)"
    return ConnectError(f"cannot connect to {target.shown}: {reason}", kind=kind, status=status)


async def _resolve(target: _Target) -> list[tuple[int, Address]]:
    """Addresses of the host, IPv6 and IPv4 in turn."""
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(target.host, target.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        message = f"cannot connect to {target.shown}: {error.strerror or error}"
        raise ConnectError(message, kind="resolve") from error
    by_family: dict[int, list[tuple[int, Address]]] = {}
    for family, _, _, _, address in infos:
        if (family, address) not in by_family.setdefault(family, []):
            by_family[family].append((family, address))
    turns = itertools.zip_longest(*by_family.values())
    return [entry for turn in turns for entry in turn if entry is not None]


def _bind(family: int, bind: tuple[str, int] | None) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if bind is not None:
            host, port = bind
            # "Any" means any of both families; another address is for its own family only.
            if host in ("", "::", "0.0.0.0"):
                host = "::" if family == socket.AF_INET6 else "0.0.0.0"
            sock.bind((host, port))
    except (OSError, UnicodeError) as error:
        sock.close()
        code = error.errno if isinstance(error, OSError) else None
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(code, f"cannot bind to {bind}: {reason}") from error
    return sock


class _ClientEndpoint(Endpoint):
    """A socket with one connection, which goes away with it."""

    def __init__(self, settings: QuicSettings, trust: _Trust, handler: Callable[[Link, str], QuicSession]) -> None:
        super().__init__(settings)
        self.session: QuicSession | None = None
        self.handshake: asyncio.Future[None] = self._loop.create_future()
        self._trust = trust
        self._make_handler = handler

    def dial(self, sock: socket.socket, address: Address, configuration: QuicConfiguration) -> None:
        """Send the first packet."""
        udp = UdpSocket(sock, self.on_datagram, buffer=self.settings.socket_buffer)
        udp.on_error = self._on_error
        self.add_socket(udp)
        peer = udp.connect(address)
        quic = compat.RelayQuicConnection(
            configuration=configuration,
            max_streams_bidi=self.settings.max_streams_bidi,
            max_streams_uni=self.settings.max_streams_uni,
        )
        link = Link(self, udp, quic, peer, self.now())
        link.handler = _Opening(self)
        self.add_link(link, quic.host_cid)
        quic.connect(peer, self.now())
        self.touch(link)

    def give_up(self) -> None:
        """End an attempt that is not wanted any more, at once."""
        if not self.handshake.done():
            self.handshake.cancel()
        for link in tuple(self.links):
            if not link.over:
                link.close(QuicErrorCode.NO_ERROR, "")
                link.transmit(self.now())
        self.release()

    def fail(self, error: Exception) -> None:
        if not self.handshake.done():
            self.handshake.set_exception(error)

    # -- Endpoint

    def negotiated(self, link: Link, alpn: str) -> Handler:
        raise AssertionError("a client's handler is set when the handshake is complete")

    def handshake_done(self, link: Link) -> bool:
        complaint = self._trust.complaint(link.quic)
        if complaint is not None:
            alert, reason = complaint
            link.close(QuicErrorCode.CRYPTO_ERROR + alert, reason, transport=True)
            return False
        session = self._make_handler(link, link.quic.tls.alpn_negotiated or "")
        session.opened = self._loop.create_future()
        # Whoever waits may have gone by the time it fails.
        session.opened.add_done_callback(lambda future: future.cancelled() or future.exception())
        self.session = link.handler = session
        if not self.handshake.done():
            self.handshake.set_result(None)
        return True

    def said_goodbye(self, link: Link) -> None:
        if compat.closed_by_peer(link.quic):
            # The peer expects nothing more; our own close stays to be repeated for 3 PTO.
            self._loop.call_soon(self.release)

    def remove(self, link: Link) -> None:
        super().remove(link)
        if self._sockets and not self.links:
            self._loop.call_soon(self.release)

    def release(self) -> None:
        super().release()
        self.fail(SessionLost("transport", None, "the connection was closed", by_peer=False))

    def _on_error(self, error: OSError) -> None:
        # Once connected such an error is as untrustworthy as it is in QUIC; before, it saves the time-out.
        if isinstance(error, ConnectionRefusedError) and not self.handshake.done():
            self.fail(error)


class _Opening:
    """Handles the connection until the handshake is complete."""

    def __init__(self, endpoint: _ClientEndpoint) -> None:
        self._endpoint = endpoint

    def established(self) -> None:
        pass

    def handle(self, event: object) -> None:
        pass

    def pump(self) -> None:
        pass

    def deliver(self) -> None:
        pass

    def lost(self, event: compat.ConnectionTerminated, *, by_peer: bool) -> None:
        kind = compat.close_kind(event)
        reason = event.reason_phrase or f"{kind} error {event.error_code:#x}"
        if reason == "Idle timeout" and not by_peer:
            kind_shown = "timeout"
        else:
            kind_shown = kind
        self._endpoint.fail(SessionLost(kind_shown, event.error_code, reason, by_peer=by_peer))

    def close(self, code: int = 0, reason: str = "") -> None:
        pass
