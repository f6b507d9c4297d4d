"""The documents say what the code does: every table of the README is compared with its source."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

import pytest

from ckeys.template import load_template
from consumer_keys.access import ROLES
from consumer_keys.config import SETTINGS
from consumer_keys.errors import CODES
from consumer_keys.verdict import CODES as VERDICTS

ROOT = Path(__file__).parents[1]
REQUIRES = [item.replace('"', "'") for item in requires("consumer-keys") or []]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(first_header: str) -> list[list[str]]:
    """The cells of the README's table whose first column has this header, without backticks."""
    lines = iter(README.splitlines())
    for line in lines:
        if line.startswith(f"| {first_header} |"):
            break
    else:
        pytest.fail(f"the README has no table {first_header}")
    next(lines)
    rows: list[list[str]] = []
    for line in lines:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").replace("`", "").split("|")])
    return rows


def test_the_error_table_is_the_code_table() -> None:
    assert table("code") == [[code, str(status), text] for code, (status, text) in CODES.items()]


def test_the_settings_table_is_the_settings_list() -> None:
    expected = [[s.name, "-" if s.default is None else s.default, s.meaning.replace("`", "")] for s in SETTINGS]
    assert table("setting") == expected


def test_the_verdict_table_is_the_verdict_list() -> None:
    assert table("verdict") == [[code, text] for code, text in VERDICTS.items()]


def test_the_role_table_is_the_role_list() -> None:
    assert table("role") == [[role, ", ".join(sorted(functions))] for role, functions in ROLES.items()]


def test_the_calls_table_names_every_route_timer_and_function_of_the_template() -> None:
    template = load_template(ROOT / "template.yaml")
    documented = {(row[0], row[1]) for row in table("call")}
    base = "/v1/gateways/{gateway_id}"
    expected = set()
    for function in template.functions:
        for route in function.routes:
            expected.add((f"{route.method} {route.path.removeprefix(base)}", function.name))
        expected |= {("timer", function.name) for _ in function.timers}
        if function.function_url:
            expected.add(("Function URL", function.name))
    assert documented == expected


def test_every_direct_dependency_has_its_reason() -> None:
    deployed = ("extra" not in item or item.endswith(("'mysql'", "'postgresql'")) for item in REQUIRES)
    names = {re.split(r"[^A-Za-z0-9-]", item)[0] for item, wanted in zip(REQUIRES, deployed, strict=True) if wanted}
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert {name.lower() for name in re.findall(r"^\| ([A-Za-z0-9-]+) .*\|$", text, re.M)} - {"package"} == names
    assert len(names) <= 12


def test_no_document_names_a_file_that_is_not_there() -> None:
    paths = re.findall(r"`((?:docs|events|functions|shared|requirements|tests|examples)/[\w./-]*)`", README)
    assert [path for path in paths if not (ROOT / path).exists()] == []
