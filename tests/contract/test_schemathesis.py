"""20,000 generated requests against the local run's HTTP front: every answer is one that the document describes.

Half of them keep to the document and half break it on purpose. The requests are spread over the operations, each of
which is a test of its own, so that both cores have work. Making up a request takes several times as long as answering
it, so each one is sent a few times: about other keys and consumers, as somebody else, and after it has had its effect.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import count, cycle
from typing import Any, NamedTuple

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from schemathesis import GenerationMode
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from ckeys.deployment import Deployment
from ckeys.front import Front
from ckeys.samples import GATEWAYS
from ckeys.samples import seed as make_samples
from tests.contract.described import DOCUMENT, OPERATIONS, check_answer
from tests.prepared import environment

REQUESTS, STATEFUL, TIMES = 20_000, 1_300, 4
VALIDATE = sorted(name for name in OPERATIONS if name.startswith("validate"))
READ = sorted(name for name in OPERATIONS if name.startswith(("get_", "list_", "verify")))
WRITE = sorted(OPERATIONS.keys() - set(VALIDATE) - set(READ))
# A change takes several times as long as a look, and a create_key as long again to generate.
EACH_WRITE = {name: 300 if name == "create_key" else 400 for name in WRITE}
_LEFT = REQUESTS - STATEFUL - sum(EACH_WRITE.values())
EACH_READ, EACH_VALIDATE = -(-_LEFT // 2 // len(READ)), -(-_LEFT // 2 // len(VALIDATE))
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
# Our own check says more than this one: which requests may be refused although they keep to the document, and why.
MODES: tuple[Any, ...] = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
EXCLUDED = [positive_data_acceptance]
# They belong to the connection, not to the API (RFC 9110 section 7.6.1); tests/ckeys/test_front.py is about them.
HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
PROBE_AUTH_EVERY = 10  # that check sends each request twice more, without and with a wrong credential
QUIET: dict[str, Any] = {
    "deadline": None, "database": None, "phases": [Phase.generate], "suppress_health_check": list(HealthCheck),
}  # fmt: skip


class Service(NamedTuple):
    """A local run over HTTP, with the sample objects in it."""

    url: str
    session: requests.Session
    values: dict[str, str]

    def send(self, case: Any, token: str, *, probe_auth: bool) -> None:
        """Sends a generated request as the bearer of a token, and judges the answer."""
        headers = {"Authorization": f"Bearer {token}"}
        case.headers = {name: text for name, text in (case.headers or {}).items() if name.lower() not in HOP_BY_HOP}
        response: Response = case.call(base_url=self.url, session=self.session, headers=headers)
        judge(case, response)
        excluded = EXCLUDED if probe_auth else [*EXCLUDED, ignored_auth]
        session = {"session": self.session}
        case.validate_response(response, headers=headers, excluded_checks=excluded, transport_kwargs=session)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One per worker: the requests of all its operations meet the same growing state."""
    environ = environment({"GATEWAYS": GATEWAYS})
    with Deployment(tmp_path_factory.mktemp("generated"), durable=False, environ=environ) as deployment:
        values = make_samples(deployment)
        with Front(deployment.template, deployment.handlers, log=io.StringIO()) as front, requests.Session() as session:
            session.trust_env = False
            yield Service(front.url, session, values)


def judge(case: Any, response: Response) -> None:
    """No 5xx, nothing that the document does not name, and no refusal of what it allows but for what it cannot say."""
    body: Any = response.json() if response.content and case.method != "HEAD" else None
    assert response.status_code < 500, body
    if case.method != "HEAD":
        operation = OPERATIONS[case.operation.definition.raw["operationId"]]
        names = ("Content-Type", *DOCUMENT["components"]["headers"])
        headers = {name: response.headers[name.lower()][0] for name in names if name.lower() in response.headers}
        check_answer(operation, response.status_code, headers, body)
    if case.meta is not None and case.meta.generation.mode.is_positive and response.status_code == 400:
        assert beyond_schemas(body), f"refused although the document allows it: {body}"


