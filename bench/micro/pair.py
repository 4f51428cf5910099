"""Two QUIC connections joined in memory: no sockets, no sessions, no loss, and a manual clock."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from aioquic.quic.events import StreamDataReceived
from relay.quic.compat import RelayQuicConnection

from relay.quic.certificate_store import generate_certificate
from relay.quic.endpoint import connection_class, quic_configuration
from relay.quic.settings import QuicSettings

CLIENT, SERVER = ("192.0.2.1", 1000), ("192.0.2.2", 443)
STREAMS = 100_000
ORDER = (1, 1)


class Pair:
    def __init__(self, *, fast: bool) -> None:
        self.now = 1000.0
        settings = QuicSettings(fast=fast, idle_timeout=3600.0)
        configuration = quic_configuration(settings, is_client=True, alpns=["bench"])
        configuration.verify_mode = 0
        make = connection_class(settings)
        self.client: RelayQuicConnection = make(
            configuration=configuration, max_streams_bidi=STREAMS, max_streams_uni=STREAMS
        )
        configuration = quic_configuration(settings, is_client=False, alpns=["bench"])
        pair = generate_certificate(["bench.test"], dt.datetime.now(dt.UTC))
        configuration.certificate, configuration.private_key = pair.certificate, pair.key
        self.server: RelayQuicConnection = make(
            configuration=configuration,
            max_streams_bidi=STREAMS,
            max_streams_uni=STREAMS,
            original_destination_connection_id=self.client.original_destination_connection_id,
        )
        self.client.connect(SERVER, self.now)
        self.answer()
        for _ in range(20):
            self.exchange()
        # past slow start each burst leaves whole
        for _ in range(50):
            self.write(20_000)
            for _ in range(4):
                self.exchange()
        self.now += 1.0
        self.exchange()

    def exchange(self) -> None:
        """With delayed acknowledgements."""
        self.now += 0.01
        to_client = self.packets(self.server)
        self.take(self.client, to_client)
        self.answer()

    def answer(self) -> None:
        self.take(self.server, self.acknowledgements())

    def write(self, size: int) -> None:
        """A group of one frame, on a new stream of the server."""
        stream = self.server.get_next_available_stream_id(is_unidirectional=True)
        self.server.write_stream(stream, [bytes(size)], fin=True, order=ORDER)

    def packets(self, end: RelayQuicConnection) -> list[bytes]:
        return [packet for packet, _ in end.datagrams_to_send(self.now)]

    def flight(self, size: int) -> list[bytes]:
        """The packets of one burst of `size` bytes; aioquic's pacer needs several calls."""
        found = self.packets(self.server)
        while sum(map(len, found)) < size:
            due = self.server.get_timer()
            assert due is not None
            assert due < self.now + 0.02
            self.now = max(self.now, due) + 1e-6
            self.server.handle_timer(self.now)
            found += self.packets(self.server)
        return found

    def acknowledgements(self) -> list[bytes]:
        """Of the client, once due."""
        found = self.packets(self.client)
        for _ in range(3):
            due = self.client.get_timer()
            if due is None or due > self.now + 0.05:
                break
            self.now = max(self.now, due) + 1e-6
            self.client.handle_timer(self.now)
            found += self.packets(self.client)
        return found

    def take(self, end: RelayQuicConnection, packets: Sequence[bytes]) -> int:
        """Receive packets as in one drain of a socket; returns their stream bytes."""
        source = CLIENT if end is self.server else SERVER
        now = self.now
        for packet in packets:
            end.receive_datagram(packet, source, now)
        end.finish_receiving(now)
        received = 0
        while (event := end.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                received += len(event.data)
        return received
