"""The hygiene of a whole dataset, ours or others': what share of its replies has which fault, and the verdict per row.

One pass; memory does not grow with the rows, but for about 2 KB a prompt that finds the repeated ones. Knows the
shapes in which files hold replies (docs/auditing.md lists them) and what is counted; what a fault is, the method says.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from cai import hygiene
from cai.conversations import ROLES, NoPrompt, listed
from cai.errors import RunError, SourceError, UsageError
from cai.records import Record
from cai.refusals import refusal
from cai.sources import read_records

CHECKS: dict[str, Callable[[str], bool]] = {  # of one reply; "empty" and the refusals come before them
    "truncated": hygiene.truncated,
    "preamble_leak": hygiene.preamble_leak,
    "role_mixup": hygiene.role_mixup,
    "evasive": hygiene.evasive,
    "comfort": hygiene.comfort,
    "sign_off": hygiene.sign_off,
    "emoji": hygiene.emoji,
}
OF_REPLIES = ("empty", "refusal", "refusal_full", "refusal_partial", *CHECKS)  # "refusal" is either of the two
OF_PAIRS = ("identical", "near_identical", "both_refused", "chosen_longer")
OF_PROMPTS = ("duplicate_prompt", "near_duplicate_prompt", "overlap", "near_overlap")
MEASURES = ("bad", *OF_REPLIES, *OF_PAIRS, *OF_PROMPTS)  # the names that `--fail-on` knows
PAIRS = (  # columns of two replies; of the first three, the one that training would prefer comes first
    ("chosen", "rejected"), ("final", "initial"), ("a", "b"), ("output_1", "output_2"), ("text_a", "text_b"),
    ("response_a", "response_b"),
)  # fmt: skip
RANKED = PAIRS[:2]
REPLIES = (  # columns of one reply, first match wins
    "messages", "conversations", "completion", "output", "response", "reply", "answer", "text", "generation", "chosen",
)  # fmt: skip
PROMPTS = ("prompt", "instruction", "question", "input", "rl_prompt")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
MARKERS = {"system": "\n\nSystem:", "user": HUMAN, "assistant": ASSISTANT}
PHRASE_SHARE = 0.05  # of a role's replies, from which on a phrase is listed
SHOWN = 5  # bad rows and phrases that are listed
FOLDER_FILES = ("dpo", "sft", "kto", "candidates", "revisions", "labels")  # of a run; the first with rows is audited


class ReplyAudit(Record):
    """What was found in the replies of one role."""

    replies: int
    characters: float  # on average
    counts: dict[str, int]  # by name, of OF_REPLIES
    rates: dict[str, float]  # counts over replies
    phrases: tuple[tuple[str, float], ...]  # runs of words that many replies hold, with the share that does


class Audit(Record):
    """What was found in a dataset; rates are shares in [0, 1], None where there is nothing to take a share of."""

    source: str
    rows: int  # with a reply
    bad: int  # records without one
    bad_rows: tuple[tuple[int, str], ...]  # the first of them: line and problem
    prompts: int  # rows whose prompt is known
    pairs: int
    roles: dict[str, ReplyAudit]
    counts: dict[str, int]
    rates: dict[str, float | None]  # by name, of MEASURES; those of replies are over all roles
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The audit as a table, for people."""
        told = [f"{self.source}: {self.rows:,} rows, {self.bad:,} without a reply that can be read"]
        told += [f"  line {line}: {problem}" for line, problem in self.bad_rows]
        told += ["", f"{'':24}" + "".join(f"{role:>12}" for role in self.roles)]
        told.append(f"{'replies':24}" + "".join(f"{found.replies:>12,}" for found in self.roles.values()))
        told.append(f"{'characters, on average':24}" + "".join(f"{r.characters:>12,.0f}" for r in self.roles.values()))
        for name in OF_REPLIES:
            told.append(
                f"{name.replace('_', ' '):24}" + "".join(f"{r.rates[name]:>12.1%}" for r in self.roles.values())
            )
        told.append("")
        for name in (*OF_PAIRS, *OF_PROMPTS):
            if (rate := self.rates[name]) is not None:
                told.append(f"{name.replace('_', ' '):24}{rate:>12.1%}{self.counts[name]:>12,}")
        for role, found in self.roles.items():
            told += [f"{share:6.1%} of {role}: “{phrase} …”" for phrase, share in found.phrases]
        return [*told, *(f"note: {note}" for note in self.notes)]

    def failures(self, limits: Mapping[str, float]) -> list[str]:
        """What exceeds its limit and by how much, one text each; raises UsageError where a rate has no value here."""
        found = []
        for name, limit in limits.items():
            role, _, measure = name.rpartition(".")
            rates: Mapping[str, float | None] = self.rates
            if role:
                if role not in self.roles:
                    raise UsageError(f"--fail-on {name}: there are no replies of {role!r}; {_hint(role, self.roles)}")
                rates = self.roles[role].rates
            rate = rates.get(measure)
            if rate is None:
                raise UsageError(f"--fail-on {name}: {self.source} has nothing to measure it on")
            if rate > limit:
                found.append(f"{name} is {rate:.4g}, which is {rate - limit:.4g} above {limit:g}")
        return found


