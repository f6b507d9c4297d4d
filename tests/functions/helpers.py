"""What several tests here need: operators' calls, SQL beside the handlers, and a look at everything stored."""

from __future__ import annotations

import hmac
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ckeys.deployment import BUCKET, Deployment
from tests.conftest import Answer, Api
from tests.databases import server_of

POINTER = "consumer-keys/current.json"
STRONG = "kT7vQ2xM"  # eight characters without any pattern
_OUTSIDE_CHANGES = {"leases", "publications", "data_keys", "signatures", "alembic_version"}
Content = dict[str, list[dict[str, Any]]]


def sql(deployment: Deployment, text: str, **values: Any) -> list[dict[str, Any]]:
    """Runs a statement straight in the database."""
    with deployment.services.store.engine.begin() as connection:
        result = connection.execute(sa.text(text), values)
        return [dict(row) for row in result.mappings()] if result.returns_rows else []


def stored(deployment: Deployment) -> Content:
    """Every row that a change could write; leases, publications and used signatures come and go by themselves.

    A reveal that was refused leaves a row in the audit log, and that is no change.
    """
    tables = sa.inspect(deployment.services.store.engine).get_table_names()
    content = {name: sql(deployment, f"SELECT * FROM {name}") for name in sorted(set(tables) - _OUTSIDE_CHANGES)}
    content["audit"] = [row for row in content["audit"] if row["action"] != "key.reveal_denied"]
    content["deployment"] = [{"revision": row["revision"]} for row in content["deployment"]]
    return content


def check_counted(rows: Content) -> None:
    """Every key names the facet that it belongs to, and every facet counts its keys."""
    names = ("gateway_id", "type", "generation", "creation_source", "status")
    facets = {row["facet_id"]: row for row in rows["key_facets"]}
    for key in rows["consumer_keys"]:
        facet = facets[key["facet_id"]]
        assert [facet[name] for name in names] == [key[name] for name in names]
        assert facet["bound"] == (key["consumer_id"] is not None)
    counted = Counter(key["facet_id"] for key in rows["consumer_keys"])
    assert {ident: row["key_count"] for ident, row in facets.items()} == {ident: counted[ident] for ident in facets}


@contextmanager
def nothing_changes(deployment: Deployment) -> Iterator[None]:
    """Fails when the block leaves another database behind than it found."""
    before = stored(deployment)
    yield
    assert stored(deployment) == before


@contextmanager
def database_down(deployment: Deployment) -> Iterator[None]:
    """No connection to the database while the block runs."""
    engine = deployment.services.store.engine
    name = str(engine.url.database)
    engine.dispose()
    if engine.dialect.name == "sqlite":
        path = Path(name)
        aside = path.with_suffix(".aside")
        path.rename(aside)
        path.mkdir()
    else:
        server = server_of(engine)
        server.admit(name, allowed=False)
    try:
        yield
    finally:
        engine.dispose()
        if engine.dialect.name == "sqlite":
            path.rmdir()
            aside.rename(path)
        else:
            server.admit(name, allowed=True)


def as_operator(api: Api, role: str, gateways: tuple[str, ...] | None = None, name: str = "") -> Api:
    """Calls as a new operator of this role."""
    _, secret = api.deployment.add_operator(name or f"{role}-{gateways}", role, gateways)
    return Api(api.deployment, secret)


def problem(answer: Answer, status: int, code: str, *fields: str) -> dict[str, Any]:
    """The problem document, which has this status and code and names these fields."""
    assert (answer.status, answer.body.get("code")) == (status, code), answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert {"title", "status", "detail", "request_id"} <= answer.body.keys()
    assert answer.body["status"] == status
    named = [error["field"] for error in answer.body.get("errors", [])]
    assert set(fields) <= set(named), answer.body
    body: dict[str, Any] = answer.body
    return body


def objects(deployment: Deployment) -> dict[str, bytes]:
    """Every object of the bucket."""
    cos = deployment.cloud.cos
    return {name: cos.get_object(BUCKET, name) for name in cos.list_objects(BUCKET)}


def put_object(deployment: Deployment, name: str, data: bytes) -> None:
    """Writes an object as somebody with access to the bucket could."""
    deployment.cloud.cos.put_object(BUCKET, name, data)


def pointer(deployment: Deployment) -> dict[str, Any]:
    """The manifest that the bucket holds now."""
    manifest: dict[str, Any] = json.loads(deployment.cloud.cos.get_object(BUCKET, POINTER))["manifest"]
    return manifest


def signed(manifest: dict[str, Any], key: bytes) -> bytes:
    """A pointer with a correct signature under `key`."""
    body = json.dumps(manifest, separators=(",", ":")).encode()
    return b'{"mac":"' + hmac.digest(key, body, "sha256").hex().encode() + b'","manifest":' + body + b"}"


def code_of(api: Api, value: str) -> str:
    """What /verify says about a value."""
    code: str = api.verify(value)["code"]
    return code


def change_content(api: Api, name: str, value: str, version: str = "v1") -> None:
    """New content of a credential, in place."""
    api.deployment.cloud.call("ssm", "UpdateSecret", SecretName=name, VersionId=version, SecretString=value)


def ssm(api: Api, action: str, name: str, **more: Any) -> None:
    """Another change of a credential's state: DisableSecret, EnableSecret, DeleteSecret, RestoreSecret."""
    api.deployment.cloud.call("ssm", action, SecretName=name, **more)


def kms_key(api: Api, name: str, value: str, *, bound: bool = True, path: str = "/v1/gateways/default") -> Any:
    """A KMS key on a new credential of the same name."""
    api.put_credential(name, value)
    body = {"name": name, "generation": "KMS", "credential": {"name": name, "version": "v1"}}
    created = api("create_key", "POST", f"{path}/keys", body)
    assert created.status == 201, created.body
    if bound:
        api.bind(created.body, api.create_consumer(f"app-of-{name}"))
    return created.body
