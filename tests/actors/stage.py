"""A track actor between a fake source, fake subscribers and a fake broadcast."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from relay.actors import messages as m
from relay.actors.runtime import Ref, send
from relay.actors.track import TrackActor
from relay.model.limits import Limits
from relay.model.track import SubscribeParams
from relay.moq.encoding import Encoding
from tests.actors.fakes import Fake, FakePublisher, FakeSubscriber
from tests.actors.watching import stop_all
from tests.actors.world import QUICK
from tests.clock import RUNTIME, settle


class Stage:
    def __init__(self, limits: Limits = QUICK) -> None:
        self.broadcast = Fake()
        self.source = FakePublisher()
        self.counters = Fake()
        self.track: Ref = TrackActor.start(
            RUNTIME,
            broadcast=self.broadcast.ref,
            source=self.source.ref,
            path="room/cam",
            name="video",
            limits=limits,
            counters=self.counters.ref,
        )
        self.viewers: list[FakeSubscriber] = []

    async def viewer(
        self, params: SubscribeParams | None = None, encoding: Encoding = Encoding.PLAIN
    ) -> FakeSubscriber:
        viewer = FakeSubscriber()
        self.viewers.append(viewer)
        viewer.subscribe(self.track, params=params, encoding=encoding)
        await settle()
        return viewer

    async def feed(self, *parts: m.GroupPart) -> None:
        """One loop turn from upstream."""
        self.source.groups(self.track, *parts)
        await settle()

    async def say(self, message: object) -> None:
        send(self.track, message)
        await settle()

    @property
    def opened(self) -> list[m.OpenUpstream]:
        return self.source.got(m.OpenUpstream)

    @property
    def updates(self) -> list[m.UpdateUpstream]:
        return self.source.got(m.UpdateUpstream)

    @property
    def stopped(self) -> list[tuple[int, int]]:
        return [(s.sequence, s.code) for s in self.source.got(m.StopGroup)]


def staged(scenario: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """A test in virtual time that leaves no actor behind."""

    @functools.wraps(scenario)
    async def run(**given: Any) -> None:
        await scenario(**given)
        stop_all()
        await settle()

    return pytest.mark.virtual(run)
