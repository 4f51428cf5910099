"""A client that keeps the events of its state machine."""

from __future__ import annotations

from typing import Any, TypeVar

from relay.client import Client, Publication
from relay.moq import session as moq
from relay.wire.errors import WireError

E = TypeVar("E")

REQUESTS = (
    moq.SubscribeRequested,
    moq.InfoRequested,
    moq.FetchRequested,
    moq.AnnounceRequested,
    moq.ProbeRequested,
    moq.PeerLeaving,
)


class RecordingClient(Client):
    """Keeps events in order, without the data of groups."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.events: list[moq.Event] = []
        super().__init__(*args, **options)

    def on_event(self, event: moq.Event) -> None:
        if not isinstance(event, moq.GroupData | moq.FetchedData):
            self.events.append(event)
        super().on_event(event)
        self.ring()

    def seen(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    async def wait_for(self, kind: type[E], count: int = 1) -> list[E]:
        await self.until(lambda: len(self.seen(kind)) >= count)
        return self.seen(kind)

    @property
    def faults(self) -> list[WireError]:
        """The peer's violations."""
        return [fault.error for fault in self.seen(moq.Fault)]


def requests_of(asked: Client | Publication) -> list[Any]:
    """The peer's requests to a client, or for a broadcast."""
    client = _recording(asked)
    path = asked.path if isinstance(asked, Publication) else None
    requests = [event for event in client.events if isinstance(event, REQUESTS)]
    return [one for one in requests if path is None or getattr(one, "broadcast", None) == path]


def subscriptions_of(asked: Client | Publication) -> list[moq.SubscribeRequested]:
    return [one for one in requests_of(asked) if isinstance(one, moq.SubscribeRequested)]


async def requested(asked: Client | Publication, count: int = 1) -> None:
    """Wait for `count` requests."""
    await _recording(asked).until(lambda: len(requests_of(asked)) >= count)


def _recording(asked: Client | Publication) -> RecordingClient:
    client = asked._endpoint
    assert isinstance(client, RecordingClient)
    return client
