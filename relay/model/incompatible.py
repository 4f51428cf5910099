"""Peers without a common version: logs each address once, up to a rate."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from relay.logger import get_logger
from relay.model.address import address_of
from relay.model.pace import LogThrottle

logger = get_logger("relay")

REMEMBERED: Final = 1_024
SHOWN: Final = 8  # names of an offer in a line: peers choose their number
SHOWN_NAME: Final = 32  # characters of each


class IncompatiblePeers:
    """One per relay."""

    def __init__(
        self,
        spoken: Sequence[str],
        now: Callable[[], float],
        report: Callable[[str, str], object] = lambda _remote, _offered: None,
    ) -> None:
        """`spoken`: names of our versions. `now`: a clock in seconds. `report` gets address and offer."""
        self._report = report
        self._spoken = ",".join(spoken)
        self._now = now
        self._named: OrderedDict[str, None] = OrderedDict()
        self._throttle = LogThrottle()

    def met(self, remote: str, transport: str, offered: Sequence[str]) -> None:
        key = address_of(remote)
        if key in self._named or not self._throttle.passes(self._now()):  # addresses may be forged
            return
        self._named[key] = None
        if len(self._named) > REMEMBERED:
            self._named.popitem(last=False)
        self._report(remote, shown(offered))
        logger.warning(
            "no common version",
            remote=remote,
            transport=transport,
            offered=shown(offered),
            spoken=self._spoken,
        )


def shown(offered: Sequence[str]) -> str:
    """The text for an offer of any length."""
    names = [name[:SHOWN_NAME] for name in offered[:SHOWN]]
    return ",".join(names) + (",..." if len(offered) > SHOWN else "") if names else "nothing"
