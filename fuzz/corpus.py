"""The corpus: one text file per target, one input a line, in base64.

It holds the shortest inputs for each step between lines and, first and after a `!`, those that found a defect.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

FOLDER = Path(__file__).parent / "corpus"
RELAY = str(Path(__file__).parent.parent / "relay")

LONGEST = 2_048
"""Most bytes of a stored input."""


def file_of(target: str) -> Path:
    return FOLDER / f"{target}.txt"


def read(target: str) -> tuple[list[bytes], list[bytes]]:
    """Inputs that found a defect, and the others."""
    file = file_of(target)
    lines = file.read_text().splitlines() if file.exists() else []
    found = [base64.b64decode(line[1:]) for line in lines if line.startswith("!")]
    return found, [base64.b64decode(line) for line in lines if not line.startswith("!")]


def write(target: str, found: Iterable[bytes], others: Iterable[bytes]) -> None:
    lines = [f"!{base64.b64encode(data).decode()}" for data in found]
    lines += [base64.b64encode(data).decode() for data in others]
    FOLDER.mkdir(exist_ok=True)
    file_of(target).write_text("".join(f"{line}\n" for line in lines))


def arcs(target: Callable[[bytes], None], data: bytes) -> set[tuple[CodeType, int, int]]:
    """The covered steps from line to line in the relay's code."""
    seen: set[tuple[CodeType, int, int]] = set()

    def enter(frame: FrameType, _event: str, _arg: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if not code.co_filename.startswith(RELAY):
            return None
        last = code.co_firstlineno

        def step(frame: FrameType, event: str, _arg: Any) -> Callable[..., Any]:
            nonlocal last
            if event == "line":
                seen.add((code, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        target(data)
    finally:
        sys.settrace(before)
    return seen


def minimised(target: Callable[[bytes], None], inputs: Iterable[bytes]) -> Iterator[bytes]:
    """Inputs that add coverage, the shorter first."""
    covered: set[tuple[CodeType, int, int]] = set()
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        if len(data) > LONGEST:
            continue
        new = arcs(target, data) - covered
        if new:
            covered |= new
            yield data
