"""Values out of the platform's log: a JWE to the key of the caller, and nothing in clear unless settings say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from joserfc import jwe
from joserfc.jwk import ECKey, OKPKey

from ckeys.deployment import Deployment
from tests.conftest import Api
from tests.functions.helpers import nothing_changes, problem, sql

CURVES = {"P-256": ECKey, "X25519": OKPKey}
ALGORITHMS = ["ECDH-ES", "A256GCM"]
SYSTEM = {"name": "system", "generation": "System"}
# A point of P-256 that is on no curve, and the X25519 points of small order (RFC 7748, section 6.1).
OFF_CURVE = {"kty": "EC", "crv": "P-256", "x": "A" * 42 + "E", "y": "A" * 42 + "E"}
ZERO, ONE = "A" * 43, "AQ" + "A" * 41
EC = {"kty": "EC", "crv": "P-256"}


def key_pair(curve: str) -> Any:
    return CURVES[curve].generate_key(curve)  # type: ignore[attr-defined]


def opened(token: str, private: Any) -> str:
    plaintext = jwe.decrypt_compact(token, private, algorithms=ALGORITHMS).plaintext
    assert plaintext is not None
    return plaintext.decode()


@pytest.fixture
def sealed(make_deployment: Callable[..., Deployment]) -> Api:
    """A deployment as on SCF: no value in clear."""
    deployment = make_deployment(CLEAR_VALUES="false")
    return Api(deployment, deployment.operator[1])


@pytest.mark.parametrize("curve", sorted(CURVES))
def test_only_the_caller_can_open_what_create_and_reveal_return(sealed: Api, curve: str) -> None:
    private = key_pair(curve)
    public = private.as_dict(private=False)
    created = sealed("create_key", "POST", "/keys", {**SYSTEM, "reveal_to": public})
    assert created.status == 201
    assert "value" not in created.body
    value = opened(created.body["value_jwe"], private)
    assert created.body["masked_value"] == f"{value[:3]}****{value[-3:]}"
    assert sealed.verify(value)["code"] == "KeyUnbound"
    body = {"reason": "lost", "reveal_to": public}
    revealed = sealed("reveal_key", "POST", f"/keys/{created.body['key_id']}/reveal", body)
    assert revealed.body.keys() == {"key_id", "value_jwe"}
    assert revealed.headers["Cache-Control"] == "no-store"
    assert opened(revealed.body["value_jwe"], private) == value
    assert revealed.body["value_jwe"] != created.body["value_jwe"], "each answer has its own ephemeral key"
    with pytest.raises(Exception, match=r".*"):
        opened(revealed.body["value_jwe"], key_pair(curve))


def test_a_custom_value_is_revealed_as_a_jwe(sealed: Api) -> None:
    key = sealed.create_key("own", generation="Custom", value="kT7vQ2xM9wLp4Zr8")
    private = key_pair("P-256")
    answer = sealed(
        "reveal_key", "POST", f"/keys/{key['key_id']}/reveal", {"reveal_to": private.as_dict(private=False)}
    )
    assert opened(answer.body["value_jwe"], private) == "kT7vQ2xM9wLp4Zr8"


def test_the_header_says_how_and_repeats_the_kid(sealed: Api) -> None:
    import base64

    public = {**key_pair("P-256").as_dict(private=False), "kid": "call-1"}
    created = sealed("create_key", "POST", "/keys", {**SYSTEM, "reveal_to": public})
    head = created.body["value_jwe"].split(".")[0]
    header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    assert (header["alg"], header["enc"], header["kid"]) == ("ECDH-ES", "A256GCM", "call-1")
    assert header["epk"].keys() == {"kty", "crv", "x", "y"}


def test_the_members_that_webcrypto_exports_are_accepted(sealed: Api) -> None:
    private = key_pair("P-256")
    public = {**private.as_dict(private=False), "ext": True, "key_ops": []}
    created = sealed("create_key", "POST", "/keys", {**SYSTEM, "reveal_to": public})
    assert opened(created.body["value_jwe"], private).startswith("ck_")


def test_without_reveal_to_no_value_leaves_and_nothing_changes(sealed: Api) -> None:
    key = sealed.create_key("own", generation="Custom", value="kT7vQ2xM9wLp4Zr8")
    with nothing_changes(sealed.deployment):
        problem(sealed("create_key", "POST", "/keys", SYSTEM), 400, "InvalidParameter", "reveal_to")
        for body in ({}, None, {"reason": "lost"}, {"reveal_to": None}):
            answer = sealed("reveal_key", "POST", f"/keys/{key['key_id']}/reveal", body)
            problem(answer, 400, "InvalidParameter", "reveal_to")
        direct = sealed.deployment.call("reveal_key", {"gateway_id": "default", "key_id": key["key_id"]})
        assert direct["code"] == "InvalidParameter"
        direct = sealed.deployment.call("create_key", {"gateway_id": "default", **SYSTEM})
        assert direct["code"] == "InvalidParameter"


def test_a_direct_invocation_gets_its_jwe(sealed: Api) -> None:
    private = key_pair("X25519")
    fields = {"gateway_id": "default", **SYSTEM, "reveal_to": private.as_dict(private=False)}
    assert opened(sealed.deployment.call("create_key", fields)["value_jwe"], private).startswith("ck_")


UNUSABLE: list[Any] = [
    OFF_CURVE, {**EC, "x": ZERO, "y": ZERO}, {"kty": "OKP", "crv": "X25519", "x": ZERO},
    {"kty": "OKP", "crv": "X25519", "x": ONE}, {**EC, "x": "A" * 43}, {**EC, "x": "A" * 42, "y": "A" * 43},
    {**EC, "x": "A" * 43 + "=", "y": "A" * 43}, {**EC, "x": "+" * 43, "y": "A" * 43}, {**EC, "x": 5, "y": 5},
    {"kty": "EC", "crv": "X25519", "x": ONE, "y": ONE}, {"kty": "OKP", "crv": "P-256", "x": ONE},
    {"kty": "EC", "crv": "P-384", "x": ONE, "y": ONE}, {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
    {"kty": "oct", "k": "AQAB"}, {"kty": "OKP", "crv": "Ed25519", "x": ONE}, {}, [], "text", 5, True,
    {**EC, "x": ONE, "y": ONE, "jku": "https://example.com"}, {**EC, "x": ONE, "y": ONE, "alg": "dir"},
    {**EC, "x": ONE, "y": ONE, "kid": "x" * 65}, {**EC, "x": ONE, "y": ONE, "kid": "a\nb"},
    {**EC, "x": ONE, "y": ONE, "use": "sig"}, {**EC, "x": ONE, "y": ONE, "key_ops": ["sign"]},
]  # fmt: skip


def test_what_is_no_usable_public_key_is_refused_before_anything_changes(
    sealed: Api, subtests: pytest.Subtests
) -> None:
    key = sealed.create_key("own", generation="Custom", value="kT7vQ2xM9wLp4Zr8")
    for public in UNUSABLE:
        with subtests.test(public=public), nothing_changes(sealed.deployment):
            for answer in (
                sealed("create_key", "POST", "/keys", {**SYSTEM, "reveal_to": public}),
                sealed("reveal_key", "POST", f"/keys/{key['key_id']}/reveal", {"reveal_to": public}),
            ):
                named = problem(answer, 400, "InvalidParameter")["errors"]
                assert all(error["field"].startswith("reveal_to") for error in named)


def test_a_private_key_is_refused_and_not_repeated(sealed: Api) -> None:
    private = key_pair("P-256").as_dict(private=True)
    answer = sealed("create_key", "POST", "/keys", {**SYSTEM, "reveal_to": private})
    assert private["d"] not in str(problem(answer, 400, "InvalidParameter", "reveal_to.d"))


@pytest.mark.parametrize("generation", ["Custom", "KMS"])
def test_reveal_to_has_no_place_where_no_value_is_returned(sealed: Api, generation: str) -> None:
    sealed.put_credential("one", "kms-content-Zq7x9Lk3wP")
    given = (
        {"value": "kT7vQ2xM9wLp4Zr8"} if generation == "Custom" else {"credential": {"name": "one", "version": "v1"}}
    )
    body = {"name": "other", "generation": generation, **given}
    public = key_pair("P-256").as_dict(private=False)
    answer = sealed("create_key", "POST", "/keys", {**body, "reveal_to": public})
    problem(answer, 400, "InvalidParameter", "reveal_to")
    assert sealed("create_key", "POST", "/keys", body).status == 201, "and none is needed"


def test_where_clear_values_are_allowed_reveal_to_still_seals(api: Api) -> None:
    private = key_pair("P-256")
    assert "value" in api.create_key("clear")
    created = api.create_key("sealed", reveal_to=private.as_dict(private=False))
    assert "value" not in created
    assert opened(created["value_jwe"], private).startswith("ck_")


def test_a_repeated_request_gets_neither_value_nor_jwe(sealed: Api) -> None:
    public = key_pair("P-256").as_dict(private=False)
    body, headers = {**SYSTEM, "reveal_to": public}, {"idempotency-key": "k1"}
    first = sealed("create_key", "POST", "/keys", body, headers=headers)
    again = sealed("create_key", "POST", "/keys", body, headers=headers)
    assert (again.body["key_id"], again.headers["Idempotency-Replayed"]) == (first.body["key_id"], "true")
    assert {"value", "value_jwe"} & again.body.keys() == set()
    stored = sql(sealed.deployment, "SELECT body FROM idempotency")
    assert "value_jwe" not in str(stored)
