"""template.yaml, the only list of functions, routes and timers: reading it strictly, and matching a request to a route.

The grammar is TCSAM 2018-11-11 (tencentyun/scfcli, docs/specs) with the extensions that template.yaml marks. What the
deployment would not understand is refused here, with a sentence that names the function and the key.
"""

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import yaml

from ckeys.cron import Cron, CronError

METHODS = ("ANY", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
RUNTIMES = ("Python3.10", "Python3.12", "Python3.13")
MESSAGE_BYTES_MAX = 4096  # Tencent document 583/9708

_NAMESPACE_TYPE = "TencentCloud::Serverless::Namespace"
_FUNCTION_TYPE = "TencentCloud::Serverless::Function"
_NEEDED = ("CodeUri", "Handler", "Runtime", "MemorySize", "Timeout", "Role")
_GLOBAL_KEYS = (*_NEEDED, "Description", "Environment")
_EVENT_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # needed, optional
    "APIGW": (("HttpMethod", "Path", "IntegratedResponse"), ("StageName",)),
    "Timer": (("CronExpression",), ("Enable", "Message")),
    "HTTP": (("AuthType",), ()),
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,58}[A-Za-z0-9]")
_HANDLER = re.compile(r"[A-Za-z][A-Za-z0-9_]*\.[A-Za-z][A-Za-z0-9_]*")
_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{1,63}")
_RESERVED_VARIABLE = re.compile(r"(SCF|QCLOUD|TENCENTCLOUD)_")  # the platform's own (documents of CloudBase)
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_LITERAL = re.compile(r"[A-Za-z0-9_.~-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_REST = "{rest}"


class TemplateError(ValueError):
    """The template cannot be used; the message is one sentence that names the function and the key."""


@dataclass(frozen=True)
class Route:
    """One method and path of a function; `{name}` stands for a segment, a last `{rest}` for everything below."""

    method: str
    path: str
    function: str

    @cached_property
    def segments(self) -> tuple[str, ...]:
        """The path between its slashes; the first one is always empty."""
        return tuple(self.path.split("/"))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """0 for a literal segment, 1 for a placeholder, 2 for `{rest}`: of two shapes the smaller is more specific."""
        return tuple(2 if part == _REST else 1 if part.startswith("{") else 0 for part in self.segments)

    def accepts(self, method: str) -> bool:
        """Whether the route serves the method. HEAD is served by GET, as everywhere on the web."""
        return self.method in ("ANY", method) or (method == "HEAD" and self.method == "GET")


@dataclass(frozen=True)
class Timer:
    """One timer of a function; `name` is the trigger's name, unique in the template."""

    name: str
    cron: Cron
    enabled: bool
    message: str
    function: str


@dataclass(frozen=True)
class Function:
    """One function as it will be deployed, after the merge with Globals."""

    name: str
    handler: str
    code_uri: str
    runtime: str
    memory_mb: int
    timeout_seconds: int
    environment: dict[str, str]
    role: str
    description: str
    routes: tuple[Route, ...]
    timers: tuple[Timer, ...]
    function_url: bool


class Match(NamedTuple):
    """The route of a request, and the values of its placeholders."""

    route: Route
    params: dict[str, str]


@dataclass(frozen=True)
class MethodNotAllowed:
    """The path exists, but not for this method."""

    allowed: tuple[str, ...]


@dataclass(frozen=True)
class NotFound:
    """No route has this path."""


@dataclass(frozen=True)
class Template:
    """The whole template: a namespace and its functions, in the order of the file."""

    namespace: str
    functions: tuple[Function, ...]

    @cached_property
    def _routes(self) -> list[Route]:
        # The most specific path first; where a path has both HEAD and GET, HEAD before the GET that would serve it too.
        routes = (route for function in self.functions for route in function.routes)
        return sorted(routes, key=lambda route: (route.shape, route.method == "GET"))

    def function(self, name: str) -> Function:
        """The function of that name; TemplateError if there is none."""
        for function in self.functions:
            if function.name == name:
                return function
        raise TemplateError(f"The template has no function {name}.")

    def match(self, method: str, path: str) -> Match | MethodNotAllowed | NotFound:
        """Find the route of a raw, undecoded path.

        A literal segment matches its exact bytes alone, so no spelling (`//`, `%2e`, `;`) reaches a route that it does
        not name. A placeholder's value is decoded after the match, and a value that decodes to nothing, a slash, a
        control character or bad UTF-8 matches nothing. `{rest}` is one or more segments, even empty ones, kept raw: it
        is for the log, not for decisions.
        """
        segments = path.split("/")
        found = [(route, params) for route in self._routes if (params := _params(route, segments)) is not None]
        for route, params in found:
            if route.accepts(method):
                return Match(route, params)
        if not found:
            return NotFound()
        methods = {route.method for route, _ in found}
        return MethodNotAllowed(tuple(sorted(methods | ({"HEAD"} if "GET" in methods else set()))))


def _params(route: Route, segments: list[str]) -> dict[str, str] | None:
    pattern = route.segments
    params: dict[str, str] = {}
    if pattern[-1] == _REST and len(segments) >= len(pattern):
        pattern, params["rest"] = pattern[:-1], "/".join(segments[len(pattern) - 1 :])
    elif len(segments) != len(pattern):
        return None
    for part, segment in zip(pattern, segments, strict=False):
        if not part.startswith("{"):
            if part != segment:
                return None
            continue
        value = _decoded(segment)
        if value is None:
            return None
        params[part[1:-1]] = value
    return params


def _decoded(segment: str) -> str | None:
    try:
        value = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        return None
    return None if value == "" or "/" in value or _CONTROL.search(value) else value


def load_template(path: Path) -> Template:
    """Read a template file; TemplateError if it is missing or not a usable template."""
    try:
        return parse_template(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as fault:
        raise TemplateError(f"The template {path} cannot be read: {fault}.") from fault


@lru_cache(maxsize=2)
def parse_template(text: str) -> Template:
    """Read a template, which nobody changes; TemplateError names the function and the key of the first fault."""
    loader = _StrictLoader(text)
    try:
        document = loader.get_single_data()
    except (yaml.YAMLError, ValueError) as fault:  # ValueError: a date that does not exist
        raise TemplateError(f"The template is not YAML: {' '.join(str(fault).split())}.") from fault
    finally:
        loader.dispose()
    top = _mapping("The template", document, needed=("Resources",), optional=("Globals",))
    general = _mapping("Globals", top.get("Globals", {}), optional=("Function",)).get("Function", {})
    general = _mapping("Globals.Function", general, optional=_GLOBAL_KEYS)
    resources = _mapping("Resources", top["Resources"])
    if len(resources) != 1:
        raise TemplateError(f"Resources must hold exactly one namespace, not {len(resources)}.")
    ((namespace, body),) = resources.items()
    entries = dict(_mapping(f"The namespace {namespace}", body))
    if entries.pop("Type", None) != _NAMESPACE_TYPE:
        raise TemplateError(f"The namespace {namespace} needs Type {_NAMESPACE_TYPE}.")
    functions = tuple(_function(name, entry, general) for name, entry in entries.items())
    _refuse_twins(functions)
    return Template(namespace, functions)


def _function(name: str, entry: object, general: Mapping[str, Any]) -> Function:
    where = f"The function {name}"
    if _NAME.fullmatch(name) is None:
        raise TemplateError(f"{where} needs a name of 2 to 60 letters, digits, '-' and '_', starting with a letter.")
    outer = _mapping(where, entry, needed=("Type", "Properties"))
    if outer["Type"] != _FUNCTION_TYPE:
        raise TemplateError(f"{where} needs Type {_FUNCTION_TYPE}.")
    own = _mapping(where, outer["Properties"], optional=(*_GLOBAL_KEYS, "Events"))
    # The rule of scfcli: property by property, the function's own value wins if it is truthy; nothing is merged deeper.
    merged = {**general, **{key: value for key, value in own.items() if value or key not in general}}
    _mapping(where, merged, needed=_NEEDED, optional=("Description", "Environment", "Events"))
    events = _mapping(f"{where}, Events,", merged.get("Events", {}))
    routes, timers, urls = [], [], 0
    for event, value in events.items():
        kind, properties = _event(f"{where}, event {event},", value)
        if kind == "APIGW":
            routes.append(_route(f"{where}, event {event},", name, properties))
        elif kind == "Timer":
            timers.append(_timer(f"{where}, event {event},", name, event, properties))
        else:
            urls += 1
    if urls > 1:
        raise TemplateError(f"{where} has {urls} HTTP events, but a function has one URL.")
    return Function(
        name=name,
        handler=_text(where, merged, "Handler", _HANDLER, "file.function, such as index.main_handler"),
        code_uri=_text(where, merged, "CodeUri"),
        runtime=_choice(where, merged, "Runtime", RUNTIMES),
        memory_mb=_memory(where, merged),
        timeout_seconds=_integer(where, merged, "Timeout", 1, 900),
        environment=_variables(where, merged),
        role=_text(where, merged, "Role"),
        description=_text(where, merged, "Description") if "Description" in merged else "",
        routes=tuple(routes),
        timers=tuple(timers),
        function_url=urls == 1,
    )


def _event(where: str, value: object) -> tuple[str, Mapping[str, Any]]:
    event = _mapping(where, value, needed=("Type", "Properties"))
    kind = _choice(where, event, "Type", tuple(_EVENT_KEYS))
    needed, optional = _EVENT_KEYS[kind]
    properties = _mapping(where, event["Properties"], needed=needed, optional=optional)
    if kind == "HTTP":
        _choice(where, properties, "AuthType", ("NONE",))
    return kind, properties


def _route(where: str, function: str, properties: Mapping[str, Any]) -> Route:
    if "StageName" in properties:
        _choice(where, properties, "StageName", ("test", "prepub", "release"))
    if properties["IntegratedResponse"] is not True:
        raise TemplateError(f"{where} needs IntegratedResponse true: the functions build the whole response.")
    route = Route(_choice(where, properties, "HttpMethod", METHODS), _text(where, properties, "Path"), function)
    first, *parts = route.segments
    names = [part for part in parts if _PLACEHOLDER.fullmatch(part)]
    well_formed = all(_LITERAL.fullmatch(part) or _PLACEHOLDER.fullmatch(part) for part in parts)
    bad = first or not parts or not well_formed or len(names) != len(set(names)) or _REST in parts[:-1]
    if bad and route.path != "/":
        raise TemplateError(f"{where} has a bad Path: {route.path}.")
    return route


def _timer(where: str, function: str, name: str, properties: Mapping[str, Any]) -> Timer:
    if _NAME.fullmatch(name) is None:
        raise TemplateError(f"{where} needs a name of 2 to 60 letters, digits, '-' and '_', starting with a letter.")
    try:
        cron = Cron.parse(_text(where, properties, "CronExpression"))
    except CronError as fault:
        raise TemplateError(f"{where} has a bad CronExpression: {fault}.") from fault
    message = properties.get("Message", "")
    if not isinstance(message, str) or len(message.encode()) > MESSAGE_BYTES_MAX:
        raise TemplateError(f"{where} needs a Message that is a string of at most {MESSAGE_BYTES_MAX} bytes.")
    enable = properties.get("Enable", True)
    if type(enable) is not bool and enable not in ("OPEN", "CLOSE"):
        raise TemplateError(f"{where} needs Enable to be true, false, OPEN or CLOSE, not {enable!r}.")
    return Timer(name, cron, enable in (True, "OPEN"), message, function)


def _refuse_twins(functions: tuple[Function, ...]) -> None:
    routes: dict[tuple[str, ...], Route] = {}
    timers: dict[str, Timer] = {}
    for function in functions:
        for route in function.routes:
            path = tuple("{}" if kind == 1 else part for part, kind in zip(route.segments, route.shape, strict=True))
            for method in METHODS[1:] if route.method == "ANY" else (route.method,):
                twin = routes.setdefault((method, *path), route)
                if twin is not route:
                    raise TemplateError(
                        f"The function {function.name} has the route {route.method} {route.path},"
                        f" which {twin.function} has too ({twin.method} {twin.path})."
                    )
        for timer in function.timers:
            if timers.setdefault(timer.name, timer) is not timer:
                other = timers[timer.name].function
                raise TemplateError(f"The function {function.name} has the timer {timer.name}, which {other} has too.")


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader, except that a key given twice is an error: YAML would drop the first of two equal function names."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if any(key.value == earlier.value for earlier in keys[:number]):
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} is given twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def _mapping(
    where: str, value: object, *, needed: tuple[str, ...] = (), optional: tuple[str, ...] | None = None
) -> Mapping[str, Any]:
    """The value as a mapping with text keys; with `needed` or `optional` given, with those keys and no others."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise TemplateError(f"{where} must be a mapping with text keys.")
    missing = [key for key in needed if key not in value]
    if missing:
        raise TemplateError(f"{where} lacks the key {missing[0]}.")
    unknown = [key for key in value if key not in (*needed, *(optional or ()))]
    if unknown and (needed or optional is not None):
        raise TemplateError(f"{where} has the unknown key {unknown[0]}.")
    return value


def _text(
    where: str, values: Mapping[str, Any], key: str, pattern: re.Pattern[str] | None = None, wanted: str = "text"
) -> str:
    value = values[key]
    if not isinstance(value, str) or not value or (pattern is not None and pattern.fullmatch(value) is None):
        raise TemplateError(f"{where} needs {key} to be {wanted}, not {value!r}.")
    return value


def _choice(where: str, values: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str:
    value = values[key]
    if value not in choices:
        raise TemplateError(f"{where} needs {key} to be one of {', '.join(choices)}, not {value!r}.")
    return str(value)


def _integer(where: str, values: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = values[key]
    if type(value) is not int or not low <= value <= high:
        raise TemplateError(f"{where} needs {key} to be a whole number from {low} to {high}, not {value!r}.")
    return value


def _memory(where: str, values: Mapping[str, Any]) -> int:
    value = _integer(where, values, "MemorySize", 64, 3072)
    if value != 64 and value % 128:  # Tencent document 583/11637
        raise TemplateError(f"{where} needs MemorySize to be 64 or a multiple of 128, not {value}.")
    return value


def _variables(where: str, values: Mapping[str, Any]) -> dict[str, str]:
    environment = _mapping(
        f"{where}, Environment,", values.get("Environment", {"Variables": {}}), needed=("Variables",)
    )
    variables = _mapping(f"{where}, Variables,", environment["Variables"])
    for name, value in variables.items():
        if _VARIABLE.fullmatch(name) is None or _RESERVED_VARIABLE.match(name):
            raise TemplateError(f"{where} has the variable {name}, a name that the platform refuses.")
        if not isinstance(value, str):
            raise TemplateError(f"{where} needs the variable {name} to be a string: put {value!r} in quotes.")
    return dict(variables)
