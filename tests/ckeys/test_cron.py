"""The timer expressions: what is accepted, what is refused, and when a timer fires."""

import calendar
import time
from datetime import date, datetime, timedelta, timezone

import pytest
from croniter import croniter
from hypothesis import assume, given
from hypothesis import strategies as st

from ckeys.cron import PLATFORM_ZONE, Cron, CronError

UTC = timezone.utc


def after(text: str, moment: str) -> str | None:
    found = Cron.parse(text).next_after(datetime.fromisoformat(moment).replace(tzinfo=UTC))
    return found.strftime("%Y-%m-%d %H:%M:%S") if found else None


def days(day: str, week: str, year: int, month: int) -> list[int]:
    """The days of one month on which the expression fires, found through next_after alone."""
    cron = Cron.parse(f"0 0 12 {day} {month} {week} {year}")
    found: list[int] = []
    moment = cron.next_after(datetime(1970, 1, 1, tzinfo=UTC))
    while moment is not None:
        assert (moment.year, moment.month, moment.hour) == (year, month, 12)
        found.append(moment.day)
        moment = cron.next_after(moment)
    return found


# The platform's own examples (Tencent document 583/9708), and one for every operator.
@pytest.mark.parametrize(
    ("text", "moment", "expected"),
    [
        ("*/5 * * * * * *", "2026-03-01 00:00:00", "2026-03-01 00:00:05"),
        ("*/5 * * * * * *", "2026-12-31 23:59:55", "2027-01-01 00:00:00"),
        ("0 * * * * * *", "2026-03-01 00:00:00", "2026-03-01 00:01:00"),
        ("0 0 2 1 * * *", "2026-03-01 02:00:00", "2026-04-01 02:00:00"),
        ("0 15 10 * * MON-FRI *", "2026-03-06 10:15:00", "2026-03-09 10:15:00"),
        ("0 0 10,14,16 * * * *", "2026-03-06 14:00:00", "2026-03-06 16:00:00"),
        ("0 */30 9-17 * * * *", "2026-03-06 17:30:00", "2026-03-07 09:00:00"),
        ("0 0 12 * * WED *", "2026-03-06 00:00:00", "2026-03-11 12:00:00"),
        ("0 0 0 LW * ? *", "2026-05-01 00:00:00", "2026-05-29 00:00:00"),
        ("0 1/10 * * * * *", "2026-03-06 00:51:00", "2026-03-06 01:01:00"),
        ("0 0 0 29 FEB * *", "2026-01-01 00:00:00", "2028-02-29 00:00:00"),
        ("0 0 0 31 * * *", "2026-01-31 00:00:00", "2026-03-31 00:00:00"),
        ("0 0 0 1 JAN,JUL * *", "2026-01-01 00:00:00", "2026-07-01 00:00:00"),
        ("59 59 23 31 12 * 2099", "1999-01-01 00:00:00", "2099-12-31 23:59:59"),
        ("0 0 0 1 1 * 1970", "1900-01-01 00:00:00", "1970-01-01 00:00:00"),
        ("0 0 0 ? 2 5L *", "2026-01-01 00:00:00", "2026-02-27 00:00:00"),
        ("0 0 0 ? 2 5#2 *", "2026-01-01 00:00:00", "2026-02-13 00:00:00"),
        ("0 0 0 ? * ? *", "2026-01-01 00:00:00", "2026-01-02 00:00:00"),
    ],
)
def test_next_fire_time_of_documented_forms(text: str, moment: str, expected: str) -> None:
    assert after(text, moment) == expected


def test_five_fields_are_the_legacy_form_with_second_0_and_any_year() -> None:
    legacy = Cron.parse("*/2 * * * *")
    assert legacy == Cron.parse("0 */2 * * * * *")
    assert legacy.text == "0 */2 * * * * *"


def test_fields_may_be_aligned_with_several_spaces() -> None:
    assert Cron.parse("  0  0 0   1 * *  * ").text == "0 0 0 1 * * *"


def test_no_fire_time_left_is_none() -> None:
    assert after("0 0 0 1 1 * 2020", "2020-01-01 00:00:00") is None
    assert after("* * * * * * *", "2099-12-31 23:59:59") is None
    assert after("* * * * * * *", "9999-12-31 23:59:59") is None


def test_a_time_between_seconds_counts_as_before_the_next_second() -> None:
    moment = datetime(2026, 1, 1, 0, 0, 4, 999_999, tzinfo=UTC)
    assert Cron.parse("*/5 * * * * * *").next_after(moment) == datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)


def test_fields_are_read_in_the_zone_of_the_moment() -> None:
    cron = Cron.parse("0 0 0 * * * *")
    moment = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert cron.next_after(moment) == datetime(2026, 1, 2, tzinfo=UTC)
    assert cron.next_after(moment.astimezone(PLATFORM_ZONE)) == datetime(2026, 1, 1, 16, tzinfo=UTC)


