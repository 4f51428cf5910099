"""Clusters of relays in this process, over real QUIC on loopback, with clients.

    async with cluster(tmp_path, leaves=4) as relays:
        await relays.settled()
        async with Camera(relays[1], "cam") as camera, Viewer(relays[2], "cam") as viewer:
            camera.write()
            await viewer.reaches(0)

A `Node` keeps its ports while its relay is killed and started again. Time-outs are short.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast
from unittest import mock

import aiohttp

from relay.actors import messages as m
from relay.actors.connection import ConnectionActor
from relay.actors.runtime import ask
from relay.app import Relay
from relay.auth.claims import Claims
from relay.auth.key import Key
from relay.client import Client, ClientError, Subscription
from relay.config import Address, Auth, Config
from relay.config.root import Root
from relay.config.tables import Client as ClientTable
from relay.config.tables import ClientTls as ClientTlsTable
from relay.config.tables import Cluster as ClusterTable
from relay.model.limits import Limits
from relay.quic.endpoint import Endpoint
from relay.quic.settings import QuicSettings
from relay.transport.client import ClientTls
from relay.transport.quic_session import QuicSession
from relay.wire.version import ALL_VERSIONS, AnyVersion
from tests.client.recording import RecordingClient
from tests.clock import RUNTIME
from tests.e2e.harness import free_udp_port
from tests.e2e.support import config
from tests.e2e.udp_proxy import UdpProxy

T = TypeVar("T")

WITHIN: Final = 60.0
"""Seconds that anything awaited may take."""

IDLE: Final = 2.0
LINGER: Final = 1.0
QUIC: Final = QuicSettings(idle_timeout=IDLE, keep_alive=0.5)
LIMITS: Final = Limits(backlog_time=30.0, track_idle=0.2, linger=LINGER)

MEMBERS: Final = "internal/origins"
ANYONE: Final = ClientTls(disable_verify=True)


async def eventually(check: Callable[[], Awaitable[T]], within: float = WITHIN, *, every: float = 0.03) -> T:
    """The result of `check` once it raises no AssertionError; its last error if time runs out."""
    deadline = RUNTIME.now() + within
    while True:
        try:
            return await check()
        except AssertionError:
            if RUNTIME.now() > deadline:
                raise
        await asyncio.sleep(every)


# --- rights ------------------------------------------------------------------------------------------------------


def key_in(folder: Path) -> Path:
    file = folder / "root.jwk"
    if not file.exists():
        Key.generate("HS256").save(file)
    return file


def member_token(folder: Path, *, key: Key | None = None, expires: float | None = None) -> str:
    claims = Claims(publish=("",), subscribe=("",), cluster=True, expires=expires)
    return (key or Key.load(key_in(folder))).sign(claims)


def token_in(folder: Path) -> Path:
    file = folder / "cluster.jwt"
    if not file.exists():
        file.write_text(member_token(folder))
    return file


# --- relays ------------------------------------------------------------------------------------------------------


class Node:
    """`host` is its source address, `name` the address that others dial."""

    def __init__(self, config: Config, name: str, host: str = "127.0.0.1", label: str = "") -> None:
        self.config = config
        self.name = name
        self.host = host
        self.label = label or name
        self.relay: Relay | None = None
        self.proxy: UdpProxy | None = None
        self._http: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return self.label

    @property
    def alive(self) -> bool:
        return self.relay is not None

    @property
    def running(self) -> Relay:
        assert self.relay is not None, f"{self} is not running"
        return self.relay

    @property
    def port(self) -> int:
        return self.config.server.listen.port

    @property
    def hop(self) -> str:
        """As the debug API writes it."""
        hop = self.running.identity().hop
        assert isinstance(hop, str)
        return hop

    def url(self, path: str = "") -> str:
        return f"https://127.0.0.1:{self.port}/{path}"

    async def start(self) -> None:
        assert self.relay is None
        relay = Relay(self.config, RUNTIME)
        await relay.start()
        self.relay = relay
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN))

    async def close(self) -> None:
        relay, self.relay = self.relay, None
        if self._http is not None:
            await self._http.close()
            self._http = None
        if relay is not None:
            await relay.close()

    async def kill(self) -> None:
        """Like a crash: nothing leaves before the sockets close."""
        relay = self.running
        assert relay._quic is not None
        silence(relay._quic)
        for ref in relay.connections.values():
            actor = ref._actor_weakref()
            if isinstance(actor, ConnectionActor) and isinstance(actor.session, QuicSession):
                mute(actor.session)
        await self.close()

    async def get(self, path: str, *, internal: bool = True) -> Any:
        """JSON of the internal listener, or of the public one."""
        assert self._http is not None
        base = self.running.internal_url if internal else f"http://127.0.0.1:{self.port}/"
        async with self._http.get(base + path, headers={"accept": "application/json"}) as response:
            assert response.status == 200, (path, response.status)
            return await response.json()

    async def state(self) -> dict[str, Any]:
        state: dict[str, Any] = await self.get("state")
        return state

    async def routes(self) -> dict[str, list[str]]:
        """Hops of each live broadcast's serving route."""
        return {row["path"]: row["hops"] for row in (await self.state())["broadcasts"] if row["serving"]}

    async def members(self) -> list[m.Published]:
        """Every route to every announced relay, itself included."""
        question = m.ListPublications((MEMBERS,))
        found: tuple[m.Published, ...] = await ask(self.running.origin, question, timeout=WITHIN)
        return list(found)


