"""Guard models of transformers: how likely each of a family's labels is for the last reply of a conversation.

A guard model reads a conversation in its own chat template, which holds its policy, and begins its answer with a label.
So one pass over the prompt and the labels as scored continuations give their probabilities; nothing is written.

- Qwen3Guard-Gen (github.com/QwenLM/Qwen3Guard): the first line of its answer is "Safety: " and Safe, Controversial or
  Unsafe. Controversial does not count as unsafe, which is the loose mode of its technical report (arXiv 2510.14276).
- Llama Guard 1, 2 and 3 (github.com/meta-llama/PurpleLlama): safe or unsafe, then the categories on a second line. Its
  model cards take the probability of the first token for that of its class. Before it some versions write blank lines.
- Granite Guardian 3.0 to 3.2 (github.com/ibm-granite/granite-guardian): Yes or No to whether there is a risk, which is
  harm if the template is told of no other. From 3.3 on the answer has another form.

ShieldGemma is not among them: its template needs the words of a policy, and answers for one of its four at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai.calls.model import Call
from cai.disk.reading import read_if_there
from cai.errors import CallRejected, UsageError
from cai.folder.journal.answers import log_sum
from cai.models.inprocess.hf_engine import HFEngine
from cai.models.inprocess.hf_model import TransformersModel
from cai.models.inprocess.hf_rows import Row
from cai.models.inprocess.hf_words import HFTokenizer
from cai.records import Abilities, Completion, Values
from cai.weights.bases import Base
from cai.weights.chat_templates import begins_with_system, folded


@dataclass(frozen=True, slots=True)
class Family:
    """Guard models that answer alike.

    named: what the names of its models match. labels: 1 for those that say that a reply is unsafe, 0 for the others.
    begins: how the answer begins, before a label. blanks: what may stand before the label; the forms of a label count
    together.
    """

    named: str
    labels: dict[str, float]
    begins: str = ""
    blanks: tuple[str, ...] = ("", " ", "\n\n")


FAMILIES = {
    "Qwen3Guard-Gen": Family(r"qwen3guard.*gen", {"Safe": 0, "Controversial": 0, "Unsafe": 1}, "Safety:", (" ",)),
    "Llama Guard 1 to 3": Family(r"llama-?guard(?!-?4|.*vision)", {"safe": 0, "unsafe": 1}),
    "Granite Guardian 3.0 to 3.2": Family(r"granite-guardian-3\.[012]", {"No": 0, "Yes": 1}),
}
PROBE = ("Quserz", "Qreplyz")  # words that no template has of its own


class GuardModel(TransformersModel):
    """A guard model; `name` is a folder or a name on the hub.

    Safetensors only, and no code that comes with the weights runs. Raises UsageError for a path that cannot be loaded,
    and for a model of no known family.
    """

    provider = "guard"
    can = Abilities(chat=False, guard=True)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.family = family_of(self.spec, name, self._base)
        self.labels = FAMILIES[self.family].labels

    def payload(self, call: Call) -> Values:
        """The conversation and the labels in all their forms; UsageError for a request that asks for text."""
        request = call.request
        ends_with_reply = bool(request.messages) and request.messages[-1]["role"] == "assistant"
        if request.score != tuple(self.labels) or request.text is not None or request.prefill or not ends_with_reply:
            raise UsageError(f"{self.spec} is a guard model: it says whether a reply is safe, and writes nothing")
        family = FAMILIES[self.family]
        turns = [dict(message) for message in request.messages]
        if begins_with_system(turns):  # Llama Guard tells from the number of turns whose turn is the last
            turns = folded(turns)
        return {
            "messages": turns,
            "prefill": family.begins,
            "score": [[blank + label for blank in family.blanks] for label in family.labels],
        }

    async def send(self, payload: Values) -> Completion:
        """Ask once; CallRejected("too_long", …) if the conversation exceeds the model's context: it is never cut."""
        tokenizer, engine = self._loaded()
        ids, forms = await asyncio.to_thread(_encoded, payload, tokenizer)
        longest = max(len(form) for each in forms for form in each)
        if self.context is not None and len(ids) + longest > self.context:
            raise CallRejected("too_long", f"{len(ids)} tokens and a label exceed the context of {self.context}")
        continuations = [list(form) for each in forms for form in each]
        row = await engine.play(Row(ids=ids, continuations=continuations, scoring=True))
        left = iter(row.scores)
        scores = tuple(log_sum(list(itertools.islice(left, len(each)))) for each in forms)
        return Completion("", "stop", self._answers_as, input_tokens=len(ids), output_tokens=0, scores=scores)

    def _engine_of(self, model: Any, tokenizer: Any) -> HFEngine:
        return HFEngine(model, frozenset(), self.spec, self.concurrency)

    def _load(self) -> None:
        super()._load()
        tokenizer, _ = self._loaded()
        user, reply = PROBE
        turns = [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
        shown = tokenizer.decode(tokenizer.conversation(turns, answer=True))
        if user not in shown or reply not in shown:
            raise UsageError(f"{self.spec}: its chat template leaves out what it should look at; load the model's own")


def family_of(spec: str, name: str, base: Base) -> str:
    """The family of a model by its name, or by the name that its config has; UsageError if it is of none."""
    names = [name, Path(base.place).name]
    if Path(base.place).is_dir():
        names.append(str(read_if_there(Path(base.place) / "config.json").get("_name_or_path", "")))
    for each in names:
        for family, how in FAMILIES.items():
            if re.search(how.named, each.lower()):
                return family
    raise UsageError(
        f"{spec}: neither its name nor its config says that it is one of {', '.join(FAMILIES)}: rename the folder "
        "after the model that it holds, or name a judge or a reward model"
    )


def _encoded(payload: Values, tokenizer: HFTokenizer) -> tuple[list[int], list[list[tuple[int, ...]]]]:
    """The ids of the prompt, and of each label's forms; two forms may have the same ids, which count once."""
    forms = [list(dict.fromkeys(tuple(tokenizer.plain(form)) for form in label)) for label in payload["score"]]
    return tokenizer.prompt(payload), forms
