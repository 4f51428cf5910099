"""Packet protection: pure and compiled keys agree; key updates survive reordering, loss and forgery."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import Any

import pytest
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicProtocolVersion, decode_packet_number
from aioquic.tls import CipherSuite

from relay.quic import packet_keys
from relay.quic.errors import AEAD_LIMIT_REACHED, QuicError
from relay.quic.packet_keys import (
    CHACHA20,
    FAILURES,
    NATIVE,
    PACKETS_PER_KEY,
    Keys,
    PacketProtection,
    PureKeys,
    full_number,
)
from relay.quic.varint import varint

kernel: Any = vars(packet_keys)["_kernel"]

needs_kernel = pytest.mark.skipif(not NATIVE, reason="the kernel is not built")

SUITES = [CipherSuite.AES_128_GCM_SHA256, CipherSuite.AES_256_GCM_SHA384]
EVERY_SUITE = [*SUITES, CipherSuite.CHACHA20_POLY1305_SHA256]
ONE, TWO = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2


def secret_of(suite: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(48 if suite == CipherSuite.AES_256_GCM_SHA384 else 32)


def protection(suite: int, send: int = 1, receive: int = 2, **options: Any) -> PacketProtection:
    return PacketProtection(suite, options.pop("version", ONE), secret_of(suite, send),
                            secret_of(suite, receive), **options)  # fmt: skip


def make(suite: int, seed: int = 1) -> tuple[Keys, Any, Any]:
    """The same keys: in Python, for sealing by the kernel, for opening by the kernel."""
    pure = protection(suite, seed, seed, native=False)
    native = protection(suite, seed, seed)
    return pure.sending, native.sending, native.receiving


def test_it_is_built_where_the_tests_run_for_good() -> None:
    """With MOQ_EXPECT_KERNEL=1 a missing kernel is a failure."""
    assert NATIVE or os.environ.get("MOQ_EXPECT_KERNEL") != "1"


@needs_kernel
@pytest.mark.parametrize("suite", SUITES)
def test_single_packets(suite: CipherSuite) -> None:
    pure, sealing, opening = make(suite)
    assert type(pure) is PureKeys
    assert type(sealing) is type(opening) is kernel.Keys
    dice = random.Random(2)
    for _ in range(500):
        number = dice.choice([0, 1, 5, 0xFFFF, 0x10000, 1 << 20, 1 << 31, (1 << 62) - 200]) + dice.randrange(
            100
        )
        size = dice.choice([1, 2, 3, 4])
        cid = dice.randbytes(dice.choice([0, 8, 20]))
        flags = 0x40 | dice.choice([0, 4, 0x18]) | size - 1
        payload = dice.randbytes(dice.choice([4, 5, 60, 1400]))
        packet = pure.one(number, size, flags, cid, payload)
        assert packet == sealing.one(number, size, flags, cid, payload)
        phase = flags >> 2 & 1
        for expected in (number, number + 1, max(0, number - 5)):
            opened = (number, flags, payload)
            assert pure.open(packet, len(cid), expected, phase) == opened
            assert opening.open(packet, len(cid), expected, phase) == opened
        assert pure.open(packet, len(cid), number, 1 - phase) == opening.open(
            packet, len(cid), number, 1 - phase
        )
        damaged = bytearray(packet)
        damaged[dice.randrange(1, len(packet))] ^= 1 << dice.randrange(8)
        for wrong in (bytes(damaged), packet[: dice.randrange(1, len(packet))], packet + b"x"):
            found = opening.open(wrong, len(cid), number, phase)
            assert found == pure.open(wrong, len(cid), number, phase)
            assert found is None or found[2] is None


@needs_kernel
@pytest.mark.parametrize("suite", SUITES)
def test_trains(suite: CipherSuite) -> None:
    pure, sealing, opening = make(suite)
    dice = random.Random(3)
    for _ in range(500):
        chunks = [dice.randbytes(dice.randint(1, 3000)) for _ in range(dice.randint(1, 5))]
        base = at = dice.choice([0, 0, 100, 1 << 14, (1 << 30) - 20_000])
        ends = [at := at + len(chunk) for chunk in chunks]
        start = dice.randint(base, ends[-1])
        stop = dice.randint(start, ends[-1])
        cursor = next((index for index, end in enumerate(ends) if end > start), len(ends))
        cid, prefix, fin = dice.randbytes(8), dice.randbytes(dice.choice([1, 2, 4])), dice.random() < 0.5
        step, number = dice.randint(400, 1400), dice.randrange(1 << 20)
        arguments = number, 2, 0x41, cid, prefix, chunks, ends, cursor, start, stop, step, fin
        packets, after = pure.run(*arguments)
        assert sealing.run(*arguments) == (packets, after)
        data = b""
        size = 1 + 8 + 2 + 1 + len(prefix) + 4 + step + 16
        for count, begin in enumerate(range(0, len(packets), size)):
            opened = opening.open(packets[begin : begin + size], 8, number + count, 0)
            assert opened is not None
            payload = opened[2]
            assert payload is not None
            offset = start + count * step
            last = begin + size >= len(packets)
            head = bytes((0x0C | (last and fin),)) + prefix + (0x80000000 | offset).to_bytes(4, "big")
            assert payload.startswith(head)
            data += payload[len(head) :]
        assert data == b"".join(chunks)[start - base : stop - base]


ROOM = 200
"""Payload bytes of each packet merged by a kernel."""


def stream_payload(
    dice: random.Random, stream_id: int, offset: int, *, fin: bool = False
) -> tuple[bytes, bytes]:
    """A payload of one STREAM frame in one of its encodings, and its data."""
    kind, head = 0x08 | fin, varint(stream_id)
    if offset or dice.random() < 0.5:
        kind, head = kind | 4, head + varint(offset)
    padding = dice.choice([None, 0, 1, 30])
    if padding is None:
        data = dice.randbytes(ROOM - 1 - len(head))
        return bytes((kind,)) + head + data, data
    data = dice.randbytes(ROOM - 1 - len(head) - 2 - padding)
    return b"".join(
        (bytes((kind | 2,)), head, (0x4000 | len(data)).to_bytes(2, "big"), data, bytes(padding))
    ), data


ODD: dict[str, bytes] = {
    "another stream": b"\x0e\x07\x00\x02ab",
    "a gap in the data": b"\x0e\x03\xbf\xff\xff\xff\x02ab",
    "an acknowledgement before it": b"\x02\x05\x00\x00\x00\x0a\x03\x02ab",
    "a ping after it": b"\x0a\x03\x02ab\x00\x01",
    "a length beyond the end": b"\x0a\x03\x44\xffab",
    "no STREAM frame": b"\x01",
}


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_kernel), False])
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("odd", [*ODD, "a number left out", "other keys", "another phase", "reserved bits",
                                 "another connection", "a long header", "the end"])  # fmt: skip
def test_taking_what_goes_together(suite: CipherSuite, odd: str, native: bool) -> None:
    pure = protection(suite, 1, 1, native=False).sending
    opening = protection(suite, 1, 1, native=native).receiving
    foreign = protection(suite, 2, 2, native=False).sending
    dice = random.Random(odd)
    for _ in range(100):
        cid, flags = dice.randbytes(8), 0x41
        first = dice.choice([0, 1, 0xFFFE, 1 << 20])
        begin = offset = dice.choice([0, 10, 1 << 14, 1 << 33])
        count = dice.randint(0, 6)
        buffer, whole = b"", b""
        for number in range(first, first + count):
            fin = odd == "the end" and number == first + count - 1
            payload, data = stream_payload(dice, 3, offset, fin=fin)
            buffer += pure.one(number, 2, flags, cid, payload)
            whole += data
            offset += len(data)
        number = first + count + (odd == "a number left out")
        payload = ODD[odd].ljust(ROOM, b"\0") if odd in ODD else stream_payload(dice, 3, offset)[0]
        sealing = foreign if odd == "other keys" else pure
        odd_flags = flags | {"another phase": 4, "reserved bits": 8, "a long header": 0x80}.get(odd, 0)
        odd_cid = bytes(8) if odd == "another connection" else cid
        starts = count == 0 and odd in {"another stream", "a gap in the data", "the end"}
        buffer += sealing.one(number, 2, odd_flags, odd_cid, payload)
        each = len(buffer) // (count + 1)
        taken = None
        for form in (buffer, memoryview(buffer)):
            taken = opening.take(form, each, cid, first, 0)
            if starts:
                assert taken is not None
                assert taken[0] == 1
            elif not count:
                assert taken is None
            else:
                assert taken is not None
                assert (taken[0], *taken[2:]) == (count, 3, begin, whole, odd == "the end")
                assert taken[1] == 0x08 | taken[1] & 7
        # a truncated last packet is none; foreign bytes are none
        assert opening.take(buffer[:-1], each, cid, first, 0) == (None if not count else taken)
        assert opening.take(dice.randbytes(each * 2), each, cid, first, 0) is None


@needs_kernel
def test_taking_agrees_whatever_arrives() -> None:
    """Payloads of all kinds, some damaged."""
    pure, sealing, opening = make(SUITES[0])
    dice = random.Random(5)
    for _ in range(5_000):
        cid, first = bytes(8), dice.randrange(1 << 16)
        offset, buffer = 0, b""
        for number in range(first, first + 3):
            payload, data = stream_payload(
                dice, dice.choice([3, 3, 3, 1 << 14]), offset, fin=dice.random() < 0.1
            )
            damaged = bytearray(payload)
            for _ in range(dice.choice([0, 0, 1, 2])):
                damaged[dice.choice([0, 0, 1, 2, 3, 4, -1])] = dice.choice(
                    [0, 1, 0x3F, 0x40, 0xFF, dice.randrange(256)]
                )
            buffer += sealing.one(number, 2, 0x41, cid, bytes(damaged[: dice.choice([ROOM, ROOM, ROOM, 4])]))
            offset += len(data)
        each = 1 + 8 + 2 + ROOM + 16
        assert pure.take(buffer, each, cid, first, 0) == opening.take(buffer, each, cid, first, 0)


@needs_kernel
def test_what_the_kernel_refuses() -> None:
    _, sealing, opening = make(SUITES[0])
    good: list[Any] = [1, 2, 0x41, bytes(8), b"\x03", [bytes(100)], [100], 0, 0, 100, 50, False]
    assert sealing.run(*good)
    for index, wrong in [
        (0, -1), (0, 1 << 62), (0, "1"), (1, 0), (1, 5), (2, 256), (3, bytes(21)), (3, bytearray(8)), (4, bytes(9)),
        (5, [bytes(99)]), (5, ["text"]), (5, []), (6, []), (6, [99]), (6, [-1]), (6, ["x"]), (7, 1), (7, -1), (8, 101),
        (9, 101), (9, 1 << 30), (10, 0), (10, 1), (10, 1 << 16),
    ]:  # fmt: skip
        arguments = list(good)
        arguments[index] = wrong
        with pytest.raises((ValueError, TypeError, OverflowError)):
            sealing.run(*arguments)
    for arguments in ([], good[:5], [*good, 1]):
        with pytest.raises((ValueError, TypeError)):
            sealing.run(*arguments)
    for payload in (b"", b"\x01", "text", bytes(70_000)):
        with pytest.raises((ValueError, TypeError)):
            sealing.one(1, 1, 0x40, bytes(8), payload)
    for call, arguments in (
        (opening.one, [1, 2, 0x41, bytes(8), bytes(9)]),
        (opening.run, good),
        (sealing.open, [bytes(50), 8, 1, 0]),
        (opening.open, [bytearray(50), 8, 1, 0]),
        (opening.open, [bytes(50), 21, 1, 0]),
        (opening.open, [bytes(50), -1, 1, 0]),
        (opening.open, [bytes(50), 8, -1, 0]),
        (sealing.take, [bytes(50), 50, bytes(8), 1, 0]),
        (opening.take, [bytes(50), 0, bytes(8), 1, 0]),
        (opening.take, [bytes(50), -1, bytes(8), 1, 0]),
        (opening.take, [bytes(50), 50, bytes(21), 1, 0]),
        (opening.take, [bytes(50), 50, "text", 1, 0]),
        (opening.take, ["text", 50, bytes(8), 1, 0]),
        (opening.take, [bytes(50), 50, bytes(8), -1, 0]),
        (opening.take, [bytes(50), 50]),
    ):
        with pytest.raises((ValueError, TypeError, OverflowError)):
            call(*arguments)
    assert opening.open(b"", 8, 1, 0) is None
    assert opening.take(b"", 50, bytes(8), 1, 0) is None
    for material in (
        (bytes(15), bytes(12), bytes(16)),
        (bytes(16), bytes(11), bytes(16)),
        (bytes(16), bytes(12), b""),
    ):
        with pytest.raises(ValueError):
            kernel.Keys(*material, True)


def test_without_libcrypto_or_compiler() -> None:
    """Everything works without the module."""
    code = (
        "import sys; sys.modules['relay.quic._kernel'] = None\n"
        "from relay.quic import packet_keys as p\n"
        "keys = p.PacketProtection(0x1301, 1, bytes(32), bytes(32), native=True)\n"
        "assert not p.NATIVE and type(keys.sending) is p.PureKeys"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_packet_numbers_as_aioquic_reads_them() -> None:
    dice = random.Random(6)
    for _ in range(5_000):
        size = dice.randint(1, 4)
        expected = dice.choice([0, 1, 127, 1 << 16, 1 << 31, (1 << 62) - 1]) + dice.randrange(300)
        truncated = dice.randrange(1 << 8 * size)
        assert full_number(truncated, size, expected) == decode_packet_number(truncated, 8 * size, expected)


# -- vectors of RFC 9001


def test_keys_of_aes() -> None:
    """A.1: key, IV and header protection key of a client's Initial secret."""
    secret = bytes.fromhex("c00cf151ca5be075ed0ebfb5c80323c42d6b7db67881289af4008f1f6c357aea")
    keys = PacketProtection(CipherSuite.AES_128_GCM_SHA256, ONE, secret, secret)
    assert [each.hex() for each in keys._derive(secret)] == [
        "1f369613dd76d5467730efcbe3b1a22d",
        "fa044b2f42a3fd3b46fb255c",
        "9f50449e04a0e810283a1e9933adedd2",
    ]


