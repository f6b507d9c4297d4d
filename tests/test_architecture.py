"""The rules of the tree, checked over the source: who may import whom, sizes, docstrings, functions against template.

The domain package has three rings. Pure modules decide and do no I/O; edges do the I/O and know only pure modules;
use cases join them and get their collaborators as arguments. The roots put everything together.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from ckeys.template import load_template
from consumer_keys.access import ROLES
from consumer_keys.operation import Operation

ROOT = Path(__file__).resolve().parents[1]
SHARED, FUNCTIONS = ROOT / "shared", ROOT / "functions"

RINGS: dict[str, set[str]] = {
    "pure": {
        "cloud_api", "cloud_api.errors", "cloud_api.requests", "cloud_api.answers",
        "errors", "failpoints", "fields", "model", "keytext", "strength", "verdict", "signing", "snapshot", "access",
        "presented", "roots", "paging", "tc3", "light_typing", "percent", "audit_chain", "secret",
    },
    "edge": {
        "store", "store.audit", "store.change", "store.database", "store.dialect", "store.key_facets",
        "store.key_lists", "store.publication", "store.reads", "store.rotation", "store.schema", "store.sealed",
        "vault", "cloud", "cloud.service", "cloud.ssm", "cloud.kms", "cloud.scf", "cloud.cos",
        "web", "operation", "log", "config", "snapshot_cache", "snapshot_source", "snapshot_base",
        "http_reads", "disclosure", "throttle",
    },
    "use case": {
        "keys", "consumers", "groups", "deletion", "data_keys", "root_rotation", "cloud_api.actions", "operators",
        "operator_admin", "publish", "sync", "follow", "status", "validate", "audit",
    },
    "root": {
        "cloud_api.entrance", "cloud_api.handler", "invocation", "wiring", "validate_wiring", "embedded",
        "validate_server", "front_door",
    },
}  # fmt: skip
RING_OF = {module: ring for ring, modules in RINGS.items() for module in modules}
# What is beside the standard library, and the only modules that may import it.
EXTERNAL: dict[str, set[str]] = {
    "fields": {"pydantic"},
    "model": {"pydantic"},
    "operation": {"pydantic"},
    "cloud_api.requests": {"pydantic"},
    "vault": {"cryptography"},
    "disclosure": {"joserfc"},
    "cloud.cos": {"qcloud_cos", "requests", "urllib3"},
    **{f"cloud.{name}": {"tencentcloud", "requests"} for name in ("service", "ssm", "kms", "scf")},
    "snapshot_base": {"lmdb"},
    **{module: {"sqlalchemy"} for module in RINGS["edge"] if module.startswith("store")},
    "store.dialect": {"sqlalchemy", "psycopg"},
}
SDKS = {"tencentcloud", "qcloud_cos"}
# What a pure module must not reach: I/O, threads, the environment, randomness.
IMPURE = {
    "os", "sys", "io", "socket", "ssl", "http", "threading", "subprocess", "random", "secrets", "tempfile", "pathlib",
    "shutil", "asyncio", "logging", "select", "sqlite3", "uuid", "platform", "locale", "signal", "mmap",
}  # fmt: skip
PURE_OF_TIME = {"gmtime", "strftime"}

FUNCTION_LINES_MAX, MODULE_LINES_MAX, INDEX_LINES_MAX = 60, 399, 40
# Functions without an Operation: their routes are told apart inside, or there are none.
WITHOUT_OPERATION = {"validate_key", "sync_credentials", "front_door", "cloud_api"}
# Who is called without an operator's role: validation judges keys, the front door decides nothing, and the
# cloud API decides by the action.
WITHOUT_ROLE = {"validate_key", "front_door", "cloud_api"}

# Everything that validation's cold start loads; a new name here costs every cold start and needs a reason.
# Not http.client, which brings email, ssl, random and datetime (docs/decisions/0005); not typing, urllib.parse and
# threading (0007).
COLD_START = {
    "base64", "binascii", "collections", "consumer_keys", "copyreg", "enum", "errno", "functools",
    "genericpath", "hashlib", "hmac", "importlib", "index", "itertools", "json", "keyword", "lmdb", "math",
    "operator", "os", "posixpath", "re", "reprlib", "select", "selectors", "socket", "stat", "struct", "types",
    "warnings",
    "array", "sre_compile", "sre_constants", "sre_parse", "uu", "numbers",  # by some Python versions only
}  # fmt: skip
COLD_START_OWN = {
    "access", "config", "errors", "http_reads", "keytext", "light_typing", "log", "percent", "presented", "signing",
    "snapshot", "snapshot_base", "snapshot_cache", "snapshot_source", "validate", "validate_wiring", "verdict", "web",
}  # fmt: skip


class Import(NamedTuple):
    """One imported module; `typing_only` under `if TYPE_CHECKING`, `top` at module level."""

    module: str
    typing_only: bool
    top: bool


def python_files(*folders: Path) -> list[Path]:
    """All modules below the folders, but not migrations, which are history."""
    return sorted(path for folder in folders for path in folder.rglob("*.py") if "migrations" not in path.parts)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path, package: Path) -> str:
    """`store.change` for store/change.py, `store` for store/__init__.py."""
    return ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imports_of(path: Path) -> Iterator[Import]:
    yield from _imports(parsed(path).body, typing_only=False, top=True)


def _imports(body: list[ast.stmt], *, typing_only: bool, top: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, typing_only, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (Import(module, typing_only, top) for module in _targets(node))
        else:
            checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for field in ("body", "orelse", "finalbody"):
                inner = getattr(node, field, [])
                yield from _imports(
                    inner, typing_only=typing_only or (checking and field == "body"), top=top and not function
                )
            for handler in getattr(node, "handlers", []):
                yield from _imports(handler.body, typing_only=typing_only, top=top and not function)


def _targets(node: ast.ImportFrom) -> Iterator[str]:
    """`from package import module` names the module, `from module import name` too."""
    for alias in node.names:
        inner = f"{node.module}.{alias.name}"
        base = SHARED / inner.replace(".", "/")
        yield inner if base.with_suffix(".py").exists() or base.is_dir() else str(node.module)


def domain_modules() -> dict[str, Path]:
    package = SHARED / "consumer_keys"
    return {name: path for path in python_files(package) if (name := name_of(path, package))}


def may_import(module: str, other: Import) -> bool:
    """The three-ring rule for one import of one module of the domain."""
    top = other.module.partition(".")[0]
    if top != "consumer_keys":
        return top in sys.stdlib_module_names or top in EXTERNAL.get(module, set())
    target = other.module.partition(".")[2]
    ring, target_ring = RING_OF[module], RING_OF.get(target)
    if target_ring == "pure" or ring == "root" or (other.typing_only and target_ring is not None and ring != "pure"):
        return True
    if ring == "edge":
        same_package = "." in module and module.partition(".")[0] == target.partition(".")[0]
        return same_package or (module, target) in (
            ("web", "log"),
            ("operation", "web"),
            ("snapshot_source", "http_reads"),
        )
    return ring == "use case" and target_ring == "use case"


# Imports


def test_every_module_of_the_domain_has_its_ring() -> None:
    assert RING_OF.keys() == domain_modules().keys()
    assert sum(map(len, RINGS.values())) == len(RING_OF), "a module stands in two rings"


@pytest.mark.parametrize("module", sorted(RING_OF))
def test_a_module_imports_only_what_its_ring_allows(module: str) -> None:
    found = imports_of(domain_modules()[module])
    refused = sorted({other.module for other in found if not may_import(module, other)})
    assert refused == [], f"{module} ({RING_OF[module]}) must not import {refused}"


def test_the_package_itself_imports_nothing() -> None:
    for package in ("consumer_keys", "consumer_keys/store", "tencent_emulator", "ckeys"):
        assert list(imports_of(SHARED / package / "__init__.py")) == []


@pytest.mark.parametrize("module", sorted(RINGS["pure"]))
def test_a_pure_module_has_no_io_no_clock_no_randomness_and_no_environment(module: str) -> None:
    path = domain_modules()[module]
    assert {other.module.partition(".")[0] for other in imports_of(path)} & IMPURE == set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("now", "utcnow", "today", "environ", "urandom"), f"line {node.lineno}"
            if isinstance(node.value, ast.Name) and node.value.id == "time":
                assert node.attr in PURE_OF_TIME, f"line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("open", "print", "input", "exec", "eval", "__import__"), f"line {node.lineno}"


# `operation` is for management functions only, which load pydantic with their input models in any case.
@pytest.mark.parametrize("module", sorted((RINGS["edge"] | RINGS["use case"] | RINGS["root"]) - {"operation"}))
def test_heavy_packages_are_imported_where_they_are_needed(module: str) -> None:
    """The official SDKs and pydantic cost every cold start that loads them, so nothing takes them along."""
    for other in imports_of(domain_modules()[module]):
        if other.top and not other.typing_only:
            assert other.module.partition(".")[0] not in SDKS | {"pydantic", "requests", "urllib3"}


@pytest.mark.parametrize("path", python_files(FUNCTIONS), ids=lambda path: path.parent.name)
def test_a_function_imports_the_domain_and_the_standard_library_alone(path: Path) -> None:
    tops = {other.module.partition(".")[0] for other in imports_of(path)}
    assert tops <= sys.stdlib_module_names | {"consumer_keys"}
    assert "consumer_keys" in tops


@pytest.mark.parametrize("path", python_files(SHARED / "tencent_emulator"), ids=lambda path: path.name)
def test_the_emulator_knows_neither_the_domain_nor_the_sdks(path: Path) -> None:
    """One mistake must not hide in both; the official SDKs are the emulator's oracles, not its parts."""
    for other in imports_of(path):
        top = other.module.partition(".")[0]
        assert top not in ("consumer_keys", "ckeys")
        plugin = path.name == "pytest_plugin.py" and not other.top
        assert plugin or top not in SDKS | {"requests"}


