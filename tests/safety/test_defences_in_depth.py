"""Things that only a faulty publisher, a faulty caller or our own mistake could bring about; none lets anybody in."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumer_keys import snapshot_base
from consumer_keys.snapshot import KeyRecord, SnapshotError
from consumer_keys.verdict import CODES, VALID
from tests.conftest import Api


@pytest.mark.parametrize("text", [*CODES, "", "anything"])
def test_a_key_given_as_text_is_never_taken_for_a_verdict(api: Api, text: str) -> None:
    from consumer_keys import validate_wiring

    api.bound_key()
    api.verify("warm-up")
    verdict, _ = validate_wiring._validation().validator.judge("default", text)
    assert verdict.code != VALID


def test_a_base_file_that_ends_early_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "base.lmdb"
    keys = [
        (number.to_bytes(32, "big"), KeyRecord(f"secret-{number:014x}", "n" * 40, True, None, 0))
        for number in range(5000)
    ]
    snapshot_base.build(str(path), keys, [])
    whole = path.read_bytes()
    for size in (len(whole) - 4096, len(whole) // 2, 8192 + 4096):
        path.write_bytes(whole[:size])
        with pytest.raises(SnapshotError):
            snapshot_base.Base(str(path))


def test_header_values_of_other_kinds_are_a_refusal_whatever_their_depth_or_size(api: Api) -> None:
    api.bound_key()
    nested: object = "x"
    for _ in range(980):
        nested = [nested]
    for value in (nested, 10**5000, {"a": nested}):
        answer = api.deployment.handlers["validate_key"](
            {"httpMethod": "GET", "path": "/v1/gateways/default/validate", "headers": {"x-api-key": value}}, {}
        )
        assert answer["statusCode"] == 401


def test_repeated_header_lines_count_towards_the_size_limit(api: Api) -> None:
    api.bound_key()
    answer = api("validate_key", "GET", "/validate", headers={"x-filler": ["a" * 4000] * 5}, token=None)
    assert answer.status == 431
