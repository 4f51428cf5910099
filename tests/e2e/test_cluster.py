"""Clusters of relays over real QUIC: each broadcast is available once at every relay."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relay.actors.statuses import OtherStatuses
from relay.auth.claims import Claims
from relay.auth.key import Key
from relay.client import Client, SubscribeError, TrackWriter
from relay.config.root import Root
from relay.config.tables import ClientTls as ClientTlsTable
from relay.config.tables import ServerTls
from relay.quic.settings import QuicSettings
from relay.wire.errors import StreamCode
from relay.wire.version import Draft, Version
from tests.client.recording import subscriptions_of
from tests.clock import RUNTIME
from tests.e2e.cluster_support import (
    IDLE,
    LINGER,
    MEMBERS,
    WITHIN,
    Camera,
    Guide,
    Log,
    Node,
    Nodes,
    Viewer,
    cluster,
    dial,
    eventually,
    everything_logged,
    key_in,
    member_token,
    node_config,
    payload,
    quick_peers,
    token_in,
)
from tests.e2e.harness import Peer, free_udp_port, peer_python
from tests.e2e.http_support import certificate, install
from tests.e2e.support import publisher, viewer
from tests.sampling import covering, first

pytestmark = pytest.mark.virtual

NEW, OLD = "0.5.1", "0.3.3"

PATIENT = QuicSettings(idle_timeout=30.0)
"""Beside other processes, which a busy machine may stop for seconds."""

GONE = IDLE + LINGER + 3.0
"""Seconds in which a lost relay's broadcasts are gone everywhere, with 3 for a slow machine."""


def complete(path: str, first: int, last: int) -> dict[int, list[bytes]]:
    return {n: [payload(path, n, frame) for frame in range(2)] for n in range(first, last + 1)}


# --- a cluster at work -------------------------------------------------------------------------------------------


async def test_every_broadcast_everywhere(tmp_path: Path) -> None:
    """20 broadcasts at each of 5 relays: every client gets each announcement once, and every track whole.

    Routes are the shortest, with one session between each two relays.
    """
    groups = 5
    async with cluster(tmp_path) as nodes, contextlib.AsyncExitStack() as stack:
        await nodes.settled()
        guides = [await stack.enter_async_context(Guide(node, "")) for node in nodes]
        publishers = [await stack.enter_async_context(await dial(node)) for node in nodes]
        tracks = {
            path: client.publish(path).track("video", keep=64)
            for index, client in enumerate(publishers)
            for path in site(index)
        }
        for guide in guides:
            await guide.sees(tracks)

        viewers = [await stack.enter_async_context(await dial(node)) for node in nodes]
        begun = asyncio.Barrier(len(tracks) * len(nodes) + 1)

        async def watch(client: Client, path: str) -> dict[int, list[bytes]]:
            received: dict[int, list[bytes]] = {}
            async for group in await client.subscribe(path, "video"):
                received[group.sequence] = [frame.payload for frame in await group.read_all()]
                if len(received) == 1:
                    await begun.wait()
                if len(received) > groups:
                    break
            return received

        async with asyncio.timeout(60), asyncio.TaskGroup() as work:
            watching = [
                (path, work.create_task(watch(client, path))) for path in tracks for client in viewers
            ]
            write(tracks)
            await begun.wait()
            for _ in range(groups):
                write(tracks)
                await asyncio.sleep(0)
        assert len(watching) == 500
        for path, task in watching:
            assert task.result() == complete(path, 0, groups), path

        for guide in guides:
            began, ended = guide.changes()
            assert Counter(began) == Counter(list(tracks)), guide.node
            assert ended == [], guide.node
        await nodes.settled(dict.fromkeys(nodes, 3))
        for node in nodes:
            shortest = {
                path: [str(client.hop)] if node is home else [str(client.hop), home.hop]
                for index, (home, client) in enumerate(zip(nodes, publishers, strict=True))
                for path in site(index)
            }
            assert await node.routes() == shortest, node
            rows = await node.get("announced/", internal=False)
            assert {row["path"]: row["hops"] for row in rows} == shortest, node


def site(index: int) -> list[str]:
    return [f"site{index}/cam{number}" for number in range(20)]


def write(tracks: dict[str, TrackWriter]) -> None:
    for path, track in tracks.items():
        group = track.group()
        for frame in range(2):
            group.write(payload(path, group.sequence, frame))
        group.finish()


