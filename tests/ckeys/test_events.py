"""Events from files, code from folders, and timers that fire."""

import io
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ckeys.cron import Cron
from ckeys.events import Context, Event, EventError, Handler, invoke, make_context, read_event
from ckeys.front import LoadError, TimerLoop, load_handlers
from ckeys.template import Function, Template, Timer


def function(name: str, *timers: Timer, handler: str = "index.main_handler") -> Function:
    return Function(name, handler, f"{name}/", "Python3.10", 256, 9, {}, "role", "", (), timers, False)


def template(*functions: Function) -> Template:
    return Template("space", functions)


# Events and invocation.


def test_an_event_file_is_read_as_its_object(tmp_path: Path) -> None:
    path = tmp_path / "event.json"
    path.write_text('{"body": "中"}', encoding="utf-8")
    assert read_event(path) == {"body": "中"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no event file"),
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "holds no JSON object"),
        (b"\xff", "is not UTF-8 text"),
    ],
)
def test_a_bad_event_file_is_told_in_one_sentence(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "event.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EventError) as caught:
        read_event(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_event_file(tmp_path: Path) -> None:
    with pytest.raises(EventError, match="cannot be read: Is a directory"):
        read_event(tmp_path)


def test_a_context_carries_the_function_s_limits_and_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENCENTCLOUD_REGION", "ap-shanghai")
    monkeypatch.setenv("TENCENTCLOUD_SECRETKEY", "hidden")
    context = make_context(function("show"), "request-1")
    assert (context["function_name"], context["request_id"]) == ("show", "request-1")
    assert (context["memory_limit_in_mb"], context["time_limit_in_ms"]) == (256, 9000)
    assert context["tencentcloud_region"] == "ap-shanghai"
    assert "hidden" not in json.dumps(context)


def test_an_invocation_returns_what_the_platform_would_have_carried() -> None:
    assert invoke(function("show"), lambda event, context: {"a": (1, event)}, {"b": 2}) == {"a": [1, {"b": 2}]}


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, float("nan"), datetime(2026, 1, 1, tzinfo=timezone.utc)])
def test_a_result_that_is_no_json_fails_as_it_would_on_the_platform(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        invoke(function("show"), lambda event, context: value, {})


# Loading.


def write_function(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir()
    (folder / name / "index.py").write_text(code, encoding="utf-8")


def test_every_function_is_loaded_as_a_module_of_its_own(tmp_path: Path) -> None:
    for name in ("load_one", "load_two"):
        write_function(tmp_path, name, f"def main_handler(event, context):\n    return [{name!r}, __name__]\n")
    loaded = load_handlers(tmp_path, template(function("load_one"), function("load_two")))
    answers = [handler({}, {}) for handler in loaded.values()]
    assert [name for name, _ in answers] == list(loaded) == ["load_one", "load_two"]
    assert len({module for _, module in answers}) == 2
    assert "index" not in sys.modules


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module", "The function load_bad cannot be imported: ModuleNotFoundError"),
        ("def main_handler(", "The function load_bad cannot be imported: SyntaxError"),
        ("", "The function load_bad has no handler index.main_handler."),
        ("main_handler = 7", "The function load_bad has no handler index.main_handler."),
    ],
)
def test_code_that_cannot_be_loaded_is_told_with_the_function_s_name(tmp_path: Path, code: str, message: str) -> None:
    write_function(tmp_path, "load_bad", code)
    with pytest.raises(LoadError) as caught:
        load_handlers(tmp_path, template(function("load_bad")))
    assert str(caught.value).startswith(message)


def test_a_function_without_code_is_told_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="The function load_none has no file"):
        load_handlers(tmp_path, template(function("load_none")))


# Timers.


class Shifted:
    """The real clock, moved to shortly before a moment.

    It stands still for two readings (the creation of a loop, and the first due time), so that no machine is so slow
    that the moment is over before the loop has looked.
    """

    def __init__(self, moment: str) -> None:
        self.standing = 2
        self.move(moment)

    def move(self, moment: str) -> None:
        self.start = datetime.fromisoformat(moment).replace(tzinfo=timezone.utc) - timedelta(milliseconds=20)
        self.started = time.monotonic()

    def __call__(self) -> datetime:
        if self.standing:
            self.standing -= 1
            self.started = time.monotonic()
        return self.start + timedelta(seconds=time.monotonic() - self.started)


def timer(cron: str, *, enabled: bool = True) -> Timer:
    return Timer("tick", Cron.parse(cron), enabled, "wake up", "work")


@contextmanager
def running(cron: str, handler: Handler, clock: Shifted, log: io.StringIO | None = None) -> Iterator[TimerLoop]:
    loop = TimerLoop(template(function("work", timer(cron))), {"work": handler}, clock, log or io.StringIO())
    loop.start()
    try:
        yield loop
    finally:
        loop.stop()


