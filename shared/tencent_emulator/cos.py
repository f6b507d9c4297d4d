"""Cloud Object Storage: buckets and objects, and their in-process form.

Objects are stored as they are.  There is no versioning, no multipart upload and no compare-and-swap: like the cloud
(CN 436/7749 documents no conditional PUT), a later PUT wins, whatever If-Match says.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from tencent_emulator.crc import crc64
from tencent_emulator.errors import CloudError
from tencent_emulator.storage import Doc, Item, Store

KEY_BYTES_MAX = 850
METADATA_BYTES_MAX = 2048
LIST_MAX = 1000
_BUCKET = re.compile(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?-\d{5,12}")
# Request headers that PUT stores and GET gives back, besides x-cos-meta-* and x-cos-server-side-encryption*.
_KEPT = ("content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires")


class Page(NamedTuple):
    """One page of a listing; `next_marker` is "" on the last one."""

    objects: list[Item]
    prefixes: list[str]
    next_marker: str


class Cos:
    """The in-process form: no signature, no faults, no journal, so tests can arrange and inspect freely."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        """`not_modified_length` says whether a 304 carries `Content-Length: 0`; front ends differ in this."""
        self._store = store
        self._clock = clock
        self.not_modified_length = False

    def create_bucket(self, bucket: str) -> None:
        """Create the bucket `<name>-<appid>`; harmless if it exists."""
        if not _BUCKET.fullmatch(bucket):
            raise CloudError("InvalidBucketName", "A bucket is named <name>-<appid>.")
        with self._store.transaction():
            if not self.has_bucket(bucket):
                self._store.put("bucket", "", bucket, {"CreateTime": int(self._clock())})

    def delete_bucket(self, bucket: str) -> None:
        """Remove an empty bucket."""
        with self._store.transaction():
            self.check_bucket(bucket)
            if self._store.page("object", bucket, "", 1):
                raise CloudError("BucketNotEmpty", "The bucket you tried to delete is not empty.")
            self._store.delete("bucket", "", bucket)

    def has_bucket(self, bucket: str) -> bool:
        """Whether the bucket exists."""
        return self._store.doc("bucket", "", bucket) is not None

    def check_bucket(self, bucket: str) -> None:
        """NoSuchBucket unless it exists."""
        if not self.has_bucket(bucket):
            raise CloudError("NoSuchBucket", "The specified bucket does not exist.")

    def put_object(self, bucket: str, key: str, data: bytes, headers: Mapping[str, str] | None = None) -> Doc:
        """Store the object and return its document; `headers` have lower-case names."""
        given = headers or {}
        if not 0 < len(key.encode("utf-8", "surrogatepass")) <= KEY_BYTES_MAX:
            raise CloudError("KeyTooLong", f"A key has 1 to {KEY_BYTES_MAX} bytes.")
        _check_md5(data, given.get("content-md5"))
        kept = {name: value for name, value in given.items() if _is_kept(name)}
        if sum(len(name) + len(value) for name, value in kept.items() if "-meta-" in name) > METADATA_BYTES_MAX:
            raise CloudError("MetadataTooLarge", f"User metadata has at most {METADATA_BYTES_MAX} bytes.")
        doc: Doc = {
            "ETag": f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"',
            "Crc64": str(crc64(data)),
            "Size": len(data),
            "LastModified": int(self._clock()),
            "Headers": kept,
        }
        with self._store.transaction():
            self.check_bucket(bucket)
            forbidden = given.get("x-cos-forbid-overwrite", "").lower() == "true"
            if forbidden and self._store.doc("object", bucket, key) is not None:
                raise CloudError("FileAlreadyExists", "The object exists and must not be overwritten.")
            self._store.put("object", bucket, key, doc, data)
        return doc

    def head_object(self, bucket: str, key: str) -> Doc:
        """ETag, Crc64, Size, LastModified and Headers of an object."""
        with self._store.transaction():
            self.check_bucket(bucket)
            doc = self._store.doc("object", bucket, key)
        if doc is None:
            raise CloudError("NoSuchKey", "The specified key does not exist.")
        return doc

    def get_object(self, bucket: str, key: str) -> bytes:
        """The bytes of an object."""
        return self.read_object(bucket, key)[1]

    def read_object(self, bucket: str, key: str) -> tuple[Doc, bytes]:
        """Document and bytes of one and the same state of the object."""
        with self._store.transaction():
            return self.head_object(bucket, key), self._store.body("object", bucket, key)

    def delete_object(self, bucket: str, key: str) -> None:
        """Remove the object; a missing one is fine, a missing bucket is not."""
        with self._store.transaction():
            self.check_bucket(bucket)
            self._store.delete("object", bucket, key)

    def list_objects(self, bucket: str, prefix: str = "") -> list[str]:
        """Every key with this prefix, in byte order."""
        with self._store.transaction():
            self.check_bucket(bucket)
            return [item.name for item in self._scan(bucket, prefix, "")]

    def list_page(self, bucket: str, prefix: str, delimiter: str, marker: str, limit: int) -> Page:
        """One page after `marker`; keys that share a part up to the delimiter appear as one common prefix."""
        objects: list[Item] = []
        groups: list[str] = []
        last = ""
        with self._store.transaction():
            self.check_bucket(bucket)
            for item in self._scan(bucket, prefix, marker):
                head, found, _ = item.name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
                group = prefix + head + found if found else ""
                if group and (group <= marker or group in groups[-1:]):
                    continue
                if len(objects) + len(groups) == limit:
                    return Page(objects, groups, last)
                if group:
                    groups.append(group)
                else:
                    objects.append(item)
                last = group or item.name
        return Page(objects, groups, "")

    def _scan(self, bucket: str, prefix: str, marker: str) -> Iterator[Item]:
        start = max(prefix, marker + "\0" if marker else "")
        while True:
            page = self._store.page("object", bucket, start, LIST_MAX)
            for item in page:
                if not item.name.startswith(prefix):
                    return
                yield item
            if len(page) < LIST_MAX:
                return
            start = page[-1].name + "\0"


def _is_kept(name: str) -> bool:
    return name in _KEPT or name.startswith(("x-cos-meta-", "x-cos-server-side-encryption", "x-cos-storage-class"))


def _check_md5(data: bytes, given: str | None) -> None:
    if given is None:
        return
    try:
        expected = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        expected = b""
    if len(expected) != 16:
        raise CloudError("InvalidDigest", "The Content-MD5 you specified is not valid.")
    if hashlib.md5(data, usedforsecurity=False).digest() != expected:
        raise CloudError("BadDigest", "The Content-MD5 you specified does not match the body.")
