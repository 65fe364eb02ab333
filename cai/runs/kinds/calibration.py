"""The calibration of a label run: labels of people that it needs, what it must certify, and what to type next."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from pathlib import Path

from cai.errors import SourceError, UsageError
from cai.export.pairings import PAIRINGS
from cai.judge.calibration import calibrate_judge
from cai.judge.certify import TARGETS, Calibration, binding_problems, load_calibration, threshold, weaknesses
from cai.judge.gold import FILE
from cai.judge.majority import People
from cai.judge.votes import LABELS, has_human_labels, votes_in, votes_of_run
from cai.records import Contest, Object, Place, Values
from cai.runs.kinds.pairs import read_pairs, run_info
from cai.runs.kinds.settings import ANNOTATE, LabelSettings
from cai.sources.files import Source
from cai.texts.wording import words_of

log = logging.getLogger("cai")
VOTES = "votes of people"  # a source that grows, in a run's identity: a changed pair is noticed by its place


def view_command(run: str | Path, count: int | None) -> str:
    """The command that opens the pairs of a run to be labelled by hand."""
    return f"cai view {shlex.quote(str(run))} --annotate {count or ANNOTATE}"


def check_agreement(settings: LabelSettings, source: Source) -> None:
    """Raise UsageError for an agreement that nothing can certify."""
    if settings.agreement is None or settings.gold is not None or settings.calibration is not None:
        return
    needed = "--agreement needs pairs that people have labelled: --gold FILE, or --calibration FILE"
    if run_info(source) is None:
        raise UsageError(f"{needed}; without --agreement you get a run whose pairs cai view has you label by hand")
    file = shlex.quote(str(Path(str(source)) / FILE))
    command = view_command(str(source), settings.annotate)
    raise UsageError(f"{needed}; to label pairs of this run by hand: {command}, which makes --gold {file}")


def check_human_labels(source: Source, what: str) -> People:
    """The votes in a source; raises SourceError if no pair of it says which reply people prefer.

    Of a source without votes it reads as far as the first label. what: the option that names it.
    """
    people = votes_in(source)
    for _, item in read_pairs(source):
        if isinstance(item, Contest) and item.human is not None:
            for note in people.notes():
                log.warning("%s %s: %s", what, source, note)
            return people
    raise without_labels(source, what, people)


def without_labels(source: Source, what: str, people: People) -> SourceError:
    """The error for a source in which no pair says which reply people prefer."""
    where = source if isinstance(source, str | Path) else None
    problem = f"no pair says which reply people prefer: {what} needs chosen and rejected, or a label"
    return SourceError("; ".join([problem, *people.notes()]), where)


def drawn_pairs(source: Source, people: People) -> list[Place]:
    """The pairs of a source but for those whose votes may not certify; people: the votes in it."""
    places = []
    for position, item in read_pairs(source):
        if not (isinstance(item, Contest) and people.is_only_left_out(item.key)):
            places.append((position, item))
    return places


def read_calibration(settings: LabelSettings, binding: Object) -> Calibration:
    """The calibration of --calibration; raises UsageError if it is another judge's or certifies too little."""
    calibration = load_calibration(str(settings.calibration))
    problems = binding_problems(calibration, binding)
    if problems:
        raise UsageError(f"--calibration {settings.calibration} was made for a different judge: {'; '.join(problems)}")
    if settings.agreement is not None:
        threshold(calibration, settings.agreement)
    return calibration


def calibrate(settings: LabelSettings, gold: Path, out: Path) -> Calibration:
    """The calibration that the labels in the folder `gold` give, written into `out`.

    Raises UsageError if it cannot be trusted, or does not certify the agreement that is asked for.
    """
    targets = {*TARGETS, *filter(None, [settings.agreement])}
    people = votes_in(str(settings.gold))
    report = calibrate_judge(gold, gold=people if people.lines else None, targets=sorted(targets))
    why = next(weaknesses(report.calibration), None)
    if why is not None:
        raise UsageError(f"--gold {settings.gold}: {why}; labels without a calibration come without --gold")
    report.save(out, plots=False)
    if settings.agreement is not None:
        threshold(report.calibration, settings.agreement)
    return report.calibration


def check_reasons(protocol: str, settings: LabelSettings) -> None:
    """Raise UsageError, before anything is spent, if beliefs after reasoning would all be below the confidence."""
    if protocol != "reason" or settings.gold is not None or settings.calibration is not None:
        return
    if settings.min_confidence is None or settings.min_confidence > 0.6:
        raise UsageError(
            "--protocol reason: uncalibrated beliefs after reasoning are cut to 0.4 … 0.6 (Bai et al. 2022): name "
            "--min-confidence of at most 0.6, or calibrate with --gold FILE or --calibration FILE"
        )


def next_steps(settings: LabelSettings, out: Path, folder: str) -> Iterator[str]:
    """What to type once pairs are labelled: to cut them again, and to learn how often the labels agree with people."""
    options: Values = {}
    if settings.pairing in PAIRINGS:
        options["pairing"] = settings.pairing
    if settings.gold is not None:
        options["calibration"] = out / "calibration.json"
    elif settings.calibration is not None:
        options["calibration"] = settings.calibration
    if settings.agreement is None:
        options["min_confidence"] = 0.8
    else:
        options["agreement"] = 0.9
    command = f"cai export {folder} {shlex.join(words_of(options))}"
    yield f"labels in {out / 'labels.jsonl'}; cut them again with: {command}"
    is_calibrated = settings.gold is not None or settings.calibration is not None
    if settings.annotate is not None or not (is_calibrated or has_human_labels(out / LABELS)):
        command = view_command(out, settings.annotate)
        yield f"how often they agree with people is not known: label some by hand with {command}"
    if votes_of_run(out / LABELS) is not None:
        yield f"people have labelled some: compare with cai judge calibrate {folder} --out {folder}"