def test_a_short_packet_of_chacha20() -> None:
    """A.5, and the secret of the next key phase."""
    secret = bytes.fromhex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b")
    keys = PacketProtection(CHACHA20, ONE, secret, secret)
    assert type(keys.sending) is PureKeys
    packet = keys.sending.one(654_360_564, 3, 0x42, b"", b"\x01")
    assert packet.hex() == "4cfe4189655e5cd55c41f69080575d7999c25a5bfb"
    assert keys.receiving.open(packet, 0, 654_360_564, 0) == (654_360_564, 0x42, b"\x01")
    following = keys._following(secret).hex()
    assert following == "1223504755036d556342ee9361d253421a826c9ecdf3c7148684b36b714881f9"


# -- against aioquic


class Aioquic:
    """The other end: aioquic's keys, in the same phases."""

    def __init__(self, suite: CipherSuite, version: int) -> None:
        self.pair = CryptoPair()
        for context, seed in ((self.pair.recv, 1), (self.pair.send, 2)):
            context.setup(cipher_suite=suite, secret=secret_of(suite, seed), version=version)

    def seal(self, number: int, payload: bytes) -> bytes:
        first = 0x41 | self.pair.key_phase << 2
        header = bytes((first,)) + bytes(8) + (number & 0xFFFF).to_bytes(2, "big")
        return self.pair.encrypt_packet(header, payload, number)

    def open(self, packet: bytes, expected: int) -> tuple[int, bytes]:
        _, payload, number = self.pair.decrypt_packet(packet, 9, expected)
        return number, payload


