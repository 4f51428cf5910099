"""qlog files: the packets of each QUIC connection, for qvis and other tools.

Owns a directory of files, one per closed connection, limited in number and events. Must never record payloads
or HTTP headers, which hold tokens. Connections with a trace use aioquic for all packets.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from aioquic.h3.events import Headers
from aioquic.quic.logger import QLOG_VERSION, QuicLogger, QuicLoggerTrace

from relay.logger import get_logger

logger = get_logger("relay.transport")

NAME: Final = re.compile(r"[0-9a-f]{16,40}\.qlog")
"""Our file names, by the client's first connection id. Other files are left alone."""


class Trace(QuicLoggerTrace):
    """The events of one connection. Beyond `most`, the first half and the newest half are kept."""

    def __init__(self, *, is_client: bool, odcid: bytes, most: int) -> None:
        super().__init__(is_client=is_client, odcid=odcid)
        self.name = f"{odcid.hex()}.qlog"
        self.received = False  # a packet of the peer was decrypted
        self.over = False
        self._half = most // 2
        self._first: list[dict[str, Any]] = []
        self._first_weight = 0
        self._last: deque[tuple[int, dict[str, Any]]] = deque()
        self._last_weight = 0
        self._dropped = 0
        self._open: dict[str, Any] | None = None  # the newest event, whose frames may still be filled in

    def log_event(self, *, category: str, event: str, data: dict[str, Any]) -> None:
        if self.over:
            return
        self._settle()
        self.received = self.received or event == "packet_received"
        super().log_event(category=category, event=event, data=data)
        self._open = self._events.pop()

    def encode_http3_headers_frame(self, length: int, headers: Headers, stream_id: int) -> dict[str, Any]:  # noqa: ARG002
        """Omit the headers: paths hold tokens."""
        return {"frame": {"frame_type": "headers"}, "length": length, "stream_id": stream_id}

    def to_dict(self) -> dict[str, Any]:
        self._settle()
        trace = super().to_dict()
        trace["events"] = [*self._first, *(event for _, event in self._last)]
        if self._dropped:
            trace["common_fields"]["dropped_events"] = self._dropped
        return trace

    def _settle(self) -> None:
        """Store the newest event. Its weight counts frames and ranges: a packet may be full of them."""
        event, self._open = self._open, None
        if event is None:
            return
        weight = 1 + sum(map(_weight, event["data"].values()))
        if not self._last and self._first_weight + weight <= self._half:
            self._first.append(event)
            self._first_weight += weight
            return
        self._last.append((weight, event))
        self._last_weight += weight
        while self._last_weight > self._half:
            self._last_weight -= self._last.popleft()[0]
            self._dropped += 1


def _weight(value: object) -> int:
    if isinstance(value, dict):
        return sum(map(_weight, value.values()))
    if isinstance(value, list):
        return sum(1 + _weight(each) for each in value)
    return 0


class QlogDirectory(QuicLogger):
    """The files, and the connections being logged. A thread writes."""

    def __init__(self, directory: Path, *, files: int, events: int) -> None:
        """Keep `files` files, log as many connections at a time, with `events` events each."""
        super().__init__()
        self._directory = directory
        self._files = files
        self._events = events
        self._live: set[Trace] = set()  # traces of open connections and traces not yet written
        self._writer = ThreadPoolExecutor(1, "qlog")
        self._failing = False

    @property
    def full(self) -> bool:
        return len(self._live) >= self._files

    def start_trace(self, is_client: bool, odcid: bytes) -> Trace:  # noqa: FBT001 - as the original
        trace = Trace(is_client=is_client, odcid=odcid, most=self._events)
        self._live.add(trace)
        return trace

    def end_trace(self, trace: QuicLoggerTrace) -> None:
        """Write the file of a closed connection, unless it received only noise."""
        assert isinstance(trace, Trace)
        trace.over = True
        if not trace.received:
            self._live.discard(trace)
            return

        def done(_: Future[None]) -> None:
            self._live.discard(trace)

        self._writer.submit(self._write, trace).add_done_callback(done)

    async def close(self) -> None:
        """Wait until everything is written."""
        await asyncio.get_running_loop().run_in_executor(None, self._writer.shutdown)

    def _write(self, trace: Trace) -> None:
        document = {"qlog_format": "JSON", "qlog_version": QLOG_VERSION, "traces": [trace.to_dict()]}
        path = self._directory / trace.name
        unfinished = path.with_suffix(".part")
        try:
            unfinished.write_text(json.dumps(document, separators=(",", ":")))
            unfinished.replace(path)
            self._prune()
        except OSError as error:
            if not self._failing:
                logger.warning("no qlog", directory=self._directory, reason=error.strerror or error)
            self._failing = True
        else:
            self._failing = False

    def _prune(self) -> None:
        with os.scandir(self._directory) as entries:
            found = [entry for entry in entries if NAME.fullmatch(entry.name)]
        if len(found) > self._files:
            found.sort(key=lambda entry: entry.stat().st_mtime_ns)
            for entry in found[: len(found) - self._files]:
                Path(entry.path).unlink(missing_ok=True)
