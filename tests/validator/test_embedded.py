"""Validation inside a process of somebody's own: threads, refresh, close, fork, and the documented example."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ckeys.deployment import Deployment
from consumer_keys import config
from consumer_keys.embedded import Embedded
from consumer_keys.errors import Problem
from consumer_keys.snapshot_cache import SnapshotCache
from tests.conftest import Api

SECONDS_MAX = 20
EXAMPLE = Path(__file__).parents[2] / "examples" / "embedded.py"


@pytest.fixture
def embedded(api: Api) -> Iterator[Embedded]:
    with Embedded.from_environment(api.deployment.environment) as made:
        yield made


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Waits until two more looks at the pointer have ended, so one of them began after now."""
    count, grown, look = [0], threading.Condition(), SnapshotCache.look

    def counted(cache: SnapshotCache) -> None:
        look(cache)
        with grown:
            count[0] += 1
            grown.notify_all()

    def wait() -> None:
        with grown:
            goal = count[0] + 2
            assert grown.wait_for(lambda: count[0] >= goal, SECONDS_MAX)

    monkeypatch.setattr(SnapshotCache, "look", counted)
    return wait


def refresh_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "snapshot"]


def test_keys_and_headers_are_judged_as_the_function_judges_them(api: Api, embedded: Embedded) -> None:
    value = api.bound_key("key")["value"]
    verdict = embedded.judge("default", value)
    assert (verdict.valid, verdict.key_name, verdict.consumer_name) == (True, "key", "app-of-key")
    for presented, code in (
        (value.encode(), "Valid"),
        ({"Authorization": f"Bearer {value}"}, "Valid"),
        ({"X-API-Key": value}, "Valid"),
        ({"X-API-Key": [value, value]}, "Valid"),
        ({"X-API-Key": value, "x-api-key": "other-value-9Qx4"}, "AmbiguousKey"),
        ({"X_Api_Key": value}, "MissingKey"),
        ({}, "MissingKey"),
        ("", "MissingKey"),
        (value + "\x00", "MalformedKey"),
        ("\ud800", "MalformedKey"),
        ("k" * 257, "MalformedKey"),
    ):
        assert embedded.judge("default", presented).code == code
    assert embedded.judge("other", value).code == "UnknownKey"
    assert embedded.judge("\udcff", value).code == "UnknownKey"


def test_a_disabled_key_is_noticed_without_any_request(
    api: Api, looked: Callable[[], None], embedded: Embedded
) -> None:
    key = api.bound_key("key")
    looked()
    assert embedded.snapshot().manifest.version == 4
    api("disable_key", "POST", f"/keys/{key['key_id']}/disable")
    looked()
    assert embedded.validation.cache.current().manifest.version == 5
    assert embedded.validation.validator.at_once("default", key["value"].encode()).code == "KeyDisabled"


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads take turns more often than usual: more interleavings, and publishing gets its share."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_switches")
def test_eight_threads_judge_while_snapshots_change(api: Api, embedded: Embedded) -> None:
    steady, moving = api.bound_key("steady"), api.bound_key("moving")
    assert embedded.judge("default", moving["value"]).valid
    done, codes = threading.Event(), set()

    def judge() -> int:
        count = 0
        while not done.is_set() or count < 100:
            assert embedded.judge("default", steady["value"]).valid
            codes.add(embedded.judge("default", moving["value"]).code)
            count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        judging = [pool.submit(judge) for _ in range(8)]
        try:
            for call in ("disable", "enable") * 3:
                function = "disable_key" if call == "disable" else "enable_key"
                api(function, "POST", f"/keys/{moving['key_id']}/{call}")
        finally:
            done.set()
        assert min(future.result(SECONDS_MAX) for future in judging) >= 100
    assert codes <= {"Valid", "KeyDisabled"}
    # So many refusals have used up the looks at once; the next one comes within a second, the thread's own sooner.
    tries = (threading.Event().wait(0.05) or embedded.judge("default", moving["value"]).valid for _ in range(60))
    assert any(tries)