def seal(keys: PacketProtection, number: int, payload: bytes = b"\x01padded") -> bytes:
    return keys.sending.one(number, 2, 0x41 | keys.sending_phase << 2, bytes(8), payload)


def open_(keys: PacketProtection, packet: bytes, expected: int) -> tuple[int, bytes] | None:
    """As a connection does it."""
    opened = keys.receiving.open(packet, 8, expected, keys.receiving_phase)
    if opened is not None and opened[2] is None:
        opened = keys.open_other_phase(packet, 8, expected)
    if opened is None:
        return None
    number, first, payload = opened
    assert payload is not None
    assert first & 0xC0 == 0x40
    return number, payload


@pytest.mark.parametrize("version", [ONE, TWO])
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("suite", EVERY_SUITE)
def test_with_aioquic_at_the_other_end(suite: CipherSuite, native: bool, version: int) -> None:
    """Updates begun by each side in turn."""
    keys, other = protection(suite, version=version, native=native), Aioquic(suite, version)
    number = 0
    for turn in range(6):
        for _ in range(3):
            keys.before_sending(number, number - 1)
            assert other.open(seal(keys, number, b"\x01to the other end"), number) == (
                number,
                b"\x01to the other end",
            )
            packet = other.seal(number, b"\x01to this end")
            assert open_(keys, packet, number) == (number, b"\x01to this end")
            number += 1
        assert keys.sending_phase == keys.receiving_phase == other.pair.key_phase == turn & 1
        if turn % 2:
            keys.update()
        else:
            other.pair.update_key()


