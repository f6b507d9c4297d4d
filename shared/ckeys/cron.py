"""The timer expressions of SCF (Tencent document 583/9708): parsing, and the next fire time.

Seven fields, `second minute hour day month week year`, or the five-field legacy form `minute hour day month week`,
which the platform stores as `0 <five fields> *`. Only documented forms are accepted: a local parser that takes more
than the platform does would move the error from the desk to the deployment.
"""

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from typing import Literal, NamedTuple

MONTH_NAMES = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEK_NAMES = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
PLATFORM_ZONE = timezone(timedelta(hours=8), "UTC+8")
"""The zone in which the platform reads an expression. The function's own clock is UTC."""


class CronError(ValueError):
    """The expression is malformed; the message names the field and the fault."""


class DayRule(NamedTuple):
    """One way to pick days of a month; the meaning of the numbers depends on the kind."""

    kind: Literal["day", "last_day", "workday", "last_workday", "weekday", "last_weekday", "nth_weekday"]
    number: int = 0
    nth: int = 0


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()  # the first name stands for `low`


_SECOND = _Field("second", 0, 59)
_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day", 1, 31)
_MONTH = _Field("month", 1, 12, MONTH_NAMES)
_WEEK = _Field("week", 0, 6, WEEK_NAMES)
_YEAR = _Field("year", 1970, 2099)


@dataclass(frozen=True)
class Cron:
    """A parsed expression. `text` is its seven-field form; `days` or `week` is None where nothing was specified."""

    text: str
    seconds: tuple[int, ...] = field(repr=False)
    minutes: tuple[int, ...] = field(repr=False)
    hours: tuple[int, ...] = field(repr=False)
    days: tuple[DayRule, ...] | None = field(repr=False)
    months: tuple[int, ...] = field(repr=False)
    week: tuple[DayRule, ...] | None = field(repr=False)
    years: tuple[int, ...] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "Cron":
        """Read the seven-field or the five-field form; CronError if it is neither."""
        # Only the space separates: a tab or a line break stays inside a field, which then is malformed.
        parts = [part for part in text.split(" ") if part]
        if len(parts) == 5:
            parts = ["0", *parts, "*"]
        if len(parts) != 7:
            raise CronError(
                f"{len(parts)} fields: a timer needs 7 (second minute hour day month week year), or 5 (minute to week)"
            )
        second, minute, hour, day, month, week, year = parts
        return cls(
            text=" ".join(parts),
            seconds=_numbers(_SECOND, second),
            minutes=_numbers(_MINUTE, minute),
            hours=_numbers(_HOUR, hour),
            days=_day_rules(_DAY, day),
            months=_numbers(_MONTH, month),
            week=_day_rules(_WEEK, week),
            years=_numbers(_YEAR, year),
        )

    def next_after(self, moment: datetime) -> datetime | None:
        """The first fire time strictly after `moment`, or None if none is left up to the end of 2099.

        The fields are read at the UTC offset that `moment` carries; the platform's zone has no summer time, so there
        are no rules for it here. The cost is bounded by the months that the year and month fields allow.
        """
        offset = moment.utcoffset()
        if offset is None:
            raise ValueError("next_after needs a datetime with a time zone")
        if moment.year > _YEAR.high:
            return None
        start = moment.replace(tzinfo=None, microsecond=0) + timedelta(seconds=1)
        for day in self._days_from(start.date()):
            earliest = (start.hour, start.minute, start.second) if day == start.date() else (0, 0, 0)
            clock = self._time_from(*earliest)
            if clock is not None:
                return datetime(day.year, day.month, day.day, *clock, tzinfo=timezone(offset))
        return None

    def _days_from(self, first: date) -> Iterator[date]:
        for year in self.years:
            for month in self.months:
                if (year, month) >= (first.year, first.month):
                    days = (date(year, month, day) for day in sorted(self._days_of(year, month)))
                    yield from (day for day in days if day >= first)

    def _days_of(self, year: int, month: int) -> set[int]:
        if self.days is None and self.week is None:
            return set(range(1, calendar.monthrange(year, month)[1] + 1))
        # Both specified means that either fires (Tencent document 583/9708); a field left open adds nothing then.
        rules = (*(self.days or ()), *(self.week or ()))
        return {day for rule in rules for day in _matching_days(rule, year, month)}

    def _time_from(self, hour: int, minute: int, second: int) -> tuple[int, int, int] | None:
        for h in (h for h in self.hours if h >= hour):
            for m in (m for m in self.minutes if h > hour or m >= minute):
                for s in (s for s in self.seconds if (h, m) > (hour, minute) or s >= second):
                    return h, m, s
        return None


