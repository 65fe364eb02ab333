"""What the folder of a model says of its training, and whether an evaluator is independent of the labels in it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from cai.errors import CaiError
from cai.evaluation.arena.figures import Contestant
from cai.folder.identity import identity_hash
from cai.folder.info import find_info
from cai.folder.lines import BAD_ROW
from cai.records import ConstitutionRef, Object, Values
from cai.sources.yamlfile import first_fault
from cai.texts.wording import listed
from cai.training.setup.before import folder_of, trainings_of
from cai.weights.bases import mark_of

Verdict = tuple[bool | None, str]


class File(TypedDict):
    """A file of training rows; content: equal for equal content."""

    source: str
    content: str


class Labels(TypedDict):
    """Who made the rows of a training; known: whether that is said."""

    judges: list[str]
    constitutions: list[str]
    hashes: list[str]
    writers: list[str]
    known: bool


Stage = TypedDict(
    "Stage",
    {
        "method": str,
        "from": str | None,
        "data": list[File],
        "held_back": str | None,
        "split": float | None,
        "run": str | None,
        "labels": Labels,
        "finished": bool | None,
        "folder": str,
    },
)
STAGE: TypeAdapter[Any] = TypeAdapter(Stage)


def trained_of(spec: str) -> Values | None:
    """What the folder of a model says of its training; None if it is not a folder, or says nothing.

    method; `from`, the model it began with; data, each file with its source and content; `labels`: judges,
    constitutions and their hashes, the models that criticised and revised, and `known`, whether it says who made the
    rows. folder: where that is written. before: the same of the model that it began with. problem: why a record cannot
    be read; then it says no more.
    """
    try:
        stages = [STAGE.validate_python(_stage(*training)) for training in trainings_of(folder_of(spec))]
    except CaiError as error:
        return {"problem": str(error)}
    except ValidationError as error:
        return {"problem": f"the record of its training is damaged ({first_fault(error)})"}
    except BAD_ROW as error:
        return {"problem": f"the record of its training is damaged ({type(error).__name__} {error})"}
    for after, before in pairwise(stages):
        after["before"] = before
    return next(iter(stages), None)


def stages_of(trained: Object | None) -> Iterator[Object]:
    """The training of a model, and those before it, the last one first."""
    while trained is not None:
        yield trained
        trained = trained.get("before")


def _stage(folder: Path, record: Object) -> Values:
    data, run = record.get("data") or {}, record.get("run")
    model = record.get("model") or {}
    origins = data.get("origins", {})
    if run is None:
        labels = {
            "judges": origins.get("judge", []),
            "constitutions": origins.get("constitution", []),
            "hashes": origins.get("constitution_hash", []),
            "writers": [],
        }
    else:
        laws = [*filter(None, [run.get("constitution")])]
        models = run.get("models") or {}
        if run.get("command") != "generate":  # others write replies to choose from
            models = {}
        labels = {
            "judges": [*filter(None, [run.get("judge")])],
            "constitutions": [law["name"] for law in laws],
            "hashes": [law["hash"] for law in laws],
            "writers": [models[role] for role in ("critic", "reviser") if role in models],
        }
    known = bool(labels["judges"] or labels["writers"])
    identity = record.get("identity") or {}
    return {
        "method": identity.get("method"),
        "from": (model.get("adapter") or model).get("spec"),
        "data": data.get("files", []),
        "held_back": data.get("held_back"),
        "split": (identity.get("config") or {}).get("split"),
        "run": (run or {}).get("run"),
        "labels": {**labels, "known": known},
        "finished": record.get("finished"),
        "folder": str(folder),
    }


# Independence


def independence(judge: str, binding: Object, contestants: Sequence[Contestant]) -> Verdict:
    """Whether an evaluator is independent of the labels that models were trained on, and what the answer rests on.

    It is not if its judge or its constitution is theirs, if it was itself trained on labels of the same judge, under
    the same constitution or on the same data, or if the labels are by a reward model that was trained on labels of its
    judge. None: a folder does not say. A BASE that does not say it is not asked: it is what the others are compared
    with.

    judge: the spec of the evaluator, as it was named. binding: what its labels are bound to: `judge`, as rows name it,
    and `constitution`, which a reward model does not read unless it is told principles, as its `protocol` says.
    """
    law = binding.get("constitution")
    if judge.startswith("reward:") and binding.get("protocol") != "conditioned":
        law = None
    evaluator = _Evaluator(judge, str(binding["judge"]), None if law is None else ConstitutionRef.model_validate(law))
    unknown: list[str] = [*evaluator.unknown()]
    grounds = []
    for contestant in contestants:
        stages = [*stages_of(contestant.trained)]
        if not stages and not contestant.base:
            unknown.append(f"it is not known how {contestant.name} was trained")
        for stage in stages:
            if "problem" in stage:
                unknown.append(f"{contestant.name}: {stage['problem']}")
                continue
            why = evaluator.dependence(stage)
            if why is not None:
                return False, f"{contestant.name} was trained on {why}"
            unknown += [f"{contestant.name}: {each}" for each in _unknown_in(stage)]
            grounds.append(f"{contestant.name} was trained on {_labels_in_words(stage)}")
    if unknown:
        return None, "; ".join(dict.fromkeys(unknown))
    if not grounds:
        return None, "no model says how it was trained"
    return True, "; ".join([*dict.fromkeys(grounds), *evaluator.grounds()])


class _Evaluator:
    """An evaluator, and what it was itself trained on."""

    def __init__(self, judge: str, bound: str, law: ConstitutionRef | None) -> None:
        self.bound = bound
        self.rewards = judge.startswith("reward:")
        self.law = law
        self.stages = [*stages_of(trained_of(judge))]

    def unknown(self) -> Iterator[str]:
        """What is not known of its training, if it is a reward model, which can only have learned from labels."""
        if self.rewards and not self.stages:
            yield f"the folder of {self.bound} does not say what it was trained on"
        for stage in self.stages:
            if "problem" in stage:
                yield f"{self.bound}: {stage['problem']}"
            elif self.rewards:
                yield from (f"{self.bound}: {each}" for each in _unknown_in(stage))

    def grounds(self) -> Iterator[str]:
        """What its independence rests on."""
        words = f"the evaluator is {self.bound}"
        if self.law is not None:
            words += f" under {self.law.name} {self.law.version}"
        if self.stages:
            words += f", trained on {listed([_labels_in_words(stage) for stage in self.stages])}"
        yield words

    def dependence(self, stage: Object) -> str | None:
        """Why it is not independent of the labels of a training; None: it is, as far as that says."""
        labels = stage["labels"]
        for who in (*labels["judges"], *labels["writers"]):
            if _same_model(who, self.bound):
                role = "labels of" if who in labels["judges"] else "revisions by"
                return f"{role} {who}, which is the evaluator"
        if self.law is not None and _names(labels, self.law):
            return f"labels under {self.law.name}, the evaluator's own constitution"
        for own in self.stages:
            if "problem" in own:
                continue
            why = _shared(stage, own)
            if why is not None:
                return f"{why}, as the evaluator {self.bound} was"
        for judge in labels["judges"]:
            for below in stages_of(_reward_model(judge, stage)):
                if any(_same_model(each, self.bound) for each in below.get("labels", {}).get("judges", [])):
                    return f"labels of {judge}, which was itself trained on labels of the evaluator {self.bound}"
        return None


def _unknown_in(stage: Object) -> Iterator[str]:
    """What a training's record does not say of its rows."""
    if not stage["labels"]["known"] and stage["method"] != "sft":  # demonstrations need no labels
        files = listed([Path(str(file["source"])).name for file in stage["data"][:1]]) or "its rows"
        yield f"its folder does not say who labelled {files}"
    for judge in stage["labels"]["judges"]:
        if judge.startswith("reward:") and _reward_model(judge, stage) is None:
            yield f"it is not known what {judge}, which labelled its rows, was trained on"


