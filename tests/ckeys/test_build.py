"""Packages: each function alone, with what it reaches and no more, ready for a read-only code directory."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ckeys.build import Package, build, reach
from ckeys.deployment import ROOT
from ckeys.main import cli
from ckeys.template import load_template
from tests.test_architecture import COLD_START, COLD_START_OWN

UNCHECKED_HASH = 0b01
SHARED = ROOT / "shared"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Package]:
    out = tmp_path_factory.mktemp("build")
    template = load_template(ROOT / "template.yaml")
    made = build(ROOT, template, out, python=sys.executable, here=True, only=("validate_key", "front_door"))
    return {package.function: package for package in made}


def own_modules(package: Package) -> set[str]:
    found = (package.folder / "consumer_keys").rglob("*.py")
    return {".".join(path.relative_to(package.folder / "consumer_keys").with_suffix("").parts) for path in found}


def loaded(package: Package, code: str) -> set[str]:
    """What an interpreter without any site packages has loaded after the code ran in the package's folder."""
    probe = f"import sys; before = set(sys.modules); sys.path.insert(0, '.'); {code}"
    probe += "; import json; print(json.dumps(sorted(set(sys.modules) - before)))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", probe], cwd=package.folder, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


def test_validation_s_package_holds_its_modules_and_lmdb_and_is_small(packages: dict[str, Package]) -> None:
    package = packages["validate_key"]
    # Loaded when an operator is refused for the first time, not at a cold start.
    assert own_modules(package) - {"__init__"} == COLD_START_OWN | {"throttle"}
    assert [name.split()[0] for name in package.distributions] == ["lmdb"]
    assert package.zip_bytes < 2_000_000, "small enough to upload in one request"


def test_a_cold_start_of_the_built_package_loads_only_what_the_list_allows(packages: dict[str, Package]) -> None:
    names = loaded(packages["validate_key"], "import index")
    tops = {name.partition(".")[0] for name in names}
    assert {top for top in tops if not top.startswith("_")} <= COLD_START
    assert {name.partition(".")[2] for name in names if name.startswith("consumer_keys.")} == COLD_START_OWN


def test_the_front_door_carries_one_sdk_and_no_database(packages: dict[str, Package]) -> None:
    package = packages["front_door"]
    names = {name.split()[0].lower() for name in package.distributions}
    assert {"tencentcloud-sdk-python-scf", "tencentcloud-sdk-python-common"} <= names
    assert not names & {"sqlalchemy", "pydantic", "cryptography", "cos-python-sdk-v5", "tencentcloud-sdk-python-kms"}
    assert "index" in loaded(package, "import index; from tencentcloud.scf.v20180416 import scf_client")


def test_every_module_has_bytecode_that_is_used_whatever_the_date_of_its_source(packages: dict[str, Package]) -> None:
    for package in packages.values():
        for source in package.folder.rglob("*.py"):
            compiled = Path(importlib.util.cache_from_source(str(source)))
            assert compiled.exists(), source
            assert compiled.read_bytes()[4] == UNCHECKED_HASH


def test_the_same_source_gives_the_same_archive(packages: dict[str, Package], tmp_path: Path) -> None:
    before = packages["validate_key"]
    site = next(before.folder.parent.glob(".site-*"))
    (tmp_path / site.name).symlink_to(site)
    template = load_template(ROOT / "template.yaml")
    (again,) = build(ROOT, template, tmp_path, python=sys.executable, here=True, only=("validate_key",))
    assert again.archive.read_bytes() == before.archive.read_bytes()


def test_what_is_imported_for_types_alone_is_not_reached() -> None:
    modules, _ = reach(SHARED, ROOT / "functions" / "front_door" / "index.py")
    assert SHARED / "consumer_keys" / "cloud" / "scf.py" in modules
    assert not any("store" in path.parts for path in modules)


def test_only_the_functions_that_return_values_carry_the_library_that_seals_them_for_the_caller() -> None:
    carrying = set()
    for function in load_template(ROOT / "template.yaml").functions:
        _, imported = reach(SHARED, ROOT / "functions" / function.name / "index.py")
        carrying |= {function.name} if any(name.startswith("joserfc") for name in imported) else set()
    assert carrying == {"create_key", "reveal_key"}


def test_only_the_functions_that_hand_events_on_can_reach_other_functions() -> None:
    reaching = set()
    for function in load_template(ROOT / "template.yaml").functions:
        modules, _ = reach(SHARED, ROOT / "functions" / function.name / "index.py")
        reaching |= {function.name} if any(path.match("cloud/scf.py") for path in modules) else set()
    assert reaching == {"front_door", "cloud_api"}


def test_every_function_s_code_is_found() -> None:
    for function in load_template(ROOT / "template.yaml").functions:
        modules, imported = reach(SHARED, ROOT / "functions" / function.name / "index.py")
        assert modules
        assert not any(name.startswith(("ckeys", "tencent_emulator")) for name in imported)


def test_another_python_than_the_runtime_s_is_refused_in_one_sentence(tmp_path: Path) -> None:
    if sys.version_info[:2] == (3, 10):
        pytest.skip("this is the runtime's version")
    done = CliRunner().invoke(cli, ["build", "validate_key", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "runtime is Python 3.10" in done.output
    assert not list(tmp_path.iterdir())


def test_an_unknown_function_is_refused_in_one_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["build", "nope", "--here", "--out", str(tmp_path)])
    assert (done.exit_code, done.output) == (1, "Error: The template has no function nope.\n")


def test_an_interpreter_that_does_not_run_is_shown_with_its_own_words(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'libpython3.10.so: cannot open shared object file' >&2\nexit 127\n")
    broken.chmod(0o700)
    for python, said in ((broken, "cannot open shared object file"), (tmp_path / "none", "No such file or directory")):
        done = CliRunner().invoke(cli, ["build", "front_door", "--python", str(python), "--out", str(tmp_path / "out")])
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
        assert str(python) in done.stderr
        assert said in done.stderr
