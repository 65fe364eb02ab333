"""`hf:` with families that lack SDPA, and with chat templates that have no system role."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import families
import pytest
import tiny

from cai.calls.model import Call
from cai.models.inprocess.hf import HFModel
from cai.models.inprocess.hf_words import HFTokenizer
from cai.records import Completion, Request, Sampling

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def ask(folder: Path, texts: list[str]) -> list[Completion]:
    """Greedy replies to all texts at once, so that they are padded to one length."""

    async def run() -> list[Completion]:
        model = HFModel(str(folder))
        await model.start()
        try:
            calls = []
            for text in texts:
                request = Request("assistant", ({"role": "user", "content": text},), max_tokens=8, temperature=0.0)
                calls.append(Call(request, row=text, index=0, seed=1, sampling=Sampling()))
            return list(await asyncio.gather(*(model.send(model.payload(call)) for call in calls)))
        finally:
            await model.close()

    return asyncio.run(run())


@pytest.mark.parametrize("name", families.FAMILIES)
def test_greedy_replies_are_those_of_generate_in_every_family(tmp_path: Path, name: str) -> None:
    folder = families.model(tmp_path / name, name)
    texts = ["Hi", "Where is the mill?", "The quiet river " * 8]
    words = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for text, found in zip(texts, ask(folder, texts), strict=True):
        ids = words.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        with torch.inference_mode():
            whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        assert found.text == words.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize("refuses", [True, False])
def test_system_text_goes_before_the_first_turn_if_the_template_has_no_role_for_it(
    caplog: pytest.LogCaptureFixture, refuses: bool, answer: bool
) -> None:
    refusal = "{{ raise_exception('System role not supported') }}" if refuses else ""
    template = (
        f"{{% for m in messages %}}{{% if m.role == 'system' %}}{refusal}{{% else %}}"
        "[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    words: Any = HFTokenizer(tiny.tokenizer(template))
    turns = [("system", "Be brief."), ("user", "Hi?"), ("assistant", "Ho."), ("user", "Why?"), ("assistant", "So.")]
    turns = turns[:4] if answer else turns
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            ids = words.conversation([{"role": role, "content": text} for role, text in turns], answer=answer)
    end = "[assistant]" if answer else "[assistant]So."
    assert words.decode(ids) == f"[user]Be brief.\n\nHi?[assistant]Ho.[user]Why?{end}"
    assert [record.getMessage() for record in caplog.records] == [
        "the chat template has no system role: the system text goes before the first turn of the user"
    ]