def _labels_in_words(stage: Object) -> str:
    labels = stage["labels"]
    who = [f"labels of {judge}" for judge in labels["judges"]] or [f"revisions by {each}" for each in labels["writers"]]
    files = listed([Path(str(file["source"])).name for file in stage["data"][:1]])
    words = listed(list(dict.fromkeys(who))) or f"{files}, which names no judge"
    if labels["constitutions"]:
        words += f" under {listed(labels['constitutions'])}"
    return words


def _shared(stage: Object, own: Object) -> str | None:
    """What two trainings have in common: their data, a judge, or a constitution."""
    contents = {file["content"] for file in own["data"]}
    for file in stage["data"][:1]:
        if file["content"] in contents:
            return f"{Path(str(file['source'])).name}"
    ours, theirs = stage["labels"], own["labels"]
    for judge in ours["judges"]:
        if any(_same_model(judge, each) for each in theirs["judges"]):
            return f"labels of {judge}"
    for name in ours["hashes"]:
        if name in theirs["hashes"]:
            return f"labels under {listed(ours['constitutions'])}"
    return None


def _same_model(one: str, other: str) -> bool:
    """Whether two specs name one model: by all of them, or by the mark of their weights, whatever their folders."""
    marks = [spec.rpartition("@")[2] for spec in (one, other) if "@" in spec]
    providers = [spec.partition(":")[0] for spec in (one, other)]
    local = all(provider in ("hf", "local", "reward") for provider in providers)
    return one == other or (local and len(marks) == 2 and marks[0] == marks[1])


def _names(labels: Object, law: ConstitutionRef) -> bool:
    """Whether labels are under a constitution: by its hash, or by its name if they have no hash."""
    return law.hash in labels["hashes"] or (not labels["hashes"] and law.name in labels["constitutions"])


def _reward_model(judge: str, stage: Object) -> Values | None:
    """What the reward model that made labels was trained on, if their run still says where it was."""
    if not judge.startswith("reward:"):
        return None
    for file in stage["data"]:
        info = _run_of(Path(str(file["source"])), stage["run"])
        words = shlex.split(str((info or {}).get("command") or ""))
        for before, word in pairwise(words):
            if before != "--judge" or not word.startswith("reward:"):
                continue
            folder = folder_of(word)
            if folder is not None and judge.endswith(f"@{mark_of(folder)}"):
                return trained_of(word)
    return None


def _run_of(path: Path, run: str | None) -> Values | None:
    """The run.json beside a file of training rows, if it is of the run that made them."""
    try:
        info = find_info(path.parent)
    except CaiError:
        return None
    if info is None or identity_hash(info["identity"]) != run:
        return None
    return info


def with_training(contestants: Iterable[Contestant]) -> tuple[Contestant, ...]:
    """The contestants with what their folders say of their training."""
    return tuple(each.model_copy(update={"trained": trained_of(each.spec)}) for each in contestants)
