"""A relay's QUIC connection and a peer controlled by the input.

Owns the handshake, the clock and the check that nothing is left. The defender is the real code, from
connection to session; the attacker is a connection whose application is the fuzzer, which may use its keys
for packets of its own.
"""

from __future__ import annotations

import copy
import logging
from typing import Any, Self

from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.tls import Epoch

from fuzz.owner import STREAMS_KEPT, Owner
from fuzz.source import Source
from relay.quic.settings import QuicSettings
from tests.transport.virtual import CLIENT, SERVER, Wire

PAIRINGS = (("pure", "fast"), ("pure", "pure"), ("aioquic", "aioquic"), ("pure", "fast"))
"""Packet implementations of client and server."""

WINDOW = 1 << 16
STREAMS = 16


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


class _Mute:
    """Handler of a connection whose application is the fuzzer."""

    gathered = ()

    def established(self) -> None: ...
    def handle(self, event: Any) -> None: ...
    def pump(self) -> None: ...
    def deliver(self) -> None: ...
    def lost(self, event: Any, *, by_peer: bool) -> None: ...
    def close(self, code: int = 0, reason: str = "") -> None: ...


class Pair:
    """Both ends after the handshake. A context that watches the logs."""

    def __init__(self, alpn: str, *, way: int = 0, hostile_server: bool = False) -> None:
        self.faults = Faults()
        self.owner = Owner()
        self.hostile_server = hostile_server
        pairing = PAIRINGS[way % len(PAIRINGS)]
        _Wire.pairing = pairing[::-1] if hostile_server else pairing
        settings = QuicSettings(
            connection_window=WINDOW,
            stream_window=WINDOW // 2,
            max_streams_bidi=STREAMS,
            max_streams_uni=STREAMS,
            mtu_discovery=False,
        )
        mute: Any = lambda connection, alpn: _Mute()  # noqa: ARG005, E731
        options: dict[str, Any] = {} if hostile_server else {"client_handler": mute}
        self.wire = _Wire(
            "quic" if alpn != "h3" else "webtransport",
            alpns=[alpn],
            answer=lambda request: self.owner.begin(request.accept()),
            client_settings=settings,
            server_settings=settings,
            **options,
        )
        if hostile_server:
            self.wire.server_side.factory = mute
        wire = self.wire
        wire.run()
        if hostile_server:
            self.attacker, self.defender = wire.server_quic, wire.client_quic
            self._from, self._connection, self._other = SERVER, wire.client_connection, wire.server_connection
            self.owner.begin(wire.client)
            wire.run()
        else:
            self.attacker, self.defender = wire.client_quic, wire.server_quic
            self._from, self._connection, self._other = CLIENT, wire.server_connection, wire.client_connection
        assert self.defender._handshake_confirmed

    def __enter__(self) -> Self:
        self.faults.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.faults.__exit__()

    @property
    def over(self) -> bool:
        """The defender is closing or closed."""
        return self._connection.over

    @property
    def sent(self) -> int:
        """Packets sent by the defender."""
        quic: Any = self.defender
        return int(quic._packet_number)

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
        connection, now = self._connection, self.wire.now
        if connection.gone:
            return
        at = 0
        while at < len(datagrams):
            taken = 0
            if merged:
                each = len(datagrams[at])
                same = [data for data in datagrams[at:] if len(data) == each]
                run = datagrams[at : at + len(same)]
                if run == same:
                    taken = connection.receive_train(memoryview(b"".join(run)), each, self._from, now)
            if not taken:
                connection.receive(datagrams[at], self._from, now)
                taken = 1
            at += taken
            if connection.gone:
                return
        connection.drained(now)
        self.wire.run()
        self.check()

    # -- invariants

    def check(self) -> None:
        """Nothing has failed, and the defender's memory is bounded."""
        self.faults.check()
        quic: Any = self.defender
        if self._connection.gone:
            return
        assert len(quic._streams) <= 4 * STREAMS + STREAMS_KEPT, len(quic._streams)
        kept = sum(
            len(stream.receiver._buffer)
            for stream in quic._streams.values()
            if hasattr(stream.receiver, "_buffer")
        )
        assert kept <= WINDOW, kept
        space = quic._spaces[Epoch.ONE_RTT]
        assert len(space.ack_queue) <= MAX_ACK_RANGES
        assert len(quic._events) == 0

    def finish(self) -> None:
        """The attacker falls silent: in the end nothing is left of the defender."""
        self.wire.lose = lambda to, data: True  # noqa: ARG005
        for _ in range(8):
            if self._connection.gone:
                break
            self.wire.advance(30.0)
        self.faults.check()
        assert self._connection.gone, "the connection does not end"
        assert not self.owner.streams or self.owner.ended, "the session has not heard of its end"
        if self.owner.session is not None:
            assert self.owner.ended
            assert not self.owner.session._streams
