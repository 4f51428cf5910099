"""Dialling, from a URL to a session: name resolution, the race between addresses, the certificate check.

Logs and errors show no query of a URL: it may hold a token.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Literal
from urllib.parse import quote, urlsplit

from relay.quic.certificate_store import CertificateError
from relay.quic.driver import Driver
from relay.quic.endpoint import quic_configuration
from relay.quic.settings import QuicSettings
from relay.quic.trust import ClientTls, Trust
from relay.quic.udp import Address
from relay.runtime import SYSTEM, Runtime
from relay.transport.quic_dial import ClientEndpoint
from relay.transport.quic_session import QuicSession, SessionLostError
from relay.transport.raw_quic import RawSession
from relay.transport.refusal import answered
from relay.transport.websocket.session import FramedSession
from relay.transport.webtransport_client import WebTransportClientSession
from relay.wire.version import ALL_VERSIONS, AnyVersion, alpns_for

__all__ = ["ClientTls", "ConnectError", "ErrorKind", "connect", "connect_websocket"]

HEAD_START = 0.25  # seconds before the next address is tried as well (RFC 8305)
RAW_PORT = 4443  # of `moqt` and `moql` URLs
FINGERPRINT_BODY = 256  # bytes read of `/certificate.sha256`, which has 64
RAW_SCHEMES = ("moqt", "moql")
DEFAULT_PORTS = {"https": 443, "http": 80, "moqt": RAW_PORT, "moql": RAW_PORT}
WEBSOCKET_PORTS = {"wss": 443, "ws": 80}

FINGERPRINT = re.compile(r"[0-9a-f]{64}")

ANY_ROOT = ClientTls()
DEFAULTS = QuicSettings()

IPV4_ANY = "0.0.0.0"  # noqa: S104 - what the operator wrote, to be recognised
IPV6_ANY = "::"

ErrorKind = Literal["url", "resolve", "refused", "timeout", "tls", "rejected", "protocol"]


class ConnectError(Exception):
    """`status`: the HTTP status. `protocol`: a server of another protocol."""

    def __init__(self, message: str, *, kind: ErrorKind, status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


@dataclass(frozen=True, slots=True)
class _Target:
    """A parsed URL."""

    shown: str  # without query and user
    raw: bool
    host: str
    port: int
    path: str
    query: str = field(repr=False)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def error(self, reason: str, kind: ErrorKind, status: int | None = None) -> ConnectError:
        return ConnectError(f"cannot connect to {self.shown}: {reason}", kind=kind, status=status)


def _parse(url: str, ports: Mapping[str, int] = DEFAULT_PORTS) -> tuple[_Target, bool]:
    """The flag asks for a fingerprint first."""
    try:
        url.encode()
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except UnicodeEncodeError:
        raise ConnectError("not a usable URL: want UTF-8", kind="url") from None
    except ValueError as error:
        raise ConnectError(f"not a usable URL: {error}", kind="url") from None
    scheme = parts.scheme.lower()
    if scheme not in ports or not host:
        shown = f"{scheme}://{host or ''}"
        wanted = ", ".join(f"{name}://" for name in ports)
        raise ConnectError(f"cannot connect to {shown!r}: want one of {wanted} and a host", kind="url")
    try:
        host = host.encode("idna").decode()
    except UnicodeError as error:
        raise ConnectError(f"not a host name: {host!r}", kind="url") from error
    if port is None:
        port = ports[scheme]
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
    versions: tuple[AnyVersion, ...] = ALL_VERSIONS,
    tls: ClientTls = ANY_ROOT,
    bind: tuple[str, int] | None = None,
    settings: QuicSettings = DEFAULTS,
    timeout: float = 10.0,  # noqa: ASYNC109 - part of the error message
    runtime: Runtime = SYSTEM,
) -> QuicSession:
    """Dial a server and return an open session, not yet started. Raises `ConnectError`.

    `https` is WebTransport, `moqt` and `moql` are raw QUIC. `http` (a development server) connects as `https`,
    pinned to the fingerprint that the same host and port serve. `ws` and `wss`: `connect_websocket`. The socket
    closes with the session.
    """
    target, insecure = _parse(url)
    race: _Race | None = None
    try:
        async with asyncio.timeout(timeout):
            if insecure and not (tls.fingerprints or tls.roots or tls.disable_verify):
                tls = replace(tls, fingerprints=(await _fetch_fingerprint(target),))
            race = _Race(target, versions, Trust(tls), bind, settings, runtime)
            return await race.run()
    except BaseException as error:
        if race is not None:
            race.give_up()
        if isinstance(error, TimeoutError):
            raise target.error(f"timed out after {timeout:g} s", "timeout") from None
        if isinstance(error, CertificateError):
            raise target.error(f"the trusted roots cannot be used: {error}", "tls") from error
        raise


async def connect_websocket(
    url: str,
    *,
    versions: tuple[AnyVersion, ...] = ALL_VERSIONS,
    tls: ClientTls = ANY_ROOT,
    bind: tuple[str, int] | None = None,
    offer: Sequence[str] | None = None,
    timeout: float = 10.0,  # noqa: ASYNC109 - part of the error message
    runtime: Runtime = SYSTEM,
) -> FramedSession:
    """As `connect`, over WebSocket. `offer` narrows the subprotocols; an empty one offers none."""
    target, _ = _parse(url, WEBSOCKET_PORTS)
    import aiohttp  # slow to import

    from relay.transport.websocket.dial import HandshakeError, dial

    origin = f"{target.shown.partition('://')[0]}://{target.authority}"
    try:
        async with asyncio.timeout(timeout):
            return await dial(
                origin,
                target.path,
                target.query,
                versions=versions,
                tls=tls,
                bind=bind,
                offer=offer,
                runtime=runtime,
            )
    except TimeoutError:
        raise target.error(f"timed out after {timeout:g} s", "timeout") from None
    except CertificateError as error:
        raise target.error(f"the trusted roots cannot be used: {error}", "tls") from error
    except aiohttp.WSServerHandshakeError as error:
        field = error.headers.get("www-authenticate") if error.headers else None
        raise target.error(answered(error.status, field), "rejected", error.status) from error
    except (aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch) as error:
        raise target.error("TLS handshake failed", "tls") from error
    except aiohttp.ClientConnectorDNSError as error:
        raise target.error(error.strerror or "no such host", "resolve") from error
    except aiohttp.ClientConnectorError as error:
        raise target.error(error.strerror or "nobody listens", "refused") from error
    except (aiohttp.ClientError, HandshakeError, OSError) as error:
        raise target.error(str(error), "protocol") from error


async def _fetch_fingerprint(target: _Target) -> str:
    import aiohttp  # slow to import

    url = f"http://{target.authority}/certificate.sha256"
    try:
        async with aiohttp.ClientSession() as http, http.get(url, allow_redirects=False) as response:
            body = (await response.content.read(FINGERPRINT_BODY)).decode("ascii", "replace").strip().lower()
            status = response.status
    except aiohttp.ClientError as error:
        reason = str(error)
        if isinstance(error, aiohttp.ClientConnectorError):  # its text mentions TLS, which is not in use
            refused = isinstance(error.os_error, ConnectionRefusedError)
            reason = "nobody listens" if refused else error.strerror or reason
        raise ConnectError(f"cannot fetch {url}: {reason}", kind="refused") from error
    if status != HTTPStatus.OK:
        raise ConnectError(f"cannot fetch {url}: HTTP status {status}", kind="rejected", status=status)
    if not FINGERPRINT.fullmatch(body):
        raise ConnectError(f"cannot use {url}: not the hex digits of a SHA-256", kind="protocol")
    return body


class _Race:
    """Tries the addresses of a host in turn (RFC 8305), until one completes the handshake."""

    def __init__(
        self,
        target: _Target,
        versions: tuple[AnyVersion, ...],
        trust: Trust,
        bind: tuple[str, int] | None,
        settings: QuicSettings,
        runtime: Runtime,
    ) -> None:
        self._target = target
        self._runtime = runtime
        self._protocols = alpns_for(versions)
        self._trust = trust
        self._bind = bind
        self._settings = settings
        self._configuration = quic_configuration(
            settings, is_client=True, alpns=self._protocols if target.raw else ["h3"]
        )
        self._configuration.server_name = target.host
        trust.apply(self._configuration)
        self._dialled: list[ClientEndpoint] = []
        self._errors: list[ConnectError] = []

    async def run(self) -> QuicSession:
        winner = await self._handshake(await _resolve(self._target))
        for endpoint in self._dialled:
            if endpoint is not winner:
                endpoint.give_up()
        if winner is None:
            # a rejected certificate explains more than a closed port
            raise min(self._errors, key=lambda error: error.kind == "refused")
        session = winner.session
        assert session is not None
        assert session.opened is not None
        try:
            await session.opened
        except SessionLostError as lost:
            status = session.status if isinstance(session, WebTransportClientSession) else None
            raise _explain(self._target, lost, status) from None
        return session

    def give_up(self) -> None:
        for endpoint in self._dialled:
            endpoint.give_up()

    async def _handshake(self, addresses: list[tuple[int, Address]]) -> ClientEndpoint | None:
        tasks: set[asyncio.Task[ClientEndpoint]] = set()
        try:
            while addresses or tasks:
                if addresses:
                    tasks.add(asyncio.create_task(self._attempt(*addresses.pop(0))))
                wait = HEAD_START if addresses else None
                done, tasks = await asyncio.wait(tasks, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    try:
                        return task.result()
                    except ConnectError as error:
                        self._errors.append(error)
            return None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _attempt(self, family: int, address: Address) -> ClientEndpoint:
        endpoint = ClientEndpoint(self._settings, self._trust, self._session, self._runtime)
        self._dialled.append(endpoint)
        try:
            endpoint.dial(_bind(family, self._bind), address, self._configuration)
            await endpoint.handshake
        except OSError as error:
            endpoint.give_up()
            raise self._target.error(error.strerror or str(error), "refused") from error
        except SessionLostError as lost:
            raise _explain(self._target, lost, None) from None
        return endpoint

    def _session(self, driver: Driver, alpn: str) -> QuicSession:
        target = self._target
        if not target.raw:
            return WebTransportClientSession(
                driver,
                authority=target.authority,
                path=target.path,
                query=target.query,
                protocols=self._protocols,
            )
        session = RawSession(driver, alpn=alpn, is_client=True)
        session.path, session.query = target.path, target.query
        return session


def _explain(target: _Target, lost: SessionLostError, status: int | None) -> ConnectError:
    kinds: dict[str, ErrorKind] = {
        "timeout": "timeout",
        "tls": "tls",
        "http": "rejected",
        "transport": "protocol",
    }
    kind = kinds.get(lost.kind, "rejected")
    if kind == "rejected" and status is None and lost.code is not None:
        reason = f"the server closed with code {lost.code}" + (f": {lost.reason}" if lost.reason else "")
    else:
        reason = lost.reason or "the connection was closed"
    if kind == "tls":
        reason = f"TLS handshake failed: {reason}"
    elif kind == "timeout":
        reason = "no answer (timed out)"
    return target.error(reason, kind, status)


async def _resolve(target: _Target) -> list[tuple[int, Address]]:
    """IPv6 and IPv4 alternating."""
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(target.host, target.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise target.error(error.strerror or str(error), "resolve") from error
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
            # the wildcard stands for both families
            if host in ("", IPV6_ANY, IPV4_ANY):
                host = IPV6_ANY if family == socket.AF_INET6 else IPV4_ANY
            sock.bind((host, port))
    except (OSError, UnicodeError) as error:
        sock.close()
        code = error.errno if isinstance(error, OSError) else None
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(code, f"cannot bind to {bind}: {reason}") from error
    return sock
