"""Two connections on a bad network in virtual time: delay, loss, reordering, duplication, a bottleneck.

Drives the connections without sessions, so that hundreds of transfers take seconds. All randomness comes from
one seed.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from typing import Any

from aioquic.quic import events
from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.tls import Epoch
from relay.quic.compat import RelayQuicConnection

from relay.quic.endpoint import connection_class, quic_configuration
from relay.quic.settings import QuicSettings
from tests.transport.virtual import PAIR, WAYS, Pairing

ADDRESSES = {"client": ("192.0.2.1", 1000), "server": ("192.0.2.2", 443)}
OTHER = {"client": "server", "server": "client"}


@dataclass
class Network:
    """Properties of the network. Times in seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.01
    jitter: float = 0.0
    rate: float | None = None
    """Bytes per second of a bottleneck with a queue of `queue` packets."""
    queue: int = 50
    mtu: int = 1500
    """Path MTU in bytes."""
    tick: float = 0.0
    """Packets arrive at multiples of this, several at once, as at a busy process."""


@dataclass
class Bottleneck:
    """The bottleneck in one direction. Two labs on one clock may share one."""

    free_at: float = 0.0
    """When its queue will be empty."""


@dataclass
class End:
    """One end."""

    name: str
    quic: RelayQuicConnection
    received: dict[int, bytearray] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)
    resets: dict[int, int] = field(default_factory=dict)
    stops: dict[int, int] = field(default_factory=dict)
    datagrams: list[bytes] = field(default_factory=list)
    closed: events.ConnectionTerminated | None = None
    packets: int = 0
    in_trains: int = 0
    """Packets received in trains."""
    line: Bottleneck = field(default_factory=Bottleneck)
    """The stream that this end sends on."""


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


