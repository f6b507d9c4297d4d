"""Packages: one folder per function of the template, with nothing in it that the function does not reach.

`index.py` lies at the root, beside it the modules of consumer_keys and the locked packages that its imports lead to,
and bytecode made with unchecked hashes: SCF's code directory is read-only and PYTHONDONTWRITEBYTECODE is set there, so
what is not shipped would be compiled at every cold start.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ckeys.template import Template

OWN = "consumer_keys"
# Drivers are named in a database URL, not imported: SQLAlchemy loads them.
BY_NAME = {"sqlalchemy": ("pymysql", "psycopg", "psycopg_binary")}
# The SDK's only use of these is client-side encryption and speed-ups that no function calls.
LEFT_OUT_SUFFIXES = (".pyc", ".pyi", ".pyx", ".pxd", ".h", ".c")
LEFT_OUT_FOLDERS = ("tests", "test", "SelfTest", "__pycache__")
CODE_ROOT = "/var/user"
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


class BuildError(Exception):
    """A package cannot be built; the text is one sentence that names the cause."""


class Package(NamedTuple):
    """One built function."""

    function: str
    folder: Path
    archive: Path
    modules: int
    distributions: tuple[str, ...]
    zip_bytes: int


def build(
    root: Path, template: Template, out: Path, *, python: str, here: bool, only: Iterable[str] = ()
) -> list[Package]:
    """Builds every function, or only the named ones, into `out`.

    `here` builds for this machine and interpreter instead of SCF's (the template's runtime on manylinux2014).
    """
    wanted = set(only) or {function.name for function in template.functions}
    versions = {template.function(name).runtime.removeprefix("Python") for name in wanted}
    minor = _minor_version(python)
    if not here and versions != {minor}:
        raise BuildError(
            f"The template's runtime is Python {', '.join(sorted(versions))} but {python} is {minor}, whose bytecode"
            " the runtime would ignore; name a fitting interpreter with --python, or use --here for this machine."
        )
    site = _site(root, out / f".site-{minor}-{'here' if here else 'scf'}", python, None if here else minor)
    sources = root / "shared"
    packages = []
    for name in sorted(wanted):
        packages.append(_package(root, sources, site, out / name, python))
    return packages


def _package(root: Path, sources: Path, site: Path, folder: Path, python: str) -> Package:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    index = root / "functions" / folder.name / "index.py"
    shutil.copy(index, folder / "index.py")
    modules, imported = reach(sources, index)
    for module in modules:
        target = folder / module.relative_to(sources)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(module, target)
    found = needed_distributions(site, imported)
    for distribution in found:
        _copy_distribution(distribution, site, folder)
    # The paths in the bytecode are those of the platform, so that the same source gives the same package anywhere.
    paths = ["-s", str(folder), "-p", CODE_ROOT]
    compiled = subprocess.run(
        [python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", *paths, str(folder)], check=False
    )
    if compiled.returncode:
        raise BuildError(f"The bytecode of {folder.name} cannot be made.")
    archive = folder.with_suffix(".zip")
    _zip(folder, archive)
    names = tuple(sorted(f"{item.metadata['Name']} {item.version}" for item in found))
    return Package(folder.name, folder, archive, len(modules), names, archive.stat().st_size)


def reach(sources: Path, index: Path) -> tuple[list[Path], set[str]]:
    """The files of consumer_keys that `index` leads to, and every other module that they import."""
    waiting, modules, imported = [index], set[Path](), set[str]()
    while waiting:
        for name in _imports(waiting.pop()):
            if name.partition(".")[0] != OWN:
                imported.add(name)
                continue
            for file in _own_files(sources, name):
                if file not in modules:
                    modules.add(file)
                    waiting.append(file)
    return sorted(modules), imported


def _own_files(sources: Path, name: str) -> Iterator[Path]:
    """The file of a dotted name and the `__init__` of its parents; a name inside a module leads to the module."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        base = sources.joinpath(*parts[:length])
        for file in (base / "__init__.py", base.with_suffix(".py")):
            if file.is_file():
                yield file


