"""Fail points: a name that nobody lists is no point, and must not pass for one."""

from __future__ import annotations

import pytest

from consumer_keys import failpoints


def test_a_point_without_a_name_in_the_list_is_an_error_wherever_a_hook_is_installed() -> None:
    reached: list[str] = []
    failpoints.install(reached.append)
    try:
        for name in ("change.before-write", "head.before-commit", "poniter.before-write", ""):
            with pytest.raises(LookupError):
                failpoints.reach(name)
        failpoints.reach("head.before-write")
    finally:
        failpoints.install(None)
    assert reached == ["head.before-write"]