# -- key updates, between two ends of ours


class Ends:
    """Two ends with the same secrets, and their packet numbers."""

    def __init__(self) -> None:
        suite = SUITES[0]
        self.client, self.server = protection(suite, 1, 2), protection(suite, 2, 1)
        self.numbers = {self.client: 0, self.server: 0}
        self.acked = {self.client: -1, self.server: -1}

    def send(self, keys: PacketProtection) -> bytes:
        number = self.numbers[keys]
        self.numbers[keys] += 1
        keys.before_sending(number, self.acked[keys])
        return seal(keys, number)

    def receive(self, keys: PacketProtection, packet: bytes, *, acked: bool = True) -> int | None:
        """The packet's number. An acknowledgement reaches the sender at once."""
        other = self.server if keys is self.client else self.client
        opened = open_(keys, packet, self.acked[other] + 1)
        if opened is None:
            return None
        assert opened[1] == b"\x01padded"
        if acked:
            self.acked[other] = max(self.acked[other], opened[0])
        return opened[0]

    def talk(self) -> None:
        for sender, receiver in ((self.client, self.server), (self.server, self.client)):
            assert self.receive(receiver, self.send(sender)) == self.numbers[sender] - 1

    @property
    def phases(self) -> tuple[int, int, int, int]:
        client, server = self.client, self.server
        return client.sending_phase, client.receiving_phase, server.sending_phase, server.receiving_phase


