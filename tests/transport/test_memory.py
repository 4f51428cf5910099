"""The in-memory transport behaves as the real ones."""

from __future__ import annotations

import asyncio

import pytest

from relay.transport.memory import DATAGRAM_LIMIT, memory_pair
from relay.transport.session import DatagramReceived, Event, Pong, Session, SessionClosed, StreamData
from relay.wire.version import Version
from tests.transport.virtual import Recorder


async def turns(count: int = 6) -> None:
    """Run loop turns until nothing is pending."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_both_sides_report() -> None:
    client, server = memory_pair(Version.LITE_04, path="/a", query="jwt=x")
    sessions: tuple[Session, Session] = (client, server)
    assert [session.transport for session in sessions] == ["memory", "memory"]
    assert [session.is_client for session in sessions] == [True, False]
    assert client.version is server.version is Version.LITE_04
    assert client.alpn == server.alpn == "moq-lite-04"
    assert (server.path, server.query) == ("/a", "jwt=x")
    assert memory_pair(None)[0].alpn == "moql"
    assert memory_pair(None, client_offers=("moql-01",))[1].alpn == "moql-01"


async def test_one_batch_in_the_next_turn() -> None:
    client, server = memory_pair(Version.LITE_05)
    seen = Recorder(server)
    one, two = client.open_uni(), client.open_bidi()
    one.write([b"a", b"b"])
    two.write([b"c"], fin=True)
    one.write([b"d"], fin=True)
    assert not seen.batches
    assert one.unsent == 3
    await turns(1)
    assert len(seen.batches) == 1
    assert (seen.data(one.id), seen.data(two.id)) == (b"abd", b"c")
    assert (one.id, two.id) == (2, 0)
    assert one.unsent == 0


async def test_echo_and_forget() -> None:
    client, server = memory_pair(Version.LITE_05)
    at_server, at_client = Recorder(server), Recorder(client)

    def echo(event: Event) -> None:
        if isinstance(event, StreamData):
            event.stream.write([event.data], fin=event.fin)

    at_server.on_event = echo
    for number in range(100):
        client.open_bidi().write([b"%d" % number], fin=True)
    await turns()
    assert len(at_client.finished) == 100
    assert not client.streams
    assert not server.streams


async def test_urgent_streams_first() -> None:
    client, server = memory_pair(Version.LITE_05)
    seen = Recorder(server)
    for priority in (1, 9, 5):
        client.open_uni(priority).write([b"%d" % priority], fin=True)
    client.open_uni().write([b"control"])
    await turns()
    assert [e.data for e in seen.events if isinstance(e, StreamData)] == [b"control", b"9", b"5", b"1"]


async def test_reset_and_stop() -> None:
    client, server = memory_pair(Version.LITE_05)
    at_server, at_client = Recorder(server), Recorder(client)
    stream = client.open_bidi()
    stream.write([b"x"])
    await turns()
    stream.write([b"lost"])
    stream.reset(7)
    stream.reset(8)
    stream.stop(9)
    stream.stop(9)
    stream.write([b"late"])
    await turns()
    assert at_server.data(stream.id) == b"x"
    assert at_server.resets == [(stream.id, 7)]
    assert at_server.stops == [(stream.id, 9)]
    assert at_client.resets == [(stream.id, 9)]
    assert not client.streams
    assert not server.streams


async def test_no_data_after_stop() -> None:
    client, server = memory_pair(Version.LITE_05)
    at_server, at_client = Recorder(server), Recorder(client)
    stream = client.open_uni()
    stream.write([b"x"])
    await turns()
    event = at_server.events[0]
    assert isinstance(event, StreamData)
    stream.write([b"y"], fin=True)
    event.stream.stop(3)
    await turns()
    assert at_server.data(stream.id) == b"x"
    assert at_client.stops == [(stream.id, 3)]
    assert not server.streams


async def test_reset_before_the_first_byte() -> None:
    client, server = memory_pair(Version.LITE_05)
    seen = Recorder(server)
    stream = client.open_uni()
    stream.write([b"x"])
    stream.reset(1)
    await turns()
    assert not seen.events


async def test_credit() -> None:
    client, server = memory_pair(Version.LITE_05, credit_uni=2)
    seen = Recorder(server)
    streams = [client.open_uni(priority) for priority in (1, 2, 3, 4)]
    for stream in streams:
        stream.write([b"%d" % stream.order[0]])
    await turns()
    assert [stream.id for stream in streams] == [-1, -1, 6, 2]
    assert streams[0].unsent == 1
    streams[3].write([], fin=True)
    await turns()
    assert streams[1].id == 10
    client.allow()
    await turns()
    assert streams[0].id == 14
    assert len({e.stream.id for e in seen.events if isinstance(e, StreamData)}) == 4


async def test_stop_of_a_waiting_stream() -> None:
    client, server = memory_pair(Version.LITE_05, credit_bidi=0)
    at_server, at_client = Recorder(server), Recorder(client)
    stream = client.open_bidi()
    stream.write([b"x"])
    stream.stop(2)
    await turns()
    assert not at_server.events
    client.allow(bidi=1)
    await turns()
    assert at_server.stops == [(stream.id, 2)]
    assert at_client.resets == [(stream.id, 2)]


async def test_a_slow_reader() -> None:
    client, server = memory_pair(Version.LITE_05)
    seen = Recorder(server)
    server.pause()
    stream = client.open_uni()
    stream.write([bytes(1000)])
    client.send_datagram(b"d")
    await turns()
    stream.write([bytes(500)])
    assert stream.unsent == 1500
    assert seen.events == [DatagramReceived(b"d")]
    other = client.open_uni()
    other.write([b"x"])
    other.reset(1)
    assert other.unsent == 0
    server.resume()
    await turns()
    assert stream.unsent == 0
    assert len(seen.data(stream.id)) == 1500


async def test_datagrams_and_pings() -> None:
    client, server = memory_pair(Version.LITE_05)
    at_server, at_client = Recorder(server), Recorder(client)
    server.send_datagram(bytes(DATAGRAM_LIMIT))
    server.send_datagram(bytes(DATAGRAM_LIMIT + 1))
    client.ping()
    await turns()
    assert at_client.events in (
        [DatagramReceived(bytes(DATAGRAM_LIMIT)), Pong()],
        [Pong(), DatagramReceived(bytes(DATAGRAM_LIMIT))],
    )
    server.silent = True
    client.ping()
    await turns()
    assert len(at_client.events) == 2
    assert not at_server.events
    assert client.probe_timeout() > 0
    assert server.stats().bytes_sent == DATAGRAM_LIMIT


async def test_close() -> None:
    client, server = memory_pair(Version.LITE_05)
    at_server, at_client = Recorder(server), Recorder(client)
    stream = client.open_bidi()
    stream.write([b"x"])
    await turns()
    server.close(3, "bad")
    server.close(4, "again")
    client.close(5, "crossing")
    stream.write([b"late"])
    stream.reset(1)
    stream.stop(1)
    client.send_datagram(b"x")
    client.ping()
    await turns()
    assert at_server.closed == SessionClosed(3, "bad", by_peer=False)
    assert at_client.closed == SessionClosed(3, "bad", by_peer=True)


async def test_failure_of_the_transport() -> None:
    client, server = memory_pair(Version.LITE_05)
    at_server, at_client = Recorder(server), Recorder(client)
    server.fail()
    await turns()
    assert at_server.closed == at_client.closed == SessionClosed(None, "idle timeout", by_peer=False)


async def test_events_before_start_come_first() -> None:
    client, server = memory_pair(Version.LITE_05)
    client.open_uni().write([b"early"])
    await turns()
    client.close(0, "gone")
    await turns()
    seen = Recorder(server)
    await turns()
    assert [type(event) for event in seen.events] == [StreamData, SessionClosed]
    with pytest.raises(RuntimeError):
        server.start(seen)
