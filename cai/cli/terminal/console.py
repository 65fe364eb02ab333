"""What a run looks like in a terminal: a line that is redrawn, the closing summary, a word diff; all on stderr."""

from __future__ import annotations

import difflib
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from cai.calls.again import how_again
from cai.texts.wording import clock, one_line, printable, report_lines, shortened

if TYPE_CHECKING:
    from cai.runs.run import Run

SEPARATOR = " · "  # of the parts of a line of progress
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
    """Keep a line at the bottom of a terminal, redrawn four times a second and erased at the end; elsewhere nothing.

    Its parts are separated by ` · `; the last ones are left out if the terminal is too narrow for all.
    """

    def render() -> Text:
        return Text(fitted(line(), console.width), style="cyan", no_wrap=True, overflow="ellipsis")

    if not is_live():
        yield
        return
    with Live(get_renderable=render, console=console, refresh_per_second=4, transient=True):
        yield


def fitted(line: str, width: int) -> str:
    """As many parts of a line, from the first, as a width has room for."""
    parts = line.split(SEPARATOR)
    while len(parts) > 1 and cell_len(SEPARATOR.join(parts)) > width:
        parts.pop()
    return SEPARATOR.join(parts)


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
    tools = {"clock": clock, "how_again": how_again}
    yield from report_lines(__file__, run=run, info=info, usage=info["usage"], dropped=dropped, **tools)
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
    if run.shard is not None:
        whole = shlex.quote(str(run.settings.out))
        yield f"shard {run.shard} is finished; once all are, cai export {whole} reads them as one"
    elif run.info["rows"]:
        yield from run.next_steps(shlex.quote(str(run.out)))


def _short(text: str) -> str:
    """As much of a text as a screen has room for, without blank lines; safe to print."""
    lines = (one_line(line) for line in printable(text).splitlines())
    return shortened("\n".join(filter(None, lines)), MOST_SHOWN)
