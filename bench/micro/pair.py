"""Two QUIC connections joined in memory: no sockets, no sessions, no loss, and a manual clock."""

from __future__ import annotations

import datetime as dt
import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace

from relay.quic.certificate_store import generate_certificate
from relay.quic.connection import Connection
from relay.quic.endpoint import quic_configuration
from relay.quic.handler import Handler, Waker
from relay.quic.handover import take_over
from relay.quic.handshake import Handshake
from relay.quic.settings import QuicSettings
from relay.quic.streams import Stream

CLIENT, SERVER = ("192.0.2.1", 1000), ("192.0.2.2", 443)
SETTINGS = QuicSettings(
    idle_timeout=3600.0, max_streams_bidi=100_000, max_streams_uni=100_000, mtu_discovery=False
)


def token_of(cid: bytes) -> bytes:
    return hashlib.sha256(cid).digest()[:16]


class Counter(Handler):
    """A session that counts."""

    def __init__(self) -> None:
        self.received = 0

    def stream_data(self, stream: Stream, data: bytes, fin: bool) -> None:  # noqa: ARG002, FBT001 - as the base
        self.received += len(data)


class End:
    """A connection of one side."""

    def __init__(self, settings: QuicSettings, original: bytes | None) -> None:
        self.settings = settings
        self.session = Counter()
        configuration = quic_configuration(settings, is_client=original is None, alpns=["bench"])
        if original is None:
            configuration.verify_mode = 0
        else:
            pair = generate_certificate(["bench.test"], dt.datetime.now(dt.UTC))
            configuration.certificate, configuration.private_key = pair.certificate, pair.key
        self.handshake = Handshake(
            configuration=configuration,
            max_streams_bidi=settings.max_streams_bidi,
            max_streams_uni=settings.max_streams_uni,
            token_of=token_of,
            original_destination_connection_id=original,
        )

    def establish(self, now: float) -> None:
        self.quic = Connection(
            take_over(self.handshake), self.settings, random.Random(1), now, waker=Waker(), token_of=token_of
        )
        self.quic.handler = self.session
        for data, address in self.handshake.early:
            self.quic.receive(data, address, now)
        self.handshake.release()


class Pair:
    """A server that sends, and a client that receives."""

    def __init__(self, *, native: bool) -> None:
        self.now = 1000.0
        settings = replace(SETTINGS, native=native)
        self.client = End(settings, None)
        client = self.client.handshake
        self.server = End(settings, client.original_destination_connection_id)
        server = self.server.handshake
        client.connect(SERVER, self.now)
        while not server.complete:
            for data, _ in client.datagrams_to_send(self.now):
                server.receive(data, CLIENT, self.now)
            for data, _ in server.datagrams_to_send(self.now):
                client.receive(data, SERVER, self.now)
            self.now += 0.01
        for end in (self.client, self.server):
            end.establish(self.now)
        self.exchange()
        # Slow start would leave data unsent at first: from here on each burst leaves whole.
        for _ in range(50):
            self.write(20_000)
            for _ in range(4):
                self.exchange()
        self.now += 1.0
        self.exchange()

    def exchange(self) -> None:
        """With delayed acknowledgements."""
        self.now += 0.01
        self.take(self.client, self.packets(self.server))
        self.answer()

    def answer(self) -> None:
        self.take(self.server, self.acknowledgements())

    def write(self, size: int) -> None:
        """Let the server write a group of one frame to a new stream."""
        self.server.quic.open_stream(1, unidirectional=True).write([bytes(size)], fin=True)

    def packets(self, end: End) -> list[bytes]:
        """Packets of one end."""
        return [
            buffer[at : at + size]
            for buffers, size, _ in end.quic.flush(self.now)
            for buffer in buffers
            for at in range(0, len(buffer), size)
        ]

    def burst(self, size: int) -> list[bytes]:
        """The packets of one burst of `size` bytes."""
        found = self.packets(self.server)
        assert sum(map(len, found)) >= size
        return found

    def acknowledgements(self) -> list[bytes]:
        """The client's acknowledgements, once due."""
        quic = self.client.quic
        found = self.packets(self.client)
        if 0 <= quic.received.ack_at < self.now + 0.05:
            self.now = max(self.now, quic.received.ack_at)
            quic.on_timer(self.now)
            found += self.packets(self.client)
        return found

    def take(self, end: End, packets: Sequence[bytes]) -> int:
        """Let one end receive packets as in one drain of a socket; return their stream bytes."""
        source = CLIENT if end is self.server else SERVER
        before = end.session.received
        quic, now = end.quic, self.now
        for packet in packets:
            quic.receive(packet, source, now)
        quic.end_of_drain(now)
        return end.session.received - before
