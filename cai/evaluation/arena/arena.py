"""The models of an evaluation and their replies: who is compared, what each wrote, and how its runs are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cai.chat import find_spec
from cai.evaluation.arena.figures import Contestant
from cai.evaluation.arena.settings import EvaluateSettings
from cai.folder.rows import lines_in_order, reading
from cai.records import Candidate, Candidates
from cai.runs.sample import SampleRun
from cai.runs.settings import RunSettings, SampleSettings
from cai.sources.files import Source
from cai.texts.wording import without_path

S = TypeVar("S", bound=RunSettings)


class Arena:
    """What the suites of an evaluation share.

    contestants: BASE first, then the models in the order given. out: the folder; those of its runs lie inside.
    """

    def __init__(self, models: Sequence[str], prompts: Source | None, settings: EvaluateSettings, out: Path) -> None:
        self.prompts, self.settings, self.out = prompts, settings, out
        specs = [find_spec(name) for name in (settings.against, *models)]
        self.contestants = tuple(
            Contestant(name=name, spec=spec, base=place == 0)
            for place, (name, spec) in enumerate(zip(_names(specs), specs, strict=True))
        )

    @property
    def specs(self) -> list[str]:
        """The model specs, BASE first."""
        return [contestant.spec for contestant in self.contestants]

    def settings_of(self, kind: type[S], folder: str, **changes: Any) -> S:
        """Settings of another kind of run with what they have in common with the evaluation's, and `changes`.

        folder: of the run, inside that of the evaluation.
        """
        common = {name: value for name, value in self.settings if name in kind.model_fields}
        return kind.model_validate({**common, "out": self.out / folder, **changes})

    def sample(self, prompts: Source | None, folder: str, **changes: Any) -> SampleRun:
        """A run in which every contestant replies to prompts; `n` times, as the settings say."""
        values = {"model": self.specs, "best_of": None, "judge": None, "constitution": None, **changes}
        own = {"protocol": None, "principles": None, "sft_format": None}
        return SampleRun(prompts, self.settings_of(SampleSettings, folder, **own, **values))

    def replies(self, folder: str = "replies") -> Iterator[tuple[Candidates, list[list[Candidate]]]]:
        """The rows of a run of `sample` in input order, each with the replies of every contestant, BASE first."""
        path = self.out / folder / "candidates.jsonl"
        if not path.exists():
            return
        for _, line in lines_in_order(path):
            with reading(path):
                row = Candidates.model_validate_json(line)
            each = len(row.replies) // len(self.contestants)
            yield row, [list(row.replies[at : at + each]) for at in range(0, len(row.replies), each)]


def _names(specs: Sequence[str]) -> list[str]:
    """A short name for each spec: the end of its path, or all of it if two would be alike."""
    short = [without_path(spec).rpartition(":")[2].rstrip("/").rpartition("/")[2] or spec for spec in specs]
    return [name if short.count(name) == 1 else spec for name, spec in zip(short, specs, strict=True)]