class Muted:
    """A socket that sends nothing."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def _drop(self, *_args: object) -> int:
        return 0

    send = sendto = sendmsg = _drop


def mute(session: QuicSession) -> None:
    """From now on nothing that its endpoint sends gets anywhere."""
    assert isinstance(session.driver.endpoint, Endpoint)
    silence(session.driver.endpoint)


def silence(endpoint: Endpoint) -> None:
    """Drop all its packets from now on."""
    for sock in endpoint._sockets:
        sock.sock = cast("socket.socket", Muted(sock.sock))


class Nodes(list[Node]):
    """The root first."""

    @property
    def root(self) -> Node:
        return self[0]

    @property
    def live(self) -> list[Node]:
        return [node for node in self if node.alive]

    async def settled(self, clients: dict[Node, int] | None = None, within: float = WITHIN) -> None:
        """Wait for exactly one session between each two live relays.

        `clients`: sessions of other peers.
        """

        async def check() -> None:
            for node in self.live:
                await self.check_sessions(node, (clients or {}).get(node, 0))

        await eventually(check, within)

    async def check_sessions(self, node: Node, clients: int | None) -> None:
        state = await node.state()
        others = {other.name for other in self.live if other is not node}
        peers = {peer["node"]: peer for peer in state["peers"]}
        connected = {name: peer["session"] for name, peer in peers.items() if peer["session"] is not None}
        assert set(connected) == others, (node, others, state["peers"])
        assert len(set(connected.values())) == len(others), (node, state["peers"])
        if clients is not None:
            assert state["totals"]["sessions"] == len(others) + clients, (node, state["sessions"])

    async def announce(self, paths: Iterable[str], within: float = WITHIN) -> None:
        """Wait until every live relay announces exactly these."""
        wanted = set(paths)

        async def check() -> None:
            for node in self.live:
                found = set(await node.routes())
                assert found == wanted, (node, found ^ wanted)

        await eventually(check, within)

    # -- the network, where there are proxies

    def ways(self, one: Node, other: Node) -> Iterator[Any]:
        """Both directions' weather between two relays."""
        for dialler, dialled in ((one, other), (other, one)):
            assert dialled.proxy is not None
            yield dialled.proxy.weather(dialler.host)

    def cut(self, one: Node, other: Node, *, cut: bool = True) -> None:
        for weather in self.ways(one, other):
            weather.cut = cut

    def isolate(self, node: Node, *, cut: bool = True) -> None:
        for other in self:
            if other is not node:
                self.cut(node, other, cut=cut)


