"""Reads unidirectional streams, slice by slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from relay.wire.frame_decoder import MAX_FRAME
from relay.wire.ietf.data import FetchGap, FetchHeader, FetchObject, ObjectHeader, SubgroupHeader
from relay.wire.ietf.messages import Message
from relay.wire.ietf.profile import DraftProfile

UniItem: TypeAlias = Message | SubgroupHeader | ObjectHeader | FetchHeader | FetchObject | FetchGap | bytes
"""Payload comes as `bytes`, in the chunks in which it arrives, after its object's header."""


class UniDecoder:
    """A unidirectional stream of the peer, of any type.

    The first item tells: Setup (then control messages follow), SubgroupHeader, FetchHeader; padding gives no items.
    Large payloads are not copied, and are not waited for. After an error every call raises that error again.
    UnknownStreamType: this draft has no such stream. FrameTooLarge: an object above `max_object` bytes.
    """

    __slots__ = ("descending",)

    def __init__(
        self,
        profile: DraftProfile,
        max_object: int = MAX_FRAME,
        descending: Callable[[int], bool] | None = None,
    ) -> None:
        """`descending` tells if the fetch of a request id asked for descending groups."""

    @property
    def in_object(self) -> bool:
        """True inside an object or its header."""
        raise NotImplementedError

    @property
    def buffered(self) -> int:
        """Bytes of an incomplete message or header."""
        raise NotImplementedError

    def feed(self, data: bytes) -> Sequence[UniItem]:
        """The items that the slice completes. Raises WireError."""
        raise NotImplementedError

    def end(self) -> None:
        """The peer finished the stream; raises Truncated inside a message or an object."""
        raise NotImplementedError