def test_valid_requests_do_not_wait_for_a_cloud_that_hangs(
    api: Api, embedded: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = api.bound_key("key")["value"]
    assert embedded.judge("default", value).valid
    hanging, released = threading.Event(), threading.Event()

    def hang(name: str) -> None:
        hanging.set()
        assert released.wait(SECONDS_MAX)

    monkeypatch.setattr(embedded.validation.source, "pointer", hang)
    try:
        assert hanging.wait(SECONDS_MAX)
        assert embedded.judge("default", value).valid
        refusals = [threading.Thread(target=embedded.judge, args=("default", "nobody-7Rk2")) for _ in range(9)]
        for thread in refusals:
            thread.start()
        assert embedded.judge("default", value).valid
    finally:
        released.set()
    for thread in refusals:
        thread.join(SECONDS_MAX)
        assert not thread.is_alive()


def test_what_fails_in_the_background_is_logged_and_tried_again(
    api: Api, embedded: Embedded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = threading.Event()

    def broken(name: str) -> None:
        failed.set()
        raise RuntimeError("secret text")

    with monkeypatch.context() as patch:
        patch.setattr(embedded.validation.source, "pointer", broken)
        assert failed.wait(SECONDS_MAX)
    value = api.bound_key("key")["value"]
    assert embedded.judge("default", value).valid
    assert refresh_threads()
    output = capsys.readouterr().out
    assert "refresh_failed" in output
    assert "secret text" not in output


def test_close_joins_and_nothing_is_judged_afterwards(api: Api) -> None:
    embedded = Embedded.from_environment(api.deployment.environment)
    assert len(refresh_threads()) == 1
    embedded.close()
    embedded.close()
    assert refresh_threads() == []
    with pytest.raises(RuntimeError, match="closed"):
        embedded.judge("default", "x")


def test_explicit_settings_and_credential_need_no_environment(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    value = api.bound_key("key")["value"]
    given = {name: api.deployment.environment[name] for name in ("COS_BUCKET", "CLOUD_ENDPOINT", "SNAPSHOT_DIR")}
    pair = api.deployment.operator
    for name in (*given, "TENCENTCLOUD_SECRETID", "TENCENTCLOUD_SECRETKEY"):
        monkeypatch.delenv(name)
    with Embedded(config.load(given, ("COS_BUCKET",)), credential=lambda: (*pair, None)) as embedded:
        assert embedded.judge("default", value).valid
    with pytest.raises(config.ConfigError, match="COS_BUCKET is not set"):
        Embedded.from_environment({})


def test_without_a_snapshot_it_starts_and_lets_nobody_in(deployment: Deployment, api: Api) -> None:
    api.create_key("key")
    bucket = deployment.environment["COS_BUCKET"]
    kept = deployment.cloud.cos.get_object(bucket, "consumer-keys/current.json")
    deployment.cloud.cos.delete_object(bucket, "consumer-keys/current.json")
    with Embedded.from_environment(deployment.environment) as embedded:
        with pytest.raises(Problem, match="snapshot"):
            embedded.judge("default", "x")
        deployment.cloud.cos.put_object(bucket, "consumer-keys/current.json", kept)
        embedded.validation.cache.look()
        assert not embedded.judge("default", "x").valid


def _in_child(embedded: Embedded, answers: Any) -> None:
    try:
        embedded.judge("default", "x")
    except RuntimeError as error:
        answers.send(str(error))
    embedded.close()
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_is_told_to_build_its_own(embedded: Embedded) -> None:
    context = multiprocessing.get_context("fork")
    answers, asked = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(embedded, asked))
    child.start()
    assert answers.poll(SECONDS_MAX)
    assert answers.recv() == "Embedded must be built after fork"
    child.join(SECONDS_MAX)
    assert child.exitcode == 0
    child.close()
    answers.close()
    asked.close()
    assert embedded.judge("default", "x").code == "MalformedKey"


def test_the_example_guards_an_application(api: Api, embedded: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("example_embedded", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    seen: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", [])
        return [b"inside"]

    value = api.bound_key("key")["value"]
    guarded = module.KeyRequired(application, embedded, "default")
    statuses: list[str] = []

    def ask(**environ: str) -> bytes:
        return b"".join(guarded(environ, lambda status, headers: statuses.append(status)))

    assert ask(HTTP_AUTHORIZATION=f"Bearer {value}", HTTP_X_CONSUMER_ID="forged", HTTP_ACCEPT="*/*") == b"inside"
    assert seen[0].keys() == {
        "HTTP_ACCEPT", "HTTP_X_CONSUMER_ID", "HTTP_X_CONSUMER_NAME", "HTTP_X_CONSUMER_GROUPS", "HTTP_X_KEY_ID",
        "HTTP_X_KEY_NAME",
    }  # fmt: skip
    assert seen[0]["HTTP_X_CONSUMER_NAME"] == "app-of-key"
    assert ask(HTTP_AUTHORIZATION="Bearer no") == ask(HTTP_X_API_KEY=value) == ask() == b""
    monkeypatch.setattr(embedded, "judge", _unavailable)
    assert ask(HTTP_AUTHORIZATION=f"Bearer {value}") == b""
    assert [status[:3] for status in statuses] == ["200", "401", "401", "401", "503"]


def _unavailable(*_: object) -> None:
    raise Problem("SnapshotUnavailable")
