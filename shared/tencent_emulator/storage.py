"""The emulator's state: one SQLite database, in memory or in a folder that survives kill -9.

Secret values and key material are sealed with AES-256-GCM under a key file, so searching the folder for a secret finds
nothing.  This guards against a careless backup or grep, not against someone who can read the key file as well.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tencent_emulator.errors import StateError, StateInUse

Doc = dict[str, Any]

SEALED = frozenset({"secret_version", "key_material", "seal_check"})
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS item (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL, parent TEXT NOT NULL, name TEXT NOT NULL,
  doc TEXT NOT NULL, body BLOB NOT NULL,
  UNIQUE (kind, parent, name));
"""


class Item(NamedTuple):
    """A stored thing without its body."""

    name: str
    doc: Doc


class Store:
    """Items by (kind, parent, name), each a small JSON document and a body; one writer at a time, all or nothing."""

    def __init__(self, folder: Path | None = None) -> None:
        """Open or create the state; StateError if the folder is in use, damaged, or its key file does not fit."""
        self._lock = threading.RLock()
        self._depth = 0
        self._path = folder / "state.db" if folder else None
        held = _claim(folder) if folder else None
        try:
            self._seal = AESGCM(_key(folder) if folder else os.urandom(32))
            self._db = self._open()
        except BaseException:
            if held is not None:
                os.close(held)
            raise
        self._finalizer = weakref.finalize(self, _release, self._db, held)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the database and the folder; closing twice is harmless."""
        with self._lock:
            self._finalizer()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside happens at once or not at all; when this returns, it survives a killed process."""
        with self._lock, self._storage_errors():
            if self._depth == 0:
                self._db.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if self._depth == 0:
                    self._db.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                self._db.execute("COMMIT")

    def doc(self, kind: str, parent: str, name: str) -> Doc | None:
        """The document, or None."""
        with self.transaction():
            row = self._db.execute(
                "SELECT doc FROM item WHERE kind = ? AND parent = ? AND name = ?", (kind, parent, name)
            ).fetchone()
        return json.loads(row[0]) if row else None

    def body(self, kind: str, parent: str, name: str) -> bytes:
        """The body of an item that exists."""
        with self.transaction():
            row = self._db.execute(
                "SELECT body FROM item WHERE kind = ? AND parent = ? AND name = ?", (kind, parent, name)
            ).fetchone()
        return self._opened(kind, parent, name, row[0]) if kind in SEALED else bytes(row[0])

    def put(self, kind: str, parent: str, name: str, doc: Doc, body: bytes | None = None) -> None:
        """Create the item or replace its document; the body is replaced only when given."""
        text = json.dumps(doc)
        with self.transaction():
            if body is None and self.doc(kind, parent, name) is not None:
                self._db.execute(
                    "UPDATE item SET doc = ? WHERE kind = ? AND parent = ? AND name = ?", (text, kind, parent, name)
                )
                return
            stored = self._sealed(kind, parent, name, body or b"")
            self._db.execute(
                "INSERT INTO item (kind, parent, name, doc, body) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (kind, parent, name) DO UPDATE SET doc = excluded.doc, body = excluded.body",
                (kind, parent, name, text, stored),
            )

    def delete(self, kind: str, parent: str, name: str | None = None) -> None:
        """Remove one item, or every item of a parent."""
        with self.transaction():
            if name is None:
                self._db.execute("DELETE FROM item WHERE kind = ? AND parent = ?", (kind, parent))
            else:
                self._db.execute("DELETE FROM item WHERE kind = ? AND parent = ? AND name = ?", (kind, parent, name))

    def items(self, kind: str, parent: str = "") -> list[Item]:
        """All items of a parent, oldest first."""
        with self.transaction():
            rows = self._db.execute(
                "SELECT name, doc FROM item WHERE kind = ? AND parent = ? ORDER BY seq", (kind, parent)
            ).fetchall()
        return [Item(name, json.loads(doc)) for name, doc in rows]

    def count(self, kind: str, parent: str = "") -> int:
        """How many items a parent has."""
        with self.transaction():
            row = self._db.execute("SELECT count(*) FROM item WHERE kind = ? AND parent = ?", (kind, parent)).fetchone()
        return int(row[0])

    def page(self, kind: str, parent: str, start: str, limit: int) -> list[Item]:
        """Up to `limit` items from the name `start` on, in the byte order of their names."""
        with self.transaction():
            rows = self._db.execute(
                "SELECT name, doc FROM item WHERE kind = ? AND parent = ? AND name >= ? ORDER BY name LIMIT ?",
                (kind, parent, start, limit),
            ).fetchall()
        return [Item(name, json.loads(doc)) for name, doc in rows]

    def clear(self) -> None:
        """Forget everything except the check that the key file fits."""
        with self.transaction():
            self._db.execute("DELETE FROM item WHERE kind <> 'seal_check'")

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path or ":memory:", check_same_thread=False, isolation_level=None)

    def _prepare(self) -> None:
        with self._storage_errors():
            # WAL with NORMAL: a commit is in the operating system before we answer, so it outlives SIGKILL.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if verdict != "ok":
                raise StateError(f"The state file {self._path} is damaged; move it away to start afresh.")
            if version not in (0, _SCHEMA_VERSION):
                raise StateError(f"The state file {self._path} was written by another version of the emulator.")
            self._db.executescript(_SCHEMA + f"PRAGMA user_version = {_SCHEMA_VERSION};")
        if self._path:
            self._path.chmod(0o600)
        self._check_key()

    def _check_key(self) -> None:
        if self.doc("seal_check", "", "") is None:
            self.put("seal_check", "", "", {}, b"")
        self.body("seal_check", "", "")

    def _sealed(self, kind: str, parent: str, name: str, body: bytes) -> bytes:
        if kind not in SEALED:
            return body
        nonce = os.urandom(12)
        return nonce + self._seal.encrypt(nonce, body, _bound(kind, parent, name))

    def _opened(self, kind: str, parent: str, name: str, stored: bytes) -> bytes:
        try:
            return self._seal.decrypt(stored[:12], stored[12:], _bound(kind, parent, name))
        except InvalidTag:
            raise StateError(
                f"The state file {self._path} was not sealed with the key file beside it, or was altered."
            ) from None

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = self._path or "in memory"
            raise StateError(f"The state file {name} cannot be used ({error}).") from error


def _bound(kind: str, parent: str, name: str) -> bytes:
    """What a sealed body is tied to, so that swapping two rows is noticed."""
    return "\0".join((kind, parent, name)).encode()


def _release(db: sqlite3.Connection, held: int | None) -> None:
    db.close()
    if held is not None:
        os.close(held)


def _claim(folder: Path) -> int:
    """Create the folder, private, and take its lock; a killed process gives the lock back."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        held = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"The state folder {folder} cannot be used ({error.strerror}).") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        raise StateInUse(f"The state folder {folder} is in use by another emulator.") from None
    return held


def _key(folder: Path) -> bytes:
    """The sealing key, created together with a new state; never silently replaced for an old one."""
    path = folder / "key"
    if not path.exists():
        if (folder / "state.db").exists():
            raise StateError(f"The key file {path} is missing, so the state beside it cannot be opened.")
        _write_private(path, os.urandom(32))
    key = path.read_bytes()
    if len(key) != 32:
        raise StateError(f"The key file {path} is damaged: it must hold 32 bytes.")
    return key


def _write_private(path: Path, data: bytes) -> None:
    """Appear whole or not at all, readable by the owner only."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)
    draft.replace(path)
