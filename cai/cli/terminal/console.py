"""What a run looks like in a terminal: a line of progress, the closing summary, a word diff; all on stderr."""

from __future__ import annotations

import difflib
import re
import shlex
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cai.errors import CaiError
from cai.texts.wording import clock, one_line, plural, printable, report_lines, shortened

if TYPE_CHECKING:
    from cai.runs.run import Run

LINE_EVERY = 10.0  # seconds between progress lines if stderr is not a terminal
LABEL, WIDEST = 11, 100  # columns
REWRITTEN = 0.3  # share of words kept, below which a text counts as written anew
MOST_SHOWN = 1_200  # characters of a text: about a screen
MARKS = {True: ("[-{}-]", "", "{{+{}+}}"), False: ("{}", " ", "{}")}  # of words that went and that came
console = Console(stderr=True, highlight=False, soft_wrap=True)


def is_live() -> bool:
    """Whether stderr is a terminal that can redraw a line."""
    return console.is_terminal and not console.is_dumb_terminal


@contextmanager
def live_line(line: Callable[[], str]) -> Iterator[None]:
    """Keep a line at the bottom of a terminal, redrawn four times a second and erased at the end; elsewhere nothing."""

    def render() -> Text:
        return Text(line(), style="cyan", no_wrap=True, overflow="ellipsis")

    if not is_live():
        yield
        return
    with Live(get_renderable=render, console=console, refresh_per_second=4, transient=True):
        yield


class Progress:
    """The line that shows how a run goes; `total` is known once its items are counted."""

    def __init__(self, run: Run[Any]) -> None:
        self.run = run
        self.total = run.total
        self._began = time.monotonic()

    def count(self) -> None:
        """Count the items in a thread of its own, if their source can be read twice."""
        source = self.run.source
        if self.total is None and isinstance(source, str | Path) and Path(source).exists():
            threading.Thread(target=self._count, name="cai-count", daemon=True).start()

    def _count(self) -> None:
        with suppress(CaiError):  # a damaged source is reported by the run itself, which reads it too
            self.total = sum(1 for _ in self.run.items())

    def line(self) -> str:
        """How the run stands now."""
        return progress_line(self.run, self.total, time.monotonic() - self._began)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the line: live in a terminal, elsewhere as a plain line now and then."""
        if is_live():
            with live_line(self.line):
                yield
            return
        over = threading.Event()

        def repeat() -> None:
            while not over.wait(LINE_EVERY):
                show([self.line()])

        thread = threading.Thread(target=repeat, name="cai-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def progress_line(run: Run[Any], total: int | None, seconds: float) -> str:
    """How a run stands after so many seconds; the time left is known once the first prompt is through."""
    return f"  {clock(seconds)}  {' · '.join(_progress(run, total, max(1e-3, seconds)))}"


def _progress(run: Run[Any], total: int | None, seconds: float) -> Iterator[str]:
    tally = run.tally
    dropped = run.dropped.total()
    through = run.finished + dropped
    rate = run.finished / seconds
    position = f"{through + run.skipped:,}"
    if total is not None:
        position += f"/{total:,}"
    yield f"{position} {plural(run.unit)}"
    if rate >= 1:
        yield f"{rate:,.1f} rows/s"
    elif run.finished:
        yield f"{60 * rate:.1f} rows/min"
    # A judge that is asked for probabilities writes nothing: then what it reads shows how fast it is.
    yield f"{(tally.output_tokens or tally.input_tokens) / seconds:,.0f} tokens/s"
    yield f"{tally.in_flight:,} in flight"
    if tally.cost:
        yield f"${tally.cost:,.4f}"
    for count, name in ((dropped, "dropped"), (tally.retries, "retries"), (tally.throttled, "throttled")):
        if count:
            yield f"{count:,} {name}"
    if total is not None and through:
        yield f"{clock((total - through - run.skipped) * seconds / through)} left"


def word_diff(before: str, after: str, *, marked: bool) -> Text:
    """The words that went, struck and red, and those that came, green; [-so-] and {+so+} if `marked`.

    Space counts as a part of the word before it: if it alone differs, it is shown as it is in `after`.
    """
    removal, space, addition = MARKS[marked]
    a = re.findall(r"\S+\s*", before.lstrip())
    b = re.findall(r"\S+\s*", after.lstrip())
    match = difflib.SequenceMatcher(None, before.split(), after.split(), autojunk=False)
    text = Text()
    for kind, a1, a2, b1, b2 in match.get_opcodes():
        removed = "".join(a[a1:a2])
        added = "".join(b[b1:b2])
        if kind == "equal":
            text.append(added)
            continue
        if text and not text.plain[-1].isspace():
            text.append(" ")
        if removed:
            text.append(removal.format(removed.rstrip()), "red strike")
        if kind == "replace":
            text.append(space)
        if added:
            text.append(addition.format(added.rstrip()), "green")
        last = added or removed
        text.append(last[len(last.rstrip()) :])
    return text


def example(texts: Iterable[tuple[str, str]]) -> Iterator[Text]:
    """The texts of a row with their labels; a revision as what changed in the reply."""
    reply = ""
    for label, text in texts:
        if label == "reply":
            reply = text
        if label != "revision":
            shown = Text(_short(text))
        elif text == reply:
            shown = Text("the reply, unchanged", "dim")
        else:
            shown = change(_short(reply), _short(text), marked=not has_colour(console))
        for line in shown.wrap(console, max(20, min(console.width, WIDEST) - LABEL), tab_size=4):
            yield Text.assemble((f"{label:{LABEL}}", "bold"), line)
            label = ""


def change(before: str, after: str, *, marked: bool) -> Text:
    """What changed in a text; the new text alone if a diff would be mostly marks."""
    match = difflib.SequenceMatcher(None, before.split(), after.split(), autojunk=False)
    if match.ratio() < REWRITTEN:
        return Text(after)
    return word_diff(before, after, marked=marked)


def has_colour(screen: Console) -> bool:
    """Whether what is printed there can be coloured."""
    return screen.is_terminal and not screen.no_color


def show(lines: Iterable[Text | str]) -> None:
    """Print lines to stderr, as they are."""
    for line in lines:
        if isinstance(line, str):
            line = Text(printable(line))
        console.print(line)


def summary(run: Run[Any]) -> Iterator[Text | str]:
    """What a run came to: one whole example, the counts, and what to type next."""
    info = run.info
    if not info:
        return
    if run.example is not None:
        yield ""
        yield from example(run.shown(run.example))
        yield ""
    dropped = Counter[str](info["dropped"])
    yield from report_lines(__file__, run=run, info=info, usage=info["usage"], dropped=dropped, clock=clock)
    if run.stopped is None or not run.resumable:
        yield from ending(run)
        return
    if run.cut is not None:
        yield from run.cut.lines()
    yield "not finished: run the same command again to resume"


def ending(run: Run[Any]) -> Iterator[str]:
    """What the cut came to, and what to type next."""
    if run.cut is not None:
        yield from run.cut.lines()
    if run.info["rows"]:
        yield from run.next_steps(shlex.quote(str(run.out)))


def _short(text: str) -> str:
    """As much of a text as a screen has room for, without blank lines; safe to print."""
    lines = (one_line(line) for line in printable(text).splitlines())
    return shortened("\n".join(filter(None, lines)), MOST_SHOWN)
