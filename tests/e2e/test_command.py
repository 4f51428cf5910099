"""The commands `moq-relay` and `moq-clock` as their users run them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from relay.auth.claims import Claims
from relay.auth.key import Key
from relay.client import Client
from tests.e2e.harness import RustPeer, free_udp_port
from tests.sampling import first

ROOT = Path(__file__).resolve().parents[2]
OPEN = ("--tls-generate", "localhost", "--auth-public", "")


class Command:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out: list[str] = []
        self.err: list[str] = []
        self._changed = asyncio.Event()
        self._readers = asyncio.gather(
            self._read(process.stdout, self.out), self._read(process.stderr, self.err)
        )

    async def _read(self, stream: asyncio.StreamReader | None, lines: list[str]) -> None:
        assert stream is not None
        async for line in stream:
            lines.append(line.decode().rstrip("\n"))
            self._changed.set()
        self._changed.set()

    async def line(self, pattern: str, within: float = 60.0) -> re.Match[str]:
        """The first line of either output that matches."""
        async with asyncio.timeout(within):
            while True:
                for line in (*self.out, *self.err):
                    if found := re.search(pattern, line):
                        return found
                assert self.process.returncode is None or not self._readers.done(), (self.out, self.err)
                self._changed.clear()
                await self._changed.wait()

    async def more(self, lines: int, within: float = 60.0) -> None:
        async with asyncio.timeout(within):
            while len(self.out) < lines:
                self._changed.clear()
                await self._changed.wait()

    async def exit(self, within: float = 60.0) -> int:
        async with asyncio.timeout(within):
            status = await self.process.wait()
            await self._readers
        return status


def command(module: str, *args: str, cwd: Path = ROOT) -> contextlib.AbstractAsyncContextManager[Command]:
    return program(f"import sys; from {module} import main; sys.exit(main())", *args, cwd=cwd)


@contextlib.asynccontextmanager
async def program(code: str, *args: str, cwd: Path = ROOT) -> AsyncIterator[Command]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MOQ_", "RUST_LOG"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-c", code, *args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=cwd,
    )
    running = Command(process)
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await running.exit()


def relay(*args: str, cwd: Path = ROOT) -> contextlib.AbstractAsyncContextManager[Command]:
    return command("relay.cli", *args, cwd=cwd)


def clock(*args: str) -> contextlib.AbstractAsyncContextManager[Command]:
    return command("relay.commands.clock", *args)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_closes_sessions_with_a_reason_and_exits_0(
    number: signal.Signals, tmp_path: Path
) -> None:
    port = free_udp_port()
    url = f"https://127.0.0.1:{port}/"
    config = tmp_path / "relay.toml"
    config.write_text("[limits]\ndrain = 0\n")
    async with relay(str(config), "--listen", f"localhost:{port}", *OPEN) as running:
        await running.line("try it")
        hold = ("demo/cam", "--track", "video", "--hold", "--wait-for-viewers", "0")
        async with RustPeer("0.5.1", "publish", url, *hold) as peer:
            await peer.wait_for("connected")
            asked = time.monotonic()
            running.process.send_signal(number)
            closed = await peer.wait_for("closed", 5)
            assert closed["code"] == 0
            assert await running.exit(5) == 0
            assert time.monotonic() - asked < 5
        await running.line(r"\[session 1\] closed by=relay code=0 reason='server shutdown'")
    assert not any("Traceback" in line for line in running.err)


async def test_a_second_signal_ends_it_at_once() -> None:
    """The first one still waits for a request that follows a track."""
    port = free_udp_port()
    async with (
        relay("--listen", f"localhost:{port}", *OPEN) as running,
        aiohttp.ClientSession() as http,
    ):
        await running.line("try it")
        async with await Client.connect(f"http://localhost:{port}/") as client:
            publication = client.publish("demo/cam")
            publication.track("video").group().write(b"x")
            async with http.get(f"http://localhost:{port}/announced/") as live:
                await live.read()
            response = await http.get(f"http://localhost:{port}/fetch/demo/cam/video?follow=1")
            assert await response.content.readexactly(1) == b"x"
            running.process.send_signal(signal.SIGTERM)
            await running.line("stopping")
            running.process.send_signal(signal.SIGTERM)
            assert await running.exit(0.9) == -signal.SIGTERM
            response.close()


async def test_systemd_is_notified_when_sighup_reloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier there is no handler: with `Type=simple` a reload just after the start would kill it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        async with relay("--listen", f"localhost:{free_udp_port()}", *OPEN) as running, asyncio.timeout(60):
            assert await asyncio.get_running_loop().sock_recv(supervisor, 99) == b"READY=1"
            running.process.send_signal(signal.SIGHUP)
            await running.line("reloaded")


MUTE = """
import os, sys
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
from relay.cli import main
sys.exit(main())
"""


async def test_it_starts_without_a_reader_of_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd is gone, too."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    own = ("--listen", f"localhost:{free_udp_port()}", *OPEN)
    async with program(MUTE, *own) as running:
        await running.line("systemd did not get the notice of the start reason='No such file")
        running.process.send_signal(signal.SIGTERM)
        assert await running.exit() == 0
    assert not any("Traceback" in line for line in running.err)


async def test_the_banner_tells_where_it_listens_and_what_to_try() -> None:
    port = free_udp_port()
    async with relay("--listen", f"[::]:{port}", *OPEN) as running:
        await running.line(f"curl http://localhost:{port}/announced/")
        text = "\n".join(running.out)
        assert f"[::]:{port} UDP" in text
        assert f"[::]:{port} TCP" in text
        assert re.search("sha256 [0-9a-f]{64}", text)


NO_NAMES = """
import socket, sys, threading
sys.modules["uvloop"] = None  # it looks up names by itself
def never(*_, **__):
    print("asked", flush=True)
    threading.Event().wait()
