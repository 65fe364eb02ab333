"""The line of a run: the time left first, what is waited for, rates of now, and the cost beside its cap."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from players import Player
from rich.cells import cell_len
from rich.console import Console
from sample_runs import PROMPTS, seeded, setup

from cai.calls.limits import Limiter
from cai.calls.prices import Budget, Tally
from cai.cli.terminal import console as console_module
from cai.cli.terminal import progress as module
from cai.cli.terminal.console import fitted
from cai.cli.terminal.progress import Pace, Progress, progress_line
from cai.errors import ModelBusy


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is shown, as into a file."""
    return paper(monkeypatch)


def paper(monkeypatch: pytest.MonkeyPatch, **options: Any) -> io.StringIO:
    file = io.StringIO()
    made = Console(file=file, highlight=False, soft_wrap=True, **{"width": 80, **options})
    monkeypatch.setattr(console_module, "console", made)
    return file


def run(**fields: Any) -> Any:
    """What the line reads of a run."""
    known = {"tally": Tally(), "finished": 0, "skipped": 0, "dropped": Counter(), "total": None, "unit": "prompt"}
    return SimpleNamespace(**known | {"settings": SimpleNamespace(max_cost=None), "budget": None} | fields)


def capped(cap: float, spent: float) -> dict[str, Any]:
    return {"settings": SimpleNamespace(max_cost=cap), "budget": Budget(cap, spent)}


def test_the_time_left_comes_first_and_the_rest_by_how_much_it_matters() -> None:
    tally = Tally(in_flight=16, answered=9, output_tokens=50_000, cost=0.25, retries=2, throttled=1_234)
    going = run(tally=tally, finished=1_000, skipped=500, dropped=Counter(empty=3, truncated=7))
    assert progress_line(going, 3_000, 100.0) == (
        "  2:28 left after 1:40 · 1,510/3,000 prompts · 10.0 rows/s · $0.2500, about $0.62 in all · 500 tokens/s"
        " · 16 in flight · 10 dropped · 2 retries · 1,234 throttled"
    )


def test_no_zero_is_shown_for_what_is_not_known() -> None:
    assert progress_line(run(), None, 0.0) == "  0:00  0 prompts"
    assert progress_line(run(tally=Tally(in_flight=4)), 64, 5.0) == (
        "  0:05  waiting for the first answer · 0/64 prompts · 4 in flight"
    )


@pytest.mark.parametrize("waiting", ["loading the model", "reading the prompts", "the server loads the model"])
def test_what_is_waited_for_stands_in_place_of_zeros(waiting: str) -> None:
    assert progress_line(run(tally=Tally(waiting=waiting)), 64, 5.0) == f"  0:05  {waiting}"
    assert waiting in progress_line(run(tally=Tally(waiting=waiting), finished=3), 64, 5.0)


@pytest.mark.parametrize(("rows", "told"), [(2, "1.2 rows/min"), (99, "59.4 rows/min"), (123_456, "1,234.6 rows/s")])
def test_slow_and_fast_rates_are_told_in_plain_numbers(rows: int, told: str) -> None:
    assert told in progress_line(run(finished=rows), None, 100.0)


def lines_over(pace: Pace, rows: list[int], total: int | None = None) -> list[str]:
    """The line at each second, when so many rows are finished."""
    return [progress_line(run(finished=count), total, float(second), pace) for second, count in enumerate(rows)]


def test_rates_and_the_time_left_are_those_of_the_last_minute() -> None:
    fast_then_slow = [10 * second for second in range(60)] + [600 + second for second in range(120)]
    lines = lines_over(Pace(), fast_then_slow, 1_000)
    assert "10.0 rows/s" in lines[50] and "0:50 left" in lines[50]
    assert "1.0 rows/s" in lines[-1] and "4:41 left" in lines[-1]


def test_a_run_in_which_nothing_happened_for_a_minute_has_the_rate_since_its_start() -> None:
    lines = lines_over(Pace(), [60] * 300)
    assert "12.0 rows/min" in lines[-1]


