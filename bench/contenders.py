"""The compared relays, each run in a fresh process on a free port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[1]
START_S = 20.0
STOP_S = 5.0

CONFIG = """\
[server]
listen = "127.0.0.1:{port}"
tls.generate = "localhost"
secret = "of no value: not in a file"

[server.quic]
native = {native}

[web.http]
listen = "127.0.0.1:{port}"

[internal]
listen = "127.0.0.1:{internal}"

[auth]
public = ""
"""


@dataclass(frozen=True)
class Contender:
    name: str
    title: str
    ready: str
    """Part of its line when it listens."""


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("rust", "Rust core", "listening"),
        Contender("relay", "moq-relay", "certificate sha256"),
        Contender("sources", "moq-relay, sources", "certificate sha256"),
    )
}
REFERENCE = "rust"

PURE = "MOQ_RELAY_PURE"
"""Of the environment: 1 lets the relay's sources run."""


class RelayFailedError(RuntimeError):
    """A relay did not start, or ended during a run. Holds its last output."""


class RunningRelay:
    """A relay process: `async with RunningRelay(contender, peer_python) as relay`."""

    def __init__(self, contender: Contender, peer_python: Path = Path(sys.executable)) -> None:
        self._contender = contender
        self._peer_python = peer_python
        self._folder = tempfile.TemporaryDirectory(prefix="moq-bench-")
        self._log = Path(self._folder.name) / "log"
        self._process: asyncio.subprocess.Process | None = None
        self.port = self.internal = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/"

    async def __aenter__(self) -> Self:
        self.port, self.internal = free_ports()
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=_environment(sources=self._contender.name == "sources"),
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(START_S):
                while self._contender.ready not in self.said():
                    self.check()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            what = self._explain(f"did not start within {START_S:g} s")
            await self._stop()
            raise RelayFailedError(what) from None
        except RelayFailedError:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    def check(self) -> None:
        assert self._process is not None
        if (status := self._process.returncode) is not None:
            raise RelayFailedError(self._explain(f"ended with status {status}"))

    def _command(self) -> list[str]:
        if self._contender.name == "rust":
            return [str(self._peer_python), "-u", "-m", "bench.peer_relay", str(self.port)]
        config = Path(self._folder.name) / "relay.toml"
        native = str(self._contender.name == "relay").lower()
        config.write_text(CONFIG.format(port=self.port, internal=self.internal, native=native))
        return [sys.executable, "-u", "-m", "relay.cli", str(config)]

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def _explain(self, what: str) -> str:
        lines = self.said().splitlines()[-20:] or ["(nothing)"]
        return "\n    ".join([f"the relay `{self._contender.name}` {what}; its last lines:", *lines])

    async def _stop(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            await end(process)
        self._folder.cleanup()


async def end(process: asyncio.subprocess.Process) -> None:
    """Terminate the process, then kill it."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _environment(*, sources: bool) -> dict[str, str]:
    """Without variables that configure a relay. With `sources` nothing compiled runs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOQ_") or name == PURE}
    return kept | ({PURE: "1"} if sources else {})


def free_ports() -> tuple[int, int]:
    """Free for UDP and TCP, on 127.0.0.1."""
    with contextlib.ExitStack() as sockets:
        found: list[int] = []
        while len(found) < 2:
            udp = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            udp.bind(("127.0.0.1", 0))
            tcp = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with contextlib.suppress(OSError):
                tcp.bind(udp.getsockname())
                found.append(udp.getsockname()[1])
        return found[0], found[1]
