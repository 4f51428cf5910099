"""SIGHUP: the reloaded parts of the configuration, the others, and all or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from relay.actors import messages as m
from relay.actors.runtime import ask
from relay.app import Relay
from relay.client import Client
from relay.config import Address, Auth, Config, ConfigError, Public
from relay.quic.settings import QuicSettings
from relay.transport.client import ConnectError
from tests.actors.watching import actor_of
from tests.auth.support import jwk
from tests.e2e.cluster_support import ANYONE
from tests.e2e.harness import free_udp_port
from tests.e2e.support import config, raw, running, webtransport
from tests.e2e.test_command import relay as relay_command
from tests.e2e.test_keys_of_a_running_relay import NEW, OLD, status, write
from tests.e2e.test_websocket import ws

pytestmark = pytest.mark.e2e

WITHIN = 60.0


def with_limits(relay: Relay, **limits: float) -> Config:
    return relay._config.model_copy(update={"limits": replace(relay.limits, **limits)})  # type: ignore[arg-type]


async def sees(relay: Relay, path: str) -> int:
    """The status of `/announced`."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{relay.port}/announced/{path}") as response,
    ):
        return response.status


# --- what is taken over ------------------------------------------------------------------------------------------


async def test_a_limit_is_lowered_and_raised_while_sessions_go_on() -> None:
    async with running() as relay, await Client.connect(webtransport(relay), tls=ANYONE) as first:
        relay.reload(with_limits(relay, sessions=1))
        for url in (webtransport(relay), raw(relay), ws(relay)):
            with pytest.raises(ConnectError):
                await Client.connect(url, tls=ANYONE)
        relay.reload(with_limits(relay, sessions=4))
        async with contextlib.AsyncExitStack() as stack:
            for url in (webtransport(relay), raw(relay), ws(relay)):
                await stack.enter_async_context(await Client.connect(url, tls=ANYONE))
        first.check()


async def test_sessions_keep_the_limits_that_they_began_with() -> None:
    async with running() as relay, await Client.connect(webtransport(relay), tls=ANYONE) as before:
        await before.announced("").initial()
        relay.reload(with_limits(relay, announces=1))
        async with await Client.connect(webtransport(relay), tls=ANYONE) as after:
            for path in ("a", "b"):
                before.publish(f"before/{path}")
                after.publish(f"after/{path}")
            async with asyncio.timeout(WITHIN):
                assert "more than 1 announcements" in (await after.closed()).reason
        async with await Client.connect(webtransport(relay), tls=ANYONE) as viewer, asyncio.timeout(WITHIN):
            for path in ("before/a", "before/b"):
                await viewer.announced("").wait_for(path)


async def test_every_limit_of_the_whole_relay_is_reloaded() -> None:
    changed = {"readers": 7, "auth_failures": 8, "auth_delay": 9.0, "auth_waiting": 10, "handshakes": 11}
    async with running() as relay:
        relay.reload(with_limits(relay, **changed))
        authenticator = relay._authenticator
        assert relay._quic is not None
        assert relay._actors is not None
        gate = relay._actors.gate
        await ask(gate, m.DescribeGate(), timeout=WITHIN)
        assert {
            "readers": actor_of(gate)._environment.limits.readers,
            "auth_failures": authenticator.throttle.failures,
            "auth_delay": authenticator.throttle.delay,
            "auth_waiting": authenticator.waiting,
            "handshakes": relay._quic.limits.handshakes,
        } == changed


async def test_what_is_public_changes() -> None:
    async with running(public="one") as relay:
        assert [await sees(relay, "one"), await sees(relay, "two")] == [200, 401]
        relay.reload(relay._config.model_copy(update={"auth": Auth(public="two")}))
        assert [await sees(relay, "one"), await sees(relay, "two")] == [401, 200]
        assert relay.identity().public == {"publish": ("two",), "subscribe": ("two",)}


async def test_a_key_becomes_a_directory_of_keys(tmp_path: Path) -> None:
    old, folder = write(tmp_path / "root.jwk", OLD), tmp_path / "keys"
    folder.mkdir()
    write(folder / "new.jwk", NEW)
    async with Relay(config().model_copy(update={"auth": Auth(key=old)})) as relay:
        assert [await status(relay, OLD), await status(relay, NEW, "new")] == [200, 401]
        relay.reload(relay._config.model_copy(update={"auth": Auth(key_dir=str(folder))}))
        assert [await status(relay, OLD), await status(relay, NEW, "new")] == [401, 200]
        relay.reload(relay._config.model_copy(update={"auth": Auth(public=Public(subscribe=("",)))}))
        assert [await status(relay, NEW, "new"), await sees(relay, "")] == [401, 200]


