"""Packet protection of 1-RTT packets (RFC 9001, 5) as the packet loops want it.

Owns views of the keys that aioquic holds: the bare ciphers, without a call of Python around each. Must never know a
frame. The connection installs a `FastPair` where aioquic keeps its pair of contexts.
"""

from __future__ import annotations

from collections.abc import Callable

from aioquic.quic.crypto import CryptoContext

from relay.transport.quic.compat import PatientPair

SAMPLE = 16
"""Bytes of ciphertext that a header protection mask is made from, and of the mask."""

PACKETS_PER_KEY = 1 << 22
"""Packets sent before a key update is asked for: half of what AES-GCM allows (RFC 9001, 6.6)."""

Masks = Callable[[bytes], bytes]
"""Samples of any number of packets, joined, to as many masks of 16 bytes, joined (RFC 9001, 5.4)."""


class PacketKeys:
    """One direction: seals or opens packets of one key phase."""

    __slots__ = ("iv", "masks", "opens", "phase", "seals", "used")

    def __init__(self, context: CryptoContext) -> None:
        aead, protection = context.aead, context.hp
        assert aead is not None
        assert protection is not None
        self.seals = aead._aead.encrypt
        """(nonce, payload, header) to ciphertext with tag."""
        self.opens = aead._aead.decrypt
        """The reverse; raises InvalidTag."""
        self.iv = aead._iv
        """The nonce is this, xor the packet number, as 12 bytes."""
        # AES is used without chaining, so one call makes the masks of many packets. The key is that of the first
        # secret and outlives every key update (RFC 9001, 6).
        self.masks: Masks = protection._encryptor.update
        if protection._is_chacha20:
            make = protection._mask
            self.masks = lambda samples: b"".join(
                make(samples[start : start + SAMPLE]).ljust(SAMPLE, b"\0")
                for start in range(0, len(samples), SAMPLE)
            )
        self.phase = context.key_phase
        self.used = 0
        """Packets sealed."""


class FastPair(PatientPair):
    """aioquic's pair of contexts, with keys for the packet loops beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.reading: PacketKeys | None = None
        """`None` until a packet of the present phase has come: aioquic's way copes with every phase."""
        self.writing: PacketKeys | None = None

    def begin(self) -> bool:
        """Make the keys, once both directions have theirs. Returns whether there are any."""
        if self.writing is None:
            if not (self.send.is_valid() and self.recv.is_valid()):
                return False
            self.writing = PacketKeys(self.send)
            self.reading = PacketKeys(self.recv)
        return True

    def sending_keys(self, number: int) -> PacketKeys:
        """What to seal the packets from `number` on with, after a key update if one is asked for."""
        if self._update_wanted:
            self.consider_update()
        if self._update_key_requested:
            self._update_key("local_update")
        keys = self.writing
        assert keys is not None
        if self._first_sent is None:
            self._first_sent = number
        return keys

    def teardown(self) -> None:
        super().teardown()
        self.reading = self.writing = None

    def _update_key(self, trigger: str) -> None:
        super()._update_key(trigger)
        if self.writing is not None:
            self.writing = PacketKeys(self.send)
            self.reading = None

    def _phase_began(self) -> None:
        if self.writing is not None:
            self.reading = PacketKeys(self.recv)