def test_an_update_waits_for_an_acknowledgement() -> None:
    """So none begins before the handshake is confirmed, nor a second one before the first has arrived."""
    ends = Ends()
    ends.client.update()
    first = ends.send(ends.client)
    assert ends.phases == (0, 0, 0, 0)
    ends.receive(ends.server, first)
    announcing = ends.send(ends.client)
    assert ends.phases == (1, 0, 0, 0)
    ends.client.update()
    ends.send(ends.client)
    assert ends.phases == (1, 0, 0, 0)
    assert ends.receive(ends.server, announcing) == 1
    assert ends.phases == (1, 0, 1, 1)
    ends.send(ends.client)
    assert ends.phases == (1, 0, 1, 1)  # the acknowledgement itself has not come in the new phase
    assert ends.receive(ends.client, ends.send(ends.server)) == 0
    ends.send(ends.client)
    assert ends.phases == (0, 1, 1, 1)


def test_late_packets_of_the_old_phase_are_read() -> None:
    ends = Ends()
    ends.talk()
    late = [ends.send(ends.client) for _ in range(3)]
    ends.client.update()
    ends.acked[ends.client] = ends.numbers[ends.client] - 1
    after = [ends.send(ends.client) for _ in range(3)]
    assert ends.receive(ends.server, after[1]) == 5
    assert ends.phases == (1, 0, 1, 1)
    for packet, number in ((late[2], 3), (after[0], 4), (late[0], 1), (after[2], 6), (late[1], 2)):
        assert ends.receive(ends.server, packet) == number
    # the side that has begun still reads the old phase as well
    assert ends.phases == (1, 0, 1, 1)
    ends.talk()
    assert ends.phases == (1, 1, 1, 1)


