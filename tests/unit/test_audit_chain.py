"""The audit chain: whatever is done to its rows is found, and the first bad row is named."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from consumer_keys.audit_chain import GENESIS, Entry, Fault, Head, HeadError, entry_hash, first_fault, open_head
from consumer_keys.audit_chain import seal_head as seal

TAMPERS, ROWS = 10_000, 60
KEY, ENVIRONMENT = b"h" * 32, "production"
Row = tuple[Entry, Any]


class Log(NamedTuple):
    """Rows as a database returns them, its own count, and the heads that a bucket holds."""

    rows: list[Row]
    counted: tuple[int, bytes]
    heads: list[Head]

    def fault(self) -> Fault | None:
        return first_fault(self.rows, (0, GENESIS), self.heads, self.counted)


def chained(entries: list[Entry]) -> list[Row]:
    rows: list[Row] = []
    last = GENESIS
    for entry in entries:
        last = entry_hash(entry, last)
        rows.append((entry, last))
    return rows


def head_of(row: Row) -> Head:
    return Head(ENVIRONMENT, row[0].sequence, row[1], 1_800_000_000_000 + row[0].sequence, "v1")


def make_entry(sequence: int) -> Entry:
    state = None if sequence % 3 else '{"name":"名字"}'
    return Entry(
        sequence, 1_800_000_000_000 + sequence, f"operator-{sequence % 4}", "key.update", "default",
        f"secret-{sequence}", state, '{"name":""}', f"request-{sequence}", sequence,
    )  # fmt: skip


def make_log(count: int = ROWS) -> Log:
    rows = chained([make_entry(number) for number in range(1, count + 1)])
    return Log(
        rows, (count, rows[-1][1]), [head_of(row) for row in rows if row[0].sequence % 7 == 0 or row is rows[-1]]
    )


LOG = make_log()


def spoiled(value: Any, chance: random.Random) -> Any:
    """Something else than the value, often close to it."""
    if isinstance(value, int):
        return chance.choice([value + 1, -value, str(value), None, value + 2**40])
    if value is None:
        return chance.choice(["", "null", "None", "{}"])
    at = chance.randrange(len(value))
    return chance.choice([None, value + " ", value[:at], value[:at] + "\0" + value[at:], value.upper() + "x", b"x", 7])


def edit(log: Log, at: int, chance: random.Random) -> int:
    entry, found = log.rows[at]
    column = chance.choice(Entry._fields[1:])
    log.rows[at] = (entry._replace(**{column: spoiled(getattr(entry, column), chance)}), found)
    return at + 1


def move_content(log: Log, at: int, chance: random.Random) -> int:
    """Where one column ends and the next one begins is part of the content."""
    entry, found = log.rows[at]
    log.rows[at] = (entry._replace(gateway_id=entry.gateway_id[:-1], target=entry.gateway_id[-1] + entry.target), found)
    return at + 1


def edit_hash(log: Log, at: int, chance: random.Random) -> int:
    entry, found = log.rows[at]
    bit = chance.randrange(256)
    flipped = bytes(byte ^ (1 << bit % 8 if place == bit // 8 else 0) for place, byte in enumerate(found))
    log.rows[at] = (entry, chance.choice([flipped, None, b"", found.hex(), found[:31]]))
    return at + 1


def delete(log: Log, at: int, chance: random.Random) -> int:
    del log.rows[at : at + chance.randint(1, 5)]
    return at + 1


def insert(log: Log, at: int, chance: random.Random) -> int:
    """A row of one's own in the place of another, which moves on with all that follow."""
    entry = make_entry(at + 1)._replace(actor="somebody")
    log.rows.insert(at, (entry, entry_hash(entry, log.rows[at - 1][1] if at else GENESIS)))
    log.rows[at + 1 :] = [(e._replace(sequence=e.sequence + 1), found) for e, found in log.rows[at + 1 :]]
    return at + 1 if (at + 1) % 7 == 0 or at + 1 == ROWS else at + 2


def insert_before_the_first(log: Log, at: int, chance: random.Random) -> int:
    sequence = -chance.randint(0, 5)
    log.rows.insert(0, (make_entry(1)._replace(sequence=sequence), LOG.rows[0][1]))
    return sequence


def append(log: Log, at: int, chance: random.Random) -> int:
    entry = make_entry(ROWS + 1)
    log.rows.append((entry, entry_hash(entry, log.rows[-1][1])))
    return ROWS + 1


def swap_content(log: Log, at: int, chance: random.Random) -> int:
    other = chance.choice([number for number in range(ROWS) if number != at])
    one, two = log.rows[at], log.rows[other]
    log.rows[at] = (two[0]._replace(sequence=one[0].sequence), one[1])
    log.rows[other] = (one[0]._replace(sequence=two[0].sequence), two[1])
    return min(at, other) + 1


def swap_rows(log: Log, at: int, chance: random.Random) -> int:
    other = chance.choice([number for number in range(ROWS) if number != at])
    one, two = log.rows[at], log.rows[other]
    log.rows[at] = (two[0]._replace(sequence=one[0].sequence), two[1])
    log.rows[other] = (one[0]._replace(sequence=two[0].sequence), one[1])
    return min(at, other) + 1


def cut_tail(log: Log, at: int, chance: random.Random) -> int:
    del log.rows[at:]
    return at + 1


def next_head(sequence: int) -> int:
    return min(head.sequence for head in LOG.heads if head.sequence >= sequence)


