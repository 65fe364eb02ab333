"""What a run looks like in a terminal: live progress, the closing summary, a word diff.

Writes to stderr through rich. Knows counts and rows; nothing of how they come about.
"""

from __future__ import annotations

import difflib
import re
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from cai.pipeline import Job
    from cai.records import Revision

LINE_EVERY = 10.0  # seconds between progress lines where stderr is no terminal
console = Console(stderr=True, highlight=False, soft_wrap=True)


class Progress:
    """Shows how a job goes: one live line in a terminal, a plain line now and then elsewhere."""

    def __init__(self, job: Job) -> None:
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
        if console.is_terminal:
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
        job, seconds = self.job, max(1e-6, time.monotonic() - self._began)
        tally, dropped = job.tally, sum(job.dropped.values())
        through = job.finished + dropped
        total = "" if self.total is None else f"/{self.total:,}"
        parts = [
            f"{through + job.skipped:,}{total} prompts",
            f"{job.finished / seconds:.2g} rows/s",
            f"{tally.output_tokens / seconds:,.0f} tokens/s",
            f"{tally.in_flight} in flight",
        ]
        if tally.cost:
            parts.append(f"${tally.cost:.4f}")
        for count, name in ((dropped, "dropped"), (tally.retries, "retries"), (tally.throttled, "throttled")):
            if count:
                parts.append(f"{count:,} {name}")
        if self.total is not None and through:
            left = (self.total - through - job.skipped) * seconds / through
            parts.append(f"{clock(left)} left")
        return Text(f"  {clock(seconds)}  " + " · ".join(parts), style="cyan" if self._live else "")


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:30 or 3:02:10."""
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def word_diff(before: str, after: str) -> Text:
    """The words that went in red, those that came in green; marked [-so-] and {+so+} where there is no colour."""
    a, b = re.findall(r"\s+|\S+", before), re.findall(r"\s+|\S+", after)
    text, plain = Text(), not console.is_terminal or console.no_color
    for kind, a1, a2, b1, b2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "equal":
            text.append("".join(a[a1:a2]))
            continue
        gone, come = "".join(a[a1:a2]), "".join(b[b1:b2])
        if gone:
            text.append(f"[-{gone}-]" if plain else gone, "red strike")
        if come:
            text.append(f"{{+{come}+}}" if plain else come, "green")
    return text


def example(row: Revision) -> Iterator[Text]:
    """One whole row to look at: prompt, first reply, critiques, and what the rounds changed."""
    yield Text.assemble(("prompt     ", "bold"), _short(row.prompt[-1]["content"]))
    yield Text.assemble(("reply      ", "bold"), _short(row.initial))
    for turn in row.rounds:
        yield Text.assemble(("critique   ", "bold"), f"under {turn.principle}: ", _short(turn.critique))
    yield Text.assemble(("revision   ", "bold"), word_diff(_short(row.initial), _short(row.final)))


def show(lines: Iterable[Text | str]) -> None:
    """Print lines to stderr, as they are."""
    for line in lines:
        console.print(line, markup=False)


def summary(job: Job) -> Iterator[Text | str]:
    """What a run came to: one whole example, the counts, and what to type next."""
    info = job.info
    if not info:
        return
    if job.example is not None:
        yield ""
        yield from example(job.example)
        yield ""
    usage = info["usage"]
    cost = "price unknown" if info["cost_usd"] is None else f"${info['cost_usd']:.4f}"
    yield (
        f"{info['rows']:,} rows kept, {sum(info['dropped'].values()):,} dropped; {usage['calls']:,} calls, "
        f"{usage['input_tokens']:,} tokens in and {usage['output_tokens']:,} out, {cost}, {clock(info['seconds'])}"
    )
    for reason, count in sorted(info["dropped"].items(), key=lambda item: -item[1]):
        yield f"  dropped {count:,} {reason}: see {job.folder / 'dropped.jsonl'}"
    if job.stopped is None and info["rows"]:
        yield f"training rows in {job.folder / 'sft.jsonl'}; cut them again with: cai export {job.folder} --split 0.9"


def _short(text: str, most: int = 1_200) -> str:
    """A text on one screen."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