ask = socket.getaddrinfo
socket.getaddrinfo = lambda host, *args, **more: (never if host == "away.example" else ask)(host, *args, **more)
from relay.cli import main
sys.exit(main())
"""


async def test_a_name_that_is_looked_up_does_not_keep_it(tmp_path: Path) -> None:
    """No name server answers."""
    key = tmp_path / "root.jwk"
    token = tmp_path / "cluster.jwt"
    Key.generate("HS256").save(key)
    token.write_text(Key.load(key).sign(Claims(publish=("",), subscribe=("",), cluster=True)))
    own = ("--listen", f"localhost:{free_udp_port()}", "--tls-generate", "localhost", "--auth-key", str(key))
    cluster = ("--cluster-root", "away.example", "--cluster-token", str(token))
    async with program(NO_NAMES, *own, *cluster) as running:
        await running.line("^asked")
        running.process.send_signal(signal.SIGTERM)
        assert await running.exit(5) == 0


async def test_a_busy_port_is_one_clear_line() -> None:
    port = free_udp_port()
    async with relay("--listen", f"localhost:{port}", *OPEN) as first:
        await first.line("try it")
        async with relay("--listen", f"localhost:{port}", *OPEN) as second:
            assert await second.exit() == 2
            assert second.out == []
            assert len(second.err) == 1
            assert (
                second.err[0] == f"moq-relay: cannot listen on UDP localhost:{port}: Address already in use"
            )


SCHEMES = first("http", "moqt", "https", "ws", count=2)


async def test_the_clock_is_published_and_watched() -> None:
    port = free_udp_port()

    async def by(scheme: str) -> None:
        url = f"{scheme}://localhost:{port}/by/{scheme}"
        trust = () if scheme == "http" else ("--tls-disable-verify",)
        async with clock("watch", url, *trust) as watch, clock("publish", url, *trust) as publish:
            await watch.line(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$")
            publish.process.send_signal(signal.SIGTERM)
            assert await publish.exit() == 0
            if scheme in first("moqt", *SCHEMES):
                async with clock("publish", url, *trust):
                    await watch.more(len(watch.out) + 1)
            watch.process.send_signal(signal.SIGINT)
            assert await watch.exit() == 0

    async with relay("--listen", f"localhost:{port}", *OPEN) as running:
        await running.line("try it")
        async with asyncio.TaskGroup() as schemes:
            for scheme in SCHEMES:
                schemes.create_task(by(scheme))


async def test_the_clock_without_a_relay_says_so_and_keeps_trying() -> None:
    port = free_udp_port()
    async with clock("watch", f"http://localhost:{port}/") as watch:
        await watch.line(
            rf"cannot fetch http://localhost:{port}/certificate\.sha256: nobody listens; trying again"
        )
        assert watch.process.returncode is None
        assert not any("Traceback" in line for line in watch.err)
        async with (
            relay("--listen", f"localhost:{port}", *OPEN) as running,
            clock("publish", f"http://localhost:{port}/"),
        ):
            await running.line("try it")
            await watch.line(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$", 20)


INTERRUPTED = """
import os, signal, sys
from relay import start
class Interrupt:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
getattr(start, sys.argv[2])()
"""

STUBBORN = """
import asyncio
from relay.commands.sessions import execute
async def work(_):
    print("begun", flush=True)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("told", flush=True)
execute(lambda: None, work, print)
"""


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("relay.config", "relay"),
        ("relay.client", "clock"),
        ("relay.client", "listing"),
        ("relay.media", "publish"),
        ("relay.media", "watch"),
        ("relay.auth.key", "token"),
    ],
)
async def test_ctrl_c_while_a_command_imports(module: str, name: str) -> None:
    async with program(INTERRUPTED, module, name) as interrupted:
        assert await interrupted.exit() == -signal.SIGINT
        assert interrupted.err == []


async def test_a_second_ctrl_c_ends_a_command_at_once() -> None:
    async with program(STUBBORN) as stubborn:
        for line in ("begun", "told"):
            await stubborn.line(line)
            stubborn.process.send_signal(signal.SIGINT)
        assert await stubborn.exit() == -signal.SIGINT
        assert stubborn.err == []
