"""The file with the secret of stateless resets: made once, for its owner only, and never in the way of a start."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from pydantic import SecretStr

from relay.config import Address, Auth, Config, Server, ServerTls
from relay.config.changes import listed
from relay.secret_file import state_directory, with_secret


def config(listen: str = "[::]:443", secret: str | None = None) -> Config:
    return Config(
        server=Server(
            listen=Address.parse(listen),
            tls=ServerTls(generate=("localhost",)),
            secret=None if secret is None else SecretStr(secret),
        ),
        auth=Auth(public=""),
    )


def secret_of(config: Config) -> str:
    assert config.server.secret is not None
    return config.server.secret.get_secret_value()


@pytest.fixture
def state(tmp_path: Path) -> dict[str, str]:
    """The environment of a service."""
    return {"STATE_DIRECTORY": str(tmp_path / "state")}


def test_it_is_made_once_and_the_same_after_a_restart(state: dict[str, str], tmp_path: Path) -> None:
    first = with_secret(config(), state)
    file = tmp_path / "state" / "secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert list(file.parent.iterdir()) == [file]
    text = file.read_text()
    assert len(bytes.fromhex(text)) == 32
    assert secret_of(with_secret(config(), state)) == secret_of(first)
    assert file.read_text() == text
    assert text.strip() not in secret_of(first)
    assert secret_of(with_secret(config("[::]:444"), state)) != secret_of(first)
    assert not listed(first, with_secret(config(), state))  # a reload finds nothing changed


@pytest.mark.parametrize(("listen", "secret"), [("[::]:443", "x" * 16), ("[::]:0", None)])
def test_no_file_is_needed(listen: str, secret: str | None, state: dict[str, str], tmp_path: Path) -> None:
    given = config(listen, secret)
    assert with_secret(given, state) is given
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_told_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "file").touch()
    given = config()
    assert with_secret(given, {"STATE_DIRECTORY": str(tmp_path / "file" / "state")}) is given
    [record] = caplog.records
    assert record.levelname == "INFO"
    assert record.getMessage() == (
        "clients notice a restart by their idle time-outs only: no secret is kept reason='Not a directory'"
    )


@pytest.mark.parametrize("text", ["", "0123", "not hexadecimal at all, though it is long", "zz" * 32])
def test_a_file_with_something_else_is_left_alone(
    text: str, state: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    file = tmp_path / "state" / "secret"
    file.parent.mkdir()
    file.write_text(text)
    assert with_secret(config(), state).server.secret is None
    assert file.read_text() == text
    [record] = caplog.records
    assert f"{file}: expected at least 32 hexadecimal digits" in record.getMessage()
    assert not text or text not in record.getMessage()


def test_another_relay_may_be_first(
    state: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes the file after we found none: both then have its secret."""
    file = tmp_path / "state" / "secret"
    link = "relay.secret_file.os.link"

    def late(_new: str, old: Path) -> None:
        old.write_text("ab" * 32)
        raise FileExistsError

    monkeypatch.setattr(link, late)
    ours = with_secret(config(), state)
    monkeypatch.undo()
    assert file.read_text() == "ab" * 32
    assert list(file.parent.iterdir()) == [file]
    assert secret_of(with_secret(config(), state)) == secret_of(ours)


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        (
            {"STATE_DIRECTORY": "/var/lib/moq-relay:/var/lib/other", "XDG_STATE_HOME": "/x"},
            "/var/lib/moq-relay",
        ),
        ({"XDG_STATE_HOME": "/x/state"}, "/x/state/moq-relay"),
        ({"XDG_STATE_HOME": "relative"}, "/home/me/.local/state/moq-relay"),
        ({}, "/home/me/.local/state/moq-relay"),
    ],
)
def test_places(environ: dict[str, str], place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert state_directory(environ) == Path(place)
