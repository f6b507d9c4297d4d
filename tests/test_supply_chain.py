"""What the product is made of: the locks, their hashes, the reasons, the licences and the bill of materials."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
# SCF's newest documented runtime, and where the project is developed.
SCF = {"python_version": "3.10", "python_full_version": "3.10.0", "sys_platform": "linux", "platform_machine": "x86_64"}
SCF |= {"platform_system": "Linux", "os_name": "posix", "implementation_name": "cpython", "extra": ""}
SCF |= {"platform_python_implementation": "CPython"}


def entries(lock: Path) -> list[tuple[Requirement, list[str]]]:
    """(requirement, hashes) of each entry of a lock."""
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [
        (Requirement(line.partition(" --hash")[0]), re.findall(r"--hash=sha256:([0-9a-f]{64})(?:\s|$)", line))
        for line in lines
    ]


def pins(lock: str, environment: dict[str, str] = SCF) -> dict[str, str]:
    """Package -> version on a runtime; a package that has two versions there is a fault."""
    found: dict[str, str] = {}
    for requirement, _ in entries(ROOT / "requirements" / f"{lock}.txt"):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in found, name
            found[name] = str(requirement.specifier).removeprefix("==")
    return found


def wanted(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, with extras of its own resolved."""
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])]
    found = []
    for requirement in map(Requirement, texts):
        if requirement.name == PROJECT["name"]:
            found += wanted(*requirement.extras)
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_package_is_pinned_with_hashes_and_no_index_is_named(lock: Path) -> None:
    for requirement, hashes in entries(lock):
        assert re.fullmatch(r"==[^*=]+", str(requirement.specifier)), requirement
        assert hashes, requirement
    assert not re.search(r"https?:|--index|--find-links|--extra|-e ", lock.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("lock", "extras"), [("runtime", ("mysql", "postgresql")), ("local", ("local",)), ("dev", ("dev",))]
)
def test_the_locks_hold_what_the_project_asks_for_on_the_oldest_runtime(lock: str, extras: tuple[str, ...]) -> None:
    found = pins(lock)
    for requirement in wanted(*extras):
        if requirement.marker is None or requirement.marker.evaluate(SCF):
            version = found[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version, prereleases=True), requirement


def test_what_is_deployed_is_what_was_tested() -> None:
    runtime, tested = pins("runtime"), pins("dev")
    assert {name: tested.get(name) for name in runtime} == runtime
    assert {name: tested.get(name) for name in pins("local")} == pins("local")


def test_the_lock_is_made_for_the_oldest_runtime_of_the_template() -> None:
    script = (ROOT / "requirements" / "lock.sh").read_text(encoding="utf-8")
    runtimes = set(re.findall(r"Runtime: Python(\S+)", (ROOT / "template.yaml").read_text(encoding="utf-8")))
    assert runtimes == {"3.10"}
    assert PROJECT["requires-python"] == ">=3.10"
    assert "--python-version 3.10" in script
    assert "--generate-hashes" in script


def test_the_licence_list_is_that_of_the_installed_packages() -> None:
    spec = importlib.util.spec_from_file_location("licences", ROOT / "requirements" / "licences.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.table() == module.DOCUMENT.read_text(encoding="utf-8"), "run `make licences`"
    listed = re.findall(r"^\| (\S+) \| \S+ \| (.+) \|$", module.table(), re.M)
    assert len(listed) > len(wanted("mysql", "postgresql"))
    strong = [name for name, licence in listed if re.search(r"\b(A?GPL)", licence)]
    assert strong == [], "a licence that would bind the whole product"


def test_the_bill_of_materials_lists_every_locked_package_with_its_hashes(tmp_path: Path) -> None:
    tool = Path(sys.executable).parent / "cyclonedx-py"
    out = tmp_path / "sbom.json"
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\nsbom:")[1].split("\n\n")[0].replace("\\\n", " ")
    options = re.search(r"cyclonedx-py (.*?) -o ", recipe)
    assert options is not None
    command = [str(tool), *options[1].split(), "-o", str(out), "requirements/runtime.txt"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    document = json.loads(out.read_bytes())
    assert "timestamp" not in document["metadata"], "the same lock gives the same bytes"
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    listed = {(canonicalize_name(item["name"]), item["version"]): item for item in document["components"]}
    locked = entries(ROOT / "requirements" / "runtime.txt")
    for requirement, hashes in locked:
        version = str(requirement.specifier).removeprefix("==")
        assert all(text in json.dumps(listed[canonicalize_name(requirement.name), version]) for text in hashes)
    assert len(listed) == len({(item.name, str(item.specifier)) for item, _ in locked})
