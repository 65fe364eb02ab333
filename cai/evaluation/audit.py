"""The hygiene of a whole dataset, ours or others': what share of its replies has which fault, and the verdict per row.

One pass; memory does not grow with the rows, except for about 2 KB a prompt that finds the repeated ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from cai.errors import SourceError, UsageError
from cai.evaluation.audit_report import MEASURES, OF_REPLIES, Audit, ReplyAudit
from cai.export.cut import Table
from cai.folder.files import unwritable
from cai.records import KINDS
from cai.sources.conversations import BadRecord, prompt_in
from cai.sources.files import read_records
from cai.sources.replies import PAIRS, RANKED, Case, read_case, written
from cai.texts import repeats
from cai.texts.hygiene import FAULTS, identical, near_identical, refusal
from cai.texts.wording import nearest

PHRASE_SHARE = 0.05  # of a role's replies, from which on a phrase is listed
SHOWN = 5  # bad rows and phrases that are listed
# Files of a run; the first with rows is audited.
FOLDER_FILES = ("dpo.jsonl", "sft.jsonl", "kto.jsonl", *dict.fromkeys(kind.rows_file for kind in KINDS.values()))


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
    _check_kind("source", source)
    _check_kind("against", against)
    notes: list[str] = []
    name = "records"
    if isinstance(source, str | Path):
        if Path(source).is_dir():
            source, twin = _in_folder(Path(source))
            notes.append(f"of the run folder, {source.name} was read")
            if against is None and twin is not None:
                against = twin
                notes.append(f"its prompts were looked for in {twin.name}")
        if rows is not None and Path(rows).absolute() == Path(source).absolute():
            raise UsageError(f"--rows {rows} is the file that is audited; name another")
        name = str(source)
    count = _Count(None if against is None else _prompts_of(against, prompt_field))
    with _rows_file(rows) as table:
        for line, record in read_records(source):
            verdicts = count.add(line, record, reply_field, prompt_field)
            if table is not None:
                for verdict in verdicts:
                    table.add(orjson.dumps(verdict, option=orjson.OPT_APPEND_NEWLINE))
        return count.result(name, notes)


def _check_kind(name: str, source: Any) -> None:
    if source is not None and not isinstance(source, str | Path | Iterable):
        raise UsageError(f"the {name} is {source!r}: name a file or a run folder, or pass a list of records")


@contextmanager
def _rows_file(path: str | Path | None) -> Iterator[Table | None]:
    """The file of `--rows`, which takes its place when everything is written; None if none is named."""
    if path is None:
        yield None
        return
    table = None
    try:
        table = Table(Path(path), None)
        yield table
        table.finish()
        table.publish()
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if table is not None:
            table.discard()


def _prompts_of(source: str | Path | Iterable[Any], prompt_field: str | None) -> repeats.Repeats:
    """The prompts of the dataset that is compared with; a record without a reply counts by its prompt."""
    prompts = repeats.Repeats()
    for _, record in read_records(source):
        prompt = _prompt_of(record, prompt_field)
        if prompt is not None:
            prompts.add(prompt)
    if not len(prompts):
        path = source if isinstance(source, str | Path) else None
        raise SourceError("there is no prompt in it to compare with", path)
    return prompts


def _prompt_of(record: Any, prompt_field: str | None) -> str | None:
    with suppress(BadRecord):
        return read_case(record, None, prompt_field).prompt
    with suppress(BadRecord):
        return written(prompt_in(record, prompt_field)) if isinstance(record, Mapping) else None
    return None


def _in_folder(folder: Path) -> tuple[Path, Path | None]:
    """The file of a run folder to audit, and its eval file, if it has one with rows."""
    for name in FOLDER_FILES:
        path = folder / name
        if _has_rows(path):
            twin = path.with_suffix(".eval.jsonl")
            return path, twin if _has_rows(twin) else None
    raise SourceError(f"is a folder without rows; a run folder has one of {', '.join(FOLDER_FILES)}", folder)


def _has_rows(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


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
        name: Any = None
        if isinstance(record, Mapping):
            if not self._counts:
                _check_field(record, reply_field, "--reply-field")
                _check_field(record, prompt_field, "--prompt-field")
            name = record.get("id")
        if not isinstance(name, str | int | None):
            name = str(name)
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
        return [{"line": line, "id": name, **verdict, **shared} for verdict in verdicts]

    def _reply(self, role: str, text: str, case: Case, index: int) -> dict[str, Any]:
        counts = self._roles.setdefault(role, Counter())
        counts["replies"] += 1
        counts["characters"] += len(text.strip())
        self._phrases.setdefault(role, repeats.Phrases()).add(text)
        faults = {"empty": not text.strip()}
        faults |= {name: fault.test(text) for name, fault in FAULTS.items()}
        faults["truncated"] |= index in case.cut
        counts.update([name for name, is_there in faults.items() if is_there])
        refused = refusal(text, case.asked)
        if refused != "none":
            counts.update(["refusal", f"refusal_{refused}"])
        return {"role": role, "index": index, "refusal": refused, **faults, "characters": len(text.strip())}

    def _prompt(self, prompt: str | None) -> dict[str, bool]:
        if prompt is None:
            return {}
        self._counts["prompts"] += 1
        same, alike = self._seen.add(prompt)
        verdict = {"duplicate_prompt": same, "near_duplicate_prompt": alike and not same}
        if self._others is not None:
            same, alike = self._others.find(prompt)
            verdict |= {"overlap": same, "near_overlap": alike and not same}
        return verdict

    def _pair(self, replies: Sequence[tuple[str, str]], verdicts: Sequence[dict[str, Any]]) -> dict[str, bool]:
        roles = tuple(role for role, _ in replies)
        if roles not in PAIRS:
            return {}
        self._counts["pairs"] += 1
        (_, a), (_, b) = replies
        same = identical(a, b)
        verdict = {
            "identical": same,
            "near_identical": not same and near_identical(a, b),
            "both_refused": all(verdict["refusal"] != "none" for verdict in verdicts),
        }
        if roles in RANKED:
            self._counts["ranked"] += 1
            verdict["chosen_longer"] = verdicts[0]["characters"] > verdicts[1]["characters"]
        return verdict

    def result(self, source: str, notes: Sequence[str]) -> Audit:
        """What was found in all records; raises SourceError if none has a reply."""
        counts = self._counts
        if not counts["rows"]:
            line, problem = self._bad_rows[0]
            raise SourceError(f"no record has a reply that can be read; the first: {problem}", source, line)
        roles = {role: self._of_role(role, replies) for role, replies in self._roles.items()}
        totals = sum(self._roles.values(), Counter(counts))
        of_dataset = {"bad": counts["rows"] + counts["bad"], "chosen_longer": counts["ranked"]}
        of_dataset |= dict.fromkeys(OF_REPLIES, totals["replies"])
        of_dataset |= dict.fromkeys(("identical", "near_identical", "both_refused"), counts["pairs"])
        of_dataset |= dict.fromkeys(("duplicate_prompt", "near_duplicate_prompt"), counts["prompts"])
        if self._others is not None:
            of_dataset |= dict.fromkeys(("overlap", "near_overlap"), counts["prompts"])
        return Audit(
            source=source,
            rows=counts["rows"],
            bad=counts["bad"],
            bad_rows=tuple(self._bad_rows),
            prompts=counts["prompts"],
            pairs=counts["pairs"],
            roles=roles,
            counts={name: totals[name] for name in MEASURES},
            rates={name: _share(totals[name], of_dataset.get(name, 0)) for name in MEASURES},
            notes=tuple(notes),
        )

    def _of_role(self, role: str, counts: Counter[str]) -> ReplyAudit:
        replies = counts["replies"]
        return ReplyAudit(
            replies=replies,
            characters=counts["characters"] / replies,
            counts={name: counts[name] for name in OF_REPLIES},
            rates={name: counts[name] / replies for name in OF_REPLIES},
            phrases=tuple(self._phrases[role].top(PHRASE_SHARE, SHOWN)),
        )


def _share(count: int, total: int) -> float | None:
    if not total:
        return None
    return count / total


def _check_field(record: Mapping[Any, Any], field: str | None, option: str) -> None:
    """A column that was named must be in the first record."""
    if field is not None and field not in record:
        raise UsageError(f"{option} {field!r}: there is no such column; {nearest(field, record)}")
