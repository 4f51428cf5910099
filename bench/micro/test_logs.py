"""A disabled log line: ours, and the same with the standard library alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from relay.logger import get_logger

LINES = 1000

standard = logging.getLogger("relay.bench")
standard.setLevel(logging.INFO)
adapter = logging.LoggerAdapter(standard, {"session": 7})
ours = get_logger("relay.bench", session=7)


def with_structlog() -> None:
    for number in range(LINES):
        ours.debug("announced", broadcast="demo/cam", hops=number)


def with_logging() -> None:
    for number in range(LINES):
        standard.debug("announced broadcast=%s hops=%s", "demo/cam", number)


def with_an_adapter() -> None:
    """The context bound as `logging` does it."""
    for number in range(LINES):
        adapter.debug("announced broadcast=%s hops=%s", "demo/cam", number)


@pytest.mark.parametrize("write", [with_structlog, with_logging, with_an_adapter])
def test_lines_that_are_not_wanted(benchmark: Any, write: Callable[[], None]) -> None:
    benchmark.group = f"{LINES} lines below the level"
    benchmark(write)
