"""Every choice of a history, under a name: drawn from a seed, or as they were made in a history that was recorded.

A seed means something else as soon as a step or a choice is added; a record says what was chosen, so it goes on
meaning the same. Choices of different names do not shift each other, and what a record does not know is the first
option, or no.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")


class Choices:
    """Drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random
        self.made: list[tuple[str, Any]] = []

    def of(self, what: str, options: Sequence[_T]) -> _T:
        """One of these: texts, numbers, None, or things with a name."""
        chosen = options[int(self.random() * len(options))]
        self.made.append((what, chosen))
        return chosen

    def below(self, what: str, limit: int) -> int:
        """A number from 0 on."""
        chosen = int(self.random() * limit)
        self.made.append((what, chosen))
        return chosen

    def chance(self, what: str, probability: float) -> bool:
        """Yes or no."""
        chosen = self.random() < probability
        self.made.append((what, int(chosen)))
        return chosen

    def record(self) -> str:
        """What was chosen, as JSON: a list for each name."""
        by_name: dict[str, list[Any]] = {}
        for what, chosen in self.made:
            by_name.setdefault(what, []).append(_plain(chosen))
        return json.dumps(by_name, separators=(",", ":"))


class Recorded(Choices):
    """As `record` wrote them down."""

    def __init__(self, record: str) -> None:
        super().__init__(0)
        self._left = {what: deque(chosen) for what, chosen in json.loads(record).items()}

    def of(self, what: str, options: Sequence[_T]) -> _T:
        wanted = self._next(what, None)
        chosen = next((option for option in options if _plain(option) == wanted), options[0])
        self.made.append((what, chosen))
        return chosen

    def below(self, what: str, limit: int) -> int:
        chosen = min(int(self._next(what, 0)), limit - 1)
        self.made.append((what, chosen))
        return chosen

    def chance(self, what: str, probability: float) -> bool:
        chosen = bool(self._next(what, 0))
        self.made.append((what, int(chosen)))
        return chosen

    def _next(self, what: str, otherwise: Any) -> Any:
        left = self._left.get(what)
        return left.popleft() if left else otherwise


def _plain(chosen: Any) -> Any:
    return getattr(chosen, "name", chosen)
