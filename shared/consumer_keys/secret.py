"""A value on its way through the code: nothing shows it but the call that asks for it."""

from __future__ import annotations

import hmac
from typing import Any, NoReturn

REDACTED = "**********"


class Secret:
    """Bytes that repr, str and format show as stars, and that pickle, copy and JSON refuse.

    pydantic's SecretBytes, which does the first half, can be pickled in clear.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The bytes."""
        return self._value

    def text(self) -> str:
        """The bytes as text. Raises UnicodeDecodeError, which says nothing of them."""
        try:
            return self._value.decode()
        except UnicodeDecodeError as error:
            # The original holds all of the bytes.
            raise UnicodeDecodeError(error.encoding, b"", 0, 0, "the secret is no text") from None

    def __repr__(self) -> str:
        return f"Secret({REDACTED!r})"

    def __str__(self) -> str:
        return REDACTED

    def __format__(self, spec: str) -> str:
        return format(REDACTED, spec)

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __reduce_ex__(self, _protocol: Any) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied")
