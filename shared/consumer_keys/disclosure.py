"""How a value leaves a function: as a JWE that only its caller can open, or in clear where the deployment allows it.

SCF writes what a function returns into the function's log. A JWE (RFC 7516, compact; ECDH-ES and A256GCM of RFC 7518)
to a key pair that the caller made for this one call says nothing there.
"""

from __future__ import annotations

from typing import Any

from consumer_keys.errors import invalid
from consumer_keys.model import PublicKey
from consumer_keys.secret import Secret

ALGORITHMS = ["ECDH-ES", "A256GCM"]
NEEDED = "is required: this deployment returns no value in clear, only as a JWE to a public key of yours"


class Disclosure:
    """What one call may say about a value; built before anything is changed.

    Raises InvalidParameter naming `reveal_to`, when it is missing or no usable public key.
    """

    def __init__(self, reveal_to: PublicKey | None, *, clear_values: bool) -> None:
        if reveal_to is None and not clear_values:
            raise invalid("reveal_to", NEEDED)
        self._to = reveal_to
        if reveal_to is not None:
            self._encrypted(b"")  # a point that is not on the curve shows only now

    def members(self, value: Secret) -> dict[str, str]:
        """`{"value_jwe": ...}`, whose plaintext is the value, or `{"value": ...}`."""
        return {"value": value.text()} if self._to is None else {"value_jwe": self._encrypted(value.reveal())}

    def _encrypted(self, plaintext: bytes) -> str:
        from joserfc import jwe
        from joserfc.errors import JoseError
        from joserfc.jwk import import_key

        given: dict[str, Any] = {} if self._to is None else self._to.model_dump(exclude_none=True)
        header = {"alg": ALGORITHMS[0], "enc": ALGORITHMS[1]}
        header |= {"kid": given["kid"]} if "kid" in given else {}
        key: dict[str, Any] = {name: given[name] for name in ("kty", "crv", "x", "y") if name in given}
        try:
            return jwe.encrypt_compact(header, plaintext, import_key(key), algorithms=ALGORITHMS)
        except (JoseError, ValueError):
            raise invalid("reveal_to", "is no public key on its curve") from None
