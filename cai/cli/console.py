"""What a run looks like in a terminal: live progress, the closing summary, a word diff.

Writes to stderr through rich. Knows counts and rows; nothing of how they come about.
"""

from __future__ import annotations

import difflib
import re
import shlex
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cai.records import Candidates, Label, Revision
from cai.texts.wording import printable

if TYPE_CHECKING:
    from cai.runs.session import Job

LINE_EVERY = 10.0  # seconds between progress lines where stderr is no terminal
LABEL, WIDEST = 11, 100  # columns
MOST_SHOWN = 1_200  # characters of a text: about a screen
console = Console(stderr=True, highlight=False, soft_wrap=True)


class Progress:
    """Shows how a job goes: one live line in a terminal, a plain line now and then elsewhere."""

    def __init__(self, job: Job[Any]) -> None:
        self.job = job
        self.total: int | None = None  # prompts in the source; None: not known, or not yet
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: Live | None = None

    def expect(self, total: int) -> None:
        """Tell how many prompts the source has, as soon as that is known."""
        self.total = total

    def __enter__(self) -> Progress:
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(get_renderable=self._line, console=console, refresh_per_second=4, transient=True)
            self._live.start()
        else:
            self._thread = threading.Thread(target=self._print, name="cai-progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._live is not None:
            self._live.stop()
        if self._thread is not None:
            self._thread.join()

    def _print(self) -> None:
        while not self._over.wait(LINE_EVERY):
            console.print(self._line())

    def _line(self) -> Text:
        line = progress_line(self.job, self.total, time.monotonic() - self._began)
        return Text(line, style="cyan" if self._live else "", no_wrap=True, overflow="ellipsis")


def progress_line(job: Job[Any], total: int | None, seconds: float) -> str:
    """How a job stands after so many seconds; the time left is told once the first prompt is through."""
    tally, dropped, seconds = job.tally, sum(job.dropped.values()), max(1e-3, seconds)
    through = job.finished + dropped
    rate = job.finished / seconds
    parts = [
        f"{through + job.skipped:,}{'' if total is None else f'/{total:,}'} {job.task.unit}",
        *([f"{rate:,.1f} rows/s" if rate >= 1 else f"{60 * rate:.1f} rows/min"] if job.finished else []),
        # Of a judge that is asked for probabilities nothing is written: then what it reads tells how fast it goes.
        f"{(tally.output_tokens or tally.input_tokens) / seconds:,.0f} tokens/s",
        f"{tally.in_flight:,} in flight",
    ]
    if tally.cost:
        parts.append(f"${tally.cost:,.4f}")
    for count, name in ((dropped, "dropped"), (tally.retries, "retries"), (tally.throttled, "throttled")):
        if count:
            parts.append(f"{count:,} {name}")
    if total is not None and through:
        parts.append(f"{clock((total - through - job.skipped) * seconds / through)} left")
    return f"  {clock(seconds)}  {' · '.join(parts)}"


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:30 or 3:02:10."""
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def word_diff(before: str, after: str, *, marked: bool) -> Text:
    """The words that went, struck and red, and those that came, green; [-so-] and {+so+} where `marked`.

    Space counts as a part of the word before it: where it alone differs, it is shown as it is in `after`.
    """
    a, b = (re.findall(r"\S+\s*", text.lstrip()) for text in (before, after))
    old, new = ([word.rstrip() for word in words] for words in (a, b))
    text = Text()
    for kind, a1, a2, b1, b2 in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, come = "".join(a[a1:a2]), "".join(b[b1:b2])
        if kind == "equal":
            text.append(come)
            continue
        if text and not text.plain[-1].isspace():
            text.append(" ")
        if gone:
            text.append(f"[-{gone.rstrip()}-]" if marked else gone.rstrip(), "red strike")
        if gone and come and not marked:
            text.append(" ")
        if come:
            text.append(f"{{+{come.rstrip()}+}}" if marked else come.rstrip(), "green")
        text.append((come or gone)[len((come or gone).rstrip()) :])
    return text


def example(row: Any) -> Iterator[Text]:
    """One whole row to look at: a prompt, and what was made of it."""
    yield from _block("prompt", Text(_short(row.prompt[-1]["content"])))
    if isinstance(row, Revision):
        yield from _revision(row)
    elif isinstance(row, Candidates):
        for number, reply in enumerate(row.replies):
            won = row.best is not None and row.best.winner == number
            yield from _block(
                f"reply {number}{'*' if won else ''}",
                Text(_short(reply.text) if reply.problem is None else reply.problem),
            )
    else:
        yield from _block("reply a", Text(_short(row.a)))
        yield from _block("reply b", Text(_short(row.b)))
        yield from _block("judge", Text(_verdict(row)))


def _revision(row: Revision) -> Iterator[Text]:
    plain = not console.is_terminal or console.no_color
    yield from _block("reply", Text(_short(row.initial)))
    for turn in row.rounds:
        yield from _block("critique", Text.assemble((f"({turn.principle}) ", "dim"), _short(turn.critique)))
    if row.final == row.initial:
        yield from _block("revision", Text("the reply as it was", "dim"))
    else:
        yield from _block("revision", word_diff(_short(row.initial), _short(row.final), marked=plain))


def _verdict(row: Label) -> str:
    if row.p_a is None or row.confidence is None:
        return "no valid vote"
    better = "a" if row.p_a > 0.5 else "b" if row.p_a < 0.5 else "neither"
    said = "; ".join(
        f"{vote.principle} {vote.d:+.2f}" if vote.d is not None else vote.principle for vote in row.votes if vote.valid
    )
    return f"{better}, confidence {row.confidence:.2f}" + (f" ({said})" if said else "")


def _block(label: str, text: Text) -> Iterator[Text]:
    """A text with its label before it, its lines below each other."""
    for number, line in enumerate(text.wrap(console, max(20, min(console.width, WIDEST) - LABEL), tab_size=4)):
        yield Text.assemble((f"{label:{LABEL}}", "bold") if number == 0 else " " * LABEL, line)


def show(lines: Iterable[Text | str]) -> None:
    """Print lines to stderr, as they are."""
    for line in lines:
        console.print(Text(printable(line)) if isinstance(line, str) else line)


def summary(job: Job[Any]) -> Iterator[Text | str]:
    """What a run came to: one whole example, the counts, and what to type next."""
    info = job.info
    if not info:
        return
    if job.example is not None:
        yield ""
        yield from example(job.example)
        yield ""
    usage, dropped, folder = info["usage"], sum(info["dropped"].values()), shlex.quote(str(job.folder))
    cost = "price unknown" if info["cost_usd"] is None else f"${info['cost_usd']:,.4f}" if info["cost_usd"] else "free"
    yield (
        f"{info['rows']:,} {job.task.done}, {dropped:,} dropped; {usage['calls']:,} calls, "
        f"{usage['input_tokens']:,} tokens in and {usage['output_tokens']:,} out, {cost}, {clock(info['seconds'])}"
    )
    if job.skipped:
        yield f"  {job.skipped:,} {job.task.unit} were through before this session"
    for reason, count in sorted(info["dropped"].items(), key=lambda item: -item[1]):
        yield f"  dropped {count:,} {reason}: see {job.folder / 'dropped.jsonl'}"
    if job.cut is not None:
        yield from job.cut.lines()
    if job.stopped is not None and job.can_go_on:
        yield "not finished: the same command goes on where this one stopped"
    elif info["rows"]:
        yield from job.setup.next_steps(folder)


def _short(text: str) -> str:
    """As much of a text as a screen has room for, without blank lines; safe to print."""
    text = "\n".join(" ".join(line.split()) for line in printable(text).splitlines() if line.strip())
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"
