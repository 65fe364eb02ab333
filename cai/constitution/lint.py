"""Checks a constitution the way a linter checks code: what keeps it from loading, and what will make it work badly.

Errors must be fixed; warnings name a risk and the evidence for it. Asks no model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

from cai.constitution.files import find_constitution, read_constitution
from cai.constitution.principles import Constitution, Principle
from cai.records import ConstitutionRef, Record

FIELDS = ("text", "critique", "revise", "choose")

NEAR = 0.6  # shared content words; no pair of three published sets exceeds 0.53; 86 % of 2-word edits reach 0.6
# 11 of the paper's 16 judge questions are negative. C3AI (arXiv 2502.15861): positive ones agree better with people.
NEGATIVE_SHARE = 0.5
DOMINANT_SHARE = 0.5
NEGLIGIBLE = 0.01  # of the mean weight
SHORT, LONG = 4, 120  # words; the longest request of the paper has 49, and each call sends it again
LENGTH_SHARE, LENGTH_TESTS = 0.75, 4

# A CJK character counts as a word: those languages write no spaces.
WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W぀-ヿ㐀-鿿가-힯]+")
REQUEST_WORDS = """
    a an and any are as assistant at be best better both by choose compare critique discuss do does for from how human
    identify if in into is it its last least less likely me more most of on one or options please point question
    rather read replies reply response responses revise rewrite s should so than that the them they this to user users
    way ways what where which who whose with would you your
