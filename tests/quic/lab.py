"""A network in virtual time between two ends of any kind: ours, ours without the kernel, and plain aioquic.

All randomness comes from one seed. `Lab` joins two ends; `Hand` is a peer whose frames the test writes.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from relay.quic import errors
from relay.quic.connection import CLOSED, OPEN, Burst, Connection
from relay.quic.handler import Close, Handler, Waker
from relay.quic.handover import take_over
from relay.quic.handshake import Handshake, split
from relay.quic.packet_keys import PacketProtection
from relay.quic.settings import QuicSettings
from relay.quic.start import PeerParameters, Start
from relay.quic.streams import Stream
from relay.quic.varint import read_varint, varint
from tests.quic.handshaking import CLIENT, SERVER, configured, token_of

OTHER = {"client": "server", "server": "client"}
NEVER = math.inf
Address = tuple[str, int]
Pairing = tuple[str, str]

PAIRINGS: dict[str, Pairing] = {
    "ours": ("ours", "ours"),
    "ours-aioquic": ("ours", "aioquic"),
    "aioquic-ours": ("aioquic", "ours"),
    "pure-aioquic": ("pure", "aioquic"),
    "aioquic-pure": ("aioquic", "pure"),
    "pure": ("pure", "pure"),
}
"""Client and server."""


@dataclass
class Network:
    """Properties of the network. Times in seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.01
    jitter: float = 0.0
    rate: float = 0.0  # bytes per second of a bottleneck with a queue of `queue` packets; 0 for none
    queue: int = 50
    mtu: int = 1500
    tick: float = 0.0  # packets arrive at multiples of this, several at once, as at a busy process


class Recorder(Handler):
    """A session that keeps everything. Nothing may follow the end of a stream, or of the connection."""

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.received: dict[int, bytearray] = {}
        self.finished: set[int] = set()
        self.resets: dict[int, int] = {}
        self.stops: dict[int, int] = {}
        self.datagrams: list[bytes] = []
        self.pongs = 0
        self.close_event: Close | None = None

    def stream_data(self, stream: Stream, data: bytes, fin: bool) -> None:
        assert self.close_event is None
        assert stream.id not in self.finished
        assert stream.id not in self.resets
        self.streams[stream.id] = stream
        self.received.setdefault(stream.id, bytearray()).extend(data)
        if fin:
            self.finished.add(stream.id)

    def stream_reset(self, stream: Stream, code: int) -> None:
        assert self.close_event is None
        assert stream.id not in self.resets
        self.streams[stream.id] = stream
        self.resets[stream.id] = code

    def stream_stopped(self, stream: Stream, code: int) -> None:
        assert self.close_event is None
        self.streams[stream.id] = stream
        self.stops[stream.id] = code

    def datagram(self, data: bytes) -> None:
        assert self.close_event is None
        self.datagrams.append(data)

    def pong(self) -> None:
        assert self.close_event is None
        self.pongs += 1

    def closed(self, close: Close) -> None:
        assert self.close_event is None
        self.close_event = close


def merged(packets: list[bytes]) -> list[tuple[int, bytes]]:
    """Datagram size and buffer of merged datagrams, as a kernel with UDP_GRO delivers them."""
    found: list[tuple[int, bytes]] = []
    for packet in packets:
        if found:
            each, buffer = found[-1]
            if len(buffer) % each == 0 and len(packet) <= each and len(buffer) + each <= 65_000:
                found[-1] = each, buffer + packet
                continue
        found.append((len(packet), packet))
    return found


def cut(bursts: list[Burst]) -> list[tuple[bytes, Any]]:
    """The datagrams of bursts, with their addresses."""
    return [
        (buffer[at : at + size], address)
        for buffers, size, address in bursts
        for buffer in buffers
        for at in range(0, len(buffer), size)
    ]


