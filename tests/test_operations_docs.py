"""docs/operations.md against the code."""

from __future__ import annotations

import re
from pathlib import Path

from relay.config.changes import LIVE

PAGE = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()


def test_what_a_reload_takes_over() -> None:
    [listed] = re.findall(r"It takes over\n\n((?:- .*\n)+)", PAGE)
    named = set()
    for line in listed.splitlines():
        tables, _, keys = line.partition(":")
        for table, key in re.findall(r"`\[([\w.]+)\](?: (\w+))?`", tables):
            names = [key] if key else re.findall(r"`(\w+)`", keys)
            named |= {(*table.split("."), name) for name in names} or {tuple(table.split("."))}
    assert named == set(LIVE)


def test_the_figures_to_watch_exist() -> None:
    code = "".join(
        (Path(__file__).parent.parent / "relay" / name).read_text()
        for name in ("web/metrics.py", "actors/gate.py", "transport/quic_server.py")
    )
    for metric, label in re.findall(r"`moq_relay_(\w+)(?:\{limit=\"(\w+)\"\})?`", PAGE):
        assert f'"{metric.removesuffix("_total")}"' in code or f'"moq_relay_{metric}"' in code, metric
        assert not label or f'"{label}"' in code, label
