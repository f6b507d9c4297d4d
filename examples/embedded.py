"""Consumer keys in front of a WSGI application, without a hop: the validator is part of this process.

    from embedded import KeyRequired
    with Embedded.from_environment() as keys:       # COS_BUCKET, TENCENTCLOUD_SECRETID, ... as validate_key has them
        serve(KeyRequired(application, keys, "default"))

Build `Embedded` after the server has forked (gunicorn: `post_fork`): it has a thread and a connection of its own.
"""

from collections.abc import Callable, Iterable
from typing import Any

from consumer_keys.embedded import Embedded
from consumer_keys.errors import Problem
from consumer_keys.validate_wiring import identity_headers

UNTRUSTED = (
    "HTTP_AUTHORIZATION", "HTTP_X_CONSUMER_ID", "HTTP_X_CONSUMER_NAME", "HTTP_X_CONSUMER_GROUPS", "HTTP_X_KEY_ID",
    "HTTP_X_KEY_NAME",
)  # fmt: skip


class KeyRequired:
    """WSGI middleware: who presents no good key gets 401; the application sees who the consumer is, and no key."""

    def __init__(self, application: Callable[..., Iterable[bytes]], keys: Embedded, gateway_id: str) -> None:
        self._application, self._keys, self._gateway_id = application, keys, gateway_id

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Takes the key from Authorization alone: WSGI cannot tell `X-Api-Key` from `X_Api_Key`."""
        headers = {"authorization": environ.get("HTTP_AUTHORIZATION", "")}
        try:
            verdict = self._keys.judge(self._gateway_id, headers)
        except Problem:  # no usable snapshot: nobody gets in, and nobody is told that the key is bad
            start_response("503 Service Unavailable", [("Retry-After", "5")])
            return []
        if not verdict.valid:
            start_response("401 Unauthorized", [("WWW-Authenticate", 'Bearer realm="consumer-keys"')])
            return []
        inner = {name: value for name, value in environ.items() if name not in UNTRUSTED}
        for name, value in identity_headers(verdict).items():
            inner["HTTP_" + name.upper().replace("-", "_")] = value
        return self._application(inner, start_response)
