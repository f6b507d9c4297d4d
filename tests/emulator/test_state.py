"""Durable state: what was answered survives a killed process, and the folder gives nothing away."""

from __future__ import annotations

import base64
import signal
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tencent_emulator.cloud import Cloud, CloudError, StateError
from tencent_emulator.storage import Store

SECRET = "a-very-s3cr3t-value"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "state"


def fill(cloud: Cloud) -> str:
    """One of everything; the ciphertext of SECRET."""
    cloud.call("ssm", "CreateSecret", SecretName="a", VersionId="v1", SecretString=SECRET)
    key_id = cloud.call("kms", "CreateKey", Alias="ck")["KeyId"]
    cloud.cos.create_bucket("b-1250000000")
    cloud.cos.put_object("b-1250000000", "k", b"visible object")
    plain = base64.b64encode(SECRET.encode()).decode()
    return str(cloud.call("kms", "Encrypt", KeyId=key_id, Plaintext=plain)["CiphertextBlob"])


def test_state_is_there_after_an_orderly_end(folder: Path) -> None:
    with Cloud(state_dir=folder) as cloud:
        blob = fill(cloud)
    with Cloud(state_dir=folder) as cloud:
        assert cloud.call("ssm", "GetSecretValue", SecretName="a", VersionId="v1")["SecretString"] == SECRET
        opened = cloud.call("kms", "Decrypt", CiphertextBlob=blob)["Plaintext"]
        assert base64.b64decode(opened).decode() == SECRET
        assert cloud.cos.get_object("b-1250000000", "k") == b"visible object"


