"""A training settles on the attention that a model's class supports, and says which."""

from __future__ import annotations

from pathlib import Path

import pytest
from seldom import seldom

pytest.importorskip("trl")
pytest.importorskip("peft")
import families
import tiny
from trainings import chats, losses, pairs, record, said, train

from cai.errors import UsageError
from cai.training.setup.config import load_config
from cai.training.setup.plan import Machine, Plan, Shape

FLAGS = {"split": 1, "batch_size": 4, "rows_at_once": 2, "dtype": "float32", "learning_rate": 1e-2}


@pytest.mark.parametrize("method", seldom(["sft", "dpo"], ["dpo"]))
@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_family_trains_with_the_attention_that_it_has(tmp_path: Path, name: str, method: str) -> None:
    base = families.model(tmp_path / "base", name)
    told: list[str] = []
    data = chats(8) if method == "sft" else pairs(8, p_chosen=0.9)
    train(method, data, out=tmp_path / "out", model=str(base), flags=FLAGS | {"epochs": 2.0}, tell=told.append)
    [line] = [line for line in told if line.startswith("attention")]
    if name in families.WITHOUT_SDPA:
        assert line.startswith("attention eager (hardware: ") and line.endswith(" does not support sdpa)")
    else:
        assert line.startswith("attention sdpa (hardware: ")
    found = losses(tmp_path / "out")
    assert len(found) == 4 and found[4] < found[1]


def test_a_reward_model_of_a_family_without_sdpa_trains(tmp_path: Path) -> None:
    base = families.model(tmp_path / "base", "gemma2")
    train("reward", pairs(8), out=tmp_path / "out", model=str(base), flags=FLAGS)
    assert record(tmp_path / "out")["settled"]["attention"] == "eager"


def test_attention_that_a_model_does_not_have_is_refused_by_name(tmp_path: Path) -> None:
    base = families.model(tmp_path / "base", "bloom")
    with pytest.raises(
        UsageError, match="attention sdpa: BloomForCausalLM does not support it; leave it out, or take eager"
    ):
        train("sft", chats(8), out=tmp_path / "out", model=str(base), flags=FLAGS | {"attention": "sdpa"})


@pytest.mark.parametrize(
    ("kernels", "flash", "expected"),
    [
        (("sdpa", "flash_attention_2"), True, "flash_attention_2"),
        (("sdpa",), True, "sdpa"),
        (("flash_attention_2",), True, "flash_attention_2"),
        (("flash_attention_2",), False, "eager"),
        ((), True, "eager"),
    ],
)
def test_the_fastest_attention_that_model_and_machine_share_is_taken(
    kernels: tuple[str, ...], flash: bool, expected: str
) -> None:
    shape = Shape(8_000_000_000, 32, 4096, 8192, heads=32, name="It", kernels=kernels)
    machine = Machine("cuda", "a GPU", 80 << 30, True, flash)
    plan = Plan("sft", load_config(), [100] * 10, shape, machine)
    assert plan.attention == expected
    assert plan.packing == ("padding_free" if expected.startswith("flash") else "none")


def test_the_matrix_of_eager_attention_is_planned_with() -> None:
    def plan(*kernels: str) -> Plan:
        shape = Shape(1_000_000_000, 24, 2048, 8192, heads=32, kernels=kernels)
        machine = Machine("cuda", "a GPU", 24 << 30, True, False)
        return Plan("sft", load_config(), [2048] * 10, shape, machine)

    assert plan().gradient_checkpointing and not plan("sdpa").gradient_checkpointing


# Chat templates without a system role: some refuse it, some leave it out

BODY = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
ASKS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "refuses": REFUSES + BODY + ASKS,
    "must alternate": ALTERNATES + BODY + ASKS,
    "leaves it out": BODY.replace("%}{{", "%}{% if m.role != 'system' %}{{", 1).replace(
        "{% endfor", "{% endif %}{% endfor"
    )
    + ASKS,
    "drops the first": "{% set messages = messages[1:] if messages[0].role == 'system' else messages %}" + BODY + ASKS,
    "shows the role alone": BODY.replace("m.content", "('' if m.role == 'system' else m.content)") + ASKS,
}


@pytest.mark.parametrize("name", seldom(TEMPLATES, ("refuses", "leaves it out")))
def test_system_text_without_a_role_of_its_own_goes_before_the_first_turn(tmp_path: Path, name: str) -> None:
    base = tiny.model(tmp_path / "base", TEMPLATES[name])
    rows = pairs(8)
    for row in rows[:3]:
        row["prompt"] = said("system", "Be brief.") + row["prompt"]
    told: list[str] = []
    summary = train("dpo", rows, out=tmp_path / "out", model=str(base), flags=FLAGS | {"split": 0.5}, tell=told.append)
    assert summary.rows + summary.eval_rows == 8 and summary.dropped == {}
    words = "the chat template has no system role: the system text goes before the first turn of the user (3 rows)"
    assert words in summary.notes and f"note: {words}" in told


def test_a_template_that_has_a_system_role_keeps_it(tmp_path: Path) -> None:
    base = tiny.model(tmp_path / "base", tiny.CHATML)
    rows = chats(8)
    rows[0]["messages"] = said("system", "Be brief.") + rows[0]["messages"]
    summary = train("sft", rows, out=tmp_path / "out", model=str(base), flags=FLAGS)
    assert not any("system role" in note for note in summary.notes)
