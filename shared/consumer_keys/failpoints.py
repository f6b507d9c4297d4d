"""Named points between steps that a crash may separate. Tests install a hook; otherwise a point is one comparison.

A hook is called with the point's name in the thread that reached it, and may kill the process, raise, or wait.
"""

from __future__ import annotations

from collections.abc import Callable

# What commits, by name: a change to keys, consumers or operators, and the housekeeping around publications and ticks.
COMMITS = (
    "change", "confirmation", "lease-claim", "lease-release", "reservation", "publication", "clean-up", "sync-note",
    "sync-report", "reseal", "root-rotation",
)  # fmt: skip
# What is written to the bucket. Objects are immutable; the pointer is what readers follow.
UPLOADS = ("base", "overlay", "pointer", "deletion")
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
    """Marks a point."""
    if _hook is not None:
        _hook(point)
