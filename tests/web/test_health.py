"""The relay's health: each reason from its threshold on, with its figure in plain words and a section of the docs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from relay.actors.peer import State
from relay.actors.rows import PeerRow
from relay.web import health
from relay.web.health import judge
from relay.web.history import Sample
from relay.web.machine import Usage
from relay.web.rows import CertificateRow, Concern, Health, Identity
from relay.web.sampler import Moment, Sampler

NOW = 1_800_000_000.0
DAY = 86_400.0
PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()

IDENTITY = Identity(
    version="1",
    hop="1",
    since=NOW - 100,
    certificate="",
    certificates=(CertificateRow("quic", 1, "relay.example", False, NOW - DAY, NOW + 89 * DAY),),
    listen={},
    versions=(),
    public=None,
    node=None,
    dashboard=None,
    draining=False,
    now=NOW,
)
CALM = Moment(Sample(lag=0.001, cpu=0.1, skipped=0.0), Counter(), 0, Usage(100, 10))


class FakeSampler:
    """The last minute, as a test wants it."""

    def __init__(self, *window: Moment) -> None:
        self.window = window
        self.memory_limit: int | None = 1_000
        self.descriptors_limit: int | None = 100


def judged(*window: Moment, identity: Identity = IDENTITY, peers: Iterable[PeerRow] = ()) -> Health:
    return judge(cast("Sampler", FakeSampler(*window)), identity, tuple(peers))


def only(found: Health) -> Concern:
    assert not found.well
    (concern,) = found.reasons
    return concern


def moment(**sample: Any) -> Moment:
    return CALM._replace(sample=replace(CALM.sample, **sample))


def peer(node: str, state: State = State.WAITING, error: str | None = "no route") -> PeerRow:
    return PeerRow(node, state, "us", None, None, error)


def test_a_calm_relay_is_well() -> None:
    found = judged(CALM, CALM)
    assert (found.well, found.reasons) == (True, ())
    figures = found.figures
    assert (figures.lag, figures.cpu, figures.memory, figures.skipped) == (0.001, 0.1, 100, 0.0)
    assert (figures.descriptors, figures.udp_drops, figures.certificate_days) == (10, 0, 89.0)


def test_without_a_sample_nothing_is_known_and_nothing_is_wrong() -> None:
    found = judged()
    assert found.well
    figures = found.figures
    assert (figures.lag, figures.cpu, figures.memory, figures.udp_drops) == (None, None, None, None)


def test_a_platform_without_figures_is_well() -> None:
    found = judged(Moment(Sample(), Counter(), None, Usage(None, None)))
    assert found.well
    assert found.figures.udp_drops is None


@pytest.mark.parametrize(
    ("below", "beyond", "kind", "text"),
    [
        (
            moment(lag=0.19),
            moment(lag=0.34),
            "lag",
            "The event loop was 340 ms late in the last minute.",
        ),
        (
            moment(cpu=0.89),
            moment(cpu=0.97),
            "cpu",
            "The event loop took 97% of its core in the last minute.",
        ),
        (
            CALM._replace(usage=Usage(899, 10)),
            CALM._replace(usage=Usage(900, 10)),
            "memory",
            "Memory: 0 MiB of 0 MiB are in use.",
        ),
        (
            moment(skipped=0.9),
            moment(skipped=4.25),
            "skipped",
            "4.2 groups a second were skipped for slow viewers in the last minute.",
        ),
        (
            CALM._replace(refused=Counter({"sessions": 59, "noise": 1_000})),
            CALM._replace(refused=Counter({"sessions": 50, "path": 12, "http": 9, "early": 1, "noise": 7})),
            "refused",
            "72 refusals in the last minute: 50 sessions, 12 path, 9 http and 1 more.",
        ),
        (
            CALM._replace(usage=Usage(100, 89)),
            CALM._replace(usage=Usage(100, 90)),
            "descriptors",
            "90 of 100 descriptors are in use.",
        ),
        (
            CALM._replace(udp_drops=59),
            CALM._replace(udp_drops=700),
            "udp_drops",
            "The kernel dropped 700 datagrams in the last minute, as the relay did not read them in time.",
        ),
    ],
)
def test_each_figure_has_a_threshold(below: Moment, beyond: Moment, kind: str, text: str) -> None:
    assert judged(below).well
    concern = only(judged(beyond))
    assert (concern.kind, concern.text) == (kind, text)


def test_what_happened_within_the_minute_counts_together() -> None:
    found = judged(
        moment(lag=0.3, cpu=0.2)._replace(refused=Counter({"sessions": 1}), udp_drops=3),
        moment(lag=0.0, cpu=0.4)._replace(refused=Counter({"sessions": 2}), udp_drops=None),
        moment(lag=None, cpu=None)._replace(udp_drops=4),
    )
    figures = found.figures
    assert (figures.lag, figures.cpu, figures.refused, figures.udp_drops) == (0.3, 0.3, {"sessions": 3}, 7)


@pytest.mark.parametrize(
    ("life", "left", "text"),
    [
        (90, 7.1, None),
        (90, 6.9, "Certificate 1 of quic (relay.example) ends in 6.9 days."),
        (90, -1, "Certificate 1 of quic (relay.example) has expired: clients refuse it."),
        (6, 1.1, None),  # renewed every few days
        (6, 0.9, "Certificate 1 of quic (relay.example) ends in 0.9 days."),
    ],
)
def test_a_certificate_is_named_before_it_ends(life: float, left: float, text: str | None) -> None:
    begins, ends = NOW + (left - life) * DAY, NOW + left * DAY
    row = CertificateRow("quic", 1, "relay.example", False, begins, ends)
    found = judged(CALM, identity=replace(IDENTITY, certificates=(row,)))
    assert [concern.text for concern in found.reasons] == ([] if text is None else [text])
    assert found.figures.certificate_days == pytest.approx(left)


def test_a_drain_is_shown() -> None:
    concern = only(judged(CALM, identity=replace(IDENTITY, draining=True)))
    assert concern.kind == "draining"


def test_relays_that_cannot_be_reached_are_named() -> None:
    others = [peer("a.example"), peer("b.example", State.CONNECTED, None), peer("c.example", error=None)]
    found = judged(CALM, peers=others)
    assert only(found).text == "1 of 3 other relays are not connected: a.example."
    assert found.figures.peers_down == 1
    found = judged(CALM, peers=[peer(f"{letter}.example") for letter in "abcde"])
    assert only(found).text == (
        "5 of 5 other relays are not connected: a.example, b.example, c.example and 2 more."
    )


def test_every_kind_has_a_section_of_the_docs() -> None:
    """Headings become anchors as GitHub makes them."""
    headings = re.findall(r"^### (.*)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(health.SECTIONS.values()) <= anchors
    assert only(judged(moment(lag=1.0))).doc == "docs/operations.md#the-event-loop-is-late"