def beyond_schemas(body: dict[str, Any]) -> bool:
    """Refusals that no schema can say: a cursor of ours, a strong value, a point on its curve, two times in order."""
    if body["code"] == "WeakValue":
        return True
    fields = {error["field"].partition(".")[0] for error in body["errors"]}
    return body["code"] == "InvalidParameter" and fields <= {"cursor", "value", "reveal_to", "to"}


def aim(case: Any, values: dict[str, str], number: int) -> None:
    """Three of four requests with well-formed ids speak of something that exists; the rest keep what was generated."""
    component = case.meta.components.get(ParameterLocation.PATH)
    if component is None or not component.mode.is_positive or number % 4 == 0:
        return
    keys = ("key.system", "key.custom", "key.kms", "key.disabled", "key.unbound", "key.idle")
    consumers = ("consumer.busy", "consumer.free", "consumer.disabled")
    known = {
        "gateway_id": "other" if number % 13 == 0 else "default",
        "key_id": values[keys[number % len(keys)]],
        "consumer_id": values[consumers[number % len(consumers)]],
    }
    for name in case.path_parameters:
        if name in known:
            case.path_parameters[name] = known[name]
    if isinstance(case.body, dict) and "consumer_id" in case.body and case.meta.generation.mode.is_positive:
        case.body["consumer_id"] = known["consumer_id"]


def fire(service: Service, name: str, tokens: list[str], quota: int) -> None:
    """As many requests to an operation as its quota says, from fresh seeds until they are enough."""
    operation = SCHEMA.find_operation_by_id(name)
    sent, token = 0, cycle(tokens)
    for round_number in count():
        for mode in MODES:

            @seed(round_number)
            @settings(max_examples=max(50, quota // 2 // TIMES), **QUIET)
            @given(case=operation.as_strategy(generation_mode=mode))
            def generated(case: Any) -> None:
                nonlocal sent
                for _ in range(TIMES):
                    sent += 1
                    aim(case, service.values, sent)
                    service.send(case, next(token), probe_auth=sent % PROBE_AUTH_EVERY == 0)

            generated()
        if sent >= quota:
            return


@pytest.mark.long
@pytest.mark.parametrize("name", [*WRITE, *READ])
def test_every_answer_of_a_management_call_is_described(service: Service, name: str) -> None:
    fire(service, name, [service.values["operator.admin"]], EACH_WRITE.get(name, EACH_READ))


@pytest.mark.long
@pytest.mark.parametrize("name", VALIDATE)
def test_every_answer_of_forward_auth_is_described(service: Service, name: str) -> None:
    presented = [service.values[key] for key in ("value.system", "value.unknown", "value.disabled", "value.other")]
    fire(service, name, presented, EACH_VALIDATE)


@pytest.mark.long
def test_what_one_call_makes_the_next_ones_may_use(service: Service) -> None:
    """Links of the document: make something, then show, edit, enable, bind, reveal and delete it in any order."""
    sent = 0

    class Life(SCHEMA.as_state_machine()):  # type: ignore[misc]
        def before_call(self, case: Any) -> None:
            nonlocal sent
            sent += 1
            if case.path_parameters.keys() == {"gateway_id"} and case.meta.generation.mode.is_positive:
                case.path_parameters["gateway_id"] = "default"

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            headers = {"Authorization": f"Bearer {service.values['operator.admin']}"}
            return {"base_url": service.url, "session": service.session, "headers": headers}

        def validate_response(self, response: Any, case: Any, **more: Any) -> None:
            judge(case, response)
            case.validate_response(
                response, excluded_checks=[*EXCLUDED, ignored_auth], transport_kwargs=more, recorder=self.recorder
            )

    while sent < STATEFUL:
        run_state_machine_as_test(Life, settings=settings(max_examples=60, stateful_step_count=10, **QUIET))
