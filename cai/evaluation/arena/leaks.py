"""Whether the prompts of an evaluation are in the data that its models were trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from cai.disk.reading import exists
from cai.errors import CaiError, UsageError
from cai.evaluation.arena.figures import Contestant
from cai.evaluation.arena.provenance import stages_of
from cai.records import Object, Record, Turns
from cai.sources.cases import read_case, written
from cai.sources.conversations import prompt_hash, prompt_in
from cai.sources.files import examine, path_of, read_records
from cai.sources.values import BadRecord, object_of
from cai.texts.repeats import Repeats
from cai.texts.wording import counted, one_line, shortened
from cai.training.data.dataset import SPLIT, trains

FEW = 4  # words of a last turn, of fewer than which the whole conversation is compared: "Why?" is in any data
SHOWN = 5  # examples


class Leaks(Record):
    """Prompts that are in training data: the same by the last turn of the user (case and space apart), or nearly so."""

    prompts: int
    same: int = 0
    near: int = 0
    examples: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()  # training data that was read, each with its rows
    missing: tuple[str, ...] = ()  # and that could not be, each with why

    def check(self) -> None:
        """Raise CaiError if any prompt was found."""
        if self.same or self.near:
            raise CaiError(
                f"--refuse-leaks: {'; '.join(self.lines())}; evaluate on prompts that no model was trained on"
            )

    def lines(self) -> Iterator[str]:
        """What was found, for people to read."""
        if self.compared:
            how = f"{self.same} the same, {self.near} nearly"
            share = f"{self.same + self.near} of {counted(self.prompts, 'prompt')}"
            yield f"{share} are in the training data ({how}): {', '.join(self.compared)}"
        if self.examples:
            yield f"such as: {'; '.join(self.examples)}"
        for each in self.missing:
            yield f"not looked for in {each}"


class Source(NamedTuple):
    """Training data that is named. share: of its prompts that trained, if the training held others back by a split."""

    name: str
    place: str | Path | None  # None: it cannot be read
    problem: str = ""
    share: float = 1.0


def find_leaks(prompts: Iterable[Turns], contestants: Sequence[Contestant], training_data: Sequence[str] = ()) -> Leaks:
    """Look for prompts in training data.

    training_data: files, run folders or `hf:org/name`; without any, what the folders of the contestants name, which is
    read only if it is still there and the same. Data that cannot be read is named in `missing`, and is no error.
    """
    texts = dict[str, str]()  # what is compared → as it is shown
    ours = Repeats()
    for turns in prompts:
        text = _compared(turns)
        if text is not None and text not in texts:
            texts[text] = turns[-1]["content"]
            ours.add(text)
    found, compared, missing = Repeats(), list[str](), list[str]()
    for source in _named(training_data) if training_data else _of_contestants(contestants):
        if source.place is None:
            missing.append(f"{source.name}: {source.problem}")
            continue
        try:
            rows = 0
            for text in _texts_of(source):
                rows += 1
                if any(ours.find(text)):
                    found.add(text)
            compared.append(f"{source.name} ({counted(rows, 'row')})")
        except CaiError as error:
            missing.append(f"{source.name}: {error}")
    if not compared and not missing:
        missing.append(
            "training data: it is not known what the models were trained on (name it with --training-data FILE)"
        )
    same, near = _matches(texts, found)
    examples = [repr(shortened(one_line(texts[text]), 80)) for text in [*same, *near][:SHOWN]]
    return Leaks(
        prompts=len(texts),
        same=len(same),
        near=len(near),
        examples=tuple(examples),
        compared=tuple(compared),
        missing=tuple(missing),
    )


def _matches(texts: Iterable[str], found: Repeats) -> tuple[list[str], list[str]]:
    """The texts that are the same as one of `found`, and those that are nearly so."""
    same: list[str] = []
    near: list[str] = []
    if not len(found):
        return same, near
    for text in texts:
        is_same, is_near = found.find(text)
        if is_same:
            same.append(text)
        elif is_near:
            near.append(text)
    return same, near


def _compared(turns: Sequence[Any]) -> str | None:
    """What is compared of a conversation: the last turn of the user, or all of it if that turn says next to nothing."""
    of_user: Iterator[str] = (turn["content"].strip() for turn in reversed(turns) if turn["role"] == "user")
    last = next(of_user, None)
    if last is None or (len(last.split()) < FEW and len(turns) > 1):
        return written(turns)
    return last


def _texts_of(source: Source) -> Iterator[str]:
    """What is compared of each row that trained."""
    assert source.place is not None
    for _, record in read_records(source.place):
        turns = _turns_of(record)
        if source.share < 1 and not trains(prompt_hash(turns), source.share):
            continue
        text = _compared(turns)
        if text:
            yield text


def _turns_of(record: Any) -> Sequence[Any]:
    """The conversation of a row; none if it has none that can be read."""
    with suppress(BadRecord):
        turns = read_case(record).turns
        if turns:
            return turns
    with suppress(BadRecord):
        return prompt_in(object_of(record, "a prompt"))
    return ()


# Which data


def check_named(names: Sequence[str]) -> None:
    """Raise UsageError for training data of --training-data that is not there, or a folder without any."""
    for name in names:
        path = path_of(name)
        if not name.startswith("hf:") and name != "-" and not exists(path):
            raise UsageError(f"--training-data {name}: there is no such file or folder")
        for source in _named([name]):
            if source.place is None:
                raise UsageError(f"--training-data {name}: {source.problem}")


def _named(names: Sequence[str]) -> Iterator[Source]:
    """The data of --training-data; of a run folder, the file that trains."""
    for name in names:
        path = path_of(name)
        files = [path / f"{kind}.jsonl" for kind in ("dpo", "sft", "kto")] if path.is_dir() else []
        there = [file for file in files if file.is_file() and file.stat().st_size]
        if path.is_dir() and not there:
            yield Source(name, None, "it is a folder without dpo.jsonl, sft.jsonl and kto.jsonl")
        elif there:
            yield from (Source(str(file), file) for file in there)
        else:
            yield Source(name, name)


def _of_contestants(contestants: Sequence[Contestant]) -> Iterator[Source]:
    """The data that the folders of the contestants name, each once."""
    seen = set()
    for contestant in contestants:
        if contestant.trained is None and not contestant.base:
            yield Source(f"the training data of {contestant.name}", None, "its folder does not name it")
        for stage in stages_of(contestant.trained):
            if "problem" in stage:
                yield Source(f"the training data of {contestant.name}", None, stage["problem"])
            for file in stage.get("data", ())[:1]:  # the second is evaluated on
                if (file["source"], file["content"]) not in seen:
                    seen.add((file["source"], file["content"]))
                    yield _of_stage(stage, file)


def _of_stage(stage: Object, file: Object) -> Source:
    name, content = str(file["source"]), str(file["content"])
    share = float(stage["split"] or SPLIT) if stage["held_back"] == "split" else 1.0
    if name.startswith("hf:"):
        return Source(name, None, f"it is on the hub (--training-data {name} downloads it)")
    if not content.startswith("."):
        return Source(name, None, "the rows were in memory (--training-data FILE)")
    folder = Path(stage["folder"])
    changed = False
    for place in (path_of(name), *(base / Path(name).name for base in (folder, folder.parent))):
        if place.is_file():
            with suppress(CaiError):
                if examine(place)[0] == content:
                    return Source(name, place, share=share)
                changed = True
    problem = "it is not there any more"
    if changed:
        problem = "it has changed since the training"
    return Source(name, None, f"{problem} (--training-data FILE)")
