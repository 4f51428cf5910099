"""The URL of a relay's dashboard, as other relays show it."""

from __future__ import annotations

import pytest

from relay.identity import Listening
from relay.model.member import MemberStatus, MemberTotals


@pytest.mark.parametrize(
    ("node", "http", "https", "url"),
    [
        ("fra.example", [("::", 80)], [], "http://fra.example/"),
        ("fra.example:4443", [("::", 4443)], [], "http://fra.example:4443/"),
        ("fra.example", [("::", 80)], [("::", 443)], "https://fra.example/"),
        ("Fra.Example.", [], [("0.0.0.0", 8443)], "https://fra.example:8443/"),
        ("fra.example", [("::", 443)], [], "http://fra.example:443/"),
        ("[2001:db8::1]:4443", [("::", 80)], [], "http://[2001:db8::1]/"),
        ("10.0.0.1:4443", [("::", 8080)], [], "http://10.0.0.1:8080/"),
        ("fra.example", [], [], None),
        (None, [("::", 80)], [("::", 443)], None),
    ],
)
def test_others_find_the_dashboard_by_the_name_of_the_relay(
    node: str | None, http: list[tuple[str, int]], https: list[tuple[str, int]], url: str | None
) -> None:
    listening = Listening(http=http, https=https)
    assert listening.public_url(node) == url
    if node is not None:  # other relays take it
        status = MemberStatus(MemberTotals(0, 0, 0, 0, 0), url)
        assert MemberStatus.decode(status.encode(), node) == status
