"""HTTPS next to HTTP, with certificates replaced while the relay runs."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import signal
import ssl
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization

from relay.app import Relay
from relay.client import Client
from relay.config import Auth, Config, ConfigError, Server, ServerTls
from relay.quic.certificate_store import CertificatePair, generate_certificate
from relay.quic.trust import ClientTls
from tests.clock import RUNTIME
from tests.e2e.harness import free_udp_port
from tests.e2e.http_support import (
    WITHIN,
    certificate,
    install,
    live,
    no_readers_left,
    published,
    rsa_certificate,
    secured,
)
from tests.e2e.test_command import relay as relay_command
from tests.pem import chain_pem, key_pem


def https_port(relay: Relay) -> int:
    return int(relay.identity().listen["https"][0].rpartition(":")[2])


async def shown(port: int) -> str:
    """Fingerprint of a new HTTPS connection's certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with asyncio.timeout(WITHIN):
        _, writer = await asyncio.open_connection("localhost", port, ssl=context)
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await writer.wait_closed()
    return hashlib.sha256(leaf).hexdigest()


def trusting(pair: CertificatePair) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=chain_pem(pair).decode())


async def pinned(url: str, pair: CertificatePair) -> Client:
    """A session whose QUIC handshake must show that certificate."""
    return await Client.connect(url, tls=ClientTls(fingerprints=(pair.fingerprint,)))


async def test_http_and_https_serve_the_same(tmp_path: Path) -> None:
    pair = certificate()
    async with Relay(secured(tmp_path, pair), RUNTIME) as relay, published(relay) as (_, publication):
        group = publication.track("video").group()
        group.write(b"payload")
        group.finish()
        secure = f"https://localhost:{https_port(relay)}/"
        async with aiohttp.ClientSession() as http:
            for path in ("certificate.sha256", "announced/", "fetch/demo/cam/video", "health", "nowhere"):
                async with (
                    http.get(f"{relay.url}{path}") as plain,
                    http.get(f"{secure}{path}", ssl=trusting(pair)) as safe,
                ):
                    assert (plain.status, await plain.read()) == (safe.status, await safe.read()), path
            async with http.get(f"{secure}metrics", ssl=trusting(pair)) as response:
                assert response.status == 404


async def test_a_broken_body_does_not_look_complete_over_https_either(tmp_path: Path) -> None:
    pair = certificate()
    async with (
        Relay(secured(tmp_path, pair), RUNTIME) as relay,
        published(relay) as (_, publication),
        aiohttp.ClientSession() as http,
    ):
        group = publication.track("video").group()
        group.write(b"half")
        url = f"https://localhost:{https_port(relay)}/fetch/demo/cam/video"
        async with http.get(url, ssl=trusting(pair)) as response:
            assert await response.content.readexactly(4) == b"half"
            group.abort(70)
            with pytest.raises(aiohttp.ClientError):
                await response.read()
    await no_readers_left()


async def test_new_connections_get_the_new_certificate_and_old_ones_go_on(tmp_path: Path) -> None:
    old, new = certificate(), certificate()
    async with (
        Relay(secured(tmp_path, old), RUNTIME) as relay,
        aiohttp.ClientSession() as http,
        await pinned(f"https://localhost:{relay.port}/", old) as before,
    ):
        publication = await live(relay, before.publish("demo/cam"))
        track = publication.track("video")
        first = track.group()
        first.write(b"one")
        url = f"https://localhost:{https_port(relay)}/fetch/demo/cam/video?follow=1"
        async with http.get(url, ssl=trusting(old)) as following:
            assert await following.content.readexactly(3) == b"one"
            install(tmp_path, new)
            relay.reload()
            assert relay.fingerprint == new.fingerprint
            assert await shown(https_port(relay)) == new.fingerprint
            async with http.get(f"{relay.url}certificate.sha256") as response:
                assert await response.text() == new.fingerprint
            for scheme in ("https", "moqt"):
                async with await pinned(f"{scheme}://localhost:{relay.port}/", new) as after:
                    assert await first_frame(after) == b"one"
            first.write(b"two")
            assert await following.content.readexactly(3) == b"two"
        before.check()


async def first_frame(client: Client) -> bytes:
    async with asyncio.timeout(WITHIN):
        async for group in await client.subscribe("demo/cam", "video"):
            async for frame in group:
                return frame.payload
    raise AssertionError("the track has ended")


async def test_a_certificate_of_another_kind_of_key_replaces_the_old_one(tmp_path: Path) -> None:
    """A context with both would still show most clients the old one."""
    old, new, newest = certificate(), rsa_certificate(), certificate()
    async with Relay(secured(tmp_path, old), RUNTIME) as relay:
        assert await shown(https_port(relay)) == old.fingerprint
        for pair in (new, newest):
            install(tmp_path, pair)
            relay.reload()
            assert await shown(https_port(relay)) == pair.fingerprint
            async with await pinned(f"https://localhost:{relay.port}/", pair) as client:
                client.check()


@pytest.mark.parametrize(
    "fault, words",
    [
        ("missing", "cert.pem: No such file"),
        ("garbage", "cert.pem: no certificate in this file"),
        ("other key", "key.pem: the key does not fit the certificate"),
        ("encrypted", "key.pem: the key is encrypted"),
    ],
)
async def test_files_that_cannot_be_used_change_nothing(tmp_path: Path, fault: str, words: str) -> None:
    old = certificate()
    async with Relay(secured(tmp_path, old), RUNTIME) as relay:
        spoil(tmp_path, fault)
        with pytest.raises(ConfigError, match=words):
            relay.reload()
        assert relay.fingerprint == old.fingerprint
        assert await shown(https_port(relay)) == old.fingerprint
        async with await pinned(f"https://localhost:{relay.port}/", old) as client:
            client.check()
        new = certificate()
        install(tmp_path, new)
        relay.reload()
        assert await shown(https_port(relay)) == relay.fingerprint == new.fingerprint


