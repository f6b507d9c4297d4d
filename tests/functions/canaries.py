"""Looking for secrets: every form in which one could lie somewhere, and every place where a deployment writes."""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from ckeys.deployment import Deployment
from consumer_keys.roots import RootKeys
from consumer_keys.secret import Secret
from tests.databases import rows_of
from tests.functions.helpers import objects

ROOT = "consumer-keys-root"
PURPOSES = ("lookup", "manifest", "cursor", "operator", "audit", "request")
BLOCK = 8
GZIP = b"\x1f\x8b\x08"


def encodings(secret: bytes) -> dict[str, bytes]:
    """The forms in which a secret could lie somewhere."""
    forms = {
        "raw": secret,
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "percent": "".join(f"%{number:02X}" for number in secret).encode(),
        "percent, lower case": "".join(f"%{number:02x}" for number in secret).encode(),
        "escapes": "".join(f"\\x{number:02x}" for number in secret).encode(),
        "utf-16": b"\x00".join(bytes([number]) for number in secret),
    }
    for encode, name in ((b64encode, "base64"), (urlsafe_b64encode, "base64url")):
        for offset in range(3):
            # Characters that depend on what stands before or behind the secret are cut off.
            coded = encode(bytes(offset) + secret).rstrip(b"=")
            spare = (offset + len(secret)) % 3
            forms[f"{name}, offset {offset}"] = coded[(0, 2, 3)[offset] : len(coded) - (1 if spare else 0)]
    if secret.isascii():
        text = secret.decode()
        forms["url"] = quote(text, safe="").encode()
        forms["json"] = json.dumps(text)[1:-1].encode()
        forms["json, slashes"] = json.dumps(text)[1:-1].replace("/", "\\/").encode()
        forms["json, unicode"] = "".join(f"\\u{ord(char):04x}" for char in text).encode()
    return forms


def unpacked(data: bytes) -> Iterator[bytes]:
    """The data, and every gzip member inside it."""
    yield data
    start = data.find(GZIP)
    while start >= 0:
        with suppress(zlib.error):
            yield from unpacked(zlib.decompressobj(wbits=31).decompress(data[start:]))
        start = data.find(GZIP, start + 1)


class Wanted(NamedTuple):
    """A secret in one form."""

    name: str
    form: str
    text: bytes


class _Index:
    """What to look for, by each of the 8 bytes in a row that it has: text of 15 bytes has one at a multiple of 8."""

    def __init__(self, secrets: dict[str, bytes]) -> None:
        self._short: list[Wanted] = []
        self._by_block: dict[int, set[Wanted]] = {}
        for name, secret in secrets.items():
            for form, text in encodings(secret).items():
                wanted = Wanted(name, form, text)
                if len(text) < 2 * BLOCK - 1:
                    self._short.append(wanted)
                for start in range(len(text) - BLOCK + 1):
                    number = int.from_bytes(text[start : start + BLOCK], sys.byteorder)
                    self._by_block.setdefault(number, set()).add(wanted)

    def found_in(self, data: bytes) -> list[Wanted]:
        """Everything that the data holds. Reads it once, however much is looked for."""
        blocks = set(array("Q", data[: len(data) // BLOCK * BLOCK]))
        likely = {wanted for block in blocks & self._by_block.keys() for wanted in self._by_block[block]}
        return sorted(wanted for wanted in {*self._short, *likely} if wanted.text in data)


def sweep(places: dict[str, bytes], secrets: dict[str, bytes], allowed: Collection[tuple[str, str]] = ()) -> list[str]:
    """Every hit as `secret, form: place`."""
    index = _Index(secrets)
    return [
        f"{wanted.name}, {wanted.form}: {place}"
        for place, data in places.items()
        for part in unpacked(data)
        for wanted in index.found_in(part)
        if (wanted.name, place) not in allowed
    ]


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def inner_secrets(deployment: Deployment) -> dict[str, bytes]:
    """What no caller is ever given: each version of the root secret, what is derived from it, and the roles' own."""
    secrets: dict[str, bytes] = {}
    for row in deployment.cloud.call("ssm", "ListSecretVersionIds", SecretName=ROOT)["Versions"]:
        version = {"SecretName": ROOT, "VersionId": row["VersionId"]}
        root = b64decode(deployment.cloud.call("ssm", "GetSecretValue", **version)["SecretBinary"])
        derived = vars(RootKeys(Secret(root)))
        assert derived.keys() == {f"{purpose}_key" for purpose in PURPOSES}
        secrets |= {f"root {row['VersionId']}": root}
        secrets |= {f"{name} {row['VersionId']}": key for name, key in derived.items()}
    for role, variables in deployment.roles.items():
        names = ("TENCENTCLOUD_SECRETKEY", "TENCENTCLOUD_SESSIONTOKEN")
        secrets |= {f"{name} of {role}": variables[name].encode() for name in names}
    return secrets


def places_of(deployment: Deployment) -> dict[str, bytes]:
    """Everything that a deployment has written: its home folder with the emulator's records, database and bucket.

    WAL and database count as they lie on the disk, and once more as rows: nothing hides in an overflow page.
    """
    places = {f"home/{name}": data for name, data in files(deployment.home).items()}
    for table, rows in rows_of(deployment.services.store.engine).items():
        columns = [value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row.values()]
        places[f"rows of {table}"] = b"\n".join(columns)
    places |= {f"bucket/{name}": data for name, data in objects(deployment).items()}
    return places | {"the emulator's journal": repr(deployment.cloud.calls).encode()}
