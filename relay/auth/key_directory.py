"""A directory of keys: `{kid}.jwk` checks the tokens whose header names that kid.

Changes count from the next token on.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from cachetools import LRUCache

from relay.auth.authenticator import Keys, load_verifying
from relay.auth.key import Key, KeyFileError, token_kid
from relay.auth.permissions import UnauthorizedError
from relay.logger import get_logger

logger = get_logger("relay.auth")

SUFFIX: Final = ".jwk"
CACHED: Final = 1_024  # any other costs reading a file

Stamp = tuple[int, int, int]  # inode, size and time of a file's last change


class KeyDirectory(Keys):
    """`[auth] key_dir` with a path."""

    def __init__(self, directory: Path) -> None:
        """Raises KeyFileError for an unusable key, OSError for the directory."""
        self._directory = directory
        self._cache: LRUCache[str, tuple[Stamp, Key | None]] = LRUCache(CACHED)
        files = sorted(file for file in directory.iterdir() if file.suffix == SUFFIX)
        for file in files:
            _read(file, file.stem)
        if not files:
            logger.warning("no key in [auth] key_dir yet, so every token is refused", directory=directory)

    async def find(self, token: str) -> Key:
        kid = token_kid(token)  # letters, digits, `-` and `_`: never a path
        if kid is None:
            raise UnauthorizedError("the token names no key (kid), which a key directory needs")
        file = self._directory / f"{kid}{SUFFIX}"
        try:
            stamp = _stamp(file)
        except OSError as error:
            self._cache.pop(kid, None)
            if not isinstance(error, FileNotFoundError):
                logger.warning("key refused", file=file, reason=error.strerror)
            raise UnauthorizedError(f"there is no key {kid!r}") from None
        known = self._cache.get(kid)
        if known is None or known[0] != stamp:
            known = self._cache[kid] = (stamp, self._load(file, kid))
        if known[1] is None:
            raise UnauthorizedError(f"the key {kid!r} is unusable")
        return known[1]

    def _load(self, file: Path, kid: str) -> Key | None:
        """None for a bad key, logged once per content of the file."""
        try:
            return _read(file, kid)
        except (KeyFileError, OSError) as error:
            logger.warning("key refused", reason=error)
            return None


def _read(file: Path, kid: str) -> Key:
    key = load_verifying(file)
    if key.kid not in (None, kid):
        # on a file system that folds case, "A.jwk" would also be the key "a"
        raise KeyFileError(f"{file}: holds the key {key.kid!r}, expected {kid!r} as in the name of the file")
    return key


def _stamp(file: Path) -> Stamp:
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(0, "not a file")
    return found.st_ino, found.st_size, found.st_mtime_ns
