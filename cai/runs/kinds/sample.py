"""`cai sample`: several replies to every prompt; with --best-of a judge compares them, and the best are cut."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Iterable, Iterator
from typing import Any, TypeVar

from cai.calls.flow import Driver
from cai.calls.live import Live, foremost
from cai.calls.model import Model, spec_of, temperature_words
from cai.calls.prices import Price, total_usage
from cai.calls.seats import Played
from cai.engine.revise import Ask, sample
from cai.engine.templates.sets import load_templates
from cai.errors import RowDropped, RunError, UsageError
from cai.export.export import export_run, last_options
from cai.folder.identity import identity_hash
from cai.folder.info import ANEW, find_info
from cai.folder.run import RunFolder
from cai.models import open_models, provider_of
from cai.models.specs import has_address
from cai.records import Candidates, Place, Prompt, Values
from cai.runs.kind import Seats
from cai.runs.kinds.label import LabelRun
from cai.runs.kinds.pairs import read_pairs
from cai.runs.kinds.pairs_of_row import MOST_REPLIES
from cai.runs.kinds.prompt_run import PromptRun
from cai.runs.kinds.settings import VERDICT, LabelSettings, SampleSettings
from cai.runs.run import Run
from cai.runs.settings import without_addresses
from cai.sources.files import Source
from cai.texts.wording import counted, source_name

MOST = 16  # replies of which every two are compared: 120 pairs, at three principles 720 questions a prompt
OWN = {  # settings that the run of labels does not have in common
    "temperature", "limit", "max_tokens", "out", "system", "format", "prompt_field", "model", "n", "best_of",
    "sft_format", "shard",
}  # fmt: skip
T = TypeVar("T")


class SampleRun(PromptRun[Candidates]):
    """Draws several replies to every prompt.

    labels: with `best_of`, the run that judges every two replies to a prompt, in a folder inside this one's.
    keeps_unusable: whether a prompt to which no reply can be used is a row all the same.
    """

    command = "sample"
    settings_class = SampleSettings
    keeps_unusable = False

    def __init__(self, prompts: Source | None, settings: SampleSettings) -> None:
        templates = load_templates(settings.templates)
        specs = {"assistant": settings.specs[0]}
        if len(settings.specs) > 1:
            specs = {f"assistant {number}": spec for number, spec in enumerate(settings.specs, 1)}
        if settings.judge is not None:
            specs["judge"] = settings.judge
        players = open_models(specs, settings.connection)
        judge = players.pop("judge", None)  # it is asked by the run of labels
        models = [spec_of(model) for model in players.values()]
        if len(set(models)) < len(models):
            twice = " and --model ".join(without_addresses(settings.specs))
            advice = "raise -n for more replies of it"
            if any(map(has_address, settings.specs)):
                advice += ", or have the servers call two models by two names"
            raise UsageError(f"--model {twice} name one model: {advice}")
        identity: Values = {"templates": None, "models": models, "n": settings.each}
        if templates.completes:  # chat turns are asked as they are
            identity["templates"] = templates.hash
        super().__init__(prompts, settings, "sample", templates, players, identity)
        self._ask = Ask(templates, None, system=settings.system)
        self.replies = settings.each * len(players)  # to a prompt
        self.labels = None if judge is None else self._labels(judge)

    def _labels(self, judge: Model) -> LabelRun:
        """The run that compares the replies; raises UsageError if its judge cannot."""
        settings = self.settings
        if settings.protocol == "reason":
            raise UsageError(
                "--protocol reason: beliefs after reasoning are cut to 0.4 … 0.6, so that replies would tie; use "
                "logprob, score or vote"
            )
        values = {name: value for name, value in settings if name not in OWN and value is not None}
        if not provider_of(judge).batches:
            values |= {"batch": False, "batch_wait": None}
        origin = {"command": "sample", "run": identity_hash(self.identity), "n": self.replies}
        max_tokens = max(settings.max_tokens, VERDICT)
        label_settings = LabelSettings(**values, max_tokens=max_tokens, out=self.out / "labels")
        labels = LabelRun(self.out, label_settings, players={"judge": judge}, origin=origin, models=len(self.players))
        labels.may_be_unusable = True  # the only usable reply to a prompt is the best one
        labels.also_cut = self._cut_best
        labels.cuts = self.shard is None
        most = MOST
        if labels.protocol == "reward":
            most = MOST_REPLIES
            for name in values.keys() & {"constitution", "principles"}:
                reads = "is a reward model, which reads no principles: leave it out"
                raise UsageError(f"--{name}: {without_addresses(settings.judge)} {reads}")
        if self.replies > most:
            raise UsageError(
                f"--best-of: every two of {self.replies} replies are {math.comb(self.replies, 2):,} pairs a prompt; "
                f"name at most {MOST} replies in all, or {MOST_REPLIES} with a judge that gives each reply a number: "
                "--judge reward:PATH"
            )
        return labels

    def seats(self) -> list[Seats]:
        """Each model replies."""
        return [({"assistant": player}, self.settings.sampling, self.settings.seed) for player in self.players]

    async def play(self, drivers: list[Driver], item: Prompt, position: int) -> Candidates:
        """One prompt to its candidates; raises RowDropped if none can be used."""
        numbers = range(self.settings.each)
        playing = [driver.play(item.id, position, sample(item, self._ask, numbers)) for driver in drivers]
        played = await all_of(playing, drivers[0].live)
        replies = tuple(reply for part in played for reply in part.result)
        calls = tuple(call for part in played for call in part.calls)
        problems = [reply.problem for reply in replies]
        reason = "truncated" if "truncated" in problems else problems[0]  # which a higher --max-tokens may mend
        if reason is not None and not self.keeps_unusable and None not in problems:
            advice = "; raise --max-tokens" if reason == "truncated" else ""
            raise RowDropped(reason, "assistant", f"none of {len(replies)} replies can be used{advice}", calls)
        return Candidates(
            id=item.id,
            position=position,
            prompt=item.messages,
            replies=replies,
            seed=self.settings.seed,
            usage=total_usage([part.usage for part in played]),
            calls=calls,
        )

    def texts(self, row: Candidates) -> tuple[str, str]:
        """The first and the last usable reply; if there are none, of all."""
        texts = [reply.text for reply in row.replies if reply.problem is None] or [reply.text for reply in row.replies]
        return texts[0], texts[-1]

    @staticmethod
    def shown(row: Candidates) -> Iterator[tuple[str, str]]:
        """The replies with their numbers, for people to read; the problem of one that cannot be used."""
        yield "prompt", row.prompt[-1]["content"]
        for number, reply in enumerate(row.replies):
            yield f"reply {number}", reply.problem or reply.text

    # The best of them

    def sessions(self) -> Iterator[Run[Any]]:
        """This run; with `best_of`, then the labels of its replies, which also cut the best of them.

        Raises RunError for a folder in which version 0.1.0 drew replies and judged them at once, and, before anything
        is paid for, if the labels that are there were made in another way.
        """
        labels = self.labels
        stored = None if self.settings.force else find_info(self.out, ANEW)
        if stored is not None and "best_of" in stored["identity"]:
            raise RunError(
                f"{self.out} is a best-of run of version 0.1.0, which cannot be resumed: start anew with "
                "cai sample PROMPTS --best-of N --judge SPEC --out NEW"
            )
        if labels is not None:
            labels.sharing, self.sharing = [self.out], [labels.out]
            labels.be_part_of(self.out, self.command_line)
            if self.is_resumed() and labels.out.exists():
                RunFolder(labels.out, labels.identity).close()
        yield self
        if labels is not None:
            yield labels

    def parts(self) -> Iterator[Run[Any]]:
        """This run; with `best_of`, also the labels of the replies that are there already."""
        yield self
        if self.labels is not None and self.is_resumed():
            yield self.labels

    def planned(self) -> dict[str, tuple[Model, Price | None]]:
        """The models that reply, and with `best_of` the judge."""
        if self.labels is None:
            return super().planned()
        return super().planned() | self.labels.planned()

    def follow_ups(self, row: Candidates) -> Iterator[tuple[LabelRun, Place]]:
        """With `best_of`, the pairs of the replies."""
        if self.labels is not None:
            for place in read_pairs([row]):
                yield self.labels, place

    def plan_notes(self) -> Iterator[str]:
        """What a reader of a plan should know."""
        if self.labels is not None:
            pairs = math.comb(self.replies, 2)
            yield f"every two of {self.replies} replies to a prompt are compared: {counted(pairs, 'pair')}"
            yield "replies that cannot be used or say the same are not compared: there may be fewer calls"
            yield from self.labels.plan_notes()

    def _cut_best(self) -> None:
        """Cut the best replies by the labels that there are, of which some are missing if the judge stopped."""
        options = {**last_options(self.out, self.info), "best": True}
        if self.settings.sft_format is not None:
            options["sft_format"] = self.settings.sft_format
        self.cut = export_run(self.out, **options)
        self.info["best_of"] = self.cut.best.model_dump(mode="json")

    # What people are told

    def facts(self) -> Values:
        """What will run, for people to read; each with its label."""
        settings = self.settings
        replies = counted(settings.each, "reply")
        if len(self.players) > 1:
            replies += " from each model"
        return {
            "prompts": source_name(self.source, settings.limit),
            "method": f"{replies}, {temperature_words(self.models, settings.sampling)}, {self.seed_words()}",
            "model": ", ".join(map(spec_of, self.players.values())),
        }

    def next_steps(self, folder: str) -> Iterator[str]:
        """What to type when the run is finished."""
        if self.labels is None:
            yield f"candidates in {self.out / 'candidates.jsonl'}; judge them with: cai label {folder}"
        elif self.cut is not None:
            yield f"the best replies in {self.out / 'sft.jsonl'}; train on them with: cai train sft {folder}"


async def all_of(playing: Iterable[Awaitable[Played[T]]], live: Live) -> list[Played[T]]:
    """What several flows come to; after an error the others are awaited, since what is on its way is paid for."""
    tasks = list(map(asyncio.ensure_future, playing))
    with live.apart(tasks):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [each for each in results if isinstance(each, BaseException)]
    finished = [each for each in results if isinstance(each, Played)]
    if errors:
        error = foremost(errors)
        if isinstance(error, RowDropped):
            error.calls += tuple(call for part in finished for call in part.calls)
        raise error
    return finished
