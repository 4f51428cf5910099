"""HTTP tests: relays with keys and certificates, and a live publisher."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from relay.actors.reader import ReaderActor
from relay.actors.runtime import Ref
from relay.app import Relay
from relay.client import Client, Publication
from relay.config import Address, Auth, Config, Https
from relay.model.limits import Limits
from relay.quic.certificate_store import CertificatePair, PrivateKey
from tests.client.recording import RecordingClient
from tests.clock import RUNTIME
from tests.e2e.support import config, running
from tests.pem import chain_pem, key_pem

WITHIN: Final = 60.0
"""Seconds that anything awaited may take."""

IMPATIENT: Final = Limits(track_idle=0.01)
"""A track without subscribers ends at once."""

SECRET: Final = b"0123456789abcdef0123456789abcdef"


# --- publishing --------------------------------------------------------------------------------------------------


async def live(relay: Relay, publication: Publication) -> Publication:
    """Wait until the relay knows it."""
    async with asyncio.timeout(WITHIN), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{relay.internal_url}announced/") as response:
                if publication.path in (await response.text()).split("\n"):
                    return publication


@contextlib.asynccontextmanager
async def published(
    relay: Relay, path: str = "demo/cam", **options: Any
) -> AsyncIterator[tuple[Client, Publication]]:
    async with await RecordingClient.connect(relay.url, **options) as client:
        yield client, await live(relay, client.publish(path))


@contextlib.asynccontextmanager
async def stage(**options: Any) -> AsyncIterator[tuple[Relay, aiohttp.ClientSession]]:
    timeout = aiohttp.ClientTimeout(total=WITHIN)
    async with (
        running(**{"limits": IMPATIENT, **options}) as relay,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        yield relay, session


async def no_readers_left() -> None:
    """Wait until all reader actors have ended."""
    for reader in _readers():
        assert await asyncio.to_thread(reader.actor_stopped.wait, WITHIN), reader
    assert readers() == 0


def readers() -> int:
    return len(_readers())


def _readers() -> list[Ref]:
    return [ref for ref in RUNTIME.actors if ref.actor_class is ReaderActor]


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._changed = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._changed.set()

    async def line(self, part: str) -> str:
        async with asyncio.timeout(WITHIN):
            while True:
                for line in self.lines:
                    if part in line:
                        return line
                self._changed.clear()
                await self._changed.wait()


@contextlib.contextmanager
def logged(name: str) -> Iterator[Lines]:
    lines = Lines()
    logger = logging.getLogger(name)
    logger.addHandler(lines)
    try:
        yield lines
    finally:
        logger.removeHandler(lines)


# --- rights ------------------------------------------------------------------------------------------------------


def key_file(folder: Path) -> Path:
    file = folder / "root.jwk"
    secret = base64.urlsafe_b64encode(SECRET).decode().rstrip("=")
    file.write_text(json.dumps({"kty": "oct", "alg": "HS256", "key_ops": ["verify"], "k": secret}))
    return file


def token(**claims: Any) -> str:
    return jwt.encode(claims, SECRET, algorithm="HS256")


def guarded(folder: Path, public: str | None = None) -> Config:
    return config(limits=IMPATIENT).model_copy(update={"auth": Auth(key=key_file(folder), public=public)})


# --- certificates ------------------------------------------------------------------------------------------------


def certificate(key: PrivateKey | None = None) -> CertificatePair:
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return CertificatePair(made, (), key)


def rsa_certificate() -> CertificatePair:
    return certificate(rsa.generate_private_key(public_exponent=65537, key_size=2048))


def install(folder: Path, pair: CertificatePair) -> tuple[Path, Path]:
    """Where `secured` reads it."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(chain_pem(pair))
    key.write_bytes(key_pem(pair))
    return cert, key


def secured(folder: Path, pair: CertificatePair) -> Config:
    """QUIC and HTTPS use certificates from files; HTTP, too."""
    cert, key = install(folder, pair)
    base = config(limits=IMPATIENT)
    tls = base.server.tls.model_copy(update={"cert": (cert,), "key": (key,), "generate": ()})
    https = Https(listen=Address("localhost", 0), cert=cert, key=key)
    return base.model_copy(
        update={
            "server": base.server.model_copy(update={"tls": tls}),
            "web": base.web.model_copy(update={"https": https}),
        }
    )
