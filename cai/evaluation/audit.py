"""The hygiene of a whole dataset, ours or others': what share of its replies has which fault, and the verdict per row.

One pass; memory does not grow with the rows, except for about 2 KB a prompt that finds the repeated ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import orjson

from cai.disk.writing import unwritable
from cai.engine.asked import shipped_ngrams
from cai.errors import SourceError, UsageError
from cai.evaluation.audit_report import MEASURES, OF_REPLIES, Audit, ReplyAudit
from cai.judge.metrics import share
from cai.records import KINDS, Values
from cai.sources.cases import Case, read_case, written
from cai.sources.conversations import prompt_in
from cai.sources.files import Source, read_records
from cai.sources.replies import PAIRS, RANKED
from cai.sources.values import BadRecord, as_text, object_of
from cai.texts import repeats
from cai.texts.hygiene import FAULTS, said_in
from cai.texts.likeness import identical, near_identical
from cai.texts.refusals import ENGLISH, refusal
from cai.texts.wording import nearest

PHRASE_SHARE = 0.05  # of a role's replies, from which on a phrase is listed
SHOWN = 5  # bad rows and phrases that are listed
# Files of a run; the first with rows is audited.
FOLDER_FILES = ("dpo.jsonl", "sft.jsonl", "kto.jsonl", *dict.fromkeys(kind.rows_file for kind in KINDS.values()))


def audit(
    source: Source,
    *,
    reply_field: str | None = None,
    prompt_field: str | None = None,
    against: Source | None = None,
    rows: str | Path | None = None,
) -> Audit:
    """Audit a dataset: a file, a run folder, `hf:org/name`, or an iterable of records.

    reply_field, prompt_field: columns of the reply and the prompt, for shapes of your own. against: a dataset whose
    prompts this one should not have, such as its eval split; for a run folder it defaults to the eval file, if there is
    one. rows: a JSONL file that gets the verdict on every reply. Raises UsageError if a column is missing, SourceError
    if the source cannot be read or has no reply.
    """
    for option, value in (("source", source), ("against", against)):
        if not isinstance(value, str | Path | Iterable | None):
            raise UsageError(f"the {option} is {value!r}: name a file or a run folder, or pass a list of records")
    notes: list[str] = []
    name = "records"
    if isinstance(source, str | Path):
        if Path(source).is_dir():
            source, twin = _in_folder(Path(source))
            notes.append(f"of the run folder, {source.name} was read")
            if against is None and _has_rows(twin):
                against = twin
                notes.append(f"its prompts were looked for in {twin.name}")
        if rows is not None and Path(rows).absolute() == Path(source).absolute():
            raise UsageError(f"--rows {rows} is the file that is audited; name another")
        name = str(source)
    count = _Count(reply_field, prompt_field)
    if against is not None:
        count.others = _prompts_of(against, prompt_field)
    with _rows_file(rows) as file:
        for line, record in read_records(source):
            verdicts = count.add(line, record)
            if file is not None:
                file.writelines(orjson.dumps(verdict, option=orjson.OPT_APPEND_NEWLINE) for verdict in verdicts)
        return count.result(name, [*notes, ENGLISH])


@contextmanager
def _rows_file(path: str | Path | None) -> Iterator[IO[bytes] | None]:
    """The file of `--rows`, which gets its name when everything is written; None if none is named."""
    if path is None:
        yield None
        return
    part = Path(f"{path}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink()


def _prompts_of(source: Source, prompt_field: str | None) -> repeats.Repeats:
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
        return written(prompt_in(object_of(record, "a prompt"), prompt_field))
    return None


def _in_folder(folder: Path) -> tuple[Path, Path]:
    """The file of a run folder to audit, and the name of its eval file."""
    for name in FOLDER_FILES:
        path = folder / name
        if _has_rows(path):
            return path, path.with_suffix(".eval.jsonl")
    raise SourceError(f"is a folder without rows; a run folder has one of {', '.join(FOLDER_FILES)}", folder)


def _has_rows(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


MOST = 2**63  # JSON that is written holds no greater whole number


def _name_of(record: Any) -> str | int | None:
    """The id of a record, as JSON can hold it; BadRecord if it is not UTF-8."""
    name = record.get("id") if isinstance(record, Mapping) else None
    if isinstance(name, str):
        return as_text(name, "the id")
    is_written_as_it_is = name is None or (isinstance(name, int) and -MOST <= name < MOST)
    return name if is_written_as_it_is else str(name)


class _Count:
    """An audit in progress."""

    def __init__(self, reply_field: str | None, prompt_field: str | None) -> None:
        self.others: repeats.Repeats | None = None  # prompts of the dataset that is compared with
        self._columns = {"--reply-field": reply_field, "--prompt-field": prompt_field}
        self._prompts = repeats.Repeats()
        self._counts = Counter[str]()  # of records, pairs and prompts
        self._roles = defaultdict[str, Counter[str]](Counter)
        self._phrases = defaultdict[str, repeats.Phrases](repeats.Phrases)
        self._bad_rows: list[tuple[int, str]] = []

    def add(self, line: int, record: Any) -> list[Values]:
        """Count one record; returns the verdict on each of its replies, or why it has none."""
        if isinstance(record, Mapping):
            self._check_columns(record)
        self._counts["records"] += 1
        name = None
        try:
            name = _name_of(record)
            case = read_case(record, *self._columns.values())
        except BadRecord as bad:
            self._counts["bad"] += 1
            if len(self._bad_rows) < SHOWN:
                self._bad_rows.append((line, str(bad)))
            return [{"line": line, "id": name, "problem": str(bad)}]
        verdicts = [self._reply(role, text, case, index) for index, (role, text) in enumerate(case.replies)]
        shared = self._prompt(case.prompt) | self._pair(case.replies, verdicts)
        self._counts.update(name for name, is_so in shared.items() if is_so)
        return [{"line": line, "id": name, **verdict, **shared} for verdict in verdicts]

    def _check_columns(self, record: Mapping[Any, Any]) -> None:
        """A column that was named must be in the first record."""
        if self._counts["records"]:
            return
        for option, column in self._columns.items():
            if column is not None and column not in record:
                raise UsageError(f"{option} {column!r}: there is no such column; {nearest(column, record)}")

    def _reply(self, role: str, text: str, case: Case, index: int) -> Values:
        faults = {"empty": not text.strip()}
        asked = shipped_ngrams()
        faults |= {name: fault.is_in(text, said_in(case.turns), asked) for name, fault in FAULTS.items()}
        faults["truncated"] |= index in case.cut
        refused = refusal(text, case.question)
        characters = len(text.strip())
        counts = self._roles[role]
        counts.update(name for name, is_there in faults.items() if is_there)
        counts.update(replies=1, characters=characters)
        if refused != "none":
            counts.update(["refusal", f"refusal_{refused}"])
        self._phrases[role].add(text)
        return {"role": role, "index": index, "refusal": refused, **faults, "characters": characters}

    def _prompt(self, prompt: str | None) -> dict[str, bool]:
        if prompt is None:
            return {}
        self._counts["prompts"] += 1
        same, alike = self._prompts.add(prompt)
        verdict = {"duplicate_prompt": same, "near_duplicate_prompt": alike and not same}
        if self.others is not None:
            self._counts["compared"] += 1
            same, alike = self.others.find(prompt)
            verdict |= {"overlap": same, "near_overlap": alike and not same}
        return verdict

    def _pair(self, replies: Sequence[tuple[str, str]], verdicts: Sequence[Values]) -> dict[str, bool]:
        roles = tuple(role for role, _ in replies)
        if roles not in PAIRS:
            return {}
        self._counts["pairs"] += 1
        texts = [text for _, text in replies]
        same = identical(*texts)
        verdict = {
            "identical": same,
            "near_identical": not same and near_identical(*texts),
            "both_refused": all(verdict["refusal"] != "none" for verdict in verdicts),
        }
        if roles in RANKED:
            self._counts["ranked"] += 1
            verdict["chosen_longer"] = verdicts[0]["characters"] > verdicts[1]["characters"]
        return verdict

    def result(self, source: str, notes: Sequence[str]) -> Audit:
        """The audit of all records; raises SourceError if none has a reply."""
        counts = self._counts
        rows = counts["records"] - counts["bad"]
        if not rows:
            line, problem = self._bad_rows[0]
            raise SourceError(f"no record has a reply that can be read; the first: {problem}", source, line)
        totals = sum(self._roles.values(), Counter(counts))
        roles = {}
        for role, of_role in self._roles.items():
            replies = of_role["replies"]
            roles[role] = ReplyAudit(
                replies=replies,
                characters=of_role["characters"] / replies,
                counts={name: of_role[name] for name in OF_REPLIES},
                rates={name: of_role[name] / replies for name in OF_REPLIES},
                phrases=tuple(self._phrases[role].top(PHRASE_SHARE, SHOWN)),
            )
        return Audit(
            source=source,
            rows=rows,
            bad=counts["bad"],
            bad_rows=tuple(self._bad_rows),
            prompts=counts["prompts"],
            pairs=counts["pairs"],
            roles=roles,
            counts={name: totals[name] for name in MEASURES},
            rates={name: share(totals[name], totals[whole]) for name, whole in MEASURES.items()},
            notes=tuple(notes),
        )
