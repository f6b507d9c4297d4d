"""The keys that come from the root secret, and what they make of a text, while one or two versions of it are alive.

Every value has a digest under the present version. While the secret is being rotated there is a coming version too,
and what is written has a digest under each (docs/decisions/0010-root-rotation.md).
"""

from __future__ import annotations

import hmac
from typing import NamedTuple

from consumer_keys.access import token_digest
from consumer_keys.keytext import derive_key, lookup_digest
from consumer_keys.secret import Secret

ROOT_BYTES = 32


class Alive(NamedTuple):
    """The versions of the root secret that are in force; `coming` is None unless it is being rotated."""

    present: str
    coming: str | None

    @property
    def newest_first(self) -> tuple[str, ...]:
        """One or two versions."""
        return (self.present,) if self.coming is None else (self.coming, self.present)


class Digests(NamedTuple):
    """One text's digests, 32 bytes each. A stored value is found by either of them."""

    present: bytes
    coming: bytes | None


class RootNeeded(Exception):  # noqa: N818 - not an error: the transaction is repeated with the keys of this version
    """A transaction met a version of the root secret whose keys are not in memory yet."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.version = version


class RootKeys:
    """The keys that are derived from one version of the root secret, one per purpose."""

    def __init__(self, root: Secret) -> None:
        root_secret = root.reveal()
        self.lookup_key = derive_key(root_secret, "lookup")
        self.manifest_key = derive_key(root_secret, "manifest")
        self.cursor_key = derive_key(root_secret, "cursor")
        self.operator_key = derive_key(root_secret, "operator")
        self.audit_key = derive_key(root_secret, "audit-head")
        self.request_key = derive_key(root_secret, "request")


class Roots:
    """The keys of every version that is alive, as one transaction sees it."""

    def __init__(self, present: RootKeys, coming: RootKeys | None) -> None:
        self.present, self.coming = present, coming

    def lookup(self, gateway_id: str, secret: Secret) -> Digests:
        """The digests of a key value."""
        value = secret.reveal()
        coming = None if self.coming is None else lookup_digest(self.coming.lookup_key, gateway_id, value)
        return Digests(lookup_digest(self.present.lookup_key, gateway_id, value), coming)

    def token(self, secret: Secret) -> Digests:
        """The digests of an operator's secret."""
        secret_key = secret.text()
        coming = None if self.coming is None else token_digest(self.coming.operator_key, secret_key)
        return Digests(token_digest(self.present.operator_key, secret_key), coming)

    @property
    def cursor_keys(self) -> tuple[bytes, ...]:
        """The newest first: it seals, each of them opens."""
        return tuple(keys.cursor_key for keys in self._newest_first)

    def fingerprints(self, *parts: str) -> tuple[str, ...]:
        """What tells a request from others, the newest first: it is stored, each of them is known again.

        Keyed, since a request may hold a custom value: a plain hash would let a reader of the database try guesses.
        """
        request = "\0".join(parts).encode("utf-8", "surrogatepass")
        return tuple(hmac.digest(keys.request_key, request, "sha256").hex() for keys in self._newest_first)

    @property
    def _newest_first(self) -> tuple[RootKeys, ...]:
        return (self.present,) if self.coming is None else (self.coming, self.present)
