"""Every file under events/ is replayed against a seeded deployment, and must give what its name says.

The name is `<status>-<shape>[-<code>]-<case>.json`; a direct invocation has the status that HTTP would have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from ckeys import samples
from ckeys.deployment import ROOT, Deployment
from ckeys.events import Event, read_event
from ckeys.template import load_template
from consumer_keys.errors import CODES
from tests.contract import described
from tests.databases import Rows, restore, rows_of
from tests.prepared import environment

EVENTS = ROOT / "events"
FILES = sorted(EVENTS.glob("*/*.json"))
TEMPLATE = load_template(ROOT / "template.yaml")
NAME = re.compile(
    r"(?P<status>[1-5][0-9]{2})-(?P<shape>url|apigw|direct|timer)"
    r"(?:-(?P<code>[A-Z][A-Za-z]+))?-(?P<case>[a-z0-9]+(?:-[a-z0-9]+)*)\.json"
)
PROBLEM = {"type", "title", "status", "code", "detail", "request_id"}
MEMBERS = {"errors", "blockers", "consumer"}  # what a problem document may hold besides
SYSTEM_VALUE = re.compile(r"ck_[0-9A-Za-z]{38}")
# A reveal that an operator is refused leaves a row in the audit log; what reaches no function or is malformed does not.
DENIALS = {"Forbidden", "GatewayNotFound", "KeyNotFound", "ManagedByKms"}
UNTOUCHED = ("consumer_keys", "consumers", "key_values", "audit", "operators", "idempotency")


class Named(NamedTuple):
    """An event file and what its name promises."""

    path: Path
    function: str
    status: int
    shape: str
    code: str | None
    case: str


class Sample(NamedTuple):
    """A seeded deployment, and the database as it was then."""

    deployment: Deployment
    values: dict[str, str]
    engine: sa.Engine
    rows: Rows


def named(path: Path) -> Named:
    """What a file's name says; the name must say it."""
    match = NAME.fullmatch(path.name)
    assert match is not None, path.name
    return Named(path, path.parent.name, int(match["status"]), match["shape"], match["code"], match["case"])


@contextmanager
def seeded_deployment(home: Path, **settings: str) -> Iterator[Sample]:
    """One deployment for many files; `undone` puts its database back after an event that changed it."""
    environ = environment({"GATEWAYS": samples.GATEWAYS, **settings})
    with Deployment(home, durable=False, environ=environ) as deployment:
        values = samples.seed(deployment)
        engine = deployment.services.store.engine
        yield Sample(deployment, values, engine, rows_of(engine))


@contextmanager
def undone(seeded: Sample) -> Iterator[Rows]:
    """What the event changes is put back, and validation sees the former keys again."""
    before = rows_of(seeded.engine)
    yield before
    if rows_of(seeded.engine) != before:
        restore(seeded.engine, seeded.rows)
        seeded.deployment.services.publisher.publish(heartbeat=True)


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    """One deployment on SQLite for all files."""
    with seeded_deployment(tmp_path_factory.mktemp("samples")) as sample:
        yield sample


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_event_gives_what_its_name_says(path: Path, seeded: Sample, capsys: pytest.CaptureFixture[str]) -> None:
    replay(path, seeded, capsys)


def replay(path: Path, sample: Sample, capsys: pytest.CaptureFixture[str]) -> None:
    """Sends an event; the answer, what was logged and what was changed must be as the file's name says."""
    expected = named(path)
    event = samples.fill(read_event(path), sample.values)
    with undone(sample) as before:
        capsys.readouterr()
        answer = sample.deployment.call(expected.function, event)
        logged = capsys.readouterr().out
        body, text = read_answer(expected, answer)
        described.check(expected.function, event, answer, body, expected.status)
        if expected.code is None:
            assert not is_problem(body), body
        else:
            check_problem(expected, body)
            after = rows_of(sample.engine)
            denied = expected.function == "reveal_key" and expected.code in DENIALS
            assert len(after["audit"]) == len(before["audit"]) + denied
            untouched = [table for table in UNTOUCHED if not (denied and table == "audit")]
            assert {table: after[table] for table in untouched} == {table: before[table] for table in untouched}
            assert after["deployment"][0]["revision"] == before["deployment"][0]["revision"]
        asked, secrets = asked_for(expected, body), secrets_of(sample.values) | sent_values(event)
        assert not leaked(text, secrets - asked, asked)
        assert not leaked(logged, secrets | asked, set())
        assert "Traceback" not in text + logged
        assert "InternalError" not in logged
        if expected.function == "validate_key" and body is not None and expected.code is None:
            assert body["valid"] is ("refused" not in expected.case), body


def read_answer(expected: Named, answer: Any) -> tuple[Any, str]:
    """The body and the whole text of an answer, whose status and content type must be the expected ones."""
    text = json.dumps(answer, ensure_ascii=False)
    if expected.shape not in ("url", "apigw"):
        return answer, text
    assert set(answer) == {"isBase64Encoded", "statusCode", "headers", "body"}
    assert (answer["statusCode"], answer["isBase64Encoded"]) == (expected.status, False), answer["body"]
    assert all(isinstance(value, str) for value in answer["headers"].values())
    assert answer["headers"]["Cache-Control"] == "no-store"
    if not answer["body"]:
        assert "Content-Type" not in answer["headers"]
        return None, text
    problem = expected.code is not None
    assert answer["headers"]["Content-Type"] == ("application/problem+json" if problem else "application/json")
    assert ("WWW-Authenticate" in answer["headers"]) is (expected.status == 401)
    return json.loads(answer["body"]), text + answer["body"]


