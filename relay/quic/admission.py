"""Limits on new QUIC connections and handshakes, and address validation.

Must never touch a socket or a connection: it decides by a first packet's header. An Initial may come from a
forged address. Unverified addresses share `handshakes_unverified` slots; beyond them a client proves its
address by a Retry token (RFC 9000, 8.1.2), which costs a round trip and none of our memory. Only a verified
address is charged, so no address can use up another's slots.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.retry import QuicRetryTokenHandler

from relay.model.address import address_of
from relay.model.limits import Limits
from relay.quic.driver import Driver
from relay.quic.udp import Address
from relay.transport.slots import Slots

MARK: Final = b"retry:"  # another server's tokens are ignored (RFC 9000, 8.1.3)
RETRY_ID: Final = 8  # bytes of the connection id in a Retry packet


class Admitted(NamedTuple):
    """A connection may begin."""

    remote: str  # the key of its address
    original_cid: bytes  # destination of the client's first packet
    retry_cid: bytes | None  # from our Retry, if the client has answered one


class Admission:
    """The admission of connections to one server."""

    def __init__(
        self, limits: Limits, refused: Counter[str], addresses: Slots, now: Callable[[], float]
    ) -> None:
        """`addresses` are the slots of `sessions_address`, shared with other transports."""
        self._sessions = Slots("sessions", limits.sessions, refused, now)
        self._addresses = addresses
        self._handshakes = Slots("handshakes", limits.handshakes, refused, now)
        self._unverified = Slots("handshakes_unverified", limits.handshakes_unverified, refused, now)
        self._verified = Slots("handshakes_address", limits.handshakes_address, refused, now)
        self._refused = refused
        self._tokens = QuicRetryTokenHandler()
        self._unfinished: dict[Driver, Admitted] = {}
        self._present: dict[Driver, str | None] = {}  # the key of the address if it is charged

    def use(self, limits: Limits) -> None:
        """Connections continue. The owner of `sessions_address` changes that one."""
        self._sessions.limit = limits.sessions
        self._handshakes.limit = limits.handshakes
        self._unverified.limit = limits.handshakes_unverified
        self._verified.limit = limits.handshakes_address

    def check(self, header: QuicHeader, address: Address, now: float) -> Admitted | bytes | None:
        """Decide about the first packet of a connection: admit it, answer it, or drop it."""
        if self._handshakes.full():
            # Under flood, answers cost more than they tell; a client repeats its packet.
            self._handshakes.refuse()
            return None
        remote, original = address_of(str(address[0])), None
        if header.token.startswith(MARK):
            try:
                original = self._tokens.validate_token(
                    address=(address[0], address[1]),
                    destination_cid=header.destination_cid,
                    token=header.token[len(MARK) :],
                    now=now,
                )
            except ValueError:
                self._refused["invalid_token"] += 1  # clients take no second Retry (RFC 9000, 17.2.5.2)
                return refusal(header, QuicErrorCode.INVALID_TOKEN)
        for slots, key in ((self._sessions, ""), (self._addresses, remote)):
            if slots.full(key):
                slots.refuse(key)
                return refusal(header, QuicErrorCode.CONNECTION_REFUSED)
        if original is not None:
            if self._verified.full(remote):
                self._verified.refuse(remote)
                return None
            return Admitted(remote, original, header.destination_cid)
        if self._unverified.full():
            self._unverified.refuse()
            return self._retry(header, address, now)
        return Admitted(remote, header.destination_cid, None)

    def begin(self, connection: Driver, admitted: Admitted) -> None:
        self._sessions.enter()
        self._handshakes.enter()
        self._unfinished[connection] = admitted
        self._present[connection] = None
        if admitted.retry_cid is None:
            self._unverified.enter()
        else:
            self._verified.enter(admitted.remote)
            self._count(connection, admitted.remote)

    def finish(self, connection: Driver) -> bool:
        """The handshake is complete. Returns whether the address may have one more connection."""
        admitted = self._end_handshake(connection)
        if admitted is None or admitted.retry_cid is not None:
            return True
        if self._addresses.full(admitted.remote):
            self._addresses.refuse(admitted.remote)
            return False
        self._count(connection, admitted.remote)
        return True

    def end(self, connection: Driver) -> None:
        """Closed, but it may still repeat its close."""
        # An unverified address keeps its slot until `forget`: invalid first packets cost nearly as much as
        # handshakes, and thousands may come. A full table makes later clients prove their address.
        admitted = self._unfinished.get(connection)
        if admitted is not None and admitted.retry_cid is not None:
            self._end_handshake(connection)

    def forget(self, connection: Driver) -> None:
        self._end_handshake(connection)
        if connection not in self._present:
            return
        remote = self._present.pop(connection)
        self._sessions.leave()
        if remote is not None:
            self._addresses.leave(remote)

    def _count(self, connection: Driver, remote: str) -> None:
        self._present[connection] = remote
        self._addresses.enter(remote)

    def _end_handshake(self, connection: Driver) -> Admitted | None:
        admitted = self._unfinished.pop(connection, None)
        if admitted is not None:
            self._handshakes.leave()
            if admitted.retry_cid is None:
                self._unverified.leave()
            else:
                self._verified.leave(admitted.remote)
        return admitted

    def _retry(self, header: QuicHeader, address: Address, now: float) -> bytes:
        assert header.version is not None
        cid = os.urandom(RETRY_ID)
        token = self._tokens.create_token(
            address=(address[0], address[1]),
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=cid,
            now=now,
        )
        return encode_quic_retry(
            version=header.version,
            source_cid=cid,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=MARK + token,
        )


def parse_first_packet(data: bytes, *, connection_id_length: int) -> QuicHeader | None:
    """`None` for garbage."""
    try:
        return pull_quic_header(Buffer(data=data), host_cid_length=connection_id_length)
    except ValueError:
        return None


def refusal(header: QuicHeader, code: QuicErrorCode) -> bytes:
    """An Initial packet that closes with the transport error `code`, below 64."""
    assert header.version is not None
    crypto = CryptoPair()
    crypto.setup_initial(cid=header.destination_cid, is_client=False, version=header.version)
    builder = QuicPacketBuilder(
        host_cid=header.destination_cid,
        is_client=False,
        max_datagram_size=SMALLEST_MAX_DATAGRAM_SIZE,
        peer_cid=header.source_cid,
        version=header.version,
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    buf = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=4)
    for value in (code, QuicFrameType.PADDING, 0):
        buf.push_uint_var(value)
    datagrams, _ = builder.flush()
    return datagrams[0]
