"""The models of an evaluation and their replies: who is compared, what each wrote, and how its runs are made."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson

from cai.chat import find_spec
from cai.disk.reading import exists, read_if_there
from cai.disk.writing import write_atomically
from cai.errors import RunError, SourceError, UsageError
from cai.evaluation.arena.figures import FILE, Contestant
from cai.evaluation.arena.provenance import with_training
from cai.evaluation.arena.settings import EvaluateSettings
from cai.folder.info import find_info
from cai.folder.lines import DROPPED, read_rows
from cai.models import check_hosts
from cai.models.specs import HIDDEN, without_address
from cai.records import BadPrompt, Candidate, Candidates, Drop, Place, Prompt, Values
from cai.runs.kinds.sample import SampleRun
from cai.runs.kinds.settings import SampleSettings
from cai.runs.settings import RunSettings
from cai.sources.files import Source, path_of, read_prompts
from cai.texts.wording import counted, none_usable, shortened, without_path
from cai.weights.named import DEFAULT, NAMED

log = logging.getLogger("cai")
Follower = Callable[[Candidates], Iterator[tuple[Any, Place]]]
S = TypeVar("S", bound=RunSettings)
PROMPTS = "prompts.jsonl"
REPLIES = "replies"
STORED = (PROMPTS, DROPPED)  # what an evaluation may write before anything else
BEGUN = (FILE, REPLIES, "contrast", "tasks")  # of which an evaluation that was begun has one
EMBEDDED = "local"  # the spec of the embedded model, whose sampling is cut unless --extra-body says otherwise
LONGEST_NAME = 28  # characters of a contestant's name in a table


class RepliesRun(SampleRun):
    """A run in which every contestant replies; followers: what gives the runs, and their items, that follow a row."""

    followers: Sequence[Follower] = ()

    def follow_ups(self, row: Candidates) -> Iterator[tuple[Any, Place]]:
        """What is asked of the replies."""
        for follower in self.followers:
            yield from follower(row)

    def next_steps(self, folder: str) -> Iterator[str]:
        """Nothing to type: the evaluation goes on."""
        return iter(())


class Arena:
    """What the suites of an evaluation share.

    contestants: BASE first, then the models in the order given. out: the folder; those of its runs lie inside. source:
    the prompts, in the order in which they are asked. begun: folders whose run was begun by this object.
    after_contrast: what follows the replies to a contrast set, for a plan.
    """

    def __init__(self, models: Sequence[str], prompts: Source | None, settings: EvaluateSettings, out: Path) -> None:
        self.prompts, self.settings, self.out = prompts, settings, out
        self.begun = set[Path]()
        self.after_contrast: list[Follower] = []
        specs = [find_spec(name) for name in (settings.against, *models)]
        for name, spec in zip(models, specs[1:], strict=True):
            if specs.count(spec) > 1:
                raise UsageError(
                    f"{without_address(name)} is named twice: a model is compared with others, and with --against BASE"
                )
        if len(specs) < 2:
            raise UsageError("no model to evaluate: name one or more, such as models/dpo")
        contestants = tuple(
            Contestant(name=name, spec=without_address(spec), base=place == 0)
            for place, (name, spec) in enumerate(zip(_names(specs), specs, strict=True))
        )
        self.contestants = with_training(contestants)
        self.specs = specs  # of the models, BASE first
        check_hosts([*specs, settings.judge, settings.harm or settings.judge], settings.connection)
        self.source = prompts
        if settings.stop_when_decided or not isinstance(prompts, str | Path | None) or prompts == "-":
            self.source = self._stored()

    def _stored(self) -> Path:
        """A file of the prompts, which several runs read; to stop early, in an order that is drawn from the seed.

        Then each beginning of it is a random draw. Raises RunError if the folder holds other prompts.
        """
        prompts: list[Prompt] = []
        drops: list[Drop] = []
        settings = self.settings
        source = read_prompts(self.prompts, format=settings.format, field=settings.prompt_field)
        for position, item in enumerate(itertools.islice(source, settings.limit)):
            if isinstance(item, BadPrompt):
                facts: Values = {"stage": "source", "reason": item.reason, "detail": item.problem, "line": item.line}
                drops.append(Drop(id=None, position=position, **facts))
            else:
                prompts.append(item)
        if not prompts:
            raise SourceError(none_usable(len(drops), drops[0].line or 1, drops[0].detail))
        if settings.stop_when_decided:
            random.Random(settings.seed).shuffle(prompts)
        content = b"".join(orjson.dumps({"id": each.id, "prompt": each.messages}) + b"\n" for each in prompts)
        path = self.out / PROMPTS
        if path.exists() and path.read_bytes() != content and not settings.force:
            raise RunError(f"{self.out} holds an evaluation on other prompts: name another --out, or --force")
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        if drops:
            lines = [drop.model_dump_json().encode() + b"\n" for drop in drops]
            write_atomically(self.out / DROPPED, b"".join(lines))
            log.warning("%s left out: see %s", counted(len(drops), "record"), self.out / DROPPED)
        return path

    def settings_of(self, kind: type[S], folder: str, **changes: Any) -> S:
        """Settings of another kind of run with what they have in common with the evaluation's, and `changes`.

        folder: of the run, inside that of the evaluation.
        """
        common = {name: value for name, value in self.settings if name in kind.model_fields}
        out = self.out / folder
        if out in self.begun:
            common["force"] = False
        return kind.model_validate({**common, "out": out, **changes})

    def replies_run(self, limit: int | None = None) -> RepliesRun:
        """The run in which every contestant replies to the prompts, or to the first `limit`."""
        if self.source == self.out / PROMPTS:
            return self.sample(self.source, REPLIES, format=None, prompt_field=None, limit=limit)
        return self.sample(self.source, REPLIES)

    def sample(self, prompts: Source | None, folder: str, **changes: Any) -> RepliesRun:
        """A run in which every contestant replies to prompts; `n` times, as the settings say."""
        values = {"model": self.specs, "best_of": None, "judge": None, "constitution": None, **changes}
        own = {"protocol": None, "principles": None, "sft_format": None}
        return RepliesRun(prompts, self.settings_of(SampleSettings, folder, **{**own, **values}))

    def replies(self, folder: str = REPLIES) -> Iterator[tuple[Candidates, list[list[Candidate]]]]:
        """The rows of a run of `sample` in input order, each with the replies of every contestant, BASE first."""
        for row in read_rows(self.out / folder / "candidates.jsonl", Candidates):
            yield row, self.sides(row)

    def sides(self, row: Candidates) -> list[list[Candidate]]:
        """The replies of a row by contestant, BASE first."""
        each = len(row.replies) // len(self.contestants)
        return [list(row.replies[at : at + each]) for at in range(0, len(row.replies), each)]


def check_folder(out: Path) -> None:
    """Raise RunError if a folder holds a run or other files, among which the parts of an evaluation would be lost."""
    info = find_info(out)
    if info is not None:
        kind = info["identity"]["command"]
        raise RunError(f"{out} holds a run of cai {kind}, and no evaluation: name another --out")
    if not out.is_dir() or any(exists(out / name) for name in BEGUN):
        return
    others = sorted(path.name for path in out.iterdir() if not path.name.startswith(".") and path.name not in STORED)
    if others:
        raise RunError(f"{out} holds other files ({', '.join(others[:3])}) and no evaluation: name a new folder")


def template_warnings(contestants: Sequence[Contestant]) -> Iterator[str]:
    """A warning if the folders of models have different chat templates: then they are not asked the same text."""
    templates: dict[str, list[str]] = {}
    for contestant in contestants:
        provider, _, name = contestant.spec.partition(":")
        place = path_of(name)
        if provider == "hf" and place.is_dir():
            own = place / "chat_template.jinja"
            config = read_if_there(place / "tokenizer_config.json")
            template = own.read_text("utf-8") if own.is_file() else config.get("chat_template")
            if template:
                templates.setdefault(str(template), []).append(contestant.name)
    if len(templates) > 1:
        groups = " and ".join(", ".join(names) for names in templates.values())
        yield f"{groups} have different chat templates: part of a difference may come from how they are asked"


def sampling_warnings(specs: Sequence[str], settings: EvaluateSettings) -> Iterator[str]:
    """A warning if the embedded model is drawn in another way than the others."""
    others = [spec for spec in specs if spec != EMBEDDED]
    sampling = dict(NAMED[DEFAULT].sampling)
    cuts = {name: value for name, value in sampling.items() if name not in settings.extra_body}
    if EMBEDDED in specs and others and cuts and settings.temperature:
        how = ", ".join(f"{name} {value:g}" for name, value in cuts.items())
        body = orjson.dumps(sampling).decode()
        yield (
            f"{EMBEDDED} is drawn with {how}, and {others[0]} is not: differences may be those of sampling; add "
            f"--extra-body '{body}', which draws all models alike"
        )


def _names(specs: Sequence[str]) -> list[str]:
    """A short name for each spec: the end of its path, or all of it if two would be alike."""
    specs = list(map(without_address, specs))
    ends = [
        without_path(spec.removesuffix(f"@{HIDDEN}")).rpartition(":")[2].rstrip("/").rpartition("/")[2] or spec
        for spec in specs
    ]
    short = [shortened(end, LONGEST_NAME) for end in ends]
    return [name if short.count(name) == 1 else spec for name, spec in zip(short, specs, strict=True)]
