"""Event loops in virtual time for tests that are marked so, and a sample of the ways that QUIC packets are made.

Commands that tests start keep their secrets in a temporary directory.
"""

from __future__ import annotations

import asyncio
import gc
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator

import pytest

from relay import compiled
from tests.clock import VirtualLoop
from tests.sampling import FULL, SHARE, rotated


def pytest_report_header() -> str:
    kernel = "compiled" if compiled.has_kernel() else "interpreted"
    return f"relay: modules {compiled.describe()}, kernel {kernel}"


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """For a test and its fixtures. Tests of actors need no mark: a pause of the machine expires nothing in them."""
    mark = item.get_closest_marker("virtual")
    virtual = "actors" in item.path.parts if mark is None else mark.args != (False,)
    return {"loop": VirtualLoop if virtual else asyncio.new_event_loop}


@pytest.fixture(scope="session", autouse=True)
def _state_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("STATE_DIRECTORY", raising=False)
        patch.setitem(os.environ, "XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of each case of a test with the fixture `pairing`, keep the first pairing and another one in turn.

    All stay if a test is named with its parameters. Of what is left, one in `SHARE` stays, and all that compiled
    modules skip.
    """
    for item in items:
        if not compiled.reason and item.get_closest_marker("interpreted"):
            item.add_marker(pytest.mark.skip("the modules are compiled"))
    if FULL or any("[" in argument for argument in config.invocation_params.args):
        return
    tests: dict[str, dict[Hashable, dict[str, pytest.Item]]] = defaultdict(lambda: defaultdict(dict))
    for item in items:
        spec = getattr(item, "callspec", None)
        if spec is not None and "pairing" in spec.params:
            case = tuple(
                sorted((name, id(value)) for name, value in spec.params.items() if name != "pairing")
            )
            tests[item.nodeid.partition("[")[0]][case][spec.params["pairing"]] = item
    left = {
        item
        for item in items
        if zlib.crc32(item.nodeid.encode()) % SHARE and not item.get_closest_marker("interpreted")
    }
    for test, cases in tests.items():
        for number, pairings in enumerate(cases.values()):
            kept = rotated(list(pairings), test, number)
            left.update(item for pairing, item in pairings.items() if pairing not in kept)
    if left:
        config.hook.pytest_deselected(items=list(left))
        items[:] = [item for item in items if item not in left]


def pytest_collectstart() -> None:
    """Ten thousand tests stay until the end: spare the garbage collector the looks at them."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()
