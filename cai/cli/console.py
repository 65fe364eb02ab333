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
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cai.errors import CaiError
from cai.texts.wording import counted, printable

if TYPE_CHECKING:
    from cai.runs.run import Run

LINE_EVERY = 10.0  # seconds between progress lines where stderr is no terminal
LABEL, WIDEST = 11, 100  # columns
REWRITTEN = 0.3  # share of words kept, below which a text was written anew
MOST_SHOWN = 1_200  # characters of a text: about a screen
console = Console(stderr=True, highlight=False, soft_wrap=True)


class Progress:
    """Shows how a run goes: one live line in a terminal, a plain line now and then elsewhere."""

    def __init__(self, run: Run[Any]) -> None:
        self.run = run
        self.total: int | None = None  # prompts in the source; None: not known, or not yet
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: Live | None = None

    def count(self) -> None:
        """Count the items in a thread of its own, if their source can be read twice."""
        if self.run.countable:
            threading.Thread(target=self._count, name="cai-count", daemon=True).start()

    def _count(self) -> None:
        with suppress(CaiError):  # a damaged source is reported by the run itself, which reads it too
            self.expect(sum(1 for _ in self.run.items()))

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
        line = progress_line(self.run, self.total, time.monotonic() - self._began)
        return Text(line, style="cyan" if self._live else "", no_wrap=True, overflow="ellipsis")


def progress_line(run: Run[Any], total: int | None, seconds: float) -> str:
    """How a run stands after so many seconds; the time left is known once the first prompt is through."""
    tally = run.tally
    dropped = sum(run.dropped.values())
    seconds = max(1e-3, seconds)
    through = run.finished + dropped
    rate = run.finished / seconds
    of_total = "" if total is None else f"/{total:,}"
    parts = [f"{through + run.skipped:,}{of_total} {run.unit}s"]
    if run.finished:
        parts.append(f"{rate:,.1f} rows/s" if rate >= 1 else f"{60 * rate:.1f} rows/min")
    # A judge that is asked for probabilities writes nothing: then what it reads shows how fast it is.
    parts.append(f"{(tally.output_tokens or tally.input_tokens) / seconds:,.0f} tokens/s")
    parts.append(f"{tally.in_flight:,} in flight")
    if tally.cost:
        parts.append(f"${tally.cost:,.4f}")
    for count, name in ((dropped, "dropped"), (tally.retries, "retries"), (tally.throttled, "throttled")):
        if count:
            parts.append(f"{count:,} {name}")
    if total is not None and through:
        parts.append(f"{clock((total - through - run.skipped) * seconds / through)} left")
    return f"  {clock(seconds)}  {' · '.join(parts)}"


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:30 or 3:02:10."""
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def word_diff(before: str, after: str, *, marked: bool) -> Text:
    """The words that went, struck and red, and those that came, green; [-so-] and {+so+} if `marked`.

    Space counts as a part of the word before it: where it alone differs, it is shown as it is in `after`.
    """
    a = re.findall(r"\S+\s*", before.lstrip())
    b = re.findall(r"\S+\s*", after.lstrip())
    match = difflib.SequenceMatcher(None, [w.rstrip() for w in a], [w.rstrip() for w in b], autojunk=False)
    text = Text()
    for kind, a1, a2, b1, b2 in match.get_opcodes():
        removed = "".join(a[a1:a2])
        added = "".join(b[b1:b2])
        if kind == "equal":
            text.append(added)
        else:
            _append_change(text, removed, added, marked=marked)
    return text


def _append_change(text: Text, removed: str, added: str, *, marked: bool) -> None:
    """Append words that went and words that came in their place, a space apart from what is before them."""
    removal, addition = ("[-{}-]", "{{+{}+}}") if marked else ("{}", "{}")
    if text and not text.plain[-1].isspace():
        text.append(" ")
    if removed:
        text.append(removal.format(removed.rstrip()), "red strike")
    if removed and added and not marked:
        text.append(" ")
    if added:
        text.append(addition.format(added.rstrip()), "green")
    last = added or removed
    text.append(last[len(last.rstrip()) :])


def example(texts: Iterable[tuple[str, str]]) -> Iterator[Text]:
    """The texts of a row with their labels; a revision as what changed in the reply."""
    reply = ""
    for label, text in texts:
        if label == "reply":
            reply = text
        if label != "revision":
            yield from _block(label, Text(_short(text)))
        elif text == reply:
            yield from _block(label, Text("the reply, unchanged", "dim"))
        else:
            yield from _block(label, _change(_short(reply), _short(text)))


def _change(before: str, after: str) -> Text:
    """What changed in a text; the new text alone if a diff would be mostly marks."""
    kept = difflib.SequenceMatcher(None, before.split(), after.split(), autojunk=False).ratio()
    if kept < REWRITTEN:
        return Text(after)
    return word_diff(before, after, marked=not console.is_terminal or console.no_color)


def _block(label: str, text: Text) -> Iterator[Text]:
    """A text with its label before it, its lines below each other."""
    for number, line in enumerate(text.wrap(console, max(20, min(console.width, WIDEST) - LABEL), tab_size=4)):
        yield Text.assemble((f"{label:{LABEL}}", "bold") if number == 0 else " " * LABEL, line)


def show(lines: Iterable[Text | str]) -> None:
    """Print lines to stderr, as they are."""
    for line in lines:
        console.print(Text(printable(line)) if isinstance(line, str) else line)


def summary(run: Run[Any]) -> Iterator[Text | str]:
    """What a run came to: one whole example, the counts, and what to type next."""
    info = run.info
    if not info:
        return
    if run.example is not None:
        yield ""
        yield from example(run.shown(run.example))
        yield ""
    usage = info["usage"]
    dropped = sum(info["dropped"].values())
    yield (
        f"{counted(info['rows'], run.outcome)}, {dropped:,} dropped; {counted(usage['calls'], 'call')}, "
        f"{usage['input_tokens']:,} tokens in and {usage['output_tokens']:,} out, {_cost(info['cost_usd'])}, "
        f"{clock(info['seconds'])}"
    )
    if run.skipped:
        yield f"  {counted(run.skipped, run.unit)} already done in an earlier session"
    for reason, count in sorted(info["dropped"].items(), key=lambda item: -item[1]):
        yield f"  dropped {count:,} {reason}: see {run.out / 'dropped.jsonl'}"
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


def _cost(usd: float | None) -> str:
    if usd is None:
        return "price unknown"
    return f"${usd:,.4f}" if usd else "free"


def _short(text: str) -> str:
    """As much of a text as a screen has room for, without blank lines; safe to print."""
    text = "\n".join(" ".join(line.split()) for line in printable(text).splitlines() if line.strip())
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"
