"""The debug API over HTTP, every route and option, while real publishers are live."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import pytest
from yarl import URL

from relay.actors.runtime import LoopInbox
from relay.app import Relay
from relay.client import Client, Publication, TrackWriter
from relay.model.limits import Limits
from relay.moq.session import FetchRequested
from relay.quic.trust import ClientTls
from relay.wire.errors import StreamCode
from relay.wire.version import Version
from tests.client.recording import requested, requests_of, subscriptions_of
from tests.e2e.http_support import (
    IMPATIENT,
    WITHIN,
    guarded,
    live,
    logged,
    no_readers_left,
    published,
    readers,
    stage,
    token,
)

MSGPACK = {"accept": "application/msgpack"}
JSON = {"accept": "application/json"}

ROW = {"path", "hops", "session", "tracks", "viewers"}
SESSION = {
    "session",
    "remote",
    "transport",
    "version",
    "path",
    "since",
    "rtt",
    "bytes_received",
    "bytes_sent",
    "streams",
    "publish",
    "subscribe",
    "publishing",
    "subscriptions",
    "upstreams",
    "refused",
    *("skipped", "expires", "estimate", "window", "in_flight", "lost"),
}
TRACK = {
    "path",
    "name",
    "viewers",
    "relays",
    "upstream",
    "groups",
    "cached_bytes",
    "received_bytes",
    "received_groups",
    "received_frames",
    "latest",
}


@pytest.fixture(autouse=True)
def _lost_clients_are_seen_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.web.fetching.LOOK_INTERVAL", 0.02)


async def get(session: aiohttp.ClientSession, url: str | URL, **options: Any) -> tuple[int, str]:
    async with session.get(url, **options) as response:
        return response.status, await response.text()


def rows(body: bytes) -> list[dict[str, Any]]:
    """Frames of `?frames=1` as JSON, payload decoded."""
    found = [json.loads(line) for line in body.splitlines()]
    return [{**row, "payload": base64.b64decode(row["payload"])} for row in found]


def short(found: list[dict[str, Any]]) -> list[tuple[int, int, bytes]]:
    for row in found:
        assert set(row) == {"group", "frame", "timestamp", "size", "payload"}
        assert row["size"] == len(row["payload"])
    return [(row["group"], row["frame"], row["payload"]) for row in found]


def write(track: TrackWriter, *frames: bytes) -> None:
    """A whole group."""
    group = track.group()
    for number, frame in enumerate(frames):
        group.write(frame, timestamp=1000 * number)
    group.finish()


@contextlib.asynccontextmanager
async def cam(
    limits: Limits = IMPATIENT, **options: Any
) -> AsyncIterator[tuple[Relay, aiohttp.ClientSession, Publication, TrackWriter]]:
    """A relay with a broadcast `demo/cam` and its track `video`."""
    async with stage(limits=limits) as (relay, http), published(relay, **options) as (_, publication):
        yield relay, http, publication, publication.track("video/hd")


# --- /announced -------------------------------------------------------------------------------------------------


async def test_announced_as_a_structure_tells_tracks_and_viewers() -> None:
    async with cam() as (relay, http, publication, track):
        url = f"{relay.url}fetch/demo/cam/video/hd?follow=1"
        async with http.get(f"{relay.url}announced/demo", headers=JSON) as response:
            assert response.content_type == "application/json"
            assert response.headers["access-control-allow-origin"] == "*"
            (row,) = await response.json()
        assert set(row) == ROW
        assert (row["path"], row["tracks"], row["viewers"], len(row["hops"])) == ("cam", [], 0, 1)
        assert all(isinstance(hop, str) for hop in row["hops"])
        write(track, b"x")
        async with http.get(url) as following:
            assert await following.content.readexactly(1) == b"x"
            async with http.get(f"{relay.url}announced/", headers=MSGPACK) as response:
                assert response.content_type == "application/msgpack"
                (row,) = msgpack.unpackb(await response.read())
        assert set(row) == ROW
        assert (row["path"], row["tracks"], row["viewers"]) == ("demo/cam", ["video/hd"], 1)
        assert row["session"] in relay.connections
        assert await get(http, f"{relay.url}announced/other", headers=JSON) == (200, "[]\n")
        assert publication.announced


async def test_announced_lists_a_path_once_however_many_publish_it() -> None:
    async with stage() as (relay, http), published(relay) as (_, _), published(relay) as (second, _):
        await requested(second, 1)
        async with http.get(f"{relay.url}announced/", headers=JSON) as response:
            assert [row["path"] for row in await response.json()] == ["demo/cam"]
        assert await get(http, f"{relay.url}announced/") == (200, "demo/cam\n")


# --- /fetch: frames ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [Version.LITE_03, Version.LITE_04, Version.LITE_05, Version.LITE_06])
async def test_frames_keep_their_boundaries(version: Version) -> None:
    frames = [bytes(range(256)), b"", b"\n\x00\xff", b"", b"x" * 70_000]
    # a new track would have new timestamps, where its publisher has none
    async with cam(Limits(track_idle=WITHIN), versions=[version]) as (relay, http, _, track):
        write(track, b"old")
        write(track, *frames)
        url = f"{relay.url}fetch/demo/cam/video/hd?frames=1"
        async with http.get(url) as response:
            assert response.content_type == "application/x-ndjson"
            as_json = rows(await response.read())
        async with http.get(url, headers=MSGPACK) as response:
            assert response.content_type == "application/msgpack"
            unpacker = msgpack.Unpacker()
            unpacker.feed(await response.read())
            as_msgpack = list(unpacker)
        plain = await http.get(f"{relay.url}fetch/demo/cam/video/hd")
        assert plain.content_type == "application/octet-stream"
        assert await plain.read() == b"".join(frames)
    assert short(as_json) == [(1, number, frame) for number, frame in enumerate(frames)]
    assert as_msgpack == as_json
    assert all(isinstance(row["payload"], bytes) for row in as_msgpack)
    if version >= Version.LITE_05:
        assert [row["timestamp"] for row in as_json] == [0, 1000, 2000, 3000, 4000]
    else:
        assert all(row["timestamp"] > 0 for row in as_json)


async def test_a_frame_in_many_chunks_is_one_frame() -> None:
    async with cam() as (relay, http, _, track):
        url = f"{relay.url}fetch/demo/cam/video/hd"
        group = track.group()
        group.write(b"")
        group.write(b"first")
        async with http.get(url) as plain, http.get(f"{url}?frames=1") as framed:
            assert await plain.content.readexactly(5) == b"first"
            assert json.loads(await framed.content.readline())["size"] == 0
            assert json.loads(await framed.content.readline())["size"] == 5
            group.start_frame(20)
            for number in range(20):
                group.write_chunk(bytes([number]))
                assert await plain.content.readexactly(1) == bytes([number])  # each came alone
            group.finish()
            assert await plain.content.read() == b""
            assert short(rows(await framed.content.read())) == [(0, 2, bytes(range(20)))]


# --- /fetch: names ----------------------------------------------------------------------------------------------


async def test_the_longest_announced_path_is_the_broadcast_and_the_rest_the_track() -> None:
    async with (
        stage() as (relay, http),
        published(relay, "demo/cam") as (client, cam),
        published(relay, "demo") as (_, demo),
    ):
        names = ("video/hd", "audio/data", "hd", "a//b", "catalog.json")
        for name in names:
            write(cam.track(name), f"cam {name}".encode())
        write(demo.track("cam/video/sd"), b"demo cam/video/sd")
        for name in names:
            assert await get(http, f"{relay.url}fetch/demo/cam/{name}") == (200, f"cam {name}"), name
        # of the longest, with or without that track; the query's names hold
        missing = (404, "no such track or group\n")
        assert await get(http, f"{relay.url}fetch/demo/cam/video/sd") == missing
        assert await get(http, f"{relay.url}fetch/demo?track=cam/video/sd") == (200, "demo cam/video/sd")
        deeper = await live(relay, client.publish("demo/cam/video"))
        write(deeper.track("hd"), b"deeper hd")
        assert await get(http, f"{relay.url}fetch/demo/cam/video/hd") == (200, "deeper hd")
        assert await get(http, f"{relay.url}fetch/demo/cam?track=video/hd") == (200, "cam video/hd")
        assert await get(http, f"{relay.url}fetch/demo/nothing/video/hd?track=x") == (
            404,
            "no such broadcast\n",
        )


@pytest.mark.parametrize("version", [Version.LITE_02, Version.LITE_04, Version.LITE_06])
async def test_an_encoded_slash_is_a_slash_and_is_decoded_once(version: Version) -> None:
    async with stage() as (relay, http), published(relay, versions=[version]) as (_, cam):
        write(cam.track("video/hd"), b"hd")
        write(cam.track("100%2F"), b"percent")
        for path in (
            "demo/cam/video%2Fhd",
            "demo%2fcam%2fvideo%2fhd",
            "demo%2Fcam?track=video%2Fhd",
            "/demo//cam/video/hd",
        ):
            url = URL(f"{relay.url}fetch/{path}", encoded=True)
            async with http.get(url) as response:
                assert await response.text() == "hd", path
        async with http.get(URL(f"{relay.url}fetch/demo/cam?track=100%252F", encoded=True)) as response:
            assert await response.text() == "percent"
        async with http.get(URL(f"{relay.url}announced%2Fdemo", encoded=True)) as response:
            assert response.status == 404
        async with http.get(URL(f"{relay.url}announced/demo%2Fcam", encoded=True)) as response:
            assert (response.status, await response.text()) == (200, "\n")


async def test_a_broadcast_at_the_empty_path_is_read_by_the_name_of_its_track() -> None:
    async with stage() as (relay, http), published(relay, "") as (_, publication):
        write(publication.track("video/hd"), b"hd")
        assert await get(http, f"{relay.url}fetch/?track=video/hd") == (200, "hd")


@pytest.mark.parametrize(
    "path",
    [
        "fetch/demo",
        "fetch/demo/",
        "fetch/demo/cam/",
        "fetch/demo/cam?track=",
        "fetch/demo/../private/cam/video",
        "fetch/demo/%2e%2e/private/cam/video/hd",
        "fetch/demo%2f..%2fprivate/cam?track=video",
        "fetch/demo/%252e%252e/cam/video",
        "fetch/demo/a%252fb/video",
        "fetch/demo/a%00b/video",
        "fetch/demo" + "/a" * 40,
        "announced/demo/../private",
        "state/demo/%2E?jwt=x",
    ],
)
async def test_what_can_be_no_path_is_a_400_and_never_a_401(path: str) -> None:
    async with stage(public="anon") as (relay, http):
        status, text = await get(http, URL(f"{relay.url}{path}", encoded=True))
        assert status == 400
        assert text.count("\n") == 1


async def test_rights_are_those_of_the_broadcast_that_the_path_is_found_to_name(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(guarded(tmp_path, public="anon")))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        everywhere = token(root="", put=[""], get=[""])
        source = await stack.enter_async_context(await Client.connect(f"{relay.url}?jwt={everywhere}"))
        for path in ("demo/cam", "demo/cam/video", "demo"):
            publication = source.publish(path)
            for name in ("video/hd", "hd", "cam/video/hd"):
                write(publication.track(name), f"{path}: {name}".encode())
            await live(relay, publication)
        url = f"{relay.url}fetch/demo/cam/video/hd"
        narrow = token(root="demo/cam", get=["video"])
        assert await get(http, f"{url}?jwt={everywhere}") == (200, "demo/cam/video: hd")
        assert await get(http, f"{url}?jwt={narrow}") == (200, "demo/cam/video: hd")
        elsewhere = (401, "unauthorized: not granted\n")
        for outside in ("fetch/demo/cam?track=video/hd", "fetch/demo/cam/x/hd", "fetch/demo/cam%2Fx/hd"):
            assert await get(http, URL(f"{relay.url}{outside}").update_query(jwt=narrow)) == elsewhere, (
                outside
            )
        for path in ("demo%2fcam/video/hd", "demo/cam%2fvideo%2fhd", "anon%2f..%2fdemo/cam/video"):
            async with http.get(URL(f"{relay.url}fetch/{path}", encoded=True)) as response:
                assert response.status == (400 if ".." in path else 401), path


async def test_a_fetch_waits_for_its_broadcast_as_long_as_it_says() -> None:
    async with stage() as (relay, http), await Client.connect(relay.url) as client:
        gone = (404, "no such broadcast\n")
        assert await get(http, f"{relay.url}fetch/demo/cam/video/hd?wait=0.1") == gone
        assert await get(http, f"{relay.url}fetch/demo/cam/video/hd?wait=0") == gone
        async with asyncio.TaskGroup() as group:
            waiting = [
                group.create_task(get(http, f"{relay.url}fetch/{path}"))
                for path in ("demo/cam/video/hd?wait=10", "demo/cam?wait=10&track=video/hd")
            ]
            while readers() < len(waiting):
                assert (await get(http, f"{relay.url}health"))[0] == 200
            await live(relay, client.publish("demo/cam2"))
            await live(relay, client.publish("other"))
            assert not any(task.done() for task in waiting)
            publication = client.publish("demo/cam", announce=False)
            write(publication.track("video/hd"), b"hd")
            publication.announce()
        assert [task.result() for task in waiting] == [(200, "hd")] * 2
        await no_readers_left()


async def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind() -> None:
    async with stage() as (relay, http):
        request = asyncio.create_task(get(http, f"{relay.url}fetch/demo/cam/video?wait=60"))
        async with asyncio.timeout(WITHIN):
            while not readers():
                assert (await get(http, f"{relay.url}health"))[0] == 200
        request.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await request
        await no_readers_left()


# --- /fetch: groups ---------------------------------------------------------------------------------------------


async def test_a_group_by_number_from_the_cache() -> None:
    async with cam(versions=[Version.LITE_04]) as (relay, http, publication, track):
        url = f"{relay.url}fetch/demo/cam/video/hd"
        write(track, b"zero")
        async with http.get(f"{url}?follow=1") as following:  # the track stays
            assert await following.content.readexactly(4) == b"zero"
            for text in (b"one", b"two"):
                write(track, text)
                assert await following.content.readexactly(3) == text
            last = track.group()
            last.write(b"thr")
            assert await following.content.readexactly(3) == b"thr"
            for group, content in enumerate(("zero", "one", "two")):
                assert await get(http, f"{url}?group={group}") == (200, content)
            async with http.get(f"{url}?group=3") as fetched, http.get(f"{url}?group=latest") as latest:
                assert await fetched.content.readexactly(3) == b"thr"
                last.write(b"ee")
                last.finish()
                assert await fetched.content.read() == b"ee"
                assert await latest.read() == b"three"
            assert await get(http, f"{url}?group=4") == (404, "no such track or group\n")
            assert len(requests_of(publication)) == 1  # all of it from one subscription


async def test_a_group_that_is_not_cached_comes_from_a_publisher_that_can_be_asked() -> None:
    async with cam(versions=[Version.LITE_06]) as (relay, http, publication, track):
        url = f"{relay.url}fetch/demo/cam/video/hd"
        for text in (b"zero", b"one"):
            write(track, text)
        assert await get(http, f"{url}?group=0") == (200, "zero")
        assert await get(http, f"{url}?group=1") == (200, "one")
        assert await get(http, f"{url}?group=2") == (404, "no such track or group\n")
        assert [r.group for r in requests_of(publication) if isinstance(r, FetchRequested)] == [0, 1, 2]
        async with http.get(f"{url}?group=0&frames=1") as response:
            assert short(rows(await response.read())) == [(0, 0, b"zero")]
        assert subscriptions_of(publication) == []


async def test_a_group_that_is_not_cached_is_unknown_where_the_publisher_cannot_be_asked() -> None:
    async with cam(versions=[Version.LITE_04]) as (relay, http, _, track):
        write(track, b"zero")
        url = f"{relay.url}fetch/demo/cam/video/hd?group=0"
        assert await get(http, url) == (404, "no such track or group\n")


@pytest.mark.parametrize("query", ["", "?frames=1", "?group=0"])
async def test_a_group_that_is_aborted_in_the_middle_does_not_look_complete(query: str) -> None:
    async with cam() as (relay, http, _, track):
        group = track.group()
        group.write(b"half")
        async with http.get(f"{relay.url}fetch/demo/cam/video/hd{query}") as response:
            assert b"half" in await response.content.readany() or query == "?frames=1"
            group.start_frame(10)
            group.write_chunk(b"five!")
            group.abort(70)
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
    await no_readers_left()


async def test_following_goes_on_after_a_group_that_is_aborted() -> None:
    async with cam() as (relay, http, _, track):
        group = track.group()
        group.write(b"whole")
        async with http.get(f"{relay.url}fetch/demo/cam/video/hd?follow=1&frames=1") as response:
            assert short(rows(await response.content.readline())) == [(0, 0, b"whole")]
            group.start_frame(10)
            group.write_chunk(b"half!")
            group.abort(70)
            write(track, b"next")
            assert short(rows(await response.content.readline())) == [(1, 0, b"next")]


async def test_two_groups_at_once_are_kept_apart() -> None:
    async with cam() as (relay, http, _, track):
        url = f"{relay.url}fetch/demo/cam/video/hd"
        old = track.group()
        old.write(b"old 0")
        async with http.get(f"{url}?follow=1&frames=1") as framed, http.get(f"{url}?follow=1") as plain:
            seen = [await framed.content.readline()]
            new = track.group()
            old.start_frame(6)
            old.write_chunk(b"old")
            new.start_frame(6)
            new.write_chunk(b"new")
            new.write_chunk(b" 0.")
            seen.append(await framed.content.readline())
            old.write_chunk(b" 1.")
            seen.append(await framed.content.readline())
            new.write(b"new 1")
            seen.append(await framed.content.readline())
            old.write(b"old 2")
            seen.append(await framed.content.readline())
            async with http.get(url) as newest:
                old.finish()
                new.finish()
                assert await newest.read() == b"new 0.new 1"
            assert short(rows(b"".join(seen))) == [
                (0, 0, b"old 0"),
                (1, 0, b"new 0."),
                (0, 1, b"old 1."),
                (1, 1, b"new 1"),
                (0, 2, b"old 2"),
            ]
            assert await plain.content.readexactly(27) == b"old 0new 0.old 1.new 1old 2"


# --- /fetch: following ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [Version.LITE_02, Version.LITE_04, Version.LITE_06])
async def test_following_ends_the_subscription_upstream_when_the_client_leaves(version: Version) -> None:
    async with cam(versions=[version]) as (relay, http, publication, track):
        write(track, b"zero")
        async with http.get(f"{relay.url}fetch/demo/cam/video/hd?follow=1") as response:
            assert await response.content.readexactly(4) == b"zero"
            assert track.subscribers == 1
            for number in range(5):
                text = f"group {number}".encode()
                write(track, text)
                assert await response.content.readexactly(len(text)) == text
            response.close()  # no failing write tells the relay
        async with asyncio.timeout(WITHIN):
            await track.unused()
        assert len(subscriptions_of(publication)) == 1
        await no_readers_left()


async def test_following_from_a_group_on() -> None:
    async with cam(versions=[Version.LITE_06]) as (relay, http, _, track):
        url = f"{relay.url}fetch/demo/cam/video/hd"
        write(track, b"0")
        async with http.get(f"{url}?follow=1") as first:
            assert await first.content.readexactly(1) == b"0"
            for text in (b"1", b"2"):
                write(track, text)
                assert await first.content.readexactly(1) == text
            async with (
                http.get(f"{url}?follow=1&group=1") as second,
                http.get(f"{url}?follow=1&group=0") as third,
            ):
                assert await second.content.readexactly(2) == b"12"
                assert await third.content.readexactly(3) == b"012"
                write(track, b"3")
                assert await second.content.readexactly(1) == b"3"


async def test_following_ends_with_the_track() -> None:
    async with cam() as (relay, http, _, track):
        write(track, b"first")
        async with http.get(f"{relay.url}fetch/demo/cam/video/hd?follow=1") as response:
            write(track, b"last")
            track.finish()
            assert await response.read() == b"firstlast"
        await no_readers_left()


async def test_following_a_publisher_that_is_lost_does_not_look_complete() -> None:
    async with stage() as (relay, http):
        async with published(relay) as (client, publication):
            write(publication.track("video/hd"), b"last")
            async with http.get(f"{relay.url}fetch/demo/cam/video/hd?follow=1") as response:
                assert await response.content.readexactly(4) == b"last"
                await client.close()
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
        await no_readers_left()


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query, line",
    [
        ("group=-1", "group='-1': expected a group number or latest"),
        ("group=x", "group='x': expected a group number or latest"),
        ("group=", "group='': expected a group number or latest"),
        ("group=%C2%B2", "group='\u00b2': expected a group number or latest"),
        ("group=1%0A2", "group='1\\n2': expected a group number or latest"),
        ("group=4611686018427387904", "group='4611686018427387904': expected a group number or latest"),
        ("follow=2", "follow='2': expected 0 or 1"),
        ("follow", "follow='': expected 0 or 1"),
        ("frames=yes", "frames='yes': expected 0 or 1"),
        ("wait=61", "wait='61': expected seconds from 0 to 60"),
        ("wait=-1", "wait='-1': expected seconds from 0 to 60"),
        ("wait=nan", "wait='nan': expected seconds from 0 to 60"),
        ("wait=", "wait='': expected seconds from 0 to 60"),
    ],
)
async def test_a_bad_query_is_answered_in_one_line(query: str, line: str) -> None:
    async with cam() as (relay, http, _, _):
        url = URL(f"{relay.url}fetch/demo/cam/video/hd?{query}", encoded=True)
        async with http.get(url) as response:
            assert (response.status, await response.text()) == (400, f"{line}\n")
            assert response.headers["access-control-allow-origin"] == "*"


async def test_a_group_number_of_thousands_of_digits_is_a_bad_query() -> None:
    async with cam() as (relay, http, _, _):
        status, text = await get(http, f"{relay.url}fetch/demo/cam/video/hd?group={'9' * 6000}")
    assert status == 400
    assert text.count("\n") == 1
    assert len(text) < 100


async def test_the_largest_group_number_is_asked_for() -> None:
    async with cam(versions=[Version.LITE_06]) as (relay, http, publication, _):
        status, _ = await get(http, f"{relay.url}fetch/demo/cam/video/hd?group={2**62 - 1}")
        assert status == 404
        assert [r.group for r in requests_of(publication) if isinstance(r, FetchRequested)] == [2**62 - 1]


@pytest.mark.parametrize("version", [Version.LITE_01, Version.LITE_03, Version.LITE_04, Version.LITE_06])
@pytest.mark.parametrize(
    "code", [StreamCode.INTERNAL, StreamCode.CANCELLED, StreamCode.UNAUTHORIZED, StreamCode.WRONG_SIZE, 70]
)
async def test_a_track_that_its_publisher_rejects_is_no_fault_of_the_relay(
    version: Version, code: int
) -> None:
    async with stage() as (relay, http), published(relay, versions=[version]) as (_, publication):
        publication.track("video/hd").abort(code)
        for query in ("", "?follow=1", "?frames=1", "?group=3"):
            status, text = await get(http, f"{relay.url}fetch/demo/cam/video/hd{query}")
            assert status in (404, 502), (query, text)
            assert text.count("\n") == 1
            if not query:
                assert (status, "rejected or aborted" in text) == (502, True)


async def test_rights_are_looked_at_before_the_query() -> None:
    async with stage(public="anon") as (relay, http):
        for query in ("group=x", "wait=x", "track=video&group=x"):
            url = f"{relay.url}fetch/secret/cam/video/hd?{query}"
            assert await get(http, url) == (401, "unauthorized: token needed\n")


async def test_ipv4_on_a_dual_stack_socket_is_shown_as_ipv4(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "relay")
    async with contextlib.AsyncExitStack() as stack:
        relay, http = await stack.enter_async_context(stage(host="::", public="anon"))
        port = URL(relay.url).port
        for url in (f"ws://127.0.0.1:{port}/anon", f"https://127.0.0.1:{relay.port}/anon"):
            await stack.enter_async_context(
                await Client.connect(url, tls=ClientTls(fingerprints=(relay.fingerprint,)))
            )
        async with http.get(f"{relay.internal_url}state") as response:
            sessions = (await response.json())["sessions"]
        assert [session["transport"] for session in sessions] == ["websocket", "webtransport"]
        assert all(session["remote"].startswith("127.0.0.1:") for session in sessions)
        assert (await get(http, f"http://127.0.0.1:{port}/announced/secret"))[0] == 401
    assert any(line.startswith("refused remote=127.0.0.1 ") for line in caplog.messages)
    assert "::ffff:" not in caplog.text


# --- /state -----------------------------------------------------------------------------------------------------


async def test_the_state_of_everything() -> None:
    async with cam(versions=[Version.LITE_05]) as (relay, http, _, track):
        write(track, b"one", b"two")
        async with http.get(f"{relay.url}fetch/demo/cam/video/hd?follow=1") as following:
            assert await following.content.readexactly(6) == b"onetwo"
            async with http.get(f"{relay.internal_url}state") as response:
                assert response.content_type == "application/json"
                found = await response.json()
            async with http.get(f"{relay.internal_url}state/", headers=MSGPACK) as response:
                packed = msgpack.unpackb(await response.read())
    names = {"relay", "health", "totals", "sessions", "broadcasts", "withdrawn", "peers"}
    assert set(found) == names == set(packed)
    assert set(found["relay"]) == {
        *(
            "version",
            "hop",
            "since",
            "certificate",
            "certificates",
            "listen",
            "versions",
            "public",
            "node",
            "dashboard",
            "draining",
            "now",
            "operator",
        )
    }
    assert found["relay"]["certificate"] == relay.fingerprint
    assert set(found["relay"]["listen"]) == {"quic", "http", "https", "internal"}
    (session,) = found["sessions"]
    assert set(session) == SESSION
    assert session["transport"] == "webtransport"
    assert session["version"] == "moq-lite-05"
    assert session["publishing"] == ["demo/cam"]
    assert session["upstreams"] == 1
    assert session["bytes_received"] > 0
    (broadcast,) = found["broadcasts"]
    assert set(broadcast) == {"path", "session", "hops", "serving", "tracks"}
    assert (broadcast["path"], broadcast["session"], broadcast["serving"]) == (
        "demo/cam",
        session["session"],
        True,
    )
    (row,) = broadcast["tracks"]
    assert set(row) == TRACK
    assert (row["path"], row["name"], row["viewers"], row["relays"]) == ("demo/cam", "video/hd", 1, 0)
    assert row["upstream"] == "open"
    assert (row["received_groups"], row["received_frames"], row["received_bytes"]) == (1, 2, 6)
    assert row["latest"] == 0
    (group,) = row["groups"]
    assert set(group) == {"sequence", "frames", "bytes", "open", "age"}
    assert (group["sequence"], group["frames"], group["bytes"], group["open"]) == (0, 2, 6, False)
    assert found["totals"] == {
        "sessions": 1,
        "broadcasts": 1,
        "tracks": 1,
        "viewers": 1,
        "bytes_received": session["bytes_received"],
        "bytes_sent": session["bytes_sent"],
        "cached_bytes": row["cached_bytes"],
        "refused": {},
    }
    assert packed["broadcasts"][0]["path"] == "demo/cam"
    assert packed["sessions"][0]["session"] == session["session"]


async def test_the_state_on_the_public_address_wants_a_token_and_shows_what_it_covers(tmp_path: Path) -> None:
    everywhere = token(root="", put=[""], get=[""])
    mine = token(root="mine", get=[""])
    config = guarded(tmp_path, public="anon")
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(config))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        both, own, anyone = [
            await stack.enter_async_context(await Client.connect(f"{relay.url}{target}"))
            for target in (f"?jwt={everywhere}", f"mine/room?jwt={token(root='mine', put=[''])}", "anon/x")
        ]
        for publication in (
            both.publish("mine/cam"),
            both.publish("other/cam"),
            own.publish("mic"),
            anyone.publish("y"),
        ):
            await known(relay, publication)
        assert (await get(http, f"{relay.url}state"))[0] == 401
        status, text = await get(http, f"{relay.url}state/anon")
        assert status == 401
        assert text.count("\n") == 1
        assert "?jwt=" in text
        for refused in (
            f"state/mine?jwt={mine}x",
            f"state/other?jwt={mine}",
            f"state/mine?jwt={token(root='mine', put=[''])}",
            "state/mine?jwt=",
        ):
            assert (await get(http, f"{relay.url}{refused}"))[0] == 401, refused
        async with http.get(f"{relay.url}state?jwt={everywhere}") as response:
            whole = await response.json()
            assert everywhere not in await response.text()
        for path in ("state", "state/mine"):
            async with http.get(f"{relay.url}{path}?jwt={mine}") as response:
                narrow = await response.json()
                text = await response.text()
            assert [b["path"] for b in narrow["broadcasts"]] == ["mine/cam", "mine/room/mic"]
            assert [s["publishing"] for s in narrow["sessions"]] == [["mine/cam"], ["mine/room/mic"]]
            assert narrow["totals"]["sessions"] == 2
            for secret in ("other", "anon/x", mine, everywhere, "jwt"):
                assert secret not in text.replace('"public": "anon"', ""), secret
        assert [s["publishing"] for s in whole["sessions"]] == [
            ["mine/cam", "other/cam"],
            ["mine/room/mic"],
            ["anon/x/y"],
        ]


async def known(relay: Relay, publication: Publication) -> None:
    """Wait until the relay lists the path."""
    async with asyncio.timeout(WITHIN), aiohttp.ClientSession() as http:
        while publication.path not in (await get(http, f"{relay.internal_url}announced/"))[1]:
            pass


async def test_a_session_with_grants_elsewhere_shows_only_those_that_concern_the_asker(
    tmp_path: Path,
) -> None:
    grants = token(root="", put=["mine/a", "other"], get=["mine", "third"])
    async with (
        Relay(guarded(tmp_path)) as relay,
        aiohttp.ClientSession() as http,
        await Client.connect(f"{relay.url}?jwt={grants}") as client,
    ):
        await known(relay, client.publish("mine/a/cam"))
        async with http.get(f"{relay.url}state?jwt={token(root='mine', get=[''])}") as response:
            (session,) = (await response.json())["sessions"]
    assert session["publish"] == ["mine/a"]
    assert session["subscribe"] == ["mine"]


async def test_the_internal_address_shows_everything_without_a_token(tmp_path: Path) -> None:
    async with Relay(guarded(tmp_path)) as relay, aiohttp.ClientSession() as http:
        url = f"{relay.url}?jwt={token(root='', put=[''])}"
        async with await Client.connect(url) as client:
            publication = client.publish("secret/cam")
            write(publication.track("video/hd"), b"secret")
            await live(relay, publication)
            for path in ("announced/", "state", "fetch/secret/cam/video/hd"):
                assert (await get(http, f"{relay.url}{path}"))[0] == 401
                assert (await get(http, f"{relay.internal_url}{path}"))[0] == 200
            assert await get(http, f"{relay.internal_url}fetch/secret/cam/video/hd") == (200, "secret")
            assert (await get(http, f"{relay.internal_url}announced/?jwt=no.to.ken"))[0] == 200
            async with http.get(f"{relay.internal_url}state/secret") as response:
                assert [b["path"] for b in (await response.json())["broadcasts"]] == ["secret/cam"]
            async with http.get(f"{relay.internal_url}state/elsewhere") as response:
                assert (await response.json())["broadcasts"] == []
            status, text = await get(http, f"{relay.internal_url}metrics")
            assert status == 200
            assert "moq_relay_broadcasts 1.0" in text
            assert (await get(http, f"{relay.url}metrics"))[0] == 404


# --- small routes, methods --------------------------------------------------------------------------------------


async def test_health() -> None:
    async with stage(public="anon") as (relay, http):
        for url in (relay.url, relay.internal_url):
            assert await get(http, f"{url}health") == (200, "ok\n")


async def test_head_is_get_without_the_body() -> None:
    async with cam() as (relay, http, _, track):
        write(track, b"payload")
        track.group().write(b"open")
        for path in (
            "health",
            "announced/",
            "certificate.sha256",
            "fetch/demo/cam/video/hd",
            "fetch/demo/cam/video/hd?frames=1",
            "fetch/demo/cam/video/hd?follow=1",
        ):
            async with http.head(f"{relay.url}{path}") as response:
                assert response.status == 200, path
                assert await response.read() == b"", path
        async with http.head(f"{relay.url}fetch/demo/none/video/hd") as response:
            assert response.status == 404
        await no_readers_left()
        async with asyncio.timeout(WITHIN):
            await track.unused()


async def test_head_of_a_stream_leaves_the_connection_in_order() -> None:
    """Nothing but the two heads comes back, on one connection."""
    async with cam() as (relay, _, _, track):
        write(track, b"payload")
        reader, writer = await asyncio.open_connection("localhost", URL(relay.url).port)
        head = "HEAD /fetch/demo/cam/video/hd HTTP/1.1\r\nhost: localhost\r\n\r\n"
        health = "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        writer.write(f"{head}{health}".encode())
        async with asyncio.timeout(WITHIN):
            answer = await reader.read()
        writer.close()
        first, second, body = answer.split(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 200")
        assert second.startswith(b"HTTP/1.1 200")
        assert body == b"ok\n"


@pytest.mark.parametrize("path", ["fetch/demo/cam/video/hd", "state", "announced/", "health", "nowhere"])
async def test_options_answers_for_browsers(path: str) -> None:
    async with stage() as (relay, http), http.options(f"{relay.url}{path}") as response:
        assert response.status == 200
        assert response.headers["access-control-allow-origin"] == "*"
        assert response.headers["access-control-allow-methods"] == "GET"


@pytest.mark.parametrize(
    "path", ["fetch/demo/cam/video/hd", "state/x", "announced", "health", "certificate.sha256"]
)
async def test_other_methods_are_refused(path: str) -> None:
    async with stage() as (relay, http), http.delete(f"{relay.url}{path}") as response:
        assert response.status == 405
        assert response.headers["allow"] == "GET, HEAD"
        assert await response.text() == "DELETE is not possible here, only GET, HEAD\n"


# --- clients that leave or do not read --------------------------------------------------------------------------


def deaf(relay: Relay, path: str) -> socket.socket:
    """A client that has asked and does not read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(WITHIN)
    sock.connect(("127.0.0.1", URL(relay.url).port))
    sock.sendall(f"GET /{path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
    return sock


async def viewers(relay: Relay, http: aiohttp.ClientSession, wanted: int) -> None:
    async with asyncio.timeout(WITHIN):
        while True:
            async with http.get(f"{relay.internal_url}state") as response:
                if (await response.json())["totals"]["viewers"] == wanted:
                    return


@pytest.mark.parametrize("query", ["follow=1", "follow=1&frames=1"])
async def test_a_client_that_never_reads_a_flood_is_given_up_alone(
    query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.web.fetching.QUEUE_BYTES", 1 << 20)
    block = b"x" * (1 << 18)
    async with cam() as (relay, http, publication, track):
        write(track, b"go")
        with deaf(relay, f"fetch/demo/cam/video/hd?{query}"), logged("relay.web") as log:
            await viewers(relay, http, 1)
            async with http.get(f"{relay.url}fetch/demo/cam/video/hd?follow=1") as good:
                assert await good.content.readexactly(2) == b"go"
                sent = 0
                async with asyncio.timeout(WITHIN):
                    while not any("gave up" in line for line in log.lines):
                        write(track, block)
                        sent += len(block)
                        assert await good.content.readexactly(len(block)) == block
                assert sent < 32 << 20  # besides the kernel's buffers, a queue and a write
                assert "'the client reads too slowly'" in await log.line("gave up")
                await viewers(relay, http, 1)
                write(track, b"goes on")
                assert await good.content.readexactly(7) == b"goes on"
                assert track.subscribers == len(subscriptions_of(publication)) == 1
        async with asyncio.timeout(WITHIN):
            await track.unused()
        await no_readers_left()


async def test_a_client_that_takes_nothing_of_what_there_is_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relay.web.fetching.STALL_TIMEOUT", 0.2)
    async with cam() as (relay, http, _, track):
        write(track, *[b"x" * (1 << 20)] * 24)
        with deaf(relay, "fetch/demo/cam/video/hd"), logged("relay.web") as log:
            await log.line("gave up")
        await viewers(relay, http, 0)
        await no_readers_left()


async def test_a_large_group_in_the_cache_is_no_fault_of_who_asks_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relay.web.fetching.QUEUE_BYTES", 1 << 20)
    frames = [bytes([number]) * (1 << 19) for number in range(16)]
    async with cam() as (relay, http, _, track):
        group = track.group()
        url = f"{relay.url}fetch/demo/cam/video/hd"
        async with http.get(url) as first:
            for frame in frames:
                group.write(frame)
                assert await first.content.readexactly(len(frame)) == frame
            async with (
                http.get(url) as second,
                http.get(f"{url}?frames=1&follow=1", headers=MSGPACK) as third,
            ):
                group.write(b"end")
                group.finish()
                track.finish()
                assert await second.read() == b"".join(frames) + b"end"
                unpacker = msgpack.Unpacker()
                unpacker.feed(await third.read())
                assert [row["payload"] for row in unpacker] == [*frames, b"end"]


@pytest.mark.parametrize("query", ["", "?frames=1", "?follow=1", "?group=0", "?follow=1&frames=1&group=0"])
@pytest.mark.parametrize("moment", ["before", "during"])
async def test_a_client_that_leaves_takes_its_actor_along(moment: str, query: str) -> None:
    """Even without a write that would fail."""
    async with cam(versions=[Version.LITE_06]) as (relay, http, publication, track):
        url = f"{relay.url}fetch/demo/cam/video/hd{query}"
        with logged("aiohttp") as log:
            if moment == "before":
                if query == "?group=0":
                    track.group()  # without a frame
                asking = asyncio.create_task(http.get(url))
                async with asyncio.timeout(WITHIN):
                    await requested(publication)
                assert readers() == 1
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    (await asking).close()
            else:
                track.group().write(b"piece")
                async with http.get(url) as response:
                    await response.content.readany()
                    assert readers() == 1
                    response.close()
            await no_readers_left()
            async with asyncio.timeout(WITHIN):
                await track.unused()
            await viewers(relay, http, 0)
        assert log.lines == []


async def test_a_client_that_leaves_during_a_flood_is_no_error() -> None:
    async with cam() as (relay, http, _, track):
        with logged("aiohttp") as log:
            for _ in range(5):
                write(track, b"")
                async with http.get(f"{relay.url}fetch/demo/cam/video/hd?follow=1") as response:
                    for _ in range(20):
                        write(track, b"x" * 100_000)
                    await response.content.readexactly(100_000)
                    response.close()
            await no_readers_left()
        assert log.lines == []


async def test_the_end_of_the_relay_ends_what_is_followed() -> None:
    async with stage(limits=Limits()) as (relay, http), published(relay) as (_, publication):
        write(publication.track("video/hd"), b"x")
        response = await http.get(f"{relay.url}fetch/demo/cam/video/hd?follow=1")
        assert await response.content.readexactly(1) == b"x"
        await relay.close()
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    await no_readers_left()


async def test_a_silent_track_is_a_504(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.web.fetching.FETCH_TIMEOUT", 0.2)
    async with cam() as (relay, http, publication, _):
        for query in ("", "?follow=1", "?frames=1"):
            status, text = await get(http, f"{relay.url}fetch/demo/cam/video/hd{query}")
            assert (status, text) == (504, "no group in time: the publisher sends nothing on this track\n")
        assert subscriptions_of(publication)
        await no_readers_left()


async def test_a_track_beyond_the_limit_is_a_503() -> None:
    async with stage(limits=Limits(tracks=1)) as (relay, http), published(relay) as (_, publication):
        for name in ("video/hd", "audio/data"):
            write(publication.track(name), b"x")
        assert await get(http, f"{relay.url}fetch/demo/cam/video/hd") == (200, "x")
        status, text = await get(http, f"{relay.url}fetch/demo/cam/audio/data")
        assert (status, text) == (
            503,
            "no room: as many tracks of this broadcast are read as may be, or the cache is full\n",
        )


async def test_more_readers_than_allowed_are_turned_away() -> None:
    async with stage(limits=Limits(readers=1)) as (relay, http), await Client.connect(relay.url) as client:
        publication = client.publish("demo/cam")
        group = publication.track("video/hd").group()
        group.write(b"half")
        await live(relay, publication)
        async with http.get(f"{relay.url}fetch/demo/cam/video/hd") as first:
            assert await first.content.readexactly(4) == b"half"
            async with http.get(f"{relay.url}fetch/demo/cam/video/hd") as second:
                assert second.status == 503
                assert "too many" in await second.text()
        await no_readers_left()


async def test_a_directory_that_does_not_answer_is_a_504(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.web.state.ASK_TIMEOUT", 0.05)
    async with stage() as (relay, http), published(relay):
        inbox = relay.origin.actor_inbox
        assert isinstance(inbox, LoopInbox)
        inbox.waiting = True  # as if its turn were due: it never comes
        for route in ("announced/", "state"):
            status, text = await get(http, f"{relay.internal_url}{route}")
            assert (status, text) == (504, "the relay is too busy to answer\n")
        inbox.waiting = False
        assert (await get(http, f"{relay.internal_url}announced/"))[0] == 200
