"""The emulator knows neither the domain nor the SDKs, so that one mistake cannot hide on both sides."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tencent_emulator

FOLDER = Path(tencent_emulator.__file__).parent
MODULES = sorted(FOLDER.glob("*.py"))
ALLOWED = {"tencent_emulator", "cryptography", *sys.stdlib_module_names}
LAZY = {"pytest", "time_machine", "requests", "tencentcloud", "qcloud_cos"}  # the plugin, inside fixtures


def imports(node: ast.AST) -> set[str]:
    found: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            assert part.level == 0
            found.add((part.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_imports_only_the_standard_library_cryptography_and_its_siblings(path: Path) -> None:
    allowed = ALLOWED | LAZY if path.name == "pytest_plugin.py" else ALLOWED
    assert imports(ast.parse(path.read_text(encoding="utf-8"))) <= allowed


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_nothing_of_the_domain_or_the_sdks_is_loaded_with_the_server() -> None:
    loaded = loaded_after("import tencent_emulator.server, tencent_emulator.cloud, tencent_emulator.__main__")
    assert "cryptography" in loaded
    assert not loaded & {"consumer_keys", "ckeys", "tencentcloud", "qcloud_cos", "requests", "pytest"}


def test_the_plugin_costs_nothing_until_a_fixture_is_used() -> None:
    more = loaded_after("import pytest; import tencent_emulator.pytest_plugin") - loaded_after("import pytest")
    assert more == {"tencent_emulator"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name
