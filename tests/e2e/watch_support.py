"""The npm package @moq/watch in a tab of Chromium."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from relay.app import Relay
from tests.e2e.browser import Page
from tests.e2e.harness import npm_modules

PACKAGE: Final = "@moq/watch@0.4.6"


@contextlib.asynccontextmanager
async def watching(relay: Relay, broadcast: str, **query: str) -> AsyncIterator[Page]:
    """A tab that plays a broadcast; `query` is for `pages/watch.html`."""
    modules = await asyncio.to_thread(npm_modules, PACKAGE)
    nested = [path.parents[2].relative_to(modules) for path in modules.glob("@moq/*/node_modules/@moq/net")]
    own = ",".join(map(str, nested))
    async with Page(
        "watch.html", modules=modules, relay=relay.url, broadcast=broadcast, nested=own, **query
    ) as page:
        yield page