def test_a_moment_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        Cron.parse("* * * * * * *").next_after(datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    "text",
    ["0 0 0 30 2 ? *", "0 0 0 31 4,6,9,11 * *", "0 0 0 31W 2 ? *", "0 0 0 29 2 * 2099", "59 59 23 31 12 ? 2099"],
)
def test_rare_and_impossible_expressions_are_answered_at_once(text: str) -> None:
    cron = Cron.parse(text)
    started = time.process_time()
    cron.next_after(datetime(1970, 1, 1, tzinfo=UTC))
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("* * * * * *", "6 fields"),
        ("* * * * * * * *", "8 fields"),
        ("*\t* * * * * *", "6 fields"),
        ("0\n * * * * * *", "second: '0\n' is not a number from 0 to 59"),
        ("60 * * * * * *", "second: '60' is not a number from 0 to 59"),
        ("-1 * * * * * *", "second: a number from 0 to 59 is missing"),
        ("1- * * * * * *", "second: a number from 0 to 59 is missing"),
        ("0 60 * * * * *", "minute"),
        ("0 0 24 * * * *", "hour"),
        ("0 0 0 0 * * *", "day: '0' is not a number from 1 to 31"),
        ("0 0 0 32 * * *", "day"),
        ("0 0 0 1 13 * *", "month: '13' is not a number from 1 to 12 or JAN-DEC"),
        ("0 0 0 1 Jan * *", "month"),
        ("0 0 0 1 MON * *", "month"),
        ("0 0 0 * * 7 *", "week: '7' is not a number from 0 to 6 or SUN-SAT"),
        ("0 0 0 * * mon *", "week"),
        ("0 0 0 * * * 1969", "year"),
        ("0 0 0 * * * 2100", "year"),
        ("5-1 * * * * * *", "second: '5-1' runs backwards"),
        ("0 0 0 * * SAT-SUN *", "week: 'SAT-SUN' runs backwards"),
        ("1-5/2 * * * * * *", "second: '1-5/2' gives a range a step"),
        ("*/0 * * * * * *", "second: '*/0' needs a step from 1 to 60"),
        ("*/61 * * * * * *", "second: '*/61' needs a step from 1 to 60"),
        ("*/ * * * * * *", "second: '*/' needs a step"),
        ("/5 * * * * * *", "second: a number from 0 to 59 is missing"),
        ("1/2/3 * * * * * *", "second: '1/2/3' needs a step"),
        ("1,,2 * * * * * *", "second: a number from 0 to 59 is missing"),
        ("1, * * * * * *", "second"),
        ("*,1 * * * * * *", "second: '*' cannot be part of a list"),
        ("** * * * * * *", "second"),
        ("? * * * * * *", "second: '?' belongs to day and week, alone"),
        ("0 0 0 1,? * ? *", "day: '?' belongs to day and week, alone"),
        ("0 0 0 ? ? ? *", "month: '?'"),
        ("L * * * * * *", "second"),
        ("0 0 0 W * ? *", "day: a number from 1 to 31 is missing"),
        ("0 0 0 0W * ? *", "day"),
        ("0 0 0 32W * ? *", "day"),
        ("0 0 0 1-5W * ? *", "day"),
        ("0 0 0 WL * ? *", "day"),
        ("0 0 0 5#2 * ? *", "day"),
        ("0 0 0 5L * ? *", "day"),
        ("0 0 0 ? * L *", "week: a number from 0 to 6 before L is missing"),
        ("0 0 0 ? * 7L *", "week: '7' is not a number from 0 to 6 before L"),
        ("0 0 0 ? * LW *", "week"),
        ("0 0 0 ? * 5#0 *", "week: '5#0' needs a number from 1 to 5 after #"),
        ("0 0 0 ? * 5#6 *", "week"),
        ("0 0 0 ? * 5# *", "week"),
        ("0 0 0 ? * #2 *", "week: a number from 0 to 6 before # is missing"),
        ("0 0 0 ? * 5#1#2 *", "week"),
        ("٣ * * * * * *", "second"),
        ("1.5 * * * * * *", "second"),
        ("+1 * * * * * *", "second"),
        ("@daily", "1 fields"),
    ],
)
def test_malformed_text_is_refused_naming_the_field_and_the_fault(text: str, message: str) -> None:
    with pytest.raises(CronError) as caught:
        Cron.parse(text)
    assert str(caught.value).startswith(message)


@given(st.text(alphabet="0123456789*,-/?LW#MONFRI ", max_size=40))
def test_any_text_is_parsed_or_refused_with_a_cron_error(text: str) -> None:
    try:
        cron = Cron.parse(text)
    except CronError:
        return
    assert Cron.parse(cron.text) == cron


# Against croniter, on what both understand.


