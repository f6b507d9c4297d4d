"""The official OpenAI client through every gateway: a key of this service is its `api_key`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import openai
import pytest

from tests.gateways.conftest import POLL_SECONDS, Key, Stack
from tests.gateways.servers import MODEL


@pytest.fixture
def key(stack: Stack) -> Key:
    return stack.keys.create()


@pytest.fixture
def client(stack: Stack, key: Key) -> Iterator[openai.OpenAI]:
    transport = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(
        base_url=f"{stack.gateway.url}/v1", api_key=key.value, max_retries=0, timeout=15, http_client=transport
    ) as client:
        yield client


def test_models_and_completions(stack: Stack, client: openai.OpenAI, key: Key) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    completion = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "你好"}])
    assert completion.choices[0].message.content == "pong"
    assert [seen.header("x-consumer-id") for seen in stack.reached()] == [[key.consumer_id]] * 2
    assert key.value not in repr(stack.reached())


def test_a_stream_arrives_as_it_is_written(stack: Stack, client: openai.OpenAI) -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "ping"}]
    started, text = time.monotonic(), ""
    with client.chat.completions.create(model=MODEL, messages=messages, stream=True) as stream:
        for event in stream:
            text += event.choices[0].delta.content or ""
            stack.upstream.first_event_arrived.set()  # the API goes on only now, or after 10 s
    assert text == "pong"
    assert time.monotonic() - started < 5


def test_a_disabled_key_is_an_authentication_error(stack: Stack, client: openai.OpenAI, key: Key) -> None:
    client.models.list()
    stack.keys.switch(key, "disable")

    def use_until_refused() -> None:
        deadline = time.monotonic() + POLL_SECONDS + 2
        while time.monotonic() < deadline:
            client.models.list()
            threading.Event().wait(0.05)

    with pytest.raises(openai.AuthenticationError) as refused:
        use_until_refused()
    assert refused.value.status_code == 401