@dataclass
class Ours(Waker):
    """A handshake, then our connection, as a driver joins them."""

    handshake: Handshake | None
    settings: QuicSettings
    dice: random.Random
    log: Recorder = field(default_factory=Recorder)
    quic: Connection | None = None
    in_trains: int = 0
    first_secret: bytes = b""  # of what it sends
    woken: bool = False

    def wake(self) -> None:
        self.woken = True

    @property
    def ready(self) -> bool:
        return self.quic is not None and self.quic.confirmed

    def receive(self, datagrams: list[tuple[bytes, Address]], now: float) -> None:
        quic = self.quic
        if quic is None or any(data[0] & 0x80 for data, _ in datagrams):
            for data, address in datagrams:
                self._receive_one(data, address, now)
        else:
            for source in dict.fromkeys(address for _, address in datagrams):
                self._receive_trains(
                    quic, [data for data, address in datagrams if address == source], source, now
                )
        if self.quic is not None:
            self.quic.end_of_drain(now)

    def _receive_one(self, data: bytes, address: Address, now: float) -> None:
        handshake = self.handshake
        if self.quic is None:
            assert handshake is not None
            handshake.receive(data, address, now)
            if handshake.complete:
                self._establish(handshake, now)
            return
        long, short = split(data)
        if long and handshake is not None:
            handshake.receive(long, address, now)
        if short:
            self.quic.receive(short, address, now)

    def _establish(self, handshake: Handshake, now: float) -> None:
        self.quic = Connection(
            take_over(handshake), self.settings, self.dice, now, waker=self, token_of=token_of
        )
        self.first_secret = handshake.send_secret
        self.quic.handler = self.log
        self.quic.mtu.enabled = self.settings.mtu_discovery
        early = handshake.early
        if not handshake.is_client:
            handshake.release()
            self.handshake = None
        for data, address in early:
            self.quic.receive(data, address, now)

    def _receive_trains(self, quic: Connection, packets: list[bytes], address: Address, now: float) -> None:
        for each, buffer in merged(packets):
            at = 0
            while at < len(buffer):
                taken = quic.receive_train(memoryview(buffer)[at:], each, address, now)
                self.in_trains += taken
                if not taken:
                    quic.receive(buffer[at : at + each], address, now)
                at += max(taken, 1) * each

    def send(self, now: float) -> list[tuple[bytes, Address]]:
        self.woken = False
        found: list[tuple[bytes, Address]] = []
        if self.handshake is not None:
            if self.quic is not None and (self.quic.confirmed or self.quic.over):
                self.handshake.release()
                self.handshake = None
            else:
                found += self.handshake.datagrams_to_send(now)
        if self.quic is not None:
            found += cut(self.quic.flush(now))
        return found

    def due(self) -> float:
        times = []
        if self.handshake is not None:
            timer = self.handshake.get_timer()
            times += [timer] if timer is not None else []
        if self.quic is not None and self.quic.state != CLOSED:
            times += [at for at in (self.quic.deadline(), self.quic.probe_at()) if at >= 0]
        return min(times, default=NEVER)

    def on_timer(self, now: float) -> None:
        if self.handshake is not None:
            timer = self.handshake.get_timer()
            if timer is not None and timer <= now:
                self.handshake.handle_timer(now)
        if self.quic is not None:
            self.quic.on_timer(now)

    # -- as a session

    @property
    def open(self) -> Connection:
        assert self.quic is not None
        return self.quic

    def give(self, data: bytes, *, priority: int = 0, fin: bool = True, uni: bool = True) -> Any:
        stream = self.open.open_stream(priority, unidirectional=uni)
        third = len(data) // 3
        stream.write([data[:third], data[third:]], fin=fin)
        return stream

    def id_of(self, stream: Stream) -> int:
        return stream.id

    def reset(self, stream: Stream, code: int) -> None:
        stream.reset(code)

    def stop(self, stream_id: int, code: int) -> bool:
        """Returns whether the stream is known and was still open."""
        stream = self.open.streams.get(stream_id)
        if stream is None or stream.into.done:
            return False
        stream.stop(code)
        return True

    def datagram(self, data: bytes) -> None:
        self.open.send_datagram(data)

    def update_keys(self) -> None:
        self.open.update_keys()
        self.open.ping()

    def ping(self) -> None:
        self.open.ping()

    def check_nothing_left(self) -> None:
        quic = self.open
        assert quic.recovery.congestion.in_flight == 0
        assert quic.recovery.outstanding == 0
        assert not quic.recovery.sent
        assert len(quic.received.older) <= 32
        assert not len(quic.streams), [quic.streams.get(number) for number in range(2000)]
        assert not quic.streams.queue
        assert not quic.undelivered
        assert not quic._frames
        assert not quic._other_paths
        assert not quic.streams._control
        assert not quic.streams.ended_streams

    def describe(self) -> str:
        quic = self.quic
        if quic is None:
            return "no connection"
        recovery = quic.recovery
        return (
            f"got={sum(map(len, self.log.received.values()))} flight={recovery.congestion.in_flight} "
            f"window={recovery.congestion.window} pto={recovery.pto_count} sent={recovery.outstanding} "
            f"streams={len(quic.streams)} data={quic.streams.send_used}/{quic.streams.send_limit} "
            f"due={self.due()} path={quic.path.address},{quic.path.validated},{quic.path.credit} close={self.log.close_event}"
        )