def read_limits(given: Iterable[str]) -> dict[str, float]:
    """The limits in texts such as "refusal_full=0.2,role_mixup=0"; a name may have a role before it, `chosen.empty`.

    Raises UsageError for a name that is not in MEASURES and a limit that is no share in [0, 1].
    """
    limits: dict[str, float] = {}
    for text in ",".join(given).split(","):
        name, equals, value = (part.strip() for part in text.partition("="))
        if not name and not equals:
            continue
        role, _, measure = name.rpartition(".")
        if measure not in (OF_REPLIES if role else MEASURES):
            raise UsageError(f"--fail-on {name!r} is nothing that is measured; {_hint(measure, MEASURES)}")
        try:
            limits[name] = float(value)
        except ValueError:
            limits[name] = -1.0
        if not 0 <= limits[name] <= 1:
            raise UsageError(
                f"--fail-on {text.strip()!r}: write NAME=SHARE with a share from 0 to 1, such as {name}=0.1"
            )
    return limits


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


# Records


@dataclass(frozen=True, slots=True)
class Case:
    """A record's replies by role, in order, and the conversation that they answer."""

    replies: tuple[tuple[str, str], ...]
    prompt: str | None = None  # all of it; None: the record has none
    asked: str | None = None  # the last turn of the user
    cut: frozenset[int] = frozenset()  # replies of which the record says that they were cut, by index


class NoReply(Exception):
    """A record has no reply that can be read; the message says why."""


def read_case(record: Any, reply_field: str | None = None, prompt_field: str | None = None) -> Case:
    """The replies of a record in any of the shapes of docs/auditing.md; raises NoReply."""
    if isinstance(record, NoPrompt):
        raise NoReply(record.problem)
    if isinstance(record, str | list) and reply_field is None:
        record = {"text" if isinstance(record, str) else "messages": record}
    if not isinstance(record, Mapping):
        raise NoReply(f"the record is of type {type(record).__name__}, not an object")
    replies, before = [], ""
    for role, value in _values(record, reply_field):
        said, reply = _parted(value, role)
        replies.append((role, reply))
        before = before or said
    if not replies:
        raise NoReply(f"no reply; it has {listed(record)}: name its column with --reply-field")
    prompt = _prompt(record, prompt_field) or before or None
    asked = None if prompt is None else prompt.rpartition(HUMAN)[2].partition(ASSISTANT)[0].strip()
    return Case(tuple(replies), prompt, asked, frozenset(_cut(record, len(replies))))


def _cut(record: Mapping[str, Any], replies: int) -> Iterator[int]:
    """Indices of the replies that the record, or their own entry in it, says were cut."""
    many = record.get("replies")
    said = many if isinstance(many, list) and len(many) == replies else [record] * replies
    for index, entry in enumerate(said):
        if isinstance(entry, Mapping) and (
            entry.get("finish_reason") == "length" or entry.get("problem") == "truncated"
        ):
            yield index


def _values(record: Mapping[str, Any], reply_field: str | None) -> Iterator[tuple[str, Any]]:
    """Roles and values of a record's replies."""
    many = record.get("sampled_answers", record.get("replies"))
    if reply_field is not None:
        yield "reply", record.get(reply_field)
    elif isinstance(many, list):
        for value in many:
            text = value.get("sampled_string", value.get("text")) if isinstance(value, Mapping) else value
            # The paper's samples end with the marker at which sampling was stopped.
            yield "reply", text.removesuffix(HUMAN) if "sampled_answers" in record and isinstance(text, str) else text
    elif pair := next((pair for pair in PAIRS if all(record.get(name) is not None for name in pair)), None):
        yield from ((role, record[role]) for role in pair)
    elif key := next((key for key in REPLIES if key in record), None):
        yield "reply", record[key]


