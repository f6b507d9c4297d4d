"""A cooperative scheduler: real, synchronous code runs in greenlets, of which exactly one moves at a time.

Every I/O step of the code under test calls `step`; there the seeded schedule decides who goes on, and whether the
step fails or its process dies. The same seed gives the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenlet import greenlet

from tests.simulation.choices import Choices


class Killed(BaseException):
    """The process of this task is gone; nothing that it still tries has any effect."""


class Task:
    """One process (or function instance) with a clock of its own."""

    def __init__(self, name: str, run: Callable[[Task], Any], clock_offset_ms: int = 0) -> None:
        self.name, self.run, self.clock_offset_ms = name, run, clock_offset_ms
        self.dead = self.done = False
        self.asleep = 0  # steps of others before it goes on
        self.error: BaseException | None = None
        self.greenlet = greenlet(self._body)

    def _body(self, scheduler: Scheduler) -> None:
        try:
            self.run(self)
        except Killed:
            scheduler.trace.append(f"{self.name}: is dead")
        except BaseException as error:  # noqa: BLE001 - handed to whoever runs the schedule, when all have ended
            self.error = error
        self.done = True


class Scheduler:
    """Runs tasks to their ends. `choose(ready, current)` names the next one; it is asked at every step."""

    def __init__(self, choose: Callable[[list[Task], Task | None], Task]) -> None:
        self._choose = choose
        self._tasks: list[Task] = []
        self.current: Task | None = None
        self.trace: list[str] = []

    def run(self, tasks: list[Task]) -> None:
        """Returns when every task has ended. Raises what a task raised beyond the failures that it may see."""
        self._tasks = tasks
        while (task := self._next(self.current)) is not None:
            task.greenlet.switch(self)  # until a task has ended, this one or another
        for task in tasks:
            if task.error is not None:
                raise task.error

    def step(self, what: str) -> None:
        """A point at which others may move."""
        task = self.current
        assert task is not None
        if task.dead:
            raise Killed
        self.trace.append(f"{task.name}: {what}")
        following = self._next(task)
        if following is not None and following is not task:
            following.greenlet.switch(self)
        if task.dead:
            raise Killed

    def _next(self, current: Task | None) -> Task | None:
        ready = [task for task in self._tasks if not task.done]
        awake = []
        for task in ready:
            if task.asleep:
                task.asleep -= 1
            if not task.asleep:
                awake.append(task)
        ready = awake or ready
        self.current = self._choose(ready, current) if ready else None
        return self.current


def biased(choices: Choices, stay: float) -> Callable[[list[Task], Task | None], Task]:
    """Stays with the current task with this probability: long runs with few switches find other faults than many."""

    def choose(ready: list[Task], current: Task | None) -> Task:
        if len(ready) == 1:
            return ready[0]
        if current is not None and current in ready and choices.chance("stay", stay):
            return current
        return choices.of("next", ready)

    return choose


def in_order(order: list[str]) -> Callable[[list[Task], Task | None], Task]:
    """Follows a list of names, a step each; when it is used up, the first one that is left."""
    left = iter(order)

    def choose(ready: list[Task], _current: Task | None) -> Task:
        wanted = next(left, None)
        return next((task for task in ready if task.name == wanted), ready[0])

    return choose