def test_tokens_are_those_written_of_late_or_else_those_read() -> None:
    pace = Pace()
    said = {}
    for second, (read, written) in enumerate([(0, 0), (6_000, 0), (6_100, 40), *[(6_100 + n, 40) for n in range(90)]]):
        tally = Tally(input_tokens=read, output_tokens=written, answered=1)
        said[second] = progress_line(run(tally=tally), 64, float(second), pace)
    assert "6,000 tokens/s" in said[1]
    assert "20 tokens/s" in said[2]
    assert "1 tokens/s" in said[92]
    assert not any(" -" in line for line in said.values())


def test_the_time_in_which_a_model_loads_does_not_count_as_slow() -> None:
    pace = Pace()
    for second in range(100):
        progress_line(run(tally=Tally(waiting="loading the model")), 64, float(second), pace)
    assert "2.0 rows/s" in progress_line(run(finished=20), 64, 109.0, pace)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, None),
        ({"tally": Tally(cost=0.5), "finished": 10}, "$0.5000, about $5.00 in all"),
        ({"tally": Tally(cost=0.5), "finished": 10, **capped(20, 0.5)}, "$0.5000 of at most $20, about $5.00 in all"),
        ({"tally": Tally(cost=0.5), "finished": 10, **capped(2.5, 1.5)}, "$1.5000 of at most $2.5, about $6.00 in all"),
        ({"tally": Tally(), **capped(20, 0.0)}, "$0.0000 of at most $20 "),
        ({"tally": Tally(cost=0.5), "finished": 90, "skipped": 10}, "$0.5000 "),
    ],
)
def test_the_cost_stands_beside_its_cap_with_what_it_will_come_to(fields: dict[str, Any], told: str | None) -> None:
    line = progress_line(run(**fields), 100, 10.0) + " "
    assert "$" not in line if told is None else told in line


@given(st.lists(st.text("ab日é ", min_size=1, max_size=12), min_size=1, max_size=9), st.integers(1, 60))
def test_a_narrow_terminal_gets_the_first_parts_whole(parts: list[str], width: int) -> None:
    line = " · ".join(parts)
    short = fitted(line, width)
    assert line.startswith(short)
    assert cell_len(short) <= width or " · " not in short
    assert short == line or cell_len(line) > width


@pytest.mark.parametrize("width", [20, 40, 60, 200])
def test_on_a_terminal_the_time_left_is_never_cut_off(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file = paper(monkeypatch, force_terminal=True, width=width, color_system=None)
    going = run(tally=Tally(answered=9, output_tokens=50_000, retries=2), finished=1_000, total=3_000)
    progress = Progress(going)
    progress._began -= 100
    with progress.shown():
        pass
    assert "3:20 left" in file.getvalue()
    assert ("retries" in file.getvalue()) is (width == 200)


def test_progress_into_a_file_has_no_escape_codes(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_EVERY", 0.01)
    progress = Progress(run())
    progress.total = 64
    with progress.shown():
        while screen.getvalue().count("\n") < 2:
            pass
    assert "0/64 prompts" in screen.getvalue()
    assert "\x1b" not in screen.getvalue()


def test_progress_on_a_terminal_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    file = paper(monkeypatch, force_terminal=True)
    with Progress(run()).shown():
        pass
    assert "0 prompts" in file.getvalue()
    assert file.getvalue().rstrip().endswith("\x1b[2K")  # the line is erased


# What a real run says


def test_a_run_says_what_it_waits_for_until_its_model_is_there(tmp_path: Path) -> None:
    said = []

    class Slow(Player):
        async def start(self) -> None:
            said.append(progress_line(made, 12, 1.0))

    made = setup(PROMPTS, tmp_path / "run", Slow(seeded), n=2)
    items = made.items

    def reading() -> Any:
        said.append(progress_line(made, 12, 0.0))
        return items()

    made.items = reading  # type: ignore[method-assign]
    made.finish()
    assert said == ["  0:00  reading the prompts", "  0:01  loading the model"]
    assert made.tally.waiting == ""


def test_a_pause_that_a_server_asks_for_is_said_until_it_answers() -> None:
    import asyncio

    async def main() -> None:
        limiter = Limiter(4)
        limiter.busy(ModelBusy("429", retry_after=7.0), 0.0)
        assert limiter.tally.waiting == "the server asks to wait 7 s"
        limiter.busy(ModelBusy("503", retry_after=2.0, loading=True), 0.0)
        assert limiter.tally.waiting == "the server loads the model"
        limiter.answered()
        assert limiter.tally.waiting == ""

    asyncio.run(main())
