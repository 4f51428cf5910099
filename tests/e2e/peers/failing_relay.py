"""The command `moq-relay`, but its directory fails at the first announcement."""

from __future__ import annotations

from relay import cli
from relay.actors import messages as m
from relay.actors.origin import OriginActor


def _fail(_self: OriginActor, _message: m.Announce) -> None:
    raise RuntimeError("as if there were a fault in it")


def main() -> int:
    OriginActor._on_announce = _fail  # type: ignore[method-assign, assignment]
    return cli.main()
