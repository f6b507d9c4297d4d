"""SCF Invoke and InvokeFunction through the official SDK."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tencent_emulator.cloud import Cloud

Ask = Callable[..., dict[str, Any]]
Refused = Callable[[str], AbstractContextManager[None]]
FORMS = [("Invoke", "ClientContext"), ("InvokeFunction", "Event")]
MB = 1024 * 1024


@pytest.mark.parametrize(("action", "member"), FORMS)
def test_the_event_arrives_and_the_result_comes_back_as_json(
    scf: Ask, tencent_cloud: Cloud, action: str, member: str
) -> None:
    tencent_cloud.functions["echo"] = lambda event: {"got": event, "文": 1}
    result = scf(action, FunctionName="echo", **{member: json.dumps({"a": [1, None]})})["Result"]
    assert json.loads(result["RetMsg"]) == {"got": {"a": [1, None]}, "文": 1}
    assert (result["InvokeResult"], result["ErrMsg"], result["Log"]) == (0, "", "")
    assert result["FunctionRequestId"]


@pytest.mark.parametrize(("action", "member"), FORMS)
def test_without_an_event_the_function_gets_an_empty_one(
    scf: Ask, tencent_cloud: Cloud, action: str, member: str
) -> None:
    tencent_cloud.functions["echo"] = lambda event: event
    assert scf(action, FunctionName="echo")["Result"]["RetMsg"] == "{}"


@pytest.mark.parametrize(("action", "member"), FORMS)
def test_a_failing_function_is_a_result_that_tells_the_type_but_not_the_text(
    scf: Ask, tencent_cloud: Cloud, action: str, member: str
) -> None:
    def fail(event: dict[str, Any]) -> object:
        raise PermissionError("the key is s3cr3t")

    tencent_cloud.functions["fail"] = fail
    result = scf(action, FunctionName="fail")["Result"]
    assert (result["InvokeResult"], result["RetMsg"]) == (1, "")
    assert "PermissionError" in result["ErrMsg"]
    assert "s3cr3t" not in str(result)


def test_a_result_that_is_no_json_fails_the_invocation(scf: Ask, tencent_cloud: Cloud) -> None:
    tencent_cloud.functions["odd"] = lambda event: object()
    assert scf("Invoke", FunctionName="odd")["Result"]["InvokeResult"] == 1


def test_an_asynchronous_call_runs_and_tells_nothing(scf: Ask, tencent_cloud: Cloud) -> None:
    seen: list[dict[str, Any]] = []
    tencent_cloud.functions["note"] = seen.append
    tencent_cloud.functions["fail"] = lambda event: 1 / 0
    for name in ("note", "fail"):
        result = scf("Invoke", FunctionName=name, InvocationType="Event", ClientContext='{"a":1}')["Result"]
        assert (result["InvokeResult"], result["RetMsg"], result["ErrMsg"]) == (0, "", "")
    assert seen == [{"a": 1}]


def test_a_missing_function_has_the_code_of_its_action(scf: Ask, refused: Refused) -> None:
    with refused("ResourceNotFound.Function"):
        scf("Invoke", FunctionName="none")
    with refused("ResourceNotFound.FunctionName"):
        scf("InvokeFunction", FunctionName="none")


@pytest.mark.parametrize(
    ("action", "member", "code"),
    [
        ("Invoke", "ClientContext", "InvalidParameterValue.ClientContext"),
        ("InvokeFunction", "Event", "InvalidParameterValue.Param"),
    ],
)
def test_an_event_is_a_json_object(
    scf: Ask, tencent_cloud: Cloud, refused: Refused, action: str, member: str, code: str
) -> None:
    tencent_cloud.functions["echo"] = lambda event: event
    for text in ("{", "[1]", "1"):
        with refused(code):
            scf(action, FunctionName="echo", **{member: text})


def test_events_have_a_limit(scf: Ask, tencent_cloud: Cloud, refused: Refused) -> None:
    tencent_cloud.functions["size"] = lambda event: len(event["a"])
    fitting = json.dumps({"a": "x" * (6 * MB - 9)})
    assert len(fitting) == 6 * MB
    assert scf("Invoke", FunctionName="size", ClientContext=fitting)["Result"]["RetMsg"] == str(6 * MB - 9)
    for action, member in FORMS:
        with refused("InvalidParameter.RequestTooLarge"):
            scf(action, FunctionName="size", **{member: fitting + " "})
    with refused("InvalidParameter.RequestTooLarge"):
        scf("Invoke", FunctionName="size", InvocationType="Event", ClientContext=" " * (128 * 1024) + "{}")


def test_results_have_a_limit(scf: Ask, tencent_cloud: Cloud) -> None:
    tencent_cloud.functions["fits"] = lambda event: "x" * (6 * MB - 2)
    tencent_cloud.functions["large"] = lambda event: "x" * (6 * MB - 1)
    assert len(scf("Invoke", FunctionName="fits")["Result"]["RetMsg"]) == 6 * MB
    result = scf("Invoke", FunctionName="large")["Result"]
    assert (result["InvokeResult"], result["RetMsg"]) == (1, "")
    assert "407" in result["ErrMsg"]


def test_an_unknown_invocation_type_is_refused(scf: Ask, tencent_cloud: Cloud, refused: Refused) -> None:
    tencent_cloud.functions["echo"] = lambda event: event
    with refused("InvalidParameterValue.InvocationType"):
        scf("Invoke", FunctionName="echo", InvocationType="DryRun")


def test_a_function_may_call_the_cloud_it_runs_in(scf: Ask, tencent_cloud: Cloud) -> None:
    def make(event: dict[str, Any]) -> object:
        return tencent_cloud.call("ssm", "CreateSecret", SecretName="made", SecretString="x")["SecretName"]

    tencent_cloud.functions["make"] = make
    assert scf("Invoke", FunctionName="make")["Result"]["RetMsg"] == '"made"'
