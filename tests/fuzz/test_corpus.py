"""Replays inputs that found a defect, or that reach rare code."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fuzz import corpus
from fuzz.mutate import mutated
from fuzz.seeds import seeds
from fuzz.source import Source
from fuzz.targets import TARGETS
from fuzz.targets import quic as quic_targets


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_taken_well(name: str) -> None:
    found, others = corpus.read(name)
    assert found + others, f"no corpus: python -m fuzz {name} --keep"
    for data in found + others:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_the_first_inputs_and_some_noise_are_taken_well(name: str) -> None:
    dice = random.Random(name)
    inputs = seeds(name)
    for _ in range(10):
        TARGETS[name](mutated(dice, inputs))


def test_the_corpus_is_small_and_of_known_targets() -> None:
    files = list(corpus.FOLDER.iterdir())
    assert {file.stem for file in files} == set(TARGETS)
    assert sum(file.stat().st_size for file in files) < 500_000


def test_a_defect_stands_first_and_survives(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "FOLDER", tmp_path / "corpus")
    corpus.write("some", [b"\x00bad"], [b"", b"a", b"b"])
    assert corpus.read("some") == ([b"\x00bad"], [b"", b"a", b"b"])
    assert corpus.read("other") == ([], [])


def test_only_inputs_that_add_something_are_kept() -> None:
    target = TARGETS["plain-frames"]
    kept = list(corpus.minimised(target, [b"\x08\x01", b"\x08\x01abc", b"\x08\x02x", b"\xff\x00", b"", b""]))
    assert kept == [b"", b"\x08\x01", b"\xff\x00"]


def test_a_source_ends_in_first_choices() -> None:
    source = Source(b"\x05\x02ab\xff")
    assert (source.byte(), source.chunk(), bool(source)) == (5, b"ab", True)
    assert source.byte() == 255
    assert (source.byte(), source.flag(), source.number(), source.chunk(), source.text()) == (
        0,
        False,
        0,
        b"",
        "",
    )
    assert not source
    assert source.pick("xyz") == "x"
    assert Source(b"").slices(b"abcdefg", 0) == [b"a", b"bc", b"def", b"g"]


def test_a_target_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """An acknowledgement that changes nothing would be seen."""
    with monkeypatch.context() as patch:
        patch.setattr(quic_targets, "outstanding", lambda _recovery: {1, 5})
        with pytest.raises(AssertionError):
            quic_targets.acknowledgements(b"\x05\x00\x00\x00")
    quic_targets.acknowledgements(b"\x05\x00\x00\x00")
