"""The transport cases of the public QUIC interop runner (quic-interop-runner) that concern the time after the
handshake, and those about a handshake on a bad network; between ours and aioquic, in virtual time.

The client asks for files on bidirectional streams, as its HTTP/0.9 does. Without counterparts here: resumption,
0-RTT, ECN and preferred addresses, which the engine does without; Retry, version negotiation and HTTP/3, which are
tested elsewhere. `TEST_FULL=1` moves as much data as the runner.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicPacketType, QuicProtocolVersion, pull_quic_header
from aioquic.tls import CipherSuite, Epoch

from relay.quic import errors
from relay.quic.packet_keys import CHACHA20, PacketProtection
from tests.quic.handshaking import PAIR
from tests.quic.lab import PAIRINGS, Lab, Network, Ours, Pairing, Theirs, frames_of
from tests.sampling import FULL, repeats

MB = 1_000_000
SHARE = 1.0 if FULL else 0.1
"""Of the runner's sizes and, where both belong together, times."""

LINK = Network(delay=0.015, rate=1_250_000, queue=25)
"""10 Mbit/s, 30 ms."""

OURS_SERVE = {name: pair for name, pair in PAIRINGS.items() if pair[1] != "aioquic"}
AIOQUIC_ASKS = {name: pair for name, pair in OURS_SERVE.items() if pair[0] == "aioquic"}

ONE, TWO = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2


