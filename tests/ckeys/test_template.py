"""template.yaml itself, the strictness of its reader, and the matching of requests to routes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckeys.template import (
    Function,
    Match,
    MethodNotAllowed,
    NotFound,
    Route,
    Template,
    TemplateError,
    load_template,
    parse_template,
)
from consumer_keys import config

PROJECT = load_template(Path(__file__).parents[2] / "template.yaml")
BASE = "/v1/gateways/default"
KEY = f"{BASE}/keys/secret-0123456789abcd"
CONSUMER = f"{BASE}/consumers/c-1"

SMALL = """
Globals:
  Function:
    Handler: index.main_handler
    Runtime: Python3.10
    MemorySize: 128
    Timeout: 10
    Environment: {Variables: {AA: "1", BB: "2"}}
Resources:
  space:
    Type: TencentCloud::Serverless::Namespace
    show_thing:
      Type: TencentCloud::Serverless::Function
      Properties:
        CodeUri: .build/show_thing/
        Role: show
        Events:
          http:
            Type: APIGW
            Properties: {StageName: release, HttpMethod: GET, Path: "/things/{thing_id}", IntegratedResponse: true}
    tick:
      Type: TencentCloud::Serverless::Function
      Properties:
        CodeUri: .build/tick/
        Role: tick
        Events:
          every_minute:
            Type: Timer
            Properties: {CronExpression: "0 * * * * * *", Enable: CLOSE}
