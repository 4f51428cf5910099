"""Which room may import which: imports point downward only, and there is no cycle of files."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "relay").rglob("*.py"))


def module_of(path: Path) -> str:
    """The name that a file is imported by."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path) for path in (*FILES, *(ROOT / "relay").rglob("*.pyi"))}

PRIVATE_PARTS = {"relay/quic/{handshake,handover}.py", "relay/actors/{inbox,runtime}.py"}
"""The files that may use what a library keeps to itself."""


@dataclass(frozen=True)
class Room:
    """Permitted imports of the files at one place, beside the standard library. A name includes all below it."""

    own: tuple[str, ...]
    """Parts of relay."""

    libraries: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    """Forbidden parts of the standard library."""

    only: tuple[tuple[str, str], ...] = ()
    """(library, place) that narrow `libraries`: only the places named for a library import it."""


CLOCKS = ("random", "secrets", "time", "uuid")
"""Replaced by `relay.runtime`."""

CLOCK_OWNERS = ("relay/runtime.py", "relay/process.py", "relay/auth/tool.py", "relay/commands/clock.py")
"""The runtime, the process and the command-line tools."""

EFFECTS = ("asyncio", "concurrent", "random", "secrets", "selectors", "socket", "threading", "time")
"""Clocks, chance and input/output."""

CONNECTION = (
    *(
        "acks",
        "bbr",
        "cids",
        "congestion",
        "connection",
        "controller",
        "errors",
        "handler",
        "mtu",
        "packet_keys",
    ),
    *("paths", "ranges", "recovery", "start", "stream_table", "streams", "varint"),
)
"""The parts of a QUIC connection after its handshake, which can be compiled: they have no effects of their own."""

ROOMS = {
    **{
        f"relay/quic/{name}.py": Room(
            (*(f"quic.{part}" for part in (*CONNECTION, "settings", "_kernel")), "transport.sending"),
            ("aioquic", "cryptography", "mypy_extensions"),
            never=tuple(name for name in EFFECTS if name != "random"),
            only=(("aioquic", "relay/quic/packet_keys.py"), ("cryptography", "relay/quic/packet_keys.py")),
        )
        for name in CONNECTION
    },
    "relay/quic/settings.py": Room((), never=EFFECTS),
    "relay/quic/": Room(
        ("quic", "logger", "model", "runtime", "transport.slots", "transport.sockets"),
        ("aioquic", "cryptography", "mypy_extensions"),
        only=tuple(
            ("aioquic", f"relay/quic/{name}.py")
            for name in ("admission", "endpoint", "handover", "handshake", "qlog", "trust")
        ),
    ),
    "relay/paths.py": Room((), never=EFFECTS),
    "relay/wire/": Room(("wire", "paths"), ("mypy_extensions",), never=EFFECTS),
    "relay/logger.py": Room((), ("structlog",), never=EFFECTS),
    "relay/model/": Room(("model", "paths", "logger"), never=EFFECTS),
    "relay/moq/": Room(("moq", "model", "wire", "transport.session"), ("mypy_extensions",), never=EFFECTS),
    "relay/auth/": Room(
        ("auth", "logger", "model", "runtime", "terminal", "version", "wire"),
        ("jwt", "cryptography", "cachetools"),
        never=("socket",),
    ),
    "relay/transport/": Room(
        ("transport", "quic", "logger", "model", "runtime", "wire"),
        ("aioquic", "cryptography", "aiohttp", "mypy_extensions"),
        only=(("aiohttp", "relay/transport/client.py"), ("aiohttp", "relay/transport/websocket/dial.py")),
    ),
    "relay/actors/": Room(
        (
            *("actors", "auth", "logger", "model", "runtime", "transport.session"),
            *("moq.session", "moq.protocol", "moq.encoding", "moq.feed"),
            "wire.errors",
        ),
        ("pykka",),
        never=("socket",),
        only=(("pykka", "relay/actors/inbox.py"), ("pykka", "relay/actors/runtime.py")),
    ),
    "relay/web/": Room(
        (
            *("web", "actors", "auth", "logger", "model", "runtime", "wire.errors"),
            *(
                "transport.slots",
                "transport.refusal",
                "transport.session",
                "transport.sockets",
                "transport.websocket",
            ),
        ),
        ("aiohttp", "cachetools", "msgpack", "prometheus_client"),
    ),
    "relay/config/": Room(
        ("compiled", "config", "logger", "model", "wire.version", "quic.settings"),
        ("pydantic", "pydantic_core"),
        never=EFFECTS,
    ),
    "relay/client/": Room(("client", "logger", "moq", "transport", "model", "runtime", "wire")),
    "relay/runtime.py": Room(()),
    "relay/media/": Room(("media", "wire.varint"), ("av",)),
    "relay/commands/": Room(("client", "commands", "media", "model", "terminal", "transport", "wire")),
    "relay/log_setup.py": Room(("logger", "model.pace")),
    "relay/terminal.py": Room(()),
    "relay/version.py": Room(()),
    "relay/compiled.py": Room(()),
    "relay/start.py": Room(()),
    "relay/cli.py": Room(
        ("app", "compiled", "config", "log_setup", "logger", "process", "terminal", "version")
    ),
    "relay/process.py": Room(("app", "compiled", "config", "logger", "secret_file", "terminal"), ("uvloop",)),
    "relay/secret_file.py": Room(("config", "logger", "runtime"), ("pydantic",)),
    "relay/app.py": Room(
        (
            *("actors", "config", "model", "quic", "runtime", "transport", "web", "wire"),
            *("certificates", "credentials", "identity", "logger"),
        )
    ),
    # What is read from files as the configuration says: its faults name `[table] key`, which no room below may know.
    "relay/certificates.py": Room(("config", "logger", "runtime", "quic", "web.rows")),
    "relay/credentials.py": Room(
        ("actors", "auth", "config", "logger", "quic", "runtime", "transport", "web.key_server")
    ),
    "relay/identity.py": Room(
        ("config", "model.address", "model.member", "version", "web.rows"), never=EFFECTS
    ),
    "relay/__init__.py": Room(("app", "compiled")),
}
"""By path; one that ends in a slash is a folder."""


