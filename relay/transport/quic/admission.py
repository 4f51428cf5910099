"""Who may begin a QUIC connection: the limits on connections and handshakes, and the proof that an address is real.

Owns the slots that connections take and the tokens of Retry packets (RFC 9000, 8.1.2). Must never touch a socket or a
connection: it looks at the header of a first packet, and says what to do or what to answer. The server's endpoint asks it.

An Initial may come from a forged address. Such ones can take `handshakes_unverified` slots and no more: beyond it an
address has to be proven by sending back a token, which costs the client a round trip and us no memory. Only what is
proven, by a token or by the end of the handshake, counts for an address, so nobody can use up the slots of another.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from aioquic.quic.packet import QuicErrorCode, QuicHeader, encode_quic_retry
from aioquic.quic.retry import QuicRetryTokenHandler

from relay.model.address import address_of
from relay.model.limits import Limits
from relay.transport.quic import compat
from relay.transport.quic.link import Link
from relay.transport.quic.udp import Address
from relay.transport.slots import Slots

MARK: Final = b"retry:"
"""What our tokens begin with. One without it is of another server, and means nothing (RFC 9000, 8.1.3)."""

RETRY_ID: Final = 8
"""Bytes of the connection id that a Retry packet gives."""


class Welcome(NamedTuple):
    """A connection may begin."""

    remote: str
    """What its address counts as."""

    original_cid: bytes
    """The destination connection id of the client's very first packet."""

    retry_cid: bytes | None
    """The id that our Retry gave, if the address is proven by one."""


class Admission:
    """The slots of one server."""

    def __init__(
        self, limits: Limits, refused: Counter[str], addresses: Slots, now: Callable[[], float]
    ) -> None:
        """`addresses` are the slots of `sessions_address`, which other transports fill as well."""
        self._sessions = Slots("sessions", limits.sessions, refused, now)
        self._addresses = addresses
        self._handshakes = Slots("handshakes", limits.handshakes, refused, now)
        self._unverified = Slots("handshakes_unverified", limits.handshakes_unverified, refused, now)
        self._verified = Slots("handshakes_address", limits.handshakes_address, refused, now)
        self._refused = refused
        self._tokens = QuicRetryTokenHandler()
        self._unfinished: dict[Link, Welcome] = {}
        self._present: dict[Link, str | None] = {}
        """All connections, and what the address of each counts as, once it does."""

    def use(self, limits: Limits) -> None:
        """Other limits hold from now on; nobody has to go. Those per address of sessions are kept by their owner."""
        self._sessions.limit = limits.sessions
        self._handshakes.limit = limits.handshakes
        self._unverified.limit = limits.handshakes_unverified
        self._verified.limit = limits.handshakes_address

    def judge(self, header: QuicHeader, address: Address, now: float) -> Welcome | bytes | None:
        """Look at the first packet of a connection: it may begin, or gets an answer, or none."""
        if self._handshakes.full():
            # A flood: an answer would cost more than it tells, and a client repeats what is not answered.
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
                # The client takes no second Retry, so it would only wait.
                self._refused["invalid_token"] += 1
                return refusal(header, QuicErrorCode.INVALID_TOKEN)
        for slots, key in ((self._sessions, ""), (self._addresses, remote)):
            if slots.full(key):
                slots.refuse(key)
                return refusal(header, QuicErrorCode.CONNECTION_REFUSED)
        if original is not None:
            if self._verified.full(remote):
                self._verified.refuse(remote)
                return None
            return Welcome(remote, original, header.destination_cid)
        if self._unverified.full():
            self._unverified.refuse()
            return self._retry(header, address, now)
        return Welcome(remote, header.destination_cid, None)

    def begin(self, link: Link, welcome: Welcome) -> None:
        """`link` is the connection of `welcome`."""
        self._sessions.enter()
        self._handshakes.enter()
        self._unfinished[link] = welcome
        self._present[link] = None
        if welcome.retry_cid is None:
            self._unverified.enter()
        else:
            self._verified.enter(welcome.remote)
            self._count(link, welcome.remote)

    def finish(self, link: Link) -> bool:
        """The handshake of `link` is complete. Returns whether its address may have one more connection."""
        welcome = self._end_handshake(link)
        if welcome is None or welcome.retry_cid is not None:
            return True
        if self._addresses.full(welcome.remote):
            self._addresses.refuse(welcome.remote)
            return False
        self._count(link, welcome.remote)
        return True

    def end(self, link: Link) -> None:
        """The connection is closed, though it may linger until the peer has heard of it.

        One from an address that nothing proves keeps its place so long: a first packet that is an error costs us nearly
        as much as a handshake, and there may be a thousand a second. The address is proven first then.
        """
        welcome = self._unfinished.get(link)
        if welcome is not None and welcome.retry_cid is not None:
            self._end_handshake(link)

    def forget(self, link: Link) -> None:
        """The connection is gone."""
        self._end_handshake(link)
        if link not in self._present:
            return
        remote = self._present.pop(link)
        self._sessions.leave()
        if remote is not None:
            self._addresses.leave(remote)

    def _count(self, link: Link, remote: str) -> None:
        self._present[link] = remote
        self._addresses.enter(remote)

    def _end_handshake(self, link: Link) -> Welcome | None:
        welcome = self._unfinished.pop(link, None)
        if welcome is not None:
            self._handshakes.leave()
            if welcome.retry_cid is None:
                self._unverified.leave()
            else:
                self._verified.leave(welcome.remote)
        return welcome

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


def refusal(header: QuicHeader, code: QuicErrorCode) -> bytes:
    """The answer to a first packet that no connection will come of."""
    assert header.version is not None
    return compat.encode_refusal(
        code,
        version=header.version,
        source_cid=header.destination_cid,
        destination_cid=header.source_cid,
    )
