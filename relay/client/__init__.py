"""A moq-lite client for asyncio: publish and watch broadcasts over any session.

Owns the client's side of every protocol version from 01 to 06. Must never know the relay's actors: the two are
separate implementations of one protocol, and each is tested against the other. `moq-clock`, embedders and the test
suite call it.

    async with await Client.connect("https://relay.example/room") as client:
        subscription = await client.subscribe("demo/cam", "video")
        async for group in subscription:
            async for frame in group:
                ...

Read it in this order: `peer` (what all parts share), `client` (set-up, and who handles which stream), `announced`,
`subscribe` and `calls` (asking), `publish` (what is on offer) and `serve` (answering).
"""

from relay.client.announced import Announced, Change
from relay.client.client import Client
from relay.client.errors import (
    AnnounceError,
    ClientError,
    FetchError,
    GroupAborted,
    RequestError,
    SessionEnded,
    SubscribeError,
    TrackInfoError,
)
from relay.client.frames import Frame, GroupReader
from relay.client.publish import GroupWriter, Publication, TrackWriter
from relay.client.subscribe import Subscription

__all__ = [
    "AnnounceError",
    "Announced",
    "Change",
    "Client",
    "ClientError",
    "FetchError",
    "Frame",
    "GroupAborted",
    "GroupReader",
    "GroupWriter",
    "Publication",
    "RequestError",
    "SessionEnded",
    "SubscribeError",
    "Subscription",
    "TrackInfoError",
    "TrackWriter",
]
