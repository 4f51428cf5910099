"""Control messages in bytes: `encode` writes a whole message, `MessageDecoder` reads a stream of them."""

from __future__ import annotations

from relay.wire.ietf.messages import Message
from relay.wire.ietf.profile import DraftProfile
from relay.wire.incremental import Incremental


def encode(message: Message, profile: DraftProfile) -> bytes:
    """Type, length and body. ValueError for what does not fit, or what the draft lacks."""
    raise NotImplementedError


class MessageDecoder(Incremental[Message]):
    """A control stream, or a request stream in either direction; `Incremental` has `feed` and `end`.

    With `request_streams` control streams are unidirectional: `decoder.UniDecoder` reads them. Which message may come
    when is the session's to check.
    """

    __slots__ = ("profile",)

    def __init__(self, profile: DraftProfile) -> None:
        super().__init__()
        self.profile = profile
