"""Path of a frame through the code: from the datagram that brings it to the call that sends it to a viewer.

Counts, no times: files of relay/, returns to a file that was left before, and calls, equal on every machine.
`docs/architecture.md` has a table of them.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

import relay
from relay.app import Relay
from relay.client import Client
from relay.quic import packet_keys
from relay.transport.client import ClientTls
from relay.transport.quic_session import QuicSession
from tests.e2e.support import running, webtransport

pytestmark = [
    pytest.mark.interpreted,  # calls of compiled functions are not seen
    pytest.mark.timeout(60),
    pytest.mark.skipif(
        not packet_keys.NATIVE, reason="the kernel is not built, without it there are more calls"
    ),
]

SOURCE = f"{Path(relay.__file__).parent}/"

QUIET = 0.15
"""Seconds in which all acknowledgements have come."""

ROUNDS = 7
"""Traced frames. The median counts: a timer, or another datagram, may come in between."""


class Figures(NamedTuple):
    files: int
    returns: int
    calls: int


BUDGET = Figures(14, 8, 60)
"""The goal. The test allows twice as much."""

BOUNDS = {"frame": Figures(42, 67, 148), "group": Figures(46, 135, 269)}
"""While the path is longer than twice the budget: its length when this was written, plus 5 %."""


class Trace:
    """Calls from one sender's datagram until the relay sends to somebody else."""

    def __init__(self, port: int) -> None:
        self.port = port
        """Of the datagram's sender."""
        self.steps: list[str] = []
        """The file of each call."""
        self._begun = False
        self._sending = False

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """For `sys.setprofile`."""
        if event == "c_call":
            if self._sending and arg.__name__ in ("sendmsg", "send", "sendto"):
                sys.setprofile(None)
            return
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(SOURCE):
            return
        if code.co_name == "on_datagram" and type(frame.f_locals["self"]).__name__ == "QuicServer":
            self._begun = frame.f_locals["address"][1] == self.port
            self.steps.clear()
        if self._begun:
            self.steps.append(code.co_filename.removeprefix(SOURCE))
            self._sending = code.co_name in ("send_all", "send", "_send") and (
                "address" in frame.f_locals and frame.f_locals["address"][1] != self.port
            )

    @property
    def figures(self) -> Figures:
        entered = [
            file for before, file in zip(["", *self.steps], self.steps, strict=False) if file != before
        ]
        return Figures(len(set(entered)), len(entered) - len(set(entered)), len(self.steps))

    def table(self) -> str:
        """Calls by file, in order of entry."""
        return "\n".join(f"{count:4} {file}" for file, count in Counter(self.steps).items())


@contextmanager
def tracing(relay: Relay, port: int) -> Iterator[Trace]:
    assert relay._quic is not None
    for connection in relay._quic.connections:
        connection.cost.ordinary, connection.cost.measured = 10.0, 0  # tracing slows packets
    trace = Trace(port)
    sys.setprofile(trace)
    try:
        yield trace
    finally:
        sys.setprofile(None)


@asynccontextmanager
async def client(relay: Relay) -> AsyncIterator[Client]:
    made = await Client.connect(webtransport(relay), tls=ClientTls(disable_verify=True))
    async with made:
        yield made


async def usual(kind: str) -> Trace:
    """From a publisher to one viewer: a `frame` of an open group, or a `group` of one frame."""
    traces = []
    async with running() as relay, client(relay) as publisher, client(relay) as viewer:
        track = publisher.publish("demo/cam").track("video/hd")
        await viewer.announced().wait_for("demo/cam")
        groups = await viewer.subscribe("demo/cam", "video/hd")
        assert isinstance(publisher.session, QuicSession)
        port = publisher.session.driver.sock.address[1]
        group = track.group()
        group.write(b"first")
        received = await anext(groups)
        await anext(received)
        if kind == "group":
            group.finish()
        for _ in range(ROUNDS):
            await asyncio.sleep(QUIET)
            if kind == "group":
                group = track.group()
            with tracing(relay, port) as trace:
                group.write(bytes(500))
                if kind == "group":
                    group.finish()
                    received = await anext(groups)
                await anext(received)
            traces.append(trace)
    return sorted(traces, key=lambda trace: trace.figures.calls)[ROUNDS // 2]


@pytest.mark.parametrize("kind", BOUNDS)
async def test_the_path_of_a_frame(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    trace = await usual(kind)
    figures = trace.figures
    assert figures.calls, "no datagram was seen"
    with capsys.disabled():
        text = f"{kind}: {figures.files} files, {figures.returns} returns, {figures.calls} calls"
        print(f"\n{text}")  # noqa: T201 - the figures are what the test is for
    bounds = [max(2 * most, bound) for most, bound in zip(BUDGET, BOUNDS[kind], strict=True)]
    assert all(value <= bound for value, bound in zip(figures, bounds, strict=True)), trace.table()
