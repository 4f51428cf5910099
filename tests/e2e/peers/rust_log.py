"""Facts from the log of moq-rs: the protocol version, and every request on the wire.

The library answers repeated requests for a track from one track object, so only its log can count them. `capture`
redirects file descriptor 2, where the log goes. The wording is that of moq-rs 0.5.1 and 0.3.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator

import moq_ffi  # type: ignore[import-not-found, import-untyped, unused-ignore]

from tests.e2e.peers.rust_client import NEW, emit

ANSI = re.compile(r"\x1b\[[0-9;]*m")
LINE = re.compile(r" (moq_\w+(?:::\w+)*): (.*)$")
FIELD = re.compile(r"\b(id|broadcast|track|version)(?:=|: )([^\s,]+)")


class Log:
    """Turns lines of the log into events."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._counts: dict[tuple[str, str], int] = {}

    @contextlib.contextmanager
    def capture(self, level: str) -> Iterator[None]:
        read, write = os.pipe()
        stderr = os.dup(2)
        os.dup2(write, 2)
        os.close(write)
        pump = threading.Thread(target=self._pump, args=(read, stderr))
        pump.start()
        moq_ffi.moq_log_level(level)
        try:
            yield
        finally:
            os.dup2(stderr, 2)  # closes the only write end, which ends the thread
            pump.join()

    def _pump(self, read: int, stderr: int) -> None:
        with os.fdopen(read, errors="replace") as lines:
            for line in lines:
                plain = ANSI.sub("", line)
                os.write(stderr, plain.encode())
                if found := LINE.search(plain):
                    self._loop.call_soon_threadsafe(self._on_line, found[1], found[2])

    def _on_line(self, module: str, text: str) -> None:
        fields = dict(reversed(FIELD.findall(text)))  # the first of each name counts
        name = fields.get("track", "")
        track = {"broadcast": fields.get("broadcast"), "name": name}
        match module.rsplit("::", 1)[-1], text.split(" ")[:3]:
            case "client", ["connected", *_]:
                emit("negotiated", version=fields.get("version"))
            case "websocket", _:  # for https:// URLs 0.3 tries it beside QUIC, and takes the first
                emit("websocket", text=text)
            case "publisher", ["track", "info", "started"]:
                emit("track_info", **track, count=self._count("info", name))
            case "publisher", ["subscribed" | "subscribe", "started", *_]:  # of moq-lite, moq-transport
                self._count("live", name)
                count = self._count("requests", name)
                emit("track_request", **track, id=int(fields["id"]), count=count, request=text)
            case "publisher", ["subscribed", "cancelled" | "complete" | "error" as how, *_]:
                emit("track_released", **track, how=how, live=self._count("live", name, -1))
            case "subscriber", ["subscribe", "started", *_]:
                emit("subscribe_sent", **track, count=self._count("sent", name))
            case "subscriber", ["unannounced", *_] if not NEW:  # its only sign of it
                emit("unannounce", path=fields.get("broadcast"))

    def _count(self, what: str, name: str, step: int = 1) -> int:
        self._counts[what, name] = self.count(what, name) + step
        self._changed.set()
        return self._counts[what, name]

    def count(self, what: str, name: str) -> int:
        return self._counts.get((what, name), 0)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()
