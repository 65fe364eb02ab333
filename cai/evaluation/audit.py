"""The hygiene of a whole dataset, ours or others': what share of its replies has which fault, and the verdict per row.

One pass; memory does not grow with the rows, but for about 2 KB a prompt that finds the repeated ones. Knows what is
counted; where a record has its replies is `audit_cases`', and what a fault is, the method says.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from cai.errors import RunError, SourceError, UsageError
from cai.evaluation.audit_report import MEASURES, OF_PAIRS, OF_PROMPTS, OF_REPLIES, Audit, ReplyAudit, hint
from cai.sources.conversations import BadRecord, prompt_in
from cai.sources.files import read_records
from cai.sources.replies import PAIRS, RANKED, Case, read_case, written
from cai.texts import repeats
from cai.texts.hygiene import FAULTS
from cai.texts.refusals import refusal

PHRASE_SHARE = 0.05  # of a role's replies, from which on a phrase is listed
SHOWN = 5  # bad rows and phrases that are listed
FOLDER_FILES = ("dpo", "sft", "kto", "candidates", "revisions", "labels")  # of a run; the first with rows is audited


def audit(
    source: str | Path | Iterable[Any],
    *,
    reply_field: str | None = None,
    prompt_field: str | None = None,
    against: str | Path | Iterable[Any] | None = None,
    rows: str | Path | None = None,
) -> Audit:
    """Audit a dataset: a file, a run folder, `hf:org/name`, or an iterable of records.

    reply_field, prompt_field: columns of the reply and the prompt, for shapes that are not known. against: a dataset
    whose prompts this one should not have, such as its eval split; of a run folder it is the eval file, if there is
    one. rows: a JSONL file that gets the verdict on every reply. Raises UsageError for a column that is not there and
    SourceError for a source that cannot be read or has no reply.
    """
    for name, given in (("source", source), ("against", against)):
        if given is not None and not isinstance(given, str | Path | Iterable):
            raise UsageError(f"the {name} is {given!r}: name a file or a run folder, or pass a list of records")
    notes: list[str] = []
    if isinstance(source, str | Path) and Path(source).is_dir():
        source, twin = _in_folder(Path(source))
        notes.append(f"of the run folder, {source.name} was read")
        if against is None and twin is not None:
            against = twin
            notes.append(f"its prompts were looked for in {twin.name}")
    if rows is not None and isinstance(source, str | Path) and Path(rows).absolute() == Path(source).absolute():
        raise UsageError(f"--rows {rows} is the file that is audited; name another")
    count = _Count(None if against is None else _prompts_of(against, prompt_field))
    out = None if rows is None else _Out(Path(rows))
    try:
        for line, record in read_records(source):
            verdicts = count.add(line, record, reply_field, prompt_field)
            if out is not None:
                out.write(verdicts)
        name = str(source) if isinstance(source, str | Path) else "records"
        found = count.result(name, notes)
        if out is not None:
            out.publish()
    finally:
        if out is not None:
            out.discard()
    return found


def _prompts_of(source: str | Path | Iterable[Any], prompt_field: str | None) -> repeats.Repeats:
    """The prompts of the dataset that is compared with; a record without a reply counts by its prompt alone."""
    found = repeats.Repeats()
    for _, record in read_records(source):
        prompt = _prompt_of(record, prompt_field)
        if prompt is not None:
            found.add(prompt)
    if not len(found):
        raise SourceError(
            "there is no prompt in it to compare with", source if isinstance(source, str | Path) else None
        )
    return found


def _prompt_of(record: Any, prompt_field: str | None) -> str | None:
    with suppress(BadRecord):
        return read_case(record, None, prompt_field).prompt
    with suppress(BadRecord):
        return written(prompt_in(record, prompt_field)) if isinstance(record, Mapping) else None
    return None


def _in_folder(folder: Path) -> tuple[Path, Path | None]:
    """The file of a run folder to audit, and its eval file, if it has one with rows."""
    for name in FOLDER_FILES:
        path, twin = folder / f"{name}.jsonl", folder / f"{name}.eval.jsonl"
        if path.exists() and path.stat().st_size:
            return path, twin if twin.exists() and twin.stat().st_size else None
    names = ", ".join(f"{name}.jsonl" for name in FOLDER_FILES)
    raise SourceError(f"is a folder without rows; a run folder has one of {names}", folder)


# Counting


class _Count:
    """An audit in progress."""

    def __init__(self, others: repeats.Repeats | None) -> None:
        self._others = others
        self._seen = repeats.Repeats()
        self._counts: Counter[str] = Counter()  # of rows, pairs and prompts
        self._roles: dict[str, Counter[str]] = {}
        self._phrases: dict[str, repeats.Phrases] = {}
        self._bad_rows: list[tuple[int, str]] = []

    def add(self, line: int, record: Any, reply_field: str | None, prompt_field: str | None) -> list[dict[str, Any]]:
        """Count one record; returns the verdict on each of its replies, or why it has none."""
        if not self._counts:
            _check_fields(record, reply_field, prompt_field)
        name = record.get("id") if isinstance(record, Mapping) else None
        name = name if isinstance(name, str | int | None) else str(name)
        try:
            case = read_case(record, reply_field, prompt_field)
        except BadRecord as bad:
            self._counts["bad"] += 1
            if len(self._bad_rows) < SHOWN:
                self._bad_rows.append((line, str(bad)))
            return [{"line": line, "id": name, "problem": str(bad)}]
        self._counts["rows"] += 1
        verdicts = [self._reply(role, text, case, index) for index, (role, text) in enumerate(case.replies)]
        shared = self._prompt(case.prompt) | self._pair(case.replies, verdicts)
        self._counts.update([key for key, value in shared.items() if value])
        return [
            {"line": line, "id": name, "role": role, "index": index, **verdict, **shared}
            for index, ((role, _), verdict) in enumerate(zip(case.replies, verdicts, strict=True))
        ]

    def _reply(self, role: str, text: str, case: Case, index: int) -> dict[str, Any]:
        refused = refusal(text, case.asked)
        verdict: dict[str, Any] = {"refusal": refused, "empty": not text.strip()}
        verdict |= {name: fault.test(text) for name, fault in FAULTS.items()}
        verdict["truncated"] |= index in case.cut
        counts = self._roles.setdefault(role, Counter())
        counts.update([check for check, value in verdict.items() if value is True])
        counts.update(["replies"] if refused == "none" else ["replies", "refusal", f"refusal_{refused}"])
        counts["characters"] += len(text.strip())
        self._phrases.setdefault(role, repeats.Phrases()).add(text)
        return {**verdict, "characters": len(text.strip())}

    def _prompt(self, prompt: str | None) -> dict[str, bool]:
        if prompt is None:
            return {}
        self._counts["prompts"] += 1
        same, like = self._seen.add(prompt)
        found = {"duplicate_prompt": same, "near_duplicate_prompt": like and not same}
        if self._others is not None:
            same, like = self._others.find(prompt)
            found |= {"overlap": same, "near_overlap": like and not same}
        return found

    def _pair(self, replies: Sequence[tuple[str, str]], verdicts: Sequence[dict[str, Any]]) -> dict[str, bool]:
        roles = tuple(role for role, _ in replies)
        if roles not in PAIRS:
            return {}
        self._counts["pairs"] += 1
        (_, a), (_, b) = replies
        same = repeats.identical(a, b)
        found = {
            "identical": same,
            "near_identical": not same and repeats.near_identical(a, b),
            "both_refused": all(verdict["refusal"] != "none" for verdict in verdicts),
        }
        if roles in RANKED:
            self._counts["ranked"] += 1
            found["chosen_longer"] = verdicts[0]["characters"] > verdicts[1]["characters"]
        return found

    def result(self, source: str, notes: Sequence[str]) -> Audit:
        counts = self._counts
        if not counts["rows"]:
            line, problem = self._bad_rows[0]
            raise SourceError(f"no record has a reply that can be read; the first: {problem}", source, line)
        roles = {role: self._of_role(role, found) for role, found in self._roles.items()}
        replies = sum(found.replies for found in roles.values())
        sums = {name: sum(found.counts[name] for found in roles.values()) for name in OF_REPLIES}
        compared = counts["prompts"] if self._others is not None else 0
        over = {"bad": counts["rows"] + counts["bad"], "chosen_longer": counts["ranked"]}
        over |= dict.fromkeys(OF_REPLIES, replies) | dict.fromkeys(OF_PAIRS[:3], counts["pairs"])
        over |= dict.fromkeys(OF_PROMPTS[:2], counts["prompts"]) | dict.fromkeys(OF_PROMPTS[2:], compared)
        totals = {name: sums.get(name, counts[name]) for name in MEASURES}
        return Audit(
            source=source,
            rows=counts["rows"],
            bad=counts["bad"],
            bad_rows=tuple(self._bad_rows),
            prompts=counts["prompts"],
            pairs=counts["pairs"],
            roles=roles,
            counts=totals,
            rates={name: totals[name] / over[name] if over[name] else None for name in MEASURES},
            notes=tuple(notes),
        )

    def _of_role(self, role: str, found: Counter[str]) -> ReplyAudit:
        replies = found["replies"]
        return ReplyAudit(
            replies=replies,
            characters=found["characters"] / replies,
            counts={name: found[name] for name in OF_REPLIES},
            rates={name: found[name] / replies for name in OF_REPLIES},
            phrases=tuple(self._phrases[role].top(PHRASE_SHARE, SHOWN)),
        )


def _check_fields(record: Any, reply_field: str | None, prompt_field: str | None) -> None:
    """A column that was named must be in the first record."""
    for field, option in ((reply_field, "--reply-field"), (prompt_field, "--prompt-field")):
        if field is not None and isinstance(record, Mapping) and field not in record:
            raise UsageError(f"{option} {field!r}: there is no such column; {hint(field, record)}")


class _Out:
    """The file of `--rows`: written beside its place, and put there when it is whole."""

    def __init__(self, path: Path) -> None:
        self._path, self._part = path, path.with_name(path.name + ".part")
        try:
            self._file: BinaryIO = open(self._part, "wb")  # noqa: SIM115
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from error

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._try(lambda: self._file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))

    def publish(self) -> None:
        self._try(self._file.close)
        self._try(lambda: os.replace(self._part, self._path))

    def discard(self) -> None:
        """Close, and remove what was not published."""
        with suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except OSError as error:
            raise RunError(f"cannot write {self._path}: {error.strerror or error}; free some space") from error
