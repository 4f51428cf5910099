"""A relay's QUIC connection and a peer controlled by the input.

Owns the handshake, the clock and the check that nothing is left. The defender is the real code, from
driver to session; the attacker is aioquic, whose application is the fuzzer, which may use its keys for packets
of its own.
"""

from __future__ import annotations

import copy
import logging
from typing import Any, Self

from aioquic.tls import Epoch

from fuzz.owner import STREAMS_KEPT, Owner
from fuzz.source import Source
from relay.quic.acks import MOST_RANGES
from relay.quic.paths import MOST_PATHS
from relay.quic.settings import QuicSettings
from tests.transport.virtual import CLIENT, SERVER, PlainEnd, Wire

WAYS = ("native", "pure")
"""How the defender makes packets."""

WINDOW = 1 << 16
STREAMS = 16
MOST_FRAMES = 200  # control frames to be sent


class Faults(logging.Handler):
    """Collects errors that the relay logs: sessions catch their exceptions."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []
        self._ours, self._theirs = logging.getLogger("relay"), logging.getLogger("quic")
        self._before = self._ours.propagate, self._theirs.disabled

    def __enter__(self) -> Self:
        self._ours.addHandler(self)
        self._ours.propagate = False
        self._theirs.disabled = True  # aioquic logs every fault of a peer
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.removeHandler(self)
        self._ours.propagate, self._theirs.disabled = self._before

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def check(self) -> None:
        """Raise the first one."""
        if self.records:
            first = self.records[0]
            error = first.exc_info[1] if first.exc_info else None
            raise AssertionError(first.getMessage()) from error


class _Wire(Wire):
    """With its own pairing, independent of tests in the same process."""


class Pair:
    """Both ends after the handshake. A context that watches the logs."""

    def __init__(self, alpn: str, *, way: int = 0, hostile_server: bool = False) -> None:
        self.faults = Faults()
        self.owner = Owner()
        self.hostile_server = hostile_server
        _Wire.pairing = (WAYS[way % len(WAYS)],) * 2
        settings = QuicSettings(
            connection_window=WINDOW,
            stream_window=WINDOW // 2,
            max_streams_bidi=STREAMS,
            max_streams_uni=STREAMS,
            mtu_discovery=False,
        )

        def client(wire: Wire) -> tuple[PlainEnd, bytes]:
            end = self._other = PlainEnd(wire, alpn)
            return end, end.quic.original_destination_connection_id

        def server(wire: Wire, original: bytes) -> PlainEnd:
            self._other = PlainEnd(wire, alpn, original)
            return self._other

        wire = self.wire = _Wire(
            "quic" if alpn != "h3" else "webtransport",
            alpns=[alpn],
            answer=lambda request: self.owner.begin(request.accept()),
            client_settings=settings,
            server_settings=settings,
            client_end=None if hostile_server else client,
            server_end=server if hostile_server else None,
        )
        wire.run()
        if hostile_server:
            self._from, self._driver = SERVER, wire.client_driver
            self.owner.begin(wire.client)
            wire.run()
        else:
            self._from, self._driver = CLIENT, wire.server_driver
        self.attacker = self._other.quic
        self.defender = self._driver.quic
        assert self.defender.confirmed

    def __enter__(self) -> Self:
        self.faults.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.faults.__exit__()

    @property
    def over(self) -> bool:
        """The defender is closing or closed."""
        return self._driver.over

    @property
    def sent(self) -> int:
        """Packets sent by the defender."""
        return self.defender._number

    def exchange(self) -> None:
        """Exchange packets until both are idle."""
        self._other.touch()
        self.wire.run()
        self.check()

    def act(self, source: Source) -> None:
        """The defender's owner acts, or time passes."""
        if source.byte() % 8 == 0:
            self.wire.advance(source.byte() / 32)
        else:
            self.owner.act(source)

    # -- packets built by the attacker

    def mute(self) -> None:
        """Silence the attacker's own connection: the fuzzer speaks in its place."""
        target = "server" if self.hostile_server else "client"
        self.wire.lose = lambda to, data: to == target  # noqa: ARG005
        keys: Any = self.attacker
        # Copied, to survive the idle time-out of the attacker's own connection.
        self._pair = copy.copy(keys._cryptos[Epoch.ONE_RTT])
        self._pair.send = copy.copy(self._pair.send)
        self._number = keys._packet_number
        self._cid = keys._peer_cid.cid

    def packet(self, payload: bytes, *, skip: int = 0) -> bytes:
        """The next packet, after `skip` unused numbers."""
        self._number += 1 + skip
        number = self._number
        header = bytes((0x41 | self._pair.key_phase << 2,)) + self._cid + (number & 0xFFFF).to_bytes(2, "big")
        return bytes(self._pair.encrypt_packet(header, payload, number))

    def deliver(self, datagrams: list[bytes], *, merged: bool) -> None:
        """Hand datagrams to the defender as its endpoint does."""
        driver, now = self._driver, self.wire.now
        if driver.gone:
            return
        at = 0
        while at < len(datagrams):
            taken = 0
            if merged:
                each = len(datagrams[at])
                same = [data for data in datagrams[at:] if len(data) == each]
                run = datagrams[at : at + len(same)]
                if run == same:
                    taken = driver.receive_train(memoryview(b"".join(run)), each, self._from, now)
            if not taken:
                driver.receive(datagrams[at], self._from, now)
                taken = 1
            at += taken
            if driver.gone:
                return
        driver.drained(now)
        self.wire.run()
        self.check()

    # -- invariants

    def check(self) -> None:
        """Nothing has failed, and the defender's memory is bounded."""
        self.faults.check()
        quic = self.defender
        if self._driver.gone:
            return
        streams = quic.streams._by_id.values()
        assert len(streams) <= 4 * STREAMS + STREAMS_KEPT, len(streams)
        kept = sum(stream.into.buffered for stream in streams)
        assert kept <= WINDOW, kept
        assert len(quic.received.older) <= MOST_RANGES
        assert len(quic._frames) <= MOST_FRAMES, len(quic._frames)
        assert len(quic._other_paths) <= MOST_PATHS

    def finish(self) -> None:
        """The attacker falls silent: in the end nothing is left of the defender."""
        self.wire.lose = lambda to, data: True  # noqa: ARG005
        for _ in range(8):
            if self._driver.gone:
                break
            self.wire.advance(30.0)
        self.faults.check()
        assert self._driver.gone, "the connection does not end"
        assert not self.owner.streams or self.owner.ended, "the session has not heard of its end"
        if self.owner.session is not None:
            assert self.owner.ended
            assert not self.defender.streams
