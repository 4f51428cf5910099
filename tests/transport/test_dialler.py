"""Dialling other relays: URL and token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relay.quic.settings import QuicSettings
from relay.transport import dialler
from relay.transport.client import ClientTls
from relay.transport.dialler import Dialler, TokenError
from relay.wire.version import Version

JWT, OTHER = "aaa.bbb.ccc", "ddd.eee.fff"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Dialled URLs."""
    urls: list[str] = []

    async def connect(url: str, **_: Any) -> None:
        urls.append(url)

    monkeypatch.setattr(dialler, "connect", connect)
    return urls


def given(**tokens: Any) -> Dialler:
    return Dialler(versions=tuple(Version), settings=QuicSettings(), tls=ClientTls(), **tokens)


async def test_each_target_is_shown_its_own_token(tmp_path: Path, asked: list[str]) -> None:
    general, own = tmp_path / "general.jwt", tmp_path / "own.jwt"
    general.write_text(f"{JWT}\n")
    own.write_text(OTHER)
    dialler = given(token=general, tokens={"a:1": own, "moqt://b/x": OTHER})
    for target in ("a:1", "moqt://b/x", "c", "https://d/y"):
        await dialler.dial(target)
    assert asked == [
        f"https://a:1/?jwt={OTHER}",
        f"moqt://b/x?jwt={OTHER}",
        f"https://c/?jwt={JWT}",
        f"https://d/y?jwt={JWT}",
    ]
    assert OTHER not in repr(dialler)


async def test_a_file_is_read_for_each_attempt(tmp_path: Path, asked: list[str]) -> None:
    own = tmp_path / "own.jwt"
    own.write_text(JWT)
    dialler = given(tokens={"a": own})
    await dialler.dial("a")
    own.write_text(OTHER)
    await dialler.dial("a")
    assert asked == [f"https://a/?jwt={JWT}", f"https://a/?jwt={OTHER}"]
    own.unlink()
    with pytest.raises(TokenError, match=r"own\.jwt: No such file"):
        await dialler.dial("a")


async def test_without_a_token_the_url_has_none(asked: list[str]) -> None:
    dialler = given(tokens={"b": JWT})
    await dialler.dial("a")
    await dialler.dial("moqt://a:1")
    assert asked == ["https://a/", "moqt://a:1"]
    assert dialler.check("a") is None
    assert dialler.check("b") == JWT
