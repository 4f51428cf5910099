"""moq-relay, a Media over QUIC relay. docs/embedding.md says what programs may use of it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relay.app import Relay

__all__ = ["Relay", "client", "config"]


def __getattr__(name: str) -> Any:
    # On first use: commands such as `moq-token` do without most of a relay.
    if name == "Relay":
        return import_module("relay.app").Relay
    if name in __all__:
        return import_module(f"relay.{name}")
    raise AttributeError(f"module 'relay' has no attribute {name!r}")