@dataclass
class Theirs:
    """aioquic, as it is."""

    quic: QuicConnection
    log: Recorder = field(default_factory=Recorder)
    ready: bool = False
    in_trains: int = 0
    first_secret: bytes = b""
    woken: bool = False

    @property
    def open(self) -> Any:
        return self.quic

    def receive(self, datagrams: list[tuple[bytes, Address]], now: float) -> None:
        for data, address in datagrams:
            self.quic.receive_datagram(data, address, now)
        self._read()

    def send(self, now: float) -> list[tuple[bytes, Address]]:
        found = self.quic.datagrams_to_send(now)
        self._read()
        return found

    def due(self) -> float:
        at = self.quic.get_timer()
        return NEVER if at is None else at + 1e-7  # its timers find nothing due at their very time

    def on_timer(self, now: float) -> None:
        at = self.quic.get_timer()
        if at is not None and at <= now:
            self.quic.handle_timer(now)
            self._read()

    def _read(self) -> None:
        log = self.log
        while (event := self.quic.next_event()) is not None:
            match event:
                case events.HandshakeCompleted():
                    self.ready = True
                case events.StreamDataReceived():
                    log.received.setdefault(event.stream_id, bytearray()).extend(event.data)
                    if event.end_stream:
                        log.finished.add(event.stream_id)
                case events.StreamReset():
                    log.resets[event.stream_id] = event.error_code
                case events.StopSendingReceived():
                    log.stops[event.stream_id] = event.error_code
                case events.DatagramFrameReceived():
                    log.datagrams.append(event.data)
                case events.PingAcknowledged():
                    log.pongs += 1
                case events.ConnectionTerminated():
                    kind = -1 if event.frame_type is None else event.frame_type
                    log.close_event = Close(event.error_code, event.reason_phrase, frame_type=kind)

    def give(self, data: bytes, *, priority: int = 0, fin: bool = True, uni: bool = True) -> Any:
        stream_id = self.quic.get_next_available_stream_id(is_unidirectional=uni)
        self.quic.send_stream_data(stream_id, data, fin)
        return stream_id

    def id_of(self, stream: int) -> int:
        return stream

    def reset(self, stream: int, code: int) -> None:
        self.quic.reset_stream(stream, code)

    def stop(self, stream_id: int, code: int) -> bool:
        try:
            self.quic.stop_stream(stream_id, code)
        except ValueError:
            return False
        return True

    def datagram(self, data: bytes) -> None:
        self.quic.send_datagram_frame(data)

    def update_keys(self) -> None:
        self.quic.request_key_update()
        self.quic.send_ping(1)  # else the loss of its only packet makes ours unreadable for it

    def ping(self) -> None:
        self.quic.send_ping(1)

    def check_nothing_left(self) -> None:
        quic: Any = self.quic
        assert quic._loss.bytes_in_flight == 0
        assert not quic._streams, quic._streams

    def describe(self) -> str:
        quic: Any = self.quic
        return (
            f"got={sum(map(len, self.log.received.values()))} flight={quic._loss.bytes_in_flight} "
            f"window={quic._loss.congestion_window} pto={quic._loss._pto_count} streams={len(quic._streams)} "
            f"data={quic._remote_max_data_used}/{quic._remote_max_data} close={quic._close_event}"
        )


