"""The canary sweep: keys are made, used, refused, revealed, followed and failed, and no secret is written anywhere."""

from __future__ import annotations

import gzip
import json
import logging
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from ckeys.deployment import Deployment
from ckeys.events import Context, Event, Handler
from ckeys.reach import ENVIRONMENT_FILE
from tencent_emulator.pytest_plugin import TestClock
from tests.conftest import Answer, Api
from tests.databases import Servers, rows_of
from tests.functions.canaries import GZIP, files, inner_secrets, places_of, sweep
from tests.functions.helpers import as_operator, change_content, database_down, kms_key, sql, ssm
from tests.functions.test_least_privilege import group_calls
from tests.functions.test_reveal_to import key_pair, opened
from tests.tc3_signer import signed_event

PASSWORD = "Hd5s6Rj1-of-the-database"
CUSTOM = "Zq7+canary/9Xw=~Lk3.vT-2_pB8dF5gH"
CONTENTS = ("kms+content/one=Zq7x9Lk3wP", "kms+content/two=Vw4t2Np8sR", "kms+unusable content Hd5s6Rj1")


class Recorder(Api):
    """Keeps every answer except those that are there to give a value."""

    def __init__(self, deployment: Deployment, token: str) -> None:
        super().__init__(deployment, token)
        self.kept: list[Answer] = []

    def __call__(self, function: str, *args: Any, **kwargs: Any) -> Answer:
        answer = super().__call__(function, *args, **kwargs)
        given = isinstance(answer.body, dict) and answer.status < 300 and function in ("create_key", "reveal_key")
        if given and answer.body.get("value") is not None:
            answer_without = {name: value for name, value in answer.body.items() if name != "value"}
            self.kept.append(Answer(answer.status, answer_without, answer.headers))
        else:
            self.kept.append(answer)
        return answer


def every_other_function(api: Api, key: dict[str, Any], secrets: dict[str, bytes]) -> None:
    """Those that have nothing to do with values, given them where names and descriptions belong."""
    path, consumer = f"/keys/{key['key_id']}", api.create_consumer("sweep")
    for method, function in (("PATCH", "update_key"), ("GET", "get_key"), ("DELETE", "delete_key")):
        api(function, method, path, {"description": 1, "value": CUSTOM} if method == "PATCH" else None)
    api("enable_key", "POST", f"{path}/enable", {"value": CUSTOM})
    api("unbind_consumer", "DELETE", f"{path}/consumer", None)
    api.bind(key, consumer)
    other = f"/consumers/{consumer['consumer_id']}"
    for function, method in (("get_consumer", "GET"), ("update_consumer", "PATCH"), ("delete_consumer", "DELETE")):
        api(function, method, other, {"status": CUSTOM} if method == "PATCH" else None)
    for function, method, where, given in group_calls(api):
        api(function, method, where, given)
    for function, where in (("list_consumers", "/consumers"), ("list_audit", "/audit"), ("list_keys", "/keys")):
        api(function, "GET", where, query={"cursor": CUSTOM})
    api("front_door", "GET", path)
    common = {"Version": "2023-04-18", "GatewayId": "default", "SecretType": "ApiKey", "ResourceType": "Consumer"}
    value = "kT7vQ2xM9wLp4Zr8-canary"
    secrets["by cloud_api"] = value.encode()
    for more in ({"GenerateType": "Custom", "SecretValue": value}, {"GenerateType": "Custom", value: value}):
        given = {"Action": "CreateCloudNativeAPIGatewaySecretKey", "Name": "by-cloud-api", **common, **more}
        api.deployment.call("cloud_api", given)


