"""What comes in shows no secret on its way: models, requests and answers, by repr, str, pickle, dump or traceback."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from consumer_keys import invocation, model, web
from consumer_keys.cloud_api import requests
from consumer_keys.model import CreateKey, Input
from consumer_keys.operation import Call
from consumer_keys.secret import REDACTED, Secret
from consumer_keys.tc3 import SignedRequest

CANARY = "Zq7x9Lk3-canary-9Xw"
# Each model with a secret field, and an input in which every such field holds the canary.
HOLDING: dict[type[BaseModel], dict[str, Any]] = {
    CreateKey: {"name": "key", "generation": "Custom", "value": CANARY},
    requests.CreateSecretKey: {
        "GatewayId": "default", "Name": "key", "SecretType": "ApiKey", "GenerateType": "Custom",
        "ResourceType": "Consumer", "SecretValue": CANARY,
    },
}  # fmt: skip


def models() -> list[type[BaseModel]]:
    """Every model of what callers send: ours, and the vendor's."""
    found: list[type[BaseModel]] = [
        each
        for module in (model, requests)
        for _, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, (Input, requests._Members)) and each.__module__ == module.__name__
    ]
    assert len(found) > 40
    return found


def secret_fields(of: type[BaseModel]) -> set[str]:
    """The fields that the API's description calls a password."""
    properties = of.model_json_schema(by_alias=True).get("properties", {})
    return {name for name, schema in properties.items() if '"password"' in json.dumps(schema)}


def shown(thing: Any) -> Iterator[str]:
    """Every way in which somebody may come to write a thing down."""
    yield from (repr(thing), str(thing), f"{thing}", f"{thing!r}", "%s" % (thing,), repr([thing]), str({"a": thing}))  # noqa: UP031
    try:
        raise RuntimeError(f"cannot use {thing}")
    except RuntimeError as error:
        yield "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def test_every_model_with_a_secret_field_is_tried_here() -> None:
    assert {each for each in models() if secret_fields(each)} == set(HOLDING)
    for each, given in HOLDING.items():
        assert {name for name, value in given.items() if value == CANARY} == secret_fields(each)


def test_no_field_is_called_a_secret_and_is_plain_text() -> None:
    for each in models():
        if each.__module__ == model.__name__:
            called = {name for name in each.model_fields if re.search("value|secret|password|token", name)}
            assert called == secret_fields(each), each.__name__


@pytest.mark.parametrize("of", HOLDING, ids=lambda of: of.__name__)
def test_a_model_shows_no_secret_that_it_holds(of: type[BaseModel]) -> None:
    held = of.model_validate(HOLDING[of])
    for text in shown(held):
        assert CANARY not in text
    for name in secret_fields(of):
        assert getattr(held, name) == Secret(CANARY.encode()), "the exact bytes"
    dumped = held.model_dump(), held.model_dump(mode="json"), held.model_dump(exclude_unset=True)
    for text in (json.dumps(dumped), held.model_dump_json(), repr(dict(held)), pickle.dumps(dumped).decode("latin-1")):
        assert CANARY not in text
        assert REDACTED in text


@pytest.mark.parametrize("of", HOLDING, ids=lambda of: of.__name__)
def test_a_model_that_holds_a_secret_is_neither_pickled_nor_copied(of: type[BaseModel]) -> None:
    held = of.model_validate(HOLDING[of])
    takes = (pickle.dumps, lambda each: pickle.dumps(each, 0), lambda each: pickle.dumps(vars(each)), copy.deepcopy)
    for take in takes:
        with pytest.raises(TypeError) as caught:
            take(held)
        assert CANARY not in str(caught.value)


@pytest.mark.parametrize("given", [5, [CANARY], {CANARY: CANARY}, CANARY.encode(), None, True, f"{CANARY}\ud800"])
def test_what_is_no_text_is_no_secret_and_is_not_repeated(given: Any) -> None:
    if isinstance(given, str):
        made = CreateKey.model_validate({**HOLDING[CreateKey], "value": given})
        assert made.value == Secret(f"{CANARY}?".encode()), "a character that no value may have"
        return
    with pytest.raises(ValueError) as caught:
        CreateKey.model_validate({**HOLDING[CreateKey], "value": given})
    assert CANARY not in str(caught.value)


def test_requests_and_answers_show_kind_method_and_request_id_or_status_alone() -> None:
    event = {
        "httpMethod": "POST", "path": f"/v1/gateways/{CANARY}/keys", "pathParameters": {"gateway_id": CANARY},
        "headers": {"Authorization": f"Bearer {CANARY}", "x-api-key": [CANARY, "x"]}, "queryString": {"apikey": CANARY},
        "body": json.dumps({"value": CANARY}), "requestContext": {"sourceIp": CANARY},
    }  # fmt: skip
    for given in (event, {"gateway_id": "default", "key": CANARY}):
        request = web.parse_event(given, {"request_id": "r-1"})
        assert CANARY in pickle.dumps(request).decode("latin-1"), "it is there"
        call = Call(request, {"gateway_id": "default"}, CreateKey.model_validate(HOLDING[CreateKey]))
        signed = SignedRequest("POST", request.path, request.query, request.headers, request.body.encode())
        answers = web.Reply(201, {"value": CANARY}), invocation.Handed({"body": CANARY}, 201)
        for thing in (request, call, signed, *answers):
            for text in shown(thing):
                assert CANARY not in text
        assert repr(request) == f"Request(kind={request.kind!r}, method={request.method!r}, request_id='r-1')"
