"""Rate limits: those a test sets, and those the vendor publishes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest

from tencent_emulator.actions import ACTIONS
from tencent_emulator.cloud import Cloud, CloudError
from tencent_emulator.faults import DOCUMENTED_LIMITS
from tencent_emulator.pytest_plugin import TestClock

if TYPE_CHECKING:
    from tests.emulator.conftest import Raw
else:
    Raw = Any

Ask = Callable[..., dict[str, Any]]
Refused = Callable[[str], AbstractContextManager[None]]


def test_a_throttle_is_a_bucket_that_refills_with_the_clock(
    ssm: Ask, tencent_cloud: Cloud, refused: Refused, tencent_clock: TestClock
) -> None:
    tencent_cloud.throttle("ssm", "ListSecrets", 2)
    for _ in range(2):
        ssm("ListSecrets")
    with refused("RequestLimitExceeded"):
        ssm("ListSecrets")
    ssm("GetServiceStatus")
    tencent_clock.shift(0.5)
    ssm("ListSecrets")
    with refused("RequestLimitExceeded"):
        ssm("ListSecrets")
    tencent_clock.shift(3600)
    for _ in range(2):
        ssm("ListSecrets")
    with refused("RequestLimitExceeded"):
        ssm("ListSecrets")


def test_slow_throttles_let_one_request_through_and_zero_none(tencent_cloud: Cloud, tencent_clock: TestClock) -> None:
    tencent_cloud.throttle("kms", None, 0.5)
    tencent_cloud.call("kms", "ListKeys")
    with pytest.raises(CloudError, match="RequestLimitExceeded"):
        tencent_cloud.call("kms", "ListKeys")
    tencent_clock.shift(2)
    tencent_cloud.call("kms", "ListKeys")
    tencent_cloud.throttle("kms", None, 0)
    with pytest.raises(CloudError, match="RequestLimitExceeded"):
        tencent_cloud.call("kms", "ListKeys")


def test_a_throttled_cos_says_slow_down(
    cos_client: Any, cos_bucket: str, tencent_cloud: Cloud, tencent_clock: TestClock
) -> None:
    from qcloud_cos import CosServiceError

    tencent_cloud.throttle("cos", "PutObject", 1)
    cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"x")
    with pytest.raises(CosServiceError) as caught:
        cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"y")
    assert (caught.value.get_error_code(), caught.value.get_status_code()) == ("SlowDown", 503)


def test_callers_are_limited_separately(raw: Raw, tencent_cloud: Cloud, tencent_clock: TestClock) -> None:
    tencent_cloud.add_credential("AKIDOTHER", "other")
    tencent_cloud.throttle("ssm", "ListSecrets", 1)
    assert raw.code(raw.signed("ssm", "ListSecrets")) == ""
    assert raw.code(raw.signed("ssm", "ListSecrets")) == "RequestLimitExceeded"
    assert raw.code(raw.signed("ssm", "ListSecrets", secret_id="AKIDOTHER", secret_key="other")) == ""


def test_published_limits_apply_only_when_asked_for() -> None:
    for enforced in (False, True):
        with Cloud(clock=lambda: 0.0, enforce_limits=enforced) as cloud:
            outcomes = []
            for _ in range(31):
                try:
                    cloud.call("ssm", "ListSecrets")
                    outcomes.append("")
                except CloudError as error:
                    outcomes.append(error.code)
            assert outcomes == [""] * 30 + ["RequestLimitExceeded" if enforced else ""]


def test_encrypt_and_decrypt_share_a_published_limit() -> None:
    with Cloud(clock=lambda: 0.0, enforce_limits=True) as cloud:
        key_id = cloud.call("kms", "CreateKey", Alias="a")["KeyId"]
        blob = cloud.call("kms", "Encrypt", KeyId=key_id, Plaintext="eA==")["CiphertextBlob"]
        for _ in range(299):
            cloud.call("kms", "Decrypt", CiphertextBlob=blob)
        with pytest.raises(CloudError, match="RequestLimitExceeded"):
            cloud.call("kms", "Encrypt", KeyId=key_id, Plaintext="eA==")


def test_published_limits_name_only_actions_that_exist() -> None:
    assert all(action in ACTIONS[service] for service, action in DOCUMENTED_LIMITS)
