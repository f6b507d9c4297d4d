"""Credentials changed by the official clients while keys are being validated."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from tencentcloud.common import credential
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.ssm.v20190923.ssm_client import SsmClient

from tests.e2e.conftest import Local
from tests.tccli import tccli_program

BASE = "/v1/gateways/default"
FIRST, SECOND = "first-content-8Zt4Kq", "second-content-3Bw9Xm"


def _tccli(local: Local) -> Callable[..., None]:
    program = tccli_program()
    environ = {
        **os.environ,
        "TENCENTCLOUD_SECRET_ID": local.secret_id,
        "TENCENTCLOUD_SECRET_KEY": local.secret_key,
        "TENCENTCLOUD_REGION": "ap-guangzhou",
        "NO_PROXY": "127.0.0.1",
        "HOME": str(local.home),
    }

    def call(action: str, *arguments: str) -> None:
        line = [program, "ssm", action, "--endpoint", f"http://127.0.0.1:{local.port + 1}", *arguments]
        subprocess.run(line, env=environ, capture_output=True, text=True, check=True)

    return call


def _sdk(local: Local) -> Callable[..., None]:
    profile = ClientProfile(httpProfile=HttpProfile(protocol="http", endpoint=f"127.0.0.1:{local.port + 1}"))
    client = SsmClient(credential.Credential(local.secret_id, local.secret_key), "ap-guangzhou", profile)

    def call(action: str, *arguments: str) -> None:
        names = [name.removeprefix("--") for name in arguments[::2]]
        client.call_json(action, dict(zip(names, arguments[1::2], strict=True)))

    return call


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("client", [_tccli, _sdk], ids=["tccli", "sdk"])
def test_a_key_follows_its_credential_through_create_update_disable_and_delete(
    start: Callable[..., Local], client: Callable[[Local], Callable[..., None]]
) -> None:
    # Without a cache the end of a credential shows in the tick that sees it; the 300 s are tested with a clock.
    local = start(CREDENTIAL_CACHE_SECONDS="0")
    ssm = client(local)
    name = ("--SecretName", "followed")

    def tick() -> Any:
        return local("POST", "/_local/timers/sync_credentials").body

    def accepted(value: str) -> bool:
        return local("GET", BASE + "/validate", token=value).status == 200

    ssm("CreateSecret", *name, "--VersionId", "v1", "--SecretString", FIRST)
    wanted = {"name": "key", "generation": "KMS", "credential": {"name": "followed", "version": "v1"}}
    key = local("POST", BASE + "/keys", wanted).body
    consumer = local("POST", BASE + "/consumers", {"name": "app"}).body
    local("PUT", f"{BASE}/keys/{key['key_id']}/consumer", {"consumer_id": consumer["consumer_id"]})
    assert accepted(FIRST)
    ssm("UpdateSecret", *name, "--VersionId", "v1", "--SecretString", SECOND)
    assert tick()["changed"] == 1
    assert (accepted(FIRST), accepted(SECOND)) == (False, True)
    ssm("DisableSecret", *name)
    assert tick()["errors"] == {"CredentialDisabled": 1}
    assert not accepted(SECOND)
    ssm("EnableSecret", *name)
    tick()
    assert accepted(SECOND)
    ssm("DisableSecret", *name)
    ssm("DeleteSecret", *name)
    assert tick()["errors"] == {"CredentialNotFound": 1}
    shown = local("GET", f"{BASE}/keys/{key['key_id']}").body
    assert (accepted(SECOND), shown["sync"]["status"]) == (False, "Fail")