def _matching_days(rule: DayRule, year: int, month: int) -> list[int]:
    first_weekday, length = calendar.monthrange(year, month)
    sunday_first = (first_weekday + 1) % 7  # Python counts from Monday, the platform from Sunday
    if rule.kind == "day":
        return [rule.number] if rule.number <= length else []
    if rule.kind == "last_day":
        return [length]
    if rule.kind == "workday":
        return [_nearest_workday(rule.number, sunday_first, length)] if rule.number <= length else []
    if rule.kind == "last_workday":
        weekday = (sunday_first + length - 1) % 7
        return [length - {0: 2, 6: 1}.get(weekday, 0)]
    days = list(range(1 + (rule.number - sunday_first) % 7, length + 1, 7))
    if rule.kind == "last_weekday":
        return days[-1:]
    return days[rule.nth - 1 : rule.nth] if rule.kind == "nth_weekday" else days


def _nearest_workday(day: int, sunday_first: int, length: int) -> int:
    """Monday to Friday nearest to `day` without leaving the month, as in Quartz, whose notation this is."""
    weekday = (sunday_first + day - 1) % 7
    if weekday == 6:
        return day - 1 if day > 1 else day + 2
    if weekday == 0:
        return day + 1 if day < length else day - 2
    return day


def _numbers(spec: _Field, text: str) -> tuple[int, ...]:
    if text == "*":
        return tuple(range(spec.low, spec.high + 1))
    return tuple(sorted({number for item in text.split(",") for number in _plain(spec, item)}))


def _day_rules(spec: _Field, text: str) -> tuple[DayRule, ...] | None:
    """None for `*` and `?`, which both mean "not specified": `0 15 10 * * MON-FRI *` is weekdays only."""
    if text in ("*", "?"):
        return None
    return tuple(sorted({rule for item in text.split(",") for rule in _day_rule(spec, item)}))


def _day_rule(spec: _Field, item: str) -> list[DayRule]:
    if spec is _DAY:
        if item == "L":
            return [DayRule("last_day")]
        if item == "LW":
            return [DayRule("last_workday")]
        if item.endswith("W"):
            return [DayRule("workday", _number(spec, item[:-1]))]
        return [DayRule("day", number) for number in _plain(spec, item)]
    if item.endswith("L") and item not in spec.names:
        return [DayRule("last_weekday", _digits(spec, item[:-1], "a number from 0 to 6 before L"))]
    if "#" in item:
        weekday, _, nth = item.partition("#")
        number = _digits(spec, weekday, "a number from 0 to 6 before #")
        if re.fullmatch("[1-5]", nth) is None:
            raise _fault(spec, f"'{item}' needs a number from 1 to 5 after #")
        return [DayRule("nth_weekday", number, int(nth))]
    return [DayRule("weekday", number) for number in _plain(spec, item)]


def _plain(spec: _Field, item: str) -> range:
    """`a`, `a-b`, `a/n` or `*/n`. A range with a step is not documented, so it is refused."""
    if item in ("*", "?"):
        raise _fault(
            spec, f"'{item}' cannot be part of a list" if item == "*" else "'?' belongs to day and week, alone"
        )
    start, slash, step = item.partition("/")
    if slash:
        if "-" in start:
            raise _fault(spec, f"'{item}' gives a range a step, which the platform does not document")
        span = spec.high - spec.low + 1
        if re.fullmatch("[0-9]{1,3}", step) is None or not 1 <= int(step) <= span:
            raise _fault(spec, f"'{item}' needs a step from 1 to {span}")
        return range(spec.low if start == "*" else _number(spec, start), spec.high + 1, int(step))
    low, dash, high = item.partition("-")
    first = _number(spec, low)
    last = _number(spec, high) if dash else first
    if last < first:
        raise _fault(spec, f"'{item}' runs backwards")
    return range(first, last + 1)


def _number(spec: _Field, text: str) -> int:
    if text in spec.names:
        return spec.low + spec.names.index(text)
    names = f" or {spec.names[0]}-{spec.names[-1]}" if spec.names else ""
    return _digits(spec, text, f"a number from {spec.low} to {spec.high}{names}")


def _digits(spec: _Field, text: str, wanted: str) -> int:
    # Not str.isdigit: it takes digits of every script.
    if re.fullmatch("[0-9]{1,4}", text) is None or not spec.low <= int(text) <= spec.high:
        raise _fault(spec, f"'{text}' is not {wanted}" if text else f"{wanted} is missing")
    return int(text)


def _fault(spec: _Field, fault: str) -> CronError:
    return CronError(f"{spec.name}: {fault}")
