"""HTTP beside namespaces of moq-transport that are no path of moq-lite."""

from __future__ import annotations

import asyncio

import aiohttp

from relay.transport.client import ClientTls, connect
from relay.wire.ietf.messages import PublishNamespace
from relay.wire.version import Draft
from tests.actors.moqt_peer import MoqtEnd
from tests.clock import RUNTIME
from tests.e2e.harness import WITHIN
from tests.e2e.support import raw, running


async def test_announced_leaves_them_out_and_state_escapes_them() -> None:
    draft = Draft.DRAFT_18
    async with running() as relay, aiohttp.ClientSession(relay.internal_url) as http, asyncio.timeout(WITHIN):
        tls = ClientTls(disable_verify=True)
        session = await connect(raw(relay), versions=(draft,), tls=tls, runtime=RUNTIME)
        publisher = MoqtEnd(session, draft)
        publisher.ask(PublishNamespace(publisher.next_id(), (b"a/b", b"\xff")))
        last = publisher.publish("plain")
        while not last.accepted:  # noqa: ASYNC110 - the peer tells nobody
            await asyncio.sleep(0.001)
        async with http.get("/announced/") as response:
            assert await response.text() == "plain\n"
        for path in ("/announced/", "/state"):
            async with http.get(path, headers={"accept": "application/json"}) as response:
                assert r"a\udc2fb/\udcff" in await response.text()
            async with http.get(path, headers={"accept": "application/msgpack"}) as response:
                assert rb"a\udc2fb/\udcff" in await response.read()
        async with http.get("/metrics") as response:
            assert response.status == 200
        publisher.close()