class Lab:
    def __init__(
        self,
        pairing: Pairing,
        seed: int,
        network: Network,
        **settings: Any,
    ) -> None:
        self.dice = random.Random(seed)
        self.network = network
        self.now = 50.0
        self.addresses = dict(ADDRESSES)
        self._flying: list[tuple[float, int, str, bytes]] = []
        self._count = 0
        client_settings = QuicSettings(**WAYS[pairing[0]], idle_timeout=60.0, **settings)
        server_settings = QuicSettings(**WAYS[pairing[1]], idle_timeout=60.0, **settings)
        configuration = quic_configuration(client_settings, is_client=True, alpns=["x"])
        configuration.server_name = "relay.test"
        configuration.verify_mode = 0
        client = connection_class(client_settings)(
            configuration=configuration, max_streams_bidi=1000, max_streams_uni=1000
        )
        configuration = quic_configuration(server_settings, is_client=False, alpns=["x"])
        configuration.certificate, configuration.private_key = PAIR.certificate, PAIR.key
        server = connection_class(server_settings)(
            configuration=configuration,
            max_streams_bidi=1000,
            max_streams_uni=1000,
            original_destination_connection_id=client.original_destination_connection_id,
        )
        if client_settings.mtu_discovery:
            client.discover_mtu()
            server.discover_mtu()
        self.ends = {"client": End("client", client), "server": End("server", server)}
        client.connect(ADDRESSES["server"], self.now)
        self.send("client")

    @property
    def client(self) -> End:
        return self.ends["client"]

    @property
    def server(self) -> End:
        return self.ends["server"]

    def send(self, name: str) -> None:
        """Transmit for one end, now."""
        end = self.ends[name]
        network, dice = self.network, self.dice
        for buffers, size, address in end.quic.bursts(self.now):
            for packet in (data[at : at + size] for data in buffers for at in range(0, len(data), size)):
                if address != self.addresses[OTHER[name]]:
                    continue  # the peer is gone
                end.packets += 1
                assert len(packet) <= max(1200, size)
                if len(packet) > network.mtu:
                    continue
                for _ in range(2 if dice.random() < network.duplicate else 1):
                    if dice.random() < network.loss:
                        continue
                    at = self.now
                    if network.rate is not None:
                        start = max(at, end.line.free_at)
                        if (start - at) * network.rate > network.queue * 1200:
                            continue
                        at = end.line.free_at = start + len(packet) / network.rate
                    at += network.delay + dice.random() * network.jitter
                    if network.tick:
                        at = math.ceil(at / network.tick) * network.tick
                    self._count += 1
                    heapq.heappush(self._flying, (at, self._count, OTHER[name], packet))

    def _receive(self, end: End, packets: list[bytes]) -> None:
        source = self.addresses[OTHER[end.name]]
        for each, buffer in merged(packets):
            at = 0
            while at < len(buffer):
                taken = end.quic.receive_train(memoryview(buffer)[at:], each, source, self.now)
                end.in_trains += taken
                if not taken:
                    end.quic.receive_datagram(buffer[at : at + each], source, self.now)
                at += max(taken, 1) * each
        end.quic.finish_receiving(self.now)
        self._read(end)

    def _read(self, end: End) -> None:
        while (event := end.quic.next_event()) is not None:
            match event:
                case events.StreamDataReceived():
                    assert event.stream_id not in end.finished
                    assert event.stream_id not in end.resets
                    end.received.setdefault(event.stream_id, bytearray()).extend(event.data)
                    if event.end_stream:
                        end.finished.add(event.stream_id)
                case events.StreamReset():
                    assert event.stream_id not in end.resets
                    end.resets[event.stream_id] = event.error_code
                case events.StopSendingReceived():
                    end.stops[event.stream_id] = event.error_code
                case events.DatagramFrameReceived():
                    end.datagrams.append(event.data)
                case events.ConnectionTerminated():
                    end.closed = event

    def step(self, until: float) -> bool:
        """Advance to the next event; `False` if it is after `until`."""
        timers = {name: end.quic.get_timer() for name, end in self.ends.items()}
        due = min((at for at in timers.values() if at is not None), default=float("inf"))
        if self._flying:
            due = min(due, self._flying[0][0])
        if due > until:
            self.now = until
            return False
        self.now = max(self.now, due) + 1e-7
        arrived: dict[str, list[bytes]] = {}
        while self._flying and self._flying[0][0] <= self.now:
            _, _, target, packet = heapq.heappop(self._flying)
            arrived.setdefault(target, []).append(packet)
        for name, packets in arrived.items():
            self._receive(self.ends[name], packets)
        for name, at in timers.items():
            end = self.ends[name]
            if at is not None and at <= self.now:
                end.quic.handle_timer(self.now)
                self._read(end)
                arrived.setdefault(name, [])
        for name in arrived:
            self.send(name)
        return True

    def run(self, done: Any, within: float = 120.0) -> None:
        """Let time pass until `done`; AssertionError if that takes longer than `within` virtual seconds."""
        end = self.now + within
        while not done():
            if not self.step(end):
                raise AssertionError(f"stalled: {self.describe()}")
            assert self.client.closed is None, self.client.closed
            assert self.server.closed is None, self.server.closed

    def settle(self, seconds: float = 3.0) -> None:
        """Let time pass on a good network, until everything is acknowledged."""
        self.network = Network(delay=0.005)
        end = self.now + seconds
        while self.step(end):
            pass

    def open(self) -> None:
        """Finish the handshake."""
        self.run(lambda: all(end.quic._handshake_confirmed for end in self.ends.values()))

    def describe(self) -> str:
        words = []
        for end in self.ends.values():
            quic: Any = end.quic
            loss = quic._loss
            words.append(
                f"{end.name}: t={self.now:.3f} got={sum(map(len, end.received.values()))} "
                f"flight={loss.bytes_in_flight} cwnd={loss.congestion_window} pto={loss._pto_count} "
                f"sent={len(quic._spaces[Epoch.ONE_RTT].sent_packets)} streams={len(quic._streams)} "
                f"data={quic._remote_max_data_used}/{quic._remote_max_data} timer={quic.get_timer()} "
                f"close={quic._close_event}"
            )
        return "; ".join(words)

    def check_nothing_left(self) -> None:
        """After `settle`: nothing in flight, nothing kept."""
        for end in self.ends.values():
            quic: Any = end.quic
            space = quic._spaces[Epoch.ONE_RTT]
            assert quic._loss.bytes_in_flight == 0, self.describe()
            assert space.ack_eliciting_in_flight == 0, self.describe()
            assert not [p for p in space.sent_packets.values() if p.in_flight], self.describe()
            assert len(space.ack_queue) < MAX_ACK_RANGES  # the oldest are dropped beyond it
            assert not quic._streams, quic._streams
            if quic.fast:
                assert not quic._trains
                assert not quic._active
                assert not quic._control_streams
                assert not quic._frames
