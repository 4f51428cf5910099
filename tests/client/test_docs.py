"""Runs the examples of docs/client.md against a relay: they print what the page says."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

import relay
from relay import client as library
from relay.client import Client
from relay.client.endpoint import CLOSE_TIMEOUT, KEPT, SETUP_TIMEOUT
from relay.client.publishing import KEPT_GROUPS
from relay.config import Address, Auth, Config, Internal, Server, ServerTls

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "client.md").read_text()
URL = "http://localhost:4443/"


class Example(NamedTuple):
    title: str
    code: str
    output: str


def examples() -> list[Example]:
    found = []
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0]
        for code, output in re.findall(
            r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", section, re.DOTALL | re.MULTILINE
        ):
            found.append(Example(title, code, output))
    return found


EXAMPLES = examples()


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[str]:
    """A relay with a camera: one group of three frames, and the end of the track. Gives the relay's URL."""
    anywhere = Address("localhost", 0)
    config = Config(
        server=Server(listen=anywhere, tls=ServerTls(generate=("localhost",))),
        internal=Internal(listen=anywhere),
        auth=Auth(public=""),
    )
    async with relay.Relay(config) as server, await Client.connect(server.url) as camera:
        track = camera.publish("demo/cam").track("video/hd", timescale=1000)
        group = track.group()
        for number, payload in enumerate((b"key", b"delta", b"delta")):
            group.write(payload, 40 * number)
        group.finish()
        track.finish()
        async with await Client.connect(server.url) as guest:
            await guest.announced().wait_for("demo/cam")
        yield server.url


async def run(code: str, url: str) -> None:
    """As a program of its own."""
    assert URL in code
    program = compile(code.replace(URL, url), "docs/client.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    pending = eval(program, {"__name__": "example"})
    if inspect.isawaitable(pending):
        await pending


async def heard(url: str) -> list[tuple[int | None, bytes]]:
    """The groups of the publishing example."""
    async with await Client.connect(url) as viewer:
        await viewer.announced().wait_for("demo/mic")
        groups = [group async for group in await viewer.subscribe("demo/mic", "audio/data")]
        return [(frame.timestamp, frame.payload) for group in groups for frame in await group.read_all()]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
async def test_an_example_prints_what_the_page_says(example: Example) -> None:
    async with stage() as url:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if example.title.startswith("Publish"):
                viewer = asyncio.ensure_future(heard(url))
                await run(example.code, url)
                assert await viewer == [(0, b"first"), (960, b"second")]
            elif "threading" in example.code:
                await asyncio.to_thread(lambda: asyncio.run(run(example.code, url)))
            else:
                await run(example.code, url)
        assert printed.getvalue() == example.output


def test_every_section_has_an_example() -> None:
    assert [example.title for example in EXAMPLES] == re.findall(r"^## (.*)$", PAGE, re.MULTILINE)


def test_the_page_names_all_that_the_library_has() -> None:
    shown = {
        *("Client", "ClientTls", "ConnectError", "ClientError", "RequestError", "SessionEnded"),
        *("SubscribeError", "GroupAborted", "FetchError", "TrackInfoError", "AnnounceError"),
    }
    assert all(f"`{name}" in PAGE or f"import {name}" in PAGE for name in shown)
    # its methods return the others
    returned = {"Announced", "Change", "Frame", "GroupReader", "GroupWriter", "Publication", "Subscription"}
    assert shown | returned | {"TrackWriter", "Wanted"} == set(library.__all__)


def test_the_numbers_on_the_page() -> None:
    text = " ".join(PAGE.split())
    for said in (
        f"latest {KEPT_GROUPS} groups (`keep`)",
        f"of more than {KEPT} unread groups",
        f"for {CLOSE_TIMEOUT:g} seconds at most",
        f"and again for the set-up; {SETUP_TIMEOUT:g} by default",
    ):
        assert said in text, said
