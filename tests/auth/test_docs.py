"""docs/auth.md against the code: its tables of examples, reasons and numbers.

tests/e2e/test_auth_docs.py runs its transcripts.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from contextlib import redirect_stdout
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from relay.auth import authenticator as rules
from relay.auth import key as keys
from relay.auth import material, permissions, throttle
from relay.auth.authenticator import Authenticator, OneKey
from relay.auth.claims import CLOCK_SKEW, Claims
from relay.auth.key import ALGORITHMS, Key
from relay.auth.key_directory import KeyDirectory
from relay.auth.permissions import Permissions, UnauthorizedError
from relay.auth.throttle import Throttle
from relay.config.tables import Auth
from relay.model.address import PREFIX_V6
from relay.model.limits import Limits
from relay.paths import MAX_SEGMENTS
from relay.runtime import SYSTEM
from relay.web import key_server
from relay.web.key_server import KeyServer
from tests.auth.support import SECRET, Clock, authenticator, jwk, signed

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "auth.md").read_text()
NOW = int(Clock().now)


def table(first: str) -> list[list[str]]:
    """The rows of the table whose header begins with `| first |`."""
    _, header, rest = PAGE.partition(f"\n| {first} |")
    assert header, first
    lines = takewhile(lambda line: line.startswith("|"), rest.splitlines()[2:])
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def written(prefixes: tuple[str, ...]) -> str:
    """As the page writes prefixes."""
    if prefixes == ("",):
        return "everything"
    return ", ".join(f"`{prefix}`" for prefix in prefixes) or "nothing"


def claims_of(cell: str) -> dict[str, Any]:
    """A token as the page writes it: JSON in which times may be `now + 5`."""
    text = re.sub(
        r"now(?: ([+-]) (\d+))?", lambda found: str(NOW + int("".join(found.groups("")) or 0)), cell
    )
    claims: dict[str, Any] = json.loads(text.strip("`"))
    return claims


def seen(checked: Authenticator, url: str, query: str) -> Permissions | None:
    """None if it is refused."""
    try:
        return asyncio.run(checked.verify(url.strip("`"), query))
    except UnauthorizedError:
        return None


# --- tokens ----------------------------------------------------------------------------------------------------------

EXAMPLES = table("token | URL | may publish")
OLDER = table("token | URL | 0.9.3")


@pytest.mark.parametrize(
    ("token", "url", "publish", "subscribe"), EXAMPLES, ids=lambda cell: str(cell).strip("`")
)
def test_what_a_token_gives(token: str, url: str, publish: str, subscribe: str) -> None:
    found = seen(authenticator(), url, "jwt=" + signed(claims_of(token)))
    if found is None:
        assert (publish, subscribe) == ("refused", "refused")
    else:
        assert (publish, subscribe) == (written(found.publish), written(found.subscribe))


@pytest.mark.parametrize(("token", "url", "before", "here"), OLDER, ids=lambda cell: str(cell).strip("`"))
def test_what_0_9_3_did_is_not_what_we_do(token: str, url: str, before: str, here: str) -> None:
    found = seen(authenticator(), url, "jwt=" + signed(claims_of(token)))
    ours = (
        "refused"
        if found is None
        else f"publish {written(found.publish)}, subscribe {written(found.subscribe)}"
    )
    assert here == ours != before


def test_the_examples_cover_every_claim_and_kind_of_url() -> None:
    assert len(EXAMPLES) >= 18
    tokens = [claims_of(token) for token, *_ in EXAMPLES]
    claims = {name for token in tokens for name in token}
    documented = set(re.findall(r"`(\w+)`", " ".join(name for name, _ in table("claim"))))
    assert documented == {"root", "put", "get", "pub", "sub", "exp", "nbf", "iat", "cluster", "aud"}
    assert documented < claims  # and an unknown one
    urls = " ".join(url for _, url, *_ in EXAMPLES)
    assert all(part in urls for part in ("//", "%20", "%2F", "..", "%2e", "/Room"))


# --- without a token -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("public", "url", "publish", "subscribe"), table("public"), ids=lambda cell: str(cell).strip("`")
)
def test_what_anyone_may_do(public: str, url: str, publish: str, subscribe: str) -> None:
    paths = Auth.model_validate({"public": json.loads(public.strip("`"))}).public
    assert paths is not None
    open_to_all = authenticator(public=Claims(publish=paths.publish, subscribe=paths.subscribe))
    for query in ("", "jwt="):
        found = seen(open_to_all, url, query)
        if found is None:
            assert (publish, subscribe) == ("refused", "refused")
        else:
            assert (publish, subscribe) == (written(found.publish), written(found.subscribe))
    assert seen(open_to_all, url, "jwt=bad") is None


# --- reasons ---------------------------------------------------------------------------------------------------------


class Try(NamedTuple):
    """A refused request."""

    token: str | None = None
    path: str = "/room"
    query: str | None = None
    keys: Any = None
    public: str | None = None


GOOD = signed({"root": "room", "get": ""})


def tries(folder: Path) -> dict[str, Try]:
    """By the reason on the page."""
    directory = KeyDirectory(folder)
    (folder / "bad.jwk").write_text("{}")  # later: a start would refuse it
    return {
        "a token is needed": Try(),
        "no token, and for anyone nothing is granted at /...": Try(public="anon"),
        "nothing is granted at /...": Try(signed({"root": "room", "put": "a"}), "/room/b"),
        "granted is /..., not /...": Try(GOOD, "/other"),
        "the token expired ... ago": Try(signed({"get": "", "exp": NOW - 5})),
        "the token is not valid for another ...": Try(signed({"get": "", "nbf": NOW + 99})),
        "the signature does not fit the key": Try(
            GOOD, keys=OneKey(Key.parse(jwk(SECRET[::-1] + b"x"), "other"))
        ),
        "the token is not signed with ..., as the key would": Try(GOOD, keys=OneKey(Key.generate("ES256"))),
        "not a token: ...": Try(GOOD[:-40].rpartition(".")[0]),
        "the token grants nothing": Try(signed({"root": "room"})),
        "the token grants more than the scope of the key allows": Try(
            GOOD, keys=OneKey(Key.parse(jwk(scope={"root": "other", "get": ""}), "scoped"))
        ),
        "claim ...": Try(signed({"get": 7})),
        "claims publish and subscribe hold patterns, ...": Try(signed({"subscribe": ["**"]})),
        "the token names no key (kid), ...": Try(GOOD, keys=directory),
        "there is no key ...": Try(signed({"get": ""}, kid="none"), keys=directory),
        "the key ... is unusable": Try(signed({"get": ""}, kid="bad"), keys=directory),
        "the key server fails: ...": Try(
            signed({"get": ""}, kid="a"), keys=KeyServer("http://127.0.0.1:1", clock=SYSTEM.now)
        ),
        "a token was given, but no [auth] key is configured": Try(GOOD, keys=0),
        "the query holds jwt 2 times, expected once": Try(query=f"jwt={GOOD}&jwt={GOOD}"),
        "the path has a segment ..., expected names between the slashes": Try(GOOD, "/room/.."),
    }


async def test_the_log_has_these_reasons(tmp_path: Path) -> None:
    known = tries(tmp_path)
    on_page = [cells[0].strip("`") for cells in table("reason in the log")]
    assert on_page[:-1] == list(known)
    assert on_page[-1] in (Path(key_server.__file__).parent / "server.py").read_text()
    for text, attempt in known.items():
        checked = authenticator(public=attempt.public, keys=attempt.keys or None)
        if attempt.keys == 0:
            checked.keys = None
        query = attempt.query or (f"jwt={attempt.token}" if attempt.token else "")
        with pytest.raises(UnauthorizedError) as caught:
            await checked.verify(attempt.path, query)
        pattern = re.escape(text).replace(re.escape("..."), ".+")
        assert re.fullmatch(pattern, str(caught.value)), (text, str(caught.value))
        assert caught.value.status == (502 if isinstance(attempt.keys, KeyServer) else 401)
        if isinstance(attempt.keys, KeyServer):
            await attempt.keys.close()


# --- keys ------------------------------------------------------------------------------------------------------------


def test_the_form_of_a_kid() -> None:
    assert "1 to 128 letters, digits, `-` and `_`" in PAGE
    assert Key.generate("HS256", "aZ9-_" + "x" * 123).kid is not None
    for kid in ("x" * 129, "", "a.b"):
        with pytest.raises(ValueError, match="128"):
            Key.generate("HS256", kid)


def test_every_algorithm_is_listed_with_who_can_sign() -> None:
    rows = table("algorithm")
    listed = {name: who for cell, who, _ in rows for name in re.findall(r"`(\w+)`", cell)}
    assert set(listed) == set(ALGORITHMS)
    for algorithm, who in listed.items():
        assert (who == "relay too") == (material.KINDS[algorithm].kty == "oct")


def python_snippet() -> str:
    [snippet] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(snippet)


@pytest.mark.parametrize("algorithm", ["HS256", "ES256", "EdDSA", "PS256"])
def test_the_python_snippet_signs(algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key = Key.generate(algorithm)
    key.save(Path("app.jwk"), as_json=True)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(python_snippet(), "the snippet of docs/auth.md", "exec"), {})
    place, _, token = printed.getvalue().strip().partition("?jwt=")
    assert keys.token_kid(token) == key.kid
    claims = key.verify(token)
    assert claims.at(place.removeprefix("https://relay.example.com")).publish == ("alice",)
    assert claims.expires is not None


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_the_numbers_in_the_text() -> None:
    limits, text = Limits(), " ".join(PAGE.split())
    smallest, largest = material.MODULUS_BITS
    for said in (
        f"only `nbf` is forgiven {CLOCK_SKEW:g} s",
        f"a clock may be off by {CLOCK_SKEW:g} s",
        f"Secrets have at least {material.SHORTEST_SECRET} bytes, RSA keys {smallest} to {largest} bits",
        f"{limits.auth_failures} times at once; each further refusal is held back {limits.auth_delay:g} s longer",
        f"than the one before, up to {limits.auth_delay * throttle.MOST_STEPS:g} s",
        f"an IPv6 /{PREFIX_V6}",
        f"Tokens over {keys.LONGEST_TOKEN} characters, paths over {permissions.LONGEST_PATH} characters or",
        f"{MAX_SEGMENTS} segments and queries over {rules.MOST_FIELDS} fields are refused unread",
        f"at most {limits.auth_waiting} refusals wait at a time, {key_server.AT_ONCE} requests to a key server",
        f"a key is used for {key_server.FRESH:g} s before the relay asks again",
        f"a `kid` without a key is refused for {key_server.UNKNOWN:g} s",
        f"a key goes on for {key_server.STALE:g} s after its last answer",
        f"An answer has {key_server.TIMEOUT:g} s and {keys.LARGEST_FILE} bytes; {key_server.AT_ONCE} requests run at a",
        f"wait {key_server.UNKNOWN:g} s in between",
        f"believed {key_server.FRESH:g} s longer",
    ):
        assert said in text, said
    assert key_server.STALE == 3600
    assert "Known keys are used for an hour" in text


def test_refusals_are_as_slow_as_the_page_says() -> None:
    limits, clock = Limits(), Clock()
    slow = Throttle(failures=limits.auth_failures, delay=limits.auth_delay, clock=clock)
    waits = [slow.failed("192.0.2.7") for _ in range(40)]
    assert waits == [0.0] * 20 + [float(min(step, 10)) for step in range(1, 21)]
    clock.now += 30
    assert slow.failed("192.0.2.7") == 0.0


def test_the_bounds_are_bounds() -> None:
    for query in ("jwt=" + "x" * (keys.LONGEST_TOKEN + 1), "&".join(["a="] * 33)):
        assert seen(authenticator(public=""), "/", query) is None
    for path in ("/x" * 33, "/" + "x" * 2048):
        assert seen(authenticator(public=""), path, "") is None
    assert seen(authenticator(public=""), "/x" * 32, "") is not None


def test_the_page_links_to_what_exists() -> None:
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in PAGE.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        file, _, anchor = target.partition("#")
        if file:
            assert (Path(__file__).resolve().parents[2] / "docs" / file).exists(), target
        else:
            assert anchor in anchors, target
