"""The two parameter encodings of the 0x20 opening."""

from __future__ import annotations

import itertools

from relay.wire.decoder import SetupDecoder
from relay.wire.setup import ClientSetup, SetupForm
from relay.wire.varint import encode_varint

CAPTURED = bytes.fromhex("20002202c0000000ff0dad01c0000000ff00000e02050b6d6f712d6c6974652d727302013f")
"""Sent by the Rust moq-clock 0.9.5 (moq-lite 0.9.5): every parameter is length-prefixed, 0x2 too."""


def test_setup_with_length_prefixed_parameters() -> None:
    (setup,) = SetupDecoder().feed(CAPTURED)
    assert isinstance(setup, ClientSetup)
    assert setup.form is SetupForm.DRAFT14
    assert setup.versions == (0xFF0DAD01, 0xFF00000E)
    assert setup.params == {5: b"moq-lite-rs", 2: b"\x3f"}


def test_length_prefixed_parameters_in_any_order() -> None:
    """That client keeps its parameters in a hash map."""
    head, parameters = CAPTURED[:21], (CAPTURED[21:34], CAPTURED[34:])
    assert head + b"".join(parameters) == CAPTURED
    for order in itertools.permutations(parameters):
        (setup,) = SetupDecoder().feed(head + b"".join(order))
        assert isinstance(setup, ClientSetup)
        assert setup.params == {5: b"moq-lite-rs", 2: b"\x3f"}


def test_draft_14_parameters_come_first() -> None:
    """The published form wins if both are possible."""
    body = encode_varint(1) + encode_varint(0xFF0DAD02) + bytes([1, 2, 0])
    (setup,) = SetupDecoder().feed(b"\x20" + len(body).to_bytes(2) + body)
    assert isinstance(setup, ClientSetup)
    assert setup.params == {2: 0}
