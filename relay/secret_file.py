"""The secret of stateless resets that the command keeps in a file, if `[server] secret` is not set.

Must never show the secret, nor stop a relay. A relay in another program has the secret of its configuration, or
one until it ends.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from relay.config import Config
from relay.logger import get_logger
from relay.runtime import SYSTEM

logger = get_logger("relay")

SIZE: Final = 32  # bytes
SHORTEST: Final = 16  # bytes of one that is taken


def with_secret(config: Config, environ: Mapping[str, str] = os.environ) -> Config:
    """Return `config` with the secret of the file, which is made if it does not exist.

    Relays at different addresses have different secrets of one file: what one of them answers tells nothing of
    another. A port chosen by the system is another one after a restart: no secret is kept for it.
    """
    server = config.server
    if server.secret is not None or not server.listen.port:
        return config
    try:
        file = state_directory(environ) / "secret"
        kept = _read_or_make(file)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        logger.info("clients notice a restart by their idle time-outs only: no secret is kept", reason=reason)
        return config
    secret = hmac.new(kept, str(server.listen).encode(), hashlib.sha256).hexdigest()
    return config.model_copy(update={"server": server.model_copy(update={"secret": SecretStr(secret)})})


def state_directory(environ: Mapping[str, str]) -> Path:
    """The directory for what outlives a restart: systemd's, or the user's (XDG base directories).

    Raises RuntimeError if there is none.
    """
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    home = Path(environ.get("XDG_STATE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".local" / "state") / "moq-relay"


def _read_or_make(file: Path) -> bytes:
    """Raises OSError, or ValueError for a file with something else."""
    try:
        text = file.read_text()
    except FileNotFoundError:
        _make(file)
        text = file.read_text()
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) < SHORTEST:
        raise ValueError(f"{file}: expected at least {2 * SHORTEST} hexadecimal digits")
    return secret


def _make(file: Path) -> None:
    """Write a new secret for this user only; another relay may have been first."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".secret-")  # of mode 0600
    try:
        with os.fdopen(handle, "w") as unfinished:
            unfinished.write(f"{SYSTEM.random.randbytes(SIZE).hex()}\n")
            unfinished.flush()
            os.fsync(unfinished.fileno())
        with suppress(FileExistsError):
            os.link(name, file)
    finally:
        os.unlink(name)  # noqa: PTH108 - as it was made
