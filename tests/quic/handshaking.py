"""Handshakes joined without sockets: of ours, and of plain aioquic, on a clock that the test advances."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from relay.quic.certificate_store import CertificatePair, generate_certificate
from relay.quic.handshake import CredentialSelector, Handshake
from relay.quic.packet_keys import PacketProtection
from relay.quic.start import Start

CLIENT = ("192.0.2.1", 1000)
SERVER = ("192.0.2.2", 443)
PAIR: CertificatePair = generate_certificate(["relay.test"], dt.datetime.now(dt.UTC))
DELAY = 0.02  # seconds one way


def token_of(cid: bytes) -> bytes:
    return (b"token of " + cid).ljust(16)[:16]


def configured(*, is_client: bool, alpns: tuple[str, ...] = ("x",), **options: Any) -> QuicConfiguration:
    found = QuicConfiguration(
        is_client=is_client, alpn_protocols=list(alpns), max_datagram_frame_size=1000, **options
    )
    if is_client:
        found.server_name = options.get("server_name", "relay.test")
        found.verify_mode = 0
    else:
        found.certificate, found.private_key = PAIR.certificate, PAIR.key
    return found


def client(configuration: QuicConfiguration | None = None) -> Handshake:
    return Handshake(
        configuration=configuration or configured(is_client=True),
        max_streams_bidi=5,
        max_streams_uni=6,
        token_of=token_of,
    )


def server(
    original: bytes,
    configuration: QuicConfiguration | None = None,
    *,
    retried: bytes | None = None,
    credentials: CredentialSelector | None = None,
) -> Handshake:
    return Handshake(
        configuration=configuration or configured(is_client=False),
        max_streams_bidi=7,
        max_streams_uni=9,
        token_of=token_of,
        original_destination_connection_id=original,
        retry_source_connection_id=retried,
        credentials=credentials,
    )


def plain_client(configuration: QuicConfiguration | None = None) -> QuicConnection:
    return QuicConnection(configuration=configuration or configured(is_client=True))


def plain_server(original: bytes, configuration: QuicConfiguration | None = None) -> QuicConnection:
    return QuicConnection(
        configuration=configuration or configured(is_client=False),
        original_destination_connection_id=original,
    )


class Line:
    """Joins two ends. `lose` says of each datagram whether it is lost."""

    def __init__(self, ends: tuple[Any, Any], lose: Callable[[str, bytes], bool] | None = None) -> None:
        self.client, self.server = ends
        self.lose = lose or (lambda _to, _data: False)
        self.now = 1.0
        self.sent: dict[str, list[bytes]] = {"client": [], "server": []}  # to each end, lost or not
        self.client.connect(SERVER, self.now)

    def turn(self) -> bool:
        """Both send what they have; it arrives after `DELAY`. Returns whether anything was sent."""
        flying = [("server", data) for data, _ in self.client.datagrams_to_send(self.now)]
        if self.server._network_paths:
            flying += [("client", data) for data, _ in self.server.datagrams_to_send(self.now)]
        self.now += DELAY
        for to, data in flying:
            self.sent[to].append(data)
            if not self.lose(to, data):
                self.deliver(to, data)
        return bool(flying)

    def deliver(self, to: str, data: bytes) -> None:
        end, address = (self.client, SERVER) if to == "client" else (self.server, CLIENT)
        receive = end.receive if isinstance(end, Handshake) else end.receive_datagram
        receive(data, address, self.now)

    def run(self) -> None:
        """Until neither has anything to send; timers are not served."""
        for _ in range(20):
            if not self.turn():
                return
        raise AssertionError("the exchange does not end")

    def expire(self, end: Any) -> None:
        """Let time pass until the next timer of `end`."""
        due = end.get_timer()
        assert due is not None
        self.now = max(self.now, due) + 1e-6
        end.handle_timer(self.now)


def protection_of(start: Start) -> PacketProtection:
    return PacketProtection(start.suite, start.version, start.send_secret, start.receive_secret)
