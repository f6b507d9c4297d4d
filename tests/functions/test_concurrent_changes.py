"""Many changes at once: each is published when it is acknowledged, whoever held the publisher's lease."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.conftest import Api


def test_every_one_of_many_concurrent_changes_takes_effect_on_the_next_request(api: Api) -> None:
    consumer = api.create_consumer()
    keys = [api.create_key(f"key-{number}") for number in range(16)]

    def bind_and_use(key: dict[str, str]) -> int:
        api.bind(key, consumer)
        return api.validate(key["value"]).status

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(bind_and_use, keys)) == [200] * len(keys)


def test_of_many_concurrent_creations_with_one_name_one_wins(api: Api) -> None:
    body = {"name": "same", "generation": "System"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api("create_key", "POST", "/keys", body), range(16)))
    codes = sorted(answer.body.get("code", "created") for answer in answers)
    assert codes == ["NameInUse"] * 15 + ["created"]
    assert api("list_keys", "GET", "/keys").body["total_count"] == 1
