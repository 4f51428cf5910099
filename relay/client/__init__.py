"""A moq-lite client for asyncio: publish and watch broadcasts over any session. docs/client.md has examples."""

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
from relay.client.publishing import Publication, TrackWriter
from relay.client.watching import Announced, Change, Frame, GroupReader, Subscription, Wanted
from relay.moq.published import GroupWriter
from relay.transport.client import ClientTls, ConnectError

__all__ = [
    "AnnounceError",
    "Announced",
    "Change",
    "Client",
    "ClientError",
    "ClientTls",
    "ConnectError",
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
    "Wanted",
]
