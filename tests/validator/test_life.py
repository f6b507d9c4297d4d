"""The validation server in time: revocation, outages, no snapshot, stopping."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Api
from tests.validator.conftest import POLL_SECONDS, Server, environment

START = Callable[..., Server]


def test_a_disabled_key_is_refused_in_time_and_an_enabled_one_is_let_in(serve: START, api: Api) -> None:
    key = api.bound_key("key")
    server = serve(environment(api.deployment), "--workers", "2")
    assert server.validate(key["value"]) == 200
    started = time.monotonic()
    assert api("disable_key", "POST", f"/keys/{key['key_id']}/disable").status == 200
    # Every process has to know it, so several refusals in a row on connections of their own are asked for.
    server.wait_for(lambda: {server.validate(key["value"]) for _ in range(10)} == {401})
    assert time.monotonic() - started < POLL_SECONDS + 2
    assert api("enable_key", "POST", f"/keys/{key['key_id']}/enable").status == 200
    # The refusals above may have used up the looks before a refusal, which come back once a second.
    server.wait_for(lambda: server.validate(key["value"]) == 200)


def test_with_the_cloud_gone_it_goes_on_and_stops_cleanly(serve: START, api: Api) -> None:
    key = api.bound_key("key")
    server = serve(environment(api.deployment), "--workers", "1")
    api.deployment.cloud.close()
    assert server.validate("nobody-has-this-9Qx4") == 401
    server.wait_for(lambda: any("refresh_failed" in line for line in server.lines))
    assert server.validate(key["value"]) == 200
    assert server.get("/healthz").status == 200
    assert server.stop(signal.SIGTERM) == 0


def test_a_process_that_dies_is_replaced(serve: START, api: Api) -> None:
    key = api.bound_key("key")
    server = serve(environment(api.deployment), "--workers", "1")
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    (worker,) = children.read_text(encoding="ascii").split()
    os.kill(int(worker), signal.SIGKILL)
    server.wait_for(lambda: any("Unexpected exit" in line for line in server.lines))
    server.wait_for(server.listens)
    assert server.validate(key["value"]) == 200
    assert worker not in children.read_text(encoding="ascii").split()
    assert server.stop() == 0


def test_without_a_snapshot_it_says_so_until_there_is_one(serve: START, api: Api) -> None:
    key = api.bound_key("key")
    cos, bucket = api.deployment.cloud.cos, api.deployment.environment["COS_BUCKET"]
    pointer = "consumer-keys/current.json"
    kept = cos.get_object(bucket, pointer)
    cos.delete_object(bucket, pointer)
    server = serve(environment(api.deployment), "--workers", "1")
    assert server.get("/healthz").status == 503
    assert server.validate(key["value"]) == 503
    cos.put_object(bucket, pointer, kept)
    server.wait_for(lambda: server.get("/healthz").status == 200)
    assert server.validate(key["value"]) == 200
