"""The compiled kernel builds the same packets as the Python code and reads the same from them, valid or not."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import Any

import pytest
from aioquic.quic.crypto import CryptoContext
from aioquic.tls import CipherSuite
from relay.quic.fast import keys
from relay.quic.fast.keys import FastPair, PureKeys, pure_read_ack

from relay.wire.varint import encode_varint

kernel: Any = vars(keys)["_kernel"]

needs_kernel = pytest.mark.skipif(not keys.NATIVE, reason="the kernel is not built")

SUITES = [CipherSuite.AES_128_GCM_SHA256, CipherSuite.AES_256_GCM_SHA384]


def make_context(suite: CipherSuite, seed: int = 1) -> CryptoContext:
    context = CryptoContext()
    secret = random.Random(seed).randbytes(48 if suite is CipherSuite.AES_256_GCM_SHA384 else 32)
    context.setup(cipher_suite=suite, secret=secret, version=1)
    return context


def make(suite: CipherSuite) -> tuple[PureKeys, Any, Any]:
    context = make_context(suite)
    material = keys.material(context)
    return PureKeys(context), kernel.Keys(*material, True), kernel.Keys(*material, False)


def test_it_is_built_where_the_tests_run_for_good() -> None:
    """With MOQ_EXPECT_KERNEL=1 a missing kernel is a failure."""
    assert keys.NATIVE or os.environ.get("MOQ_EXPECT_KERNEL") != "1"


@needs_kernel
@pytest.mark.parametrize("suite", SUITES)
def test_single_packets(suite: CipherSuite) -> None:
    pure, sealing, opening = make(suite)
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
    kind, head = 0x08 | fin, encode_varint(stream_id)
    if offset or dice.random() < 0.5:
        kind, head = kind | 4, head + encode_varint(offset)
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


def test_unusual_packets_begin_no_train() -> None:
    """Each begins a train of its own, or none."""
    for name, payload in ODD.items():
        found = keys._read_only_stream(payload.ljust(ROOM, b"\0"))
        assert (found is not None) == (name in {"another stream", "a gap in the data"}), name


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_kernel), False])
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("odd", [*ODD, "a number left out", "other keys", "another phase", "reserved bits",
                                 "another connection", "a long header", "the end"])  # fmt: skip
def test_taking_what_goes_together(suite: CipherSuite, odd: str, native: bool) -> None:
    pure, opening = PureKeys(context := make_context(suite)), PureKeys(context)
    if native:
        opening = kernel.Keys(*keys.material(context), False)
    foreign = PureKeys(make_context(suite, 2))
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
def test_what_it_refuses() -> None:
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


@needs_kernel
def test_ack_frames() -> None:
    dice = random.Random(4)
    for _ in range(5000):
        payload = bytes(
            dice.choice([0, 1, 2, 3, 0x3F, 0x40, 0x80, 0xC0, dice.randrange(256)])
            for _ in range(dice.randint(0, 40))
        )
        at = dice.randint(0, 3)
        outcomes = []
        for read in (pure_read_ack, kernel.read_ack):
            try:
                outcomes.append(read(payload, at))
            except (IndexError, ValueError) as error:
                outcomes.append(type(error))
        assert outcomes[0] == outcomes[1], (payload, at)


def test_other_ciphers_take_the_python_code() -> None:
    context = CryptoContext()
    context.setup(cipher_suite=CipherSuite.CHACHA20_POLY1305_SHA256, secret=bytes(32), version=1)
    pair = FastPair()
    pair.send = pair.recv = context
    assert pair.begin()
    assert pair.writing is not None
    packet = pair.writing.one(7, 2, 0x41, bytes(8), b"payload")
    assert PureKeys(context).open(packet, 8, 7, 0) == (7, 0x41, b"payload")


def test_without_libcrypto_or_compiler() -> None:
    """Everything works without the module."""
    code = (
        "import sys; sys.modules['relay.quic.fast._kernel'] = None\n"
        "from relay.quic.fast import keys\n"
        "assert not keys.NATIVE and keys.read_ack is keys.pure_read_ack\n"
        "import relay.app"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
