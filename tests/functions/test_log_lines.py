"""One event is one line of JSON, whatever somebody puts into a request."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckeys.events import make_context
from ckeys.front import write_log
from consumer_keys import log
from tests.conftest import Api

# What ends a line, or a string, or hides what follows, somewhere: in Python, in a terminal, in a log viewer.
BREAKS = (
    "\n",
    "\r",
    "\r\n",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x1d",
    "\x1e",
    "\x85",
    "\u2028",
    "\u2029",
    "\x00",
    "\x1b[2J",
    "\x9b31m",
)
INJECTED = '{"event": "forged"}'
HOSTILE = [f'x{mark}{INJECTED}{mark}"\\' for mark in BREAKS] + ["\ud800", '"}\n{"', "\u202e", "\u200b"]


def lines(output: str) -> list[dict[str, Any]]:
    """The entries of a log. `splitlines` breaks at everything that anybody could take for the end of a line."""
    found = []
    for line in output.splitlines():
        assert line.isascii()
        assert line.isprintable(), "no control character, no escape code"
        entry = json.loads(line)
        assert entry.get("event") != "forged"
        found.append(entry)
    assert output.count("\n") == len(found)
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=200)
@given(st.dictionaries(st.sampled_from(sorted(log.FIELDS - {"event"})), st.text() | st.sampled_from(HOSTILE)))
def test_any_text_in_any_field_stays_in_its_line_and_comes_back_as_it_was(
    capsys: pytest.CaptureFixture[str], fields: dict[str, str]
) -> None:
    capsys.readouterr()
    log.emit("probe", **fields)
    [entry] = lines(capsys.readouterr().out)
    assert {name: entry[name] for name in fields} == fields


class OursError(Exception):
    safe_to_log = True


@pytest.mark.parametrize("text", HOSTILE)
def test_an_exception_stays_in_its_line(capsys: pytest.CaptureFixture[str], text: str) -> None:
    for kind in (OursError, ValueError):
        try:
            raise kind(text)
        except kind as error:
            log.emit_exception("probe", error)
        [entry] = lines(capsys.readouterr().out)
        assert entry["error"] == kind.__name__
        assert entry.get("detail") == (text if kind is OursError else None)


@pytest.mark.parametrize("text", HOSTILE)
def test_the_local_front_writes_one_line_too(text: str) -> None:
    stream = io.StringIO()
    write_log(stream, {"event": "access", "path": text, "method": text})
    [entry] = lines(stream.getvalue())
    assert entry["path"] == text


def test_a_field_that_is_not_on_the_list_is_refused() -> None:
    with pytest.raises(KeyError, match="not a log field"):
        log.emit("probe", value="x")


@pytest.mark.parametrize("function", ["create_key", "list_keys", "validate_key", "front_door", "sync_credentials"])
def test_hostile_text_anywhere_in_an_event_forges_no_line(
    api: Api, capsys: pytest.CaptureFixture[str], function: str
) -> None:
    deployment = api.deployment
    template, handler = deployment.template.function(function), deployment.handlers[function]
    capsys.readouterr()
    calls = 0
    for text in HOSTILE:
        base: dict[str, Any] = {
            "httpMethod": "POST",
            "path": "/v1/gateways/default/validate",
            "headers": {},
            "body": "",
        }
        base["queryString"] = {}
        events: list[Any] = [
            {**base, "httpMethod": text}, {**base, "path": f"/v1/gateways/{text}/verify"}, {**base, "path": text},
            {**base, "headers": {"authorization": f"Bearer {text}", "x-api-key": text, text: text}},
            {**base, "body": json.dumps({"name": text, text: text, "value": text})},
                {**base, "queryString": {text: text}},
            {"gateway_id": text, "key": text}, {"Type": text, "TriggerName": text, "Time": text, "Message": text},
            {"Type": "Timer", "TriggerName": text, "Time": text, "Message": text}, {text: text}, [text], text,
        ]  # fmt: skip
        for event in events:
            context = {**make_context(template), "request_id": text, "function_name": text, "namespace": text}
            handler(event, context)
            calls += 1
    entries = lines(capsys.readouterr().out)
    own = [entry for entry in entries if entry["event"] == "request" and entry["function"] == function]
    assert len(own) == calls