"""


# What is safe by default, and weaker by no more than a line of the template.
PROTECTING = {
    "CLEAR_VALUES", "KEY_IN_QUERY", "REVEAL_ENABLED", "REVEALS_PER_MINUTE", "REVEALS_PER_DAY", "CUSTOM_VALUE_MIN_BITS",
    "AUTH_FAILURES_PER_MINUTE",
}  # fmt: skip


def edited(old: str, new: str) -> Template:
    assert SMALL.count(old) >= 1
    return parse_template(SMALL.replace(old, new, 1))


def routed(*routes: tuple[str, str]) -> Template:
    """A template of one function that has these routes."""
    made = tuple(Route(method, path, "f") for method, path in routes)
    function = Function("f", "index.main_handler", "f/", "Python3.10", 128, 10, {}, "r", "", made, (), False)
    return Template("space", (function,))


# The project's template.


def test_no_function_is_deployed_with_a_setting_that_protects_less() -> None:
    assert {setting.name for setting in config.SETTINGS} >= PROTECTING
    for function in PROJECT.functions:
        assert not PROTECTING & function.environment.keys(), function.name


@pytest.mark.parametrize(
    ("method", "path", "function"),
    [
        ("POST", f"{BASE}/keys", "create_key"),
        ("GET", f"{BASE}/keys", "list_keys"),
        ("GET", KEY, "get_key"),
        ("PATCH", KEY, "update_key"),
        ("DELETE", KEY, "delete_key"),
        ("POST", f"{KEY}/enable", "enable_key"),
        ("POST", f"{KEY}/disable", "disable_key"),
        ("POST", f"{KEY}/reveal", "reveal_key"),
        ("PUT", f"{KEY}/consumer", "bind_consumer"),
        ("DELETE", f"{KEY}/consumer", "unbind_consumer"),
        ("POST", f"{BASE}/consumers", "create_consumer"),
        ("GET", f"{BASE}/consumers", "list_consumers"),
        ("GET", CONSUMER, "get_consumer"),
        ("PATCH", CONSUMER, "update_consumer"),
        ("DELETE", CONSUMER, "delete_consumer"),
        ("GET", "/v1/status", "get_status"),
        ("POST", f"{BASE}/verify", "validate_key"),
        ("PROPFIND", f"{BASE}/validate", "validate_key"),
        ("HEAD", f"{BASE}/validate", "validate_key"),
        ("OPTIONS", f"{BASE}/validate/", "validate_key"),
        ("GET", f"{BASE}/validate/v1//a%2fb/../%ff", "validate_key"),
    ],
)
def test_every_call_of_the_contract_reaches_its_function(method: str, path: str, function: str) -> None:
    found = PROJECT.match(method, path)
    assert isinstance(found, Match)
    assert found.route.function == function
    assert found.params.get("gateway_id", "default") == "default"


def test_the_template_deploys_each_function_with_its_own_role_and_folder() -> None:
    assert len(PROJECT.functions) >= 19
    for function in PROJECT.functions:
        assert function.role == f"ckeys-{function.name.replace('_', '-')}"
        assert function.code_uri == f".build/{function.name}/"
        assert (function.handler, function.runtime) == ("index.main_handler", "Python3.10")
        assert function.description.endswith(".")
        assert function.routes or function.timers or function.function_url


def test_credentials_are_followed_every_minute() -> None:
    (timer,) = PROJECT.function("sync_credentials").timers
    assert (timer.name, timer.cron.text, timer.enabled) == ("sync_credentials", "0 * * * * * *", True)
    assert timer.message


def test_the_front_door_and_the_cloud_api_have_a_function_url() -> None:
    with_url = [function.name for function in PROJECT.functions if function.function_url]
    assert with_url == ["cloud_api", "front_door"]


def test_who_waits_for_another_function_may_take_longer_than_that_one() -> None:
    chain = [PROJECT.function(name).timeout_seconds for name in ("front_door", "cloud_api", "reveal_key")]
    assert chain == sorted(set(chain), reverse=True)


# What validation works with; it has no database and opens nothing.
VALIDATING = {
    "GATEWAYS", "KEY_PREFIX", "ROOT_SECRET_NAME", "COS_BUCKET", "SNAPSHOT_POLL_SECONDS", "SNAPSHOT_MAX_AGE_SECONDS",
}  # fmt: skip
# What the functions share that work on the database. The names of the KMS keys open nothing: that is for the roles.
MANAGING = VALIDATING | {
    "DATABASE_URL", "KMS_KEY_ID", "KMS_OPERATOR_KEY_ID", "CREDENTIAL_CACHE_SECONDS", "SSM_REQUESTS_PER_SECOND",
    "CREDENTIAL_PREFIX",
}  # fmt: skip


def test_each_function_gets_the_settings_that_it_needs_and_no_other() -> None:
    """Written down once more and by hand: a setting that comes in sight of a function is a decision."""
    own = {"validate_key": VALIDATING, "front_door": set()}
    given = {function.name: set(function.environment) for function in PROJECT.functions}
    assert given == {function.name: own.get(function.name, MANAGING) for function in PROJECT.functions}


def test_a_setting_has_the_same_value_wherever_it_stands() -> None:
    shared = PROJECT.function("create_key").environment
    for function in PROJECT.functions:
        assert function.environment.items() <= shared.items(), function.name


def test_variables_fit_into_what_the_platform_allows() -> None:
    for function in PROJECT.functions:
        assert sum(len(name) + len(value) for name, value in function.environment.items()) < 4096


# Reading.


def test_global_values_are_replaced_as_a_whole_by_a_function_s_own() -> None:
    own = edited(
        "        Role: show\n", "        Role: show\n        Timeout: 30\n        Environment: {Variables: {CC: x}}\n"
    )
    assert own.function("show_thing").timeout_seconds == 30
    assert own.function("show_thing").environment == {"CC": "x"}
    assert own.function("tick").environment == {"AA": "1", "BB": "2"}


def test_a_falsy_value_of_a_function_leaves_the_global_one() -> None:
    falsy = edited("        Role: show\n", "        Role: show\n        Timeout: 0\n        Handler: ''\n")
    assert falsy.function("show_thing").timeout_seconds == 10
    assert falsy.function("show_thing").handler == "index.main_handler"


@pytest.mark.parametrize(("text", "enabled"), [("true", True), ("OPEN", True), ("false", False), ("CLOSE", False)])
def test_a_timer_is_enabled_by_true_and_open_alone(text: str, enabled: bool) -> None:
    (timer,) = edited("Enable: CLOSE", f"Enable: {text}").function("tick").timers
    assert timer.enabled is enabled


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    Handler: index.main_handler\n", "", "The function show_thing lacks the key Handler."),
        ("        CodeUri: .build/tick/\n", "", "The function tick lacks the key CodeUri."),
        ("        Role: tick\n", "", "The function tick lacks the key Role."),
        ("Role: tick\n", "Role: tick\n        Layers: []\n", "The function tick has the unknown key Layers."),
        ("    Timeout: 10\n", "    Timeout: 10\n    Layers: []\n", "Globals.Function has the unknown key Layers."),
        ("Globals:\n", "Globals:\n  Api: {}\n", "Globals has the unknown key Api."),
        ("Globals:\n", "Outputs: {}\nGlobals:\n", "The template has the unknown key Outputs."),
        ("Handler: index.main_handler", "Handler: index", "The function show_thing needs Handler to be file.function"),
        ("Handler: index.main_handler", "Handler: a.b.c", "The function show_thing needs Handler to be file.function"),
        ("Runtime: Python3.10", "Runtime: Python2.7", "The function show_thing needs Runtime to be one of"),
        ("MemorySize: 128", "MemorySize: 200", "The function show_thing needs MemorySize to be 64 or a multiple"),
        ("MemorySize: 128", "MemorySize: true", "The function show_thing needs MemorySize to be a whole number"),
        ("Timeout: 10", "Timeout: 901", "The function show_thing needs Timeout to be a whole number from 1 to 900"),
        ("Timeout: 10", "Timeout: '10'", "The function show_thing needs Timeout to be a whole number from 1 to 900"),
        ('AA: "1"', "AA: 1", "The function show_thing needs the variable AA to be a string: put 1 in quotes."),
        ("AA:", "SCF_A:", "The function show_thing has the variable SCF_A, a name that the platform refuses."),
        ("AA:", "_A:", "The function show_thing has the variable _A, a name that the platform refuses."),
        ("{Variables:", "{Vars:", "The function show_thing, Environment, lacks the key Variables."),
        ("Type: APIGW", "Type: apigw", "The function show_thing, event http, needs Type to be one of"),
        ("Type: APIGW", "Type: COS", "The function show_thing, event http, needs Type to be one of"),
        ("HttpMethod: GET", "HttpMethod: get", "The function show_thing, event http, needs HttpMethod to be one of"),
        ("HttpMethod: GET, ", "", "The function show_thing, event http, lacks the key HttpMethod."),
        ("StageName: release", "StageName: x", "The function show_thing, event http, needs StageName to be one of"),
        ("StageName:", "Stage:", "The function show_thing, event http, has the unknown key Stage."),
        ("Response: true", "Response: false", "The function show_thing, event http, needs IntegratedResponse true"),
        ("/things/", "things/", "The function show_thing, event http, has a bad Path"),
        ("/things/", "/things//", "The function show_thing, event http, has a bad Path"),
        ("/things/", "/things/{rest}/", "The function show_thing, event http, has a bad Path"),
        ("/things/", "/{thing_id}/", "The function show_thing, event http, has a bad Path"),
        ("/things/", "/th{x}/", "The function show_thing, event http, has a bad Path"),
        ("/things/", "/%74hings/", "The function show_thing, event http, has a bad Path"),
        ("0 * * * * * *", "0 * * * * *", "The function tick, event every_minute, has a bad CronExpression: 6 fields"),
        ("0 * * * * * *", "99 * * * * * *", "The function tick, event every_minute, has a bad CronExpression: second"),
        ("Enable: CLOSE", "Enable: 1", "The function tick, event every_minute, needs Enable to be true"),
        ("Enable: CLOSE", "Message: 7", "The function tick, event every_minute, needs a Message that is a string"),
        ("every_minute:", "5min:", "The function tick, event 5min, needs a name"),
        ("    tick:\n", "    t:\n", "The function t needs a name of 2 to 60"),
        ("    tick:\n", "    7tick:\n", "The function 7tick needs a name of 2 to 60"),
        ("    tick:\n", "    show_thing:\n", "The template is not YAML: the key show_thing is given twice"),
        ("    tick:\n", "    2026-13-01:\n", "The template is not YAML"),
        ("    tick:\n", "    7:\n", "The namespace space must be a mapping with text keys."),
        ("Serverless::Function", "Serverless::Api", "The function show_thing needs Type TencentCloud"),
        ("Serverless::Namespace", "Serverless::Space", "The namespace space needs Type TencentCloud"),
        ("Resources:\n", "Resources:\n  other: {}\n", "Resources must hold exactly one namespace, not 2."),
        ("Resources:\n", "Things:\n", "The template lacks the key Resources."),
        ("Globals:\n", "Globals: [\n", "The template is not YAML"),
    ],
)
def test_a_fault_is_refused_with_a_sentence_that_names_its_place(old: str, new: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        edited(old, new)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_second_function_url_is_refused() -> None:
    url = "url%d: {Type: HTTP, Properties: {AuthType: NONE}}"
    timers = "          every_minute:\n"
    assert edited(timers, f"          {url % 1}\n{timers}").function("tick").function_url
    with pytest.raises(TemplateError, match="The function tick has 2 HTTP events"):
        edited(timers, f"          {url % 1}\n          {url % 2}\n{timers}")
    with pytest.raises(TemplateError, match="event url1, needs AuthType to be one of NONE"):
        edited(timers, f"          {url % 1}\n{timers}".replace("NONE", "CAM"))


@pytest.mark.parametrize("method", ["GET", "ANY"])
def test_one_route_in_two_functions_is_refused_whatever_its_placeholder_is_called(method: str) -> None:
    twin = f"""          again:
            Type: APIGW
            Properties: {{HttpMethod: {method}, Path: "/things/{{other_id}}", IntegratedResponse: true}}
          every_minute:
