"""The relay's `/metrics` and its process, as one flat row a second."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from typing import Final

from bench import proc
from bench.contenders import RelayFailedError, RunningRelay

Row = dict[str, float]

PATIENCE_S: Final = 60.0
"""A scrape takes some thirty loop turns of the relay, which may be seconds on a busy machine."""
LINE: Final = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)$", re.MULTILINE)

LEFTOVERS: Final = {
    "sessions": "moq_relay_sessions",
    "quic connections": "moq_relay_quic_connections",
    "broadcasts": "moq_relay_broadcasts",
    "tracks": "moq_relay_tracks",
    "viewers": "moq_relay_viewers",
    "cached bytes": "moq_relay_cached_bytes",
    "cached groups": "moq_relay_cached_groups",
    "tasks": "moq_relay_tasks",
    "file descriptors": "process_open_fds",
}
"""Values that must return to their baseline, actors by kind: column and metric."""

FIGURES: Final = {
    "inbox": "moq_relay_inbox_messages_max",
    "lag worst": "moq_relay_event_loop_lag_seconds",
    "groups received": "moq_relay_groups_received_total",
    "groups sent": "moq_relay_groups_sent_total",
    "groups dropped": "moq_relay_groups_dropped_total",
    "sessions accepted": "moq_relay_sessions_accepted_total",
    "subscriptions": "moq_relay_subscriptions_total",
}
ACTORS: Final = "actors: "
DELAY: Final = "delay <= "
"""Prefix of histogram columns; each counts measurements up to that many seconds."""


def row_of(text: str) -> Row:
    """The columns of `/metrics`; values of one name are added."""
    sums: Row = {}
    row: Row = {}
    for found in LINE.finditer(text):
        name, labels, value = found["name"], found["labels"] or "", float(found["value"])
        sums[name] = sums.get(name, 0.0) + value
        if name == "moq_relay_actors":
            row[ACTORS + labels.partition('"')[2].rstrip('"')] = value
        elif name == "moq_relay_event_loop_delay_seconds_bucket":
            row[DELAY + labels.partition('"')[2].rstrip('"')] = value
    return row | {column: sums.get(name, 0.0) for column, name in (LEFTOVERS | FIGURES).items()}


class Sampler:
    """Reads one relay repeatedly. Cores are those used since the previous row."""

    def __init__(self, relay: RunningRelay) -> None:
        self.load: list[int] = []
        """Load processes, for their CPU."""
        self._relay = relay
        self._url = f"http://127.0.0.1:{relay.internal}/metrics"
        self._begin = self._at = time.monotonic()
        self._spent = proc.spent(relay.pid)
        self._loads: dict[int, proc.Spent] = {}
        self._busy = proc.machine_busy()

    async def row(self) -> Row:
        """Raises RelayFailedError if the relay has ended or does not answer."""
        self._relay.check()
        try:
            text = await asyncio.to_thread(self._get)
        except OSError as error:
            self._relay.check()
            raise RelayFailedError(f"the relay does not answer on /metrics: {error}") from error
        now, spent, busy = time.monotonic(), proc.spent(self._relay.pid), proc.machine_busy()
        loads = {pid: proc.spent(pid) for pid in self.load}
        wall = now - self._at
        row = row_of(text) | {
            "seconds": now - self._begin,
            "rss": float(proc.memory(self._relay.pid)),
            "cores": spent.since(self._spent) / wall,
            "cores of the load": sum(
                loads[pid].since(self._loads[pid]) for pid in loads if pid in self._loads
            ) / wall,
            "cores of the machine": (busy - self._busy) / wall,
        }  # fmt: skip
        self._at, self._spent, self._loads, self._busy = now, spent, loads, busy
        return row

    def _get(self) -> str:
        with urllib.request.urlopen(self._url, timeout=PATIENCE_S) as response:
            return str(response.read().decode())