def use_everything(api: Recorder, clock: TestClock) -> dict[str, bytes]:
    """Keys of each kind, good days and bad ones; returns the secrets that were in play."""
    cloud = api.deployment.cloud
    secrets: dict[str, bytes] = {}
    system = api.bound_key("system")
    custom = api.bound_key("custom", generation="Custom", value=CUSTOM)
    kms = kms_key(api, "cred", CONTENTS[0])
    secrets |= {"system": system["value"].encode(), "custom": CUSTOM.encode()}
    secrets |= {f"content {number}": content.encode() for number, content in enumerate(CONTENTS)}
    values = [system["value"], CUSTOM, *CONTENTS]
    operators = {role: as_operator(api, role) for role in ("verifier", "viewer", "editor", "revealer", "admin")}
    secrets |= {f"operator {role}": operator.token.encode() for role, operator in operators.items()}
    secrets["operator local"] = api.token.encode()

    def present() -> None:
        for value in values:
            api.validate(value)
            api("validate_key", "GET", "/validate", headers={"x-api-key": value, "cookie": value}, token=None)
            api("validate_key", "GET", f"/validate/{value}", query={"apikey": value}, token=None)
            api(
                "validate_key",
                "GET",
                "/validate",
                headers={"x-api-key": [value, value + "x"], "host": value},
                token=None,
            )
            api("validate_key", "POST", "/verify", {"key": value})
            # A field that nobody knows is named in the answer, whatever it is called; but not in the log.
            Api(api.deployment, api.token)("validate_key", "POST", "/verify", {"key": value, value: 1})

    def manage() -> None:
        for function, method, path in (
            ("list_keys", "GET", "/keys"), ("get_key", "GET", f"/keys/{kms['key_id']}"), ("get_status", "GET",
            "/v1/status"),
            ("reveal_key", "POST", f"/keys/{system['key_id']}/reveal"),
            ("reveal_key", "POST", f"/keys/{custom['key_id']}/reveal"),
        ):  # fmt: skip
            api(function, method, path, headers={"idempotency-key": f"{method}-{path[-30:]}-{clock.now()}"})
        for value in (CUSTOM, CUSTOM[:7], CUSTOM + " ", "ck_" + CUSTOM):
            body = {"name": "again", "generation": "Custom", "value": value}
            api("create_key", "POST", "/keys", body, headers={"idempotency-key": "create-again"})
            api("create_key", "POST", "/keys", json.dumps(body)[:-1])
            api("create_key", "POST", "/keys", {**body, "value": [value]})
            api("create_key", "POST", "/keys", {**body, "value": {"x": value}})

    present()
    manage()
    every_other_function(api, custom, secrets)
    api("disable_key", "POST", f"/keys/{custom['key_id']}/disable")
    present()
    for content in CONTENTS[1:]:
        change_content(api, "cred", content)
        clock.shift(60)
        api.tick()
        present()
    ssm(api, "DisableSecret", "cred")
    for _ in range(6):
        clock.shift(100)
        api.tick()
    present()
    clock.shift(901)  # data keys are no longer in memory
    for service in ("kms", "ssm", "cos"):
        with cloud.outage(service):
            manage()
            present()
            clock.shift(60)
            api.tick()
    for service, action in (
        ("kms", "Decrypt"),
        ("kms", "GenerateDataKey"),
        ("ssm", "GetSecretValue"),
        ("cos", "PutObject"),
    ):
        cloud.truncate_next(service, action)
        clock.shift(901)
        manage()
        api.tick()
    with database_down(api.deployment):
        manage()
        present()
        api.tick()
    sql(api.deployment, "UPDATE key_values SET sealed = :bad WHERE key_id = :id", bad=b"\0", id=custom["key_id"])
    manage()
    return secrets


