"""Sessions over QUIC, both kinds, on a network without sockets and with a clock of the test's own."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest

from relay.quic.connection import MOST_DATAGRAMS
from relay.quic.driver import Driver
from relay.quic.settings import QuicSettings
from relay.quic.varint import varint
from relay.transport.quic_session import EARLY_BYTES, plain_code, wire_code
from relay.transport.raw_quic import RawSession
from relay.transport.session import DatagramReceived, Event, Pong, SessionClosed, StreamData
from relay.wire.errors import to_http3
from relay.wire.version import Version
from tests.sampling import repeats
from tests.transport.virtual import CLIENT, SERVER, Recorder, Wire

pytestmark = pytest.mark.usefixtures("pairing")

KINDS = ["quic", "webtransport"]


@pytest.fixture(params=KINDS)
def wire(request: pytest.FixtureRequest) -> Wire:
    return Wire(request.param)


def echo(recorder: Recorder) -> None:
    def answer(event: Event) -> None:
        if isinstance(event, StreamData) and not event.stream.unidirectional:
            event.stream.write([event.data], fin=event.fin)

    recorder.on_event = answer


# -- opening


def test_the_version_comes_from_the_token(wire: Wire) -> None:
    client, server = wire.open()
    assert client.version is server.version is Version.LITE_06
    assert client.alpn == server.alpn == "moq-lite-06"
    assert (client.is_client, server.is_client) == (True, False)
    assert client.remote == "192.0.2.2:443"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", list(Version))
def test_each_version_alone(kind: str, version: Version) -> None:
    client, server = Wire(kind, versions=(version,)).open()
    expected = None if version <= Version.LITE_02 else version
    assert client.version is server.version is expected
    assert client.alpn == ("moql" if expected is None else version.name_on_wire)


def test_oldest_alpn() -> None:
    _, server = Wire("quic", alpns=["moql-01"]).open()
    assert (server.alpn, server.version) == ("moql-01", None)


def test_the_order_of_the_server_wins_on_raw_quic() -> None:
    _, server = Wire("quic", alpns=["moql", "moq-lite-03", "moq-lite-05"]).open()
    assert server.alpn == "moq-lite-05"


def test_path_and_query() -> None:
    _, server = Wire("webtransport").open()
    assert (server.path, server.query) == ("/demo/cam", "jwt=secret")
    _, server = Wire("quic").open()
    assert server.path is None


def test_no_common_protocol_without_setup_is_rejected() -> None:
    wire = Wire("webtransport", versions=(Version.LITE_05,), client_versions=(Version.LITE_04,))
    wire.run()
    assert not wire.requests
    assert getattr(wire.client, "status", None) == 400


def test_no_common_protocol_falls_back_to_setup() -> None:
    wire = Wire(
        "webtransport", versions=(Version.LITE_01, Version.LITE_05), client_versions=(Version.LITE_04,)
    )
    client, server = wire.open()
    assert (client.alpn, client.version) == (server.alpn, server.version) == ("", None)


@pytest.mark.parametrize("status", [401, 404])
def test_reject_webtransport(status: int) -> None:
    wire = Wire("webtransport", answer=lambda request: request.reject(status, "no"))
    wire.run()
    assert getattr(wire.client, "status", None) == status
    wire.advance(1.0)
    assert wire.server_driver.over
    assert wire.client_driver.over


@pytest.mark.parametrize(
    "alpn, status, code",
    [("moq-lite-06", 401, 2), ("moq-lite-04", 403, 2), ("moq-lite-05", 404, 468), ("moql-01", 401, 401)],
)
def test_reject_raw(alpn: str, status: int, code: int) -> None:
    wire = Wire("quic", alpns=[alpn], answer=lambda request: request.reject(status, "no"))
    wire.run()
    recorder = Recorder(wire.client)
    wire.run()
    assert recorder.closed is not None
    assert (recorder.closed.code, recorder.closed.by_peer) == (code, True)


def test_a_peer_that_never_asks_for_a_session_is_closed() -> None:
    wire = Wire(
        "webtransport",
        client_handler=lambda driver, alpn: RawSession(driver, alpn="", is_client=True),
    )
    wire.server_driver.setup_deadline = wire.now + 10.0
    wire.run()
    wire.advance(11.0)
    assert wire.server_driver.over
    assert wire.server_side.refused["setup"] == 1


# -- streams


def test_echo(wire: Wire) -> None:
    client, server = wire.open()
    echo(Recorder(server))
    seen = Recorder(client)
    stream = client.open_bidi()
    assert stream.id == -1
    stream.write([b"hello ", b"world"], fin=True)
    wire.run()
    assert seen.data(stream.id) == b"hello world"
    assert seen.finished == [stream.id]
    assert client.stats().streams == server.stats().streams == 0


def test_server_opens_streams(wire: Wire) -> None:
    client, server = wire.open()
    echo(Recorder(client))
    seen = Recorder(server)
    bidi, uni = server.open_bidi(), server.open_uni()
    bidi.write([b"ping"], fin=True)
    uni.write([b"group"], fin=True)
    wire.run()
    assert seen.data(bidi.id) == b"ping"
    assert client.stats().streams == 0


def test_large_stream_arrives_in_order(wire: Wire) -> None:
    client, server = wire.open()
    seen = Recorder(server)
    payload = random.Random(1).randbytes(3_000_000)
    stream = client.open_uni()
    stream.write([payload[:10], payload[10:]], fin=True)
    wire.run()
    wire.advance(5.0)
    assert seen.data(stream.id) == payload


def test_loss_is_repaired(wire: Wire) -> None:
    client, server = wire.open()
    seen = Recorder(server)
    dice = random.Random(2)
    wire.lose = lambda target, data: dice.random() < 0.1
    streams = [client.open_uni() for _ in range(50)]
    for number, stream in enumerate(streams):
        stream.write([bytes([number]) * 5000], fin=True)
    wire.advance(9.0)
    assert sorted(seen.finished) == [stream.id for stream in streams]
    assert all(seen.data(stream.id) == bytes([number]) * 5000 for number, stream in enumerate(streams))


def test_a_bad_network_changes_nothing(wire: Wire) -> None:
    """Packets are lost, repeated and reordered, of the handshake too."""
    dice = random.Random(3)

    def lose(target: str, data: bytes) -> bool:
        if dice.random() < 0.2:
            wire.flying.append((target, data, CLIENT if target == "server" else SERVER))
            return dice.random() < 0.5  # later, or twice
        return dice.random() < 0.05

    wire.lose = lose
    wire.advance(5.0)
    client, server = wire.open()
    at_client, at_server = Recorder(client), Recorder(server)
    echo(at_server)
    contents = [dice.randbytes(dice.choice([1, 3000, 40_000])) for _ in range(30)]
    streams = [client.open_bidi(number) for number in range(30)]
    for stream, content in zip(streams, contents, strict=True):
        stream.write([content[:7], content[7:]], fin=True)
    wire.advance(9.0)
    assert [at_client.data(stream.id) for stream in streams] == contents
    assert sorted(at_client.finished) == sorted(stream.id for stream in streams)
    wire.lose = lambda target, data: False
    wire.advance(2.0)
    assert client.stats().streams == server.stats().streams == 0
    client.close(7, "bye")
    wire.advance(2.0)
    assert at_server.closed == SessionClosed(7, "bye", by_peer=True)


def test_writes_after_the_end_do_nothing(wire: Wire) -> None:
    client, server = wire.open()
    seen = Recorder(server)
    stream = client.open_uni()
    stream.write([b"a"], fin=True)
    stream.write([b"b"], fin=True)
    wire.run()
    stream.write([b"c"])
    stream.reset(1)
    stream.stop(1)
    wire.run()
    assert seen.data(stream.id) == b"a"
    assert not seen.resets


def test_an_empty_stream_with_an_end(wire: Wire) -> None:
    client, server = wire.open()
    seen = Recorder(server)
    client.open_uni().write([], fin=True)
    wire.run()
    assert len(seen.finished) == 1


@pytest.mark.parametrize("code", [0, 1, 51, 30, 468, 2**32 - 1])
def test_reset_and_stop_carry_codes(wire: Wire, code: int) -> None:
    client, server = wire.open()
    at_server, at_client = Recorder(server), Recorder(client)
    stream = client.open_bidi()
    stream.write([b"x"])
    wire.run()
    stream.reset(code)
    stream.stop(code)
    wire.run()
    assert at_server.resets == at_server.stops == [(stream.id, code)]
    assert at_client.resets == [(stream.id, code)]  # the answer to the stop
    assert client.stats().streams == server.stats().streams == 0


def test_reset_codes_are_mapped_on_the_wire() -> None:
    # On raw QUIC too: only the close code is plain.
    client, server = Wire("quic").open()
    assert wire_code(7) == to_http3(7)
    assert plain_code(to_http3(7)) == 7
    assert plain_code(0) == 0  # a dropped receive side
    assert wire_code(2**40) == to_http3(0)
    assert client.version is server.version


def test_nothing_is_delivered_after_stop(wire: Wire) -> None:
    client, server = wire.open()
    at_server = Recorder(server)
    stream = client.open_uni()
    stream.write([b"first"])
    wire.run()
    event = at_server.events[-1]
    assert isinstance(event, StreamData)
    event.stream.stop(5)
    event.stream.stop(5)
    stream.write([b"second"])
    wire.run()
    assert at_server.data(stream.id) == b"first"
    assert at_server.resets == [(stream.id, 5)]


def test_write_in_the_same_turn_as_the_peers_stop_is_harmless(wire: Wire) -> None:
    client, server = wire.open()
    at_client = Recorder(client)
    at_server = Recorder(server)
    stream = client.open_uni()
    stream.write([b"a"])
    wire.run()
    event = at_server.events[-1]
    assert isinstance(event, StreamData)
    event.stream.stop(1)
    stream.write([b"b"], fin=True)
    wire.run()
    assert at_client.stops in ([], [(stream.id, 1)])
    assert client.stats().streams == server.stats().streams == 0


def test_reset_before_the_first_byte_is_never_seen(wire: Wire) -> None:
    client, server = wire.open()
    seen = Recorder(server)
    stream = client.open_uni()
    stream.reset(3)
    stream.write([b"x"], fin=True)
    other = client.open_uni()
    other.write([b"y"])
    other.reset(3)
    wire.run()
    assert not seen.events
    assert client.stats().streams == 0


def test_reset_drops_what_was_not_sent(wire: Wire) -> None:
    client, server = wire.open()
    seen = Recorder(server)
    stream = client.open_uni()
    stream.write([bytes(500_000)], fin=True)
    wire.client_driver.transmit(wire.now)
    assert stream.unsent > 400_000
    stream.reset(52)
    assert stream.unsent == 0
    wire.run()
    assert seen.resets == [(stream.id, 52)]


def test_unsent_goes_down_to_zero(wire: Wire) -> None:
    client, server = wire.open()
    Recorder(server)
    stream = client.open_uni()
    stream.write([bytes(100_000)])
    assert 0 <= stream.unsent - 100_000 <= 3  # the prefix of WebTransport
    wire.run()
    assert stream.unsent == 0


def test_what_is_lost_is_undelivered_until_it_is_acknowledged(wire: Wire) -> None:
    client, server = wire.open()
    seen = Recorder(server)
    wire.run()
    lost = kept = 0

    def lose(target: str, data: bytes) -> bool:
        nonlocal lost
        lost += target == "server"
        return target == "server" and not kept

    wire.lose = lose
    stream, aborted, empty = client.open_uni(), client.open_uni(), client.open_uni()
    assert not stream.undelivered
    stream.write([b"last"])
    aborted.write([b"not missed"])
    empty.write([], fin=True)
    assert stream.undelivered
    wire.run()
    assert stream.unsent == empty.unsent == 0
    assert lost
    assert stream.undelivered
    assert empty.undelivered
    assert client.undelivered
    aborted.reset(1)
    assert not aborted.undelivered
    kept = 1
    wire.advance(3.0)
    assert seen.data(stream.id) == b"last"
    assert not stream.undelivered
    assert not empty.undelivered
    stream.write([], fin=True)
    assert stream.undelivered
    wire.advance(1.0)
    assert stream.id in seen.finished
    assert not stream.undelivered
    assert not client.undelivered
    assert not server.undelivered


def test_a_stream_without_credit_is_undelivered_and_nothing_is_after_the_end() -> None:
    wire = Wire("quic", server_settings=QuicSettings(max_streams_uni=6))
    client, server = wire.open()
    Recorder(server)
    streams = [client.open_uni() for _ in range(10)]
    for stream in streams:
        stream.write([b"group"])
    wire.advance(1.0)
    assert [stream.undelivered for stream in streams] == [False] * 6 + [True] * 4
    assert client.undelivered
    client.close()
    assert not any(stream.undelivered for stream in streams)
    assert not client.undelivered


def test_half_closed_bidi_stream(wire: Wire) -> None:
    client, server = wire.open()
    at_server, at_client = Recorder(server), Recorder(client)
    stream = client.open_bidi()
    stream.write([b"request"], fin=True)
    wire.run()
    event = at_server.events[-1]
    assert isinstance(event, StreamData)
    assert event.fin
    for piece in (b"one", b"two"):
        event.stream.write([piece])
        wire.run()
    event.stream.write([], fin=True)
    wire.run()
    assert at_client.data(stream.id) == b"onetwo"
    assert at_client.finished == [stream.id]


def test_a_batch_per_turn(wire: Wire) -> None:
    client, server = wire.open()
    seen = Recorder(server)
    for _ in range(5):
        client.open_uni().write([b"small"], fin=True)
    wire.run()
    assert len(seen.batches) == 1
    assert len(seen.batches[0]) == 5


# -- stream credit


@pytest.mark.parametrize("kind", KINDS)
def test_streams_wait_for_credit(kind: str) -> None:
    wire = Wire(kind, server_settings=QuicSettings(max_streams_uni=10))
    client, server = wire.open()
    seen = Recorder(server)
    streams = [client.open_uni() for _ in range(repeats(5000))]
    for stream in streams:
        stream.write([b"group"], fin=True)
    wire.run(100_000)
    assert len(seen.finished) == len(streams)
    assert not wire.client_driver.over
    assert client.stats().streams == server.stats().streams == 0
    assert len(wire.client_driver.quic.streams) < 30
    assert len(wire.server_driver.quic.streams) < 30


@pytest.mark.parametrize("kind", KINDS)
def test_the_most_urgent_stream_gets_the_credit(kind: str) -> None:
    wire = Wire(kind, server_settings=QuicSettings(max_streams_uni=6))
    client, server = wire.open()
    seen = Recorder(server)
    open_streams = [client.open_uni() for _ in range(6 - (3 if kind == "webtransport" else 0))]
    for stream in open_streams:
        stream.write([b"hold"])
    wire.run()
    waiting = {priority: client.open_uni(priority) for priority in (5, 9, 1, 9000, 7)}
    for priority, stream in waiting.items():
        stream.write([b"%d" % priority], fin=True)
    assert waiting[9000].unsent >= 4
    waiting[9].reset(0)  # dropped while it waits: it takes no credit
    wire.run()
    assert all(stream.id == -1 for stream in waiting.values())
    for stream in open_streams:
        stream.write([], fin=True)
    wire.run()
    order = [e.data for e in seen.events if isinstance(e, StreamData) and e.fin and e.data]
    assert order == [b"9000", b"7", b"5", b"1"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_waits_for_credit_can_be_made_more_urgent(kind: str) -> None:
    wire = Wire(kind, server_settings=QuicSettings(max_streams_uni=6))
    client, server = wire.open()
    seen = Recorder(server)
    open_streams = [client.open_uni() for _ in range(6 - (3 if kind == "webtransport" else 0))]
    for stream in open_streams:
        stream.write([b"hold"])
    wire.run()
    waiting = {priority: client.open_uni(priority) for priority in (5, 9, 1)}
    for priority, stream in waiting.items():
        stream.write([b"%d" % priority], fin=True)
    waiting[1].prioritize(20)
    waiting[9].prioritize(0)
    wire.run()
    for stream in open_streams:
        stream.write([], fin=True)
    wire.run()
    order = [e.data for e in seen.events if isinstance(e, StreamData) and e.fin and e.data]
    assert order == [b"1", b"5", b"9"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_can_be_made_more_urgent_while_it_is_sent(kind: str) -> None:
    wire = Wire(kind)
    client, server = wire.open()
    seen = Recorder(server)
    old, new = client.open_uni(1), client.open_uni(2)
    old.write([bytes(400_000)], fin=True)
    new.write([bytes(4_000_000)], fin=True)
    with pytest.raises(AssertionError):
        wire.run(3)  # no more than a part of it
    assert old.unsent
    old.prioritize(3)
    wire.run(100_000)
    finished = [e.stream.id for e in seen.events if isinstance(e, StreamData) and e.fin]
    assert sorted(finished) == sorted([old.id, new.id])
    assert finished == [old.id, new.id]
    old.prioritize(1)  # over: nothing happens
    client.open_uni().prioritize(5)  # nothing queued yet
    wire.run()


def test_stop_of_a_waiting_stream_follows_it() -> None:
    wire = Wire("quic", server_settings=QuicSettings(max_streams_bidi=1))
    client, server = wire.open()
    seen = Recorder(server)
    first, second = client.open_bidi(), client.open_bidi()
    first.write([b"1"], fin=True)
    second.write([b"2"])
    second.stop(4)
    wire.run()
    assert second.id == -1
    event = seen.events[-1]
    assert isinstance(event, StreamData)
    event.stream.write([], fin=True)
    wire.run()
    assert seen.stops == [(second.id, 4)]


def test_no_growth_over_many_streams(wire: Wire) -> None:
    client, server = wire.open()
    seen = Recorder(server)
    for _ in range(200):
        for _ in range(20):
            client.open_uni().write([b"g"], fin=True)
        bidi = client.open_bidi()
        bidi.write([b"b"])
        wire.run()
        event = seen.events[-1]
        assert isinstance(event, StreamData)
        for batch in seen.batches:
            for each in batch:
                if isinstance(each, StreamData) and not each.stream.unidirectional:
                    each.stream.reset(0)
        bidi.reset(0)
        seen.batches.clear()
    wire.run()
    for side in (client, server):
        assert not side.connection.streams.queue
        assert not getattr(side, "_requests", None)
    # Finished streams are discarded with the next packet each side receives.
    client.ping()
    server.ping()
    wire.run()
    assert len(wire.client_driver.quic.streams) < 10
    assert len(wire.server_driver.quic.streams) < 10


# -- receive windows


@pytest.mark.parametrize("kind", KINDS)
def test_windows_follow_what_was_delivered(kind: str) -> None:
    small = QuicSettings(connection_window=300_000, stream_window=100_000)
    wire = Wire(kind, server_settings=small)
    client, server = wire.open()
    Recorder(server)
    for _ in range(12):
        stream = client.open_uni()
        stream.write([bytes(200_000)], fin=True)
        wire.advance(1.0)
    streams = wire.server_driver.quic.streams
    assert streams._received >= 2_400_000
    assert streams._receive_limit - streams._received <= 300_000


def test_resets_give_the_window_back() -> None:
    wire = Wire("quic", server_settings=QuicSettings(connection_window=100_000, stream_window=50_000))
    client, server = wire.open()
    seen = Recorder(server)
    dice = random.Random(3)
    for _ in range(50):
        wire.lose = lambda target, data: dice.random() < 0.2
        stream = client.open_uni()
        stream.write([bytes(40_000)])
        wire.advance(0.02)
        stream.reset(1)
        wire.lose = lambda target, data: False
        wire.advance(1.0)
    assert not wire.client_driver.over
    stream = client.open_uni()
    stream.write([bytes(300_000)], fin=True)
    wire.advance(5.0)
    assert stream.id in seen.finished


# -- datagrams, pings


def test_datagrams(wire: Wire) -> None:
    client, server = wire.open()
    at_server, at_client = Recorder(server), Recorder(client)
    assert 1100 < client.datagram_limit < 1200
    client.send_datagram(b"up")
    server.send_datagram(b"down")
    server.send_datagram(bytes(server.datagram_limit))
    server.send_datagram(bytes(server.datagram_limit + 1))
    wire.run()
    assert at_server.events == [DatagramReceived(b"up")]
    assert at_client.events == [DatagramReceived(b"down"), DatagramReceived(bytes(server.datagram_limit))]


def test_datagrams_do_not_pile_up(wire: Wire) -> None:
    client, _ = wire.open()
    for _ in range(1000):
        client.send_datagram(b"x")
    assert len(wire.client_driver.quic._datagrams) == MOST_DATAGRAMS


def test_pong(wire: Wire) -> None:
    client, server = wire.open()
    seen = Recorder(client)
    Recorder(server)
    client.ping()
    wire.run()
    assert seen.events == [Pong()]
    assert 0 < client.probe_timeout() < 1


def test_keep_alive_keeps_a_quiet_session(wire: Wire) -> None:
    client, server = wire.open()
    at_client, at_server = Recorder(client), Recorder(server)
    wire.advance(60.0)
    assert not at_client.events
    assert not at_server.events


@pytest.mark.parametrize("kind", KINDS)
def test_silence_ends_the_session(kind: str) -> None:
    wire = Wire(kind)
    client, _ = wire.open()
    seen = Recorder(client)
    wire.lose = lambda target, data: True
    wire.advance(15.0)  # a keep-alive, being sent, restarts the time-out once
    assert seen.closed == SessionClosed(None, "idle timeout", by_peer=False)
    assert wire.client_driver.gone


def test_keep_alive_follows_a_peer_with_less_patience() -> None:
    wire = Wire(
        "quic", client_settings=QuicSettings(), server_settings=QuicSettings(idle_timeout=2.0, keep_alive=0)
    )
    client, _ = wire.open()
    seen = Recorder(client)
    wire.advance(20.0)
    assert not seen.events


def test_keep_alive_is_not_hidden_by_an_older_deadline() -> None:
    """A ClientHello in two datagrams arms a distant deadline before the keep-alive is known."""
    wire = Wire("quic")
    driver = wire.server_driver
    driver.armed[:] = [wire.now + 10.0]
    wire.open()
    keep_alive = driver.quic.keep_alive
    assert 0 < keep_alive < 5
    assert driver.armed[-1] <= wire.now + keep_alive + 0.2


@pytest.mark.parametrize("rest", [0, 1])
def test_an_acknowledgement_that_ends_a_back_off_brings_the_next_look_nearer(rest: int) -> None:
    wire = Wire("quic")
    client, server = wire.open()
    Recorder(client)
    Recorder(server)
    looks: list[float] = []
    wire.server_side.watch = lambda driver, deadline: looks.append(deadline)  # type: ignore[method-assign]
    quic = wire.server_driver.quic
    quic._skip_at = 1 << 60
    first = quic._number
    server.open_uni().write([bytes(8000)])
    wire.lose = lambda target, data: True
    wire.advance(3.0)
    assert quic.recovery.pto_count > 1
    last = quic._number - 1 - rest
    looks.clear()
    ack = b"\x02" + varint(last) + b"\x00\x00" + varint(last - first)
    quic._read_frames(ack, b"", quic.path, wire.now)
    wire.server_driver.drained(wire.now)
    assert quic.recovery.pto_count == 0
    assert not quic.wants_to_send(wire.now)
    assert looks == ([quic.probe_at()] if rest else [])


def test_no_keep_alive_if_off() -> None:
    off = QuicSettings(keep_alive=0)
    wire = Wire("quic", client_settings=off, server_settings=off)
    client, _ = wire.open()
    seen = Recorder(client)
    wire.advance(11.0)
    assert seen.closed is not None


def test_stats(wire: Wire) -> None:
    client, _ = wire.open()
    stats = client.stats()
    assert stats.rtt is not None
    assert stats.estimate is not None
    assert stats.estimate > 0
    assert stats.bytes_sent > 1200
    assert stats.bytes_received > 1000


# -- closing


@pytest.mark.parametrize(
    "code, reason", [(0, ""), (3, "protocol violation"), (468, "app code=404"), (7, "é" * 2000)]
)
@pytest.mark.parametrize("closer", ["client", "server"])
def test_close_carries_code_and_reason(wire: Wire, closer: str, code: int, reason: str) -> None:
    client, server = wire.open()
    recorders = {"client": Recorder(client), "server": Recorder(server)}
    {"client": client, "server": server}[closer].close(code, reason)
    {"client": client, "server": server}[closer].close(1, "again")
    wire.run()
    other = recorders["server" if closer == "client" else "client"].closed
    assert recorders[closer].closed == SessionClosed(code, reason, by_peer=False)
    assert other is not None
    assert (other.code, other.by_peer) == (code, True)
    assert other.reason == reason.encode()[:1024].decode()
    wire.advance(2.0)
    assert wire.client_driver.gone
    assert wire.server_driver.gone


def test_a_close_is_seen_at_once(wire: Wire) -> None:
    # The connection reports it only after 3 PTO of draining.
    client, server = wire.open()
    seen = Recorder(server)
    client.close(5, "bye")
    began = wire.now
    while seen.closed is None:
        wire.run()
    assert wire.now - began < 0.03


def test_calls_on_a_closed_session_do_nothing(wire: Wire) -> None:
    client, server = wire.open()
    Recorder(server)
    seen = Recorder(client)
    stream = client.open_bidi()
    stream.write([b"x"])
    client.close()
    for _ in range(2):
        late = client.open_uni()
        late.write([b"x"], fin=True)
        late.reset(1)
        stream.write([b"y"])
        stream.reset(1)
        stream.stop(1)
        client.send_datagram(b"z")
        client.ping()
        assert client.datagram_limit == 0
        wire.advance(3.0)
    assert seen.closed is not None
    assert client.stats().streams == 0


def test_a_lost_close_is_repeated() -> None:
    wire = Wire("quic")
    client, server = wire.open()
    seen = Recorder(server)
    wire.lose = lambda target, data: target == "server"
    client.close(9, "bye")
    wire.run()
    assert seen.closed is None
    wire.lose = lambda target, data: False
    server.ping()
    wire.run()
    assert seen.closed == SessionClosed(9, "bye", by_peer=True)


def test_events_before_start_come_first(wire: Wire) -> None:
    client, server = wire.open()
    client.open_uni().write([b"early"], fin=True)
    wire.run()
    client.close(1, "gone")
    wire.advance(3.0)
    seen = Recorder(server)
    assert isinstance(seen.events[0], StreamData)
    assert seen.closed == SessionClosed(1, "gone", by_peer=True)


def test_too_much_before_start_closes(wire: Wire) -> None:
    client, server = wire.open()
    client.open_uni().write([bytes(EARLY_BYTES + 1)])
    wire.advance(3.0)
    assert server.ended
    assert wire.server_side.refused["early"] == 1
    assert not [event for event in server._gathered if not isinstance(event, SessionClosed)]


def test_a_failing_owner_closes_only_its_connection(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    client, server = wire.open()
    at_client = Recorder(client)

    def broken(batch: tuple[Event, ...]) -> None:
        raise RuntimeError("a bug")

    server.start(broken)
    with caplog.at_level(logging.ERROR, "relay"):
        client.open_uni().write([b"x"])
        wire.run()
    assert at_client.closed is not None
    assert at_client.closed.code is None
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info is not None


def test_the_handshake_may_lose_packets(wire: Wire) -> None:
    dice = random.Random(4)
    wire.lose = lambda target, data: dice.random() < 0.3
    wire.advance(8.0)
    wire.lose = lambda target, data: False
    wire.advance(1.0)
    assert wire.server is not None


def test_transport_errors_are_named() -> None:
    wire = Wire("quic")
    client, server = wire.open()
    at_client, at_server = Recorder(client), Recorder(server)
    wire.client_driver.close(0x0A, "made up", transport=True)
    wire.run()
    assert at_client.closed == SessionClosed(None, "transport error 0xa: made up", by_peer=False)
    assert at_server.closed == SessionClosed(None, "made up", by_peer=True)


def test_deadlines_of_a_connection_stay_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline postponed behind an earlier one made list and heap differ: no timer fired any more."""
    wire = Wire("quic")
    wire.open()
    driver = wire.client_driver
    driver.armed.clear()
    dice = random.Random(1)
    for _ in range(2000):
        due = wire.now + dice.choice([-1.0, 0.0, 0.0005, dice.random() / 10, dice.random()])
        monkeypatch.setattr(Driver, "_deadline", lambda self, due=due: due)
        driver.arm(wire.now)
        assert driver.armed == sorted(set(driver.armed), reverse=True)
        if dice.random() < 0.3:
            driver.armed.pop()


@pytest.mark.parametrize("congestion", ["cubic", "reno", "bbr"])
def test_each_congestion_control(congestion: Any) -> None:
    """aioquic, which does the handshake, does not know all of them."""
    settings = QuicSettings(congestion=congestion)
    wire = Wire("quic", client_settings=settings, server_settings=settings)
    client, server = wire.open()
    seen = Recorder(server)
    stream = client.open_uni()
    stream.write([bytes(100_000)], fin=True)
    wire.advance(2.0)
    assert len(seen.data(stream.id)) == 100_000