@contextlib.contextmanager
def quick_peers(**more: float) -> Iterator[None]:
    """Relays retry soon."""
    timers = {"FIRST_DELAY": 0.2, "LONGEST_DELAY": 0.5, "PATIENCE": 0.4, **more}
    with contextlib.ExitStack() as stack:
        for name, seconds in timers.items():
            stack.enter_context(mock.patch(f"relay.actors.peer.{name}", seconds))
        yield


def node_config(
    folder: Path,
    *,
    port: int | None = None,
    root: Sequence[str] = (),
    name: str | None = None,
    host: str = "127.0.0.1",
    versions: Iterable[AnyVersion] = ALL_VERSIONS,
    limits: Limits = LIMITS,
    quic: QuicSettings = QUIC,
) -> Config:
    base = config(versions=versions, limits=limits, quic=quic, host="127.0.0.1")
    server = base.server
    if port is not None:
        listen = Address(server.listen.host, port)
        base = base.model_copy(
            update={
                "server": server.model_copy(update={"listen": listen}),
                "web": base.web.model_copy(
                    update={"http": base.web.http.model_copy(update={"listen": listen})}
                ),
            }
        )
    return base.model_copy(
        update={
            "auth": Auth(key=key_in(folder), public=""),
            "cluster": ClusterTable(node=name, root=tuple(map(Root, root)), token=token_in(folder)),
            "client": ClientTable(
                bind=Address(host, 0),
                tls=ClientTlsTable(disable_verify=True),
            ),
        }
    )


@contextlib.asynccontextmanager
async def cluster(
    folder: Path,
    leaves: int = 4,
    *,
    proxies: bool = False,
    versions: dict[int, Iterable[AnyVersion]] | None = None,
    start: bool = True,
    seed: int = 0,
    **options: Any,
) -> AsyncIterator[Nodes]:
    """With `proxies` relays reach each other through one in front of each.

    Names sort in the order of the nodes. `versions` limits a node's versions, by its index.
    """
    names = sorted(f"127.0.0.1:{free_udp_port()}" for _ in range(leaves + 1))
    nodes = Nodes()
    with quick_peers(), contextlib.ExitStack() as stack:
        for index, name in enumerate(names):
            public = int(name.rpartition(":")[2])
            host = f"127.0.1.{index + 1}"
            settings = node_config(
                folder,
                port=free_udp_port() if proxies else public,
                root=(names[0],) if index else (),
                name=name,
                host=host,
                versions=(versions or {}).get(index, ALL_VERSIONS),
                **options,
            )
            node = Node(settings, name, host, f"leaf{index}" if index else "root")
            if proxies:
                node.proxy = stack.enter_context(UdpProxy(public, node.port, seed=seed + index))
            nodes.append(node)
        try:
            if start:
                for node in nodes:
                    await node.start()
            yield nodes
        finally:
            await asyncio.gather(*(node.close() for node in nodes))


# --- clients -----------------------------------------------------------------------------------------------------


async def dial(node: Node, path: str = "", **options: Any) -> Client:
    return await RecordingClient.connect(node.url(path), tls=ANYONE, runtime=RUNTIME, **options)


async def drop(client: Client) -> None:
    """Like a crash: without a close."""
    assert isinstance(client.session, QuicSession)
    mute(client.session)
    await client.close()


class Guest:
    def __init__(self, node: Node, path: str, **options: Any) -> None:
        self.node = node
        self.path = path
        self._options = options
        self._client: Client | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r} at {self.node}, {self._client!r})"

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    async def __aenter__(self) -> Self:
        self._client = await dial(self.node, **self._options)
        await self.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.end()

    async def begin(self) -> None:
        pass

    async def end(self) -> None:
        await self.client.close()


