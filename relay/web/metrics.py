"""`/metrics`: figures for Prometheus.

A scrape queries sessions; the counters actor has the tracks' reports, up to a second old, and all ended counts.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from relay.actors import messages as m
from relay.actors.counters import Counts, ListFigures, Totals, TrackFigures
from relay.actors.runtime import ask, inbox_depths
from relay.runtime import Runtime
from relay.web import state
from relay.web.state import Sources

LAG_INTERVAL: Final = 0.25  # seconds between measurements of the event loop's lag

LAG_WINDOW: Final = 15.0  # seconds of the worst lag: a usual scrape interval

LAG_BOUNDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds: below 10 ms is unnoticeable, a second is an outage."""

COUNTERS: Final = {
    "sessions": ("sessions accepted", ("transport", "version")),
    "announcements_received": ("announcements of peers", ()),
    "subscriptions": ("subscriptions of peers", ()),
    "groups_received": ("groups from publishers", ()),
    "frames_received": ("frames from publishers", ()),
    "payload_received": ("payload from publishers, in bytes", ()),
    "groups_sent": ("groups begun toward subscribers", ()),
    "groups_dropped": ("groups skipped for slow subscribers", ("reason",)),
    "streams_reset": ("streams refused or reset by the relay", ("reason",)),
    "bytes_received": ("bytes from peers, packets included", ("transport",)),
    "bytes_sent": ("bytes to peers, packets included", ("transport",)),
    "refused": ("sessions, requests and data rejected by a limit", ("limit",)),
    "segments_refused": ("segmented sends that the kernel refused", ()),
}
"""Help text and label names."""

NAMES: Final = {
    "sessions": "sessions_accepted",
    "payload_received": "payload_received_bytes",
    "bytes_received": "received_bytes",
    "bytes_sent": "sent_bytes",
}
"""Names with a unit, as Prometheus wants it, and names of gauges."""


