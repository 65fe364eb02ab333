"""Checks a constitution as a linter checks code: errors keep it from loading, warnings name a risk and its evidence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

from cai.constitution.files import Reader, find_constitution
from cai.constitution.principles import JOBS, Constitution, Finding, Job
from cai.constitution.scale import repeated_name, scales_in
from cai.records import ConstitutionRef, Record, Values
from cai.texts.wording import listed, report_lines

Risk = tuple[str, str, str | None]  # code, message, and the principle that it concerns; None: the whole file

NEAR = 0.6  # shared content words; no pair of three published sets exceeds 0.53; 86 % of 2-word edits reach 0.6
# 11 of the paper's 16 judge questions are negative. C3AI (arXiv 2502.15861): positive ones agree better with people.
NEGATIVE_SHARE = 0.5
DOMINANT_SHARE = 0.5
NEGLIGIBLE = 0.01  # of the mean weight
ERRORS = ("test-same", "test-no-choose", "scale-name")  # the other risks are warnings
SHORT, LONG = 4, 120  # words; the longest request of the paper has 49, and each call sends it again
LENGTH_SHARE, LENGTH_TESTS = 0.75, 4
FEW = 5  # ids that a message lists
OF_JOBS: dict[Job, tuple[str, str]] = {  # the code of principles that cannot do a job, and the step that draws them
    "revise": ("judge-only", "generating"),
    "judge": ("revise-only", "labelling"),
}

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
MARKS = (  # code, what is looked for, and why it is wrong there
    ("template-syntax", TEMPLATE, "text is literal, nothing is filled in"),
    ("wrapper-text", WRAPPER, "templates add such marks themselves"),
    ("position-wording", POSITION, "replies are shown in both orders, name no position"),
)


class Report(Record):
    """What a check found; `constitution` is None if the file cannot be loaded."""

    path: str
    constitution: ConstitutionRef | None
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]

    def summary(self) -> Values:
        """The report as JSON."""
        return self.model_dump(mode="json")

    def lines(self) -> list[str]:
        """The report for people to read: a line per finding, errors first, then the totals."""
        return report_lines(__file__, report=self)


def check(name_or_path: str | Path, more: Sequence[Finding] = ()) -> Report:
    """Everything wrong with a constitution, and `more`: findings of other checks, such as of templates.

    Raises ConstitutionError only if there is no such file.
    """
    path = find_constitution(name_or_path)
    reader = Reader()
    law = reader.read(path)
    findings = list(reader.problems)
    if law is not None:
        for code, message, principle in (risk for rule in RULES for risk in rule(law)):
            file, line = reader.places.get(principle, (str(path), None))
            findings.append(
                Finding(
                    level="error" if code in ERRORS else "warning",
                    code=code,
                    message=message,
                    file=file,
                    line=line,
                    principle=principle,
                )
            )
    findings += more
    return Report(
        path=str(path),
        constitution=None if law is None else law.ref,
        errors=tuple(finding for finding in findings if finding.level == "error"),
        warnings=tuple(finding for finding in findings if finding.level == "warning"),
    )


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def similarity(one: str, two: str) -> float:
    """The share of content words two texts have in common, 0 to 1 (Jaccard; the words of any request are left out)."""
    a = _content(one)
    b = _content(two)
    if not a | b:
        return float(_words(one) == _words(two))
    return len(a & b) / len(a | b)


def _content(text: str) -> set[str]:
    return {word.removesuffix("s") for word in _words(text) if word not in FRAME}


def _description(law: Constitution) -> Iterator[Risk]:
    if not law.description.strip():
        yield "no-description", "'description' is missing: say what it is for, and whose wording and licence", None


def _jobs(law: Constitution) -> Iterator[Risk]:
    count = len(law.principles)
    for job, (code, step) in OF_JOBS.items():
        ids = [p.id for p in law.principles if not p.can(job)]
        effect = f"{step} is refused" if len(ids) == count else f"{step} never draws them"
        if ids:
            need = " and ".join(map(repr, JOBS[job]))
            message = f"{len(ids)} of {count} principles lack {need} (or 'text'), so {effect}: {listed(ids, FEW)}"
            yield code, message, ids[0]


def _duplicates(law: Constitution) -> Iterator[Risk]:
    for one, two in combinations(law.principles, 2):
        for name in ("text", "critique", "choose"):  # requests to revise are alike by nature
            a = getattr(one, name)
            b = getattr(two, name)
            if a is None or b is None or similarity(a, b) < NEAR:
                continue
            code = "near-duplicate"
            how = f"{similarity(a, b):.0%} of the content words"
            if _words(a) == _words(b):
                code = "duplicate"
                how = "the same words"
            message = f"'{name}' of {one.id!r} and {two.id!r} have {how}; merge them, or raise one's weight instead"
            yield code, message, two.id
            break


def _framing(law: Constitution) -> Iterator[Risk]:
    count = len(law.principles)
    negative = []
    for p in law.principles:
        goals = " ".join(text for text in (p.text, p.choose) if text)
        if NEGATIVE.search(goals or p.revise or ""):
            negative.append(p.id)
    if count > 1 and len(negative) > NEGATIVE_SHARE * count:
        message = (
            f"{len(negative)} of {count} principles say what to avoid; judges agree better with people on "
            f"principles that say what a good reply does: {listed(negative, FEW)}"
        )
        yield "negative-framing", message, negative[0]


def _weights(law: Constitution) -> Iterator[Risk]:
    if len(law.principles) <= 2:
        return
    total = sum(principle.weight for principle in law.principles)
    for principle in law.principles:
        share = principle.weight / total
        if share > DOMINANT_SHARE:
            message = f"{principle.id!r} has {share:.0%} of the weight: most draws will be this one"
            yield "weight-dominates", message, principle.id
        elif share < NEGLIGIBLE / len(law.principles):
            message = f"{principle.id!r} has {share:.2g} of the weight: it will hardly ever be drawn"
            yield "weight-negligible", message, principle.id


def _lengths(law: Constitution) -> Iterator[Risk]:
    for p in law.principles:
        for name, text in p.wordings.items():
            count = len(_words(text))
            if count < SHORT:
                yield "too-short", f"'{name}' of {p.id!r} is {text!r}: say what a good reply does", p.id
            elif count > LONG:
                message = (
                    f"'{name}' of {p.id!r} has {count} words (over {LONG}): it is paid for in every call; split it"
                )
                yield "too-long", message, p.id


def _wording(law: Constitution) -> Iterator[Risk]:
    for p in law.principles:
        for name, text in p.wordings.items():
            for code, pattern, advice in MARKS:
                match = pattern.search(text)
                if match is not None and (code != "position-wording" or name in ("text", "choose")):
                    yield code, f"'{name}' of {p.id!r} contains {match[0].strip()!r}: {advice}", p.id


def _tests(law: Constitution) -> Iterator[Risk]:
    tests = [(p, i, test) for p in law.principles for i, test in enumerate(p.tests, 1)]
    for p, i, test in tests:
        if _words(test.better) == _words(test.worse):
            message = f"test {i} of {p.id!r}: 'better' and 'worse' are the same, so no judge can pass it"
            yield "test-same", message, p.id
        if not p.can("judge"):
            message = f"test {i} of {p.id!r} cannot run: the principle has no 'choose' and no 'text'"
            yield "test-no-choose", message, p.id
    growths = [len(test.better) - len(test.worse) for _, _, test in tests]
    for word, count in (("longer", sum(n > 0 for n in growths)), ("shorter", sum(n < 0 for n in growths))):
        if len(tests) >= LENGTH_TESTS and count > LENGTH_SHARE * len(tests):
            message = (
                f"the better reply is the {word} one in {count} of {len(tests)} tests: a judge of length would pass"
            )
            yield "test-length", message, None


def _scales(law: Constitution) -> Iterator[Risk]:
    for scale in scales_in(law):
        match = TEMPLATE.search(" ".join(scale.levels))
        if match is not None:
            yield "template-syntax", f"the scale {scale.name!r} contains {match[0]!r}: {MARKS[0][2]}", None
    twice = repeated_name(scales_in(law))
    if twice is not None:
        yield "scale-name", twice, None


RULES: tuple[Callable[[Constitution], Iterator[Risk]], ...] = (
    _description,
    _jobs,
    _duplicates,
    _framing,
    _weights,
    _lengths,
    _wording,
    _tests,
    _scales,
)
