"""All messages under one name.

Owns: nothing; it gathers. Must never: define a message. Called by: sessions and tests.
"""

from relay.wire.announce import (
    AnnounceActive,
    AnnounceEnded,
    AnnounceInit,
    AnnounceOk,
    AnnounceRequest,
    AnnounceUpdate,
)
from relay.wire.control import Fetch, Goaway, Probe, ProbeRequest, SessionInfo, TrackInfo, TrackRequest
from relay.wire.frame import Datagram, FrameHeader, GroupHeader, Request, StreamType, UniType
from relay.wire.setup import ClientSetup, Role, ServerSetup, Setup, SetupForm
from relay.wire.subscribe import Subscribe, SubscribeDrop, SubscribeEnd, SubscribeOk, SubscribeUpdate

__all__ = [
    "AnnounceActive",
    "AnnounceEnded",
    "AnnounceInit",
    "AnnounceOk",
    "AnnounceRequest",
    "AnnounceUpdate",
    "ClientSetup",
    "Datagram",
    "Fetch",
    "FrameHeader",
    "Goaway",
    "GroupHeader",
    "Probe",
    "ProbeRequest",
    "Request",
    "Role",
    "ServerSetup",
    "SessionInfo",
    "Setup",
    "SetupForm",
    "StreamType",
    "Subscribe",
    "SubscribeDrop",
    "SubscribeEnd",
    "SubscribeOk",
    "SubscribeUpdate",
    "TrackInfo",
    "TrackRequest",
    "UniType",
]