@pytest.fixture
def kept(
    make_deployment: Callable[..., Deployment], tmp_path: Path, database: str, database_urls: Callable[[str], str],
    servers: Servers,
) -> Iterator[Deployment]:  # fmt: skip
    """A deployment that keeps its files, and whose database has a password where it is a server."""
    home, settings, account = tmp_path / "kept", {"KEY_IN_QUERY": "true"}, ""
    if database != "sqlite":
        url = sa.make_url(database_urls(str(home)))
        settings["DATABASE_URL"] = url.set(password=PASSWORD).render_as_string(hide_password=False)
        account = f"{url.username}@'127.0.0.1'"
    if database == "mariadb":
        servers[database].admin(f"ALTER USER {account} IDENTIFIED BY '{PASSWORD}'")
    yield make_deployment(home, durable=True, **settings)
    if database == "mariadb":
        servers[database].admin(f"ALTER USER {account} IDENTIFIED BY ''")


def test_no_log_of_an_sdk_is_written_at_any_level(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = kms_key(api, "cred", CONTENTS[0])
    api.tick()
    api("reveal_key", "POST", f"/keys/{key['key_id']}/reveal")
    assert "urllib3" in caplog.text  # requests were made
    assert not [record for record in caplog.records if record.name.startswith(("tencentcloud", "qcloud_cos"))]


def test_no_secret_is_written_anywhere_in_any_encoding(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, kept: Deployment, database: str,
    clock: TestClock,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)  # a platform may set any level at the root
    api = Recorder(kept, kept.operator[1])
    secrets = use_everything(api, clock)
    secrets |= inner_secrets(kept) | {"database password": PASSWORD.encode()}
    assert len(secrets) > 60
    output = capfd.readouterr()
    places = places_of(kept)
    places |= {"stdout": output.out.encode(), "stderr": output.err.encode(), "logging": caplog.text.encode()}
    places["answers"] = "\n".join(map(repr, api.kept)).encode()
    places["answers as json"] = json.dumps(api.kept).encode()
    assert len(output.out) > 10_000
    called = {json.loads(line).get("function") for line in output.out.splitlines()}
    assert called >= {function.name for function in kept.template.functions}
    assert places.keys() >= {"rows of consumer_keys", "rows of key_values", "rows of audit", "rows of idempotency"}
    assert database != "sqlite" or any(name.endswith("-wal") for name in places)
    assert any(name.endswith(".lmdb") for name in places)
    assert any(name.startswith("home/cloud/") for name in places)
    by_design = {"operator local": "home/operator.json"}
    if database != "sqlite":
        by_design["database password"] = f"home/{ENVIRONMENT_FILE}"
    assert sweep(places, secrets, by_design.items()) == []
    for name, place in by_design.items():
        assert sweep({place: places[place]}, {name: secrets[name]}) != [], "that one file does hold it"


def returned_by(deployment: Deployment) -> list[tuple[str, Any]]:
    """(function, what it returned) from now on, also where one function calls another: SCF logs each of them."""
    returned: list[tuple[str, Any]] = []

    def noted(name: str, handler: Handler) -> Handler:
        def run(event: Event, context: Context) -> Any:
            returned.append((name, handler(event, context)))
            return returned[-1][1]

        return run

    deployment.handlers = {name: noted(name, handler) for name, handler in deployment.handlers.items()}
    return returned


def values_of(deployment: Deployment) -> dict[str, bytes]:
    """Every value that is sealed in the database, whoever made it."""
    app, found = deployment.services, {}
    query = "SELECT v.key_id, gateway_id, sealed FROM key_values v JOIN consumer_keys k ON k.key_id = v.key_id"
    for row in sql(deployment, query + " WHERE sealed IS NOT NULL"):
        place = app.place_of_key(row["gateway_id"], row["key_id"])
        found[f"value of {row['key_id']}"] = app.key_vault.open(place, bytes(row["sealed"])).reveal()
    return found


def use_by_cloud_api(api: Api, key_id: str) -> None:
    """Keys made and shown by the vendor's actions, signed and direct."""
    common = {"GatewayId": "default", "SecretType": "ApiKey", "ResourceType": "Consumer"}
    requests: list[tuple[str, dict[str, Any]]] = [
        ("CreateCloudNativeAPIGatewaySecretKey", {**common, "Name": "made", "GenerateType": "System"}),
        ("CreateCloudNativeAPIGatewaySecretKey", {**common, "Name": "own", "GenerateType": "Custom",
                                                  "SecretValue": f"{CUSTOM}.signed"}),
        ("CreateCloudNativeAPIGatewayConsumer", {"GatewayId": "default", "Name": "both", "SecretBindType":
                                                 "AutoGenerate", "AutoSecretKey": {"Name": "automatic"}}),
        ("DescribeCloudNativeAPIGatewaySecretKeyValue", {"GatewayId": "default", "SecretKeyId": key_id}),
        ("DescribeCloudNativeAPIGatewaySecretKeyList", {"GatewayId": "default", "Limit": 100, "Offset": 0}),
    ]  # fmt: skip
    for action, fields in requests:
        named: dict[str, Any] = {"x_tc_action": action}
        event = signed_event(
            api.deployment.operator, "POST", "/", fields, service="cngw", x_tc_version="2023-04-18", **named
        )
        api.deployment.call("cloud_api", event)
        api.deployment.call("front_door", event)
        direct = {**fields, "Name": f"{fields.get('Name', '')}-direct"} if "Name" in fields else fields
        if "SecretValue" in direct:
            direct["SecretValue"] += ".direct"
        api.deployment.call("cloud_api", {"Action": action, "Version": "2023-04-18", **direct})


def test_what_functions_return_holds_no_value_where_clear_values_are_off(
    make_deployment: Callable[..., Deployment],
) -> None:
    """SCF writes what a function returns into the function's log."""
    deployment = make_deployment(CLEAR_VALUES="false")
    returned = returned_by(deployment)
    api, private = Api(deployment, deployment.operator[1]), key_pair("P-256")
    given = {"generation": "System", "reveal_to": private.as_dict(private=False)}
    for function in ("create_key", "front_door"):
        headers = {"idempotency-key": function}
        created = api(function, "POST", "/keys", {"name": function, **given}, headers=headers)
        value = opened(created.body["value_jwe"], private)
        again = api(function, "POST", "/keys", {"name": function, **given}, headers=headers)
        assert again.headers["Idempotency-Replayed"] == "true"
    direct = deployment.call("create_key", {"gateway_id": "default", "name": "direct", **given})
    deployment.call("create_key", {"gateway_id": "default", "name": "in-clear", "generation": "System"})
    custom = api.create_key("custom", generation="Custom", value=CUSTOM)
    kms = kms_key(api, "cred", CONTENTS[0])
    for key in (created.body, direct, custom, kms):
        path = f"/keys/{key['key_id']}/reveal"
        for body in ({"reveal_to": given["reveal_to"]}, {}, None, {"reveal_to": {**given["reveal_to"], "x": "AA"}}):
            api("reveal_key", "POST", path, body)
            api("front_door", "POST", path, body)
            deployment.call("reveal_key", {"gateway_id": "default", "key_id": key["key_id"], **(body or {})})
    for text in (value, CUSTOM, CONTENTS[0], CUSTOM + "x"):
        api.validate(text)
        api.verify(text)
        for function in ("create_key", "front_door"):
            api(function, "POST", "/keys", {"name": "again", "generation": "Custom", "value": text})
            api(function, "POST", "/keys", {"name": "again", "generation": "Custom", "value": text, text: 1})
        api("front_door", "GET", "/validate", token=text)
    use_by_cloud_api(api, custom["key_id"])
    secrets = values_of(deployment) | {"custom": CUSTOM.encode(), "content": CONTENTS[0].encode()}
    every_other_function(api, custom, secrets)
    api("disable_key", "POST", f"/keys/{custom['key_id']}/disable")
    api("get_status", "GET", "/v1/status")
    api.tick()
    secrets |= values_of(deployment)
    assert len(secrets) >= 12
    assert {name for name, _ in returned} == {function.name for function in deployment.template.functions}
    places = {f"{number} {name}": json.dumps(answer).encode() for number, (name, answer) in enumerate(returned)}
    assert sum(b"value_jwe" in text for text in places.values()) > 10
    assert sweep(places, secrets) == []


@pytest.mark.parametrize(
    "secret", [CUSTOM.encode(), b"ck_" + b"aZ09" * 9 + b"xy", bytes(range(200, 232)), b"plainplain"]
)
@pytest.mark.parametrize("before", [b"", b"x", b"xy"])
def test_the_sweep_finds_a_planted_secret_in_every_encoding(secret: bytes, before: bytes) -> None:
    around = before + secret + b" and more"
    planted = {
        "raw": around, "hex": around.hex().encode(), "HEX": around.hex().upper().encode(), "base64": b64encode(around),
        "base64url": urlsafe_b64encode(around), "base64 alone": b64encode(before + secret),
        "gzip": gzip.compress(around),
        "gzip in gzip": b"\x00" + gzip.compress(b"\x01" + gzip.compress(around)) + b"\x02",
        "base64 in gzip": gzip.compress(b64encode(around)), "percent": quote(around, safe="").encode(),
        "all percent": "".join(f"%{byte:02x}" for byte in around).encode(),
        "repr": "".join(f"\\x{byte:02x}" for byte in around).encode(),
    }  # fmt: skip
    if secret.isascii():
        text = around.decode()
        planted |= {
            "json": json.dumps({"value": text}).encode(), "utf-16": text.encode("utf-16-le"),
            "json with slashes": json.dumps(text).replace("/", "\\/").encode(),
            "json unicode": "".join(f"\\u{ord(char):04x}" for char in text).encode(),
        }  # fmt: skip
    if secret == bytes(range(200, 232)):
        del planted["percent"]  # quote() leaves no byte as it is; "all percent" has the other spelling
    for place, data in planted.items():
        assert sweep({place: data}, {"secret": secret}), place
    assert sweep({"clean": b"nothing to see", "noise": GZIP * 3}, {"secret": secret}) == []


@pytest.mark.parametrize("length", range(8, 24))
def test_the_sweep_finds_a_secret_of_any_length_wherever_it_begins_and_only_the_whole(length: int) -> None:
    secret = bytes(range(200, 200 + length))
    for before in range(9):
        for behind in (b"", b"x"):
            around = b"y" * before + secret + behind
            assert sweep({"place": around}, {"secret": secret}) == ["secret, raw: place"]
            assert sweep({"place": around.replace(secret, secret[1:])}, {"secret": secret}) == []
            assert sweep({"place": around.replace(secret, secret[:-1])}, {"secret": secret}) == []


def test_the_sweep_finds_a_secret_planted_in_the_home_folder_and_in_the_database(
    kept: Deployment, database: str
) -> None:
    (kept.home / "validator").mkdir(exist_ok=True)
    (kept.home / "validator" / "leak.bin").write_bytes(gzip.compress(CUSTOM.encode()))
    sql(kept, "INSERT INTO idempotency VALUES ('a', 'k', 'f', :body, 0)", body=b64encode(CUSTOM.encode()).decode())
    places = files(kept.home) | {"rows": repr(rows_of(kept.services.store.engine)).encode()}
    found = {hit.rpartition(": ")[2] for hit in sweep(places, {"custom": CUSTOM.encode()})}
    assert found >= {"validator/leak.bin", "rows", *(["consumer-keys.db-wal"] if database == "sqlite" else [])}


def test_an_operators_own_words_in_errors_are_not_repeated(api: Api) -> None:
    for body in (
        {"name": CUSTOM, "generation": "System"},
        {"name": "ab", "generation": CUSTOM},
        {"generation": [CUSTOM]},
    ):
        answer = api("create_key", "POST", "/keys", body)
        assert answer.status == 400
        assert CUSTOM not in json.dumps(answer)
