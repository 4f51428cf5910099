"""Runs every transcript of docs/http.md against a relay and compares.

A block of ```console is a transcript: lines after `$ ` are commands, lines after `> ` continue them, the others are
the output. `...` in the output stands for anything; a last line `^C` ends the command once the output is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from relay.app import Relay
from relay.client import Client
from relay.config import Address, Auth, Https
from tests.e2e.http_support import WITHIN, certificate, install, key_file, live, token
from tests.e2e.support import config

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "http.md"
LEAVE = "^C"


class Step(NamedTuple):
    command: str
    output: str


def steps(page: str) -> list[Step]:
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        assert block.startswith("$ ")
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.rstrip("\n").split("\n")
            more = [line for line in lines[1:] if line.startswith("> ")]
            command = "\n".join([lines[0], *(line[2:] for line in more)])
            found.append(Step(command, "\n".join(lines[1 + len(more) :])))
    return found


def pattern(output: str) -> re.Pattern[str]:
    return re.compile(re.escape(output).replace(re.escape("..."), ".*?") + r"\n?", re.DOTALL)


@contextlib.asynccontextmanager
async def described(folder: Path) -> AsyncIterator[dict[str, str]]:
    """The page's relay and publisher; yields replacements of its addresses."""
    cert, key = install(folder, certificate())
    base = config()
    web = base.web.model_copy(
        update={"https": Https(listen=Address("localhost", 0), cert=cert, key=key)},
    )
    auth = Auth(key=key_file(folder), public="demo")
    async with Relay(base.model_copy(update={"web": web, "auth": auth})) as relay:
        listen = {name: found[0].rpartition(":")[2] for name, found in relay.identity().listen.items()}
        url = f"{relay.url}?jwt={token(root='', put=[''])}"
        async with await Client.connect(url) as client:
            cam = client.publish("demo/cam")
            video = cam.track("video/hd")
            cam.track("silent")
            for group, first in ((("first",), 1000), (("hello", "world"), 2000)):
                writer = video.group()
                for number, text in enumerate(group):
                    writer.write(f"{text}\n".encode(), timestamp=first + 1000 * number)
                writer.finish()
            for publication in (cam, client.publish("private/cam")):
                await live(relay, publication)
            yield {
                "localhost:4443": f"localhost:{listen['http']}",
                "localhost:5443": f"localhost:{listen['internal']}",
                "localhost:8443": f"localhost:{listen['https']}",
                ".venv/bin/python": sys.executable,
                "python3": sys.executable,
                "curl ": "curl --silent ",
            }


async def run(command: str, folder: Path, expected: str) -> str:
    process = await asyncio.create_subprocess_shell(
        command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        start_new_session=True,  # ends all of a pipeline
        env={**os.environ, "TOKEN": token(root="private", get=[""])},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WITHIN):
            if expected.endswith(LEAVE):
                size = len(expected.removesuffix(LEAVE).encode())
                return (await process.stdout.readexactly(size)).decode() + LEAVE
            return (await process.stdout.read()).decode()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def test_every_transcript_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.web.fetching.FETCH_TIMEOUT", 0.5)
    wrong = []
    async with described(tmp_path) as places:
        for step in steps(PAGE.read_text()):
            command = step.command
            for place, real in places.items():
                command = command.replace(place, real)
            output = await run(command, tmp_path, step.output)
            if not pattern(step.output).fullmatch(output):
                wrong.append(f"$ {step.command}\n{step.output}\n--- but was:\n{output}")
    assert wrong == []


def test_the_page_covers_every_route_and_option() -> None:
    commands = "\n".join(step.command for step in steps(PAGE.read_text()))
    for part in (
        *("/certificate.sha256", "/announced/", "/fetch/", "/state", "/health", "/metrics"),
        *("/history", "/events", "/close"),
        *("group=", "frames=1", "follow=1", "track=", "application/json", "application/msgpack", "?jwt="),
    ):
        assert part in commands, part
    outputs = {step.output.rpartition("\n")[2] for step in steps(PAGE.read_text())}
    assert {"400", "401", "403", "404", "405", "504"} <= outputs