# --- what is not --------------------------------------------------------------------------------------------------


async def test_what_needs_a_restart_is_named_and_left(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as relay:
        former = relay._config
        server = former.server.model_copy(
            update={"listen": Address("localhost", 1), "quic": QuicSettings(idle_timeout=20)}
        )
        cluster = former.cluster.model_copy(update={"node": "relay.example.com"})
        with caplog.at_level(logging.INFO):
            relay.reload(
                with_limits(relay, sessions=5).model_copy(update={"server": server, "cluster": cluster})
            )
            restart = [line for line in caplog.messages if line.startswith("needs a restart")]
            assert restart == [
                "needs a restart changed='[server] listen, [server.quic] idle_timeout, [cluster] node'"
            ]
            assert f"reloaded sha256={relay.fingerprint} changed='[limits] sessions'" in caplog.messages
            caplog.clear()
            # named as long as it differs
            relay.reload(with_limits(relay, sessions=5).model_copy(update={"server": server}))
        assert "needs a restart changed='[server] listen, [server.quic] idle_timeout'" in caplog.messages
        assert (relay.limits.sessions, relay._config.server, relay._config.cluster) == (
            5,
            former.server,
            former.cluster,
        )


@pytest.mark.parametrize("bad", ["key", "cert"])
async def test_all_or_nothing(tmp_path: Path, bad: str) -> None:
    file = write(tmp_path / "root.jwk", OLD)
    async with Relay(config().model_copy(update={"auth": Auth(key=file)})) as relay:
        before = relay._config, relay.limits, relay._authenticator.keys, relay.fingerprint
        wanted = with_limits(relay, sessions=1)
        if bad == "key":
            file.write_text(jwk(b"short"))
            match = r"\[auth\] key: .*root\.jwk"
        else:
            tls = wanted.server.tls.model_copy(update={"cert": (file,), "key": (file,)})
            server = wanted.server.model_copy(update={"tls": tls})
            wanted = wanted.model_copy(update={"server": server})
            match = r"\[server\.tls\]: .*root\.jwk: no certificate in this file"
        with pytest.raises(ConfigError, match=match):
            relay.reload(wanted)
        assert (relay._config, relay.limits, relay._authenticator.keys, relay.fingerprint) == before


# --- as a process -------------------------------------------------------------------------------------------------


async def test_sighup_reads_the_file_again(tmp_path: Path) -> None:
    port, file = free_udp_port(), tmp_path / "relay.toml"
    url = f"https://127.0.0.1:{port}/"

    def written(limits: str, more: str = "") -> None:
        text = (
            f'[server]\nlisten = "localhost:1"\n[auth]\npublic = ""\n{more}\n[limits]\ndrain = 0\n{limits}\n'
        )
        file.write_text(text)

    async def accepted() -> bool:
        try:
            async with await Client.connect(url, tls=ANYONE):
                return True
        except ConnectError:
            return False

    written("sessions = 2")
    # flags override the file
    flags = ("--listen", f"localhost:{port}", "--tls-generate", "localhost")
    async with relay_command(str(file), *flags) as running:
        await running.line("certificate sha256")

        async def reload(expected: str) -> None:
            running.err.clear()
            running.process.send_signal(signal.SIGHUP)
            await running.line(expected)

        async with await Client.connect(url, tls=ANYONE) as client:
            written("sessions = 1")
            await reload(r"reloaded sha256=\w+ changed='\[limits\] sessions'$")
            assert not await accepted()
            for limits, complaint in (
                ("sesions = 3", r'relay\.toml: \[limits\] sesions: unknown key, did you mean "sessions"\?'),
                ("sessions = 0", r"relay\.toml: \[limits\] sessions = 0: expected a whole number from 1 to"),
                ("sessions =", r"relay\.toml: line \d+, column \d+: not valid TOML"),
            ):
                written(limits)
                await reload(f"ERROR not reloaded, everything stays as it was reason=.*{complaint}")
                assert not await accepted()
            file.unlink()
            await reload(r"ERROR not reloaded, .*relay\.toml: no such file")
            written("sessions = 3", '[log]\nlevel = "debug"\n[server.tls]\ngenerate = "other"')
            await reload(r"reloaded sha256=\w+ changed='\[log\] level, \[limits\] sessions'$")
            assert await accepted()
            client.publish("demo/cam")
            await running.line(r"DEBUG \[session 1\] \[broadcast demo/cam\] announced")
            client.check()
        assert not any("Traceback" in line for line in running.err)