"""
    with pytest.raises(TemplateError) as caught:
        edited("          every_minute:\n", twin)
    assert str(caught.value).startswith(
        f"The function tick has the route {method} /things/{{other_id}}, which show_thing"
    )


def test_two_timers_of_one_name_are_refused() -> None:
    timer = """        Events:
          every_minute: {Type: Timer, Properties: {CronExpression: "0 0 * * * * *"}}
"""
    with pytest.raises(TemplateError, match="The function tick has the timer every_minute, which show_thing has too"):
        edited("        Events:\n", timer)


def test_a_missing_file_and_an_unknown_function_are_template_errors(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="cannot be read"):
        load_template(tmp_path / "template.yaml")
    with pytest.raises(TemplateError, match="no function nothing"):
        PROJECT.function("nothing")


# Matching.


def test_placeholders_are_decoded_after_the_match() -> None:
    found = PROJECT.match("GET", "/v1/gateways/%E6%B5%8B%E8%AF%95/keys/a%20b+c%3Bd")
    assert isinstance(found, Match)
    assert found.params == {"gateway_id": "测试", "key_id": "a b+c;d"}


@pytest.mark.parametrize(
    "path",
    [
        "",
        "//",
        "/?",
        "//v1/status",
        "/v1//status",
        "/v1/status/",
        "/v1/./status",
        "/v1/%2e/status",
        "/v1/x/../status",
        "/v1/%73tatus",
        "/v1%2fstatus",
        "/v1/status;a=b",
        "/v1/status%00",
        "/V1/status",
        "/v1/status#x",
        "/v1/gateways//keys",
        "/v1/gateways/a%2fb/keys",
        "/v1/gateways/a%2Fkeys",
        "/v1/gateways/%00/keys",
        "/v1/gateways/%0a/keys",
        "/v1/gateways/%c2%85/keys",
        "/v1/gateways/%ff/keys",
        "/v1/gateways/default/validate%2fx",
        "/v1/gateways/default/validatex",
        "/v1/gateways/default/keys/",
        "/v1/gateways/default/keys/a/b",
    ],
)
def test_no_other_spelling_of_a_path_matches(path: str) -> None:
    assert PROJECT.match("GET", path) == NotFound()


def test_a_known_path_with_another_method_tells_what_it_allows() -> None:
    assert PROJECT.match("PUT", f"{BASE}/keys") == MethodNotAllowed(("GET", "HEAD", "POST"))
    assert PROJECT.match("GET", f"{KEY}/enable") == MethodNotAllowed(("POST",))
    assert PROJECT.match("get", "/v1/status") == MethodNotAllowed(("GET", "HEAD"))


def test_head_is_served_by_get_unless_it_has_its_own_route() -> None:
    both = routed(("GET", "/a"), ("HEAD", "/a"), ("GET", "/b"))
    assert both.match("HEAD", "/a") == Match(Route("HEAD", "/a", "f"), {})
    assert both.match("HEAD", "/b") == Match(Route("GET", "/b", "f"), {})


def test_a_literal_comes_before_a_placeholder_and_both_before_the_rest() -> None:
    three = routed(("GET", "/a/{rest}"), ("GET", "/a/{x}"), ("GET", "/a/b"))
    assert three.match("GET", "/a/b") == Match(Route("GET", "/a/b", "f"), {})
    assert three.match("GET", "/a/c") == Match(Route("GET", "/a/{x}", "f"), {"x": "c"})
    assert three.match("GET", "/a/b/c") == Match(Route("GET", "/a/{rest}", "f"), {"rest": "b/c"})


def test_the_rest_is_one_or_more_segments_and_stays_raw() -> None:
    rest = routed(("ANY", "/a/{rest}"))
    assert rest.match("GET", "/a") == NotFound()
    assert rest.match("GET", "/a/") == Match(Route("ANY", "/a/{rest}", "f"), {"rest": ""})
    assert rest.match("GET", "/a/%2e%2e//b%2Fc/") == Match(Route("ANY", "/a/{rest}", "f"), {"rest": "%2e%2e//b%2Fc/"})


@given(st.text(alphabet="/{}%.;2efFv1gatewyskuld", max_size=40))
def test_any_path_has_an_answer_and_a_match_spells_out_its_literals(path: str) -> None:
    found = PROJECT.match("GET", "/v1" + path)
    if isinstance(found, Match):
        sent = ("/v1" + path).split("/")
        literals = [(part, sent[index]) for index, part in enumerate(found.route.segments) if not part.startswith("{")]
        assert all(part == piece for part, piece in literals)