End = Ours | Theirs


class Lab:
    """Two ends on a network."""

    def __init__(self, pairing: Pairing, seed: int, network: Network, **settings: Any) -> None:
        self.dice = random.Random(seed)
        self.network = network
        self.now = 50.0
        self.addresses: dict[str, Address] = {"client": CLIENT, "server": SERVER}
        self.packets = {"client": 0, "server": 0}  # sent by each
        self.bytes = {"client": 0, "server": 0}
        self._free_at = {"client": 0.0, "server": 0.0}  # when the queue of the bottleneck will be empty
        self._flying: list[tuple[float, int, str, Address, bytes]] = []
        self._count = 0
        self.settings = QuicSettings(**{"idle_timeout": 60.0, "keep_alive": 0.0, **settings})
        client_end, client = self._end(pairing[0], None)
        server_end, _ = self._end(pairing[1], client.original_destination_connection_id)
        self.client, self.server = client_end, server_end
        self.ends: dict[str, Any] = {"client": client_end, "server": server_end}
        client.connect(SERVER, self.now)
        self.send("client")

    def _end(self, kind: str, original: bytes | None) -> tuple[Any, QuicConnection]:
        settings = self.settings
        configuration = configured(
            is_client=original is None,
            idle_timeout=60.0,
            max_data=settings.connection_window,
            max_stream_data=settings.stream_window,
        )
        configuration.max_datagram_frame_size = 65535
        self.configure(configuration)
        if kind == "aioquic":
            theirs = QuicConnection(configuration=configuration, original_destination_connection_id=original)
            return Theirs(theirs), theirs
        handshake = Handshake(
            configuration=configuration,
            max_streams_bidi=settings.max_streams_bidi,
            max_streams_uni=settings.max_streams_uni,
            token_of=token_of,
            original_destination_connection_id=original,
        )
        settings = replace(settings, native=kind == "ours")
        return Ours(handshake, settings, random.Random(self.dice.random())), handshake

    def configure(self, configuration: QuicConfiguration) -> None:
        """Change what an end's handshake begins with. For tests with wishes of their own."""

    def send(self, name: str) -> None:
        """Transmit for one end, now."""
        network, dice = self.network, self.dice
        for packet, address in self.ends[name].send(self.now):
            self.packets[name] += 1
            self.bytes[name] += len(packet)
            if address != self.addresses[OTHER[name]] or len(packet) > network.mtu:
                continue  # the peer is gone from there
            for arriving in self.carried(name, packet):
                at = self.now
                if network.rate:
                    start = max(at, self._free_at[name])
                    if (start - at) * network.rate > network.queue * 1200:
                        continue
                    at = self._free_at[name] = start + len(arriving) / network.rate
                at += network.delay + dice.random() * network.jitter
                if network.tick:
                    at = math.ceil(at / network.tick) * network.tick
                self._count += 1
                heapq.heappush(self._flying, (at, self._count, OTHER[name], self.addresses[name], arriving))

    def carried(self, name: str, packet: bytes) -> Iterator[bytes]:
        """What arrives of a packet sent by `name`. Tests may have rules of their own."""
        for _ in range(2 if self.dice.random() < self.network.duplicate else 1):
            if self.dice.random() >= self.network.loss:
                yield packet

    def send_all(self) -> None:
        for name in self.ends:
            self.send(name)

    def step(self, until: float) -> bool:
        """Advance to the next event; `False` if it is after `until`."""
        for name, end in self.ends.items():
            if end.woken:
                self.send(name)
        timers = {name: end.due() for name, end in self.ends.items()}
        due = min(timers.values())
        if self._flying:
            due = min(due, self._flying[0][0])
        if due > until:
            self.now = until
            return False
        self.now = max(self.now, due)
        arrived: dict[str, list[tuple[bytes, Address]]] = {}
        while self._flying and self._flying[0][0] <= self.now:
            _, _, target, source, packet = heapq.heappop(self._flying)
            arrived.setdefault(target, []).append((packet, source))
        for name, datagrams in arrived.items():
            self.ends[name].receive(datagrams, self.now)
        for name, at in timers.items():
            if at <= self.now:
                self.ends[name].on_timer(self.now)
                arrived.setdefault(name, [])
        for name in arrived:
            self.send(name)
        return True

    def run(self, done: Any, within: float = 120.0) -> None:
        """Let time pass until `done`; AssertionError if that takes longer than `within` virtual seconds."""
        end = self.now + within
        still = 0
        while not done():
            before = self.now
            if not self.step(end):
                raise AssertionError(f"stalled: {self.describe()}")
            still = still + 1 if self.now == before else 0
            assert still < 1000, f"time stands still: {self.describe()}"
            for each in self.ends.values():
                assert each.log.close_event is None, vars_of(each.log.close_event)

    def rest(self, seconds: float) -> None:
        """Let time pass on the network as it is."""
        end = self.now + seconds
        still = 0
        while True:
            before = self.now
            if not self.step(end):
                return
            still = still + 1 if self.now == before else 0
            assert still < 1000, f"time stands still: {self.describe()}"

    def settle(self, seconds: float = 3.0) -> None:
        """Let time pass on a good network, until everything is acknowledged."""
        self.network = Network(delay=0.005)
        self.rest(seconds)

    def establish(self) -> None:
        """Finish the handshake."""
        self.run(lambda: all(end.ready for end in self.ends.values()))

    def describe(self) -> str:
        found = "; ".join(f"{name}: {end.describe()}" for name, end in self.ends.items())
        return f"t={self.now:.4f} {found}"

    def check_nothing_left(self) -> None:
        """After `settle`: nothing in flight, nothing kept."""
        for name, end in self.ends.items():
            try:
                end.check_nothing_left()
            except AssertionError as error:
                raise AssertionError(f"{name}: {self.describe()}") from error


