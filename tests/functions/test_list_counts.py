"""Totals of lists are exact for every filter, whatever was done to the keys, and pages hold what the filters ask."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from tests.conftest import Api
from tests.databases import rows_of
from tests.functions.helpers import check_counted

STEPS = 120
FILTERS: dict[str, list[Any]] = {
    "status": [None, "Enable", "Disable"],
    "generation": [None, "System", "Custom", "KMS"],
    "type": [None, "ApiKey"],
    "bound": [None, True, False],
    "keyword": [None, "KEY-1"],
}


class Keys:
    """Changes keys at random, and knows what must be there then."""

    def __init__(self, api: Api, seed: int) -> None:
        self.api, self.random, self.made = api, random.Random(seed), 0
        self.consumers = [api.create_consumer(f"app-{number}")["consumer_id"] for number in range(2)]
        self.keys: dict[str, dict[str, Any]] = {}

    def step(self) -> None:
        """One change, or one that is refused."""
        if not self.keys or self.random.random() < 0.3:
            self.create()
            return
        key = self.random.choice(list(self.keys.values()))
        path, choice = f"/keys/{key['key_id']}", self.random.randrange(6)
        if choice < 2:
            self.take("enable_key" if choice else "disable_key", "POST", f"{path}/{'enable' if choice else 'disable'}")
        elif choice == 2:
            body = {"consumer_id": self.random.choice(self.consumers)}
            self.take("bind_consumer", "PUT", f"{path}/consumer", body)
        elif choice == 3:
            self.take("unbind_consumer", "DELETE", f"{path}/consumer")
        elif choice == 4:
            self.take("update_key", "PATCH", path, {"name": f"renamed-{self.random.randrange(1000)}"})
        elif self.api("delete_key", "DELETE", path).status == 204:
            del self.keys[key["key_id"]]

    def create(self) -> None:
        self.made += 1
        generation = self.random.choice(("System", "Custom", "KMS"))
        fields: dict[str, Any] = {"generation": generation, "status": self.random.choice(("Enable", "Disable"))}
        if generation == "Custom":
            fields["value"] = f"own-Zq7x9Lk3-{self.made:04d}"
        if generation == "KMS":
            self.api.put_credential(f"cred-{self.made}", f"content-Zq7x9Lk3-{self.made:04d}")
            fields["credential"] = {"name": f"cred-{self.made}", "version": "v1"}
        key = self.api.create_key(f"key-{self.made}", **fields)
        self.keys[key["key_id"]] = key

    def take(self, function: str, method: str, path: str, body: Any = None) -> None:
        answer = self.api(function, method, path, body)
        assert answer.status in (200, 409), answer
        if answer.status == 200:
            self.keys[answer.body["key_id"]] = answer.body

    def matching(self, filters: dict[str, Any]) -> set[str]:
        return {
            key["key_id"]
            for key in self.keys.values()
            if all(key[name] == filters[name] for name in ("status", "generation", "type") if name in filters)
            and ("bound" not in filters or (key["consumer"] is not None) == filters["bound"])
            and ("keyword" not in filters or filters["keyword"].lower() in key["name"])
            and ("consumer_id" not in filters or (key["consumer"] or {}).get("consumer_id") == filters["consumer_id"])
        }


def listed(api: Api, filters: dict[str, Any], limit: int) -> tuple[int, list[str]]:
    """The total, and the ids of all pages by cursor."""
    query = {name: str(value).lower() if isinstance(value, bool) else value for name, value in filters.items()}
    found: list[str] = []
    more: dict[str, Any] = {}
    while True:
        answer = api("list_keys", "GET", "/keys", query={**query, "limit": str(limit), **more})
        assert answer.status == 200, answer.body
        found += [item["key_id"] for item in answer.body["items"]]
        if answer.body["next_cursor"] is None:
            total: int = answer.body["total_count"]
            return total, found
        more = {"cursor": answer.body["next_cursor"]}


@pytest.mark.parametrize("seed", [1, 2])
def test_after_random_changes_every_combination_of_filters_is_counted_and_listed_exactly(api: Api, seed: int) -> None:
    keys = Keys(api, seed)
    engine = api.deployment.services.store.engine
    for number in range(STEPS):
        keys.step()
        if number % 20 == 19:
            check_counted(rows_of(engine))
    combinations = [dict(zip(FILTERS, values, strict=True)) for values in itertools.product(*FILTERS.values())]
    combinations += [{"consumer_id": keys.consumers[0], "status": status} for status in FILTERS["status"]]
    _, newest_first = listed(api, {}, 100)
    for given in combinations:
        filters = {name: value for name, value in given.items() if value is not None}
        wanted = keys.matching(filters)
        total, found = listed(api, filters, 7)
        assert (total, set(found)) == (len(wanted), wanted), filters
        assert found == [key_id for key_id in newest_first if key_id in wanted], filters
        offset = {"limit": "5", "offset": "3", **{n: str(v).lower() if n == "bound" else v for n, v in filters.items()}}
        answer = api("list_keys", "GET", "/keys", query=offset).body
        assert [item["key_id"] for item in answer["items"]] == found[3:8], filters


@pytest.mark.parametrize(("keyword", "found"), [
    ("n", 2), ("KEY", 2), ("y-of-a-Rather", 1), ("rather-long-name-that-nobody", 1),
    ("rather-long-name-that-somebody", 0), ("密钥", 1), ("钥-b", 1), ("'", 0), ("\\", 0), ("a'", 0), ("' | 'k", 0),
    ("':*", 0), ("%", 0), ("_", 0),
])  # fmt: skip
def test_a_keyword_is_any_part_of_a_name_in_whatever_case_and_nothing_else(api: Api, keyword: str, found: int) -> None:
    api.create_key("key-of-a-rather-long-name-that-nobody-writes-twice")
    api.create_key("密钥-b-n-key")
    api.create_key("x1")
    api.create_consumer("密钥-b-n-key")
    answer = api("list_keys", "GET", "/keys", query={"keyword": keyword})
    assert (answer.status, answer.body["total_count"], len(answer.body["items"])) == (200, found, found)
    answer = api("list_consumers", "GET", "/consumers", query={"keyword": keyword})
    assert (answer.status, answer.body["total_count"]) == (200, int(keyword in "密钥-b-n-key" or keyword == "KEY"))
