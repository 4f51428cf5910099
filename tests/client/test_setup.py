"""How a session begins, byte by byte, on either end."""

from __future__ import annotations

import asyncio

import pytest

from relay.client import Client, SessionEnded
from relay.moq.session import AnnounceRequested, BitrateReported, PeerInfo
from relay.transport.memory import memory_pair
from relay.transport.session import CONTROL_PRIORITY
from relay.wire.errors import SessionCode
from relay.wire.setup import ClientSetup, ServerSetup, SetupForm
from relay.wire.version import Version
from tests.client.recording import RecordingClient
from tests.client.support import ALL, FETCHING, OLD, PATIENCE, RawPeer, facing, pair, sessions

pytestmark = pytest.mark.timeout(20)


async def opening(client: Client, peer: RawPeer, stream: int) -> bytes:
    """The client's first bytes on `stream`, without an answer."""
    starting = asyncio.create_task(client.start())
    data = await peer.until(lambda: peer.received.get(stream))
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert isinstance(data, bytes)
    return data


@pytest.mark.parametrize(
    "alpn, versions, expected",
    [
        ("moql-01", ALL, "000a01c0000000ff0dad0100"),
        ("moql", [Version.LITE_01], "20000a01c0000000ff0dad0100"),
        ("moql", ALL, "20001202c0000000ff0dad02c0000000ff0dad0100"),
        ("moql", OLD, "20001202c0000000ff0dad02c0000000ff0dad0100"),
    ],
)
async def test_the_older_setup_opens_as_its_generation_does(
    alpn: str, versions: list[Version], expected: str
) -> None:
    near, far = memory_pair(None, client_offers=(alpn,))
    async with asyncio.timeout(PATIENCE):
        data = await opening(Client(near, versions=versions), RawPeer(far), 0)
    assert data.hex() == expected


async def test_path_and_query_go_into_the_setup_of_a_transport_without_them() -> None:
    near, far = memory_pair(None, path=None)
    client = Client(near, target="/anon/room?jwt=abc", authority="relay:4443")
    async with asyncio.timeout(PATIENCE):
        data = await opening(client, RawPeer(far), 0)
    params = b"\x02" + b"\x01\x12/anon/room?jwt=abc" + b"\x05\x0arelay:4443"
    assert data.endswith(params)

    near, far = memory_pair(Version.LITE_05, path=None)
    peer = RawPeer(far)
    async with asyncio.timeout(PATIENCE), Client(near, target="/anon/room?jwt=abc", hop=9):
        data = await peer.until(lambda: peer.received.get(2))
    assert data == b"\x01\x18\x02\x02\x12/anon/room?jwt=abc\x05\x01\x09"


@pytest.mark.parametrize("version", FETCHING)
@pytest.mark.parametrize("server", [False, True])
async def test_setup_of_the_newer_versions_is_one_message(version: Version, server: bool) -> None:
    async with facing(version, server=server, cost=3, role=1, probe=2) as (client, peer):
        stream = 3 if server else 2
        assert await peer.until(lambda: peer.received.get(stream)) == bytes.fromhex(
            "010d04010102030101040103050107"
        )
        assert peer.events[0].fin  # type: ignore[union-attr]
        assert not client.seen(PeerInfo)
        peer.session.open_uni().write([bytes.fromhex("010501050240c8")], fin=True)
        assert await client.wait_for(PeerInfo) == [PeerInfo(200, None, None, None)]


@pytest.mark.parametrize("version", [Version.LITE_03, Version.LITE_04])
async def test_03_and_04_begin_without_a_word(version: Version) -> None:
    async with facing(version) as (client, peer):
        client.announced("a")
        stream = await peer.bidi(b"\x01")
        hop = b"\x07" if version == Version.LITE_04 else b""
        assert peer.received == {0: b"\x01" + bytes((2 + len(hop),)) + b"\x01a" + hop}
        assert stream.id == 0


@pytest.mark.parametrize("version", ALL)
async def test_both_ends_know_each_other(version: Version) -> None:
    async with pair(version, cost=5) as (near, far):
        assert (near.session.is_client, far.session.is_client) == (True, False)
        assert near.hop != far.hop
        if version in FETCHING:
            assert await near.wait_for(PeerInfo) == [PeerInfo(far.hop, 5, None, None)]
            assert await far.wait_for(PeerInfo) == [PeerInfo(near.hop, 5, None, None)]
        else:
            assert not near.seen(PeerInfo)
            assert not far.seen(PeerInfo)