def vars_of(close: Close | None) -> str:
    return "" if close is None else f"{close.code:#x} {close.frame_type} {close.reason!r}"


# -- a peer by hand


class Packet(NamedTuple):
    """A packet of our connection, opened."""

    number: int
    size: int
    address: Any
    cid: bytes
    frames: list[tuple[Any, ...]]  # type and numbers, see `frames_of`
    plain: bytes
    phase: int


NUMBERS = {0x01: 0, 0x04: 3, 0x05: 2, 0x10: 1, 0x11: 2, 0x12: 1, 0x13: 1, 0x14: 1, 0x15: 2, 0x16: 1, 0x17: 1,
           0x19: 1, 0x1E: 0, 0xAF: 4}  # fmt: skip
"""Frames that consist of this many numbers."""


def frames_of(plain: bytes) -> list[tuple[Any, ...]]:  # noqa: C901, PLR0912 - one loop over all types
    """Frames as tuples: the type, then numbers, then data. An ACK has (2, delay, ((low, high), ...))."""
    found: list[tuple[Any, ...]] = []
    at = 0
    while at < len(plain):
        kind, at = read_varint(plain, at)
        if kind == errors.PADDING:
            continue
        if kind & 0xF8 == errors.STREAM:
            stream_id, at = read_varint(plain, at)
            offset, size = 0, -1
            if kind & 4:
                offset, at = read_varint(plain, at)
            if kind & 2:
                size, at = read_varint(plain, at)
            stop = len(plain) if size < 0 else at + size
            assert stop <= len(plain)
            found.append((errors.STREAM, stream_id, offset, plain[at:stop], bool(kind & 1)))
            at = stop
        elif kind == errors.ACK:
            largest, at = read_varint(plain, at)
            delay, at = read_varint(plain, at)
            count, at = read_varint(plain, at)
            length, at = read_varint(plain, at)
            ranges = [(largest - length, largest)]
            for _ in range(count):
                gap, at = read_varint(plain, at)
                length, at = read_varint(plain, at)
                high = ranges[-1][0] - gap - 2
                ranges.append((high - length, high))
            assert ranges[-1][0] >= 0
            found.append((kind, delay, tuple(ranges)))
        elif kind & 0xFE == errors.DATAGRAM:
            size = len(plain) - at
            if kind & 1:
                size, at = read_varint(plain, at)
            found.append((errors.DATAGRAM, plain[at : at + size]))
            at += size
        elif kind == errors.NEW_CONNECTION_ID:
            number, at = read_varint(plain, at)
            prior, at = read_varint(plain, at)
            end = at + 1 + plain[at] + 16
            found.append((kind, number, prior, plain[at + 1 : end - 16], plain[end - 16 : end]))
            at = end
        elif kind in (errors.PATH_CHALLENGE, errors.PATH_RESPONSE):
            found.append((kind, plain[at : at + 8]))
            at += 8
        elif kind in (errors.TRANSPORT_CLOSE, errors.APPLICATION_CLOSE):
            code, at = read_varint(plain, at)
            blamed = -1
            if kind == errors.TRANSPORT_CLOSE:
                blamed, at = read_varint(plain, at)
            size, at = read_varint(plain, at)
            found.append((kind, code, blamed, plain[at : at + size]))
            at += size
        else:
            values = []
            for _ in range(NUMBERS[kind]):
                value, at = read_varint(plain, at)
                values.append(value)
            found.append((kind, *values))
    return found


