"""Everything a label run can be told, the ranges, and what goes with what.

Knows nothing of sources, models or calibrations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cai.errors import UsageError
from cai.records import Protocol
from cai.runs.pairs import PAIRINGS
from cai.runs.settings import Kinds, Ranges, RunSettings

SHARE = (0.5, 1.0, "a number from 0.5 to 1")


@dataclass(frozen=True, kw_only=True)
class LabelSettings(RunSettings):
    """Everything a label run can be told.

    judge: a model spec, or `reward:PATH`. protocol: logprob, score, vote, reason or reward; None: the best that the
    judge can do. principles: how many a pair is judged under, drawn by weight; all of them where there are no more.
    pairing: all, best-worst or final. min_confidence: None: 0.7, or what a calibration certifies. agreement: with
    people, which the labels that are kept must reach; needs `gold`, a file of pairs that people labelled, or
    `calibration`, a calibration.json. target: go on until so many pairs are kept, drawing further replies, at most
    `max_candidates` a prompt, from `model` (None: the one the sample run used). The rest is `RunSettings`.
    """

    ranges: ClassVar[Ranges] = (
        ("principles", 1, 1_000, "a whole number from 1 to 1000"),
        ("min_confidence", *SHARE),
        ("agreement", *SHARE),
        ("target", 1, 2**63 - 1, "a whole number of at least 1"),
        ("max_candidates", 2, 300, "a whole number from 2 to 300"),
    )
    kinds: ClassVar[Kinds] = {
        "judge": (str, "text"),
        **dict.fromkeys(("protocol", "model"), (str | None, "text")),
        "pairing": (str, "text"),
        **dict.fromkeys(("gold", "calibration"), (str | Path | None, "text or a path")),
    }
    optional = RunSettings.optional | {"min_confidence", "agreement", "target", "max_candidates"}

    max_tokens: int = 1024
    judge: str = "local"
    protocol: str | None = None
    principles: int = 3
    pairing: str = "all"
    min_confidence: float | None = None
    agreement: float | None = None
    gold: str | Path | None = None
    calibration: str | Path | None = None
    target: int | None = None
    max_candidates: int | None = None
    model: str | None = None

    def check(self) -> None:
        """Raises UsageError for a value out of its range, and for settings that cannot go together."""
        super().check()
        if self.pairing not in PAIRINGS:
            raise UsageError(f"--pairing {self.pairing!r} must be {', '.join(PAIRINGS[:-1])} or {PAIRINGS[-1]}")
        if self.gold is not None and self.calibration is not None:
            raise UsageError("--gold makes a calibration and --calibration brings one: name one of them")
        if self.agreement is not None and self.gold is None and self.calibration is None:
            raise UsageError("--agreement needs pairs that people have labelled: --gold FILE, or --calibration FILE")
        if self.agreement == 1.0:
            raise UsageError("--agreement 1 can never be certified: name less, such as 0.95")
        if self.agreement is not None and self.min_confidence is not None:
            raise UsageError("--agreement chooses the threshold and --min-confidence states it: name one of them")
        if (self.target is None) != (self.max_candidates is None):
            raise UsageError("--target and --max-candidates go together: how many pairs, and when to give a prompt up")
        if self.target is not None and self.pairing != "all":
            raise UsageError(f"--target counts every pair: it does not go with --pairing {self.pairing}")
        if self.model is not None and self.target is None:
            raise UsageError("--model draws further replies for --target: name that too, or leave it out")

    def changeable(self) -> dict[str, Any]:
        """What may change when a run goes on."""
        names = ("min_confidence", "agreement", "target", "max_candidates")
        return super().changeable() | {name: getattr(self, name) for name in names}


def check_reasons(protocol: Protocol, settings: LabelSettings) -> None:
    """Say before anything is spent that beliefs after reasoning end at 0.6 unless they are calibrated."""
    if protocol != "reason" or settings.gold is not None or settings.calibration is not None:
        return
    if settings.min_confidence is None or settings.min_confidence > 0.6:
        raise UsageError(
            "--protocol reason: uncalibrated beliefs after reasoning are cut to 0.4 … 0.6 (Bai et al. 2022): name "
            "--min-confidence of at most 0.6, or calibrate with --gold FILE or --calibration FILE"
        )