def test_nothing_that_is_deployed_imports_what_is_not() -> None:
    for path in python_files(SHARED / "consumer_keys", FUNCTIONS):
        tops = {other.module.partition(".")[0] for other in imports_of(path)}
        assert tops & {"ckeys", "tencent_emulator", "pytest", "click", "rich", "yaml", "alembic"} == set(), path


def test_nothing_but_the_tests_imports_the_command_line() -> None:
    for path in python_files(SHARED / "tencent_emulator", SHARED / "consumer_keys", FUNCTIONS):
        assert "ckeys" not in {other.module.partition(".")[0] for other in imports_of(path)}, path


def test_no_sql_is_put_together_from_text() -> None:
    """A presented key once reached SQL elsewhere; here statements are built by SQLAlchemy, values are parameters."""
    for path in python_files(SHARED / "consumer_keys"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
                "text", "execute", "exec_driver_sql", "literal_column",
            ):  # fmt: skip
                built = [argument for argument in node.args if isinstance(argument, ast.JoinedStr | ast.BinOp)]
                assert built == [], f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", sorted((SHARED / "consumer_keys" / "store").glob("*.py")), ids=lambda path: path.name)
def test_what_differs_between_databases_is_in_one_module(path: Path) -> None:
    """Of the code; a comment may say which database it is about."""
    if path.name == "dialect.py":
        return
    tree = parsed(path)
    docstrings = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in docstrings:
            continue
        words = [getattr(node, field, None) for field in ("value", "attr", "id", "name", "arg", "module")]
        text = " ".join(word for word in words if isinstance(word, str)).lower()
        named = [name for name in ("postgresql", "mysql", "mariadb", "sqlite") if name in text]
        assert named == [], f"line {getattr(node, 'lineno', 0)}"


