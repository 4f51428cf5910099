"""The relay's health: figures of the last minute, and in plain words what is wrong, with a place in the docs.

Each threshold has a section of docs/operations.md, "When the dashboard says".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from relay.actors.peer import State
from relay.actors.rows import PeerRow
from relay.web.rows import CertificateRow, Concern, Figures, Health, Identity
from relay.web.sampler import Sampler

LAG: Final = 0.2
"""Seconds: QUIC peers begin to repeat packets, and video of 25 frames a second misses five."""

CPU: Final = 0.9
"""Share of a core. All sessions share one event loop, on one core: beyond it queues grow."""

MEMORY: Final = 0.9
"""Share of the limit. At the limit the kernel ends the process."""

SKIPPED: Final = 1.0
"""Groups per second. One slow viewer of one track skips about as many; more are not one viewer's network."""

REFUSED: Final = 60
"""In a minute. A single client that tries again every few seconds stays below."""

BACKGROUND: Final = frozenset(("noise", "unknown_connection", "draining"))
"""Refusals that are no reason to worry: port scanners, clients of before a restart, and a drain, which is shown itself."""

DESCRIPTORS: Final = 0.9
"""Share of the limit. At the limit no TCP connection is accepted and no file is opened."""

UDP_DROPS: Final = 60
"""Datagrams in a minute. QUIC repairs fewer without an effect that anybody sees."""

CERTIFICATE_DAYS: Final = 7.0

CERTIFICATE_PART: Final = 6
"""Of a certificate's whole life left, if that is less: some live for six days only."""

DAY: Final = 86_400.0  # seconds

SHOWN: Final = 3  # reasons and names in a text

PAGE: Final = "docs/operations.md"

SECTIONS: Final = {
    "lag": "the-event-loop-is-late",
    "cpu": "the-processor-is-busy",
    "memory": "memory-is-short",
    "skipped": "groups-are-skipped",
    "refused": "many-requests-are-refused",
    "descriptors": "descriptors-run-out",
    "udp_drops": "the-kernel-drops-datagrams",
    "certificate": "a-certificate-ends-soon",
    "draining": "the-relay-drains",
    "peers_down": "other-relays-are-not-connected",
}
"""Headings of `PAGE` by kind, as links write them."""


def judge(sampler: Sampler, identity: Identity, peers: Sequence[PeerRow]) -> Health:
    """`identity.now` is the present time."""
    down = [peer for peer in peers if peer.state != State.CONNECTED and peer.error is not None]
    figures = figures_of(sampler, identity, len(down))
    reasons = tuple(
        Concern(kind, text, f"{PAGE}#{SECTIONS[kind]}")
        for kind, text in _concerns(figures, identity, len(peers), down)
    )
    return Health(not reasons, reasons, figures)


def figures_of(sampler: Sampler, identity: Identity, peers_down: int) -> Figures:
    """The figures by which `judge` decides."""
    samples = [moment.sample for moment in sampler.window]
    refused: Counter[str] = Counter()
    for moment in sampler.window:
        refused.update(moment.refused)
    drops = [moment.udp_drops for moment in sampler.window if moment.udp_drops is not None]
    newest = sampler.window[-1] if sampler.window else None
    ends = [row.not_after - identity.now for row in identity.certificates]
    return Figures(
        lag=_rounded(max((sample.lag for sample in samples if sample.lag is not None), default=None)),
        cpu=_mean(sample.cpu for sample in samples),
        memory=None if newest is None else newest.usage.memory,
        memory_limit=sampler.memory_limit,
        skipped=_mean(sample.skipped for sample in samples),
        refused=dict(refused.most_common()),
        descriptors=None if newest is None else newest.usage.descriptors,
        descriptors_limit=sampler.descriptors_limit,
        udp_drops=sum(drops) if drops else None,
        certificate_days=round(min(ends) / DAY, 2) if ends else None,
        draining=identity.draining,
        peers_down=peers_down,
    )


def _concerns(  # noqa: C901 - one step per kind
    figures: Figures, identity: Identity, peers: int, down: Sequence[PeerRow]
) -> Iterator[tuple[str, str]]:
    if identity.draining:
        yield "draining", "The relay is about to end: it takes no new sessions and asks the others to leave."
    if figures.lag is not None and figures.lag >= LAG:
        yield "lag", f"The event loop was {1000 * figures.lag:.0f} ms late in the last minute."
    if figures.cpu is not None and figures.cpu >= CPU:
        yield "cpu", f"The event loop took {figures.cpu:.0%} of its core in the last minute."
    if _near(figures.memory, figures.memory_limit, MEMORY):
        yield "memory", f"Memory: {_mib(figures.memory)} of {_mib(figures.memory_limit)} are in use."
    if figures.skipped is not None and figures.skipped >= SKIPPED:
        text = f"{figures.skipped:.1f} groups a second were skipped for slow viewers in the last minute."
        yield "skipped", text
    worrying = {reason: number for reason, number in figures.refused.items() if reason not in BACKGROUND}
    if (total := sum(worrying.values())) >= REFUSED:
        most = _listed(f"{number} {reason}" for reason, number in worrying.items())
        yield "refused", f"{total} refusals in the last minute: {most}."
    if _near(figures.descriptors, figures.descriptors_limit, DESCRIPTORS):
        yield "descriptors", f"{figures.descriptors} of {figures.descriptors_limit} descriptors are in use."
    if figures.udp_drops is not None and figures.udp_drops >= UDP_DROPS:
        text = f"The kernel dropped {figures.udp_drops} datagrams in the last minute, as the relay did not read them in time."
        yield "udp_drops", text
    for row in identity.certificates:
        fault = _certificate(row, identity.now)
        if fault is not None:
            yield "certificate", fault
    if down:
        names = _listed(peer.node for peer in down)
        yield "peers_down", f"{len(down)} of {peers} other relays are not connected: {names}."


def _certificate(row: CertificateRow, now: float) -> str | None:
    left = (row.not_after - now) / DAY
    name = f"Certificate {row.number} of {row.listener} ({row.name})"
    if left <= 0:
        return f"{name} has expired: clients refuse it."
    if left < min(CERTIFICATE_DAYS, (row.not_after - row.not_before) / DAY / CERTIFICATE_PART):
        return f"{name} ends in {left:.1f} days."
    return None


def _near(value: int | None, limit: int | None, share: float) -> bool:
    return value is not None and limit is not None and value >= share * limit


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(sum(known) / len(known)) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _mib(number: int | None) -> str:
    return f"{(number or 0) / (1 << 20):,.0f} MiB"


def _listed(words: Iterable[str]) -> str:
    first = list(words)
    more = len(first) - SHOWN
    return ", ".join(first[:SHOWN]) + (f" and {more} more" if more > 0 else "")