async def test_one_subscription_per_hop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many watch, the publisher and each relay send a track once per next relay."""
    # no subscriptions between relays but those for viewers
    monkeypatch.setattr(OtherStatuses, "ask", lambda _self, _names: {})
    async with cluster(tmp_path) as nodes, contextlib.AsyncExitStack() as stack:
        await nodes.settled()
        camera = await stack.enter_async_context(Camera(nodes[1], "cam"))
        await nodes.announce(["cam"])
        camera.go_on()
        viewers = [await stack.enter_async_context(Viewer(node, "cam")) for node in nodes for _ in range(3)]
        for one in viewers:
            await one.goes_on(2)
        assert len(subscriptions_of(camera.publication)) == 1
        assert camera.track.subscribers == 1
        for node in nodes:
            state = await node.state()
            [row] = [row for row in state["broadcasts"] if row["path"] == "cam" and row["serving"]]
            [track] = row["tracks"]
            assert (track["viewers"], track["relays"]) == (3, len(nodes) - 1 if node is nodes[1] else 0), node
            upstreams = {s["session"]: s["upstreams"] for s in state["sessions"] if s["upstreams"]}
            assert upstreams == {row["session"]: 1}, node
            others = [r for r in state["broadcasts"] if r["path"] == "cam" and not r["serving"]]
            assert all(not r["tracks"] for r in others), node

        # the last viewer's end reaches the publisher
        for one in viewers:
            await one.end()
        async with asyncio.timeout(WITHIN):
            await camera.track.unused()


async def test_late_viewer_far_away_gets_the_current_group(tmp_path: Path) -> None:
    async with cluster(tmp_path, 2) as nodes, Camera(nodes[1], "cam") as camera:
        await nodes.announce(["cam"])
        camera.write(5)
        async with Viewer(nodes[2], "cam") as first:
            await first.reaches(4)
            assert first.begun == [4]
            async with Viewer(nodes[0], "cam") as second:
                await second.reaches(4)


async def test_clients_see_no_members(tmp_path: Path) -> None:
    """They cannot announce one either: no relay dials it."""
    with everything_logged() as log, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trap:
        trap.bind(("127.0.0.1", 0))
        trap.setblocking(False)
        name = f"127.0.0.1:{trap.getsockname()[1]}"
        async with cluster(tmp_path, 2) as nodes:
            await nodes.settled()
            async with (
                Guide(nodes[1], "") as everything,
                Guide(nodes[2], MEMBERS) as members,
                await dial(nodes[2]) as intruder,
            ):
                intruder.publish(f"{MEMBERS}/{name}")
                intruder.publish("marker")
                await everything.sees(["marker"])
                await nodes.announce(["marker"])
                assert members.live == set()
                for node in nodes:
                    state = await node.state()
                    assert name not in str(state["peers"])
                with pytest.raises(SubscribeError) as refused:
                    await intruder.subscribe(f"{MEMBERS}/{nodes[0].name}", "video")
                assert refused.value.code in (StreamCode.UNROUTABLE, StreamCode.NOT_FOUND)
            with pytest.raises(BlockingIOError):
                trap.recv(1)
    assert [line for line in log.lines("relay.session") if "ignored announcement" in line and name in line]


async def test_http_hides_the_members(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as nodes, Camera(nodes[1], "cam"):
        await nodes.announce(["cam"])
        for node in nodes:
            for prefix in ("", MEMBERS, "internal"):
                rows = await node.get(f"announced/{prefix}", internal=False)
                assert [row["path"] for row in rows] == ([] if prefix else ["cam"]), (node, prefix)
                assert node._http is not None
                async with node._http.get(f"http://127.0.0.1:{node.port}/announced/{prefix}") as response:
                    assert (await response.text()) == ("" if prefix else "cam\n"), (node, prefix)


async def test_relay_without_a_name(tmp_path: Path) -> None:
    """Its broadcasts stay local; it sees those of all others."""
    async with cluster(tmp_path, 2, start=False) as nodes:
        shy = nodes[2]
        shy.config = shy.config.model_copy(
            update={"cluster": shy.config.cluster.model_copy(update={"node": None})}
        )
        for node in nodes:
            await node.start()
        async with Camera(nodes[0], "root"), Camera(nodes[1], "leaf") as camera, Camera(shy, "shy") as own:

            async def check() -> None:
                assert set(await nodes[0].routes()) == {"root", "leaf"}
                assert set(await nodes[1].routes()) == {"root", "leaf"}
                assert set(await shy.routes()) == {"root", "leaf", "shy"}
                assert len(await shy.routes()) == 3
                state = await shy.state()
                assert {p["node"] for p in state["peers"] if p["session"]} == {n.name for n in nodes[:2]}

            await eventually(check)
            async with Viewer(shy, "leaf") as far, Viewer(shy, "shy") as near:
                camera.go_on()
                own.go_on()
                await far.goes_on()
                await near.goes_on()
            async with Guide(nodes[1], "") as guide:
                assert guide.live == {"root", "leaf"}


@pytest.mark.parametrize("token", ["none", "a client's", "in the URL", "a file of its own"])
async def test_relay_without_the_rights_of_one(tmp_path: Path, token: str) -> None:
    """It shares broadcasts with its root in both directions, but is not announced as a member."""
    async with cluster(tmp_path, 2, start=False) as nodes:
        joins = nodes[2]
        jwt = Key.load(key_in(tmp_path)).sign(Claims(publish=("",), subscribe=("",)))
        file = tmp_path / "client.jwt"
        file.write_text(jwt)
        root = Root(
            f"https://{nodes.root.name}/",
            token=file if token == "a file of its own" else None,
            jwt=jwt if token == "in the URL" else None,
        )
        default = file if token == "a client's" else None
        changed = joins.config.cluster.model_copy(update={"root": (root,), "token": default})
        joins.config = joins.config.model_copy(update={"cluster": changed})
        for node in nodes:
            await node.start()
        async with Camera(nodes[1], "far") as far, Camera(joins, "own") as own:
            await nodes.announce(["far", "own"])
            state = await joins.state()
            assert [(peer["node"], peer["state"]) for peer in state["peers"]] == [(root.target, "connected")]
            assert jwt not in str(state)
            assert len((await nodes.root.state())["peers"]) == 1
            async with Viewer(joins, "far") as here, Viewer(nodes[1], "own") as there:
                far.go_on()
                own.go_on()
                await here.goes_on()
                await there.goes_on()
            own.publication.close()
            await nodes.announce(["far"])


# --- trouble at the door -----------------------------------------------------------------------------------------


class Trouble:
    """A leaf without a session with its root, and the reported reason."""

    def __init__(self, folder: Path, log: Log) -> None:
        self.folder = folder
        self.log = log
        self.secrets = [token_in(folder).read_text()]
        self.port = free_udp_port()
        name = f"127.0.0.1:{self.port}"
        self.root = Node(node_config(folder, port=self.port, name=name), name)
        self.target = self.root.name
        self.leaf = self.make_leaf(self.target)

    def make_leaf(self, target: str, *, name: str | None = None, port: int | None = None) -> Node:
        port = port or free_udp_port()
        settings = node_config(self.folder, port=port, root=(target,), name=name or f"127.0.0.1:{port}")
        return Node(settings, name or f"127.0.0.1:{port}")

    def use_token(self, token: str) -> None:
        token_in(self.folder).write_text(token)
        self.secrets.append(token)

    async def told(self, *parts: str, target: str) -> None:
        """Once in the log, always in the state, and without the secret."""
        self.target = target

        async def check() -> None:
            tries = [line for line in self.log.lines("relay.cluster") if " failed reason=" in line]
            assert len(tries) >= 3
            [peer] = (await self.leaf.state())["peers"]
            assert peer["node"] == target
            assert peer["session"] is None
            for part in parts:
                assert part in peer["error"], peer

        await eventually(check)
        warned = [line for line in self.log.lines("relay.cluster", 30) if target in line]
        assert len(warned) == 1, warned
        for part in parts:
            assert part in warned[0], warned
        await self.assert_discreet()

    async def assert_discreet(self) -> None:
        said = "\n".join([*self.log.lines(""), *self.log.lines("relay")])
        for node in (self.root, self.leaf):
            if node.alive:
                said += str(await node.state())
        for secret in self.secrets:
            assert secret not in said
            assert secret.rpartition(".")[2] not in said
        assert "jwt=ey" not in said

    async def recovers(self) -> None:
        async def check() -> None:
            state = await self.leaf.state()
            [peer] = [peer for peer in state["peers"] if peer["node"] == self.target]
            assert peer["state"] == "connected", state["peers"]
            assert peer["error"] is None, peer
            # another name of the same relay, for one session
            assert {peer["session"] for peer in state["peers"]} == {peer["session"]}, state["peers"]
            assert state["totals"]["sessions"] == 1, state["sessions"]

        await eventually(check)
        async with Camera(self.root, "cam"):
            await Nodes([self.root, self.leaf]).announce(["cam"])
        await self.assert_discreet()


@contextlib.asynccontextmanager
async def trouble(folder: Path) -> AsyncIterator[Trouble]:
    with quick_peers(FIRST_DELAY=0.1, LONGEST_DELAY=0.2), everything_logged() as log:
        it = Trouble(folder, log)
        try:
            yield it
        finally:
            await it.leaf.close()
            await it.root.close()


async def test_token_of_another_key(tmp_path: Path) -> None:
    async with trouble(tmp_path) as it:
        it.use_token(member_token(tmp_path, key=Key.generate("HS256")))
        await it.root.start()
        await it.leaf.start()
        await it.told("401", target=it.root.name)
        it.use_token(member_token(tmp_path))
        await it.recovers()


async def test_expired_token(tmp_path: Path) -> None:
    async with trouble(tmp_path) as it:
        it.use_token(member_token(tmp_path, expires=RUNTIME.wall_time() - 60))
        await it.root.start()
        await it.leaf.start()
        await it.told("401", target=it.root.name)
        it.use_token(member_token(tmp_path))
        await it.recovers()


async def test_token_file_gone(tmp_path: Path) -> None:
    """Each attempt reads it."""
    async with trouble(tmp_path) as it:
        await it.leaf.start()
        await it.told("Connection refused", target=it.root.name)
        token_in(tmp_path).unlink()

        async def check() -> None:
            [peer] = (await it.leaf.state())["peers"]
            assert "the token cannot be read" in peer["error"], peer

        await eventually(check)
        it.use_token(member_token(tmp_path))
        await it.root.start()
        await it.recovers()


async def test_token_without_the_claim(tmp_path: Path) -> None:
    """An ordinary token makes an ordinary session: the leaf is no member."""
    ordinary = Key.load(key_in(tmp_path)).sign(Claims(publish=("",), subscribe=("",)))
    async with trouble(tmp_path) as it:
        await it.leaf.start()
        await it.told("Connection refused", target=it.root.name)
        await it.root.start()
        await it.recovers()
        it.use_token(ordinary)  # before the next attempt
        await it.root.close()
        it.root.config = it.root.config.model_copy(
            update={"cluster": it.root.config.cluster.model_copy(update={"token": None})}
        )
        await it.root.start()

        async def check() -> None:
            assert [line for line in it.log.lines("relay", 30) if "ignored announcement" in line]
            assert (await it.root.state())["peers"] == []

        await eventually(check)
        await it.assert_discreet()


async def test_nobody_listens(tmp_path: Path) -> None:
    async with trouble(tmp_path) as it:
        await it.leaf.start()
        await it.told("Connection refused", target=it.root.name)
        await it.root.start()
        await it.recovers()


async def test_unknown_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the name is in the DNS."""
    async with trouble(tmp_path) as it:
        target = f"relay.invalid:{it.port}"
        it.leaf = it.make_leaf(target)
        await it.root.start()
        resolve = socket.getaddrinfo
        known: dict[str, str] = {}

        def getaddrinfo(host: str, *args: Any, **options: Any) -> Any:
            if host == "relay.invalid" and not known:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return resolve(known.get(host, host), *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        await it.leaf.start()
        await it.told("Name or service not known", target=target)
        known["relay.invalid"] = "127.0.0.1"
        await it.recovers()


async def test_wrong_certificate(tmp_path: Path) -> None:
    """Until the leaf trusts the root's."""
    async with trouble(tmp_path) as it:
        target = f"localhost:{it.port}"
        trusted, other = certificate(), certificate()
        (tmp_path / "trusted").mkdir()
        root_file, _ = install(tmp_path / "trusted", trusted)
        cert, key = install(tmp_path, other)
        server = it.root.config.server.model_copy(update={"tls": ServerTls(cert=(cert,), key=(key,))})
        it.root.config = it.root.config.model_copy(update={"server": server})
        it.leaf = it.make_leaf(target)
        table = it.leaf.config.client.model_copy(update={"tls": ClientTlsTable(root=(root_file,))})
        it.leaf.config = it.leaf.config.model_copy(update={"client": table})
        await it.root.start()
        await it.leaf.start()
        await it.told("TLS handshake failed", target=target)
        install(tmp_path, trusted)
        it.root.running.reload()
        # the server checks its certificates periodically, and at once after a reload
        await it.recovers()


async def test_relay_that_dials_itself(tmp_path: Path) -> None:
    """By a name that it does not recognise."""
    async with trouble(tmp_path) as it:
        port = free_udp_port()
        it.leaf = it.make_leaf(f"localhost:{port}", name=f"127.0.0.1:{port}", port=port)
        await it.leaf.start()
        await it.told("dialled itself", target=f"localhost:{port}")
        async with Camera(it.leaf, "cam"):
            await Nodes([it.leaf]).announce(["cam"])
            assert all(len(hops) == 1 for hops in (await it.leaf.routes()).values())


async def test_root_that_names_itself(tmp_path: Path) -> None:
    """It does not dial itself, silently."""
    async with trouble(tmp_path) as it:
        port = free_udp_port()
        it.leaf = it.make_leaf(f"127.0.0.1:{port}", port=port)
        await it.leaf.start()
        async with Camera(it.leaf, "cam"):
            await Nodes([it.leaf]).announce(["cam"])
        assert (await it.leaf.state())["peers"] == []
        assert it.log.lines("relay.cluster", 30) == []


# --- loss --------------------------------------------------------------------------------------------------------


class Process(Peer):
    def __init__(self, folder: Path, name: str, port: int, root: str) -> None:
        self.file = folder / f"{name}.toml"
        self.file.write_text(f"""
[server]
listen = "127.0.0.1:{port}"
[server.tls]
generate = ["localhost", "127.0.0.1"]
[server.quic]
idle_timeout = {IDLE}
keep_alive = 0.5
[client.tls]
disable_verify = true
[cluster]
root = "{root}"
node = "127.0.0.1:{port}"
token = "{token_in(folder)}"
[auth]
key = "{key_in(folder)}"
public = "demo"
[limits]
linger = {LINGER}
[log]
level = "debug"
""")
        super().__init__([sys.executable, "-m", "relay.cli", self.file], name)
        self.port = port
        self.url = f"https://127.0.0.1:{port}/"


@pytest.mark.virtual(False)
async def test_relay_is_killed_and_returns(tmp_path: Path) -> None:
    """SIGKILL: its broadcasts vanish everywhere, and return with it."""
    async with cluster(tmp_path, 2) as nodes, Camera(nodes[2], "demo/stays") as other:
        other.go_on()
        port = free_udp_port()
        others = [node.name for node in nodes]

        async def found() -> None:
            for node in nodes:
                peers = [p for p in (await node.state())["peers"] if p["node"].endswith(f":{port}")]
                assert [p["session"] is not None for p in peers] == [True], (node, peers)

        for _ in range(2):
            async with Process(tmp_path, "leaf", port, others[0]) as process:
                await process.wait_for("line", text="  speaks " + ", ".join(map(str, names_on_wire())))
                await eventually(found)
                remote = Node(node_config(tmp_path, port=port), f"127.0.0.1:{port}")
                camera = Camera(remote, "demo/cam")
                async with Guide(nodes[0], "") as guide, Viewer(remote, "demo/stays") as abroad:
                    async with contextlib.AsyncExitStack() as stack:
                        await stack.enter_async_context(camera)
                        camera.go_on()
                        await nodes.announce(["demo/cam", "demo/stays"])
                        viewers = [
                            await stack.enter_async_context(Viewer(node, "demo/cam")) for node in nodes
                        ]
                        for one in viewers:
                            await one.goes_on()
                        await abroad.goes_on()
                        await process.kill()
                        killed = RUNTIME.now()
                        await camera.crash()
                        await nodes.announce(["demo/stays"], GONE)
                        assert RUNTIME.now() - killed < GONE

                        async def over(one: Viewer) -> None:
                            assert one.over is not None, (one.node, one.begun[-3:])

                        for one in viewers:
                            await eventually(lambda one=one: over(one), GONE)  # type: ignore[misc]
                    await guide.sees(["demo/stays"])


def names_on_wire() -> list[str]:
    return [version.name_on_wire for version in (*Version, *Draft)]


@pytest.mark.parametrize("how", ["close", "kill"])
async def test_root_goes_and_returns(tmp_path: Path, how: str) -> None:
    """Meanwhile the members serve each other; then all, and a new one, find each other."""
    async with cluster(tmp_path, 3, start=False) as nodes:
        late = nodes[3]
        for node in nodes[:3]:
            await node.start()
        await nodes.settled()
        async with Camera(nodes[1], "cam") as camera, Viewer(nodes[2], "cam") as watcher:
            await nodes.announce(["cam"])
            camera.go_on()
            await watcher.goes_on()
            await getattr(nodes.root, how)()
            await nodes.settled({nodes[1]: 1, nodes[2]: 1})
            await watcher.goes_on()
            await late.start()
            async with Viewer(nodes[1], "late"):
                pass
            async with Camera(nodes[2], "new"):
                await Nodes(nodes[1:3]).announce(["cam", "new"])
            await nodes.root.start()
            await nodes.settled({nodes[1]: 1, nodes[2]: 1})
            await nodes.announce(["cam"])
            async with Viewer(late, "cam") as far, Viewer(nodes.root, "cam") as near:
                await far.goes_on()
                await near.goes_on()
            await watcher.goes_on()
            watcher.assert_once()


@pytest.mark.parametrize(("which", "how"), covering([1, 2], ["close", "kill"]))
async def test_leaf_goes_and_returns(tmp_path: Path, how: str, which: int) -> None:
    """Both for the dialling and for the dialled relay."""
    async with cluster(tmp_path, 2) as nodes:
        await nodes.settled()
        node = nodes[which]
        await getattr(node, how)()
        await nodes.settled()
        await node.start()
        await nodes.settled()


async def test_leaf_returns_while_the_root_is_away(tmp_path: Path) -> None:
    """Connected members retry for a while, in both directions."""
    async with cluster(tmp_path, 3) as nodes:
        await nodes.settled()
        await nodes.root.kill()
        await nodes.settled()
        for node in nodes[1:]:
            await node.kill()
            await nodes.settled()
            await node.start()
            await nodes.settled()


async def test_two_publishers_of_one_path(tmp_path: Path) -> None:
    """Each relay serves its own, all others the same one; if its relay dies, their viewers get the other."""
    async with cluster(tmp_path) as nodes, contextlib.AsyncExitStack() as stack:
        await nodes.settled()
        cameras = {node: await stack.enter_async_context(Camera(node, "cam")) for node in nodes[1:3]}
        mine = {node: str(camera.client.hop) for node, camera in cameras.items()}
        near, other = sorted(cameras, key=lambda node: cameras[node].client.hop)

        async def decided() -> None:
            for node in nodes:
                assert (await node.routes())["cam"][0] == mine.get(node, mine[near])

        await eventually(decided)
        for camera in cameras.values():
            camera.go_on()
        viewers = [await stack.enter_async_context(Viewer(node, "cam")) for node in (nodes[0], *nodes[3:])]
        for one in viewers:
            await one.goes_on()
        assert cameras[other].track.subscribers == 0
        await near.kill()
        await cameras[near].crash()
        for one in viewers:
            seen = len(one.groups)
            await one.goes_on(3, GONE)
            assert len(one.groups) > seen
        async with asyncio.timeout(WITHIN):
            await cameras[other].track.used()
        for one in viewers:
            await one.goes_on(3)
            one.assert_once()
            assert one.over is None
        await nodes.announce(["cam"])


@pytest.mark.parametrize("rivals", [2, 5])
async def test_rivals_come_to_rest(tmp_path: Path, rivals: int) -> None:
    """Publishers of one path, each at another relay: one wins everywhere, and then it is quiet."""
    with everything_logged() as log:
        async with cluster(tmp_path) as nodes, contextlib.AsyncExitStack() as stack:
            await nodes.settled()
            guides = [await stack.enter_async_context(Guide(node, "")) for node in nodes]
            clients = [await stack.enter_async_context(await dial(node)) for node in nodes[:rivals]]
            for client in clients:
                client.publish("cam")

            def announced() -> int:
                return sum("[broadcast cam] announced" in line for line in log.lines("relay.session"))

            async def quiet() -> None:
                before = announced()
                await asyncio.sleep(0.3)
                assert announced() == before > 0

            await eventually(quiet, 5.0)
            assert announced() < 100 * rivals
            for guide in guides:
                assert guide.live == {"cam"}
                began, ended = guide.changes()
                assert len(began) == len(ended) + 1 <= rivals, guide.node
            for client in clients:
                await client.close()
            await nodes.announce([])


async def test_another_path(tmp_path: Path) -> None:
    """Two leaves lose their connection: the viewer's route leads through the root, and back afterwards."""
    async with (
        cluster(tmp_path, 2, proxies=True) as nodes,
        Camera(nodes[1], "cam") as camera,
        Guide(nodes[2], "") as guide,
        Viewer(nodes[2], "cam") as early,
    ):
        await nodes.settled({nodes[1]: 1, nodes[2]: 2})
        assert early.over is not None or early.begun == []
        await nodes.announce(["cam"])
        camera.go_on()
        async with Viewer(nodes[2], "cam") as watcher:
            await watcher.goes_on()
            nodes.cut(nodes[1], nodes[2])

            async def route(*hops: str) -> None:
                assert (await nodes[2].routes())["cam"] == [str(camera.client.hop), *hops]

            await eventually(lambda: route(nodes[1].hop, nodes[0].hop))
            await watcher.goes_on()
            nodes.cut(nodes[1], nodes[2], cut=False)
            await eventually(lambda: route(nodes[1].hop))
            await watcher.goes_on()
            watcher.assert_once()
            missing = set(range(min(watcher.begun), max(watcher.groups) + 1)) - set(watcher.begun)
            assert len(missing) <= (IDLE + 2) / 0.05, missing
            assert watcher.over is None
        assert camera.track.subscribers == 1 or camera.track.latest is not None
        _, ended = guide.changes()
        assert ended == []


@pytest.mark.parametrize("noticed", [True, False], ids=["lingering", "at-once"])
async def test_publisher_moves_to_another_leaf(tmp_path: Path, noticed: bool) -> None:
    """Lost at one leaf, back in time at another: no end is announced, and viewers get the next groups."""
    async with cluster(tmp_path, 4) as nodes, contextlib.AsyncExitStack() as stack:
        await nodes.settled()
        hop = 424_242
        camera = await stack.enter_async_context(Camera(nodes[1], "cam", hop=hop))
        await nodes.announce(["cam"])
        camera.go_on()
        guides = [
            await stack.enter_async_context(Guide(node, "", versions=[version]))
            for node in nodes
            for version in (Version.LITE_05, Version.LITE_06)
        ]
        viewers = [
            await stack.enter_async_context(Viewer(nodes[index], "cam", versions=[version]))
            for index, version in ((0, Version.LITE_06), (3, Version.LITE_05), (4, Version.LITE_06))
        ]
        viewers.append(await stack.enter_async_context(Viewer(nodes[2], "cam")))
        for one in viewers:
            await one.goes_on()
        for guide in guides:
            guide.changes()
        await camera.crash()
        latest = camera.track.latest
        if noticed:

            async def lost() -> None:
                assert (await nodes[1].state())["totals"]["sessions"] == len(nodes) - 1 + 2

            await eventually(lost, IDLE + 2)
        back = await stack.enter_async_context(Camera(nodes[2], "cam", hop=hop))
        back.track.latest = latest
        back.go_on()
        for one in viewers:
            await one.reaches((latest or 0) + 5, GONE)
            one.assert_once()

        async def settled() -> None:
            for node in nodes:
                hops = [str(hop)] if node is nodes[2] else [str(hop), nodes[2].hop]
                assert (await node.routes())["cam"] == hops, node

        await eventually(settled)
        for one in viewers:
            await one.goes_on(3)
            one.assert_once()
        for guide in guides:
            began, ended = guide.changes()
            assert (began, ended) == ([], []), guide.node
        assert back.track.subscribers == 1


async def test_publisher_gone_for_good(tmp_path: Path) -> None:
    """After the linger time it is withdrawn everywhere, and viewers learn it."""
    async with cluster(tmp_path, 2) as nodes, contextlib.AsyncExitStack() as stack:
        camera = await stack.enter_async_context(Camera(nodes[1], "cam"))
        await nodes.announce(["cam"])
        camera.go_on()
        viewers = [await stack.enter_async_context(Viewer(node, "cam")) for node in nodes]
        for one in viewers:
            await one.goes_on()
        await camera.crash()
        await nodes.announce([], GONE)

        async def over() -> None:
            assert all(one.over is not None for one in viewers)

        await eventually(over)


# --- other peers -------------------------------------------------------------------------------------------------


@pytest.mark.virtual(False)
@pytest.mark.parametrize("peer", first(NEW, OLD))
async def test_real_peers(tmp_path: Path, peer: str) -> None:
    """moq-rs publishes at one leaf and watches at another one and at the root; so do older versions at the edge."""
    async with cluster(tmp_path, 3, quic=PATIENT) as nodes, contextlib.AsyncExitStack() as stack:
        await nodes.settled()
        pace = ("--groups", 400, "--frames-per-group", 5, "--interval", 0.01, "--frame-size", 200)
        source = await stack.enter_async_context(publisher(peer, nodes[1].url(), "demo/cam", *pace))
        await source.wait_for("negotiated")
        await nodes.announce(["demo/cam"])
        await stack.enter_async_context(Viewer(nodes[3], "demo/cam"))  # the track is never idle
        sinks = [
            await stack.enter_async_context(viewer(kind, node.url(), "demo/cam", "--frames", 25))
            for kind, node in ((NEW, nodes[2]), (NEW, nodes[0]), (OLD, nodes[2]), (OLD, nodes[0]))
        ]
        edges = []
        for version in (Version.LITE_01, Version.LITE_02, Version.LITE_03):
            client = await stack.enter_async_context(await dial(nodes[3], versions=[version]))
            edges.append((version, client))
        for version, client in edges:
            assert client.version == version
            announced = client.announced()
            async with asyncio.timeout(WITHIN):
                await announced.wait_for("demo/cam")
                subscription = await client.subscribe("demo/cam", "video")
                async for group in subscription:
                    if len(await group.read_all()) == 5:
                        break
        for sink in sinks:
            result = await sink.wait_for("result")
            assert result["errors"] == []
            assert result["bad"] == []
            assert result["frames"] >= 25
        assert source.count("track_request") == 1


@pytest.mark.parametrize("version", first(Version.LITE_01, Version.LITE_03, Version.LITE_02, count=2))
async def test_older_publisher_at_the_edge(tmp_path: Path, version: Version) -> None:
    """Its relay gives it an id, the same for all others."""
    async with (
        cluster(tmp_path, 2) as nodes,
        Camera(nodes[1], "cam", versions=[version]) as camera,
        Guide(nodes[2], "") as guide,
    ):
        await nodes.settled({nodes[1]: 1, nodes[2]: 1})
        await nodes.announce(["cam"])
        camera.go_on()
        async with Viewer(nodes[2], "cam") as far, Viewer(nodes[0], "cam") as near:
            await far.goes_on()
            await near.goes_on()
            [publisher_hop] = (await nodes[1].routes())["cam"]
            assert (await nodes[0].routes())["cam"] == [publisher_hop, nodes[1].hop]
            assert (await nodes[2].routes())["cam"] == [publisher_hop, nodes[1].hop]
        assert len(subscriptions_of(camera.publication)) <= 2
        began, ended = guide.changes()
        assert (began, ended) == (["cam"], []), (began, ended)


@pytest.mark.parametrize("version", first(Version.LITE_01, Version.LITE_03, Version.LITE_02, count=2))
async def test_peer_relay_of_an_older_version(tmp_path: Path, version: Version) -> None:
    """One hop only: it exchanges broadcasts with the root, and neither forwards the other's."""
    async with (
        cluster(tmp_path, 3, versions={3: [version]}) as nodes,
        contextlib.AsyncExitStack() as stack,
    ):
        for index, node in enumerate(nodes):
            camera = await stack.enter_async_context(Camera(node, f"cam{index}"))
            camera.go_on()
        wanted = [{0, 1, 2, 3}, {0, 1, 2}, {0, 1, 2}, {0, 3}]

        async def check() -> None:
            for node, numbers in zip(nodes, wanted, strict=True):
                routes = await node.routes()
                assert set(routes) == {f"cam{number}" for number in numbers}, node
                for path, hops in routes.items():
                    assert len(hops) == len(set(hops)) <= 2, (node, path, hops)

        await eventually(check)
        viewers = [
            await stack.enter_async_context(Viewer(node, f"cam{number}"))
            for node, numbers in zip(nodes, wanted, strict=True)
            for number in numbers
        ]
        for one in viewers:
            await one.goes_on(2)
        await check()


@pytest.mark.parametrize("version", [Version.LITE_02, Version.LITE_03])
async def test_one_hop_rule(tmp_path: Path, version: Version) -> None:
    """Relays do not forward broadcasts of a relay of an older version: they could loop."""
    async with cluster(tmp_path, 2, proxies=True, versions={2: [version]}) as nodes:
        old = nodes[2]
        nodes.cut(nodes[1], old)
        async with Camera(old, "old") as camera, Camera(nodes[1], "new") as other:
            camera.go_on()
            other.go_on()

            async def check() -> None:
                assert set(await nodes[0].routes()) == {"old", "new"}
                assert set(await nodes[1].routes()) == {"new"}

            await eventually(check)
            async with Camera(nodes[0], "root"):

                async def more() -> None:
                    assert set(await nodes[0].routes()) == {"old", "new", "root"}
                    assert set(await nodes[1].routes()) == {"new", "root"}
                    assert set(await old.routes()) == {"old", "root"}

                await eventually(more)
            async with Viewer(nodes[0], "old") as watcher:
                await watcher.goes_on()


@contextlib.asynccontextmanager
async def relay_of_today() -> AsyncIterator[int]:
    """The Rust core of moq-rs as a relay that is open to anyone; its port."""
    port = free_udp_port()
    process = await asyncio.create_subprocess_exec(
        peer_python(NEW), "-m", "bench.peer_relay", str(port), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WITHIN):
            assert await process.stdout.readline() == b"listening\n"
        yield port
    finally:
        process.kill()
        await process.wait()


@pytest.mark.virtual(False)
@pytest.mark.parametrize("scheme", first("moqt", "https"))
async def test_a_relay_of_today_is_joined_without_a_token(tmp_path: Path, scheme: str) -> None:
    """Broadcasts in both directions; a withdrawal is one end."""
    async with relay_of_today() as port, cluster(tmp_path, 1, start=False, quic=PATIENT) as nodes:
        node = nodes.root
        root = (Root(f"{scheme}://127.0.0.1:{port}"),)
        changed = node.config.cluster.model_copy(update={"root": root, "token": None})
        node.config = node.config.model_copy(update={"cluster": changed})
        await node.start()
        url = f"https://127.0.0.1:{port}"
        async with Camera(node, "ours") as ours, Guide(node, "") as guide:
            pace = ("--groups", 200, "--frames-per-group", 2, "--interval", 0.02)
            async with publisher(NEW, url, "theirs", *pace) as source:
                await source.wait_for("negotiated")
                await nodes.announce(["ours", "theirs"])
                async with viewer(NEW, url, "ours", "--frames", 4) as there, Viewer(node, "theirs") as here:
                    ours.go_on()
                    assert (await there.wait_for("result"))["errors"] == []
                    await here.until(lambda: len(here.groups) > 1)
            await nodes.announce(["ours"])
            assert guide.changes()[1] == ["theirs"]


# --- what relays say of themselves -------------------------------------------------------------------------------


async def test_relays_show_figures_and_dashboards_of_the_others(tmp_path: Path) -> None:
    async with cluster(tmp_path, leaves=2) as nodes:
        await nodes.settled()
        async with Camera(nodes[1], "cam") as camera, Viewer(nodes[2], "cam") as viewer:
            camera.write()
            await viewer.reaches(0)

            async def check() -> None:
                for node in nodes:
                    peers = {peer["node"]: peer for peer in (await node.state())["peers"]}
                    others = [other for other in nodes if other is not node]
                    for other in others:
                        peer = peers[other.name]
                        assert peer["dashboard"] == f"http://{other.name}/", (node, other, peer)
                        own = (await other.state())["totals"]
                        shown = {key: peer["totals"][key] for key in ("sessions", "broadcasts", "viewers")}
                        assert shown == {key: own[key] for key in shown}, (node, other)

            await eventually(check)
            assert (await nodes[2].state())["totals"]["viewers"] == 1
            for node in nodes:
                state = await node.state()
                assert state["relay"]["dashboard"] == f"http://{node.name}/"
                assert [row["path"] for row in state["broadcasts"] if row["path"].startswith(MEMBERS)] == []
                assert state["totals"]["viewers"] == (node is nodes[2]), node
                assert "status refused" not in str(await node.get("events"))

            # the operator may read it, clients may not
            path = f"{MEMBERS}/{nodes[1].name}"
            async with (
                aiohttp.ClientSession() as http,
                http.get(f"{nodes[0].running.internal_url}fetch/{path}/status.json") as response,
            ):
                assert set(json.loads(await response.text())) == {"totals", "dashboard"}
            with pytest.raises(SubscribeError):
                await anext(await camera.client.subscribe(path, "status.json"))
            async with (
                aiohttp.ClientSession() as http,
                http.get(f"http://127.0.0.1:{nodes[0].port}/fetch/{path}/status.json") as response,
            ):
                assert response.status == 404


async def test_sessions_with_relays_are_events(tmp_path: Path) -> None:
    async with cluster(tmp_path, leaves=1) as nodes:
        await nodes.settled()

        async def seen(*kinds: str) -> None:
            events = (await nodes[0].get("events"))["events"]
            assert [event["kind"] for event in events] == list(kinds), events
            assert {event["remote"] for event in events} == {nodes[1].name}, events

        await eventually(lambda: seen("peer_up"))
        await nodes[1].close()
        await eventually(lambda: seen("peer_up", "peer_down"))
