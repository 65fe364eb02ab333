"""The parts of the training benchmarks that are not training: operations, clocks, tables, processes."""

from __future__ import annotations

import importlib
import itertools
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


@pytest.fixture
def gpu() -> Any:
    return importlib.import_module("train_gpu")


@pytest.fixture
def cpu() -> Any:
    return importlib.import_module("train")


@pytest.fixture
def sizes() -> Any:
    return importlib.import_module("_gpu")


# Operations


@pytest.mark.parametrize(("name", "parameters"), [("135M", 134_515_008), ("1B", 1_235_814_400), ("8B", 8_030_261_248)])
def test_the_shapes_have_as_many_parameters_as_their_models(sizes: Any, name: str, parameters: int) -> None:
    assert sizes.SHAPES[name].parameters == parameters


def test_all_weights_cost_six_operations_each_and_frozen_ones_four(sizes: Any) -> None:
    shape = sizes.SHAPES["8B"]
    assert sizes.per_token(shape, 0) == 6 * shape.matrices
    assert sizes.per_token(shape, 0, adapter=shape.adapter(16)) == 4 * shape.matrices + 6 * shape.adapter(16)
    assert sizes.per_token(shape, 0, reference=True) == 8 * shape.matrices
    assert 0 < shape.adapter(16, few=True) < shape.adapter(16) / 4


@pytest.mark.parametrize("rank", [None, 4])
def test_the_operations_are_those_that_torch_counts(sizes: Any, rank: int | None) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    shape, length = sizes.TINY, 96
    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.groups,
        head_dim=shape.head, tie_word_embeddings=True, attn_implementation="eager",
    )  # fmt: skip
    model: Any = transformers.LlamaForCausalLM(config)
    assert sum(weight.numel() for weight in model.parameters()) == shape.parameters
    adapter = None
    if rank is not None:
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(model, peft.LoraConfig(r=rank, target_modules="all-linear"))
        model.enable_input_require_grads()  # or the first layer would be spared the gradients of its inputs
        adapter = sum(weight.numel() for name, weight in model.named_parameters() if "lora" in name)
        assert adapter == shape.adapter(rank)
    ids = torch.arange(length)[None]
    with FlopCounterMode(display=False) as counted:
        model(input_ids=ids, labels=ids).loss.backward()
    # Eager attention computes all of the context, also what the causal mask hides.
    expected = length * sizes.per_token(shape, 2 * length, adapter=adapter)
    assert counted.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_the_context_is_that_of_a_token_not_of_a_row(sizes: Any) -> None:
    assert sizes.mean_context([100, 100]) == 100
    assert sizes.mean_context([100, 300]) == 250


