"""The targets by name. Each is a function of bytes that returns if all is well; what it raises is a finding."""

from __future__ import annotations

from collections.abc import Callable

from fuzz.targets import auth, config, framing, http3, moq, quic, wire

TARGETS: dict[str, Callable[[bytes], None]] = {
    **wire.TARGETS,
    **moq.TARGETS,
    **framing.TARGETS,
    **http3.TARGETS,
    **quic.TARGETS,
    **auth.TARGETS,
    **config.TARGETS,
}