def test_a_lost_announcement_is_no_deadlock() -> None:
    ends = Ends()
    ends.talk()
    ends.client.update()
    ends.send(ends.client)  # lost
    assert ends.phases == (1, 0, 0, 0)
    assert ends.receive(ends.client, ends.send(ends.server)) == 1  # the peer goes on with the old keys
    ends.talk()
    assert ends.phases == (1, 1, 1, 1)


def test_a_lost_answer_is_no_deadlock() -> None:
    """An acknowledgement is never repeated, and may be the only packet of the new phase for long."""
    ends = Ends()
    ends.talk()
    ends.client.update()
    assert ends.receive(ends.server, ends.send(ends.client)) == 1
    ends.send(ends.server)  # lost
    assert ends.phases == (1, 0, 1, 1)
    for _ in range(3):
        assert ends.receive(ends.server, ends.send(ends.client)) is not None
    ends.talk()
    assert ends.phases == (1, 1, 1, 1)


def test_updates_by_both_sides_at_once_are_one() -> None:
    ends = Ends()
    ends.talk()
    ends.client.update()
    ends.server.update()
    one, two = ends.send(ends.client), ends.send(ends.server)
    assert ends.phases == (1, 0, 1, 0)
    assert ends.receive(ends.server, one) == 1
    assert ends.receive(ends.client, two) == 1
    assert ends.phases == (1, 1, 1, 1)
    ends.talk()
    assert ends.phases == (1, 1, 1, 1)


def test_forged_packets_of_another_phase_change_nothing() -> None:
    ends = Ends()
    ends.talk()
    dice = random.Random(7)
    for updated in (False, True):
        if updated:
            ends.client.update()
            ends.talk()
        before = ends.phases
        stranger = protection(SUITES[0], 3, 3)
        stranger.sending_phase = 1 - ends.server.receiving_phase
        for number in range(20):
            assert open_(ends.server, seal(stranger, number), 2) is None
        for size in (0, 1, 20, 28, 29, 100, 1400):
            for _ in range(20):
                assert open_(ends.server, b"\x40" + dice.randbytes(size), 2) is None
        # a genuine one with its phase bit flipped
        packet = bytearray(ends.send(ends.client))
        packet[0] ^= 4
        assert open_(ends.server, bytes(packet), 2) is None
        assert ends.phases == before
        ends.talk()