def test_the_folder_is_private_and_holds_no_secret_in_clear(folder: Path) -> None:
    with Cloud(state_dir=folder) as cloud:
        fill(cloud)
        cloud.call("ssm", "UpdateSecret", SecretName="a", VersionId="v1", SecretString=SECRET + "2")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        everything = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert {"key", "state.db", "state.db-wal"} <= set(everything)
        for name, data in everything.items():
            assert SECRET.encode() not in data, name
            assert base64.b64encode(SECRET.encode()) not in data, name
        assert any(b"visible object" in data for data in everything.values())
        for name in ("key", "state.db", "lock"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_key_material_is_not_in_clear(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    drawn: list[bytes] = []
    original = os.urandom

    def remember(size: int) -> bytes:
        drawn.append(original(size))
        return drawn[-1]

    with Cloud(state_dir=folder) as cloud:
        monkeypatch.setattr(os, "urandom", remember)
        cloud.call("kms", "CreateKey", Alias="ck")
        (material,) = [data for data in drawn if len(data) == 32]
        assert all(material not in path.read_bytes() for path in folder.iterdir())


def test_a_second_opener_is_told_until_the_first_ends(folder: Path) -> None:
    with Cloud(state_dir=folder), pytest.raises(StateError, match=f"{folder} is in use"):
        Cloud(state_dir=folder)
    Cloud(state_dir=folder).close()


def test_a_second_process_is_told(folder: Path, emulator_process: Callable[..., Any]) -> None:
    emulator_process("--state", str(folder))
    with pytest.raises(StateError, match="in use"):
        Cloud(state_dir=folder)
    second = emulator_process("--state", str(folder))
    _, errors = second.process.communicate(timeout=20)
    assert second.process.returncode == 1
    assert errors.strip() == f"The state folder {folder} is in use by another emulator."


def damage_database(folder: Path) -> str:
    (folder / "state.db").write_bytes(b"this is no database" * 100)
    return "state.db"


def cut_database(folder: Path) -> str:
    path = folder / "state.db"
    path.write_bytes(path.read_bytes()[:5000])
    return "state.db"


def shorten_key(folder: Path) -> str:
    (folder / "key").write_bytes(b"short")
    return "key"


def lose_key(folder: Path) -> str:
    (folder / "key").unlink()
    return "key"


def exchange_key(folder: Path) -> str:
    (folder / "key").write_bytes(b"x" * 32)
    return "state.db"


def later_version(folder: Path) -> str:
    import sqlite3

    database = sqlite3.connect(folder / "state.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    return "state.db"


@pytest.mark.parametrize("harm", [damage_database, cut_database, shorten_key, lose_key, exchange_key, later_version])
def test_unusable_state_is_told_in_one_sentence_that_names_the_file(folder: Path, harm: Callable[[Path], str]) -> None:
    with Cloud(state_dir=folder) as cloud:
        fill(cloud)
        for number in range(20):
            cloud.cos.put_object("b-1250000000", f"k{number}", b"x" * 4000)
    name = harm(folder)
    with pytest.raises(StateError) as caught:
        Cloud(state_dir=folder)
    text = str(caught.value)
    assert str(folder / name) in text
    assert "\n" not in text
    assert text.endswith(".")
    with pytest.raises(StateError, match=name):  # and the lock was given back
        Cloud(state_dir=folder)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateError, match="cannot be used"):
        Cloud(state_dir=tmp_path / "file" / "state")


def test_exchanged_rows_are_noticed(folder: Path) -> None:
    import sqlite3

    with Cloud(state_dir=folder) as cloud:
        for name in ("a", "b"):
            cloud.call("ssm", "CreateSecret", SecretName=name, VersionId="v1", SecretString=f"value of {name}")
    database = sqlite3.connect(folder / "state.db")
    rows = dict(database.execute("SELECT parent, body FROM item WHERE kind = 'secret_version'").fetchall())
    for name, other in (("a", "b"), ("b", "a")):
        database.execute("UPDATE item SET body = ? WHERE kind = 'secret_version' AND parent = ?", (rows[other], name))
    database.commit()
    database.close()
    with Cloud(state_dir=folder) as cloud, pytest.raises(StateError, match="altered"):
        cloud.call("ssm", "GetSecretValue", SecretName="a", VersionId="v1")


def test_a_closed_cloud_says_so_instead_of_answering(folder: Path) -> None:
    cloud = Cloud(state_dir=folder)
    cloud.close()
    cloud.close()
    with pytest.raises(StateError):
        cloud.call("ssm", "ListSecrets")


def test_a_transaction_that_fails_leaves_nothing_behind(folder: Path) -> None:
    store = Store(folder)

    def fail_halfway() -> None:
        with store.transaction():
            store.put("bucket", "", "a", {})
            with store.transaction():
                store.put("bucket", "", "b", {})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert store.items("bucket") == []
    store.close()


def test_a_refused_call_changes_nothing_even_halfway(folder: Path) -> None:
    with Cloud(state_dir=folder) as cloud:
        cloud.call("ssm", "CreateSecret", SecretName="a", VersionId="v1", SecretString="x")
        with pytest.raises(CloudError):
            cloud.call("ssm", "CreateSecret", SecretName="a", VersionId="v2", SecretString="y")
        assert len(cloud.call("ssm", "ListSecretVersionIds", SecretName="a")["Versions"]) == 1


class Writer(threading.Thread):
    """A client that creates one secret after the other until the connection breaks."""

    def __init__(self, ask: Callable[[int], object], enough: int) -> None:
        super().__init__(daemon=True)
        self.ask = ask
        self.enough = enough
        self.acknowledged = 0
        self.warm = threading.Event()

    def run(self) -> None:
        from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

        with suppress(TencentCloudSDKException):
            while True:
                self.ask(self.acknowledged)
                self.acknowledged += 1
                if self.acknowledged == self.enough:
                    self.warm.set()


def test_every_acknowledged_write_survives_kill_9(
    folder: Path, emulator_process: Callable[..., Any], ssm_client: Any
) -> None:
    server = emulator_process("--state", str(folder))
    ssm_client.profile.httpProfile.endpoint = server.endpoint

    def create(number: int) -> None:
        ssm_client.call_json("CreateSecret", {"SecretName": f"s{number}", "SecretString": f"value {number}"})

    writer = Writer(create, enough=150)
    writer.start()
    assert writer.warm.wait(20)
    server.stop(signal.SIGKILL)
    writer.join(20)
    assert not writer.is_alive()
    with Cloud(state_dir=folder) as cloud:
        for number in range(writer.acknowledged):
            got = cloud.call("ssm", "GetSecretValue", SecretName=f"s{number}", VersionId="SSM_Current")
            assert got["SecretString"] == f"value {number}"
        # The last request may have been carried out without its answer getting through.
        total = cloud.call("ssm", "ListSecrets")["TotalCount"]
        assert total in (writer.acknowledged, writer.acknowledged + 1)
