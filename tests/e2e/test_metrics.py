"""`/metrics` against real sessions."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import aiohttp
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from relay.actors.runtime import Ref, ask
from relay.app import Relay
from relay.client import Client, Publication, SessionEnded, SubscribeError
from relay.model.limits import Limits
from relay.quic.trust import ClientTls
from relay.runtime import SYSTEM
from relay.transport.client import ConnectError
from relay.web.metrics import COUNTERS, LAG_WINDOW, LoopLag
from relay.wire.version import Version
from tests.e2e.http_support import IMPATIENT, WITHIN, no_readers_left, published, stage
from tests.e2e.support import raw

Values: TypeAlias = dict[tuple[str, frozenset[tuple[str, str]]], float]


SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}


async def families(relay: Relay) -> list[Metric]:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{relay.internal_url}metrics") as response,
    ):
        assert response.status == 200
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        return list(text_string_to_metric_families(await response.text()))


async def scrape(relay: Relay) -> Values:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in await families(relay)
        for sample in family.samples
    }


def value(values: Values, name: str, /, **labels: str) -> float:
    return values.get((f"moq_relay_{name}", frozenset(labels.items())), 0.0)


async def until(relay: Relay, name: str, wanted: float, **labels: str) -> Values:
    """The first scrape with that value."""
    async with asyncio.timeout(WITHIN):
        while True:
            values = await scrape(relay)
            if value(values, name, **labels) == wanted:
                return values


def counters(values: Values) -> Values:
    return {key: number for key, number in values.items() if key[0].endswith("_total")}


def assert_never_down(before: Values, after: Values) -> None:
    for key, number in counters(before).items():
        assert after.get(key, -1.0) >= number, key


def write(publication: Publication, *frames: bytes, track: str = "video/hd") -> None:
    """A whole group."""
    group = publication.tracks[track].group()
    for frame in frames:
        group.write(frame)
    group.finish()


async def read(client: Client, groups: int, path: str = "demo/cam", track: str = "video/hd") -> None:
    """Watch `groups` groups, and leave."""
    async with asyncio.timeout(WITHIN):
        subscription = await client.subscribe(path, track)
        for _ in range(groups):
            await (await anext(subscription)).read_all()
        await subscription.close()


@contextlib.asynccontextmanager
async def viewer(relay: Relay, **options: Any) -> AsyncIterator[Client]:
    async with await Client.connect(relay.url, **options) as client:
        yield client


# --- names -------------------------------------------------------------------------------------------------------


async def test_names_follow_the_conventions_of_prometheus() -> None:
    async with stage() as (relay, _), published(relay) as (_, publication), viewer(relay) as client:
        publication.track("video/hd")
        write(publication, b"x")
        await read(client, 1)
        found = await families(relay)
    names = [family.name for family in found]
    assert len(names) == len(set(names)), "a counter and a gauge of one name"
    ours = [family for family in found if family.name.startswith("moq_relay_")]
    assert {family.type for family in ours} == {"counter", "gauge", "histogram"}
    for family in found:
        assert re.fullmatch(r"(moq_relay|process|python)_[a-z0-9_]*[a-z0-9]", family.name)
        assert family.documentation
    for family in ours:
        assert not re.search(r"_(ms|millis|kb|mb|count|sum|bucket|total)(_|$)", family.name), family.name
        assert ("bytes" in family.documentation) <= ("bytes" in family.name), family.name
        for sample in family.samples:
            assert sample.name.removeprefix(family.name) in SUFFIXES[family.type]
            assert all(re.fullmatch("[a-z]+", label) for label in sample.labels)
            assert sample.value >= 0
    described = {family.name for family in ours}
    for name in ("seconds", "bytes"):
        assert any(family.endswith(f"_{name}") for family in described)
    assert len([family for family in ours if family.type == "counter"]) == len(COUNTERS)
    assert {"process_cpu_seconds", "process_resident_memory_bytes"} <= set(names)


async def test_a_fresh_relay_shows_every_metric_and_zeros() -> None:
    async with stage() as (relay, _):
        values = await scrape(relay)
        found = {family.name for family in await families(relay)}
    for name in ("broadcasts", "tracks", "viewers", "cached_bytes", "cached_groups", "groups_received_total"):
        assert value(values, name) == 0
        assert (f"moq_relay_{name}", frozenset()) in values, name
    assert {"moq_relay_refused", "moq_relay_groups_dropped", "moq_relay_sessions"} <= found


# --- values ------------------------------------------------------------------------------------------------------


async def test_the_end_of_each_certificate() -> None:
    async with stage() as (relay, _):
        values = await scrape(relay)
        [row] = relay.identity().certificates
    ends = value(values, "certificate_not_after_seconds", listener="quic", number="1", name="localhost")
    assert ends == row.not_after
    assert 12 * 86_400 < ends - time.time() < 14 * 86_400


async def test_values_agree_with_what_happened() -> None:
    async with (
        stage(limits=Limits()) as (relay, http),
        published(relay, versions=[Version.LITE_04]) as (_, publication),
        await Client.connect(raw(relay), versions=[Version.LITE_06], tls=_pinned(relay)) as first,
        viewer(relay, versions=[Version.LITE_06]) as second,
    ):
        publication.track("video/hd")
        write(publication, b"12345", b"", b"678")
        subscriptions = [await client.subscribe("demo/cam", "video/hd") for client in (first, second)]
        async with asyncio.timeout(WITHIN):
            for subscription in subscriptions:
                await (await anext(subscription)).read_all()
            write(publication, b"90")
            for subscription in subscriptions:
                await (await anext(subscription)).read_all()
        values = await until(relay, "cached_groups", 2)
        assert value(values, "sessions", transport="webtransport", version="moq-lite-04") == 1
        assert value(values, "sessions", transport="webtransport", version="moq-lite-06") == 1
        assert value(values, "sessions", transport="quic", version="moq-lite-06") == 1
        for transport, version in (("webtransport", "04"), ("webtransport", "06"), ("quic", "06")):
            labels = {"transport": transport, "version": f"moq-lite-{version}"}
            assert value(values, "sessions_accepted_total", **labels) == 1
        for name, expected in {
            "broadcasts": 1,
            "tracks": 1,
            "viewers": 2,
            "cached_groups": 2,
            "announcements_received_total": 1,
            "subscriptions_total": 2,
            "groups_received_total": 2,
            "frames_received_total": 4,
            "payload_received_bytes_total": 10,
            "groups_sent_total": 4,
        }.items():
            assert value(values, name) == expected, name
        assert value(values, "cached_bytes") >= 10
        async with http.get(f"{relay.internal_url}state") as response:
            sessions = (await response.json())["sessions"]
        later = await scrape(relay)
        for direction in ("received", "sent"):
            for transport in ("webtransport", "quic"):
                told = sum(s[f"bytes_{direction}"] for s in sessions if s["transport"] == transport)
                low = value(values, f"{direction}_bytes_total", transport=transport)
                assert 0 < low <= told <= value(later, f"{direction}_bytes_total", transport=transport)


def _pinned(relay: Relay) -> ClientTls:
    return ClientTls(fingerprints=(relay.fingerprint,))


async def test_counters_never_go_down_when_sessions_and_tracks_end() -> None:
    async with stage(limits=IMPATIENT) as (relay, _):
        seen = [await scrape(relay)]
        for round_ in range(1, 4):
            async with published(relay) as (_, publication):
                track = publication.track("video/hd")
                write(publication, b"payload")
                async with viewer(relay) as client:
                    await read(client, 1)
                    seen.append(await scrape(relay))
                async with asyncio.timeout(WITHIN):
                    await track.unused()  # the track has ended
                seen.append(await until(relay, "tracks", 0))
            seen.append(await until(relay, "sessions", 0, transport="webtransport", version="moq-lite-06"))
            async with asyncio.timeout(WITHIN):
                while relay.connections:
                    seen.append(await scrape(relay))
            last = await scrape(relay)
            seen.append(last)
            assert value(last, "groups_received_total") == round_
            assert value(last, "frames_received_total") == round_
            assert value(last, "payload_received_bytes_total") == 7 * round_
            assert value(last, "groups_sent_total") == round_
            assert value(last, "subscriptions_total") == round_
            labels = {"transport": "webtransport", "version": "moq-lite-06"}
            assert value(last, "sessions_accepted_total", **labels) == 2 * round_
            assert value(last, "broadcasts") == value(last, "viewers") == value(last, "cached_bytes") == 0
        for before, after in itertools.pairwise(seen):
            assert_never_down(before, after)


async def test_who_watches_a_withdrawn_broadcast_is_counted() -> None:
    async with stage() as (relay, http), published(relay) as (_, publication), viewer(relay) as client:
        publication.track("video/hd")
        write(publication, b"one")
        async with asyncio.timeout(WITHIN):
            subscription = await client.subscribe("demo/cam", "video/hd")
            await (await anext(subscription)).read_all()
            publication.unannounce()
            await until(relay, "broadcasts", 0)
            write(publication, b"three")
            await (await anext(subscription)).read_all()
        values = await until(relay, "cached_groups", 2)
        for name, expected in {
            "tracks": 1,
            "viewers": 1,
            "groups_received_total": 2,
            "cached_groups": 2,
        }.items():
            assert value(values, name) == expected, name
        async with http.get(f"{relay.internal_url}state") as response:
            found = await response.json()
        assert found["broadcasts"] == []
        (row,) = found["withdrawn"]
        assert (row["path"], row["serving"], row["tracks"][0]["viewers"]) == ("demo/cam", False, 1)
        publication.announce()
        await until(relay, "broadcasts", 1)
        await read(client, 1)  # of another broadcast
        await subscription.close()
        async with asyncio.timeout(WITHIN):
            while found["withdrawn"]:
                async with http.get(f"{relay.internal_url}state") as response:
                    found = await response.json()
        assert len(found["broadcasts"]) == 1


async def test_what_http_clients_read_is_no_session() -> None:
    async with stage() as (relay, http), published(relay) as (_, publication):
        publication.track("video/hd")
        write(publication, b"payload")
        async with http.get(f"{relay.url}fetch/demo/cam/video/hd?follow=1") as response:
            assert await response.content.readexactly(7) == b"payload"
            values = await scrape(relay)
            assert value(values, "viewers") == 1
            assert value(values, "groups_sent_total") == 0
            assert value(values, "subscriptions_total") == 0
            assert value(values, "sessions", transport="webtransport", version="moq-lite-06") == 1
        await no_readers_left()


async def questions(relay: Relay, path: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Counter[str]:
    """Queries to actors for a request, by kind."""
    asked: Counter[str] = Counter()

    def counting(ref: Ref, question: object, **given: Any) -> Any:
        asked[type(question).__name__] += 1
        return ask(ref, question, **given)

    with monkeypatch.context() as patch:
        for module in ("relay.web.state", "relay.web.metrics", "relay.web.server"):
            patch.setattr(f"{module}.ask", counting)
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{relay.internal_url}{path}", **options) as response,
        ):
            assert response.status == 200
            await response.read()
    return asked


async def test_no_track_is_asked_for_metrics_and_announcements(monkeypatch: pytest.MonkeyPatch) -> None:
    as_json = {"headers": {"accept": "application/json"}}
    async with stage() as (relay, _), published(relay) as (_, publication), viewer(relay) as client:
        found = []
        for number in range(4):
            publication.track(f"video/{number}")
            write(publication, b"x", track=f"video/{number}")
            async with asyncio.timeout(WITHIN):
                await (await anext(await client.subscribe("demo/cam", f"video/{number}"))).read_all()
            await until(relay, "tracks", number + 1)
            found.append(
                (
                    await questions(relay, "metrics", monkeypatch),
                    await questions(relay, "announced/", monkeypatch, **as_json),
                )
            )
        metrics, announced = found[0]
        assert found == [(metrics, announced)] * 4
        assert metrics.pop("CountSession") == 2
        assert set((metrics + announced).values()) <= {1, 2}
        assert sum(announced.values()) == 2


async def test_two_scrapes_at_once_agree() -> None:
    async with stage() as (relay, _), published(relay):
        first, second = await asyncio.gather(scrape(relay), scrape(relay))
        assert value(first, "broadcasts") == value(second, "broadcasts") == 1
        assert set(counters(first)) == set(counters(second))


# --- limits ------------------------------------------------------------------------------------------------------


async def test_refusals_are_counted_by_limit() -> None:
    limits = Limits(announces=2, announce_streams=1, subscriptions=1, track_idle=0.01)
    async with stage(limits=limits) as (relay, http), published(relay) as (_, publication):
        publication.track("video/hd")
        publication.track("audio/data")
        write(publication, b"x")
        async with viewer(relay) as client, asyncio.timeout(WITHIN):
            await (await anext(await client.subscribe("demo/cam", "video/hd", describe=False))).read_all()
            with pytest.raises(SubscribeError):
                await anext(await client.subscribe("demo/cam", "audio/data", describe=False))
            await until(relay, "refused_total", 1, limit="subscriptions")
            client.announced()
            client.announced()
            await until(relay, "refused_total", 1, limit="announce_streams")
            for number in range(3):
                client.publish(f"flood/{number}")
            await client.closed()
        values = await until(relay, "refused_total", 1, limit="announces")
        assert value(values, "refused_total", limit="subscriptions") == 1
        assert value(values, "refused_total", limit="announce_streams") == 1
        assert value(values, "streams_reset_total", reason="no_capacity") == 2
        async with http.get(f"{relay.internal_url}state", headers={"accept": "application/json"}) as response:
            # the flooding session has ended; the counters actor has its counts
            assert (await response.json())["totals"]["refused"] == {
                "announce_streams": 1,
                "announces": 1,
                "subscriptions": 1,
            }


async def test_sessions_beyond_the_limit_are_counted() -> None:
    async with stage(limits=Limits(sessions=1)) as (relay, _), published(relay):
        with pytest.raises((ConnectError, SessionEnded)):
            await Client.connect(relay.url, timeout=WITHIN)
        values = await scrape(relay)
        assert value(values, "refused_total", limit="sessions") >= 1
        assert value(values, "sessions", transport="webtransport", version="moq-lite-06") == 1


async def test_groups_dropped_for_slow_subscribers_are_counted() -> None:
    async with (
        stage(limits=Limits(backlog_bytes=4096)) as (relay, _),
        published(relay) as (_, publication),
        viewer(relay) as client,
    ):
        publication.track("video/hd")
        await client.subscribe("demo/cam", "video/hd")
        async with asyncio.timeout(WITHIN):
            await publication.tracks["video/hd"].used()
        write(publication, b"x" * (8 << 20))
        await until(relay, "groups_dropped_total", 1, reason="too_far_behind")


async def test_resets_are_counted_by_reason() -> None:
    async with stage() as (relay, _), published(relay), viewer(relay) as client:
        for path in ("demo/none", "demo/cam"):
            with pytest.raises(SubscribeError):
                await client.subscribe(path, "none")
        values = await scrape(relay)
        assert value(values, "streams_reset_total", reason="unroutable") == 1
        assert value(values, "streams_reset_total", reason="not_found") == 1


async def test_actors_connections_and_tasks_are_those_there_are() -> None:
    async with stage() as (relay, _):
        before = await scrape(relay)
        assert value(before, "actors", kind="origin") == 1
        assert value(before, "actors", kind="connection") == value(before, "quic_connections") == 0
        async with await Client.connect(raw(relay), tls=_pinned(relay)):
            values = await until(relay, "quic_connections", 1)
            assert value(values, "actors", kind="connection") == 1
        after = await until(relay, "quic_connections", 0)
    assert value(after, "actors", kind="connection") == 0
    assert value(after, "tasks") > 0


async def test_the_lag_of_the_event_loop_is_the_worst_of_a_while() -> None:
    lag = LoopLag(SYSTEM)
    now = asyncio.get_running_loop().time()
    try:
        assert lag.worst == 0
        lag._look(now - 0.5)
        lag._look(now)
        assert 0.5 <= lag.worst < 1.0
        lag._seen = [(at - LAG_WINDOW - 1, late) for at, late in lag._seen]
        lag._look(asyncio.get_running_loop().time())
        assert lag.worst < 0.5
        buckets = {
            sample.labels["le"]: sample.value
            for sample in lag.histogram().samples
            if sample.name.endswith("_bucket")
        }
        assert buckets["0.2"] == 2, "those that were on time"
        assert buckets["1.0"] == buckets["+Inf"] == 3, "each look counts, how long ago it may be"
    finally:
        lag.stop()
