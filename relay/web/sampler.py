"""Takes a sample of the relay's figures every few seconds, for `/history` and the relay's health.

It asks four actors that know the sums, whatever the number of sessions and tracks.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import fields, replace
from typing import Final, NamedTuple

from relay.actors import messages as m
from relay.actors.counters import Measure, Measured
from relay.actors.events import CountRefused, Happened
from relay.actors.runtime import ActorDeadError, ask, send
from relay.model.events import Kind
from relay.model.limits import Limits
from relay.model.member import MemberStatus, MemberTotals
from relay.web.history import STEP, History, Sample
from relay.web.machine import Usage, descriptors_limit, memory_limit, usage
from relay.web.metrics import LoopLag
from relay.web.state import Sources

WINDOW: Final = 12  # samples by which health is judged: a minute

TIMEOUT: Final = 2.0  # seconds for an answer: below `STEP`, so that samples do not overlap

REPORTED: Final = frozenset(("unauthorized", "key service"))
"""Refusals that are events already, with address and path. Those of listeners are too many to be reported one by one."""

LIMITS: Final = frozenset(field.name for field in fields(Limits))


class Totals(NamedTuple):
    """Counts since the start, and when they were read, by the runtime's clocks."""

    now: float
    cpu: float  # seconds
    received: int
    sent: int
    groups: int
    skipped: int
    refused: Counter[str]
    listeners: Counter[str]
    """The part of `refused` that listeners and the gate count."""


class Moment(NamedTuple):
    """One sample, with what only health needs."""

    sample: Sample
    refused: Counter[str]  # since the last sample, by reason
    udp_drops: int | None  # datagrams, since the last sample
    usage: Usage


class Sampler:
    """One per relay."""

    def __init__(self, sources: Sources, lag: LoopLag) -> None:
        self.history = History()
        self.window: deque[Moment] = deque(maxlen=WINDOW)
        self.memory_limit = memory_limit()
        self.descriptors_limit = descriptors_limit()
        self._sources = sources
        self._lag = lag
        self._task: asyncio.Task[None] | None = None
        self._former: Totals | None = None
        self._drops: int | None = 0

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None

    async def _run(self) -> None:
        runtime = self._sources.runtime
        due = runtime.now()
        while True:
            missed = max(0, int((runtime.now() - due) / STEP))
            due += missed * STEP
            sample = await self.take()
            self.history.add(sample, runtime.wall_time(), missed)
            self._tell_relays(sample)
            due += STEP
            await asyncio.sleep(max(0.0, due - runtime.now()))

    def _tell_relays(self, sample: Sample) -> None:
        """Give the cluster our figures, for those relays that ask."""
        cluster = self._sources.cluster
        if cluster is not None and sample.sessions is not None:
            totals = MemberTotals(
                sessions=int(sample.sessions),
                broadcasts=int(sample.broadcasts or 0),
                viewers=int(sample.viewers or 0),
                received=round(sample.received or 0.0, 1),
                sent=round(sample.sent or 0.0, 1),
            )
            send(cluster, m.SetStatus(MemberStatus(totals, self._sources.relay().dashboard)))

    async def take(self) -> Sample:
        """Take one sample and keep it in the window."""
        used, drops, lag = usage(), self._sources.receive_drops(), self._lag.worst_since(STEP)
        refused: Counter[str] = Counter()
        try:
            sample, refused = await self._measure()
        except (TimeoutError, ActorDeadError):  # too busy: the sample has gaps
            sample = Sample()
        sample = replace(sample, lag=lag, memory=used.memory)
        lost = None if drops is None or self._drops is None else drops - self._drops
        self._drops = drops
        self.window.append(Moment(sample, refused, lost, used))
        return sample

    async def _measure(self) -> tuple[Sample, Counter[str]]:
        """What actors know, and the refusals since the last sample. Raises TimeoutError or ActorDeadError."""
        sources, former = self._sources, self._former
        gate: m.GateFigures = await ask(sources.gate, m.MeasureGate(), timeout=TIMEOUT)
        sums: Measured = await ask(sources.counters, Measure(), timeout=TIMEOUT)
        broadcasts = await ask(sources.origin, m.CountBroadcasts(), timeout=TIMEOUT)
        totals = await self._totals(gate, sums)
        self._former = totals
        sample = Sample(
            sessions=gate.sessions, broadcasts=broadcasts, viewers=sums.viewers, cached=sums.cached_bytes
        )
        if former is None:
            self._report(totals.listeners)
            return sample, totals.refused
        self._report(totals.listeners - former.listeners)
        refused, seconds = totals.refused - former.refused, totals.now - former.now
        if seconds > 0:
            sample = replace(
                sample,
                received=(totals.received - former.received) / seconds,
                sent=(totals.sent - former.sent) / seconds,
                groups=(totals.groups - former.groups) / seconds,
                skipped=(totals.skipped - former.skipped) / seconds,
                refused=refused.total() / seconds,
                cpu=(totals.cpu - former.cpu) / seconds,
            )
        return sample, refused

    async def _totals(self, gate: m.GateFigures, sums: Measured) -> Totals:
        sources = self._sources
        listeners = Counter(gate.refused)
        for counted in sources.refused:
            listeners.update(counted)
        refused = Counter(listeners)
        if sources.events is not None:
            refused.update(await ask(sources.events, CountRefused(), timeout=TIMEOUT))
        runtime = sources.runtime
        return Totals(
            runtime.now(),
            runtime.cpu_time(),
            gate.received,
            gate.sent,
            sums.groups,
            sums.skipped,
            refused,
            listeners,
        )

    def _report(self, refused: Counter[str]) -> None:
        """Refusals by listeners, as one event for each reason."""
        if self._sources.events is None:
            return
        for name, number in refused.items():
            if name not in REPORTED:
                reason = f"over limit {name}" if name in LIMITS else name.replace("_", " ")
                send(self._sources.events, Happened(Kind.REFUSED, reason=reason, times=number))