def plain_field(low: int, high: int, *, steps: bool = True) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.lists(number, min_size=2, max_size=2, unique=True).map(lambda pair: f"{min(pair)}-{max(pair)}")
    step = st.tuples(st.one_of(st.just("*"), number.map(str)), st.integers(2, max(2, (high - low) // 2)))
    item = st.one_of(number.map(str), span, *([step.map(lambda pair: f"{pair[0]}/{pair[1]}")] if steps else []))
    return st.one_of(st.just("*"), st.lists(item, min_size=1, max_size=3).map(",".join))


MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)).map(lambda m: m.replace(tzinfo=UTC))  # noqa: DTZ001


# croniter counts weekdays to 7, so `1/3` ends on another day there; it reads a week of one value, `0-0`, as every day;
# and a field that spells out every value counts as not specified there, while to us only `*` and `?` do.
@given(
    fields=st.tuples(
        plain_field(0, 59),
        plain_field(0, 59),
        plain_field(0, 23),
        st.one_of(plain_field(1, 28), st.just("L")),
        plain_field(1, 12),
        plain_field(0, 6, steps=False),
    ),
    moment=MOMENTS,
)
def test_next_after_agrees_with_croniter(fields: tuple[str, str, str, str, str, str], moment: datetime) -> None:
    second, minute, hour, day, month, week = fields
    ours = Cron.parse(f"{second} {minute} {hour} {day} {month} {week} *")
    assume(len(ours.days or ()) < 31 and len(ours.week or ()) < 7)
    other = croniter(f"{minute} {hour} {day} {month} {week} {second}", moment, max_years_between_matches=60)
    assert ours.next_after(moment) == other.get_next(datetime)


@given(weekday=st.integers(0, 6), nth=st.integers(1, 4), hour=st.integers(0, 23), moment=MOMENTS)
def test_nth_and_last_weekdays_agree_with_croniter(weekday: int, nth: int, hour: int, moment: datetime) -> None:
    for ours, theirs in ((f"{weekday}#{nth}", f"{weekday}#{nth}"), (f"{weekday}L", f"L{weekday}")):
        expected = croniter(f"0 {hour} * * {theirs}", moment).get_next(datetime)
        assert Cron.parse(f"0 0 {hour} ? * {ours} *").next_after(moment) == expected


# Against a brute-force reading of each rule over every day of a month.


def month_days(year: int, month: int) -> list[date]:
    return [date(year, month, day) for day in range(1, calendar.monthrange(year, month)[1] + 1)]


def sunday_first(day: date) -> int:
    return day.isoweekday() % 7


def nearest_workday(target: date) -> date:
    """The working day of the same month that is nearest; no two are equally near."""
    workdays = [day for day in month_days(target.year, target.month) if day.isoweekday() < 6]
    return min(workdays, key=lambda day: abs(day - target))


DAY_ITEMS: st.SearchStrategy[str] = st.one_of(
    st.integers(1, 31).map(str), st.integers(1, 31).map(lambda n: f"{n}W"), st.sampled_from(["L", "LW"])
)
WEEK_ITEMS: st.SearchStrategy[str] = st.one_of(
    st.integers(0, 6).map(str),
    st.integers(0, 6).map(lambda n: f"{n}L"),
    st.tuples(st.integers(0, 6), st.integers(1, 5)).map(lambda pair: f"{pair[0]}#{pair[1]}"),
)


def day_fires(item: str, day: date) -> bool:
    last = month_days(day.year, day.month)[-1]
    if item == "L":
        return day == last
    if item == "LW":
        return day == nearest_workday(last)
    number = int(item.removesuffix("W"))
    if number > last.day:
        return False
    target = day.replace(day=number)
    return day == (nearest_workday(target) if item.endswith("W") else target)


def week_fires(item: str, day: date) -> bool:
    if sunday_first(day) != int(item[0]):
        return False
    if item.endswith("L"):
        return (day + timedelta(days=7)).month != day.month
    return "#" not in item or (day.day - 1) // 7 + 1 == int(item[2])


@given(
    day_items=st.lists(DAY_ITEMS, max_size=3),
    week_items=st.lists(WEEK_ITEMS, max_size=3),
    year=st.integers(1970, 2099),
    month=st.integers(1, 12),
)
def test_l_w_and_hash_fire_on_the_days_of_their_rules_and_day_or_week_suffices(
    day_items: list[str], week_items: list[str], year: int, month: int
) -> None:
    expected = [
        day.day
        for day in month_days(year, month)
        if any(day_fires(item, day) for item in day_items)
        or any(week_fires(item, day) for item in week_items)
        or not (day_items or week_items)
    ]
    assert days(",".join(day_items) or "?", ",".join(week_items) or "*", year, month) == expected


def test_a_working_day_never_leaves_its_month() -> None:
    assert days("1W", "?", 2026, 8) == [3]  # the 1st is a Saturday
    assert days("31W", "?", 2026, 5) == [29]  # the 31st is a Sunday
    assert days("31W", "?", 2026, 4) == []  # April has no 31st


def test_a_field_that_spells_out_every_value_is_specified() -> None:
    assert days("10", "0-6", 2026, 2) == list(range(1, 29))
    assert days("10", "*", 2026, 2) == [10]


def test_weekday_zero_is_sunday() -> None:
    assert days("?", "0", 2026, 3) == days("?", "SUN", 2026, 3) == [1, 8, 15, 22, 29]
