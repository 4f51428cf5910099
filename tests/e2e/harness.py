"""Real peers as subprocesses, for tests against a relay on loopback.

    async with RustPeer("0.5.1", "publish", url, "demo/cam", "--track", "video", "--hold") as peer:
        await peer.wait_for("track_request", name="video")
        await peer.send_line("finish")
        await peer.wait_for("track_released")
        assert peer.count("track_request") == 1

A peer prints one JSON object a line. `EventLog` keeps them: a wait may begin after its event.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import fcntl
import functools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
RUST_PEER = "tests.e2e.peers.rust_peer"
VENVS = ROOT / ".venv-peers"
AIOMOQT = "0.13.3"
CLOSE_S = 10.0
WITHIN = 60.0  # seconds that anything may take on a busy machine
INSTALL_S = 600.0
LINE_LIMIT = 1 << 26  # bytes: a viewer's result is one line
# below the ephemeral ports: a client's socket could take a free one of these
PORTS = range(20_000, 32_000)

Event = dict[str, Any]


class PeerError(AssertionError):
    """A peer ended, or time ran out, before the event. Holds its events and its stderr."""


class EventLog:
    """The events of one peer, in order. Subclasses call `_add` and `_end`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[Event] = []
        self.stderr: collections.deque[str] = collections.deque(maxlen=100)
        self._ended = False
        self._changed = asyncio.Event()

    def find(self, event: str, **match: object) -> list[Event]:
        """Events so far with these fields."""
        return [
            e for e in self.events if e.get("event") == event and all(e.get(k) == v for k, v in match.items())
        ]

    def count(self, event: str, **match: object) -> int:
        return len(self.find(event, **match))

    async def wait_for(self, event: str, within: float = WITHIN, *, nth: int = 1, **match: object) -> Event:
        """The nth such event since the start.

        Raises PeerError, at once if the peer has ended.
        """
        try:
            async with asyncio.timeout(within):
                while len(found := self.find(event, **match)) < nth:
                    if self._ended:
                        raise PeerError(self._explain(event, match, nth, "the peer has ended"))
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise PeerError(self._explain(event, match, nth, f"{within} s are over")) from None
        return found[nth - 1]

    def _add(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    def _end(self) -> None:
        self._ended = True
        self._changed.set()

    def _explain(self, event: str, match: dict[str, object], nth: int, why: str) -> str:
        short = [json.dumps(e)[:400] for e in self.events[-20:]]
        lines = [f"{self.name}: no {event} {match or ''} number {nth}: {why}", "events:", *short]
        return "\n".join([*lines, "stderr:", *list(self.stderr)[-20:]])


class Peer(EventLog):
    """A subprocess that prints events. Other lines become `line` events."""

    def __init__(self, command: Sequence[str | Path], name: str = "") -> None:
        self._command = [str(part) for part in command]
        super().__init__(name or " ".join(self._command))
        self._process: asyncio.subprocess.Process | None = None
        self._readers: asyncio.Future[Any] | None = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def process(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    @property
    def returncode(self) -> int | None:
        return self.process.returncode

    async def start(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT, limit=LINE_LIMIT
        )
        self._readers = asyncio.gather(
            self._read_events(self._process.stdout), self._read_stderr(self._process.stderr)
        )
        return self

    async def send_line(self, text: str) -> None:
        stdin = self.process.stdin
        assert stdin is not None
        stdin.write(f"{text}\n".encode())
        await stdin.drain()

    async def finish(self, within: float = CLOSE_S) -> int:
        """Ends stdin: the peer reports and exits. Returns the exit status."""
        stdin = self.process.stdin
        assert stdin is not None
        stdin.close()
        return await self.wait(within)

    async def close(self, within: float = CLOSE_S) -> int:
        """Terminates the process, then kills it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            return await self.wait(within)
        except TimeoutError:
            return await self.kill()

    async def kill(self) -> int:
        """Like a crash: no close, no result."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        return await self.wait(CLOSE_S)

    async def wait(self, within: float) -> int:
        """Until the process ends and its output is read. Raises TimeoutError."""
        assert self._readers is not None
        async with asyncio.timeout(within):
            status = await self.process.wait()
            await asyncio.shield(self._readers)
        return status

    async def _read_events(self, lines: asyncio.StreamReader | None) -> None:
        assert lines is not None
        async for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            text = line.decode(errors="replace").rstrip("\n")
            self._add(event if isinstance(event, dict) else {"event": "line", "text": text})
        self._end()

    async def _read_stderr(self, lines: asyncio.StreamReader | None) -> None:
        assert lines is not None
        async for line in lines:
            self.stderr.append(line.decode(errors="replace").rstrip("\n"))


class RustPeer(Peer):
    """See `peers/rust_peer.py` for commands and events."""

    def __init__(self, version: str, command: str, *args: object) -> None:
        self._version = version
        words = [command, *map(str, args)]
        super().__init__(["-m", RUST_PEER, *words], f"moq-rs {version} {' '.join(words)}")

    async def start(self) -> Self:
        # in a thread: the test's loop may run a relay meanwhile
        self._command[:0] = [str(await asyncio.to_thread(peer_python, self._version))]
        return await super().start()


@functools.cache
def peer_python(version: str) -> Path:
    """Python of a virtual environment with that moq-rs, made if missing. Raises RuntimeError with pip's output."""
    return _environment(f"moq-rs=={version}", sys.executable) / "python"


@functools.cache
def aiomoqt() -> Path | None:
    """Folder of the commands of aiomoqt, in an environment that is made if missing; `None` without Python 3.12."""
    base = _python_312()
    return None if base is None else _environment(f"aiomoqt=={AIOMOQT}", base)


def _environment(package: str, base: str) -> Path:
    """The `bin` of a virtual environment with a package, made by the Python `base`.

    Concurrent processes wait for the first one. Raises RuntimeError with pip's output.
    """
    home = VENVS / package.replace("==", "-")
    VENVS.mkdir(exist_ok=True)
    (VENVS / ".gitignore").write_text("*\n")
    with (VENVS / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            _install(base, "-m", "venv", "--without-pip", str(home))
            pip = ("-m", "pip", "--disable-pip-version-check", "--python", str(home / "bin" / "python"))
            _install(sys.executable, *pip, "install", "--quiet", package)
            (home / "complete").touch()
    return home / "bin"


def _python_312() -> str | None:
    """A Python of 3.12 or newer: this one, one on the PATH, or one of pyenv's."""
    if sys.version_info >= (3, 12):
        return sys.executable
    names = ("python3.14", "python3.13", "python3.12")
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [str(path) for path in sorted(pyenv.glob("3.1[2-9]*/bin/python"), reverse=True)]
    found += [path for name in names if (path := shutil.which(name))]
    for python in found:
        if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            return python
    return None


@functools.cache
def npm_modules(package: str) -> Path:
    """A folder with an npm package and all that it needs, which is made when it is missing.

    Concurrent processes wait for the first. Raises RuntimeError with npm's output.
    """
    home = VENVS / f"npm-{package.lstrip('@').replace('/', '-')}"
    VENVS.mkdir(exist_ok=True)
    (VENVS / ".gitignore").write_text("*\n")
    with (VENVS / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            options = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-save")
            _install("npm", "install", "--prefix", str(home), package, *options)
            (home / "complete").touch()
    return home / "node_modules"


def _install(*command: str) -> None:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}")


_given_ports: set[int] = set()


def free_udp_port() -> int:
    """Free for UDP and for TCP, on 127.0.0.1 and (with IPv6) on ::1.

    Never the same twice in a process. Raises OSError.
    """
    for _ in PORTS:
        port = random.choice(PORTS)
        if port not in _given_ports and _is_free(port):
            _given_ports.add(port)
            return port
    raise OSError("no free port")


def _is_free(port: int) -> bool:
    with contextlib.ExitStack() as sockets:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                try:
                    sockets.enter_context(socket.socket(family, kind)).bind((host, port))
                except OSError as error:
                    if family == socket.AF_INET6 and error.errno != errno.EADDRINUSE:
                        continue  # no IPv6 here
                    return False
    return True