def numbers(*values: int) -> bytes:
    """Varints, such as a frame's type and fields."""
    return b"".join(map(varint, values))


def stream_frame(stream_id: int, offset: int, data: bytes, *, fin: bool = False) -> bytes:
    return numbers(0x0F if fin else 0x0E, stream_id, offset, len(data)) + data


def ack_frame(*ranges: tuple[int, int], delay: int = 0) -> bytes:
    """Ranges of packet numbers, both ends included, descending. `delay` is in microseconds."""
    low, high = ranges[0]
    parts = [2, high, delay >> 3, len(ranges) - 1, high - low]
    for start, stop in ranges[1:]:
        parts += [low - stop - 2, stop - start]
        low = start
    return numbers(*parts)


def new_cid(number: int, prior: int = 0, cid: bytes = b"", token: bytes = b"") -> bytes:
    cid = cid or b"cid%05d" % number
    return numbers(0x18, number, prior) + bytes((len(cid),)) + cid + (token or b"token%011d" % number)


SECRETS = (bytes(range(32)), bytes(range(32, 64)))
HOST_CID, PEER_CID = b"host-cid", b"peer-cid"
PEER_TOKEN = b"the peer's token"


def generous(**changes: Any) -> PeerParameters:
    """A peer that takes everything."""
    found = PeerParameters(
        max_data=1 << 24,
        max_stream_data_bidi_local=1 << 20,
        max_stream_data_bidi_remote=1 << 20,
        max_stream_data_uni=1 << 20,
        max_streams_bidi=100,
        max_streams_uni=100,
        max_datagram_frame_size=65535,
        active_connection_id_limit=8,
    )
    for name, value in changes.items():
        assert hasattr(found, name)
        setattr(found, name, value)
    return found


