"""Planned faults, as the official SDKs see them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest

from tencent_emulator.cloud import Cloud, CloudError

if TYPE_CHECKING:
    from tests.emulator.conftest import Raw
else:
    Raw = Any

Ask = Callable[..., dict[str, Any]]
Refused = Callable[[str], AbstractContextManager[None]]
LOST = "ClientNetworkError"


def create(ssm: Ask, name: str) -> None:
    ssm("CreateSecret", SecretName=name, SecretString="s3cr3t-value")


def names(cloud: Cloud) -> list[str]:
    return [row["SecretName"] for row in cloud.call("ssm", "ListSecrets", OrderType=1)["SecretMetadatas"]]


def test_a_planned_refusal_hits_the_next_matching_requests_without_effect(
    ssm: Ask, tencent_cloud: Cloud, refused: Refused
) -> None:
    tencent_cloud.fail_next("ssm", "CreateSecret", "RequestLimitExceeded", times=2)
    ssm("ListSecrets")
    for _ in range(2):
        with refused("RequestLimitExceeded"):
            create(ssm, "a")
    create(ssm, "b")
    assert names(tencent_cloud) == ["b"]


def test_without_an_action_any_action_of_the_service_is_hit(
    ssm: Ask, kms: Ask, tencent_cloud: Cloud, refused: Refused
) -> None:
    tencent_cloud.fail_next("ssm", None, "InternalError")
    kms("ListKeys")
    with refused("InternalError"):
        ssm("ListSecrets")
    ssm("ListSecrets")


def test_a_drop_before_leaves_no_effect_and_a_drop_after_leaves_it(
    ssm: Ask, tencent_cloud: Cloud, refused: Refused
) -> None:
    tencent_cloud.drop_next("ssm", "CreateSecret", when="before")
    with refused(LOST):
        create(ssm, "before")
    tencent_cloud.drop_next("ssm", "CreateSecret", when="after")
    with refused(LOST):
        create(ssm, "after")
    assert names(tencent_cloud) == ["after"]
    ssm("ListSecrets")


def test_an_outage_drops_one_service_and_ends_with_its_block(
    ssm: Ask, kms: Ask, tencent_cloud: Cloud, refused: Refused
) -> None:
    with tencent_cloud.outage("ssm"), tencent_cloud.outage("ssm"):
        for _ in range(3):
            with refused(LOST):
                ssm("ListSecrets")
        with pytest.raises(CloudError, match="InternalError"):
            tencent_cloud.call("ssm", "ListSecrets")
        kms("ListKeys")
    ssm("ListSecrets")


def test_faults_in_process_are_internal_errors_with_the_same_effects(tencent_cloud: Cloud) -> None:
    for when in ("before", "after"):
        tencent_cloud.drop_next("ssm", None, when=when)
        with pytest.raises(CloudError, match="InternalError"):
            tencent_cloud.call("ssm", "CreateSecret", SecretName=when, SecretString="x")
    assert names(tencent_cloud) == ["after"]
    tencent_cloud.status_next("ssm", None)
    with pytest.raises(CloudError, match="InternalError"):
        tencent_cloud.call("ssm", "ListSecrets")
    tencent_cloud.delay("ssm", None, 0.05)
    started = time.perf_counter()
    tencent_cloud.call("ssm", "ListSecrets")
    assert time.perf_counter() - started >= 0.05


def test_a_delay_holds_the_reply_back(ssm: Ask, tencent_cloud: Cloud) -> None:
    ssm("ListSecrets")
    tencent_cloud.delay("ssm", "ListSecrets", 0.2)
    started = time.perf_counter()
    ssm("ListSecrets")
    assert time.perf_counter() - started >= 0.2


def test_a_delay_beyond_the_clients_patience_is_a_timeout_and_does_not_hold_up_closing(
    tencent_cloud: Cloud, ssm_client: Any, refused: Refused
) -> None:
    ssm_client.request.conn.timeout = (1, 0.1)
    tencent_cloud.delay("ssm", "ListSecrets", 60)
    with refused(LOST):
        ssm_client.call_json("ListSecrets", {})
    started = time.perf_counter()
    tencent_cloud.close()
    assert time.perf_counter() - started < 5


def test_a_front_end_in_trouble_answers_with_a_bare_status(ssm: Ask, tencent_cloud: Cloud) -> None:
    from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

    tencent_cloud.status_next("ssm", "CreateSecret", 502)
    with pytest.raises(TencentCloudSDKException) as caught:
        create(ssm, "a")
    assert caught.value.get_code() == "ServerNetworkError"
    assert names(tencent_cloud) == []


def test_a_charset_makes_the_sdk_overlook_an_error(ssm_client: Any, tencent_cloud: Cloud) -> None:
    from tencentcloud.ssm.v20190923 import models

    request = models.GetSecretValueRequest()
    request._deserialize({"SecretName": "none", "VersionId": "v1"})
    tencent_cloud.charset_next("ssm", "GetSecretValue")
    answer = ssm_client.GetSecretValue(request)
    assert (answer.VersionId, answer.SecretString) == (None, None)


def test_a_cut_reply_is_an_error_of_the_connection(ssm: Ask, tencent_cloud: Cloud) -> None:
    from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

    tencent_cloud.truncate_next("ssm", "ListSecrets")
    with pytest.raises(TencentCloudSDKException):
        ssm("ListSecrets")
    ssm("ListSecrets")


def test_a_cut_object_is_noticed(cos_client: Any, cos_bucket: str, tencent_cloud: Cloud) -> None:
    from urllib3.exceptions import ProtocolError

    tencent_cloud.cos.put_object(cos_bucket, "k", b"0123456789")
    tencent_cloud.truncate_next("cos", "GetObject")
    reply = cos_client.get_object(Bucket=cos_bucket, Key="k")
    with pytest.raises(ProtocolError):
        reply["Body"].get_raw_stream().read()
    assert cos_client.get_object(Bucket=cos_bucket, Key="k")["Body"].get_raw_stream().read() == b"0123456789"


@pytest.mark.parametrize("action", ["PutObject", "GetObject", "HeadObject", "DeleteObject"])
@pytest.mark.parametrize(("code", "status"), [("SlowDown", 503), ("InternalError", 500), ("AccessDenied", 403)])
def test_a_planned_cos_refusal_has_its_status(
    cos_client: Any, cos_bucket: str, tencent_cloud: Cloud, action: str, code: str, status: int
) -> None:
    from qcloud_cos import CosServiceError

    tencent_cloud.cos.put_object(cos_bucket, "k", b"old")
    call: Callable[[], Any] = {
        "PutObject": lambda: cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"new"),
        "GetObject": lambda: cos_client.get_object(Bucket=cos_bucket, Key="k"),
        "HeadObject": lambda: cos_client.head_object(Bucket=cos_bucket, Key="k"),
        "DeleteObject": lambda: cos_client.delete_object(Bucket=cos_bucket, Key="k"),
    }[action]
    tencent_cloud.fail_next("cos", action, code)
    with pytest.raises(CosServiceError) as caught:
        call()
    assert caught.value.get_status_code() == status
    if action != "HeadObject":  # whose error has no body, which the SDK reports as Unknown
        assert caught.value.get_error_code() == code
    assert tencent_cloud.cos.get_object(cos_bucket, "k") == b"old"


def test_a_planned_cos_status_overrides_the_usual_one(cos_client: Any, cos_bucket: str, tencent_cloud: Cloud) -> None:
    from qcloud_cos import CosServiceError

    tencent_cloud.status_next("cos", "HeadObject", 502)
    with pytest.raises(CosServiceError) as caught:
        cos_client.head_object(Bucket=cos_bucket, Key="k")
    assert caught.value.get_status_code() == 502


@pytest.mark.parametrize(("when", "left"), [("before", []), ("after", ["k"])])
def test_a_cos_connection_can_be_lost_before_and_after_the_effect(
    cos_client: Any, cos_bucket: str, tencent_cloud: Cloud, when: str, left: list[str]
) -> None:
    from qcloud_cos import CosClientError

    tencent_cloud.drop_next("cos", "PutObject", when=when)
    with pytest.raises(CosClientError):
        cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"x")
    assert tencent_cloud.cos.list_objects(cos_bucket) == left
    with tencent_cloud.outage("cos"), pytest.raises(CosClientError):
        cos_client.head_object(Bucket=cos_bucket, Key="k")


def test_a_typing_error_in_a_plan_is_an_error(tencent_cloud: Cloud) -> None:
    for service, action in (("ssm", "GetSecret"), ("sms", None), ("kms", "GetObject")):
        with pytest.raises(ValueError, match="no such action"):
            tencent_cloud.fail_next(service, action, "InternalError")
        with pytest.raises(ValueError, match="no such action"):
            tencent_cloud.throttle(service, action, 1)
    with pytest.raises(ValueError, match="no such service"), tencent_cloud.outage("sms"):
        pass
    with pytest.raises(ValueError, match="when"):
        tencent_cloud.drop_next("ssm", None, when="during")


def test_clearing_faults_makes_everything_work_again(ssm: Ask, tencent_cloud: Cloud) -> None:
    tencent_cloud.fail_next("ssm", None, "InternalError", times=9)
    tencent_cloud.throttle("ssm", None, 0)
    tencent_cloud.clear_faults()
    ssm("ListSecrets")


def test_parallel_writers_never_make_an_eleventh_version(tencent_cloud: Cloud) -> None:
    tencent_cloud.call("ssm", "CreateSecret", SecretName="a", VersionId="v0", SecretString="x")
    codes: list[str] = []

    def put(number: int) -> None:
        for round_ in range(5):
            try:
                version = f"v{number}-{round_}"
                tencent_cloud.call("ssm", "PutSecretValue", SecretName="a", VersionId=version, SecretString="x")
                codes.append("")
            except CloudError as error:
                codes.append(error.code)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (codes.count(""), codes.count("LimitExceeded")) == (9, 31)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_dropped_connection_is_a_reset_not_an_orderly_end(raw: Raw, tencent_cloud: Cloud, when: str) -> None:
    tencent_cloud.drop_next("ssm", "ListSecrets", when=when)
    headers = raw.signed("ssm", "ListSecrets")
    raw.connection.connect()
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    raw.connection.sock.sendall(f"POST / HTTP/1.1\r\n{lines}Content-Length: 2\r\n\r\n{{}}".encode())
    with pytest.raises(ConnectionResetError):
        raw.connection.sock.recv(1)


def test_a_fault_for_one_resource_meets_no_other(
    tencent_cloud: Cloud, ssm_client: Any, cos_client: Any, refused: Refused
) -> None:
    from qcloud_cos import CosServiceError

    for name in ("one", "two"):
        tencent_cloud.call("ssm", "CreateSecret", SecretName=name, VersionId="v1", SecretString="x")
    tencent_cloud.fail_next("ssm", "GetSecretValue", "InternalError", only="two")
    with pytest.raises(CloudError):
        tencent_cloud.call("ssm", "GetSecretValue", SecretName="two", VersionId="v1")
    tencent_cloud.fail_next("ssm", "GetSecretValue", "InternalError", only="two")
    ssm_client.call_json("GetSecretValue", {"SecretName": "one", "VersionId": "v1"})
    with refused("InternalError"):
        ssm_client.call_json("GetSecretValue", {"SecretName": "two", "VersionId": "v1"})
    ssm_client.call_json("GetSecretValue", {"SecretName": "two", "VersionId": "v1"})
    bucket = "b-1250000000"
    tencent_cloud.cos.create_bucket(bucket)
    tencent_cloud.fail_next("cos", "PutObject", "AccessDenied", only="folder/two")
    cos_client.put_object(Bucket=bucket, Key="folder/one", Body=b"1")
    with pytest.raises(CosServiceError):
        cos_client.put_object(Bucket=bucket, Key="folder/two", Body=b"2")
    cos_client.put_object(Bucket=bucket, Key="folder/two", Body=b"2")
