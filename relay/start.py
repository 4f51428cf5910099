"""Entry points of the commands, which import the rest: Ctrl-C meanwhile ends them without a traceback."""

from __future__ import annotations

import signal
from importlib import import_module


def relay() -> int:
    """The command `moq-relay`."""
    return _main("relay.cli")


def clock() -> int:
    """The command `moq-clock`."""
    return _main("relay.commands.clock")


def listing() -> int:
    """The command `moq-list`."""
    return _main("relay.commands.list")


def publish() -> int:
    """The command `moq-publish`."""
    return _main("relay.commands.publish")


def watch() -> int:
    """The command `moq-watch`."""
    return _main("relay.commands.watch")


def token() -> int:
    """The command `moq-token`."""
    return _main("relay.auth.tool")


def _main(module: str) -> int:
    # a shell that runs it in the background may have it ignore the signal
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    status: int = import_module(module).main()
    return status
