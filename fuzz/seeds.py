"""First inputs: made of the golden bytes of the protocol, and noise for the targets that build their own.

Owns how a vector of tests/wire/vectors.json becomes an input of a target.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

from relay.wire.version import Version

VECTORS = Path(__file__).parent.parent / "tests" / "wire" / "vectors.json"
VERSIONS = tuple(Version)


def _versions(vector: dict[str, Any]) -> list[int]:
    numbers = re.findall(r"\d\d", vector["version"]) if vector["version"].startswith("lite-") else []
    return [VERSIONS.index(Version(int(text))) for text in numbers] or range(len(VERSIONS))  # type: ignore[return-value]


def noise() -> list[bytes]:
    """The same at every call."""
    dice = random.Random(0)
    return [bytes(40), *(dice.randbytes(20 * number) for number in range(1, 16))]


def seeds(target: str) -> list[bytes]:
    """Inputs for `target`."""
    found = []
    for vector in json.loads(VECTORS.read_text())["vectors"]:
        data = bytes.fromhex(vector["hex"])
        framed = vector["version"].startswith("ws ")
        for version in _versions(vector):
            lead = bytes((version, len(data) % 8))
            match target:
                case "wire-requests" | "wire-groups" | "wire-frames" if not framed:
                    found.append(lead + (b"\0" if target == "wire-groups" else b"") + data)
                case "wire-replies" if not framed:
                    found += [lead + bytes((kind,)) + data for kind in range(4)]
                case "wire-setups" if not framed and not version:
                    found += [bytes((kind, 0)) + data for kind in range(4)]
                case "wire-datagrams" if not framed:
                    found.append(bytes((version, 0)) + data)
                case "qmux-frames" if framed:
                    found += [bytes((draft,)) + data for draft in range(3)]
                case "plain-frames" if framed:
                    found.append(data)
                case "http3-capsules" | "http3-headers" | "http3-heads" if not framed and not version:
                    found.append(b"\0\0" + data if target == "http3-heads" else b"\0" + data)
    texts = {
        "http3-offers": ['\0"moq-lite-05", "moq-lite-04";a=1', '\0"a\\"b";x="y";z=:YQ==:, "c"'],
        "websocket-offers": ["qmux-02.moq-lite-05, webtransport", "qmux-00"],
        "config-load": ['\0[server]\nlisten = "[::]:443"\ntls.generate = ["localhost"]\n[auth]\npublic = ""\n'],
        "config-texts": ["[::1]:443", "https://keys.example.com/a/", "localhost:4443", "1h30m", "2026-12-31T23:59:59Z",
                         "group=5&frames=1&follow=0", "moqt://relay.test/a?jwt=b", "http://127.0.0.1/"],
        "auth-urls": ["\x04/a/bjwt=a.b.c&x=y", "\x05/%2e/b#x"],
    }  # fmt: skip
    return [*dict.fromkeys(found), *(text.encode() for text in texts.get(target, [])), *noise()]