class LoopLag:
    """The worst of the last seconds, and a histogram."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._counts = [0] * (len(LAG_BOUNDS) + 1)
        self._sum = 0.0
        self._seen: list[tuple[float, float]] = []
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        due = self._runtime.now() + LAG_INTERVAL
        self._handle = self._runtime.call_later(LAG_INTERVAL, self._look, due)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _look(self, due: float) -> None:
        now = self._runtime.now()
        self._seen = [(at, lag) for at, lag in self._seen if now - at < LAG_WINDOW]
        self._seen.append((now, now - due))
        self._counts[bisect_left(LAG_BOUNDS, now - due)] += 1
        self._sum += max(0.0, now - due)
        self.start()

    @property
    def worst(self) -> float:  # seconds
        return max((lag for _, lag in self._seen), default=0.0)

    def worst_since(self, seconds: float) -> float:
        """The worst of the last `seconds`, at most `LAG_WINDOW`; in seconds."""
        begin = self._runtime.now() - seconds
        return max((lag for at, lag in self._seen if at >= begin), default=0.0)

    def histogram(self) -> Metric:
        bounds = [*map(str, LAG_BOUNDS), "+Inf"]
        return HistogramMetricFamily(
            "moq_relay_event_loop_delay_seconds",
            f"how late the event loop was, looked at every {LAG_INTERVAL:g} seconds",
            buckets=list(zip(bounds, accumulate(self._counts), strict=True)),
            sum_value=self._sum,
        )


class _Snapshot(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


class Metrics:
    """Remembers counters, so that they never decrease."""

    def __init__(self, sources: Sources, lag: LoopLag) -> None:
        self._sources = sources
        self._lag = lag
        self._shown: Counter[tuple[str, str]] = Counter()
        self._process = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._process)

    async def render(self) -> tuple[bytes, str]:
        sources = self._sources
        gate = await state.gate_report(sources)
        sessions = await state.every(gate.connections, m.CountSession())
        announced = await ask(sources.origin, m.ListAnnounced(("",)), timeout=state.ASK_TIMEOUT)
        tracks = await ask(sources.counters, ListFigures(("",)), timeout=state.ASK_TIMEOUT)
        ended = await ask(sources.counters, Totals(), timeout=state.ASK_TIMEOUT)
        families = [
            *self._gauges(sessions, len(announced), tracks),
            *self._counters(sessions, ended, gate.refused),
        ]
        registry = CollectorRegistry()
        registry.register(_Snapshot(families))
        return generate_latest(registry) + generate_latest(self._process), CONTENT_TYPE_PLAIN_0_0_4

    def _gauges(
        self, counted: list[Counts], announced: int, tracks: tuple[TrackFigures, ...]
    ) -> list[Metric]:
        sessions = GaugeMetricFamily("moq_relay_sessions", "sessions now", labels=("transport", "version"))
        for labels, number in Counter(map(_kind, counted)).items():
            sessions.add_metric(labels, number)
        depths = inbox_depths(self._sources.runtime)
        actors = GaugeMetricFamily("moq_relay_actors", "actors alive in this process", labels=("kind",))
        for kind, number in Counter(kind for kind, _ in depths).items():
            actors.add_metric((kind,), number)
        relay = self._sources.relay()
        identity = GaugeMetricFamily("moq_relay_info", "this relay", labels=("version", "hop"))
        identity.add_metric((relay.version, relay.hop), 1)
        ends = GaugeMetricFamily(
            "moq_relay_certificate_not_after_seconds",
            "when the certificate ends, since the epoch",
            labels=("listener", "number", "name"),
        )
        for row in relay.certificates:
            ends.add_metric((row.listener, str(row.number), row.name), row.not_after)
        return [
            identity,
            ends,
            sessions,
            _gauge("draining", "1 while the relay drains", relay.draining),
            _gauge("start_time_seconds", "when the relay started, since the epoch", relay.since),
            _gauge("broadcasts", "broadcasts announced now", announced),
            _gauge("tracks", "tracks with an upstream subscription or viewers now", len(tracks)),
            _gauge(
                "viewers",
                "subscriptions being served now, without those of other relays",
                sum(track.viewers for track in tracks),
            ),
            _gauge("cached_bytes", "bytes of groups kept now", sum(track.cached_bytes for track in tracks)),
            _gauge("cached_groups", "groups kept now", sum(track.cached_groups for track in tracks)),
            _gauge(
                "quic_connections",
                "QUIC connections, those before and after their session included",
                self._sources.quic_connections(),
            ),
            actors,
            _gauge("tasks", "asyncio tasks in this process", len(asyncio.all_tasks())),
            _gauge(
                "inbox_messages_max",
                "messages waiting for the actor with the most",
                max((depth for _, depth in depths), default=0),
            ),
            _gauge("event_loop_lag_seconds", f"worst of the last {LAG_WINDOW:.0f} seconds", self._lag.worst),
            self._lag.histogram(),
        ]

    def _counters(self, sessions: list[Counts], ended: Counts, refused: dict[str, int]) -> list[Metric]:
        sums: Counter[tuple[str, str]] = Counter(ended)
        for counts in sessions:
            sums.update(counts)
        for reason, number in refused.items():
            sums["refused", reason] += number
        sums["segments_refused", ""] = self._sources.segments_refused()
        # a session that ends between two queries counts twice or not at all: never decrease
        self._shown |= sums
        return [self._family(name) for name in COUNTERS]

    def _family(self, name: str) -> Metric:
        text, labels = COUNTERS[name]
        family = CounterMetricFamily(f"moq_relay_{NAMES.get(name, name)}", text, labels=labels)
        rows = [
            (label, number) for (counted, label), number in sorted(self._shown.items()) if counted == name
        ]
        for label, number in rows or ([("", 0)] if not labels else []):
            family.add_metric(label.split("/", len(labels) - 1) if labels else (), number)
        return family


def _kind(counts: Counts) -> tuple[str, str]:
    for name, label in counts:
        if name == "sessions":
            transport, _, version = label.partition("/")
            return transport, version
    return next(label for name, label in counts if name == "bytes_received"), "negotiating"


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"moq_relay_{name}", text, value=value)
