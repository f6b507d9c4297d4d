"""Key Management Service, version 2019-01-18: symmetric customer master keys and envelope encryption.

A ciphertext names its key and the generation of its material, so it still opens after a rotation; it is bound to the
key and to the EncryptionContext, byte for byte.  Codes follow the vendor's lists per action (CN 573).
"""

# ruff: noqa: N802 - a method is named exactly as the API action it answers
from __future__ import annotations

import base64
import binascii
import json
import os
import re
import uuid
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tencent_emulator.actions import Params
from tencent_emulator.cam import UIN
from tencent_emulator.errors import CloudError
from tencent_emulator.storage import Doc, Store

ENABLED, DISABLED, PENDING = "Enabled", "Disabled", "PendingDelete"
KEYS_MAX = 200
PLAINTEXT_BYTES_MAX = 4096
CONTEXT_CHARS_MAX = 1024
DAY_S = 86_400
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SPECS = {"AES_128": 16, "AES_256": 32}


class Kms:
    """Each public method is the API action of that name: checked parameters in, response members out."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        """Keys live in the store, their material sealed."""
        self._store = store
        self._clock = clock

    def CreateKey(self, params: Params) -> Doc:
        """Create an enabled symmetric key with fresh material."""
        alias = params["Alias"]
        if not _ALIAS.fullmatch(alias) or alias.lower().startswith("kms-"):
            raise CloudError("InvalidParameterValue.InvalidAlias", "Alias: 1 to 60 of A-Z a-z 0-9 _ -, not kms-.")
        if (params.get("KeyUsage") or "ENCRYPT_DECRYPT") != "ENCRYPT_DECRYPT":
            raise CloudError("InvalidParameterValue.InvalidKeyUsage", "Only ENCRYPT_DECRYPT is emulated.")
        if params.get("Type", 1) != 1:
            raise CloudError("InvalidParameterValue.InvalidType", "Only keys made by KMS (Type 1) are emulated.")
        if len(params.get("Description", "").encode()) > 1024:
            raise CloudError("InvalidParameter", "A description has at most 1024 bytes.")
        keys = self._keys()
        if any(doc["Alias"] == alias for doc in keys.values()):
            raise CloudError("InvalidParameterValue.AliasAlreadyExists", "A key with this alias exists.")
        if len(keys) >= KEYS_MAX:
            raise CloudError("LimitExceeded.CmkLimitExceeded", "The number of keys has reached the limit.")
        key_id, now = str(uuid.uuid4()), int(self._clock())
        doc: Doc = {
            "Alias": alias,
            "Description": params.get("Description", ""),
            "KeyState": ENABLED,
            "CreateTime": now,
            "DeletionDate": 0,
            "KeyRotationEnabled": False,
            "RotateDays": 0,
            "NextRotateTime": 0,
            "LastRotateTime": 0,
            "Generation": 0,
        }
        self._store.put("key", "", key_id, doc)
        self._store.put("key_material", key_id, "0", {}, os.urandom(32))
        members = {name: doc[name] for name in ("Alias", "CreateTime", "Description", "KeyState")}
        return {
            "KeyId": key_id,
            **members,
            "KeyUsage": "ENCRYPT_DECRYPT",
            "TagCode": 0,
            "TagMsg": "",
            "HsmClusterId": "",
        }

    def DescribeKey(self, params: Params) -> Doc:
        """The metadata of one key."""
        return {"KeyMetadata": _metadata(params["KeyId"], self._key(params["KeyId"]))}

    def DescribeKeys(self, params: Params) -> Doc:
        """The metadata of up to 100 keys; all of them must exist."""
        key_ids = params["KeyIds"]
        if not 0 < len(key_ids) <= 100 or not all(isinstance(key_id, str) for key_id in key_ids):
            raise CloudError("InvalidParameter", "KeyIds must hold 1 to 100 key ids.")
        return {"KeyMetadatas": [_metadata(key_id, self._key(key_id)) for key_id in key_ids]}

    def ListKeys(self, params: Params) -> Doc:
        """One page of key ids, newest first; keys that wait for their deletion are not listed."""
        offset, limit = params.get("Offset", 0), params.get("Limit") or 10
        if offset < 0 or not 0 <= limit <= 200:
            raise CloudError("InvalidParameter", "Offset or Limit is out of range.")
        own = params.get("Role", 0) == 0
        found = [key_id for key_id, doc in self._keys().items() if own and doc["KeyState"] != PENDING]
        found.reverse()
        return {"Keys": [{"KeyId": key_id} for key_id in found[offset : offset + limit]], "TotalCount": len(found)}

    def EnableKey(self, params: Params) -> Doc:
        """Make the key usable again; harmless if it already is."""
        return self._set_state(params["KeyId"], ENABLED)

    def DisableKey(self, params: Params) -> Doc:
        """Stop encryption and decryption; harmless if already disabled."""
        return self._set_state(params["KeyId"], DISABLED)

    def GenerateDataKey(self, params: Params) -> Doc:
        """A fresh data key, in clear and encrypted; nothing of it is kept."""
        key_id, key = params["KeyId"], self._key(params["KeyId"])
        if params.get("EncryptionPublicKey") or params.get("EncryptionAlgorithm") or params.get("IsHostedByKms"):
            raise CloudError("InvalidParameter", "EncryptionPublicKey and hosted data keys are not emulated.")
        size = params.get("NumberOfBytes") or _SPECS.get(params.get("KeySpec", ""), 0)
        if not 1 <= size <= 1024:
            raise CloudError("InvalidParameter", "KeySpec (AES_128, AES_256) or NumberOfBytes (1 to 1024) is needed.")
        context = _context(params, "EncryptionContext")
        if key["KeyState"] == PENDING:
            raise CloudError("ResourceUnavailable.KeyPendingDelete", "The key is waiting for its deletion.")
        _check_usable(key)
        plain = os.urandom(size)
        return {
            "KeyId": key_id,
            "Plaintext": base64.b64encode(plain).decode(),
            "CiphertextBlob": self._encrypt(key_id, key["Generation"], plain, context),
            "DataKeyId": "",
            "TagCode": 0,
            "TagMsg": "",
        }

    def Encrypt(self, params: Params) -> Doc:
        """Encrypt up to 4 KB under the newest material of the key."""
        key_id, key = params["KeyId"], self._key(params["KeyId"])
        context = _context(params, "EncryptionContext")
        try:
            plain = base64.b64decode(params["Plaintext"], validate=True)
        except (binascii.Error, ValueError):
            plain = b""
        if not 0 < len(plain) <= PLAINTEXT_BYTES_MAX:
            raise CloudError("InvalidParameterValue.InvalidPlaintext", "Plaintext: base64 of 1 to 4096 bytes.")
        _check_usable(key)
        return {"KeyId": key_id, "CiphertextBlob": self._encrypt(key_id, key["Generation"], plain, context)}

    def Decrypt(self, params: Params) -> Doc:
        """Open a ciphertext that names its key; the context must be the same string as at encryption."""
        if params.get("EncryptionPublicKey") or params.get("EncryptionAlgorithm"):
            raise CloudError("InvalidParameter", "EncryptionPublicKey is not emulated.")
        context = _context(params, "EncryptionContext")
        key_id, _, plain = self._decrypt(params["CiphertextBlob"], context)
        return {"KeyId": key_id, "Plaintext": base64.b64encode(plain).decode()}

    def ReEncrypt(self, params: Params) -> Doc:
        """Encrypt anew under another key, newer material or another context; else hand back the same ciphertext."""
        before = _context(params, "SourceEncryptionContext")
        after = _context(params, "DestinationEncryptionContext")
        source, generation, plain = self._decrypt(params["CiphertextBlob"], before)
        target = params.get("DestinationKeyId") or source
        key = self._key(target)
        _check_usable(key)
        renewed = (target, key["Generation"], after) != (source, generation, before)
        blob = self._encrypt(target, key["Generation"], plain, after) if renewed else params["CiphertextBlob"]
        return {"CiphertextBlob": blob, "KeyId": target, "SourceKeyId": source, "ReEncrypted": renewed}

    def ScheduleKeyDeletion(self, params: Params) -> Doc:
        """Disabled -> PendingDelete for 7 to 30 days, after which the material is gone for good."""
        key_id, days = params["KeyId"], params["PendingWindowInDays"]
        key = self._key(key_id)
        if not 7 <= days <= 30:
            raise CloudError("InvalidParameter.InvalidPendingWindowInDays", "PendingWindowInDays must be 7 to 30.")
        if key["KeyState"] == PENDING:
            raise _wrong_state(key)
        if key["KeyState"] != DISABLED:
            raise CloudError("ResourceUnavailable.CmkShouldBeDisabled", "Disable the key before deleting it.")
        when = int(self._clock()) + days * DAY_S
        self._store.put("key", "", key_id, {**key, "KeyState": PENDING, "DeletionDate": when})
        return {"KeyId": key_id, "DeletionDate": when}

    def CancelKeyDeletion(self, params: Params) -> Doc:
        """PendingDelete -> Disabled (INTL 1030/32780)."""
        key_id, key = params["KeyId"], self._key(params["KeyId"])
        if key["KeyState"] != PENDING:
            raise _wrong_state(key)
        self._store.put("key", "", key_id, {**key, "KeyState": DISABLED, "DeletionDate": 0})
        return {"KeyId": key_id}

    def EnableKeyRotation(self, params: Params) -> Doc:
        """Renew the material every RotateDays (7 to 365, default 365); old ciphertexts still open."""
        key_id, days = params["KeyId"], params.get("RotateDays") or 365
        key = self._key(key_id)
        if not 7 <= days <= 365:
            raise CloudError("InvalidParameter", "RotateDays must be 7 to 365.")
        _check_usable(key)
        due = int(self._clock()) + days * DAY_S
        change = {"KeyRotationEnabled": True, "RotateDays": days, "NextRotateTime": due}
        self._store.put("key", "", key_id, {**key, **change})
        return {}

    def DisableKeyRotation(self, params: Params) -> Doc:
        """Keep the present material."""
        key_id, key = params["KeyId"], self._key(params["KeyId"])
        change = {"KeyRotationEnabled": False, "RotateDays": 0, "NextRotateTime": 0}
        self._store.put("key", "", key_id, {**key, **change})
        return {}

    def GetKeyRotationStatus(self, params: Params) -> Doc:
        """Whether the material is renewed regularly."""
        return {"KeyRotationEnabled": self._key(params["KeyId"])["KeyRotationEnabled"]}

    def GetServiceStatus(self, params: Params) -> Doc:  # noqa: ARG002 - every action takes the same argument
        """A bought, working service."""
        return {
            "ServiceEnabled": True,
            "InvalidType": 1,
            "UserLevel": 0,
            "ProExpireTime": 0,
            "ProRenewFlag": 0,
            "ProResourceId": "",
            "ExclusiveVSMEnabled": False,
            "ExclusiveHSMEnabled": False,
            "SubscriptionInfo": "Prepaid_KMS",
            "CmkUserCount": len(self._keys()),
            "CmkLimit": KEYS_MAX,
            "QpsLimit": 300,
            "QpsTotalLimit": 300,
            "RegionsQps": [],
        }

    def is_usable(self, key_id: str) -> bool:
        """For SSM: whether this key exists and can encrypt and decrypt now."""
        try:
            return bool(self._key(key_id)["KeyState"] == ENABLED)
        except CloudError:
            return False

    def rotate(self, key_id: str) -> None:
        """Not an API action: renew the material now, as the schedule would."""
        with self._store.transaction():
            self._renew(key_id, self._key(key_id))

    def keys_of(self, params: Params) -> list[str]:
        """Not an API action: the keys that a request names, itself or by its ciphertext; "" for a bad one."""
        named = [params[name] for name in ("KeyId", "DestinationKeyId") if params.get(name)]
        if "CiphertextBlob" not in params:
            return named
        try:
            sealed_under = str(uuid.UUID(bytes=base64.b64decode(params["CiphertextBlob"].split("-k-")[1])))
        except (IndexError, ValueError):
            sealed_under = ""
        return [*named, sealed_under]

    def _keys(self) -> dict[str, Doc]:
        found = {}
        for item in self._store.items("key"):
            doc = self._current(item.name, item.doc)
            if doc is not None:
                found[item.name] = doc
        return found

    def _key(self, key_id: str) -> Doc:
        if not _ID.fullmatch(key_id):
            raise CloudError("InvalidParameterValue.InvalidKeyId", "The key id is malformed.")
        stored = self._store.doc("key", "", key_id)
        doc = self._current(key_id, stored) if stored is not None else None
        if doc is None:
            raise CloudError("ResourceUnavailable.CmkNotFound", "The key does not exist.")
        return doc

    def _current(self, key_id: str, doc: Doc) -> Doc | None:
        """Let a due deletion or rotation happen when anyone looks after its time."""
        now = self._clock()
        if doc["KeyState"] == PENDING and doc["DeletionDate"] <= now:
            self._store.delete("key_material", key_id)
            self._store.delete("key", "", key_id)
            return None
        if doc["KeyRotationEnabled"] and doc["KeyState"] == ENABLED and doc["NextRotateTime"] <= now:
            return self._renew(key_id, doc)
        return doc

    def _renew(self, key_id: str, doc: Doc) -> Doc:
        now, generation = int(self._clock()), doc["Generation"] + 1
        due = now + doc["RotateDays"] * DAY_S if doc["KeyRotationEnabled"] else 0
        renewed = {**doc, "Generation": generation, "LastRotateTime": now, "NextRotateTime": due}
        self._store.put("key_material", key_id, str(generation), {}, os.urandom(32))
        self._store.put("key", "", key_id, renewed)
        return renewed

    def _set_state(self, key_id: str, state: str) -> Doc:
        key = self._key(key_id)
        if key["KeyState"] == PENDING:
            raise _wrong_state(key)
        self._store.put("key", "", key_id, {**key, "KeyState": state})
        return {}

    def _encrypt(self, key_id: str, generation: int, plain: bytes, context: str) -> str:
        # Sizes as measured on the cloud's blobs: 64 and 16 bytes, then 36 more than the plaintext.
        head = generation.to_bytes(4, "big") + os.urandom(60)
        name = uuid.UUID(key_id).bytes
        nonce, filler = os.urandom(12), os.urandom(8)
        material = self._store.body("key_material", key_id, str(generation))
        sealed = AESGCM(material).encrypt(nonce, plain, head + name + filler + context.encode())
        return "-k-".join(base64.b64encode(part).decode() for part in (head, name, nonce + filler + sealed))

    def _decrypt(self, blob: str, context: str) -> tuple[str, int, bytes]:
        """Key id, generation and plaintext of a ciphertext made by `_encrypt` under the same context."""
        refusal = CloudError("InvalidParameterValue.InvalidCiphertext", "The ciphertext or its context is not valid.")
        try:
            head, name, rest = (base64.b64decode(part, validate=True) for part in blob.split("-k-"))
        except (binascii.Error, ValueError):
            raise refusal from None
        if len(head) != 64 or len(name) != 16 or len(rest) < 36:
            raise refusal
        key_id, generation = str(uuid.UUID(bytes=name)), int.from_bytes(head[:4], "big")
        _check_usable(self._key(key_id))
        if self._store.doc("key_material", key_id, str(generation)) is None:
            raise refusal
        material = self._store.body("key_material", key_id, str(generation))
        try:
            plain = AESGCM(material).decrypt(rest[:12], rest[20:], head + name + rest[12:20] + context.encode())
        except InvalidTag:
            raise refusal from None
        return key_id, generation, plain


def _check_usable(key: Doc) -> None:
    if key["KeyState"] != ENABLED:
        raise CloudError("ResourceUnavailable.CmkDisabled", f"The key is {key['KeyState']}.")


def _wrong_state(key: Doc) -> CloudError:
    return CloudError("ResourceUnavailable.CmkStateNotSupport", f"The key is {key['KeyState']}.")


def _context(params: Params, name: str) -> str:
    """The context as sent: the cloud promises nothing about normalisation, so neither do we."""
    text: str = params.get(name, "")
    try:
        valid = not text or (len(text) <= CONTEXT_CHARS_MAX and isinstance(json.loads(text), dict))
        text.encode()
    except ValueError:
        valid = False
    if not valid:
        raise CloudError("InvalidParameter", f"{name}: the JSON text of an object, at most 1024 characters.")
    return text


def _metadata(key_id: str, doc: Doc) -> Doc:
    return {
        "KeyId": key_id,
        **{name: value for name, value in doc.items() if name != "Generation"},
        "KeyUsage": "ENCRYPT_DECRYPT",
        "Type": 4,
        "CreatorUin": UIN,
        "CreatorUinString": str(UIN),
        "Owner": "user",
        "Origin": "TENCENT_KMS",
        "ValidTo": 0,
        "HsmClusterId": "",
        "ResourceId": f"creatorUin/{UIN}/{key_id}",
    }