def kinds(pairings: dict[str, Pairing]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("pair", pairings.values(), ids=pairings)


def file_of(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


class Files(Lab):
    """A server that sends the files its client asks for. Keeps what both put on the network."""

    def __init__(
        self,
        pair: Pairing,
        *sizes: int,
        network: Network = LINK,
        seed: int = 1,
        client: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """`client` and `server` change the configuration of their handshakes."""
        self.configured = {True: client or {}, False: server or {}}
        self.files = [file_of(number, size) for number, size in enumerate(sizes)]
        self.sent: list[tuple[str, int]] = []  # datagrams that were not for an address that is left
        self.early: list[tuple[str, bytes]] = []  # those of the handshake
        self._asked: list[Any] = []  # streams
        self._served: set[int] = set()
        super().__init__(pair, seed, network, **settings)

    def carried(self, name: str, packet: bytes) -> Iterator[bytes]:
        self.sent.append((name, len(packet)))
        if packet[0] & 0x80:
            self.early.append((name, packet))
        yield from self.fate(name, packet)

    def fate(self, name: str, packet: bytes) -> Iterator[bytes]:
        yield packet

    def configure(self, configuration: QuicConfiguration) -> None:
        for name, value in self.configured[configuration.is_client].items():
            setattr(configuration, name, value)

    def ask(self) -> None:
        """For all files at once."""
        self._asked = [
            self.client.give(number.to_bytes(2, "big"), uni=False) for number in range(len(self.files))
        ]
        self.send("client")

    def serve(self) -> None:
        server = self.server
        if len(server.log.finished) == len(self._served):
            return
        for stream_id in sorted(server.log.finished - self._served):
            self._served.add(stream_id)
            content = self.files[int.from_bytes(server.log.received[stream_id], "big")]
            if isinstance(server, Ours):
                server.log.streams[stream_id].write([content], fin=True)
            else:
                server.quic.send_stream_data(stream_id, content, True)
        self.send("server")

    def done(self) -> bool:
        self.serve()
        return len(self.client.log.finished) == len(self.files)

    def progress(self) -> int:
        """Bytes that have arrived at the client."""
        return sum(map(len, self.client.log.received.values()))

    def fetch(self, within: float = 600.0) -> None:
        """From handshake to close."""
        self.establish()
        self.ask()
        self.run(self.done, within)
        self.check()

    def check(self) -> None:
        """Every file is whole. Nothing is left; then the client closes without an error."""
        for stream, content in zip(self._asked, self.files, strict=True):
            assert self.client.log.received[self.client.id_of(stream)] == content
        self.settle(10.0)
        self.check_nothing_left()
        self.client.open.close(errors.NO_ERROR)
        self.send("client")
        self.rest(30.0)  # aioquic reports it after draining
        close = self.server.log.close_event
        assert close is not None
        assert close.code == errors.NO_ERROR

    def count(self, name: str) -> int:
        return sum(1 for sender, _ in self.sent if sender == name)


class Bad(Files):
    """Packets are lost or damaged at `rate`, at most three in a row in each direction."""

    def __init__(self, *args: Any, rate: float, corrupt: bool, **options: Any) -> None:
        self.rate = rate
        self.corrupt = corrupt
        self.hurt = {"client": 0, "server": 0}
        self._row = {"client": 0, "server": 0}
        self._fortune = random.Random(options.get("seed", 1))
        super().__init__(*args, **options)

    def fate(self, name: str, packet: bytes) -> Iterator[bytes]:
        if self._row[name] >= 3 or self._fortune.random() >= self.rate:
            self._row[name] = 0
            yield packet
            return
        self._row[name] += 1
        self.hurt[name] += 1
        if self.corrupt:  # one byte
            at = self._fortune.randrange(len(packet))
            yield packet[:at] + bytes((packet[at] ^ self._fortune.randrange(1, 256),)) + packet[at + 1 :]

    def check(self) -> None:
        self.rate = 0.0
        super().check()


class Tap:
    """Opens packets of an established connection, in the order in which they were sent, with an end's keys."""

    def __init__(self, end: Ours) -> None:
        protection: Any = end.open.protection
        version, suite = protection._version, protection._suite
        secrets = protection._send_secret, protection._receive_secret
        ours = "client" if end.open.is_client else "server"
        self.keys = {
            ours: PacketProtection(suite, version, secrets[1], secrets[0], native=False),
            "client" if ours == "server" else "server": PacketProtection(
                suite, version, *secrets, native=False
            ),
        }
        self.expected = {"client": 0, "server": 0}

    def frames(self, name: str, packet: bytes) -> list[tuple[Any, ...]]:
        keys, expected = self.keys[name], self.expected[name]
        opened = keys.receiving.open(packet, 8, expected, keys.receiving_phase)
        if opened is not None and opened[2] is None:
            opened = keys.open_other_phase(packet, 8, expected)
        assert opened is not None
        number, _, plain = opened
        assert plain is not None
        self.expected[name] = max(expected, number + 1)
        return frames_of(plain)


class Moving(Files):
    """The client's packets come from other addresses, as behind a NAT that forgets. Both ends' paths are kept."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.tap: Tap | None = None
        self.moves = 0
        self.firsts: list[set[int]] = []  # frame types of the server's first packet to each new address
        self.ids: dict[str, list[set[bytes]]] = {"client": [set()], "server": [set()]}  # of each path
        self.challenges: dict[str, list[bytes]] = {"client": [], "server": []}
        self.responses: dict[str, list[bytes]] = {"client": [], "server": []}
        self._fresh = False
        super().__init__(*args, **options)

    def listen(self) -> None:
        """The handshake is complete."""
        self.tap = Tap(self.server if isinstance(self.server, Ours) else self.client)

    def move(self, host: str, *, new_id: bool = False) -> None:
        self.moves += 1
        self.addresses["client"] = host, 2000 + self.moves
        self._fresh = True
        for paths in self.ids.values():
            paths.append(set())
        if new_id:
            self.client.open.change_connection_id()

    def fate(self, name: str, packet: bytes) -> Iterator[bytes]:
        if self.tap is not None and not packet[0] & 0x80:
            frames = self.tap.frames(name, packet)
            if name == "server" and self._fresh:
                self._fresh = False
                self.firsts.append({frame[0] for frame in frames})
            self.ids[name][-1].add(packet[1:9])
            for kind, *rest in frames:
                if kind == errors.PATH_CHALLENGE:
                    self.challenges[name].append(rest[0])
                elif kind == errors.PATH_RESPONSE:
                    self.responses[name].append(rest[0])
        yield packet

    def fetch_moving(self, moves: int, host: str = "", *, new_id: bool = False) -> None:
        """Move so many times, evenly over the transfer; `host` is a pattern of addresses."""
        self.establish()
        self.settle(1.0)
        self.network = LINK
        self.listen()
        self.ask()
        total = sum(map(len, self.files))
        for number in range(moves):
            share = (number + 1) / (moves + 1)
            self.run(lambda share=share: self.done() or self.progress() > share * total)
            self.move(host.format(10 + number) or "192.0.2.1", new_id=new_id)
        self.run(self.done, 600)
        assert self.server.open is not None
        self.check()

    def check_paths(self) -> None:
        """The server asked each new address whether the client is there, before anything else."""
        if isinstance(self.server, Ours):
            assert len(self.firsts) == self.moves
            for kinds_of_frames in self.firsts:
                assert errors.PATH_CHALLENGE in kinds_of_frames
            assert len(set(self.challenges["server"])) >= self.moves
            path = self.server.open.path
            assert path.address == self.addresses["client"]
            assert path.validated
        for asking, answering in (("server", "client"), ("client", "server")):
            assert set(self.challenges[asking]) <= set(self.responses[answering])


# -- handshakes on bad networks


def test_handshake(pairing: Pairing) -> None:
    """One connection, one small file."""
    lab = Files(pairing, 1000)
    lab.fetch()
    assert [name for name, _ in lab.early[:2]] == ["client", "server"]


def test_longrtt(pairing: Pairing) -> None:
    """A round trip of 1.5 s is measured before it is taken for loss many times."""
    lab = Files(pairing, 1000, network=Network(delay=0.75, rate=LINK.rate, queue=25))
    lab.establish()
    lab.ask()
    lab.run(lab.done)
    lab.rest(3.0)
    for name, end in lab.ends.items():
        if isinstance(end, Ours):
            assert 1.5 <= end.open.recovery.rtt_min < 1.6, name
    lab.check()
    assert max(lab.count("client"), lab.count("server")) < 30


@pytest.mark.parametrize("corrupt", [False, True], ids=["handshakeloss", "handshakecorruption"])
def test_handshakes_on_a_bad_network(pairing: Pairing, corrupt: bool) -> None:
    """Of 50 connections on which 30 % of the packets are hurt, each becomes one."""
    hurt = 0
    for seed in range(repeats(50)):
        lab = Bad(pairing, 1000, rate=0.3, corrupt=corrupt, seed=seed, idle_timeout=300.0)
        lab.fetch()
        hurt += sum(lab.hurt.values())
    assert hurt > repeats(50)


def test_amplificationlimit(pairing: Pairing) -> None:
    """A long chain of certificates. The first packet arrives, and none of the next six."""
    lab = Amplified(pairing, 5000, server={"certificate_chain": [PAIR.certificate] * 25})
    lab.fetch()
    assert lab.dropped == 6
    certificates = sum(len(packet) for name, packet in lab.early if name == "server")
    assert certificates > 7500


class Amplified(Files):
    dropped = 0
    allowed = 0
    verified = False

    def fate(self, name: str, packet: bytes) -> Iterator[bytes]:
        if name == "client":
            if 1 <= self.count("client") - 1 <= 6:
                self.dropped += 1
                return
            # A packet of the Handshake space shows that the client reads what is sent to its address.
            self.verified |= QuicPacketType.HANDSHAKE in {kind for kind, _ in long_packets(packet)}
            self.allowed += 3 * len(packet)
        else:
            self.allowed -= len(packet)
            assert self.verified or self.allowed >= 0
        yield packet


def long_packets(datagram: bytes) -> list[tuple[QuicPacketType, int]]:
    """Type and version of each packet with a long header."""
    found = []
    buffer = Buffer(data=datagram)
    while not buffer.eof() and datagram[at := buffer.tell()] & 0x80:
        header = pull_quic_header(buffer, host_cid_length=8)
        found.append((header.packet_type, header.version or 0))
        buffer.seek(at + header.packet_length)
    return found


def test_v2(pairing: Pairing) -> None:
    """The client begins in version 1, and the server changes to 2, which both prefer. So do updated keys."""
    prefers_two = {"supported_versions": [TWO, ONE]}
    lab = Files(pairing, 300_000, client={**prefers_two, "original_version": ONE}, server=prefers_two)
    lab.establish()
    lab.settle(1.0)
    lab.ask()
    lab.run(lambda: lab.done() or lab.progress() > 100_000)
    lab.client.update_keys()
    lab.send("client")
    lab.run(lab.done)
    versions: dict[tuple[str, QuicPacketType], set[int]] = {}
    for name, datagram in lab.early:
        for kind, version in long_packets(datagram):
            versions.setdefault((name, kind), set()).add(version)
    assert ONE in versions["client", QuicPacketType.INITIAL]
    assert versions["server", QuicPacketType.INITIAL] == {TWO}
    assert versions["client", QuicPacketType.HANDSHAKE] == {TWO}
    assert versions["server", QuicPacketType.HANDSHAKE] == {TWO}
    assert phases(lab) == {1}
    lab.check()


def phases(lab: Lab) -> set[int]:
    """The key phases that the ends use, in both directions."""
    found: set[int] = set()
    for end in lab.ends.values():
        if isinstance(end, Ours):
            found |= {end.open.protection.sending_phase, end.open.protection.receiving_phase}
        else:
            pair = end.open._cryptos[Epoch.ONE_RTT]
            found |= {pair.send.key_phase, pair.recv.key_phase}
    return found


# -- transfers


def test_transfer(pairing: Pairing) -> None:
    """Three files at once, through windows that must grow again and again."""
    sizes = [int(size * MB * SHARE) for size in (2, 3, 5)]
    lab = Files(pairing, *sizes, stream_window=sizes[0] // 10, connection_window=sizes[0] // 5)
    lab.fetch()


def test_chacha20(pairing: Pairing) -> None:
    only = {"cipher_suites": [CipherSuite.CHACHA20_POLY1305_SHA256]}
    lab = Files(pairing, int(3 * MB * SHARE), client=only, server=only)
    lab.fetch()
    for end in lab.ends.values():
        if isinstance(end, Ours):
            assert end.open.protection._suite == CHACHA20


@pytest.mark.parametrize("corrupt", [False, True], ids=["transferloss", "transfercorruption"])
def test_transfers_on_a_bad_network(pairing: Pairing, corrupt: bool) -> None:
    """2 % of the packets are hurt each way, and a damaged one is no more than a lost one."""
    lab = Bad(pairing, int(2 * MB * max(SHARE, 0.25)), rate=0.0, corrupt=corrupt)
    lab.establish()
    lab.rate = 0.02
    lab.ask()
    lab.run(lab.done)
    assert lab.hurt["server"] >= 3
    lab.check()


def test_blackhole(pairing: Pairing) -> None:
    """Nothing passes for two seconds, after each five; the sender goes on by itself, once per silence."""
    lab = Dark(pairing, int(10 * MB * SHARE))
    lab.establish()
    lab.begin = lab.now
    lab.ask()
    lab.run(lab.done)
    assert lab.swallowed
    lab.begin = float("inf")
    lab.check()


class Dark(Files):
    begin = float("inf")
    swallowed = 0

    def fate(self, name: str, packet: bytes) -> Iterator[bytes]:
        bright = 5.0 * SHARE
        if self.now >= self.begin and (self.now - self.begin) % (bright + 2.0) >= bright:
            self.swallowed += 1
        else:
            yield packet


@pytest.mark.parametrize("who", ["client", "server"])
def test_keyupdate(pairing: Pairing, who: str) -> None:
    """Early in the transfer, by either end: both use the next keys from then on."""
    lab = Files(pairing, int(3 * MB * SHARE))
    lab.establish()
    lab.settle(1.0)
    lab.network = LINK
    lab.ask()
    lab.run(lambda: lab.done() or lab.progress() > len(lab.files[0]) // 10)
    assert phases(lab) == {0}
    lab.ends[who].update_keys()
    lab.send(who)
    lab.run(lambda: lab.done() or phases(lab) == {1}, 5)
    assert not lab.done()
    lab.run(lab.done)
    assert phases(lab) == {1}
    lab.check()


def test_multiplexing(pairing: Pairing) -> None:
    """2,000 files on one connection, far more than there may be streams at a time."""
    lab = Files(pairing, *[32] * int(2000 * max(SHARE, 0.25)), max_streams_bidi=100)
    lab.fetch()


# -- paths


def test_rebind_port(pairing: Pairing) -> None:
    lab = Moving(pairing, int(10 * MB * SHARE))
    lab.fetch_moving(4)
    lab.check_paths()
    if isinstance(lab.server, Ours):  # a port changed by a NAT: nothing is known of the path anew
        assert lab.server.open.recovery.rtt_min < 0.1


def test_rebind_addr(pairing: Pairing) -> None:
    lab = Moving(pairing, int(10 * MB * SHARE))
    lab.fetch_moving(4, "198.51.100.{}")
    lab.check_paths()


@kinds(AIOQUIC_ASKS)
def test_connectionmigration(pair: Pairing) -> None:
    """The client moves on purpose: both ends use new connection ids, so nobody can tell that it is the same one."""
    lab = Moving(pair, int(2 * MB * max(SHARE, 0.25)))
    lab.fetch_moving(3, "198.51.100.{}", new_id=True)
    lab.check_paths()
    for paths in lab.ids.values():
        for before, after in itertools.pairwise(paths):
            assert after
            assert not before & after


# -- how much of the link is used


def share_of_link(lab: Files) -> float:
    """Of the bytes that the link could carry, in virtual time."""
    lab.establish()
    lab.ask()
    began = lab.now
    lab.run(lab.done)
    took = lab.now - began
    lab.check()
    return sum(map(len, lab.files)) / (LINK.rate * took)


@kinds(OURS_SERVE)
@pytest.mark.parametrize("congestion", ["cubic", "reno", "bbr"])
def test_goodput(pair: Pairing, congestion: str) -> None:
    lab = Files(pair, int(10 * MB * max(SHARE, 0.25)), congestion=congestion)
    assert share_of_link(lab) > 0.85


@kinds(OURS_SERVE)
def test_crosstraffic(pair: Pairing) -> None:
    """Others take half of the link and do not yield: we get most of the other half."""
    lab = Shared(pair, int(10 * MB * max(SHARE, 0.25)))
    assert 0.4 < share_of_link(lab) < 0.52


class Shared(Files):
    seen = 0.0

    def fate(self, name: str, packet: bytes) -> Iterator[bytes]:
        if name == "server":
            before, self.seen = self.seen or self.now, self.now
            queued = max(self._free_at[name], before) + (self.now - before) / 2
            self._free_at[name] = min(queued, self.now + LINK.queue * 1200 / LINK.rate)
        yield packet


def test_ends_are_of_both_kinds() -> None:
    """Or these tests would show nothing of the other implementation."""
    assert {kind for pair in PAIRINGS.values() for kind in pair} == {"ours", "pure", "aioquic"}
    lab = Lab(("ours", "aioquic"), 1, LINK)
    assert isinstance(lab.server, Theirs)
