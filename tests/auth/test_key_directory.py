"""A directory of keys: by name only, and as they are on disk now."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from relay.auth.key import Key, KeyFileError
from relay.auth.key_directory import CACHED, KeyDirectory
from relay.auth.permissions import UnauthorizedError
from tests.auth.support import authenticator, jwk, signed

FIRST = b"the first secret, which is long enough"
SECOND = b"the second secret, just as long as that"


def put(directory: Path, name: str, secret: bytes = FIRST, **changes: Any) -> Path:
    file = directory / f"{name}.jwk"
    file.write_text(jwk(secret, **{"kid": name, **changes}))
    file.chmod(0o600)
    return file


async def admitted(keys: KeyDirectory, kid: str | None, secret: bytes) -> bool:
    headers = {} if kid is None else {"kid": kid}
    try:
        await authenticator(keys=keys).verify("/", "jwt=" + signed({"get": ""}, secret=secret, **headers))
    except UnauthorizedError:
        return False
    return True


async def test_keys_come_and_go_without_a_restart(tmp_path: Path) -> None:
    keys = KeyDirectory(tmp_path)
    assert not await admitted(keys, "a", FIRST)
    file = put(tmp_path, "a")
    assert await admitted(keys, "a", FIRST)
    put(tmp_path, "b", SECOND)
    assert await admitted(keys, "a", FIRST)
    assert await admitted(keys, "b", SECOND)
    assert not await admitted(keys, "b", FIRST)
    new = put(tmp_path, "new", SECOND, kid="a")
    new.replace(file)
    assert not await admitted(keys, "a", FIRST)
    assert await admitted(keys, "a", SECOND)
    file.unlink()
    assert not await admitted(keys, "a", SECOND)


async def test_a_token_without_a_name_has_no_key(tmp_path: Path) -> None:
    put(tmp_path, "a")
    assert not await admitted(KeyDirectory(tmp_path), None, FIRST)


async def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a")
    keys = KeyDirectory(tmp_path)
    read: list[Path] = []
    load = Key.load

    def counted(file: Path) -> Key:
        read.append(file)
        return load(file)

    monkeypatch.setattr(Key, "load", counted)
    for _ in range(3):
        assert await admitted(keys, "a", FIRST)
    assert len(read) == 1


@pytest.mark.parametrize(
    "kid",
    [
        "../a",
        "..",
        ".",
        "/etc/passwd",
        "a/../a",
        "a.jwk",
        "%2e%2e",
        "a\0",
        "",
        "a b",
        "\u00e9",
        "a" * 129,
        "con:",
    ],
)
async def test_no_name_leaves_the_directory(tmp_path: Path, kid: str) -> None:
    inside = tmp_path / "keys"
    inside.mkdir()
    put(inside, "a")
    put(tmp_path, "a", SECOND)
    keys = KeyDirectory(inside)
    assert not await admitted(keys, kid, FIRST)
    assert not await admitted(keys, kid, SECOND)


async def test_a_key_under_another_name_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As "a" and "A" are the same file on some file systems."""
    keys = KeyDirectory(tmp_path)
    put(tmp_path, "A", kid="a")
    with caplog.at_level(logging.WARNING):
        assert not await admitted(keys, "A", FIRST)
        assert not await admitted(keys, "A", FIRST)
    assert len([line for line in caplog.messages if "expected 'A'" in line]) == 1


async def test_what_is_no_file_is_no_key(tmp_path: Path) -> None:
    keys = KeyDirectory(tmp_path)
    (tmp_path / "dir.jwk").mkdir()
    os.mkfifo(tmp_path / "pipe.jwk")  # reading it would wait for ever
    (tmp_path / "gone.jwk").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jwk").symlink_to(tmp_path / "loop.jwk")
    for kid in ("dir", "pipe", "gone", "loop"):
        assert not await admitted(keys, kid, FIRST)


async def test_a_link_is_as_good_as_a_file(tmp_path: Path) -> None:
    real = put(tmp_path, "real", kid="a")
    real = real.rename(tmp_path / "elsewhere")
    (tmp_path / "a.jwk").symlink_to(real)
    assert await admitted(KeyDirectory(tmp_path), "a", FIRST)


@pytest.mark.parametrize("text", ["", "{", jwk(b"short"), jwk(key_ops=["sign"]), jwk(alg="none")])
async def test_unusable_keys_are_refused_at_start_and_later(tmp_path: Path, text: str) -> None:
    keys = KeyDirectory(tmp_path)
    file = tmp_path / "a.jwk"
    file.write_text(text)
    assert not await admitted(keys, "a", FIRST)
    with pytest.raises(KeyFileError, match=r"a\.jwk"):
        KeyDirectory(tmp_path)
    put(tmp_path, "a")
    assert await admitted(keys, "a", FIRST)


async def test_other_files_do_not_matter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "README").write_text("keys")
    (tmp_path / "a.jwk.bak").write_text("{")
    KeyDirectory(tmp_path)
    assert any("every token is refused" in line for line in caplog.messages)
    with pytest.raises(OSError, match="nowhere"):
        KeyDirectory(tmp_path / "nowhere")


async def test_the_cache_is_bounded(tmp_path: Path) -> None:
    keys = KeyDirectory(tmp_path)
    for number in range(CACHED + 5):
        with pytest.raises(UnauthorizedError):
            await keys.find(signed({}, kid=f"k{number}"))
    assert not keys._cache