"""
FRAME = frozenset(REQUEST_WORDS.split())
NEGATIVE = re.compile(
    r"\b(?:not|never|no|avoid\w*|refrain\w*|less|least|without|neither|nor|nothing|\w+n['’]t)\b", re.I
)
POSITION = re.compile(
    r"\b(?:[Oo]ption|[Rr]eply|[Rr]esponse|[Aa]nswer|[Cc]hoose|[Cc]andidate) \(?[AB12]\b|\([AB]\)"
    r"|\b[Tt]he (?:first|second) (?:option|reply|response|answer|one)\b|\b[Tt]he (?:former|latter)\b"
)
TEMPLATE = re.compile(r"\{\{|\{%|\{#|\{\w*\}")
WRAPPER = re.compile(r"^\s*(?:CritiqueRequest|RevisionRequest|Critique|Revision|Human|Assistant):|Options:\s*$", re.M)


class Finding(Record):
    """One thing the check found; `line` is 1-based, `principle` an id, None where it concerns the whole file."""

    level: Literal["error", "warning"]
    code: str
    message: str
    file: str | None = None
    line: int | None = None
    principle: str | None = None


class Report(Record):
    """What a check found; `constitution` is None when the file cannot be loaded."""

    path: str
    constitution: ConstitutionRef | None
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]

    def lines(self) -> Iterator[str]:
        """The report for people to read: a line per finding, errors first, then the verdict."""
        for finding in (*self.errors, *self.warnings):
            where = f"{finding.file or self.path}:{finding.line}" if finding.line else finding.file or self.path
            yield f"{where}: {finding.level}: {finding.message} [{finding.code}]"
        yield f"{self.path}: {len(self.errors)} errors, {len(self.warnings)} warnings"


def check(name_or_path: str | Path, more: Sequence[Finding] = ()) -> Report:
    """Everything wrong with a constitution, `more` (findings of other checks, such as of templates) included.

    Raises `ConstitutionError` only where there is no such file.
    """
    path = str(find_constitution(name_or_path))
    draft = read_constitution(path)
    law = draft.constitution
    findings = [
        Finding(level="error", code=p.code, message=p.message, file=p.file, line=p.line) for p in draft.problems
    ]
    for rule in RULES if law else ():
        assert law is not None
        for finding in rule(law):
            file, line = draft.places[finding.principle] if finding.principle else (path, None)
            findings.append(finding.model_copy(update={"file": file, "line": line}))
    findings += more
    return Report(
        path=path,
        constitution=law.ref if law else None,
        errors=tuple(finding for finding in findings if finding.level == "error"),
        warnings=tuple(finding for finding in findings if finding.level == "warning"),
    )


def _warning(code: str, message: str, principle: str | None = None) -> Finding:
    return Finding(level="warning", code=code, message=message, principle=principle)


def _wordings(principle: Principle) -> list[tuple[str, str]]:
    return [(name, text) for name in FIELDS if (text := getattr(principle, name)) is not None]


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def similarity(one: str, two: str) -> float:
    """The share of content words two texts have in common, 0 to 1 (Jaccard; the words of any request are left out)."""
    a, b = ({word.removesuffix("s") for word in _words(text) if word not in FRAME} for text in (one, two))
    return len(a & b) / len(a | b) if a | b else float(_words(one) == _words(two))


def _description(law: Constitution) -> Iterator[Finding]:
    if not law.description.strip():
        yield _warning("no-description", "'description' is missing: say what it is for, and whose wording and licence")


def _jobs(law: Constitution) -> Iterator[Finding]:
    cannot_revise = [p.id for p in law.principles if not p.can_revise]
    cannot_judge = [p.id for p in law.principles if not p.can_judge]
    for code, ids, job, need in (
        ("judge-only", cannot_revise, "generating", "'critique' and 'revise'"),
        ("revise-only", cannot_judge, "labelling", "'choose'"),
    ):
        if ids:
            effect = f"{job} is refused" if len(ids) == len(law.principles) else f"{job} never draws them"
            message = (
                f"{len(ids)} of {len(law.principles)} principles lack {need} (or 'text'), so {effect}: {_few(ids)}"
            )
            yield _warning(code, message, ids[0])


def _duplicates(law: Constitution) -> Iterator[Finding]:
    for one, two in combinations(law.principles, 2):
        for name in ("text", "critique", "choose"):  # requests to revise are alike by nature
            a, b = getattr(one, name), getattr(two, name)
            if a is None or b is None:
                continue
            share = similarity(a, b)
            if share >= NEAR:
                how = "the same words" if _words(a) == _words(b) else f"{share:.0%} of the content words"
                code = "duplicate" if _words(a) == _words(b) else "near-duplicate"
                message = f"'{name}' of {one.id!r} and {two.id!r} have {how}; merge them, or raise one's weight instead"
                yield _warning(code, message, two.id)
                break


def _framing(law: Constitution) -> Iterator[Finding]:
    goals = {p.id: " ".join(t for t in (p.text, p.choose) if t) or p.revise or "" for p in law.principles}
    negative = [name for name, goal in goals.items() if NEGATIVE.search(goal)]
    if len(goals) > 1 and len(negative) > NEGATIVE_SHARE * len(goals):
        message = (
            f"{len(negative)} of {len(goals)} principles say what to avoid; judges agree better with people on "
            f"principles that say what a good reply does: {_few(negative)}"
        )
        yield _warning("negative-framing", message, negative[0])


def _weights(law: Constitution) -> Iterator[Finding]:
    total = sum(p.weight for p in law.principles)
    for p in law.principles if len(law.principles) > 2 else ():
        if p.weight > DOMINANT_SHARE * total:
            message = f"{p.id!r} has {p.weight / total:.0%} of the weight: most draws will be this one"
            yield _warning("weight-dominates", message, p.id)
        elif p.weight < NEGLIGIBLE * total / len(law.principles):
            message = f"{p.id!r} has {p.weight / total:.2g} of the weight: it will hardly ever be drawn"
            yield _warning("weight-negligible", message, p.id)


def _lengths(law: Constitution) -> Iterator[Finding]:
    for p in law.principles:
        for name, text in _wordings(p):
            count = len(_words(text))
            if count < SHORT:
                yield _warning("too-short", f"'{name}' of {p.id!r} is {text!r}: say what a good reply does", p.id)
            elif count > LONG:
                message = (
                    f"'{name}' of {p.id!r} has {count} words (over {LONG}): it is paid for in every call; split it"
                )
                yield _warning("too-long", message, p.id)


def _wording(law: Constitution) -> Iterator[Finding]:
    for p in law.principles:
        for name, text in _wordings(p):
            if found := TEMPLATE.search(text):
                message = f"'{name}' of {p.id!r} contains {found[0]!r}: text is literal, nothing is filled in"
                yield _warning("template-syntax", message, p.id)
            if found := WRAPPER.search(text):
                message = f"'{name}' of {p.id!r} contains {found[0].strip()!r}: templates add such marks themselves"
                yield _warning("wrapper-text", message, p.id)
            if name in ("text", "choose") and (found := POSITION.search(text)):
                message = f"'{name}' of {p.id!r} says {found[0]!r}: replies are shown in both orders, name no place"
                yield _warning("position-wording", message, p.id)


def _tests(law: Constitution) -> Iterator[Finding]:
    tests = [(p, i, test) for p in law.principles for i, test in enumerate(p.tests, 1)]
    for p, i, test in tests:
        if _words(test.better) == _words(test.worse):
            message = f"test {i} of {p.id!r}: 'better' and 'worse' are the same, so no judge can pass it"
            yield Finding(level="error", code="test-same", message=message, principle=p.id)
        if not p.can_judge:
            message = f"test {i} of {p.id!r} cannot run: the principle has no 'choose' and no 'text'"
            yield Finding(level="error", code="test-no-choose", message=message, principle=p.id)
    for word, count in (
        ("longer", sum(len(test.better) > len(test.worse) for _, _, test in tests)),
        ("shorter", sum(len(test.better) < len(test.worse) for _, _, test in tests)),
    ):
        if len(tests) >= LENGTH_TESTS and count > LENGTH_SHARE * len(tests):
            message = (
                f"the better reply is the {word} one in {count} of {len(tests)} tests: a judge of length would pass"
            )
            yield _warning("test-length", message)


def _few(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


RULES: tuple[Callable[[Constitution], Iterator[Finding]], ...] = (
    _description,
    _jobs,
    _duplicates,
    _framing,
    _weights,
    _lengths,
    _wording,
    _tests,
)
