"""What commands print never steers the terminal that it is printed on, whoever wrote the texts."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ckeys.deployment import Deployment
from ckeys.main import cli
from tests.cloud_api.test_answers import Cloud
from tests.conftest import Api
from tests.functions.helpers import nothing_changes, problem, sql

# Codes that clear, colour and rename (7 and 8 bits), a bell, a way back over what was printed, other lines, and text
# that runs the other way.
STEERING = [
    "\x1b[2J", "\x9b31m", "\x1b]0;title\x07", "\x9d0;title\x9c", "\b\b\b", "\r", "\x7f", "\x85", "\u2028", "\u2029",
    "\u061c", "\u200e", "\u200f", "\u202a", "\u202e", "\u2066", "\u2069",
]  # fmt: skip
HOSTILE = "".join(f"a{text}z" for text in STEERING)


def ckeys(*words: str, **environ: str) -> Result:
    """A command in the environment of the deployment, as an administrator's shell would have it."""
    return CliRunner().invoke(cli, words, env=environ)


def harmless(text: str) -> bool:
    """Whether no character of it does anything but show; new lines end lines."""
    kinds = {unicodedata.category(char) for char in text.replace("\n", "")}
    return not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def free_texts(api: Api) -> Iterator[tuple[str, str, str, dict[str, Any], str]]:
    """Every call in which an editor or a revealer writes text of their own: function, method, path, body, field."""
    key, consumer, group = (
        api.create_key()["key_id"], api.create_consumer()["consumer_id"], api.create_group()["group_id"],
    )  # fmt: skip
    yield "create_key", "POST", "/keys", {"name": "other", "generation": "System"}, "description"
    yield "update_key", "PATCH", f"/keys/{key}", {}, "description"
    yield "reveal_key", "POST", f"/keys/{key}/reveal", {}, "reason"
    yield "create_consumer", "POST", "/consumers", {"name": "other"}, "description"
    yield "update_consumer", "PATCH", f"/consumers/{consumer}", {}, "description"
    yield "create_group", "POST", "/groups", {"name": "other"}, "description"
    yield "update_group", "PATCH", f"/groups/{group}", {}, "description"
    for function, path in (("create_key", "/keys"), ("create_consumer", "/consumers"), ("create_group", "/groups")):
        yield function, "POST", path, {"generation": "System"} if function == "create_key" else {}, "name"


def test_no_call_takes_a_text_that_steers_a_terminal(api: Api) -> None:
    calls = list(free_texts(api))
    with nothing_changes(api.deployment):
        for function, method, path, body, field in calls:
            for text in STEERING:
                answer = api(function, method, path, {**body, field: f"a{text}z"})
                problem(answer, 400, "InvalidParameter", field)
                assert harmless(json.dumps(answer.body, ensure_ascii=False)), "and the refusal does not repeat it"


def test_the_vendors_actions_take_none_either(api: Api) -> None:
    cloud = Cloud(api)
    made = {"SecretType": "ApiKey", "GenerateType": "System", "Name": "other", "ResourceType": "Consumer"}
    for text in STEERING:
        code, message = cloud.refused("CreateSecretKey", **made, Description=f"a{text}z")
        assert (code, harmless(message)) == ("InvalidParameterValue.InvalidParameterValue", True)


def test_what_is_shown_is_what_the_calls_take(api: Api) -> None:
    """Other alphabets, tabs, new lines and joined emoji stay possible."""
    text = "two\nlines\tand \u05e9\u05dc\u05d5\u05dd, \u4e2d\u6587\u3000\u00e9, \U0001f468\u200d\U0001f4bb"
    api.create_key(description=text)
    (row,) = [json.loads(line) for line in ckeys("audit", "list", "--action", "key.create").stdout.splitlines()]
    assert row["after"]["description"] == text


def test_an_operators_name_that_steers_a_terminal_is_refused_and_not_repeated(api: Api) -> None:
    with nothing_changes(api.deployment):
        for text in (*STEERING, "\n", "\u200b"):
            done = ckeys("operators", "add", f"a{text}z", "--role", "viewer")
            assert (done.exit_code, harmless(done.output)) == (1, True)


def test_what_a_database_holds_is_printed_with_escapes_and_stays_the_same_document(api: Api) -> None:
    """Rows from before this rule, or of somebody who writes to the database."""
    key = api.create_key(description="a description")
    after = sql(api.deployment, "SELECT after FROM audit WHERE action = 'key.create'")[0]["after"]
    spoiled = json.dumps({**json.loads(after), "description": HOSTILE}, ensure_ascii=False)
    sql(api.deployment, "UPDATE audit SET after = :after, actor = :actor WHERE action = 'key.create'",
        after=spoiled, actor=HOSTILE)  # fmt: skip
    sql(api.deployment, "UPDATE operators SET name = :name", name=HOSTILE + "\n")
    listed = ckeys("audit", "list", "--target", key["key_id"])
    assert (listed.exit_code, harmless(listed.output)) == (0, True)
    row = json.loads(listed.stdout)
    assert (row["actor"], row["after"]["description"]) == (HOSTILE, HOSTILE)
    checked = ckeys("audit", "verify")
    assert (checked.exit_code, harmless(checked.output)) == (1, True)
    table, document = ckeys("operators", "list"), ckeys("operators", "list", "--json")
    assert (table.exit_code, harmless(table.output), len(table.output.splitlines())) == (0, True, 2)
    assert harmless(document.output)
    assert [row["name"] for row in json.loads(document.stdout)] == [HOSTILE + "\n"]


def test_a_replayed_event_is_answered_in_harmless_characters(
    make_deployment: Callable[..., Deployment], tmp_path: Path
) -> None:
    home, event = tmp_path / "home", tmp_path / "event.json"
    deployment = make_deployment(home, durable=True)
    key = Api(deployment, deployment.operator[1]).create_key()["key_id"]
    sql(deployment, "UPDATE consumer_keys SET description = :hostile", hostile=HOSTILE)
    deployment.close()
    event.write_text(json.dumps({"gateway_id": "default", "key_id": key}), encoding="utf-8")
    done = ckeys("invoke", "get_key", "--event", str(event), "--home", str(home))
    assert (done.exit_code, harmless(done.stdout)) == (0, True), done.output
    assert json.loads(done.stdout)["description"] == HOSTILE


class _Hostile(BaseHTTPRequestHandler):
    """Whoever answers in the place of the API, or holds such texts: a key for one path, a problem for others."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        created = self.path.endswith("/keys")
        fields = {"key_id": "secret-0", "name": HOSTILE} if created else {"code": HOSTILE, "detail": HOSTILE}
        body = json.dumps(fields, ensure_ascii=False).encode()
        self.send_response(201 if created else 409)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hostile() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Hostile)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_an_api_answers_is_printed_with_escapes(hostile: str) -> None:
    environ = {"CKEYS_URL": hostile, "CKEYS_TOKEN": "an-operators-secret"}
    created = ckeys("keys", "create", "night-batch", **environ)
    assert (created.exit_code, harmless(created.output)) == (0, True)
    assert json.loads(created.stdout) == {"key_id": "secret-0", "name": HOSTILE}
    refused = ckeys("keys", "reveal", "x", **environ)
    assert (refused.exit_code, harmless(refused.output)) == (1, True)
    assert "\\u009b31m" in refused.output
