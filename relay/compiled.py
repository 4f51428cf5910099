"""Which modules are compiled, and whether this process runs them or their sources.

Owns the list, which setup.py compiles with mypyc as one group, and the choice: all of them run compiled, or
none. Must never import another file of the relay: `relay/__init__.py` calls `choose` before any other is
imported.

In a source tree the compiled modules run only if no source that they were made from has changed since: setup.py
writes their hashes into a file, the record. A wheel has no record.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from importlib.util import source_hash
from pathlib import Path
from types import ModuleType
from typing import Final

MODULES: Final = (
    "relay.actors.egress",
    "relay.actors.groups",
    "relay.actors.inbox",
    "relay.actors.ingest",
    "relay.actors.numbers",
    "relay.actors.reporting",
    "relay.actors.subscribers",
    "relay.model.backlog",
    "relay.model.cache",
    "relay.model.failover",
    "relay.model.group",
    "relay.model.numbering",
    "relay.model.pace",
    "relay.model.ranges",
    "relay.model.track",
    "relay.model.translation",
    "relay.moq.core",
    "relay.moq.delivery",
    "relay.moq.encoding",
    "relay.moq.feed",
    "relay.moq.ietf",
    "relay.moq.ietf_announce",
    "relay.moq.ietf_core",
    "relay.moq.ietf_delivery",
    "relay.moq.ietf_exchange",
    "relay.moq.ietf_fetching",
    "relay.moq.ietf_groups",
    "relay.moq.ietf_names",
    "relay.moq.ietf_requests",
    "relay.moq.ietf_serving",
    "relay.moq.ietf_setup",
    "relay.moq.lite",
    "relay.moq.lite_announce",
    "relay.moq.lite_core",
    "relay.moq.lite_delivery",
    "relay.moq.lite_requests",
    "relay.moq.lite_serving",
    "relay.moq.lite_setup",
    "relay.moq.machine",
    "relay.moq.serving",
    "relay.moq.session",
    "relay.moq.setup",
    "relay.quic.acks",
    "relay.quic.bbr",
    "relay.quic.cids",
    "relay.quic.congestion",
    "relay.quic.connection",
    "relay.quic.controller",
    "relay.quic.cost",
    "relay.quic.driver",
    "relay.quic.endpoint",
    "relay.quic.errors",
    "relay.quic.handler",
    "relay.quic.mtu",
    "relay.quic.offload",
    "relay.quic.packet_keys",
    "relay.quic.paths",
    "relay.quic.ranges",
    "relay.quic.recovery",
    "relay.quic.start",
    "relay.quic.stream_table",
    "relay.quic.streams",
    "relay.quic.udp",
    "relay.quic.varint",
    "relay.transport.quic_server",
    "relay.transport.quic_session",
    "relay.transport.raw_quic",
    "relay.transport.sending",
    "relay.transport.session",
    "relay.transport.webtransport",
    "relay.transport.webtransport_server",
    "relay.wire.cursor",
    "relay.wire.decoder",
    "relay.wire.errors",
    "relay.wire.frame",
    "relay.wire.frame_decoder",
    "relay.wire.ietf.codes",
    "relay.wire.ietf.control",
    "relay.wire.ietf.cursor",
    "relay.wire.ietf.data",
    "relay.wire.ietf.decoder",
    "relay.wire.ietf.filters",
    "relay.wire.ietf.messages",
    "relay.wire.ietf.parameters",
    "relay.wire.ietf.profile",
    "relay.wire.ietf.streams",
    "relay.wire.ietf.values",
    "relay.wire.ietf.varint",
    "relay.wire.incremental",
    "relay.wire.varint",
    "relay.wire.version",
)
"""They pass the same tests compiled and as sources. One may import others of the relay, too; calls to these are
slower.

Classes of actors stay sources: an actor that ends breaks its reference cycles by `__dict__.clear()`, which
leaves native attributes as they are, and then all it held waits for the garbage collector.
"""

LIBRARY: Final = "relay._compiled"
"""The group's: its code is in `_compiled__mypyc`."""

KERNEL: Final = "relay.quic._kernel"
"""An extension module in C, which no list here changes."""

PURE: Final = "MOQ_RELAY_PURE"
"""1 builds and runs without compiled modules. The kernel stays."""

SUFFIX: Final = EXTENSION_SUFFIXES[0]
"""It names version and platform."""

RECORD: Final = f"relay/_compiled{SUFFIX}.record"

reason = "`relay.compiled.choose` was not called"
"""Why sources run; empty if the compiled modules do."""


def is_pure() -> bool:
    """True if the environment asks for sources."""
    return os.environ.get(PURE, "") not in {"", "0"}


def files(root: Path, suffix: str = SUFFIX) -> list[Path]:
    """The compiled modules below `root`, the folder that holds `relay`; the library is the last."""
    return [root / (name.replace(".", "/") + suffix) for name in (*MODULES, f"{LIBRARY}__mypyc")]


def write_record(root: Path, sources: Sequence[str]) -> None:
    """Hashes of `sources`, paths relative to `root`."""
    (root / RECORD).write_text("".join(f"{_hash_of(root / source)} {source}\n" for source in sources))


def why_not(root: Path) -> str:
    """Why the compiled modules below `root` cannot run; empty if they can."""
    made = files(root)
    if not made[0].exists():
        return "not compiled"
    try:
        lines = (root / RECORD).read_text().splitlines()
    except OSError:
        return "compiled by an unfinished build" if (root / "setup.py").exists() else ""
    if not all(file.exists() for file in made):
        return "partly compiled"
    for line in lines:
        known, _, source = line.partition(" ")
        if _hash_of(root / source) != known:
            return f"{source} has changed since it was compiled"
    return ""


def choose() -> None:
    """Let the sources of all modules run if the compiled ones cannot."""
    global reason  # noqa: PLW0603 - a fact of the process
    reason = f"{PURE} is set" if is_pure() else why_not(Path(__file__).parent.parent)
    if reason:
        sys.meta_path.insert(0, _Sources())


def describe() -> str:
    """How the code runs, in words."""
    return f"interpreted ({reason})" if reason else "compiled"


def has_kernel() -> bool:
    """True if the kernel is built and finds libcrypto."""
    try:
        import_module(KERNEL)
    except ImportError:
        return False
    return True


class _Sources(MetaPathFinder):
    """Finds source files of the relay, also where a compiled module lies beside one."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002 - as importlib calls it
    ) -> ModuleSpec | None:
        if not fullname.startswith("relay."):
            return None
        for folder in path or ():
            spec = _sources_in(folder).find_spec(fullname)
            if spec is not None and spec.loader is not None:
                return spec
        return None


@cache
def _sources_in(folder: str) -> FileFinder:
    return FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES))


def _hash_of(file: Path) -> str:
    try:
        return source_hash(file.read_bytes()).hex()
    except OSError:
        return ""
