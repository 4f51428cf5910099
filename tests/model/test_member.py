"""Names of relays: validity and equality."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.model.member import GREATEST, LONGEST, Member, MemberStatus, authority_of, same_host

GOOD = (
    "relay",
    "relay:4443",
    "relay.example.com",
    "relay.example.com.",
    "relay.example.com.:1",
    "Relay-1_a.Example.COM:65535",
    "_a",
    "10.0.0.1",
    "10.0.0.1:443",
    "[::1]",
    "[2001:db8::1]:4443",
    "[::ffff:10.0.0.1]:1",
    "x" * 63,
    ".".join(["x" * 63] * 4) + ":65535",
)
BAD = (
    "",
    " ",
    "a b",
    " a",
    "a ",
    "a\n",
    "a\0b",
    "a/b",
    "/a",
    "..",
    ".",
    ".a",
    "a..b",
    "a/../b",
    "-a",
    "a-",
    "a.-b",
    "http://a",
    "https://a:443/",
    "moqt://a",
    "user@host",
    "user:pa55@host",
    "a?b",
    "a#b",
    "a:",
    "a:0",
    "a:00000",
    "a:65536",
    "a:99999",
    "a:123456",
    "a:-1",
    "a:+1",
    "a: 1",
    "a:1:2",
    "a:0x1",
    "a:\u0661",
    "::1",
    "[::1",
    "::1]",
    "[]",
    "[:::]",
    "[::::1]:5",
    "[1.2.3.4]",
    "[abc]",
    "[fe80::1%eth0]",
    "[::1]x",
    "[::1]:",
    "réseau",
    "\uff52elay",
    "x" * 64,
    "x" * 300,
    "x." * 140,
)


@pytest.mark.parametrize("name", GOOD)
def test_a_name(name: str) -> None:
    assert Member.parse(name, 7) == (name, 7)
    host, port = authority_of(name)
    assert host
    assert 0 < port < 65536


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Member.parse(name, 7)


@given(st.text(max_size=LONGEST + 10) | st.text("[]:.-@/?#%01a", max_size=20))
@example("[:::]")
@example("[fe80::1%1]")
def test_a_name_from_the_network_is_refused_or_can_be_compared(name: str) -> None:
    try:
        Member.parse(name, 0)
    except ValueError:
        return
    assert len(name) <= LONGEST
    assert name.isascii()
    assert same_host(name, name)
    assert same_host(name, name.upper())
    host, port = authority_of(name)
    assert host
    assert authority_of(f"https://{name}/path") == (host, port)


@pytest.mark.parametrize(
    "one, other",
    [
        ("relay", "relay"),
        ("relay", "RELAY"),
        ("relay", "relay:443"),
        ("relay", "relay."),
        ("relay", "https://relay"),
        ("relay", "https://Relay:443/"),
        ("relay:4443", "moqt://relay:4443/room"),
        ("[::1]:5", "https://[::1]:5"),
        ("[2001:DB8::1]", "[2001:db8::1]:443"),
    ],
)
def test_the_same_relay(one: str, other: str) -> None:
    assert same_host(one, other)
    assert same_host(other, one)


@pytest.mark.parametrize(
    "one, other",
    [
        ("relay", "relay:4443"),
        ("relay:443", "relay:4443"),
        ("relay", "relay.example.com"),
        ("relay-1", "relay-2"),
        ("[::1]", "[::2]"),
        ("localhost", "127.0.0.1"),
    ],
)
def test_another_relay(one: str, other: str) -> None:
    assert not same_host(one, other)
    assert not same_host(other, one)


@given(st.binary(max_size=200) | st.from_type(object).map(repr).map(str.encode))
def test_any_bytes_are_a_status_or_refused(data: bytes) -> None:
    try:
        found = MemberStatus.decode(data, "relay.example")
    except ValueError:
        return
    assert MemberStatus.decode(found.encode(), "relay.example") == found


@given(
    st.dictionaries(
        st.sampled_from(("sessions", "broadcasts", "viewers", "received", "sent")),
        st.integers() | st.floats() | st.booleans() | st.none() | st.text() | st.just(10**400),
    ),
    st.text() | st.none(),
)
def test_figures_of_a_status_are_numbers_within_bounds(totals: dict[str, object], url: str | None) -> None:
    data = json.dumps({"totals": totals, "dashboard": url}).encode()
    try:
        found = MemberStatus.decode(data, "relay.example")
    except ValueError:
        return
    assert all(0 <= getattr(found.totals, key) <= GREATEST for key in totals)
