"""`ckeys audit` beside a local run that is up."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.e2e.conftest import CKEYS, Local

BASE = "/v1/gateways/default"


def ckeys(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CKEYS, "audit", *words], capture_output=True, text=True, check=False)


def test_rows_are_listed_and_a_changed_one_is_named_with_exit_code_1(start: Callable[..., Local]) -> None:
    local = start()
    home = ["--home", str(local.home)]
    for number in range(3):
        local("POST", BASE + "/keys", {"name": f"key-{number}", "generation": "System"})
    assert local("POST", "/_local/timers/sync_credentials").body["audit_head"] == 4

    good = ckeys("verify", *home)
    assert (good.returncode, good.stderr) == (0, "")
    assert re.fullmatch("4 rows, [0-9] signed heads: every row is as it was written.\n", good.stdout)
    listed = [json.loads(line) for line in ckeys("list", *home).stdout.splitlines()]
    assert [(row["sequence"], row["action"]) for row in listed] == [
        (4, "key.create"), (3, "key.create"), (2, "key.create"), (1, "operator.create"),
    ]  # fmt: skip
    few = ckeys(
        "list", *home, "--gateway", "default", "--target", listed[1]["target"], "--from", "2026-01-01T00:00:00Z"
    )
    assert [json.loads(line) for line in few.stdout.splitlines()] == [listed[1]]
    wrong = ckeys("list", *home, "--action", "key.rename")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (1, 1)
    assert "action" in wrong.stderr

    with closing(sqlite3.connect(local.home / "consumer-keys.db")) as database, database:
        database.execute("UPDATE audit SET actor = 'nobody' WHERE sequence = 2")
    bad = ckeys("verify", *home)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr == "Error: Row 2 does not fit its hash: it was changed, or put in another's place.\n"


def test_without_a_local_run_it_is_one_sentence(start: Callable[..., Local], tmp_path: Path) -> None:
    none = ckeys("verify", "--home", str(tmp_path / "none"))
    assert (none.returncode, len(none.stderr.splitlines())) == (1, 1)
    local = start()
    local.stop()
    stopped = ckeys("verify", "--home", str(local.home))
    assert (stopped.returncode, len(stopped.stderr.splitlines())) == (1, 1)


def test_data_keys_are_rotated_beside_a_local_run_and_the_log_has_it(start: Callable[..., Local]) -> None:
    local = start()
    home = ["--home", str(local.home)]
    key = local("POST", BASE + "/keys", {"name": "key", "generation": "System"}).body
    rotated = subprocess.run(
        [CKEYS, "rotate-data-keys", "--older-than", "0", *home], capture_output=True, text=True, check=True
    )
    assert json.loads(rotated.stdout)["values"]["resealed"] == 1
    published = subprocess.run([CKEYS, "publish", *home], capture_output=True, text=True, check=True)
    assert json.loads(published.stdout)["version"] > 0
    shown = local("POST", f"{BASE}/keys/{key['key_id']}/reveal", {})
    assert shown.body["value"] == key["value"]
    listed = [json.loads(line)["action"] for line in ckeys("list", *home).stdout.splitlines()]
    assert listed[0] == "key.reveal"
    assert sorted(listed[1:5]) == ["data_key.begin", "data_key.begin", "data_key.retire", "data_key.retire"]
    local("POST", "/_local/timers/sync_credentials")
    assert ckeys("verify", *home).returncode == 0


def test_a_reader_that_has_seen_enough_is_no_failure(start: Callable[..., Local]) -> None:
    """As `ckeys audit list | head` is."""
    local = start()
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [CKEYS, "audit", "list", "--home", str(local.home)], stdout=closed, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"")
