"""The main job once through: from an operator's call to a verdict at the gateway."""

from tests.conftest import Api


def test_a_created_and_bound_key_is_valid_on_the_next_request(api: Api) -> None:
    key = api.bound_key()
    answer = api.validate(key["value"])
    assert (answer.status, answer.headers["X-Key-Id"]) == (200, key["key_id"])


def test_a_disabled_key_is_refused_and_an_enabled_one_works_again(api: Api) -> None:
    key = api.bound_key()
    assert api.validate(key["value"]).status == 200
    api("disable_key", "POST", f"/keys/{key['key_id']}/disable")
    assert api.validate(key["value"]).status == 401
    api("enable_key", "POST", f"/keys/{key['key_id']}/enable")
    assert api.validate(key["value"]).status == 200
