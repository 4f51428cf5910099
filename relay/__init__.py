"""moq-relay, a Media over QUIC relay. docs/embedding.md lists the public names."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from relay import compiled

if TYPE_CHECKING:
    from relay.app import Relay

__all__ = ["Relay", "client", "config"]

compiled.choose()


def __getattr__(name: str) -> Any:
    # on first use: commands such as `moq-token` need little of a relay
    if name == "Relay":
        return import_module("relay.app").Relay
    if name in __all__:
        return import_module(f"relay.{name}")
    raise AttributeError(f"module 'relay' has no attribute {name!r}")
