"""Peers without a common version: one log line for each address, up to a rate.

Called by the listeners and by connection actors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from relay.logger import get_logger
from relay.model.address import address_of
from relay.model.pace import LogThrottle

logger = get_logger("relay")

REMEMBERED: Final = 1_024
"""Addresses; the one that came first is forgotten."""

SHOWN: Final = 8
"""Names of an offer that a line holds, and characters of each are `SHOWN_NAME`: peers choose both."""

SHOWN_NAME: Final = 32


class IncompatiblePeers:
    """All of a relay."""

    def __init__(self, spoken: Sequence[str], now: Callable[[], float]) -> None:
        """`spoken` are the names of the versions in use, `now` is a clock in seconds."""
        self._spoken = ",".join(spoken)
        self._now = now
        self._named: OrderedDict[str, None] = OrderedDict()
        self._throttle = LogThrottle()

    def met(self, remote: str, transport: str, offered: Sequence[str]) -> None:
        """Log a peer, `host:port`, and its offer, unless its address was logged before."""
        key = address_of(remote)
        # Addresses may be forged, in any number.
        if key in self._named or not self._throttle.passes(self._now()):
            return
        self._named[key] = None
        if len(self._named) > REMEMBERED:
            self._named.popitem(last=False)
        logger.warning(
            "no common version",
            remote=remote,
            transport=transport,
            offered=shown(offered),
            spoken=self._spoken,
        )


def shown(offered: Sequence[str]) -> str:
    """An offer of any length, for the log."""
    names = [name[:SHOWN_NAME] for name in offered[:SHOWN]]
    return ",".join(names) + (",..." if len(offered) > SHOWN else "") if names else "nothing"
