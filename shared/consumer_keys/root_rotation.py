"""Rotation of the root secret without one wrong denial: begin, backfill, and finish when every reader has moved.

At most two versions are alive. From `begin` on every write makes both digests, whichever function makes it, since the
database says which versions are alive; `backfill` adds what was there before. Everything may be stopped at any point
and begun again: what is to be done is read from the database each time, and each batch is one transaction.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from consumer_keys.errors import CloudFailure, Gone, SealBroken, Unavailable
from consumer_keys.model import timestamp
from consumer_keys.operators import system_caller
from consumer_keys.roots import ROOT_BYTES
from consumer_keys.secret import Secret
from consumer_keys.snapshot import ANY_TIME_MS, POINTER, SnapshotError, open_manifest

if TYPE_CHECKING:
    from consumer_keys.roots import Digests, Roots
    from consumer_keys.store.change import Change
    from consumer_keys.store.publication import Housekeeping, SnapshotReads
    from consumer_keys.store.rotation import BareValue, RootState
    from consumer_keys.wiring import Services

_CALLER = system_caller("ckeys", "")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
UNREADABLE_LISTED_MAX = 20
_START: bytes | None = b""  # of a walk through all values, by digest


class RotationRefused(Exception):  # noqa: N818 - a guard that held
    """This step must not be taken now; the text says why. Nothing was changed."""

    safe_to_log = True


def begin(app: Services, wanted: str | None) -> dict[str, Any]:
    """Makes the coming version of the root secret, which nobody sees, and lets every write count for both.

    A version that is in SSM already, since an earlier `begin` died, is taken. Raises RotationRefused, Unavailable.
    """
    state = _state(app)
    present = state.version or app.settings.root_secret_version
    if state.coming is not None:
        raise RotationRefused(f"Two versions are alive already, {present} and {state.coming}; finish that first.")
    if not state.published:
        raise RotationRefused("The last rotation is not published yet; run `ckeys publish` first.")
    coming = wanted or _following(present)
    if not _VERSION.fullmatch(coming):
        raise RotationRefused("A version may have 63 letters, digits and _ . - and begins with a letter or digit.")
    _check_present(app, present)
    made = _make(app, present, coming)

    def work(db: Change) -> None:
        if db.root_state() != state:
            raise RotationRefused("Somebody else rotates the root secret at the same time; look at the status.")
        db.set_root(root_version=present, root_coming=coming, root_complete=0)
        db.audit("root.begin", "", coming, None, {"present": present, "coming": coming})

    app.change(_CALLER, work)
    return {"made": made, **status(app)}


def _following(present: str) -> str:
    """`v8` after `v7`."""
    match = re.fullmatch(r"(.*?)([0-9]{1,9})", present)
    if match is None:
        raise RotationRefused(f"No version follows from {present}; name one.")
    return f"{match[1]}{int(match[2]) + 1}"


def _check_present(app: Services, present: str) -> None:
    """The version that the settings or the database name must be the one that the snapshot is signed by."""
    try:
        key = app.root_keys(present).manifest_key
    except Gone:
        raise RotationRefused(f"There is no version {present} of the root secret.") from None
    data = app.bucket.get(app.settings.snapshot_prefix + POINTER)
    if data is None:
        return
    try:
        open_manifest(data, key, environment=app.settings.environment, version_min=0, now_ms=ANY_TIME_MS)
    except SnapshotError as error:
        raise RotationRefused(f"The version {present} is not the deployment's: {error}.") from None


def _make(app: Services, present: str, coming: str) -> bool:
    """Whether the version had to be made."""
    finished = app.store.audit_log(lambda log: log.page("", {"target": coming, "action": "root.finish"}, 1, None))
    if finished.items or coming == present:
        raise RotationRefused(f"The version {coming} was in force already; a rotation needs a new one.")
    try:
        there = app.root_keys(coming)
    except Gone as gone:
        if not gone.cloud_code.startswith("ResourceNotFound"):
            raise
        app.ssm.add_version(app.settings.root_secret_name, coming, os.urandom(ROOT_BYTES))
        app.root_keys(coming)
        return True
    if there.lookup_key == app.root_keys(present).lookup_key:
        raise RotationRefused(f"The versions {present} and {coming} hold the same secret.")
    return False


def status(app: Services) -> dict[str, Any]:
    """What is alive, what lacks its coming digest, and what comes next. No value, no digest."""
    now_ms = app.now_ms()
    state, (lasting, ending, latest), secrets = app.store.snapshot(
        lambda db: (db.root_state(), db.bare_counts(now_ms), len(db.bare_secrets(now_ms)))
    )
    present, coming = state.version or app.settings.root_secret_version, state.coming
    report = {"present": present, "coming": coming}
    if coming is None:
        waits = f"One version is alive{'' if state.published else '; run `ckeys publish`'}."
        return {**report, "phase": "none" if state.published else "unpublished", "next": waits}
    missing = {"values": lasting, "ending_values": ending, "operators_secrets": secrets}
    until = None if latest is None else timestamp(latest)
    if any(missing.values()):
        phase, then = "incomplete", "run `ckeys rotate-root backfill`"
    elif not state.complete:
        phase, then = "incomplete", "run `ckeys rotate-root backfill`, which has only to say that nothing is missing"
    elif not state.published:
        phase, then = "unpublished", "run `ckeys publish`, or wait for the timer's next tick"
    else:
        phase = "ready"
        then = (
            f"deploy every validator with ROOT_SECRET_VERSION={coming}; when none runs with {present} any longer, run"
            " `ckeys rotate-root finish --readers-moved`"
        )
    return {**report, "phase": phase, "missing": missing, "former_contents_end": until, "next": then}


def backfill(
    app: Services, batch: int, *, pause: Callable[[float], None], progress: Callable[[int], None]
) -> dict[str, Any]:
    """Gives every value and secret its coming digest; when none lacks it, publishes. Raises Unavailable.

    `unreadable` names owners whose value does not open, or is not what the credential holds now: former content ends by
    itself, a credential must become readable, a key may be deleted. Until then the rotation does not go on.
    """
    coming = _coming(app)
    readings = _Readings(app, pause)
    done, after = 0, _START
    while after is not None:
        rows, after = app.store.snapshot(partial(_bare, app=app, after=after, batch=batch))
        done += _complete(app, coming, readings, rows)
        progress(done)
    done += _complete(app, coming, readings, app.store.snapshot(lambda db: db.bare_secrets(app.now_ms())))
    app.change(_CALLER, partial(_note_complete, coming=coming))
    if not _state(app).published:
        app.publisher.publish_base()
    unreadable = sorted(readings.unreadable)
    return {
        "completed": done, "unreadable": len(unreadable), "unreadable_owners": unreadable[:UNREADABLE_LISTED_MAX],
        **status(app),
    }  # fmt: skip


def _bare(db: SnapshotReads, *, app: Services, after: bytes, batch: int) -> tuple[list[BareValue], bytes | None]:
    return db.bare_values(app.now_ms(), after, batch)


def _complete(app: Services, coming: str, readings: _Readings, rows: list[BareValue]) -> int:
    found = [(row, digest) for row in rows if (digest := readings.coming_digest(row)) is not None]
    if found:
        app.store.housekeeping("root-rotation", lambda db: db.complete(coming, found))
    return len(found)


def _note_complete(db: Change, coming: str) -> None:
    """From here on a base must hold every coming digest; changes go on to write both."""
    state = db.root_state()
    if state.coming == coming and not state.complete and _is_complete(db):
        db.set_root(root_complete=db.revision, base_floor=db.revision)
        db.audit("root.complete", "", coming, None, {"coming": coming})


def _is_complete(db: Change) -> bool:
    return db.bare_counts(db.now_ms)[:2] == (0, 0) and not db.bare_secrets(db.now_ms)


class _Readings:
    """Values as they are in clear for a moment: opened, or read from SSM at the pace of the timer, each once."""

    def __init__(self, app: Services, pause: Callable[[float], None]) -> None:
        self._app, self._pause = app, pause
        self._roots: Roots = app.read(app.roots)
        self._contents: dict[tuple[str, str], Secret | None] = {}
        self.unreadable: set[str] = set()

    def coming_digest(self, row: BareValue) -> bytes | None:
        """The digest under the coming version; None, and its owner noted, when the value cannot be had."""
        value = self._value(row)
        digests = None if value is None else self._digests(row, value)
        if digests is None or digests.present != row.digest:
            self.unreadable.add(row.owner_id)
            return None
        return digests.coming

    def _digests(self, row: BareValue, value: Secret) -> Digests:
        if row.table == "key_values":
            return self._roots.lookup(row.gateway_id, value)
        return self._roots.token(value)

    def _value(self, row: BareValue) -> Secret | None:
        if row.sealed is None:
            return None if row.credential is None else self._content(row.credential)
        app = self._app
        try:
            if row.table == "key_values":
                return app.key_vault.open(app.place_of_key(row.gateway_id, row.owner_id), row.sealed)
            return app.operator_vault.open(app.place_of_operator(row.owner_id), row.sealed)
        except SealBroken:
            return None

    def _content(self, credential: tuple[str, str]) -> Secret | None:
        if credential not in self._contents:
            self._pause(1 / self._app.settings.ssm_requests_per_second)
            try:
                self._contents[credential] = self._app.ssm.secret_value(*credential)
            except Unavailable as failure:
                if failure.passing:
                    raise
                self._contents[credential] = None
            except CloudFailure:
                self._contents[credential] = None
        return self._contents[credential]


def finish(app: Services, batch: int, *, readers_moved: bool, progress: Callable[[int], None]) -> dict[str, Any]:
    """Ends the former version, once the caller has seen to it that no validator runs with it; then publishes.

    Raises RotationRefused while anything lacks its coming digest or the snapshot does not hold all of them.
    """
    coming, report = _coming(app), status(app)
    former = report["present"]
    if report["phase"] != "ready":
        raise RotationRefused(f"The version {coming} is not ready: {report['next']}.")
    if not readers_moved:
        raise RotationRefused(f"First {report['next']}.")
    moved = 0
    while True:
        after = _START
        while after is not None:
            digests, after = app.store.snapshot(partial(_unmoved, after=after, batch=batch))
            if digests:
                moved += app.store.housekeeping("root-rotation", partial(_move, coming, digests))
                progress(moved)
        if app.change(_CALLER, partial(_end_former, coming=coming, former=former, batch=batch)):
            break
    if not _state(app).published:
        app.publisher.publish_base()
    until = "and no backup of the database from before is needed any longer, delete it in SSM"
    return {**status(app), "former": former, "next": f"When {former} is nobody's ROOT_SECRET_VERSION, {until}."}


def _unmoved(db: SnapshotReads, *, after: bytes, batch: int) -> tuple[list[bytes], bytes | None]:
    return db.unmoved_values(after, batch)


def _move(coming: str, digests: list[bytes], db: Housekeeping) -> int:
    return db.move_values(coming, digests)


def _end_former(db: Change, coming: str, former: str, batch: int) -> bool:
    """False when more than a batch of values were written since the last look. Raises RotationRefused.

    Up to a batch are moved here, under the lock: others who never stop writing must not keep it from its end.
    """
    state = db.root_state()
    if state.coming != coming:
        return True  # somebody else has finished it
    if not _is_complete(db) or not state.complete or not state.published:
        # From now on the snapshot is for the coming version's readers, whichever base it is built upon.
        raise RotationRefused(f"Something lacks its digest under {coming} now; run `ckeys rotate-root backfill` again.")
    if not db.move_late(coming, batch):
        return False
    db.move_the_rest()
    db.set_root(
        root_version=coming, root_coming=None, root_generation=state.generation + 1, root_complete=0,
        base_floor=db.revision,
    )  # fmt: skip
    db.audit("root.finish", "", former, None, {"former": former, "present": coming})
    return True


def _state(app: Services) -> RootState:
    return app.store.snapshot(lambda db: db.root_state())


def _coming(app: Services) -> str:
    coming = _state(app).coming
    if coming is None:
        raise RotationRefused("No rotation has been begun; one version of the root secret is alive.")
    return coming