def room_of(path: str) -> Room | None:
    """The rules for a file."""
    found = [
        room
        for place, room in ROOMS.items()
        if path == place or (place.endswith("/") and path.startswith(place))
    ]
    return found[0] if found else None


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, those for type checkers and inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                name = f"{module}.{alias.name}"
                yield node.lineno, name if name in MODULES else module


def only_a_type(tree: ast.AST) -> bool:
    """`random` is used for the name of a class alone: nothing is drawn."""
    used = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random"
    ]
    made = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func in used]
    return bool(used) and {node.attr for node in used} == {"Random"} and not made


def below(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def violations(path: str, source: str) -> list[str]:
    """Forbidden imports of `source` at `path`."""
    room = room_of(path)
    if room is None:
        return [f"{path}: in no room; add it to the table"]
    found = []
    tree = ast.parse(source)
    for line, name in imported(tree):
        top = name.partition(".")[0]
        if name.startswith("."):
            fault = "relative, write it in full"
        elif top == "relay":
            fault = "" if any(below(name, f"relay.{part}") for part in room.own) else "of another room"
        elif top in sys.stdlib_module_names:
            fault = "not here" if top in room.never else ""
            if top in CLOCKS and path not in CLOCK_OWNERS and not (top == "random" and only_a_type(tree)):
                fault = "clocks and randomness are taken from a Runtime"
        elif top not in room.libraries:
            fault = "not a library of this room"
        else:
            places = [place for library, place in room.only if library == top]
            allowed = not places or any(map(path.startswith, places))
            fault = "" if allowed else f"only in {' and '.join(places)}"
        if fault:
            found.append(f"{path}:{line}: import of {name}: {fault}")
    return found


def test_imports_point_downward() -> None:
    found = [violations(path.relative_to(ROOT).as_posix(), path.read_text()) for path in FILES]
    assert list(chain.from_iterable(found)) == []


@pytest.mark.parametrize(
    "path, source",
    [
        ("relay/wire/a.py", "import relay.model.path"),
        ("relay/wire/a.py", "from relay import model"),
        ("relay/wire/a.py", "import aioquic.buffer"),
        ("relay/wire/a.py", "import asyncio"),
        ("relay/model/a.py", "from time import monotonic"),
        ("relay/model/a.py", "from relay.wire.frame import FrameHeader"),
        ("relay/model/a.py", "def f():\n    import random"),
        ("relay/model/a.py", "from .path import join"),
        ("relay/model/a.py", "if TYPE_CHECKING:\n    from relay.actors.runtime import Actor"),
        ("relay/moq/a.py", "import asyncio"),
        ("relay/actors/a.py", "from time import monotonic"),
        ("relay/web/a.py", "def f():\n    import secrets"),
        ("relay/cli.py", "import uuid"),
        ("relay/moq/a.py", "import relay.actors.messages"),
        ("relay/moq/a.py", "from relay.transport import memory"),
        ("relay/auth/a.py", "import relay.transport.session"),
        ("relay/transport/a.py", "import relay.actors.runtime"),
        ("relay/transport/a.py", "import relay.web"),
        ("relay/transport/a.py", "import relay.auth"),
        ("relay/transport/websocket/choice.py", "from aiohttp import web"),
        ("relay/actors/track.py", "import pykka"),
        ("relay/actors/system.py", "from relay.wire.version import Version"),
        ("relay/actors/connection.py", "from relay.moq.lite import LiteSession"),
        ("relay/actors/track.py", "from relay.transport import memory"),
        ("relay/actors/track.py", "from relay.quic.settings import QuicSettings"),
        ("relay/web/a.py", "import pykka"),
        ("relay/web/a.py", "from relay.moq.encoding import Encoding"),
        ("relay/web/a.py", "from relay.wire.frame_decoder import FrameDecoder"),
        ("relay/web/a.py", "from relay.wire.version import Version"),
        ("relay/actors/track.py", "from relay.wire.frame import FrameHeader"),
        ("relay/web/a.py", "import relay.config"),
        ("relay/config/a.py", "import relay.wire.varint"),
        ("relay/client.py", "import relay.actors"),
        ("relay/cli.py", "import relay.transport"),
        ("relay/quic/streams.py", "import asyncio"),
        ("relay/quic/streams.py", "from relay.logger import get_logger"),
        ("relay/quic/connection.py", "from relay.quic.driver import Driver"),
        ("relay/quic/connection.py", "from relay.quic.handshake import Handshake"),
        ("relay/quic/connection.py", "import aioquic.tls"),
        ("relay/quic/cids.py", "import random\nrandom.Random(1)"),
        ("relay/quic/cids.py", "import random\nrandom.random()"),
        ("relay/quic/udp.py", "from relay.wire.version import Version"),
        ("relay/quic/udp.py", "from relay.transport.session import Stream"),
        ("relay/quic/driver.py", "from aioquic.quic.connection import QuicConnection"),
        ("relay/new.py", ""),
    ],
)
def test_what_the_rules_refuse(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    "path, source",
    [
        ("relay/model/a.py", "from relay.paths import normalize\nimport dataclasses"),
        ("relay/wire/a.py", "from relay.paths import normalize"),
        (
            "relay/moq/a.py",
            "from relay.transport.session import Stream\nfrom relay.wire.version import Version",
        ),
        ("relay/transport/client.py", "import asyncio, aiohttp\nfrom aioquic.quic import connection"),
        ("relay/actors/runtime.py", "import pykka"),
        (
            "relay/actors/track.py",
            "from relay.transport import session\nfrom relay.transport.session import Stream",
        ),
        ("relay/config/a.py", "from relay.wire import version"),
        ("relay/quic/cids.py", "import random\nfrom relay.quic import varint\nsource: random.Random"),
        ("relay/quic/driver.py", "import asyncio\nfrom relay.quic import connection"),
        ("relay/app.py", "import relay.web, relay.actors, relay.quic"),
    ],
)
def test_what_the_rules_allow(path: str, source: str) -> None:
    assert violations(path, source) == []


def cycle(sources: dict[str, str]) -> list[str]:
    """The modules of one import cycle, the first of them again at the end; empty if there is none.

    `sources` holds each module's text. Imports for type checkers and inside functions count.
    """
    graph = {
        module: {name for _, name in imported(ast.parse(text)) if name in sources and name != module}
        for module, text in sources.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert cycle({module_of(path): path.read_text() for path in FILES}) == []


@pytest.mark.parametrize(
    "back",
    [
        "import relay.wire.cursor",
        "from relay.wire import cursor",
        "from relay.wire.cursor import Cursor",
        "def f():\n    from relay.wire.cursor import Cursor",
        "if TYPE_CHECKING:\n    from relay.wire.cursor import Cursor",
    ],
)
def test_a_circle_of_files_is_found(back: str) -> None:
    sources = {
        "relay.wire.cursor": "from relay.wire.text import text",
        "relay.wire.text": "import relay.wire.varint",
        "relay.wire.varint": back,
    }
    assert set(cycle(sources)) == set(sources)
    assert cycle(sources | {"relay.wire.varint": ""}) == []


def test_private_parts_of_libraries_stay_where_they_are_guarded() -> None:
    """Ruff's SLF001 finds every other use; this shows that no other file is exempt from it."""
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    exempt = {path for path, rules in ruff["per-file-ignores"].items() if "SLF001" in rules or "SLF" in rules}
    assert exempt == PRIVATE_PARTS | {"tests/**", "fuzz/**"}
    assert not [rule for rule in ruff["ignore"] if rule.startswith("SLF")]
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        exempted = any(fnmatch(name, pattern) for pattern in PRIVATE_PARTS)
        assert exempted or "SLF001" not in path.read_text(), path