def chain_anew(log: Log, at: int, chance: random.Random) -> int:
    """Everything in the database made to fit; only the heads are out of reach. The next one tells."""
    entry, _ = log.rows[at]
    entries = [row[0] for row in log.rows]
    entries[at] = entry._replace(actor="somebody else")
    log.rows[:] = chained(entries)
    return next_head(at + 1)


def cut_and_chain_anew(log: Log, at: int, chance: random.Random) -> int:
    """The tail gone, and as many other rows in its place."""
    entries = [row[0] for row in log.rows[:at]]
    entries += [make_entry(number)._replace(target="else") for number in range(at + 1, ROWS + 1)]
    log.rows[:] = chained(entries)
    return next_head(at + 1)


KINDS: list[Callable[[Log, int, random.Random], int]] = [
    edit, edit, edit, move_content, edit_hash, delete, insert, insert_before_the_first, append, swap_content, swap_rows,
    cut_tail, chain_anew, cut_and_chain_anew,
]  # fmt: skip
WITH_COUNT = {cut_tail, chain_anew, cut_and_chain_anew}


def tampered(seed: int) -> tuple[str, Log, int]:
    """Seeded, so that a failing one can be had again: what was done, the log, the row that must be named."""
    chance = random.Random(seed)
    kind = chance.choice(KINDS)
    log = Log(list(LOG.rows), LOG.counted, list(LOG.heads))
    first_bad = kind(log, chance.randrange(ROWS), chance)
    if kind in WITH_COUNT and log.rows:  # whoever can write rows can write the count of them too
        log = log._replace(counted=(log.rows[-1][0].sequence, log.rows[-1][1]))
    return kind.__name__, log, first_bad


def test_ten_thousand_tampers_are_all_found_and_the_first_bad_row_is_named() -> None:
    seen = set()
    for seed in range(TAMPERS):
        kind, log, first_bad = tampered(seed)
        fault = log.fault()
        assert fault is not None, (seed, kind)
        assert (fault.sequence, f"Row {first_bad} ") == (first_bad, fault.text[: len(f"Row {first_bad} ")]), (
            seed,
            kind,
        )
        seen.add(kind)
    assert seen == {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize("count", [1, 2, 7, 60, 500])
def test_a_log_that_nobody_touched_is_good_with_any_heads_of_it(count: int) -> None:
    log = make_log(count)
    for heads in ([], log.heads, [head_of(row) for row in log.rows], log.heads * 2):
        assert log._replace(heads=heads).fault() is None


def test_an_empty_log_is_good_and_an_emptied_one_is_not() -> None:
    assert first_fault([], (0, GENESIS), [], (0, GENESIS)) is None
    for heads, counted in (([], LOG.counted), (LOG.heads, (0, GENESIS)), (LOG.heads, LOG.counted)):
        fault = first_fault([], (0, GENESIS), heads, counted)
        assert fault is not None
        assert fault.sequence == 1


@pytest.mark.parametrize("column", Entry._fields)
def test_every_column_counts(column: str) -> None:
    entry = make_entry(3)
    for seed in range(30):
        other = entry._replace(**{column: spoiled(getattr(entry, column), random.Random(seed))})
        assert entry_hash(other, GENESIS) != entry_hash(entry, GENESIS), other
    assert entry_hash(entry, GENESIS) != entry_hash(entry, b"\x01" + GENESIS[1:])


def test_the_hash_is_this_one_for_ever() -> None:
    """A chain that is in a database must be checkable by every later version."""
    entry = Entry(1, 2, "ä", "key.create", "default", "secret-1", None, '{"a":"\U0001f511"}', "", 3)
    assert entry_hash(entry, GENESIS).hex() == "a1e68242ac1d66c8f00cdc20ab6e46799a4a2b63cc70fa0c1bd9b66b090ef73c"


# Heads

HEAD = head_of(LOG.rows[6])
SEALED = seal(HEAD, KEY)


def test_a_head_comes_back_as_it_was_signed() -> None:
    assert open_head(SEALED, {"v0": b"x" * 32, "v1": KEY}.get, ENVIRONMENT) == HEAD


def test_no_bit_of_a_head_can_be_changed_and_no_byte_removed_or_added() -> None:
    for bit in range(8 * len(SEALED)):
        flipped = bytearray(SEALED)
        flipped[bit // 8] ^= 1 << bit % 8
        with suppress(HeadError):  # or it names a root secret that nobody has
            assert open_head(bytes(flipped), {"v1": KEY}.get, ENVIRONMENT) is None, bit
    for length in range(len(SEALED)):
        with pytest.raises(HeadError):
            open_head(SEALED[:length], {"v1": KEY}.get, ENVIRONMENT)
    for data in (SEALED + b" ", b" " + SEALED, SEALED * 2, b"", b"null", b"[" * 5000, b'{"head":1}'):
        with pytest.raises(HeadError):
            open_head(data, {"v1": KEY}.get, ENVIRONMENT)


def test_a_head_of_another_deployment_is_refused() -> None:
    with pytest.raises(HeadError, match="root secret"):
        open_head(seal(HEAD, b"k" * 32), {"v1": KEY}.get, ENVIRONMENT)
    with pytest.raises(HeadError, match="environment"):
        open_head(SEALED, {"v1": KEY}.get, "staging")


def test_a_head_under_a_root_secret_that_is_gone_proves_nothing_and_is_no_error() -> None:
    assert open_head(SEALED, {"v2": KEY}.get, ENVIRONMENT) is None