class Hand(Waker):
    """Our connection, a server by default, and a peer whose frames the test writes."""

    def __init__(
        self,
        *,
        is_client: bool = False,
        peer: PeerParameters | None = None,
        seed: int = 1,
        rtt: float = 0.1,
        **settings: Any,
    ) -> None:
        self.now = 100.0
        self.address: Any = SERVER if is_client else CLIENT  # of the peer
        self.cid = HOST_CID  # that the peer's packets carry
        self.number = 0  # the peer's next packet number
        self.heard: list[Packet] = []
        self.wakes = 0
        self.expected = 0  # the next number of our connection
        self.keys = PacketProtection(0x1301, 1, SECRETS[1], SECRETS[0], native=False)
        start = Start(
            is_client=is_client,
            version=1,
            suite=0x1301,
            send_secret=SECRETS[0],
            receive_secret=SECRETS[1],
            host_cid=HOST_CID,
            host_token=b"",
            peer_cid=PEER_CID,
            peer_token=PEER_TOKEN if is_client else b"",
            peer=peer or generous(),
            address=self.address,
            rtt=rtt,
            rtt_variance=rtt / 2,
            rtt_min=rtt,
            rtt_latest=rtt,
            packet_number=0,
        )
        options = {"idle_timeout": 30.0, "keep_alive": 0.0, "mtu_discovery": False, **settings}
        self.settings = QuicSettings(**options)
        self.quic = Connection(
            start, self.settings, random.Random(seed), self.now, waker=self, token_of=token_of
        )
        self.log = Recorder()
        self.quic.handler = self.log

    def wake(self) -> None:
        self.wakes += 1

    # -- the peer speaks

    def seal(self, *frames: bytes, number: int = -1, cid: bytes = b"", flags: int = 0) -> bytes:
        """A packet; of the next number if none is given."""
        if number < 0:
            number = self.number
        self.number = max(self.number, number + 1)
        self.keys.before_sending(number, number - 1)
        plain = b"".join(frames)
        if 0 < len(plain) < 3:
            plain = plain.ljust(3, b"\0")
        first = 0x43 | flags | self.keys.sending_phase << 2
        return self.keys.sending.one(number, 4, first, cid or self.cid, plain)

    def deliver(self, *datagrams: bytes, address: Any = None) -> None:
        """They arrive in one drain; nothing is sent."""
        for data in datagrams:
            self.quic.receive(data, address or self.address, self.now)
        self.quic.end_of_drain(self.now)

    def say(self, *frames: bytes, address: Any = None, cid: bytes = b"", number: int = -1) -> list[Packet]:
        """A packet with these frames arrives. Returns what is sent then."""
        self.deliver(self.seal(*frames, number=number, cid=cid), address=address)
        return self.flush()

    def ack(self, *ranges: tuple[int, int], delay: int = 0) -> list[Packet]:
        """Acknowledge; everything heard by default."""
        return self.say(ack_frame(*(ranges or self.ranges()), delay=delay))

    def ranges(self) -> list[tuple[int, int]]:
        """Of everything heard, descending."""
        found: list[tuple[int, int]] = []
        for number in sorted({packet.number for packet in self.heard}, reverse=True):
            if found and found[-1][0] == number + 1:
                found[-1] = number, found[-1][1]
            else:
                found.append((number, number))
        return found

    # -- and listens

    def flush(self) -> list[Packet]:
        found = [self.open(data, address) for data, address in cut(self.quic.flush(self.now))]
        self.heard += found
        return found

    def open(self, data: bytes, address: Any) -> Packet:
        protection = self.keys
        paths = (self.quic.path, *self.quic._other_paths)
        size = max([len(path.cid) for path in paths if data.startswith(path.cid, 1)], default=len(PEER_CID))
        expected = self.expected
        opened = protection.receiving.open(data, size, expected, protection.receiving_phase)
        if opened is not None and opened[2] is None:
            opened = protection.open_other_phase(data, size, expected)
        assert opened is not None
        number, first, plain = opened
        assert plain
        self.expected = max(expected, number + 1)
        return Packet(number, len(data), address, data[1 : 1 + size], frames_of(plain), plain, first >> 2 & 1)

    def frames(self, kind: int, packets: list[Packet] | None = None) -> list[tuple[Any, ...]]:
        """The frames of one type, of everything heard by default."""
        found = self.heard if packets is None else packets
        return [frame for packet in found for frame in packet.frames if frame[0] == kind]

    # -- time

    def wait(self, seconds: float) -> list[Packet]:
        """Let time pass; timers are served when they are due."""
        end = self.now + seconds
        found: list[Packet] = []
        for _ in range(10_000):
            due = min((at for at in (self.quic.deadline(), self.quic.probe_at()) if at >= 0), default=NEVER)
            if due > end or self.quic.state == CLOSED:
                self.now = end
                return found
            self.now = max(self.now, due)
            self.quic.on_timer(self.now)
            found += self.flush()
        raise AssertionError("time stands still")

    # -- the end

    @property
    def close(self) -> Close | None:
        return self.quic.close_event

    def quiet(self) -> Hand:
        """The first packets are exchanged and acknowledged."""
        self.flush()
        self.now += 0.1
        self.ack()
        assert not self.quic.recovery.sent
        assert self.quic.state == OPEN
        return self
