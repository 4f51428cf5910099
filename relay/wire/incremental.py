"""The base of decoders of control messages: buffer, size limit, and the error of all calls after a fault."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from mypy_extensions import mypyc_attr

from relay.wire.errors import MessageTooLarge, Truncated, WireError, afresh
from relay.wire.varint import decode_varint

MAX_MESSAGE: Final = 65536
"""Bytes of a body: the longest of the oldest setup form, rounded up."""

Item = TypeVar("Item")


@mypyc_attr(allow_interpreted_subclasses=True)
class Incremental(Generic[Item]):
    """Feed it slices, take complete items; a subclass reads one in `_next`.

    It keeps at most one incomplete message: `max_message` bytes and its prefix. A fault drops earlier items of
    the same slice. After an error every call raises it again.
    """

    __slots__ = ("_buffer", "_error", "_offset", "max_message")

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self.max_message = max_message
        self._buffer = bytearray()
        self._offset = 0
        self._error: WireError | None = None

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Item]:
        """Return the items that the slice completes. Raises WireError."""
        self._raise_if_dead()
        self._buffer += data
        items: list[Item] = []
        try:
            while (item := self._next()) is not None:
                items.append(item)
        except WireError as error:
            self._die(error)
            raise
        del self._buffer[: self._offset]
        self._offset = 0
        return items

    def end(self) -> None:
        """Raises Truncated inside a message.

        An empty stream is no error here: the caller knows if an answer is missing.
        """
        self._raise_if_dead()
        if self._buffer or self._inside():
            error = Truncated("stream ended inside a message")
            self._die(error)
            raise error

    def _next(self) -> Item | None:
        """None while incomplete."""
        raise NotImplementedError

    def _inside(self) -> bool:
        """The stream is inside a message, though no bytes are buffered."""
        return False

    def _waiting(self) -> bool:
        return self._offset < len(self._buffer)

    def _varint(self) -> int | None:
        found = decode_varint(self._buffer, self._offset)
        if found is None:
            return None
        value, self._offset = found
        return value

    def _message(self) -> bytes | None:
        found = decode_varint(self._buffer, self._offset)
        return None if found is None else self._body(*found)

    def _body(self, size: int, start: int) -> bytes | None:
        """Read a body of `size` bytes from `start`, within the limit."""
        if size > self.max_message:
            raise MessageTooLarge(f"message of {size} bytes, at most {self.max_message} are allowed")
        end = start + size
        if end > len(self._buffer):
            return None
        self._offset = end
        return bytes(memoryview(self._buffer)[start:end])

    def _die(self, error: WireError) -> None:
        self._error = afresh(error)
        self._buffer = bytearray()
        self._offset = 0

    def _raise_if_dead(self) -> None:
        if self._error is not None:
            raise afresh(self._error)
