"""Tracks report figures and counts to the counters, at most once a second."""

from __future__ import annotations

from collections import Counter

from relay.actors import messages as m
from relay.actors.counters import CountersActor, Counts, ListFigures, Report, Totals, TrackFigures
from relay.actors.reporting import REPORT_INTERVAL
from relay.actors.runtime import Ref, ask, halt, send
from relay.model.track import SubscribeParams
from relay.moq.encoding import Encoding
from tests.actors.fakes import FakeSubscriber, part
from tests.actors.stage import Stage, staged
from tests.clock import RUNTIME, TIMEOUT, advance, settle


def reports(stage: Stage) -> list[Report]:
    return stage.counters.got(Report)


def counted(stage: Stage) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for report in reports(stage):
        found.update(report.counts)
    return found


@staged
async def test_a_track_reports_at_once_and_then_once_a_second_however_much_comes() -> None:
    stage = Stage()
    await stage.viewer()
    assert [report.figures and report.figures.viewers for report in reports(stage)] == [1]
    for sequence in range(50):
        await stage.feed(part(sequence, b"xx"))
    assert len(reports(stage)) == 1
    await advance(REPORT_INTERVAL)
    assert len(reports(stage)) == 2
    assert counted(stage) == {
        ("groups_received", ""): 50,
        ("frames_received", ""): 50,
        ("payload_received", ""): 100,
    }
    figures = reports(stage)[-1].figures
    assert figures is not None
    assert (figures.path, figures.name, figures.cached_groups) == ("room/cam", "video", 50)
    await advance(10 * REPORT_INTERVAL)
    assert len(reports(stage)) == 2, "nothing has changed"
    await stage.feed(part(50, b"xx"))
    assert len(reports(stage)) == 3, "the last one is long ago"


@staged
async def test_the_first_viewer_is_reported_at_once_though_the_track_has_reported_before() -> None:
    stage = Stage()
    FakeSubscriber().describe(stage.track, 2)
    await settle()
    await stage.viewer()
    assert [report.figures and report.figures.viewers for report in reports(stage)] == [0, 1]


@staged
async def test_viewers_are_reported_at_once_and_relays_are_none() -> None:
    stage = Stage()
    await stage.viewer()
    relay = FakeSubscriber()
    send(
        stage.track,
        m.Subscribe("room/cam", "video", relay.ref, 9, 1, Encoding.PLAIN, SubscribeParams(), 0, relay=True),
    )
    await settle()
    await stage.viewer()
    assert [report.figures and report.figures.viewers for report in reports(stage)] == [1, 2]
    described = await ask(stage.track, m.DescribeTrack(), timeout=TIMEOUT)
    assert (described.viewers, described.relays) == (2, 1)


@staged
async def test_the_last_report_has_what_was_counted_since_and_takes_the_track_out() -> None:
    stage = Stage()
    await stage.viewer()
    await stage.feed(part(0, b"x"), part(1, b"y"))
    halt(stage.track)
    await settle()
    assert reports(stage)[-1].figures is None
    assert counted(stage)["groups_received", ""] == 2


async def test_the_counters_list_living_tracks_and_sum_all_counts() -> None:
    counters: Ref = CountersActor.start(RUNTIME)
    counts: Counts = {("groups_received", ""): 2}
    for urn, path in (("a", "demo/cam"), ("b", "demo/camera"), ("c", "demo/cam/low")):
        send(counters, Report(urn, TrackFigures("broadcast", path, "video/hd", 1, 10, 2), counts))
    send(counters, Report("a", TrackFigures("broadcast", "demo/cam", "video/hd", 3, 10, 2), counts))
    listed = await ask(counters, ListFigures(("demo/cam", "")), timeout=TIMEOUT)
    assert sorted(figures.path for figures in listed) == ["demo/cam", "demo/cam/low", "demo/camera"]
    send(counters, Report("c", None, {}))
    (row,) = await ask(counters, ListFigures(("demo/cam",)), timeout=TIMEOUT)
    assert (row.path, row.viewers) == ("demo/cam", 3)
    assert await ask(counters, Totals(), timeout=TIMEOUT) == {("groups_received", ""): 8}
