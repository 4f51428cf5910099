"""The targets by name: functions of bytes that return if all is well; an exception is a finding."""

from __future__ import annotations

from collections.abc import Callable

from fuzz.targets import (
    auth,
    config,
    engine,
    framing,
    http3,
    ietf,
    ietf_pairs,
    ietf_sessions,
    moq,
    quic,
    wire,
)

TARGETS: dict[str, Callable[[bytes], None]] = {
    **wire.TARGETS,
    **ietf.TARGETS,
    **ietf_sessions.TARGETS,
    **ietf_pairs.TARGETS,
    **moq.TARGETS,
    **framing.TARGETS,
    **http3.TARGETS,
    **quic.TARGETS,
    **engine.TARGETS,
    **auth.TARGETS,
    **config.TARGETS,
}