def test_utilisation_is_a_share_of_the_device_that_is_there(sizes: Any) -> None:
    assert sizes.peak_of("NVIDIA H200") == sizes.peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert sizes.peak_of("NVIDIA H100 PCIe") == 756e12
    assert (sizes.peak_of("NVIDIA L4"), sizes.peak_of("NVIDIA L40S")) == (121e12, 362e12)
    assert sizes.peak_of("NVIDIA H100 NVL") == sizes.peak_of("NVIDIA H200 NVL") == 835e12
    assert (sizes.peak_of("NVIDIA L40"), sizes.peak_of("NVIDIA A100-SXM4-80GB")) == (181e12, 312e12)
    for name in ("cpu", "NVIDIA L400", "NVIDIA GH200 480GB", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"):
        assert sizes.peak_of(name) is None
    assert sizes.utilisation(1000, 6e9, 12e12) == pytest.approx(0.5)


# The table of the GPU


def test_every_row_has_a_name_of_its_own_and_the_defaults_come_first(gpu: Any) -> None:
    names = [case.name for case in gpu.cases()]
    assert len(set(names)) == len(names)
    assert names[:3] == ["135M-sft-cai-lora-defaults", "135M-sft-TRL-lora-defaults", "135M-sft-TRL-full-defaults"]
    assert {"8B-sft-cai-full-packed-liger", "8B-dpo-cai-lora-none-liger-each_step"} <= set(names)


def test_what_cannot_be_measured_says_why(sizes: Any) -> None:
    assert sizes.Case("1B", "dpo", layout="padding_free").missing("cuda") == "TRL 1.16 pads DPO"
    assert sizes.Case("1B", "sft", liger=True).missing("cpu") == "liger kernels need a GPU"
    assert sizes.Case("1B", "sft").missing("cuda") is None


def test_the_table_shows_what_was_measured_and_what_went_wrong(gpu: Any, sizes: Any) -> None:
    measured = {
        "tokens_per_second": 20_000.0, "context": 400.0, "peak_gb": 41.24, "start": 31.5, "rows_at_once": 8,
        "checkpoints": False, "layout": "none", "reference": "each_step", "pace": 90.0,
    }  # fmt: skip
    done = sizes.Case("8B", "dpo", reference="each_step")
    failed = sizes.Case("8B", "sft", "TRL", full=True, defaults=True)
    rows = [{"name": case.name, "case": asdict(case)} for case in (done, failed)]
    table = gpu.markdown([rows[0] | measured, rows[1] | {"problem": "out of\nmemory"}], 989e12, False).splitlines()
    assert len({line.count("|") for line in table}) == 1
    assert [cell.strip() for cell in table[2].split("|")[1:10]] == [
        "8B", "sft", "TRL, defaults", "all weights", "padded", "no", "–", "–", "–",
    ]  # fmt: skip
    assert "| out of memory |" in table[2]
    shape = sizes.SHAPES["8B"]
    used = 20_000 * sizes.per_token(shape, 400, adapter=shape.adapter(16), reference=True) / 989e12
    assert table[3].endswith(f"| each step | 8 | no | 20,000 | 90.0 | {used:.1%} | 41.2 | 32 s |")
    assert "| 20,000 | 90.0 | – | 41.2 |" in gpu.markdown([rows[0] | measured], None, False)


def test_made_up_rows_have_the_lengths_that_are_promised() -> None:
    measure = importlib.import_module("_measure")
    lengths = sorted(measure.lengths(4001))
    assert lengths[2000] == pytest.approx(200, rel=0.1)
    assert lengths[0] >= 16 and lengths[-1] == 1024
    assert lengths == sorted(measure.lengths(4001))
    pairs = list(measure.records("dpo", tiny=False))
    assert len(pairs) == 512 and all({"prompt", "chosen", "rejected"} <= set(pair) for pair in pairs)
    words = [len((row["prompt"] + row["completion"])[1]["content"].split()) for row in measure.records("sft", False)]
    assert sorted(words)[256] == pytest.approx(2 * 200 / 3 - 16, rel=0.15)


def test_a_model_whose_writing_broke_off_is_made_again(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    measure = importlib.import_module("_measure")
    task = {"case": {"size": "1B"}, "tiny": True, "models": str(tmp_path / "models"), "device": "cpu"}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the tokenizer and config.json fit
    try:
        with pytest.raises(Exception, match="too large"):
            measure.model(task)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    place = measure.model(task)
    assert list((tmp_path / "models").iterdir()) == [place]
    made = transformers.AutoModelForCausalLM.from_pretrained(place)
    assert sum(weight.numel() for weight in made.parameters()) == measure.TINY.parameters
    before = (place / "model.safetensors").stat().st_mtime_ns
    assert measure.model(task) == place and (place / "model.safetensors").stat().st_mtime_ns == before


def test_the_clock_leaves_out_the_first_steps_and_starts_again_with_a_training_that_does() -> None:
    measure = importlib.import_module("_measure")
    begun: list[int] = []
    clock = measure.Clock(0.0, lambda: begun.append(len(clock.stamps)))
    for step in (1, 2, 1, 2, 3, 4, 5):
        clock.see(step, 100.0 * step)
    with pytest.raises(measure.Enough):
        clock.see(6, 600.0)
    found = clock.result()
    assert (found["steps"], begun) == (3, [0, 0])
    spent = clock.stamps[-1][0] - clock.stamps[2][0]
    assert found["tokens_per_second"] == pytest.approx(300 / spent)


@pytest.mark.slow
def test_the_whole_script_runs_on_a_cpu_and_does_not_repeat_itself(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    names = ["135M-sft-cai-lora-defaults", "135M-dpo-TRL-lora-defaults", "135M-sft-cai-lora-packed"]
    command = [
        sys.executable, str(BENCHMARKS / "train_gpu.py"), "--out", str(tmp_path), "--device", "cpu", "--tiny",
        "--seconds", "0.1", "--peak", "1e12", "--only", *names,
    ]  # fmt: skip
    environment = {"PYTHONPATH": str(BENCHMARKS.parent), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + (tmp_path / "log.txt").read_text()
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    measured = [row for row in rows if "tokens_per_second" in row]
    assert [row["name"] for row in measured] == names[:2], (tmp_path / "rows.jsonl").read_text()
    assert all(row["tokens_per_second"] > 0 and row["peak_gb"] > 0.1 for row in measured)
    table = (tmp_path / "table.md").read_text()
    assert table.count("%") == 2 and "135M-" not in table and "packed" in table


# Beside TRL's scripts


def test_a_contestant_is_watched_from_outside(cpu: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    entries = [{"step": n, "loss": 2.0 - n / 10, "num_tokens": 100.0 * n} for n in (1, 2, 3)]
    text = f"""
import json, pathlib
out = pathlib.Path({str(out)!r})
out.mkdir()
print("loading")
for entry in {entries!r}:
    print(json.dumps(entry))
    (out / "metrics.jsonl").open("a").write(json.dumps(entry) + "\\n")
"""
    pytest.importorskip("psutil")
    found = cpu.watch([sys.executable, "-c", text], out)
    assert (found.tokens, found.losses) == (200.0, (1.9, 1.8, 1.7))
    assert 0 < found.seconds < found.whole and found.cpu >= 0
    assert 0.001 < found.memory < 64  # Linux counts what the parent had at the fork, which is pytest here
    with pytest.raises(SystemExit, match="no such model"):
        cpu.watch([sys.executable, "-c", "raise SystemExit('no such model')"], tmp_path / "b")


def test_the_log_of_a_trl_script_is_read_from_its_checkpoint(cpu: Any, tmp_path: Path) -> None:
    state = tmp_path / "checkpoint-2" / "trainer_state.json"
    state.parent.mkdir()
    state.write_text(json.dumps({"log_history": [{"loss": 1.0, "num_tokens": 5.0}, {"train_runtime": 3.0}]}))
    assert cpu.history(tmp_path) == [{"loss": 1.0, "num_tokens": 5.0}]


def test_ratios_are_to_the_best_of_the_first_contestant(cpu: Any) -> None:
    results = [cpu.Result(10, 20, tokens, 1.5, 60, 2, (1.0,)) for tokens in (1000, 2000)]
    told = list(cpu.lines("sft", {"TRL": results, "cai": [cpu.Result(10, 15, 3000, 1.0, 50, 3, (1.0,))]}))
    assert told[0] == "| sft | TRL | 200 (150) | 1.00 | 12.00 | 100 | 1.00 | 1.50 | 60 s |"
    assert told[1] == "| sft | cai | 300 (300) | 1.50 | 18.00 | 200 | 2.00 | 1.00 | 50 s |"


@pytest.mark.parametrize("method", ["dpo", "rloo", "grpo"])
def test_equal_settings_name_the_same_numbers_to_both(cpu: Any, method: str) -> None:
    flags, words = cpu.equal(method, 7)
    told = dict(itertools.pairwise(words))
    same = {
        "rows_at_once": "--per_device_train_batch_size", "learning_rate": "--learning_rate", "seed": "--seed",
        "trl.max_steps": "--max_steps", "beta": "--beta", "dtype": "--dtype",
    }  # fmt: skip
    if method == "dpo":
        same["max_length"] = "--max_length"
    else:
        same |= {"generations": "--num_generations", "reply_length": "--max_completion_length"}
    for ours, theirs in same.items():
        assert str(flags[ours]) == told[theirs]
    assert flags["batch_size"] == flags["rows_at_once"] * int(told["--gradient_accumulation_steps"])


def test_the_subset_is_pairs_that_no_limit_cuts(cpu: Any, tmp_path: Path) -> None:
    if not cpu.DATA.exists():
        pytest.skip("CAI_SHARED_DATA has no hh_harmless_dev")
    rows = cpu.subset(6)
    assert len(rows) == 6
    path = cpu.write(rows, "sft", tmp_path / "a") / "train.jsonl"
    [first, *_] = map(json.loads, path.read_text().splitlines())
    assert first["completion"] == [{"role": "assistant", "content": rows[0].reply}]
    path = cpu.write(rows, "dpo", tmp_path / "b") / "train.jsonl"
    assert all(json.loads(line)["rejected"] for line in path.read_text().splitlines())
