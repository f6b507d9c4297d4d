"""What the cloud APIs have in common: a client built when first needed, timeouts, bounded retries, two failures.

`Gone` is a fact, `Unavailable` is ignorance; nothing else leaves this package. The SDK's own retryer is not used: it
raises after a successful retry.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from consumer_keys.errors import Unavailable

Credential = Callable[[], tuple[str, str, str | None]]
_RETRYABLE = ("RequestLimitExceeded", "InternalError", "ClientNetworkError", "ServerNetworkError")
TIMEOUT_SECONDS = (1.0, 3.0)
ATTEMPTS = 3


def mute(logger: str) -> None:
    """Stops an SDK's own log, whatever level the platform sets: it writes tokens, signing keys, bodies with values.

    What failed is in our own lines.
    """
    import logging

    logging.getLogger(logger).setLevel(logging.CRITICAL + 1)


class RoleCredential:
    """What the SDK asks once per request."""

    def __init__(self, credential: Credential) -> None:
        self.get_credential_info = credential


class Service:
    """One cloud API: a lazily built SDK client and a bounded retry of read-like calls."""

    name = ""

    def __init__(
        self, credential: Credential, region: str, endpoint: str | None, timeout: Any = TIMEOUT_SECONDS
    ) -> None:
        self._credential, self.region, self._endpoint, self._timeout = credential, region, endpoint, timeout
        self._built: Any = None
        self._sessions: list[Any] = []

    def new_client(self, credential: RoleCredential, profile: Any) -> Any:
        """The service's client of the SDK; imported there, so that only a call pays for it."""
        raise NotImplementedError

    @property
    def _client(self) -> Any:
        if self._built is None:
            import requests
            from tencentcloud.common.profile.client_profile import ClientProfile
            from tencentcloud.common.profile.http_profile import HttpProfile

            mute("tencentcloud_sdk_common")
            local = {"protocol": "http", "endpoint": self._endpoint} if self._endpoint else {}
            http = HttpProfile(reqTimeout=self._timeout, **local)
            profile = ClientProfile(httpProfile=http, language="en-US", request_client="consumer-keys")
            client = self.new_client(RoleCredential(self._credential), profile)
            self._sessions = [part for part in vars(client.request.conn).values() if isinstance(part, requests.Session)]
            for session in self._sessions:
                session.trust_env = False  # a netrc entry would replace the signature
            self._built = client
        return self._built

    def close(self) -> None:
        """Closes kept connections; the next call opens new ones."""
        for session in self._sessions:
            session.close()

    def call(self, action: str, attempts: int = ATTEMPTS, **parameters: Any) -> dict[str, Any]:
        """The response's fields. Raises Unavailable, or TencentCloudSDKException for a code that the caller knows."""
        from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

        for attempt in range(1, attempts + 1):
            try:
                reply: dict[str, Any] = self._client.call_json(action, parameters)["Response"]
            except TencentCloudSDKException as error:
                code = str(error.code)
                if not code.startswith(_RETRYABLE):
                    raise
                if attempt == attempts:
                    failure = Unavailable("DependencyUnavailable", self.name, action, code)
                    failure.passing = True
                    raise failure from None
                time.sleep(random.uniform(0, 0.1 * 2**attempt))  # noqa: S311 - jitter, not a secret
            except (KeyError, TypeError, ValueError):
                raise Unavailable("DependencyUnavailable", self.name, action, "UnreadableReply") from None
            else:
                return reply
        raise AssertionError("unreachable")
