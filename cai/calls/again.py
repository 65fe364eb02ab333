"""What a run does not ask anew, since another run has the answer; and which of its dropped rows it tries again."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from cai.calls.earlier import OtherRun
from cai.disk.reading import exists
from cai.errors import RunError, UsageError
from cai.folder.info import find_info
from cai.folder.shards.layout import shards_in
from cai.records import DROP_REASONS
from cai.texts.wording import counted, listed, nearest

log = logging.getLogger("cai")
JOURNAL = "calls.sqlite"
INSIDE = (JOURNAL, f"*/{JOURNAL}", f"*/*/{JOURNAL}", f"*/*/*/{JOURNAL}")  # a run has labels or gold in it
EVALUATION = "evaluation.json"  # which has runs inside
ALWAYS = "model_error"  # is tried again without being named
RETRIABLE = ("truncated", "empty", "content_filter", "too_long", ALWAYS)
OF_RECORDS = ("bad_input", "duplicate_prompt")


# Drops that are tried again


def reasons_of(retry: str | Sequence[str]) -> tuple[str, ...]:
    """The reasons of drops that are tried again; raises UsageError for one that asking again cannot do away with."""
    texts = [retry] if isinstance(retry, str) else retry
    words = [word.strip() for text in texts for word in text.split(",")]
    for word in words:
        if word not in RETRIABLE:
            raise UsageError(f"--retry {word or repr(word)}: {_why_not(word)}")
    return tuple(dict.fromkeys((ALWAYS, *words)))


def _why_not(word: str) -> str:
    if word in OF_RECORDS:
        return f"no model was asked about such a record: mend the source, and leave {word} out of --retry"
    if word == "identical":
        return "two replies that are the same make no pair, however often a model is asked: leave it out"
    if word in DROP_REASONS:
        return f"that is decided when rows are cut: see cai export --help; --retry takes {listed(RETRIABLE)}"
    return f"no row is dropped for that; {nearest(word, RETRIABLE)}"


def how_again(reason: str, max_tokens: int) -> str:
    """What to add to a command that tries the rows which were dropped for a reason again; "" if nothing would help."""
    if reason == "truncated":
        return f"--max-tokens {2 * max_tokens} --retry truncated"
    return f"--retry {reason}" if reason in RETRIABLE and reason != ALWAYS else ""


# Calls of other runs


def check_reused(folders: Sequence[Path], out: Path) -> None:
    """Raise UsageError or RunError for a folder whose calls cannot be used; out: the folder of the run itself."""
    for folder in folders:
        advice = f"name the folder of a run, or leave out --reuse {folder}"
        if folder.resolve() == out.resolve():
            raise UsageError(
                f"--reuse {folder} is the folder of this run, which uses its own calls anyway: leave it out"
            )
        if not folder.is_dir():
            problem = "it is a file, not a run folder" if folder.exists() else "there is no such folder"
            raise RunError(f"--reuse {folder}: {problem}; {advice}")
        info = find_info(folder, advice)
        if info is None and not exists(folder / EVALUATION) and not shards_in(folder):
            raise RunError(f"--reuse {folder} is not a run folder: it has no run.json; {advice}")
        if not any(_journals(folder, out)):
            raise RunError(f"--reuse {folder} has no {JOURNAL}, in which its calls were; {advice}")
        hidden = (info or {}).get("secrets_hidden", 0)
        if hidden:
            log.warning("%s: in %s a secret was replaced by ***: they are used so", folder, counted(hidden, "answer"))


@contextmanager
def journals_of(folders: Sequence[Path], out: Path) -> Iterator[list[OtherRun]]:
    """The journals of runs and of those inside them, open to be read; a run may be writing there."""
    with ExitStack() as opened:
        stores = []
        for folder in folders:
            for journal in _journals(folder, out):
                stores.append(opened.enter_context(closing(OtherRun(journal))))
        yield stores


def _journals(folder: Path, out: Path) -> Iterator[Path]:
    """The folders with calls, without that of the run itself."""
    for pattern in INSIDE:
        for path in sorted(folder.glob(pattern)):
            if path.parent.resolve() != out.resolve():
                yield path.parent
