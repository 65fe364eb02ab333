"""Weights, losses and metrics do not depend on how many rows the memory holds at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from seldom import seldom

pytest.importorskip("trl")
pytest.importorskip("peft")
import tiny
from trainings import lines, said, train

STEPS = 5
CASES = {
    "sft": ("sft", {}),
    "dpo": ("dpo", {}),
    "dpo-soft": ("dpo", {"loss": "cdpo"}),
    "dpo-nll-alone": ("dpo", {"loss": "sft"}),
    "dpo-each-step": ("dpo", {"reference": "each_step", "loss": "ipo", "nll": 1.0}),
    "kto": ("kto", {}),
    "kto-each-step": ("kto", {"reference": "each_step"}),
    "kto-unpaired": ("kto", {"loss": "apo_zero_unpaired"}),
    "orpo": ("orpo", {"loss": "hard"}),
    "simpo-nll": ("simpo", {"nll": 0.5}),
    "cpo": ("cpo", {}),
    "reward": ("reward", {"trl.center_rewards_coefficient": 0.1}),
    "reward-soft": ("reward", {"loss": "soft"}),
}


def rows(method: str, count: int, start: int = 0) -> list[dict[str, Any]]:
    """Replies of very different lengths, so that the mean of batches is not that of tokens."""
    made = []
    for n in range(start, start + count):
        good = f"Answer {n} past the mill." * (1 + n * n % 7)
        bad = f"No {n}." * (1 + n % 5)
        row: dict[str, Any] = {"id": f"q{n}", "prompt": said("user", f"Question {n}?")}
        if method == "sft":
            row["completion"] = said("assistant", good)
        elif method == "kto":
            row |= {"completion": said("assistant", good if n % 3 else bad), "label": n % 3 > 0}
        else:
            row |= {"chosen": said("assistant", good), "rejected": said("assistant", bad), "p_chosen": 0.6 + n % 4 / 10}
        made.append(row)
    return made


def trained(method: str, base: Path, out: Path, at_once: int, flags: dict[str, Any]) -> Any:
    """The weights after STEPS steps, of which the last has 5 rows of 8, and the lines of metrics.jsonl."""
    import orjson
    from safetensors.torch import load_file

    (out.parent / "d.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows(method, 37)))
    (out.parent / "d.eval.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows(method, 9, 100)))
    flags = {
        "batch_size": 8, "rows_at_once": at_once, "dtype": "float32", "full": True, "learning_rate": 1e-2,
        "trl.optim": "sgd", "schedule": "constant", "warmup": 0, "samples": 0, "eval_every": 3, **flags,
    }  # fmt: skip
    train(method, out.parent / "d.jsonl", out=out, model=str(base), flags=flags)
    return load_file(out / "model.safetensors"), lines(out)


UNLIKE = {"epoch", "tokens_per_second", "eta_seconds", "memory_gb", "num_tokens", "eval_num_tokens"}  # by their nature
TIMES = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")


@pytest.mark.parametrize("name", seldom(CASES, ("dpo-soft",)))
def test_nothing_depends_on_the_rows_at_once(tmp_path: Path, name: str) -> None:
    method, flags = CASES[name]
    base = tiny.model(tmp_path / "base", tiny.PLAIN, spread=0.3)
    runs = {}
    for at_once in (2 if method == "kto" else 1, 8):  # many parts of one row without padding, and one padded part
        (tmp_path / str(at_once)).mkdir()
        runs[at_once] = trained(method, base, tmp_path / str(at_once) / "out", at_once, flags)
    whole, log = runs[8]
    start = load(base)
    assert any((weight - start[key]).abs().max() > 1e-3 for key, weight in whole.items() if key in start), "it learns"
    assert max(line["step"] for line in log) == STEPS
    for weights, other in runs.values():
        difference = max(float((weights[key] - whole[key]).abs().max()) for key in whole)
        assert difference < 1e-6
        for one, two in zip(log, other, strict=True):
            assert one.keys() == two.keys()
            for key in one.keys() - UNLIKE - set(TIMES):
                assert one[key] == pytest.approx(two[key], rel=1e-4, abs=1e-5), (one["step"], key)


def load(folder: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
