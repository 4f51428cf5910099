"""The reason of a rejection in `www-authenticate`, written and read."""

from __future__ import annotations

import pytest

from relay.transport.refusal import answered, challenge


@pytest.mark.parametrize("reason", ["unauthorized: token expired", 'says "no"', "back\\slash"])
def test_a_reason_that_is_written_is_read(reason: str) -> None:
    plain = reason.replace('"', "").replace("\\", "")
    assert answered(401, challenge(reason)) == f"the server answered 401, {plain}"


@pytest.mark.parametrize(
    "field", [None, "", "Bearer", challenge(""), 'Basic realm="x"', 'Bearer error_description="']
)
def test_a_server_that_says_nothing(field: str | None) -> None:
    assert answered(401, field) == "the server answered 401"