def test_a_timer_fires_at_its_time_in_utc_plus_8_with_the_platform_s_event() -> None:
    clock = Shifted("2026-03-01T04:00:00")
    calls: list[tuple[datetime, Event, Context]] = []
    fired = threading.Event()

    def work(event: Event, context: Context) -> None:
        calls.append((clock(), event, context))
        fired.set()

    with running("0 0 12 * * * *", work, clock):
        assert fired.wait(10)
    ((moment, event, context),) = calls
    assert datetime(2026, 3, 1, 4, tzinfo=timezone.utc) <= moment < datetime(2026, 3, 1, 4, 1, tzinfo=timezone.utc)
    assert event == {"Type": "Timer", "TriggerName": "tick", "Time": "2026-03-01T03:59:59Z", "Message": "wake up"}
    assert (context["function_name"], context["namespace"]) == ("work", "space")


def test_a_handler_that_raises_or_exits_is_logged_and_the_next_tick_comes() -> None:
    again = threading.Event()
    faults: list[BaseException] = [SystemExit(1), ValueError("hidden")]
    clock = Shifted("2026-03-01T04:00:00")

    def work(event: Event, context: Context) -> str:
        if faults:
            clock.move(f"2026-03-01T05:0{9 - len(faults)}:00")
            raise faults.pop(0)
        again.set()
        return "fine"

    log = io.StringIO()
    with running("0 * * * * * *", work, clock, log):
        assert again.wait(10)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line.get("error", "").split(" ")[0] for line in lines[:3]] == ["SystemExit", "ValueError", ""]
    assert lines[1].keys() == {"time", "event", "timer", "function", "request_id", "duration_ms", "error"}
    assert "hidden" not in log.getvalue()


def test_ticks_of_a_timer_run_one_at_a_time_and_a_run_by_hand_waits() -> None:
    entered, leave = threading.Event(), threading.Event()
    active: list[str] = []

    def work(event: Event, context: Context) -> str:
        assert not active
        active.append("x")
        entered.set()
        assert leave.wait(10)
        active.pop()
        return "done"

    results: list[Any] = []
    with running("0 * * * * * *", work, Shifted("2026-03-01T04:00:00")) as loop:
        assert entered.wait(10)
        by_hand = threading.Thread(target=lambda: results.append(loop.run_now("tick")))
        by_hand.start()
        leave.set()
        by_hand.join(10)
    assert results == ["done"]


def test_stopping_waits_for_the_running_tick() -> None:
    entered, leave, finished = threading.Event(), threading.Event(), threading.Event()

    def work(event: Event, context: Context) -> None:
        entered.set()
        assert leave.wait(10)
        finished.set()

    with running("0 * * * * * *", work, Shifted("2026-03-01T04:00:00")) as loop:
        assert entered.wait(10)
        stopper = threading.Thread(target=loop.stop)
        stopper.start()
        loop.stop(timeout_seconds=0)  # gives up at once, as asked
        assert not finished.is_set()
        leave.set()
        stopper.join()
        assert finished.is_set()


def test_a_run_by_hand_returns_the_result_or_raises_and_needs_no_running_loop() -> None:
    answers: list[Any] = [{"polled": 3}]
    disabled = template(function("work", timer("0 0 0 1 1 * *", enabled=False)))
    loop = TimerLoop(disabled, {"work": lambda event, context: answers.pop()}, Shifted("2026-03-01"), io.StringIO())
    (((method, path), route),) = loop.local_routes().items()
    assert (method, path, route({})) == ("POST", "/_local/timers/tick", {"polled": 3})
    with pytest.raises(IndexError):
        loop.run_now("tick")
    with pytest.raises(LookupError, match="no timer tock"):
        loop.run_now("tock")


def test_a_disabled_timer_gets_no_thread_and_stopping_leaves_none() -> None:
    before = set(threading.enumerate())
    disabled = template(function("work", timer("* * * * * * *", enabled=False)))
    loop = TimerLoop(disabled, {}, Shifted("2026-03-01"), io.StringIO())
    loop.start()
    assert set(threading.enumerate()) == before
    loop.stop()
    # A timer that is due in years does not delay the stop.
    with running("0 0 0 1 1 * 2098", lambda event, context: None, Shifted("2026-03-01")):
        assert len(threading.enumerate()) == len(before) + 1
    assert set(threading.enumerate()) == before


def test_a_timer_without_any_time_left_ends_by_itself() -> None:
    with running("0 0 0 1 1 * 2001", lambda event, context: None, Shifted("2026-03-01")) as loop:
        loop.stop()
