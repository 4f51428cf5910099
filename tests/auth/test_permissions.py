"""The reduction of grants to a URL, against the worked examples and a segment model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.auth.permissions import Permissions, reduce_grants


@pytest.mark.parametrize(
    ("url", "put", "get"),
    [
        ("/room/123", ("alice",), ("",)),
        ("/room/123/alice", ("",), ("",)),
        ("/room/123/bob", (), ("",)),
        ("/room/123/alice/cam", ("",), ("",)),
        ("/room", ("123/alice",), ("123",)),
        ("", ("room/123/alice",), ("room/123",)),
        ("/secret", None, None),
        ("/room/1234", None, None),
        ("//room//123//", ("alice",), ("",)),
    ],
)
def test_the_examples(url: str, put: tuple[str, ...] | None, get: tuple[str, ...] | None) -> None:
    assert reduce_grants(["alice"], "room/123", url) == put
    assert reduce_grants([""], "room/123", url) == get


def test_slashes_in_claims_do_not_matter() -> None:
    assert reduce_grants(["/alice/"], "/room/123/", "/room/123") == ("alice",)


def test_no_grants_are_nothing_and_redundant_ones_are_dropped() -> None:
    assert reduce_grants([], "room", "/room") == ()
    assert reduce_grants(["a", "a/b", "c"], "", "/") == ("a", "c")
    assert reduce_grants(["a", ""], "", "/") == ("",)


segments = st.lists(st.sampled_from(["a", "b", "é", "ab"]), max_size=3).map(tuple)


@given(st.lists(segments, max_size=4), segments, segments, segments)
def test_a_session_may_do_what_the_token_grants_and_no_more(
    grants: list[tuple[str, ...]], root: tuple[str, ...], url: tuple[str, ...], path: tuple[str, ...]
) -> None:
    reduced = reduce_grants(["/".join(grant) for grant in grants], "/".join(root), "/".join(url))
    related = url[: len(root)] == root or root[: len(url)] == url
    assert (reduced is not None) == related
    if reduced is None:
        return
    absolute = url + path
    granted = any(absolute[: len(root + grant)] == root + grant for grant in grants)
    permissions = Permissions("/".join(url), reduced, reduced)
    assert permissions.may_subscribe("/".join(path)) == granted
