"""What loss recovery and the connection ask of every congestion controller, and the bytes in flight.

A file of its own, so that `bbr` and `congestion` do not import each other. Sizes are bytes, times are seconds,
rates are bytes per second.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import mypyc_attr

INITIAL_PACKETS: Final = 10  # RFC 9002, 7.2, as the two below
INITIAL_BYTES: Final = 14_720
MINIMUM_PACKETS: Final = 2


def initial_window(size: int) -> int:
    """The initial window for packets of `size` bytes (RFC 9002, 7.2)."""
    return min(INITIAL_PACKETS * size, max(MINIMUM_PACKETS * size, INITIAL_BYTES))


@mypyc_attr(allow_interpreted_subclasses=True)  # tests have some
class Congestion:
    """This one never changes its window.

    In each drain: `on_acked` per record, `on_rtt`, `on_acks_end`, `on_lost` per record, `on_losses_end`.
    """

    __slots__ = ("_sent_at", "in_flight", "pacing_rate", "size", "window")

    def __init__(self, size: int) -> None:
        self.size = size  # of a full packet
        self.window = initial_window(size)
        self.in_flight = 0
        self.pacing_rate = 0.0  # 0.0: derived from window and round trip
        self._sent_at = -1.0

    @property
    def rate(self) -> float:
        """Bytes per second that the path carries; 0.0 if unknown."""
        return 0.0

    def on_sent(self, now: float, size: int) -> None:
        """A burst of ack-eliciting packets."""
        self.in_flight += size
        self._sent_at = now

    def on_acked(self, sent_time: float, size: int, packets: int) -> None:  # noqa: ARG002 - for subclasses
        """So many packets of one burst are acknowledged."""
        self.in_flight -= size

    def on_acks_end(self, now: float, in_use: bool) -> None:  # noqa: FBT001 - the hot path
        """`in_use`: the window was used (RFC 9002, 7.8)."""

    def on_lost(self, sent_time: float, size: int) -> None:  # noqa: ARG002 - for subclasses
        self.in_flight -= size

    def on_losses_end(self, now: float, newest: float) -> None:
        """Apply `on_lost` since the last call. `newest`: when the newest of these packets was sent."""

    def on_discarded(self, sent_time: float, size: int) -> None:  # noqa: ARG002 - for subclasses
        """A record is neither acknowledged nor lost, and out of flight."""
        self.in_flight -= size

    def on_rtt(self, now: float, rtt: float) -> None:
        """A sample of the round trip, neither smoothed nor adjusted."""

    def on_persistent_congestion(self) -> None:
        """Congestion was persistent (RFC 9002, 7.6). Called after `on_losses_end`."""

    def restart(self) -> None:
        """The path has changed: all begins anew (RFC 9000, 9.4)."""
        self.window = initial_window(self.size)

    def on_idle(self) -> None:
        """The application limits what follows."""

    def resize(self, size: int) -> None:
        """A full packet's (RFC 9002, 7.2: a window that is still the initial one follows)."""
        if self.window == initial_window(self.size):
            self.window = initial_window(size)
        self.size = size
        self.window = max(self.window, MINIMUM_PACKETS * size)
