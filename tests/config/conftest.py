"""A folder and an environment for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config.tables import OPTIONS


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a few files, and without the real environment's options."""
    monkeypatch.chdir(tmp_path)
    for name in {name for option in OPTIONS for name in option.env}:
        monkeypatch.delenv(name, raising=False)
    for name in ("a.pem", "b.pem", "c.pem", "root.jwk"):
        Path(name).write_text("content\n")
    for name in ("folder", "keys"):
        Path(name).mkdir()
