"""Envelope encryption of values: KMS data keys, AES-256-GCM, and associated data that binds a value to its place.

A sealed value opens only under the same environment, purpose, gateway, owner and field. The layout, with nothing
allowed behind it: `CK` version(1) data key id(16) salt(32) nonce(12) commitment(32) ciphertext tag(16).
"""

from __future__ import annotations

import hmac
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from consumer_keys.errors import SealBroken
from consumer_keys.secret import Secret

_MAGIC = b"CK\x01"
_ID, _SALT, _NONCE, _COMMITMENT, _TAG = 16, 32, 12, 32, 16
_HEAD = len(_MAGIC) + _ID + _SALT + _NONCE + _COMMITMENT
PLAINTEXT_SECONDS_MAX = 900.0
PLAINTEXT_KEYS_MAX = 64
# A ceiling per data key. Each message has its own derived key, so GCM's nonce limit is never near.
USES_MAX = 2**20


class Kms(Protocol):
    """What the vault needs of KMS."""

    def generate_data_key(self, kms_key_id: str, context: str) -> tuple[bytes, str]:
        """(plaintext, blob)."""

    def decrypt(self, blob: str, context: str) -> bytes:
        """The plaintext of a blob. Raises SealBroken for one that was not made under this context."""


class DataKey(NamedTuple):
    """A wrapped data key as it is stored; no plaintext.

    `context` is what KMS bound the blob to, for the record: whoever unwraps works it out anew, so that no row of the
    database has a say in it.
    """

    data_key_id: str
    purpose: str
    kms_key_id: str
    blob: str
    context: str


class Place(NamedTuple):
    """Where a sealed value belongs; every part is bound by the associated data."""

    gateway_id: str
    owner_id: str
    field: str


class Vault:
    """Seals and opens values for one purpose under one KMS key.

    Data keys live in memory for at most 15 minutes. An instance without one asks KMS for a new data key instead of
    unwrapping an old one, so that whoever only seals needs no permission to decrypt.
    """

    def __init__(
        self,
        kms: Kms,
        kms_key_id: str,
        *,
        environment: str,
        purpose: str,
        add_data_key: Callable[[DataKey], None],
        find_data_key: Callable[[str], DataKey | None],
    ) -> None:
        self._kms, self._kms_key_id = kms, kms_key_id
        self._environment, self._purpose = environment, purpose
        self._add, self._find = add_data_key, find_data_key
        self._lock = threading.Lock()
        self._current: tuple[str, bytes, float, int] | None = None  # id, plaintext, when it came, uses
        self._opened: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # the one used longest ago comes first

    def seal(self, place: Place, plaintext: bytes) -> tuple[bytes, str]:
        """(sealed bytes, data key id). The data key is stored durably before it is used. Raises Unavailable."""
        data_key_id, data_key = self._sealing_key()
        salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
        associated = self._associated(place, data_key_id)
        key, commitment = _message_key(data_key, salt, associated)
        sealed = AESGCM(key).encrypt(nonce, plaintext, associated)
        return _MAGIC + bytes.fromhex(data_key_id) + salt + nonce + commitment + sealed, data_key_id

    def open(self, place: Place, sealed: bytes) -> Secret:
        """The plaintext. Raises SealBroken when anything about the bytes or their place differs, or Unavailable."""
        if len(sealed) < _HEAD + _TAG or not sealed.startswith(_MAGIC):
            raise SealBroken("not a sealed value")
        fields, position = [], len(_MAGIC)
        for size in (_ID, _SALT, _NONCE, _COMMITMENT):
            fields.append(sealed[position : position + size])
            position += size
        ident, salt, nonce, commitment = fields
        associated = self._associated(place, ident.hex())
        key, expected = _message_key(self._opening_key(ident.hex()), salt, associated)
        if not hmac.compare_digest(commitment, expected):  # AES-GCM alone does not commit to its key
            raise SealBroken("the commitment differs")
        try:
            return Secret(AESGCM(key).decrypt(nonce, sealed[position:], associated))
        except InvalidTag:
            raise SealBroken("the tag differs") from None

    def _associated(self, place: Place, data_key_id: str) -> bytes:
        parts = (_MAGIC.decode("latin-1"), self._environment, self._purpose, *place, data_key_id)
        encoded = [part.encode() for part in parts]
        return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)

    def context(self, data_key_id: str) -> str:
        """The EncryptionContext of a data key, which KMS compares as text: it depends on nothing that is stored."""
        fields = {"app": "consumer-keys", "env": self._environment, "purpose": self._purpose, "dek": data_key_id}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    def _sealing_key(self) -> tuple[str, bytes]:
        with self._lock:
            self._forget_old()
            if self._current is None or self._current[3] >= USES_MAX:
                data_key_id = os.urandom(_ID).hex()
                context = self.context(data_key_id)
                plaintext, blob = self._kms.generate_data_key(self._kms_key_id, context)
                self._add(DataKey(data_key_id, self._purpose, self._kms_key_id, blob, context))
                self._current = (data_key_id, plaintext, time.time(), 0)
            data_key_id, plaintext, came_at, uses = self._current
            self._current = (data_key_id, plaintext, came_at, uses + 1)
            return data_key_id, plaintext

    def _opening_key(self, data_key_id: str) -> bytes:
        with self._lock:
            self._forget_old()
            if self._current is not None and self._current[0] == data_key_id:
                return self._current[1]
            if data_key_id not in self._opened:
                stored = self._find(data_key_id)
                if stored is None or stored.purpose != self._purpose:
                    raise SealBroken("its data key is not known")
                self._opened[data_key_id] = (self._kms.decrypt(stored.blob, self.context(data_key_id)), time.time())
                while len(self._opened) > PLAINTEXT_KEYS_MAX:
                    self._opened.popitem(last=False)
            self._opened.move_to_end(data_key_id)
            return self._opened[data_key_id][0]

    def _forget_old(self) -> None:
        """Drops every plaintext that is too old. A clock that went back drops it too: its age is not known then.

        So no data key seals for longer than that, far below the 30 days that a data key may be used.
        """
        now = time.time()

        def is_old(came_at: float) -> bool:
            return not 0 <= now - came_at < PLAINTEXT_SECONDS_MAX

        if self._current is not None and is_old(self._current[2]):
            self._current = None
        for data_key_id in [ident for ident, (_, came_at) in self._opened.items() if is_old(came_at)]:
            del self._opened[data_key_id]


def _message_key(data_key: bytes, salt: bytes, associated: bytes) -> tuple[bytes, bytes]:
    derived = HKDF(SHA256(), 64, salt, associated).derive(data_key)
    return derived[:32], derived[32:]
