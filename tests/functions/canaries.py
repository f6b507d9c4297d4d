"""Looking for secrets: every form in which one could lie somewhere, and every place where a deployment writes."""

from __future__ import annotations

import json
import zlib
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from ckeys.deployment import Deployment
from tests.databases import rows_of
from tests.functions.helpers import objects

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


def sweep(places: dict[str, bytes], secrets: dict[str, bytes], allowed: Collection[tuple[str, str]] = ()) -> list[str]:
    """Every hit as `secret, form: place`."""
    forms = {name: encodings(secret) for name, secret in secrets.items()}
    return [
        f"{name}, {form}: {place}"
        for place, data in places.items()
        for part in unpacked(data)
        for name, wanted in forms.items()
        for form, text in wanted.items()
        if text in part and (name, place) not in allowed
    ]


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