class Camera(Guest):
    """Publishes one broadcast with one track, `video`. The two frames of a group name it."""

    async def begin(self) -> None:
        self.publication = self.client.publish(self.path)
        self.track = self.publication.track("video", keep=64)
        self._writing: asyncio.Task[None] | None = None

    def write(self, count: int = 1) -> int:
        """Returns the last group's sequence."""
        for _ in range(count):
            group = self.track.group()
            for frame in range(2):
                group.write(payload(self.path, group.sequence, frame))
            group.finish()
        assert self.track.latest is not None
        return self.track.latest

    def go_on(self, every: float = 0.05) -> None:
        async def write() -> None:
            while True:
                self.write()
                await asyncio.sleep(every)

        self._writing = asyncio.create_task(write())

    async def end(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
        await super().end()

    async def crash(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
        await drop(self.client)


def payload(path: str, sequence: int, frame: int) -> bytes:
    return f"{path} {sequence} {frame}".encode()


class Viewer(Guest):
    """Reads the track `video` to its end."""

    def __init__(self, node: Node, path: str, **options: Any) -> None:
        super().__init__(node, path, **options)
        self.groups: dict[int, list[bytes]] = {}
        """Complete groups, in order of arrival."""
        self.begun: list[int] = []
        self.over: str | None = None
        self._changed = asyncio.Event()
        self._reading: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        self._spawn(self._watch())

    async def end(self) -> None:
        for task in list(self._reading):
            task.cancel()
        await super().end()

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _watch(self) -> None:
        try:
            subscription: Subscription = await self.client.subscribe(self.path, "video")
            async for group in subscription:
                self.begun.append(group.sequence)
                self._spawn(self._read(group))
            self.over = "the track ended"
        except ClientError as error:
            self.over = repr(error)
        self._changed.set()

    async def _read(self, group: Any) -> None:
        with contextlib.suppress(ClientError):
            self.groups[group.sequence] = [frame.payload for frame in await group.read_all()]
            self._changed.set()

    async def until(self, condition: Callable[[], object], within: float = WITHIN) -> None:
        """Raises AssertionError if the subscription ends, or time runs out."""
        try:
            async with asyncio.timeout(within):
                while not condition():
                    assert self.over is None, f"viewer of {self.path} at {self.node}: {self.over}"
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(
                f"viewer of {self.path} at {self.node}: begun {self.begun[-5:]}, whole {list(self.groups)[-5:]}"
            ) from None

    async def reaches(self, sequence: int, within: float = WITHIN) -> None:
        """Wait for a complete group of at least that number."""
        await self.until(lambda: self.groups and max(self.groups) >= sequence, within)

    async def goes_on(self, groups: int = 3, within: float = WITHIN) -> None:
        wanted = len(self.groups) + groups
        await self.until(lambda: len(self.groups) >= wanted, within)

    def assert_once(self) -> None:
        """No number came twice. (Of two concurrent groups the newer may be first.)"""
        assert len(set(self.begun)) == len(self.begun), self.begun
        late = [now for before, now in itertools.pairwise(self.begun) if now < before - 8]
        assert not late, self.begun


class Guide(Guest):
    async def begin(self) -> None:
        self.announced = self.client.announced(self.path)
        await self.announced.initial()

    @property
    def live(self) -> set[str]:
        return set(self.announced.live)

    def changes(self) -> tuple[list[str], list[str]]:
        """Announcements and withdrawals since the last call."""
        unread = list(self.announced._unread)
        self.announced._unread.clear()
        began = [change.path for change in unread if change.active and not change.update]
        return began, [change.path for change in unread if not change.active]

    async def sees(self, paths: Iterable[str], within: float = WITHIN) -> None:
        """Wait until exactly these are live."""
        wanted = set(paths)

        async def check() -> None:
            assert self.live == wanted, (self.node, self.live ^ wanted)

        await eventually(check, within)


# --- what is said ------------------------------------------------------------------------------------------------


class Log(logging.Handler):
    """All log records of this process."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def lines(self, logger: str = "relay", level: int = logging.DEBUG) -> list[str]:
        return [
            record.getMessage()
            for record in self.records
            if record.levelno >= level and f"{record.name}.".startswith(f"{logger}.")
        ]


@contextlib.contextmanager
def everything_logged() -> Iterator[Log]:
    log = Log()
    logger = logging.getLogger()
    former = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.DEBUG)
    try:
        yield log
    finally:
        logger.setLevel(former)
        logger.removeHandler(log)