def test_old_keys_open_no_new_packets() -> None:
    """Whoever seals with old keys after new ones breaks RFC 9001, 6.4."""
    ends = Ends()
    ends.talk()
    old = ends.client.sending
    ends.client.update()
    ends.talk()
    assert ends.phases == (1, 1, 1, 1)
    number = ends.numbers[ends.client]
    assert open_(ends.server, old.one(number, 2, 0x41, bytes(8), b"\x01padded"), number) is None
    assert open_(ends.server, old.one(0, 2, 0x41, bytes(8), b"\x01padded"), number) is not None


def test_next_keys_open_no_old_packets() -> None:
    ends = Ends()
    for _ in range(3):
        ends.talk()
    ends.client.update()
    ends.talk()
    ends.client.update()
    ends.send(ends.client)
    assert ends.phases == (0, 1, 1, 1)
    assert open_(ends.server, seal(ends.client, 1), 4) is None
    assert ends.phases == (0, 1, 1, 1)
    assert open_(ends.server, seal(ends.client, 5), 4) is not None


def test_a_replayed_packet_of_two_phases_ago_begins_no_update() -> None:
    ends = Ends()
    ends.talk()
    first = ends.send(ends.client)
    for _ in range(2):
        ends.client.update()
        ends.talk()
        ends.talk()
    assert ends.phases == (0, 0, 0, 0)
    assert ends.receive(ends.server, first) is None
    assert ends.phases == (0, 0, 0, 0)


def test_the_header_protection_key_stays() -> None:
    ends = Ends()
    ends.talk()
    plain = seal(ends.client, 9)
    ends.client.update()
    ends.talk()
    # The server reads number and phase of a packet of the old phase with the keys of the new one.
    assert ends.server.receiving.open(plain, 8, 9, 1) == (0, 0x41, None)


def test_keys_wear_out() -> None:
    ends = Ends()
    ends.talk()
    ends.client.sent(PACKETS_PER_KEY)
    ends.talk()
    assert ends.phases == (0, 0, 0, 0)
    ends.client.sent(1)
    ends.talk()
    assert ends.phases == (1, 1, 1, 1)
    ends.client.sent(PACKETS_PER_KEY)
    ends.talk()
    assert ends.phases == (1, 1, 1, 1)


def test_too_many_forged_packets_end_the_connection() -> None:
    keys = protection(SUITES[0])
    keys.failures = FAILURES - 2
    keys.failed()
    with pytest.raises(QuicError) as raised:
        keys.failed()
    assert raised.value.code == AEAD_LIMIT_REACHED


@pytest.mark.parametrize("seed", range(20))
def test_any_order_and_loss(seed: int) -> None:
    """Whatever is not lost is read, however late within two updates."""
    dice = random.Random(seed)
    ends = Ends()
    ends.talk()
    flying: dict[PacketProtection, list[tuple[int, bytes]]] = {ends.client: [], ends.server: []}
    phase_of = {ends.client: 0, ends.server: 0}  # counted on
    seen = set()
    late = 0
    for _ in range(2_000):
        sender = dice.choice([ends.client, ends.server])
        receiver = ends.server if sender is ends.client else ends.client
        if dice.random() < 0.05:
            sender.update()
        packet = ends.send(sender)
        phase_of[sender] += phase_of[sender] & 1 != sender.sending_phase
        now = phase_of[sender]
        # Keys are kept for one more phase.
        for keys, packets in flying.items():
            for phase, each in packets:
                if phase < now - 1:
                    assert ends.receive(keys, each) is not None
            packets[:] = [each for each in packets if each[0] >= now - 1]
        seen.add(ends.phases)
        if dice.random() < 0.8:
            flying[receiver].append((now, packet))
        while flying[receiver] and dice.random() < 0.5:
            phase, each = flying[receiver].pop(dice.randrange(len(flying[receiver])))
            assert ends.receive(receiver, each) is not None
            late += phase < now
    assert min(phase_of.values()) > 10
    assert late > 10
    assert {(0, 0, 0, 0), (1, 1, 1, 1)} < seen
