"""Named points between steps that a crash may separate. Tests install a hook; otherwise a point is one comparison.

A hook is called with the point's name in the thread that reached it, and may kill the process, raise, or wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

# What commits, by name: a change to keys, consumers or operators, and the housekeeping around publications and ticks.
Commit = Literal[
    "change", "confirmation", "lease-claim", "lease-release", "reservation", "publication", "clean-up", "sync-note",
    "sync-report", "reseal", "root-rotation",
]  # fmt: skip
# What is written to the bucket. Objects are immutable; the pointer is what readers follow; a head is the audit log's.
Upload = Literal["base", "overlay", "pointer", "deletion", "head"]
COMMITS: tuple[str, ...] = get_args(Commit)
UPLOADS: tuple[str, ...] = get_args(Upload)
# `change.before-commit`, `change.after-commit`, ... `pointer.before-write`, `pointer.after-write`, ...
POINTS = frozenset(
    {f"{name}.{when}-commit" for name in COMMITS for when in ("before", "after")}
    | {f"{name}.{when}-write" for name in UPLOADS for when in ("before", "after")}
)

_hook: Callable[[str], None] | None = None


def install(hook: Callable[[str], None] | None) -> None:
    """Calls `hook` at every point from now on; None takes it away."""
    global _hook  # noqa: PLW0603 - one process, one hook
    _hook = hook


def reach(point: str) -> None:
    """Marks a point. A hook is never called for one without a name above: LookupError is raised instead."""
    if _hook is None:
        return
    if point not in POINTS:
        raise LookupError(f"{point} is not in the list of points")
    _hook(point)
