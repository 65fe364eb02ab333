"""What is left open is settled from data and machine, with where each value came from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.errors import UsageError
from cai.training.setup.config import Loaded, load_config
from cai.training.setup.keys import TrainConfig
from cai.training.setup.methods import METHODS
from cai.training.setup.plan import Machine, Plan, Shape, choose_length, measure, plan_memory

GB = 2**30
LAPTOP = Machine("cpu", "a laptop", 8 * GB, bfloat16=False, flash_attention=False)
GPU = Machine("cuda", "a GPU", 80 * GB, bfloat16=True, flash_attention=True)
SMALL = Shape(135_000_000, 30, 576, 8192)
LARGE = Shape(8_000_000_000, 32, 4096, 8192)


def planned(method: str, loaded: Loaded, lengths: list[int], *machine: Any, rows: int | None = None) -> Plan:
    """A plan for these rows, or for fewer that fit; none is evaluated."""
    plan = Plan(method, loaded, lengths, *machine)
    plan.schedule(rows or len(lengths), 0)
    return plan


def values(plan: Any) -> dict[str, Any]:
    return {setting.name: (setting.value, setting.origin) for setting in plan.settings}


def test_what_is_resolved_says_where_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("max_length: 128\n")
    loaded = load_config(path, {"batch_size": 8})
    plan = Plan("sft", loaded, [100] * 99 + [300], SMALL, LAPTOP)
    found = values(plan)
    assert found["max_length"] == (128, "config file")
    assert found["batch_size"] == (8, "flag")
    assert found["dtype"] == ("float32", "hardware")
    assert found["attention"] == ("sdpa", "hardware")
    assert found["learning_rate"] == (METHODS["sft"].rates[0], "default")
    assert plan.truncation.over == 1
    assert "1 of 100 rows" in str(plan.truncation)


def test_full_training_learns_more_slowly() -> None:
    for method in METHODS:
        lora, full = (
            Plan(method, load_config(None, {"full": f}), [50, 60], SMALL, GPU).learning_rate for f in (False, True)
        )
        assert full == pytest.approx(lora / 10)


def test_a_gpu_with_flash_attention_pads_nothing() -> None:
    plan = Plan("sft", load_config(), [700] * 50, SMALL, GPU)
    assert (plan.dtype, plan.attention, plan.packing) == ("bfloat16", "flash_attention_2", "padding_free")
    assert plan.max_length == 704


def test_what_the_machine_or_model_cannot_do_is_told() -> None:
    with pytest.raises(UsageError, match="needs flash attention"):
        Plan("sft", load_config(None, {"packing": "packed"}), [9, 9], SMALL, LAPTOP)
    with pytest.raises(UsageError, match=r"context of 8,192"):
        Plan("sft", load_config(None, {"max_length": 9000}), [9, 9], SMALL, LAPTOP)


@settings(max_examples=100)
@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=200), st.integers(1, 64), st.floats(0.1, 5),
    st.sampled_from([LAPTOP, GPU]), st.sampled_from([SMALL, LARGE]), st.booleans(),
)  # fmt: skip
def test_a_plan_keeps_the_effective_batch(
    lengths: list[int], batch: int, epochs: float, machine: Machine, shape: Shape, full: bool
) -> None:
    loaded = Loaded(TrainConfig(batch_size=batch, epochs=epochs, full=full), {})
    plan = planned("sft", loaded, lengths, shape, machine)
    effective = plan.rows_at_once * plan.accumulation
    assert effective == batch
    assert 1 <= plan.save_every <= plan.steps
    assert plan.max_length <= shape.context


@settings(max_examples=100)
@given(st.integers(1, 200), st.sampled_from([128, 512, 2048]), st.integers(1, 64), st.booleans(), st.booleans())
def test_more_memory_never_means_fewer_rows_or_more_work(
    gigabytes: int, length: int, most: int, full: bool, narrow: bool
) -> None:
    def plan(memory: int) -> tuple[int, bool]:
        machine = Machine("cuda", "a GPU", memory * GB, narrow, False)
        return plan_memory(LARGE, machine, length, most, full=full, narrow=narrow)

    (rows, twice), (more, still) = plan(gigabytes), plan(2 * gigabytes)
    assert still <= twice
    assert more >= rows or still < twice


def test_a_model_that_fills_the_device_computes_its_activations_twice() -> None:
    tight = Machine("cuda", "a GPU", 24 * GB, True, False)
    assert plan_memory(LARGE, tight, 2048, 16, full=False, narrow=True)[1]
    assert not plan_memory(SMALL, tight, 2048, 16, full=False, narrow=True)[1]


def test_steps_that_are_named_to_trl_are_planned_with() -> None:
    plan = planned("sft", load_config(None, {"trl.max_steps": 30}), [50] * 1600, SMALL, GPU)
    assert (plan.steps, plan.save_every) == (30, 3)
    assert planned("sft", load_config(), [50] * 1600, SMALL, GPU).steps == 100


def test_logits_of_a_large_vocabulary_are_planned_with() -> None:
    shape = Shape(8_000_000_000, 32, 4096, 8192, 128_256)
    machine = Machine("cuda", "g", 40 * 2**30, True, False)
    rows = [
        plan_memory(shape, machine, 1024, 64, full=False, narrow=True, checkpoints=True, logits=logits)[0]
        for logits in (False, True)
    ]
    assert rows[1] < rows[0]
    assert rows[1] * 1024 * 128_256 * 10 < 32 * 2**30


def test_rows_that_do_not_fit_are_no_steps() -> None:
    loaded = load_config(None, {"batch_size": 4})
    assert planned("sft", loaded, [50] * 40, SMALL, LAPTOP).steps == 10
    assert planned("sft", loaded, [50] * 40, SMALL, LAPTOP, rows=30).steps == 8


def test_rows_at_once_that_make_no_batch_are_refused_where_the_user_named_them_and_nowhere_else() -> None:
    with pytest.raises(UsageError, match="batch_size 16 is not made of rows_at_once 3 on 1 devices: it would be 15"):
        Plan("sft", load_config(None, {"rows_at_once": 3}), [50] * 40, SMALL, LAPTOP)
    loaded = load_config(None, {"rows_at_once": 5})
    resumed = dataclasses.replace(loaded, origins={"rows_at_once": "resumed"})
    three = dataclasses.replace(LAPTOP, devices=3)
    assert Plan("sft", resumed, [50] * 40, SMALL, three).accumulation == 1


# Lengths


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=300), st.integers(1, 4096))
def test_the_chosen_length_holds_nearly_all_rows_or_is_the_cap(lengths: list[int], cap: int) -> None:
    chosen = choose_length(lengths, cap)
    assert chosen <= cap
    found = measure(lengths, chosen)
    assert chosen == cap or found.over <= 0.01 * len(lengths)
    assert chosen <= -(-max(lengths) // 64) * 64
    assert found.tokens - found.cut == sum(min(length, chosen) for length in lengths)


def test_one_long_row_of_a_hundred_does_not_decide_the_length_and_two_do() -> None:
    assert choose_length([100] * 99 + [5000], 8192) == 128
    assert choose_length([100] * 98 + [5000] * 2, 8192) == 5056


def test_what_a_limit_cuts_is_told() -> None:
    assert str(measure([100, 200, 300], 250)) == (
        "1 of 3 rows (33.3%) exceed 250 tokens (longest 300); 8.3% of tokens are beyond the limit"
    )
    assert "no row exceeds" in str(measure([1, 2], 2))
