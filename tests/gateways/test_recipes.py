"""The recipes for gateways that do not run here: what protects the API is in them, and in the order that it needs."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.gateways.conftest import EXAMPLES, find_program
from tests.gateways.servers import CREDENTIAL_HEADERS, IDENTITY_HEADERS

VALIDATE = "/v1/gateways/default/validate"
# An API may take `_` for `-`: where names are removed one by one, every mixture has to be named.
SPELLINGS = {
    f"x{first}{name}{second}{end}"
    for name, end in (("consumer", "id"), ("consumer", "name"), ("consumer", "groups"), ("key", "id"), ("key", "name"))
    for first in "-_"
    for second in "-_"
}
README = (EXAMPLES / "README.md").read_text()


def lower(names: Any) -> set[str]:
    return {name.lower() for name in names}


def test_traefik() -> None:
    http = yaml.safe_load((EXAMPLES / "traefik.yml").read_text())["http"]
    (router,), middlewares = http["routers"].values(), http["middlewares"]
    before, asks, after = (middlewares[name] for name in router["middlewares"])
    assert lower(before["headers"]["customRequestHeaders"]) >= SPELLINGS
    assert set(before["headers"]["customRequestHeaders"].values()) == {""}
    question = asks["forwardAuth"]
    assert question["address"].endswith(VALIDATE)
    assert lower(question["authRequestHeaders"]) == set(CREDENTIAL_HEADERS)
    assert lower(question["authResponseHeaders"]) == set(IDENTITY_HEADERS)
    assert question["trustForwardHeader"] is False
    assert not {"forwardBody", "preserveRequestMethod"} & question.keys()
    assert lower(after["headers"]["customRequestHeaders"]) == set(CREDENTIAL_HEADERS)
    assert set(after["headers"]["customRequestHeaders"].values()) == {""}
    assert router["service"] in http["services"]


def test_apisix() -> None:
    text = (EXAMPLES / "apisix.yaml").read_text()
    assert text.endswith("#END\n")  # without it APISIX does not read the file
    (route,) = yaml.safe_load(text)["routes"]
    before, question, after = (
        route["plugins"][name] for name in ("serverless-pre-function", "forward-auth", "serverless-post-function")
    )
    assert (before["phase"], after["phase"]) == ("rewrite", "access")
    assert all(pattern in before["functions"][0] for pattern in ('gsub("_", "-")', '"^x%-consumer%-"', '"^x%-key%-"'))
    assert question["uri"].endswith(VALIDATE)
    assert question["request_method"] == "GET"
    assert lower(question["request_headers"]) == set(CREDENTIAL_HEADERS)
    assert lower(question["upstream_headers"]) == set(IDENTITY_HEADERS)
    assert "WWW-Authenticate" in question["client_headers"]
    assert (question["allow_degradation"], question["status_on_error"]) == (False, 503)
    assert 1000 <= question["timeout"] <= 10_000
    assert lower(re.findall(r'"([^"]+)"', after["functions"][0])) == set(CREDENTIAL_HEADERS)


def test_higress() -> None:
    plugins = [one["spec"] for one in yaml.safe_load_all((EXAMPLES / "higress.yaml").read_text())]
    before, asks, after = plugins
    order = {"AUTHN": 1, "AUTHZ": 2, "STATS": 3, "UNSPECIFIED_PHASE": 4}
    assert sorted(plugins, key=lambda one: (order[one["phase"]], -one["priority"])) == plugins
    assert {one["failStrategy"] for one in plugins} == {"FAIL_CLOSE"}
    config = asks["defaultConfig"]
    service = config["http_service"]
    assert (config["failure_mode_allow"], config["status_on_error"]) == (False, 503)
    assert "match_list" not in config
    assert service["endpoint_mode"] == "forward_auth"
    assert (service["endpoint"]["path"], service["endpoint"]["request_method"]) == (VALIDATE, "GET")
    assert 1000 <= service["timeout"] <= 10_000
    request, response = service["authorization_request"], service["authorization_response"]
    assert request["with_request_body"] is False
    assert _exact(request["allowed_headers"]) | {"authorization"} == set(CREDENTIAL_HEADERS)
    assert _exact(response["allowed_upstream_headers"]) == set(IDENTITY_HEADERS)
    assert "www-authenticate" in _exact(response["allowed_client_headers"])
    assert _removed(before) >= SPELLINGS
    assert _removed(after) == set(CREDENTIAL_HEADERS)


def _exact(matchers: list[dict[str, str]]) -> set[str]:
    return {matcher["exact"] for matcher in matchers}


def _removed(plugin: dict[str, Any]) -> set[str]:
    (rule,) = plugin["defaultConfig"]["reqRules"]
    assert rule["operate"] == "remove"
    return lower(header["key"] for header in rule["headers"])


def test_tencent_custom_auth() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", (EXAMPLES / "tse-custom-auth.md").read_text(), re.M)
    settings = {name: set(re.findall(r"`([^`]+)`", value)) or value for name, value, _ in rows}
    assert settings["auth service, path"] == {VALIDATE}
    assert settings["unavailable policy"] == {"deny"}
    assert settings["result identifier"] == {"HTTP_status_code"}
    assert settings["allow request body"] == "off"
    assert lower(settings["allow request headers"]) == set(CREDENTIAL_HEADERS)
    assert lower(settings["allow response headers"]) == set(IDENTITY_HEADERS)
    assert lower(settings["remove headers"]) == set(CREDENTIAL_HEADERS)


def test_the_readme_names_every_recipe() -> None:
    files = {path.name for path in EXAMPLES.iterdir()} - {"README.md"}
    assert set(re.findall(r"^\| [^|]+ \| `([^`]+)` \|", README, re.M)) == files


@pytest.mark.parametrize("file_name", ["nginx.conf", "Caddyfile", "envoy.yaml"])
def test_no_recipe_answers_from_anything_but_the_validator(file_name: str) -> None:
    text = (EXAMPLES / file_name).read_text()
    assert VALIDATE in text
    assert not re.search(r"failure_mode_allow: true|proxy_cache|auth_request off", text)


def test_a_missing_program_is_a_failure_only_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    for required in ("no-such-gateway", "nginx,no-such-gateway", "tccli no-such-gateway"):
        monkeypatch.setenv("CKEYS_REQUIRE", required)
        with pytest.raises(pytest.fail.Exception, match="CKEYS_REQUIRE names no-such-gateway"):
            find_program("no-such-gateway")
    monkeypatch.setenv("CKEYS_REQUIRE", "no-such-gateways")
    with pytest.raises(pytest.skip.Exception):
        find_program("no-such-gateway")
