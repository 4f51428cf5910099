"""The key of a running relay is replaced; a directory of keys needs nothing for that."""

from __future__ import annotations

import logging
from pathlib import Path

import aiohttp
import pytest

from relay.app import Relay
from relay.auth.key import Key
from relay.config import Auth, Config, ConfigError
from tests.auth.support import jwk, signed
from tests.e2e.support import config

pytestmark = pytest.mark.e2e

OLD, NEW = b"the old secret, which is long enough", b"the new secret, just as long as that"


def keyed(**auth: str | Path) -> Config:
    return config().model_copy(update={"auth": Auth(**auth)})  # type: ignore[arg-type]


def write(file: Path, secret: bytes, mode: int = 0o600) -> Path:
    file.write_text(jwk(secret, kid=file.stem))
    file.chmod(mode)
    return file


async def status(relay: Relay, secret: bytes, kid: str = "root") -> int:
    token = signed({"get": ""}, secret=secret, kid=kid)
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{relay.url}announced/", params={"jwt": token}) as response,
    ):
        return response.status


async def test_a_key_file_is_read_again_when_asked_or_stays(tmp_path: Path) -> None:
    file = write(tmp_path / "root.jwk", OLD)
    async with Relay(keyed(key=file)) as relay:
        assert [await status(relay, secret) for secret in (OLD, NEW)] == [200, 401]
        write(file, NEW)
        assert [await status(relay, secret) for secret in (OLD, NEW)] == [200, 401]
        relay.reload()
        assert [await status(relay, secret) for secret in (OLD, NEW)] == [401, 200]
        file.write_text("{")
        with pytest.raises(ConfigError, match=r"\[auth\] key: .*root\.jwk: neither"):
            relay.reload()
        assert await status(relay, NEW) == 200


async def test_a_directory_of_keys_is_always_up_to_date(tmp_path: Path) -> None:
    write(tmp_path / "old.jwk", OLD)
    async with Relay(keyed(key_dir=str(tmp_path))) as relay:
        assert [await status(relay, OLD, "old"), await status(relay, NEW, "new")] == [200, 401]
        write(tmp_path / "new.jwk", NEW)
        assert [await status(relay, OLD, "old"), await status(relay, NEW, "new")] == [200, 200]
        (tmp_path / "old.jwk").unlink()
        assert [await status(relay, OLD, "old"), await status(relay, NEW, "new")] == [401, 200]


async def test_a_secret_that_others_may_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Relay(keyed(key=write(tmp_path / "root.jwk", OLD)))
    public = tmp_path / "public.jwk"
    Key.generate("EdDSA").public().save(public)
    with caplog.at_level(logging.WARNING):
        Relay(keyed(key=public))
        assert not caplog.messages
        Relay(keyed(key=write(tmp_path / "root.jwk", OLD, 0o644)))
    assert any("chmod 600" in line for line in caplog.messages)


@pytest.mark.parametrize("content", ["", "x", jwk(b"short"), jwk(alg="none"), jwk(key_ops=["sign"])])
@pytest.mark.parametrize("form", ["key", "key_dir"])
def test_a_start_with_a_bad_key_is_refused(tmp_path: Path, content: str, form: str) -> None:
    file = tmp_path / "root.jwk"
    file.write_text(content)
    with pytest.raises(ConfigError, match=rf"^\[auth\] {form}: .*root\.jwk: "):
        Relay(keyed(key=file) if form == "key" else keyed(key_dir=str(tmp_path)))
