"""contrib/grafana-dashboard.json uses only metrics that `/metrics` has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.web.metrics import COUNTERS, NAMES
from tests.e2e.http_support import stage

FILE = Path(__file__).resolve().parents[2] / "contrib" / "grafana-dashboard.json"
NAME = re.compile(r"\b(?:moq_relay|process|python)_[a-zA-Z0-9_]+")
BY = re.compile(r"\bby \(([^)]*)\)")

WIDTH = 24
"""Columns of a dashboard."""


@pytest.fixture
def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FILE.read_text())
    return content


def targets(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield from panel.get("targets", [])


def queries(dashboard: dict[str, Any]) -> list[str]:
    variables = [variable["query"] for variable in dashboard["templating"]["list"]]
    asked = [query["query"] for query in variables if isinstance(query, dict)]
    return [*asked, *(target["expr"] for target in targets(dashboard))]


async def exported() -> set[str]:
    """By the names that queries use."""
    async with stage() as (relay, http), http.get(f"{relay.internal_url}metrics") as response:
        text = await response.text()
    return set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))


async def test_every_metric_of_the_dashboard_is_exported(dashboard: dict[str, Any]) -> None:
    known = await exported()
    for query in queries(dashboard):
        names = NAME.findall(query)
        assert names, query
        assert set(names) <= known, query


async def test_every_metric_of_the_relay_is_on_the_dashboard(dashboard: dict[str, Any]) -> None:
    """Except those that no curve helps."""
    shown = {name for query in queries(dashboard) for name in NAME.findall(query)}
    ours = {name for name in await exported() if name.startswith("moq_relay_")}
    assert ours - shown == {
        "moq_relay_actors",
        "moq_relay_cached_groups",
        "moq_relay_draining",
        "moq_relay_event_loop_delay_seconds",
        "moq_relay_quic_connections",
        "moq_relay_start_time_seconds",
        "moq_relay_tasks",
    }


def test_labels_are_those_that_the_relay_gives(dashboard: dict[str, Any]) -> None:
    labels = {f"moq_relay_{NAMES.get(name, name)}_total": set(given) for name, (_, given) in COUNTERS.items()}
    labels["moq_relay_sessions"] = {"transport", "version"}
    labels["moq_relay_certificate_not_after_seconds"] = {"listener", "number", "name"}
    for target in targets(dashboard):
        used = {label for found in BY.findall(target["expr"]) for label in found.split(", ")}
        legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) - {"instance"}
        assert used == legend, target["expr"]
        if used:
            (name,) = NAME.findall(target["expr"])
            assert used <= labels[name], target["expr"]


def test_counters_are_shown_as_rates(dashboard: dict[str, Any]) -> None:
    for target in targets(dashboard):
        for name in NAME.findall(target["expr"]):
            selector = f'{name}{{instance=~"$instance"}}'
            assert selector in target["expr"]
            assert (f"rate({selector}[$__rate_interval])" in target["expr"]) == name.endswith("_total")


def test_the_data_source_is_chosen_at_import(dashboard: dict[str, Any]) -> None:
    assert dashboard["schemaVersion"] >= 41
    source, *_ = dashboard["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == chosen
            assert panel["title"]
            assert panel["description"]
    assert all(target["datasource"] == chosen for target in targets(dashboard))


def test_panels_lie_side_by_side(dashboard: dict[str, Any]) -> None:
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= WIDTH
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
