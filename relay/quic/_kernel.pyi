from typing import Self

class Keys:
    def __new__(cls, key: bytes, iv: bytes, header_key: bytes, sealing: bool) -> Self: ...
    def one(self, number: int, number_size: int, flags: int, cid: bytes, payload: bytes, /) -> bytes: ...
    def run(
        self,
        number: int,
        number_size: int,
        flags: int,
        cid: bytes,
        prefix: bytes,
        chunks: list[bytes],
        ends: list[int],
        cursor: int,
        start: int,
        stop: int,
        step: int,
        fin: bool,
        /,
    ) -> tuple[bytes, int]: ...
    def open(
        self, datagram: bytes, cid_size: int, expected: int, phase: int, /
    ) -> tuple[int, int, bytes | None] | None: ...
    def take(
        self, buffer: memoryview | bytes, each: int, cid: bytes, expected: int, phase: int, /
    ) -> tuple[int, int, int, int, bytes, bool] | None: ...