def is_problem(body: Any) -> bool:
    return isinstance(body, dict) and body.keys() >= PROBLEM


def check_problem(expected: Named, body: Any) -> None:
    """The one shape of problem documents, with texts from the closed table."""
    assert is_problem(body), body
    assert set(body) - PROBLEM <= MEMBERS
    assert (body["status"], body["code"]) == (expected.status, expected.code)
    assert (body["type"], body["title"]) == ("about:blank", CODES[body["code"]][1])
    assert isinstance(body["detail"], str)
    assert body["detail"]
    assert body["request_id"]
    for error in body.get("errors", []):
        assert set(error) == {"field", "message"}
        assert error["field"]
    if expected.code == "InvalidParameter":
        assert body["errors"]


def asked_for(expected: Named, body: Any) -> set[str]:
    """The value that an answer is asked for, if any: only a reveal and a new System key have one."""
    if expected.case == "describe-value":
        return {body["Response"]["Result"]}
    has_value = isinstance(body, dict) and "value" in body
    reveals = expected.function == "reveal_key" or expected.case == "reveal-key"
    makes = expected.status == 201 and body.get("generation") == "System" and "repeated" not in expected.case
    to_a_key = expected.case == "reveal-to"
    assert has_value is (expected.code is None and (reveals or makes) and not to_a_key)
    assert (isinstance(body, dict) and "value_jwe" in body) is (expected.code is None and to_a_key)
    return {body["value"]} if has_value else set()


def secrets_of(values: dict[str, str]) -> set[str]:
    return {value for name, value in values.items() if name.startswith(("value.", "operator."))}


def sent_values(event: Event) -> set[str]:
    """The key values that the event itself brings, in its own fields or in its body."""
    fields = [event]
    with suppress(TypeError, ValueError):
        fields.append(json.loads(event.get("body") or "{}"))
    found = [item.get(name) for item in fields if isinstance(item, dict) for name in ("key", "value")]
    return {value for value in found if isinstance(value, str) and len(value) >= 8}


def leaked(text: str, secrets: set[str], asked: set[str]) -> list[str]:
    """Secrets in a text, and generated values that nobody asked for."""
    return [secret for secret in secrets if secret in text] + sorted(set(SYSTEM_VALUE.findall(text)) - asked)


def of(function: str) -> list[Named]:
    return [named(path) for path in FILES if path.parent.name == function]


def test_every_name_parses_and_agrees_with_the_table_of_codes() -> None:
    for path in EVENTS.rglob("*"):
        if path.is_dir():
            continue
        file = named(path)
        assert path in FILES, path
        assert (file.code is None) is (file.status < 400), path.name
        assert file.code is None or CODES[file.code][0] == file.status, path.name


def test_folders_are_the_functions_of_the_template() -> None:
    assert {path.parent.name for path in FILES} == {function.name for function in TEMPLATE.functions}


@pytest.mark.parametrize("function", TEMPLATE.functions, ids=lambda function: function.name)
def test_every_function_has_good_and_failing_events_in_every_shape(function: Any) -> None:
    files = of(function.name)
    assert any(file.code is None for file in files)
    assert any(file.code is not None for file in files)
    needed = {"direct"}
    if function.routes or function.function_url:
        needed |= {"url", "apigw"}
    if function.timers:
        needed |= {"timer"}
    assert needed <= {file.shape for file in files}


def test_files_are_small_and_hold_no_fields_of_ours() -> None:
    http = {"httpMethod", "path", "headers", "queryString", "body"}
    apigw = {
        "requestContext", "pathParameters", "queryStringParameters", "headerParameters", "stageVariables",
        "isBase64Encoded",
    }  # fmt: skip
    for path in FILES:
        file, event = named(path), read_event(path)
        assert path.stat().st_size < 3_000, path
        assert path.read_text(encoding="utf-8").endswith("}\n")
        allowed = {"url": http, "apigw": http | apigw, "timer": {"Type", "TriggerName", "Time", "Message"}}
        assert set(event) <= allowed.get(file.shape, set(event) - http - apigw), path


def test_the_table_of_placeholders_is_what_seeding_gives_and_events_use(seeded: Sample) -> None:
    used = {name for path in FILES for name in re.findall(r"\$\{([^}]*)\}", path.read_text(encoding="utf-8"))}
    assert samples.PLACEHOLDERS.keys() == seeded.values.keys() == used
    assert all(samples.PLACEHOLDERS.values())
    assert all(seeded.values.values())
    assert len(set(seeded.values.values())) == len(seeded.values)


def test_fill_replaces_strings_at_any_depth_and_nothing_else() -> None:
    event = {"a": ["${x.y}-${x.y}", {"${x.y}": "$x"}], "n": 7, "b": True, "none": None}
    assert samples.fill(event, {"x.y": "1"}) == {"a": ["1-1", {"${x.y}": "$x"}], "n": 7, "b": True, "none": None}


def test_an_unknown_placeholder_is_named() -> None:
    with pytest.raises(samples.SampleError, match=r"There is no placeholder \$\{key\.sytem\}\."):
        samples.fill({"body": "${key.sytem}"}, {"key.system": "secret-1"})


def test_seeding_twice_is_refused(seeded: Sample) -> None:
    with undone(seeded), pytest.raises(samples.SampleError, match=r"create_consumer says NameInUse\.$"):
        samples.seed(seeded.deployment)
