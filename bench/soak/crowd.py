"""A process of the soak's load: `python -m bench.soak.crowd '{"port": ..., ...}'`.

Each slot has one session after another: transport, version, duration and kind of end. Prints `ready`, and after
`end`, once every session has closed, `left` with counts.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp

from bench.load.talk import Orders, say
from bench.soak import guests
from bench.soak.guests import Crowd
from bench.soak.line import Line, TcpLine, UdpLine
from relay.client import Client, ClientError
from relay.quic.trust import ClientTls
from relay.transport.client import ConnectError
from relay.wire.version import Version
from tests.e2e.harness import free_udp_port
from tests.e2e.udp_proxy import UdpProxy

TRANSPORTS: Final = {"quic": "moqt", "webtransport": "https", "websocket": "ws"}
TRUST: Final = ClientTls(disable_verify=True)
LONGEST_STAY: Final = 20.0
SLOW: Final = 0.1
"""Share of viewers on a bad network."""

HASTE: Final = 0.02
"""Most seconds until an incompatible peer leaves, during the handshake or before it."""

PAGES: Final = ("announced/", "announced/soak", "certificate.sha256", "fetch/none/none")


class Slots:
    def __init__(self, job: dict[str, Any], proxy: UdpProxy) -> None:
        self._job = job
        self._proxy = proxy
        self.crowd = Crowd(random.Random(job["seed"]), job["paths"], job["rate"])

    async def keep(self, slot: int) -> None:
        """Session after session."""
        role, act = self._role(slot)
        await asyncio.sleep(self.crowd.random.uniform(0, 3))
        while True:
            await self._visit(slot, role, act)
            await asyncio.sleep(self.crowd.random.uniform(0, 0.5))

    def _role(self, slot: int) -> tuple[str, Callable[[Client], Awaitable[None]]]:
        publishers = self._job["publishers"]
        if slot < publishers:
            own = self._job["own"]
            path = own[slot % len(own)]  # some have a rival
            return "publisher", lambda client: guests.publish(self.crowd, client, path)
        if slot % 8 == 0:
            return "listener", lambda client: guests.listen(self.crowd, client)
        return "viewer", lambda client: guests.watch(self.crowd, client)

    async def _visit(self, slot: int, role: str, act: Callable[[Client], Awaitable[None]]) -> None:
        crowd = self.crowd
        transport = crowd.random.choice(list(TRANSPORTS))
        version = crowd.random.choice(list(Version))
        slow = role == "viewer" and crowd.chance(SLOW)
        unclean = crowd.chance(self._job["unclean"])
        line = await self._line(slot, transport, slow=slow) if slow or unclean else None
        try:
            await self._session(line, transport, version, act, unclean=unclean)
        except (ConnectError, ClientError) as error:
            kind = "on a slow line" if slow else f"over {transport}"
            crowd.counts[f"sessions that did not begin {kind}"] += 1
            if not slow:
                print(f"{transport} {version.name_on_wire}: {error}", file=sys.stderr)
        finally:
            if line is not None:
                line.close()

    async def _session(
        self,
        line: Line | None,
        transport: str,
        version: Version,
        act: Callable[[Client], Awaitable[None]],
        *,
        unclean: bool,
    ) -> None:
        crowd = self.crowd
        port = self._job["port"] if line is None else line.port
        bind = ("127.0.0.1" if line is None else line.host, 0)
        url = f"{TRANSPORTS[transport]}://127.0.0.1:{port}/"
        client = await Client.connect(url, versions=(version,), tls=TRUST, bind=bind)
        crowd.counts["sessions"] += 1
        crowd.counts[f"sessions over {transport}"] += 1
        try:
            await self._act(client, act)
        finally:
            if unclean and line is not None:
                line.cut()
                crowd.counts["sessions cut off"] += 1
            await client.close()

    async def _act(self, client: Client, act: Callable[[Client], Awaitable[None]]) -> None:
        try:
            try:
                async with asyncio.timeout(self.crowd.random.uniform(0.1, LONGEST_STAY)):
                    await act(client)
            except* ClientError:
                self.crowd.counts["sessions that the relay ended"] += 1
        except TimeoutError:
            pass

    async def _line(self, slot: int, transport: str, *, slow: bool) -> Line:
        if transport == "websocket":
            return await TcpLine(self._job["port"], "127.0.0.1", slow=slow).open()
        return UdpLine(self._proxy, f"127.0.{self._job['number'] + 1}.{slot + 1}", slow=slow)

    async def incompatible(self) -> None:
        """Dial, and leave before the session is established."""
        while True:
            scheme = self.crowd.random.choice(list(TRANSPORTS.values()))
            try:
                async with asyncio.timeout(self.crowd.random.uniform(0, HASTE)):
                    client = await Client.connect(f"{scheme}://127.0.0.1:{self._job['port']}/", tls=TRUST)
                await client.close()
            except (TimeoutError, ConnectError, ClientError):
                self.crowd.counts["incompatible"] += 1
            await asyncio.sleep(0.5)

    async def browse(self) -> None:
        """Request pages, and read only some of the answers."""
        base = f"http://127.0.0.1:{self._job['port']}/"
        internal = f"http://127.0.0.1:{self._job['internal']}/"
        pages = [
            *(base + page for page in PAGES),
            *(base + f"fetch/{path}/video" for path in self._job["paths"]),
        ]
        async with aiohttp.ClientSession() as http:
            while True:
                page = internal + "state" if self.crowd.chance(0.05) else self.crowd.random.choice(pages)
                try:
                    async with asyncio.timeout(self.crowd.random.choice((0.005, 0.1, 1))):
                        async with http.get(page) as response:
                            await response.read()
                    self.crowd.counts["pages"] += 1
                except TimeoutError:
                    self.crowd.counts["pages not waited for"] += 1
                except aiohttp.ClientError:
                    self.crowd.counts["pages broken off"] += 1
                await asyncio.sleep(self.crowd.random.uniform(0, 0.2))


async def main(job: dict[str, Any]) -> None:
    orders = Orders()
    with UdpProxy(free_udp_port(), job["port"], seed=job["seed"]) as proxy:
        slots = Slots(job, proxy)
        tasks = [asyncio.create_task(slots.keep(slot)) for slot in range(job["sessions"])]
        tasks += [asyncio.create_task(each()) for each in (slots.incompatible, slots.browse)]
        say(event="ready")
        ended = asyncio.create_task(orders.next())
        done, _ = await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if ended not in done:
        await done.pop()  # a slot ends only by a fault of load or relay: raise it here
    say(event="left", counts=dict(slots.crowd.counts))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
