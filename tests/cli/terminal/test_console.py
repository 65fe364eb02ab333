from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from cai.calls.prices import Tally
from cai.cli.terminal import console as module
from cai.cli.terminal.console import example, show, summary, word_diff
from cai.folder.shards.layout import Shard
from cai.records import Revision
from cai.runs.kinds.generate import GenerateRun
from cai.runs.kinds.settings import GenerateSettings
from cai.texts.wording import clock, printable

HOSTILE = "[red]loud[/red] :smile: \x1b[31mred\x1b[0m \x1b]0;title\x07 \u202eback\u2066 \r\x08over \ud800 \x9b31m"


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is shown, as into a file."""
    return paper(monkeypatch)


def paper(monkeypatch: pytest.MonkeyPatch, **options: Any) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=file, highlight=False, soft_wrap=True, width=80, **options))
    return file


def row(initial: str = "Yes, do it.", final: str = "No, do not.", **fields: Any) -> Revision:
    turn = {"principle": "kind", "critique": "It is curt.", "verdict": "revise", "revision": final, "changed": True}
    return Revision.model_validate(
        {
            "id": "1", "position": 0, "prompt": [{"role": "user", "content": "May I?"}], "initial": initial,
            "rounds": [turn], "final": final, "constitution": {"name": "law", "version": "1.0.0", "hash": "0"},
            "templates": "0", "models": {}, "seed": 0, "usage": {}, "calls": [], **fields,
        }
    )  # fmt: skip


def run(**fields: Any) -> Any:
    """What the console reads of a run."""
    info = {
        "rows": 1200, "dropped": {"truncated": 3, "empty": 5}, "cost_usd": 1.5, "seconds": 61.2,
        "usage": {"calls": 6000, "input_tokens": 1234567, "output_tokens": 89},
    }  # fmt: skip
    known = {"tally": Tally(), "finished": 0, "skipped": 0, "dropped": Counter(), "info": info, "example": None}
    known |= {"shard": None, "next_steps": lambda folder: iter([f"cut them again with: cai export {folder}"])}
    more = {"stopped": None, "out": Path("runs/a"), "unit": "prompt", "outcome": "row kept"}
    more |= {"settings": GenerateSettings(max_tokens=400)}
    return SimpleNamespace(
        **known | more | {"cut": None, "resumable": True, "total": None, "shown": GenerateRun.shown} | fields
    )


def shown(lines: Any) -> str:
    return "\n".join(line.plain if isinstance(line, Text) else line for line in lines)


# Times


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-3, "0:00"), (0, "0:00"), (6.6, "0:07"), (59.6, "1:00"), (750, "12:30"), (10_930, "3:02:10"), (4e5, "111:06:40")],
)
def test_seconds_are_told_as_a_clock_shows_them(seconds: float, told: str) -> None:
    assert clock(seconds) == told


# Word diff


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("", "", ""),
        ("same words", "same words", "same words"),
        ("a b c", "a c", "a [-b-] c"),
        ("a c", "a b c", "a {+b+} c"),
        ("a b c", "a x c", "a [-b-]{+x+} c"),
        ("one two three four", "one 2 3 four", "one [-two three-]{+2 3+} four"),
        ("good day", "good", "good [-day-]"),
        ("good", "good day", "good {+day+}"),
        ("", "new text", "{+new text+}"),
        ("old text", "", "[-old text-]"),
        ("a\nb", "a\nc", "a\n[-b-]{+c+}"),
        ("a  b\n\nc", "a b c", "a b c"),
        ("日本 語", "日本 文", "日本 [-語-]{+文+}"),
    ],
)
def test_words_that_went_and_came_are_marked(before: str, after: str, told: str) -> None:
    assert word_diff(before, after, marked=True).plain == told


def test_in_colour_words_that_went_are_struck_and_those_that_came_are_green() -> None:
    text = word_diff("a b c", "a x c", marked=False)
    assert text.plain == "a b x c"
    assert [(text.plain[span.start : span.end], span.style) for span in text.spans] == [
        ("b", "red strike"),
        ("x", "green"),
    ]


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=12).map(" ".join)


@given(WORDS, WORDS)
def test_a_diff_holds_both_texts(before: str, after: str) -> None:
    text = word_diff(before, after, marked=False)
    gone = {n for span in text.spans if span.style == "red strike" for n in range(span.start, span.end)}
    come = {n for span in text.spans if span.style == "green" for n in range(span.start, span.end)}
    assert "".join(c for n, c in enumerate(text.plain) if n not in come).split() == before.split()
    assert "".join(c for n, c in enumerate(text.plain) if n not in gone).split() == after.split()


# One example, safe to look at


def test_an_example_shows_prompt_reply_critique_and_what_changed(screen: io.StringIO) -> None:
    show(example(GenerateRun.shown(row())))
    assert [line.rstrip() for line in screen.getvalue().splitlines()] == [
        "prompt     May I?",
        "reply      Yes, do it.",
        "critique   (kind) It is curt.",
        "revision   [-Yes,-]{+No,+} do [-it.-]{+not.+}",
    ]


def test_a_revision_that_keeps_little_of_the_reply_is_shown_without_marks(screen: io.StringIO) -> None:
    show(
        example(
            GenerateRun.shown(
                row("Try to avoid heavy meals, and keep your room dark at night.", "A dark room helps most.")
            )
        )
    )
    assert "revision   A dark room helps most." in screen.getvalue()


def test_a_row_that_did_not_change_says_so(screen: io.StringIO) -> None:
    show(example(GenerateRun.shown(row(final="Yes, do it."))))
    assert "revision   the reply, unchanged" in screen.getvalue()


def test_long_texts_are_wrapped_under_their_label_and_cut_to_a_screen(screen: io.StringIO) -> None:
    show(example(GenerateRun.shown(row("word " * 40 + "\n\n\nnext", "日本語 " * 2_000))))
    lines = screen.getvalue().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("reply"))
    assert lines[start + 1].startswith(" " * 11 + "word")
    assert " " * 11 + "next" in [line.rstrip() for line in lines]
    assert all(Text(line.rstrip()).cell_len <= 80 for line in lines)
    assert "…" in screen.getvalue()
    assert len(lines) < 80


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_in_a_models_text_reaches_the_terminal_as_a_command(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = paper(monkeypatch, force_terminal=terminal, color_system=None)
    hostile = HOSTILE.replace("\ud800", "")  # rows cannot hold it
    turn = {"principle": "kind", "critique": hostile, "verdict": None, "revision": hostile, "changed": True}
    prompt = [{"role": "user", "content": hostile}]
    show(example(GenerateRun.shown(row(hostile, "new " + hostile, prompt=prompt, rounds=[turn]))))
    show([HOSTILE])
    assert "[red]loud[/red]" in file.getvalue() and ":smile:" in file.getvalue()
    assert not set(file.getvalue()) & set("\x1b\x07\x08\r\x9b\u202e\u2066\ud800")
    assert "\\x1b[31mred" in file.getvalue()


@given(st.text(alphabet=st.characters()))
def test_what_is_printable_stays_and_the_rest_is_spelled_out(text: str) -> None:
    safe = printable(text)
    assert all(c in "\n\t" or ord(c) >= 32 for c in safe)
    safe.encode()
    assert printable(safe) == safe


def test_letters_of_all_scripts_and_line_ends_stay_as_they_are() -> None:
    text = "naïve — 日本語 שלום नमस्ते 👩‍🚀 “x”\n\tend"
    assert printable(text) == text


# The summary


def test_the_summary_tells_counts_costs_drops_and_the_next_command() -> None:
    told = shown(summary(run(example=row(), skipped=7)))
    assert "revision   " in told
    assert "1,200 rows kept, 8 dropped; 6,000 calls, 1,234,567 tokens in and 89 out, $1.5000, 1:01" in told
    assert told.index("5 empty") < told.index("3 truncated")
    assert "dropped 3 truncated: see runs/a/dropped.jsonl; ask again with --max-tokens 800 --retry truncated" in told
    assert "reused" not in told and "other runs" not in told
    assert "7 prompts already done in an earlier session" in told
    assert told.endswith("cut them again with: cai export runs/a")


@pytest.mark.parametrize(("cost", "told"), [(None, ", price unknown,"), (0.0, ", free,"), (1234.5, ", $1,234.5000,")])
def test_the_summary_tells_what_is_known_of_the_cost(cost: float | None, told: str) -> None:
    assert told in shown(summary(run(info=run().info | {"cost_usd": cost})))


def test_the_summary_counts_answers_of_other_runs() -> None:
    told = shown(summary(run(info=run().info | {"reused": 1, "dropped": {"model_error": 2}})))
    assert "1 answer came from other runs (--reuse), and cost nothing here" in told
    assert "dropped 2 model_error: see runs/a/dropped.jsonl\n" in told  # which is tried again by itself


def test_a_run_that_was_stopped_says_how_to_go_on() -> None:
    told = shown(summary(run(stopped="interrupted")))
    assert told.endswith("run the same command again to resume")
    assert "cai export" not in told


def test_a_run_without_rows_names_no_training_file() -> None:
    assert "sft.jsonl" not in shown(summary(run(info=run().info | {"rows": 0})))


def test_a_run_that_never_began_has_no_summary() -> None:
    assert list(summary(run(info={}))) == []


def test_a_folder_with_spaces_can_be_pasted() -> None:
    assert "cai export 'my runs/a'" in shown(summary(run(out=Path("my runs/a"))))


def test_a_shard_says_what_reads_all_of_them() -> None:
    settings = SimpleNamespace(out="runs/my run", max_tokens=512)
    told = shown(summary(run(shard=Shard(3, 64), settings=settings)))
    assert "shard 3/64 is finished; once all are, cai export 'runs/my run' reads them as one" in told
    assert "cut them again" not in told
