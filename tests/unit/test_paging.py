"""Cursors: they work for the list, gateway and filters that they were made for, for a day, and for nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer_keys.errors import Problem
from consumer_keys.model import ListConsumers, ListKeys, Page
from consumer_keys.paging import CURSOR_MS, list_page

KEY, NOW_MS = b"c" * 32, 1_800_000_000_000
LAST = (1_799_999_999_999, "secret-00000000000001")


class _Found(NamedTuple):
    items: list[Any]
    total_count: int
    last: tuple[int, str] | None


def page(
    given_now: Page, *, key: bytes = KEY, kind: str = "keys", gateway: str = "default", now_ms: int = NOW_MS,
    last: tuple[int, str] | None = LAST,
) -> tuple[dict[str, Any], Any]:  # fmt: skip
    """The answer, and what the query was asked to begin after."""
    asked: list[Any] = []

    def query(gateway_id: str, filters: dict[str, Any], limit: int, offset: int, after: Any) -> _Found:
        asked.append(after)
        return _Found([], 5, last)

    return list_page((key,), kind, gateway, given_now, query, now_ms), asked[0]


def cursor_of(given_now: Page = ListKeys()) -> str:  # noqa: B008 - frozen
    cursor: str = page(given_now)[0]["next_cursor"]
    return cursor


def refused(given_now: Page, **options: Any) -> str:
    with pytest.raises(Problem) as caught:
        page(given_now, **options)
    assert (caught.value.code, [error.field for error in caught.value.errors]) == ("InvalidParameter", ["cursor"])
    return caught.value.detail


def test_a_cursor_goes_on_after_the_last_row_of_the_page_before() -> None:
    answer, after = page(ListKeys())
    assert after is None
    assert answer == {"items": [], "total_count": 5, "next_cursor": cursor_of()}
    assert page(ListKeys(cursor=cursor_of()))[1] == LAST


def test_the_last_page_has_no_cursor() -> None:
    assert page(ListKeys(), last=None)[0]["next_cursor"] is None


def test_the_size_of_the_page_may_change_on_the_way() -> None:
    assert page(ListKeys(cursor=cursor_of(ListKeys(limit=5)), limit=50))[1] == LAST


@pytest.mark.parametrize(
    "options", [{"key": b"C" * 32}, {"kind": "consumers"}, {"gateway": "other"}, {"gateway": "defaul"}]
)
def test_a_cursor_of_another_deployment_list_or_gateway_is_refused(options: dict[str, Any]) -> None:
    refused(ListKeys(cursor=cursor_of()), **options)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"status": "Enable"}), ({"status": "Enable"}, {}), ({"status": "Enable"}, {"status": "Disable"}),
        ({"keyword": "a"}, {"keyword": "b"}), ({"bound": True}, {"bound": False}), ({}, {"bound": False}),
        ({"keyword": "a"}, {"consumer_id": "a"}), ({"generation": "KMS"}, {"generation": "Custom"}),
    ],
)  # fmt: skip
def test_a_cursor_of_other_filters_is_refused(before: dict[str, Any], after: dict[str, Any]) -> None:
    refused(ListKeys(cursor=cursor_of(ListKeys(**before)), **after))


def test_a_cursor_lives_for_a_day() -> None:
    given_now = ListKeys(cursor=cursor_of())
    assert page(given_now, now_ms=NOW_MS + CURSOR_MS)[1] == LAST
    assert "too old" in refused(given_now, now_ms=NOW_MS + CURSOR_MS + 1)


def test_every_changed_character_of_a_cursor_is_refused() -> None:
    cursor = cursor_of()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/. "
    for position, char in enumerate(cursor):
        for other in alphabet:
            if other != char:
                refused(ListKeys(cursor=f"{cursor[:position]}{other}{cursor[position + 1 :]}"))


def test_every_cut_or_longer_cursor_is_refused() -> None:
    cursor = cursor_of()
    for length in range(len(cursor)):
        refused(ListKeys(cursor=cursor[:length]))
    for tail in ("A", "=", "==", "\n", " ", "-"):
        refused(ListKeys(cursor=cursor + tail))
        refused(ListKeys(cursor=tail + cursor))


@given(st.text(max_size=300))
def test_no_text_makes_anything_but_a_refusal(text: str) -> None:
    refused(ListKeys.model_construct(cursor=text, limit=20, offset=0))


@given(st.integers(0, 2**53), st.text(st.characters(codec="utf-8"), max_size=40), st.text("ab", min_size=1, max_size=9))
def test_any_position_comes_back_as_it_was(created_at: int, ident: str, keyword: str) -> None:
    first = page(ListConsumers(keyword=keyword), kind="consumers", last=(created_at, ident))[0]
    again = ListConsumers(keyword=keyword, cursor=first["next_cursor"])
    assert page(again, kind="consumers")[1] == (created_at, ident)


def test_a_cursor_shows_no_part_of_its_key() -> None:
    assert KEY.hex() not in cursor_of().encode().hex()