def _imports(file: Path) -> Iterator[str]:
    for node in _live_nodes(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _live_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that can run: imports for type checking alone lead nowhere."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from _live_nodes(child)


def needed_distributions(site: Path, imported: Iterable[str]) -> list[Distribution]:
    """The installed distributions behind the imported names, and what those require."""
    installed = {str(canonicalize_name(item.metadata["Name"])): item for item in distributions(path=[str(site)])}
    files = {
        name: {str(file) for file in item.files or () if not str(file).startswith("..")}
        for name, item in installed.items()
    }
    waiting = [name for module in imported for name in _providers(module, files)]
    for module in imported:
        waiting += [str(canonicalize_name(name)) for name in BY_NAME.get(module.partition(".")[0], ())]
    needed: dict[str, Distribution] = {}
    while waiting:
        name = waiting.pop()
        if name in needed or name not in installed:
            continue
        needed[name] = installed[name]
        for text in installed[name].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(str(canonicalize_name(requirement.name)))
    return [needed[name] for name in sorted(needed)]


def _providers(module: str, files: dict[str, set[str]]) -> list[str]:
    """The distributions that hold a module; the longest known part of a dotted name decides (namespace packages)."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        base = "/".join(parts[:length])
        found = [
            name
            for name, own in files.items()
            if f"{base}.py" in own
            or f"{base}/__init__.py" in own
            or any(
                file.startswith(base + ".") and file.endswith(".so") and "/" not in file[len(base) :] for file in own
            )
        ]
        if found:
            return found
    return []


def _copy_distribution(distribution: Distribution, site: Path, folder: Path) -> None:
    for file in distribution.files or ():
        path = Path(str(file))
        if path.parts[0] == ".." or path.parts[0] == "bin" or set(path.parts) & set(LEFT_OUT_FOLDERS):
            continue
        if path.parts[0].endswith(".dist-info") and path.name != "METADATA":
            continue
        if path.suffix in LEFT_OUT_SUFFIXES or not (site / path).is_file():
            continue
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(site / path, folder / path)


def _site(root: Path, site: Path, python: str, scf_version: str | None) -> Path:
    """The locked packages, installed once per lock."""
    lock = root / "requirements" / "runtime.txt"
    stamp = site / ".lock"
    if stamp.exists() and stamp.read_bytes() == lock.read_bytes():
        return site
    shutil.rmtree(site, ignore_errors=True)
    base = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    base += ["--no-compile", "--target", str(site)]
    if scf_version is None:
        _run([*base, "-r", str(lock)])
    else:
        # One package has no wheel; pip takes a foreign platform only for wheels, so the two kinds go apart.
        wheels, sources = _split_lock(lock, site.parent)
        platform = ["--platform", "manylinux2014_x86_64", "--python-version", scf_version, "--implementation", "cp"]
        _run([*base, *platform, "--only-binary", ":all:", "-r", str(wheels)])
        _run([*base, "--upgrade", "--no-binary", ":all:", "-r", str(sources)])
    stamp.write_bytes(lock.read_bytes())
    return site


def _split_lock(lock: Path, folder: Path) -> tuple[Path, Path]:
    entries = lock.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    folder.mkdir(parents=True, exist_ok=True)
    wheels, sources = folder / ".wheels.txt", folder / ".sources.txt"
    is_source = [entry.startswith("crcmod==") for entry in entries]
    wheels.write_text("\n".join(entry for entry, source in zip(entries, is_source, strict=True) if not source))
    sources.write_text("\n".join(entry for entry, source in zip(entries, is_source, strict=True) if source))
    return wheels, sources


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), done.stderr[-300:])
        raise BuildError(f"The locked packages cannot be installed: {reason}")


def _minor_version(python: str) -> str:
    code = "import sys; print(f'{sys.version_info[0]}.{sys.version_info[1]}')"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    except OSError as error:
        raise BuildError(f"{python} is no Python interpreter: {error.strerror}.") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or [f"it ended with {error.returncode}"])[-1]
        raise BuildError(f"{python} is no Python interpreter that runs here: {said}") from None


def _zip(folder: Path, archive: Path) -> None:
    """The same bytes for the same content: sorted names, one date."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(str(path.relative_to(folder)), ZIP_TIME)
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                target.writestr(entry, path.read_bytes())
