from __future__ import annotations

from typing import Any

import pytest

from cai.errors import UsageError
from cai.models.extra_body import CAPPED, FIXED, check_extra_body


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("capped", [True, False])
def test_what_the_method_sets_cannot_be_set_by_hand(name: str, capped: bool) -> None:
    with pytest.raises(UsageError, match=f"--extra-body must not hold '{name}': {FIXED[name]}"):
        check_extra_body({"top_p": 0.9, name: 1}, capped=capped)


@pytest.mark.parametrize("name", CAPPED)
def test_what_changes_the_price_of_a_call_cannot_be_set_beside_a_cap(name: str) -> None:
    body: dict[str, Any] = {name: "flex"}
    with pytest.raises(UsageError, match=f"--max-cost cannot hold with '{name}' in --extra-body"):
        check_extra_body(body, capped=True)
    check_extra_body(body, capped=False)


def test_a_body_that_is_no_json_is_refused() -> None:
    with pytest.raises(UsageError, match="--extra-body cannot be sent as JSON"):
        check_extra_body({"top_p": object()}, capped=False)