@pytest.mark.parametrize("form", SetupForm)
@pytest.mark.parametrize("version", OLD)
async def test_a_server_takes_every_form_and_answers_in_it(form: SetupForm, version: Version) -> None:
    near, far = sessions(version)
    async with asyncio.timeout(PATIENCE):
        client, server = Client(near, form=form), Client(far, versions=[version])
        await asyncio.gather(client.start(), server.start())
        assert client.version is server.version is version
        peer_stream = server.session.streams[0]  # type: ignore[attr-defined]
        assert peer_stream.opened_by_peer
        await client.close()


async def test_a_server_takes_the_first_version_that_it_supports() -> None:
    _near, far = memory_pair(None)
    server = Client(far)
    async with asyncio.timeout(PATIENCE):
        peer = RawPeer(far.peer)
        stream = peer.session.open_bidi()
        codes = (0xFF00000E, Version.LITE_01.setup_code, Version.LITE_02.setup_code)
        stream.write([ClientSetup(SetupForm.DRAFT14, codes).encode()])
        await server.start()
        assert server.version == Version.LITE_01
        assert await peer.until(lambda: peer.received.get(0)) == bytes.fromhex("210009c0000000ff0dad0100")


@pytest.mark.parametrize("server_speaks", [[Version.LITE_01], list(ALL[2:])])
async def test_without_a_common_version_both_ends_get_the_reason(server_speaks: list[Version]) -> None:
    near, far = memory_pair(None)
    client, server = Client(near, versions=[Version.LITE_02]), Client(far, versions=server_speaks)
    async with asyncio.timeout(PATIENCE):
        results = await asyncio.gather(client.start(), server.start(), return_exceptions=True)
    for result, by_peer in zip(results, (True, False), strict=True):
        assert isinstance(result, SessionEnded)
        assert (result.code, result.by_peer) == (9, by_peer)


async def test_a_client_without_an_older_version_says_so_where_setup_decides() -> None:
    near, far = memory_pair(None)
    RawPeer(far)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(SessionEnded, match="only 01 and 02"):
            await Client(near, versions=FETCHING).start()


async def test_a_choice_that_was_not_offered_ends_the_session() -> None:
    near, far = memory_pair(None)
    peer = RawPeer(far)
    client = Client(near, versions=[Version.LITE_02])
    async with asyncio.timeout(PATIENCE):
        starting = asyncio.create_task(client.start())
        stream = await peer.bidi(b"\x20")
        stream.write([ServerSetup(SetupForm.DRAFT14, Version.LITE_01.setup_code).encode()])
        with pytest.raises(SessionEnded) as caught:
            await starting
        assert (caught.value.code, caught.value.by_peer) == (9, False)


@pytest.mark.parametrize("server", [False, True])
async def test_a_silent_peer_gets_only_so_much_time(server: bool) -> None:
    ends = memory_pair(None)
    mine, theirs = reversed(ends) if server else ends
    peer = RawPeer(theirs)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(SessionEnded, match="no SETUP in time") as caught:
            await Client(mine).start(0.01)
        assert caught.value.code == 3
        await peer.until(lambda: peer.events and peer.events[-1])
        assert peer.session.finished


async def test_what_overtakes_the_setup_is_kept_for_after_it() -> None:
    near, far = memory_pair(None)
    peer = RawPeer(far)
    client = RecordingClient(near, versions=[Version.LITE_02])
    async with asyncio.timeout(PATIENCE):
        starting = asyncio.create_task(client.start())
        stream = await peer.bidi(b"\x20")
        peer.session.open_bidi(CONTROL_PRIORITY + 1).write([b"\x01\x01\x00"])
        stream.write([ServerSetup(SetupForm.DRAFT14, Version.LITE_02.setup_code).encode()])
        await starting
        assert [one.prefix for one in client.seen(AnnounceRequested)] == [""]
        assert await peer.until(lambda: peer.received.get(1)) == b"\x01\x00"
        # SESSION_INFO may follow; the end of this stream is the end of the session
        stream.write([b"\x01\x2a"], fin=True)
        closed = await client.closed()
        assert [one.bitrate for one in client.seen(BitrateReported)] == [42]
        assert (closed.code, closed.by_peer) == (0, False)


@pytest.mark.parametrize("version", FETCHING)
async def test_a_second_setup_is_a_violation(version: Version) -> None:
    async with facing(version) as (client, peer):
        for _ in range(2):
            peer.session.open_uni().write([b"\x01\x01\x00"], fin=True)
        closed = await client.closed()
        assert (closed.code, closed.by_peer) == (SessionCode.PROTOCOL_VIOLATION, False)


async def test_a_client_is_started_once() -> None:
    near, _far = memory_pair(Version.LITE_04)
    client = Client(near)
    with pytest.raises(RuntimeError, match="not known"):
        _ = client.version
    async with client:
        with pytest.raises(RuntimeError, match="once"):
            await client.start()
