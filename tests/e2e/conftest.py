from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.e2e.browser import Browser
from tests.e2e.namespaces import Network


@pytest.fixture(scope="session", autouse=True)
def _browser_ends() -> Iterator[None]:
    yield
    Browser.end()


@pytest.fixture
def network() -> Iterator[Network]:
    """Skips the test without the means for it."""
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed")
    try:
        net = Network()
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")
    try:
        yield net
    finally:
        net.close()
