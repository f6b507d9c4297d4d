"""What a local run does with the state that it finds: the version of the root secret, and parts that are gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from ckeys.deployment import Deployment, DeploymentError
from ckeys.main import cli
from tests.conftest import Api

Make = Callable[..., Deployment]
ROOT_SECRET = "consumer-keys-root"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "state"


def started(make: Make, home: Path, **settings: str) -> Api:
    deployment = make(home, durable=True, **settings)
    return Api(deployment, deployment.operator[1])


def ckeys(*words: str) -> None:
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output


def test_a_restart_goes_by_the_version_of_the_root_secret_that_is_in_force(make_deployment: Make, home: Path) -> None:
    api = started(make_deployment, home)
    value = api.bound_key()["value"]
    ckeys("rotate-root", "begin", "--yes")
    ckeys("rotate-root", "backfill")
    api.deployment.close()
    api = started(make_deployment, home)
    assert (api.deployment.environment["ROOT_SECRET_VERSION"], api.validate(value).status) == ("v2", 200)
    ckeys("rotate-root", "finish", "--readers-moved")
    assert api.validate(value).status == 200
    api.deployment.cloud.call("ssm", "DeleteSecretVersion", SecretName=ROOT_SECRET, VersionId="v1")
    api.deployment.close()
    with pytest.raises(DeploymentError, match=r"ROOT_SECRET_VERSION is v1, .* set it to v2\."):
        started(make_deployment, home, ROOT_SECRET_VERSION="v1")
    assert started(make_deployment, home).validate(value).status == 200


def test_a_root_secret_begun_and_not_filled_is_not_gone_by_yet(make_deployment: Make, home: Path) -> None:
    api = started(make_deployment, home)
    value = api.bound_key()["value"]
    ckeys("rotate-root", "begin", "--yes")
    api.deployment.close()
    api = started(make_deployment, home)
    assert (api.deployment.environment["ROOT_SECRET_VERSION"], api.validate(value).status) == ("v1", 200)


def test_a_version_that_the_root_secret_lacks_is_named_with_its_setting(make_deployment: Make, home: Path) -> None:
    started(make_deployment, home).deployment.close()
    with pytest.raises(DeploymentError, match=r"no usable version v7 \(ROOT_SECRET_VERSION\)"):
        started(make_deployment, home, ROOT_SECRET_VERSION="v7")


@pytest.mark.parametrize("rotated", [False, True])
def test_a_database_without_its_emulated_cloud_is_said_to_be_that(
    make_deployment: Make, home: Path, rotated: bool
) -> None:
    api = started(make_deployment, home)
    if rotated:
        for words in (["begin", "--yes"], ["backfill"], ["finish", "--readers-moved"]):
            ckeys("rotate-root", *words)
        (home / "operator.json").unlink()
    api.deployment.close()
    shutil.rmtree(home / "cloud")
    with pytest.raises(DeploymentError, match=r"/cloud is gone, but the database is there.* delete the state folder"):
        started(make_deployment, home)
