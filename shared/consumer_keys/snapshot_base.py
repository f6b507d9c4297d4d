"""The base file: an LMDB file, written once, named by its hash, never changed, read through the page cache.

Keys of 32 bytes are digests, keys of 7 bytes are consumer ids; the values are the records of `snapshot`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable

import lmdb

from consumer_keys.snapshot import ConsumerRecord, KeyRecord, SnapshotError, pack_consumer, pack_key

_MAP_BYTES_MAX = 4 << 30
_CHUNK = 1 << 20


def build(
    path: str, keys: Iterable[tuple[bytes, KeyRecord]], consumers: Iterable[tuple[bytes, ConsumerRecord]]
) -> tuple[str, int, int]:
    """Writes a base file; `keys` come in ascending order. Returns (SHA-256 in hex, size in bytes, entries)."""
    draft = path + ".draft"
    environment = lmdb.open(draft, subdir=False, map_size=_MAP_BYTES_MAX, lock=False, sync=False, metasync=False)
    try:
        count = 0
        with environment.begin(write=True) as transaction:
            for digest, key in keys:
                # Ascending keys are appended: full pages, no searching.
                if not transaction.put(digest, pack_key(key), append=True):
                    raise ValueError("digests are not in ascending order")
                count += 1
            for ident, consumer in consumers:
                transaction.put(ident, pack_consumer(consumer))
                count += 1
        with open(path, "wb") as target:
            environment.copyfd(target.fileno(), compact=True)
    finally:
        environment.close()
        os.unlink(draft)
    return sha256_of(path), os.path.getsize(path), count


def sha256_of(path: str) -> str:
    """SHA-256 of a file in hex, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class Base:
    """An opened base file. Its hash must have been checked before: LMDB trusts its file. Raises SnapshotError."""

    def __init__(self, path: str) -> None:
        try:
            self._environment = lmdb.open(
                path, subdir=False, readonly=True, lock=False, readahead=False, max_readers=1, create=False
            )
        except lmdb.Error:
            raise SnapshotError("the base file cannot be opened") from None
        last_page: int = self._environment.info()["last_pgno"]
        if (last_page + 1) * self._environment.stat()["psize"] > os.path.getsize(path):
            self._environment.close()  # reading behind the end of a mapped file would end the process
            raise SnapshotError("the base file is shorter than it says")
        # Nobody writes the file, so one read transaction serves for its whole life, in every thread.
        self._read = self._environment.begin(buffers=False)
        # The packed record of a digest or a consumer's id, or None.
        self.find: Callable[[bytes], bytes | None] = self._read.get

    def entry_count(self) -> int:
        """Digests and consumers in the file."""
        count: int = self._environment.stat()["entries"]
        return count

    def close(self) -> None:
        """Releases the mapping."""
        self._read.abort()
        self._environment.close()
