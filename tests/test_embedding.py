"""docs/embedding.md: its examples run, and its promises hold."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import relay
from relay.client import Client
from relay.config import Address, Auth, Config, Internal, Server, ServerTls
from tests.public_api import FILE, public_api

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "embedding.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def config() -> Config:
    anywhere = Address("localhost", 0)
    return Config(
        server=Server(listen=anywhere, tls=ServerTls(generate=("localhost",))),
        internal=Internal(listen=anywhere),
        auth=Auth(public=""),
    )


async def run(example: str) -> None:
    """As a program of its own."""
    code = compile(example, "docs/embedding.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    pending = eval(code, {"__name__": "example"})
    if inspect.isawaitable(pending):
        await pending


async def carried(server: relay.Relay) -> bytes:
    """A frame that a viewer got through the relay."""
    async with await Client.connect(server.url) as publisher, await Client.connect(server.url) as viewer:
        group = publisher.publish("demo/cam").track("video/hd").group()
        group.write(b"a frame")
        group.finish()
        await viewer.announced().wait_for("demo/cam")
        async for received in await viewer.subscribe("demo/cam", "video/hd"):
            return (await received.read_all())[0].payload
    raise AssertionError("no group")


def test_public_names_and_signatures_are_as_written_down() -> None:
    assert public_api() == FILE.read_text().splitlines(), (
        "if the change is meant: python -m tests.public_api > tests/public_api.txt, and a line in CHANGELOG.md"
    )


def test_the_page_names_every_member_of_a_relay() -> None:
    names = {line.split("(")[0].rpartition(".")[2] for line in public_api() if ".Relay." in line}
    assert names - set(re.findall(r"relay\.(\w+)", PAGE)) == set()
    for name in relay.__all__:
        assert f"`relay.{name}`" in PAGE


def test_a_relay_is_imported_on_first_use() -> None:
    code = (
        "import sys, relay; print('aioquic' in sys.modules, 'pydantic' in sys.modules); "
        "print(relay.config.Config.__name__, relay.client.Client.__name__, relay.Relay.__name__)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False False\nConfig Client Relay\n"
    with pytest.raises(AttributeError, match="module 'relay' has no attribute 'nothing'"):
        _ = relay.nothing


@pytest.mark.e2e
async def test_publish_and_watch(capsys: pytest.CaptureFixture[str]) -> None:
    await run(EXAMPLES[0])
    assert capsys.readouterr().out == "b'a frame'\n"


async def test_faults_of_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await run(EXAMPLES[1])
    assert capsys.readouterr().out == "relay.toml: no such file\n"


@pytest.mark.e2e
async def test_drain_on_a_signal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Config, "demo", config)  # any port
    example = asyncio.create_task(run(EXAMPLES[2]))
    try:
        while not (out := capsys.readouterr().out):
            assert not example.done(), example.result()
            await asyncio.sleep(0.01)
        assert out.startswith("http://localhost:")
        os.kill(os.getpid(), signal.SIGTERM)
        await example
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


@pytest.mark.e2e
async def test_several_relays_in_one_loop_in_a_thread(capsys: pytest.CaptureFixture[str]) -> None:
    before = set(threading.enumerate())
    await run(EXAMPLES[3])
    for thread in set(threading.enumerate()) - before:
        await asyncio.to_thread(thread.join)
    assert len(set(capsys.readouterr().out.split())) == 2
    assert len(EXAMPLES) == 4


@pytest.mark.e2e
async def test_relays_in_loops_of_several_threads_carry_frames_at_the_same_time() -> None:
    async def one() -> bytes:
        async with relay.Relay(config()) as server:
            together.wait()
            return await carried(server)

    together = threading.Barrier(3, timeout=60)
    found = await asyncio.gather(*(asyncio.to_thread(asyncio.run, one()) for _ in range(3)))
    assert found == [b"a frame"] * 3


@pytest.mark.e2e
async def test_close_at_any_time_and_again() -> None:
    for started in (False, True):
        server = relay.Relay(config())
        if started:
            await server.start()
        await server.close()
        await server.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.e2e
async def test_a_cancelled_relay_leaves_nothing() -> None:
    started = asyncio.Event()

    async def serve() -> None:
        async with relay.Relay(config()):
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.e2e
async def test_logging_and_signals_are_left_alone() -> None:
    def settings() -> object:
        logger = logging.getLogger("relay")
        signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        return logger.level, list(logger.handlers), list(logging.root.handlers), logging.root.level, signals

    before = settings()
    async with relay.Relay(config()):
        assert settings() == before
    assert settings() == before