# Sizes and docstrings


@pytest.mark.parametrize("path", python_files(SHARED, FUNCTIONS), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= (INDEX_LINES_MAX if path.parent.parent == FUNCTIONS else MODULE_LINES_MAX)
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < FUNCTION_LINES_MAX, node.name


@pytest.mark.parametrize("path", python_files(SHARED, FUNCTIONS), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_what_they_offer_say_what_they_guarantee(path: Path) -> None:
    tree = parsed(path)
    assert ast.get_docstring(tree), "the module has no docstring"
    missing = [node.name for node in _offered(tree) if not ast.get_docstring(node)]
    assert missing == []


def _offered(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            # A setter is described by its getter.
            if not any(ast.unparse(decorator).endswith(".setter") for decorator in node.decorator_list):
                yield node
            if isinstance(node, ast.ClassDef):
                yield from _offered(node)


# Functions against the template

TEMPLATE = load_template(ROOT / "template.yaml")


def handler_module(function: str) -> ModuleType:
    """functions/<function>/index.py, loaded under a name of its own."""
    path = FUNCTIONS / function / "index.py"
    spec = importlib.util.spec_from_file_location(f"architecture_{function}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_template_names_every_function_folder_and_nothing_else() -> None:
    folders = {path.parent.name for path in FUNCTIONS.glob("*/index.py")}
    assert {function.name for function in TEMPLATE.functions} == folders


@pytest.mark.parametrize("function", TEMPLATE.functions, ids=lambda function: function.name)
def test_a_function_serves_exactly_the_route_that_the_template_gives_it(function: object) -> None:
    found = TEMPLATE.function(str(getattr(function, "name", "")))
    module = handler_module(found.name)
    assert callable(module.main_handler)
    assert found.handler == "index.main_handler"
    operations = [value for value in vars(module).values() if isinstance(value, Operation)]
    if found.name in WITHOUT_OPERATION:
        assert operations == []
        return
    assert [(operation.method, operation.path) for operation in operations] == [
        (route.method, route.path) for route in found.routes
    ]
    assert len(operations) == 1
    # Access is decided by this name, so it must be the function's own.
    assert operations[0].function == found.name


def test_every_function_is_allowed_to_some_role_and_every_allowance_is_a_function() -> None:
    allowed = frozenset().union(*ROLES.values())
    names = {function.name for function in TEMPLATE.functions}
    assert names - allowed == WITHOUT_ROLE
    assert allowed - names == {"verify"}, "verify is a call of validate_key"
    assert ROLES["admin"] == allowed, "an admin may do everything"


# Cold start of validation

_PROBE = """
import sys
sys.path[:0] = [{folder!r}, {shared!r}]
sys.path.append({packages!r})
import time
started = time.process_time()
import index
cost = time.process_time() - started
names = sorted(sys.modules)
import json
print(json.dumps([names, cost]))
"""


def loaded_by(index: Path) -> tuple[set[str], float]:
    """Every module in a fresh, isolated interpreter after an import, and the seconds of CPU that it took."""
    packages = sysconfig.get_paths()["purelib"]
    code = _PROBE.format(folder=str(index.parent), shared=str(SHARED), packages=packages)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    names, cost = json.loads(done.stdout)
    return set(names), cost


def test_the_cold_start_of_validation_loads_nothing_but_the_allowed_modules() -> None:
    names, cost = loaded_by(FUNCTIONS / "validate_key" / "index.py")
    bare = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    tops = {name.partition(".")[0] for name in names - set(bare.stdout.split())}
    assert {top for top in tops if not top.startswith("_")} - COLD_START == set(), f"import cost {cost * 1000:.0f} ms"
    own = {name.partition(".")[2] for name in names if name.startswith("consumer_keys.")}
    assert own == COLD_START_OWN


def test_the_cold_start_list_would_see_a_management_function() -> None:
    """The guard above does look: what a management function loads is outside the list."""
    names, _ = loaded_by(FUNCTIONS / "create_key" / "index.py")
    assert {"pydantic", "sqlalchemy"} <= {name.partition(".")[0] for name in names} - COLD_START


@pytest.mark.parametrize("function", sorted(path.parent.name for path in FUNCTIONS.glob("*/index.py")))
def test_no_function_loads_an_official_sdk_before_it_needs_one(function: str) -> None:
    names, _ = loaded_by(FUNCTIONS / function / "index.py")
    assert {name.partition(".")[0] for name in names} & SDKS == set()