def _prompt(record: Mapping[str, Any], prompt_field: str | None) -> str | None:
    """The conversation of a record that has it in a column of its own."""
    if prompt_field is not None:
        return _transcript(record[prompt_field]) if record.get(prompt_field) is not None else None
    if isinstance(record.get("instruction"), str) and isinstance(record.get("input"), str) and record["input"]:
        return _transcript(f"{record['instruction']}\n\n{record['input']}")  # Alpaca's two halves
    given = next((value for key in PROMPTS if (value := record.get(key))), None)
    return None if given is None else _transcript(given)


def _transcript(value: Any) -> str:
    """A conversation in one writing, so that it counts as the same prompt in whatever shape it comes."""
    if isinstance(value, list | tuple):
        return "".join(f"{MARKERS[role]} {text}" for role, text in map(_turn, value))
    if not isinstance(value, str):
        raise NoReply(f"the prompt is of type {type(value).__name__}, not text or a list of messages")
    text = _utf8(value).strip()
    return f"\n\n{text.removesuffix(ASSISTANT)}" if text.startswith("Human:") else f"{HUMAN} {text}"


def _parted(value: Any, role: str) -> tuple[str, str]:
    """What was said before, and the reply: of a text, a transcript or a list of messages that ends with it."""
    if isinstance(value, list | tuple):
        turns = [_turn(turn) for turn in value]
        if not turns or turns[-1][0] != "assistant":
            raise NoReply(f"{role!r} does not end with a turn of the assistant")
        return _transcript(value[:-1]), turns[-1][1]
    if not isinstance(value, str):
        raise NoReply(f"{role!r} is {'null' if value is None else f'of type {type(value).__name__}'}, not text")
    if _utf8(value).lstrip().startswith("Human:") and ASSISTANT in value:
        before, _, reply = value.rpartition(ASSISTANT)
        return _transcript(before), reply.removeprefix(" ")
    return "", value


def _turn(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise NoReply("a turn is no object with role and content")
    role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if role not in ROLES or not isinstance(text, str):
        raise NoReply(
            f"a turn has the role {role!r} and content of type {type(text).__name__}; known: {', '.join(ROLES)}"
        )
    return ROLES[role], _utf8(text)


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise NoReply(f"text that is not UTF-8 (character {error.start + 1})") from None
    return text


def _prompts_of(source: str | Path | Iterable[Any], prompt_field: str | None) -> hygiene.Repeats:
    """The prompts of the dataset that is compared with; a record without a reply counts by its prompt alone."""
    found = hygiene.Repeats()
    for _, record in read_records(source):
        with suppress(NoReply):
            alone = isinstance(record, Mapping) and _prompt(record, prompt_field)
            if prompt := alone or read_case(record, None, prompt_field).prompt:
                found.add(prompt)
    if not len(found):
        raise SourceError(
            "there is no prompt in it to compare with", source if isinstance(source, str | Path) else None
        )
    return found


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

    def __init__(self, others: hygiene.Repeats | None) -> None:
        self._others = others
        self._seen = hygiene.Repeats()
        self._counts: Counter[str] = Counter()  # of rows, pairs and prompts
        self._roles: dict[str, Counter[str]] = {}
        self._phrases: dict[str, hygiene.Phrases] = {}
        self._bad_rows: list[tuple[int, str]] = []

    def add(self, line: int, record: Any, reply_field: str | None, prompt_field: str | None) -> list[dict[str, Any]]:
        """Count one record; returns the verdict on each of its replies, or why it has none."""
        if not self._counts:
            _check_fields(record, reply_field, prompt_field)
        name = record.get("id") if isinstance(record, Mapping) else None
        name = name if isinstance(name, str | int | None) else str(name)
        try:
            case = read_case(record, reply_field, prompt_field)
        except NoReply as bad:
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
        verdict |= {check: found(text) for check, found in CHECKS.items()}
        verdict["truncated"] |= index in case.cut
        counts = self._roles.setdefault(role, Counter())
        counts.update([check for check, value in verdict.items() if value is True])
        counts.update(["replies"] if refused == "none" else ["replies", "refusal", f"refusal_{refused}"])
        counts["characters"] += len(text.strip())
        self._phrases.setdefault(role, hygiene.Phrases()).add(text)
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
        same = hygiene.identical(a, b)
        found = {
            "identical": same,
            "near_identical": not same and hygiene.near_identical(a, b),
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
            raise UsageError(f"{option} {field!r}: there is no such column; {_hint(field, record)}")


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


def _hint(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, [str(key) for key in known], n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(map(str, known))}"
