"""The calibration of a label run: loaded from a file, or fitted to the labels of gold pairs, which people labelled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cai.errors import SourceError, UsageError
from cai.judge.calibration import binding_problems, calibrate_file, load_calibration, untrustworthy
from cai.judge.certify import TARGETS, Calibration, threshold
from cai.records import Contest
from cai.runs.pairs import Source, read_pairs
from cai.runs.settings import LabelSettings


def human_labelled(source: Source, what: str) -> None:
    """Raise SourceError if no pair of a source says which reply people prefer; reads as far as the first."""
    for _, item in read_pairs(source):
        if isinstance(item, Contest) and item.human is not None:
            return
    where = source if isinstance(source, str | Path) else None
    raise SourceError(f"no pair says which reply people prefer: {what} needs chosen and rejected, or a label", where)


def loaded(settings: LabelSettings, binding: Mapping[str, Any]) -> Calibration:
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
    targets = {*TARGETS} if settings.agreement is None else {*TARGETS, settings.agreement}
    report = calibrate_file(gold, targets=sorted(targets))
    why = untrustworthy(report)
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