def spoil(folder: Path, fault: str) -> None:
    cert, key = folder / "cert.pem", folder / "key.pem"
    pair = certificate()
    match fault:
        case "missing":
            cert.unlink()
        case "garbage":
            cert.write_text("no certificate")
        case "other key":
            key.write_bytes(key_pem(pair))
        case "encrypted":
            install(folder, pair)
            form = serialization.PrivateFormat.PKCS8
            locked = serialization.BestAvailableEncryption(b"secret")
            key.write_bytes(pair.key.private_bytes(serialization.Encoding.PEM, form, locked))


async def test_https_files_are_replaced_together_with_those_of_quic_or_not_at_all(tmp_path: Path) -> None:
    quic, web = tmp_path / "quic", tmp_path / "web"
    for folder in (quic, web):
        folder.mkdir()
    old_quic, old_web, new = certificate(), certificate(), certificate()
    config = secured(web, old_web)
    cert, key = install(quic, old_quic)
    tls = config.server.tls.model_copy(update={"cert": (cert,), "key": (key,)})
    config = config.model_copy(update={"server": config.server.model_copy(update={"tls": tls})})
    async with Relay(config, RUNTIME) as relay:
        for good, bad in ((quic, web), (web, quic)):
            install(quic, old_quic)
            install(web, old_web)
            install(good, new)
            spoil(bad, "garbage")
            with pytest.raises(ConfigError, match=r"web\.https" if bad == web else r"server\.tls"):
                relay.reload()
            assert relay.fingerprint == old_quic.fingerprint
            assert await shown(https_port(relay)) == old_web.fingerprint


async def test_a_generated_certificate_stays(tmp_path: Path) -> None:
    config = secured(tmp_path, certificate())
    tls = config.server.tls.model_copy(update={"cert": (), "key": (), "generate": ("localhost",)})
    config = config.model_copy(update={"server": config.server.model_copy(update={"tls": tls})})
    async with Relay(config, RUNTIME) as relay:
        before = relay.fingerprint
        new = certificate()
        install(tmp_path, new)
        relay.reload()
        assert relay.fingerprint == before
        assert await shown(https_port(relay)) == new.fingerprint


async def test_a_generated_certificate_is_renewed_without_connections(tmp_path: Path) -> None:
    relay = Relay(Config.demo())
    old = generate_certificate(["localhost"], dt.datetime.now(dt.UTC) - dt.timedelta(days=12))
    relay._certificates.store._generated = old
    relay._certificates.store._pairs = (old,)
    relay._certificates.look()
    assert relay.fingerprint != old.fingerprint


async def test_a_running_relay_names_a_certificate_that_has_expired_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = generate_certificate(["localhost"], dt.datetime.now(dt.UTC) - dt.timedelta(days=20))
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(chain_pem(pair))
    key.write_bytes(key_pem(pair))
    tls = ServerTls(cert=(cert,), key=(key,))
    relay = Relay(Config(server=Server(tls=tls), auth=Auth(public="")))
    relay._certificates.look()
    relay.reload()
    named = [
        text
        for text in caplog.messages
        if text.startswith(f"[server.tls] cert: {cert}: the certificate expired")
    ]
    assert len(named) == 2, "once at start, and once at the reload"


async def test_an_encrypted_key_is_refused_at_start_instead_of_asking_the_terminal(tmp_path: Path) -> None:
    config = secured(tmp_path, certificate())
    tls = config.server.tls.model_copy(update={"cert": (), "key": (), "generate": ("localhost",)})
    config = config.model_copy(update={"server": config.server.model_copy(update={"tls": tls})})
    spoil(tmp_path, "encrypted")
    with pytest.raises(ConfigError, match=r"\[web.https\] cert, key: .*key.pem: the key is encrypted"):
        async with Relay(config, RUNTIME):
            pass


async def test_sighup_replaces_the_certificates_of_a_running_relay(tmp_path: Path) -> None:
    port, secure = free_udp_port(), free_udp_port()
    old, new = certificate(), certificate()
    cert, key = map(str, install(tmp_path, old))
    files = ("--tls-cert", cert, "--tls-key", key, "--web-https-cert", cert, "--web-https-key", key)
    listen = ("--listen", f"localhost:{port}", "--web-https-listen", f"localhost:{secure}")
    http = ("--web-http-listen", f"localhost:{port}", "--internal-listen", "localhost:0")
    async with relay_command(*listen, *http, *files, "--auth-public", "") as running:
        await running.line("certificate sha256")
        async with await pinned(f"https://localhost:{port}/", old) as session:
            assert await shown(secure) == old.fingerprint
            (tmp_path / "cert.pem").write_text("no certificate")
            running.process.send_signal(signal.SIGHUP)
            await running.line(
                r"not reloaded, everything stays as it was reason=.*cert.pem: no certificate in this file"
            )
            assert await shown(secure) == old.fingerprint
            install(tmp_path, new)
            running.process.send_signal(signal.SIGHUP)
            await running.line(f"reloaded sha256={new.fingerprint}")
            assert await shown(secure) == new.fingerprint
            async with await pinned(f"https://localhost:{port}/", new) as second:
                publication = second.publish("demo/cam")
                async with asyncio.timeout(WITHIN):
                    async for change in session.announced():
                        assert change.path == publication.path
                        break
            session.check()
        running.process.send_signal(signal.SIGTERM)
        assert await running.exit() == 0
    assert not any("Traceback" in line for line in running.err)
