"""Namespaces as paths, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.path import is_text
from relay.moq.ietf_core import PROFILES
from relay.moq.ietf_names import fits, namespace_of, path_of
from relay.wire.ietf.values import MAX_NAME
from relay.wire.version import Draft

FIELDS = (
    st.binary(max_size=6) | st.text(max_size=4).map(lambda text: text.encode()) | st.sampled_from([b"", b"/"])
)
NAMESPACES = st.lists(FIELDS, max_size=5).map(tuple)


def plain(field: bytes) -> bool:
    try:
        return bool(field.decode()) and b"/" not in field
    except UnicodeDecodeError:
        return False


@given(NAMESPACES)
def test_each_namespace_has_a_path_of_its_own(namespace: tuple[bytes, ...]) -> None:
    """And no path that moq-lite, a URL or a token can name is that of another one."""
    path = path_of(namespace)
    assert namespace_of(path) == namespace
    assert is_text(path) is all(map(plain, namespace))
    if is_text(path):
        assert path == "/".join(field.decode() for field in namespace)


@pytest.mark.parametrize(
    "fields", [(b"\xed\xb0\xaf",), (b"\xed\xb0\x80",), (b"\xed\xb2\x80",)], ids=["slash", "empty", "byte"]
)
def test_encoded_surrogates_are_bytes_like_any_other(fields: tuple[bytes, ...]) -> None:
    assert namespace_of(path_of(fields)) == fields
    assert path_of(fields) not in {path_of((b"/",)), path_of((b"",)), path_of((b"\x80",))}


def test_names_that_fit() -> None:
    old, new = PROFILES[Draft.DRAFT_14], PROFILES[Draft.DRAFT_18]
    assert fits(path_of((b"a", b"")), "t", old)
    assert not fits(path_of((b"a", b"")), "t", new)
    assert fits(path_of((b"\xff" * (MAX_NAME - 1),)), "t", new)
    assert not fits(path_of((b"\xff" * MAX_NAME,)), "t", new)
