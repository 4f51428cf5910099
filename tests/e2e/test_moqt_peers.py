"""moq-rs 0.5.1 on drafts of moq-transport: publishes and watches through the relay, across dialects."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest

from relay.app import Relay
from relay.client import Client
from relay.model.limits import Limits
from relay.quic.certificate_store import CertificateStore
from relay.quic.settings import QuicSettings
from relay.quic.trust import ClientTls
from relay.runtime import SYSTEM
from relay.transport.quic_server import QuicServer
from relay.wire.version import AnyVersion, Draft, Version
from tests.e2e.harness import WITHIN, free_udp_port
from tests.e2e.support import NEW, assert_complete, paced, publisher, raw, running, viewer, webtransport
from tests.sampling import FULL, covering, first

GROUPS, FRAMES = 30, 10
OLDEST, *_, NEWEST = Draft

ACROSS = Draft if FULL else [Draft.DRAFT_18]

PAIRS: list[tuple[AnyVersion, AnyVersion]] = [
    *((Version.LITE_06, draft) for draft in ACROSS),
    *((draft, Version.LITE_06) for draft in ACROSS),
    *((draft, draft) for draft in Draft),
    (Version.LITE_04, Draft.DRAFT_18),
    (Draft.DRAFT_18, Version.LITE_02),
    (Draft.DRAFT_16, Draft.DRAFT_22),
]


@contextlib.asynccontextmanager
async def listeners(relay: Relay, versions: Iterable[AnyVersion]) -> AsyncIterator[dict[AnyVersion, int]]:
    """Ports of listeners for one version each, so that clients that offer all use that one."""
    store = CertificateStore([], ["localhost"], dt.datetime.now(dt.UTC))
    servers: dict[AnyVersion, QuicServer] = {}
    for version in versions:
        server = QuicServer(
            runtime=SYSTEM,
            address=("127.0.0.1", free_udp_port()),
            certificates=store,
            settings=QuicSettings(),
            limits=Limits(),
            versions=(version,),
            on_request=lambda request, version=version: relay.accept(request, (version,)),  # type: ignore[misc]
        )
        await server.start()
        servers[version] = server
    try:
        yield {version: server.addresses[0][1] for version, server in servers.items()}
    finally:
        for server in servers.values():
            await server.close()


def websocket(relay: Relay) -> str:
    return f"ws://127.0.0.1:{relay.url.rpartition(':')[2]}"


@pytest.mark.parametrize(
    ("source", "sink"),
    [*((Version.LITE_06, draft) for draft in Draft), *((draft, Version.LITE_06) for draft in Draft)],
    ids=lambda value: getattr(value, "name", value),
)
async def test_a_late_viewer_gets_the_current_group_from_its_first_frame(
    source: AnyVersion, sink: AnyVersion
) -> None:
    """From the cache, by a joining fetch or a fill; and if the relay itself comes late, from the publisher."""
    held = ("--groups", 3, "--frames-per-group", 10, "--hold", "--interval", 0.001, "--wait-for-viewers", 0)
    async with (
        running() as relay,
        listeners(relay, {source, sink}) as ports,
        publisher(NEW, f"https://127.0.0.1:{ports[source]}/", "demo/cam", *held) as publishing,
    ):
        await publishing.wait_for("published")
        url = f"https://127.0.0.1:{ports[sink]}/"
        for _ in range(2):
            async with viewer(NEW, url, "demo/cam", "--frames", 10, "--max-age-ms", 0) as late:
                first = await late.wait_for("first_frame")
                result = await late.wait_for("result")
            assert (first["group"], first["frame"]) == (2, 0)
            assert result["groups"] == [[2, list(range(10))]]


@pytest.mark.parametrize(
    ("pair", "scheme"),
    covering(PAIRS, ["https", "moqt"]),
    ids=lambda value: value if isinstance(value, str) else "-".join(version.name for version in value),
)
async def test_frames_arrive_complete(pair: tuple[AnyVersion, AnyVersion], scheme: str) -> None:
    source, sink = pair
    async with (
        running() as relay,
        listeners(relay, {source, sink}) as ports,
        publisher(
            NEW,
            f"{scheme}://127.0.0.1:{ports[source]}/",
            "demo/cam",
            *paced(NEW, GROUPS, FRAMES),
            "--wait-for-viewers",
            1,
        ) as publishing,
        viewer(
            NEW, f"{scheme}://127.0.0.1:{ports[sink]}/", "demo/cam", "--frames", GROUPS * FRAMES
        ) as viewing,
    ):
        assert (await publishing.wait_for("negotiated"))["version"]
        assert_complete(await viewing.wait_for("result"), GROUPS, FRAMES)


@pytest.mark.parametrize(
    "version",
    first(Draft.DRAFT_18, Version.LITE_04, Draft.DRAFT_22, count=2),
    ids=lambda version: version.name,
)
async def test_groups_that_moq_rs_writes_without_a_pause_reach_a_viewer_of_no_past(
    version: AnyVersion,
) -> None:
    """With a max age of 0, this publisher would leave out each group that a newer one follows at once."""
    shape = ("--groups", GROUPS, "--frames-per-group", FRAMES, "--interval", 0, "--pause", "first-frame")
    async with running(versions=[Version.LITE_06, version]) as relay:
        for turn in range(2):
            name = f"demo/cam{turn}"
            async with (
                asyncio.timeout(WITHIN),
                publisher(NEW, webtransport(relay), name, *shape) as source,
                await Client.connect(relay.url, versions=(version,)) as client,
            ):
                await client.announced().wait_for(name)
                subscription = await client.subscribe(name, "video")
                groups = [await anext(subscription)]
                await anext(groups[0])
                await source.send_line("go")
                groups += [group async for group in subscription]
                frames = {group.sequence: len(await group.read_all()) for group in groups}
                assert frames == {0: FRAMES - 1} | dict.fromkeys(range(1, GROUPS), FRAMES)


@pytest.mark.parametrize(
    "draft", first(Draft.DRAFT_22, Draft.DRAFT_16, Draft.DRAFT_18, count=2), ids=lambda draft: draft.name
)
async def test_a_publisher_is_killed_and_another_one_takes_its_place(draft: Draft) -> None:
    """Its viewer goes on with the second, in the same subscription."""
    quic = QuicSettings(idle_timeout=3.0, keep_alive=1.0)
    async with running(quic=quic, versions=[draft]) as relay:
        url = webtransport(relay)
        alone = ("--groups", 1, "--frames-per-group", 1, "--hold")
        held = ("--groups", 1, "--frames-per-group", 5, "--hold")
        async with viewer(NEW, url, "demo/cam", "--frames", 6) as sink:
            async with publisher(NEW, url, "demo/cam", *alone) as source:
                await sink.wait_for("first_frame")
                await source.kill()
            async with asyncio.timeout(60):
                while len(relay.connections) > 1:  # noqa: ASYNC110 - the relay tells nobody but its log
                    await asyncio.sleep(0.05)
            async with publisher(NEW, url, "demo/cam", *held):
                result = await sink.wait_for("result")
        assert result["groups"][-1] == [1, [0, 1, 2, 3, 4]]
        assert sink.count("subscribe_sent") == 1


@pytest.mark.parametrize("draft", [NEWEST, OLDEST] if not FULL else Draft, ids=lambda draft: draft.name)
async def test_viewers_of_one_relay_make_one_upstream_subscription(draft: Draft) -> None:
    paced = ("--groups", 5, "--frames-per-group", 5, "--interval", 0.02, "--pause", "first-frame")
    async with running(versions=[draft]) as relay:
        url = webtransport(relay)
        async with (
            publisher(NEW, url, "demo/cam", *paced) as source,
            viewer(NEW, url, "demo/cam", "--viewers", 5) as sink,
        ):
            for index in range(5):
                await sink.wait_for("first_frame", viewer=index)
            await source.send_line("go")
            for index in range(5):
                assert_complete(await sink.wait_for("result", viewer=index), 5, 5)
            assert source.count("track_request") == 1


@pytest.mark.parametrize("draft", [Draft.DRAFT_22, Draft.DRAFT_18], ids=lambda draft: draft.name)
async def test_peers_leave_a_relay_that_drains(draft: Draft) -> None:
    """By GOAWAY: no session is left to be closed by the relay."""
    hold = ("--groups", 1, "--frames-per-group", 3, "--hold")
    async with running(versions=[draft], limits=Limits(drain=WITHIN)) as relay:
        url = webtransport(relay)
        async with publisher(NEW, url, "demo/cam", *hold), viewer(NEW, url, "demo/cam") as sink:
            await sink.wait_for("first_frame")
            async with asyncio.timeout(WITHIN / 2):
                await relay.drain()
            assert not relay.connections


@pytest.mark.parametrize(
    "draft", Draft if FULL else [Draft.DRAFT_22, Draft.DRAFT_18, Draft.DRAFT_16], ids=lambda draft: draft.name
)
async def test_over_websocket(draft: Draft) -> None:
    async with running(versions=[draft]) as relay:
        url = websocket(relay)
        shape = (*paced(NEW, GROUPS, FRAMES), "--wait-for-viewers", 1)
        async with (
            publisher(NEW, url, "demo/cam", *shape),
            viewer(NEW, url, "demo/cam", "--frames", GROUPS * FRAMES) as viewing,
        ):
            assert_complete(await viewing.wait_for("result"), GROUPS, FRAMES)


WEBSOCKET_PAIRS: list[tuple[AnyVersion, AnyVersion]] = [
    (Draft.DRAFT_22, Version.LITE_06),
    (Version.LITE_05, Draft.DRAFT_20),
    (Draft.DRAFT_18, Draft.DRAFT_16),
    (Draft.DRAFT_14, Draft.DRAFT_18),
    (Version.LITE_02, Draft.DRAFT_14),
]


@pytest.mark.parametrize(
    ("pair", "url_of"),
    covering(PAIRS if FULL else WEBSOCKET_PAIRS, [websocket, raw, webtransport]),
    ids=lambda value: getattr(value, "__name__", None) or "-".join(version.name for version in value),
)
async def test_dialects_meet_over_websocket(
    pair: tuple[AnyVersion, AnyVersion], url_of: Callable[[Relay], str]
) -> None:
    """Our own publisher there, and our own viewer there or elsewhere: real clients cannot choose among dialects."""
    source, sink = pair
    payloads = [[bytes((group, frame)) * 5_000 for frame in range(FRAMES)] for group in range(3)]
    options: dict[str, Any] = {"tls": ClientTls(disable_verify=True)}
    async with (
        running() as relay,
        await Client.connect(websocket(relay), versions=(source,), **options) as publishing,
        await Client.connect(url_of(relay), versions=(sink,), **options) as viewing,
        asyncio.timeout(WITHIN),
    ):
        assert (publishing.version, viewing.version) == (source, sink)
        assert publishing.session.transport == "websocket"
        track = publishing.publish("demo/cam").track("video")
        await viewing.announced("").wait_for("demo/cam")
        subscription = await viewing.subscribe("demo/cam", "video", describe=False)
        await track.used()
        for frames in payloads:
            group = track.group()
            for frame in frames:
                group.write(frame)
            group.finish()
            received = await anext(subscription)
            assert [frame.payload for frame in await received.read_all()] == frames
