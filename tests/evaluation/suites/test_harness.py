"""Tasks of lm-evaluation-harness: what it returns is read, its processes are started, and what fails is said.

Most tests have a package in its place that answers as it does; if lm-eval is installed, `pytest -m slow` asks it.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from cai.errors import MissingExtra, UsageError
from cai.evaluation.arena.arena import Arena
from cai.evaluation.arena.figures import Line
from cai.evaluation.arena.settings import EvaluateSettings
from cai.evaluation.suites.harness_process import items_of
from cai.evaluation.suites.tax import Tax

TASK = """\
task: tiny_sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}} Answer:"
doc_to_target: answer
doc_to_choice: choices
metric_list:
  - metric: acc
"""
# In the place of lm-eval: it knows four names, and an item is right if the model's first weight and its number say so.
STUB = {
    "__init__.py": """
def simple_evaluate(model, tasks, task_manager, limit, log_samples, bootstrap_iters, apply_chat_template):
    [name] = tasks
    assert log_samples and not apply_chat_template
    print("asked for", name)
    if name == "far":
        raise ConnectionError("Couldn't reach 'far/away' on the Hub")
    if name == "odd":
        raise KeyError("test")
    size = min(limit or 6, 6)
    seed = sum(map(ord, model.text))
    samples = [
        {"doc_id": n, "doc_hash": f"hash of {n}", "metrics": ["acc"], "acc": float((seed * (n + 3)) % 7 < 4)}
        for n in range(size)
    ]
    return {"samples": {name: samples}}
""",
    "tasks.py": """
class TaskManager:
    def __init__(self, include_path):
        self.all_tasks = ["hellaswag", "mmlu", "far", "odd"] + (["tiny_sums"] if include_path else [])
""",
    "models/__init__.py": "",
    "models/huggingface.py": """
class HFLM:
    def __init__(self, pretrained, tokenizer, batch_size):
        assert not pretrained.training and tokenizer.chat_template
        self.text = repr(float(next(pretrained.parameters()).flatten()[0]))
""",
}


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in STUB.items():
        path = tmp_path / "stub" / "lm_eval" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    monkeypatch.syspath_prepend(tmp_path / "stub")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model and a copy of it under another name."""
    models = tmp_path_factory.mktemp("models")
    return [f"hf:{tiny.model(models / name, context=2048)}" for name in ("base", "copy")]


def suite_of(out: Path, base: str, *models: str, tasks: str, **settings: Any) -> Tax:
    return Tax(Arena(models, None, EvaluateSettings(against=base, out=out, tasks=tasks, **settings), out))


def lines_of(suite: Tax, task: str) -> dict[str, Line]:
    return {line.model: line for line in suite.result().lines if line.measure == task}


def own_task(folder: Path) -> str:
    rows = [{"q": f"What is {n} + 2?", "choices": [str(n + 2), str(n + 5)], "answer": 0} for n in range(8)]
    data, task = folder / "sums.jsonl", folder / "sums.yaml"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task.write_text(TASK.format(data=data))
    return str(task)


# What lm-eval returns


def sample(number: int, **values: Any) -> dict[str, Any]:
    return {"doc_id": number, "doc_hash": f"{number:08x}", "metrics": list(values), **values}


@pytest.mark.parametrize(
    ("samples", "metric", "values"),
    [
        ({"t": [sample(0, acc=1.0, acc_norm=0.0), sample(1, acc=0.0, acc_norm=1.0)]}, "acc", [1.0, 0.0]),
        ({"t": [sample(0, acc_norm=1.0), sample(1, acc_norm=0.0)]}, "acc_norm", [1.0, 0.0]),
        ({"t": [sample(0, exact_match=True), sample(1, exact_match=False)]}, "exact_match", [1.0, 0.0]),
        ({"t": [sample(0, exact_match=0.0, filter="strict"), sample(0, exact_match=1.0, filter="loose")]},
         "exact_match", [0.0]),
        ({"m_a": [sample(0, acc=1)], "m_b": [sample(0, acc=0)]}, "acc", [1.0, 0.0]),
        ({"t": [sample(0, bleu=31.0, rouge=0.25)]}, "rouge", [0.25]),
    ],
)  # fmt: skip
def test_the_items_of_a_task_have_the_value_of_its_first_known_metric(
    samples: Any, metric: str, values: list[float]
) -> None:
    found = items_of({"samples": samples})
    assert (found["metric"], list(found["items"].values())) == (metric, values)
    assert all(name.partition(":")[0] in samples for name in found["items"])


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        ({"t": [sample(0, word_perplexity=(-12.0, 9))]}, r"no value from 0 to 1 \(word_perplexity\)"),
        ({"t": [sample(0, acc=math.nan)]}, r"no value from 0 to 1 \(acc\)"),
        ({"t": [{"doc_id": 0}]}, r"no value from 0 to 1 \(no metric\)"),
        ({"t": []}, "it has no items"),
        ({}, "it has no items"),
    ],
)
def test_a_task_without_values_of_single_items_is_refused(samples: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        items_of({"samples": samples})


# Its processes


def test_without_lm_eval_one_line_says_how_to_install_it(pair: list[str], tmp_path: Path) -> None:
    if "lm_eval" in sys.modules or __import__("importlib.util").util.find_spec("lm_eval"):
        pytest.skip("lm-eval is installed")
    with pytest.raises(MissingExtra, match=r"--tasks needs a package .*pip install 'cai-toolkit\[eval\]'"):
        suite_of(tmp_path, *pair, tasks="mmlu")


@pytest.mark.slow
@pytest.mark.usefixtures("stub")
def test_tasks_are_measured_once_and_paired_by_item(pair: list[str], tmp_path: Path) -> None:
    suite = suite_of(tmp_path / "out", *pair, tasks=f"hellaswag,far,odd,{own_task(tmp_path)}")
    suite.tasks.measure()
    for task in ("hellaswag", "tiny_sums"):
        lines = lines_of(suite, task)
        assert [line.figure.n for line in lines.values()] == [6, 6]
        gap = lines["copy"].difference
        assert gap is not None and gap.value == 0
        assert "0 gained, 0 lost" in lines["copy"].note
    warnings = suite.result().warnings
    assert any(
        "copy: task far was not measured: its data is on the hub, which cannot be reached" in one for one in warnings
    )
    assert any("base: task odd was not measured: KeyError: 'test'" in one for one in warnings)
    assert lines_of(suite, "far")["copy"].figure.value is None
    assert any("without chat templates" in fact for fact in suite.result().facts)
    logs = [
        path.read_text().count("asked for hellaswag") for path in sorted((tmp_path / "out" / "tasks").glob("*.log"))
    ]
    assert logs == [1, 1]
    again = suite_of(tmp_path / "out", *pair, tasks=f"hellaswag,{own_task(tmp_path)}")
    again.tasks.measure()  # nothing: the logs are those of before
    assert [path.read_text().count("asked for") for path in (tmp_path / "out" / "tasks").glob("*.log")] == [4, 4]
    assert lines_of(again, "hellaswag") == lines_of(suite, "hellaswag")


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize(
    ("tasks", "problem"),
    [
        ("helaswag", "--tasks helaswag: no task of .*; did you mean 'hellaswag'?"),
        ("mmlu,hellaswag,nothing_like_it", "--tasks nothing_like_it: no task of .*; known: "),
        ("absent.yaml", "--tasks absent.yaml cannot be read"),
        ("{folder}/noname.yaml", "names no task: a task file of lm-eval has a line such as task: my_task"),
        ("{folder}", "--tasks .*: no task of"),
    ],
)
def test_a_task_that_there_is_not_is_named(tasks: str, problem: str, pair: list[str], tmp_path: Path) -> None:
    (tmp_path / "noname.yaml").write_text("dataset_path: json\n")
    with pytest.raises(UsageError, match=problem):
        suite_of(tmp_path / "out", *pair, tasks=tasks.format(folder=tmp_path))


@pytest.mark.usefixtures("stub")
@pytest.mark.slow
def test_a_limit_or_another_file_measures_again_and_a_crash_is_said(pair: list[str], tmp_path: Path) -> None:
    out, own = tmp_path / "out", own_task(tmp_path)
    suite = suite_of(out, *pair, tasks=own)
    suite.tasks.measure()
    assert lines_of(suite_of(out, *pair, tasks=own, limit=3), "tiny_sums")["base"].figure.value is None
    Path(own).write_text(Path(own).read_text() + "num_fewshot: 2\n")
    changed = suite_of(out, *pair, tasks=own)
    assert lines_of(changed, "tiny_sums")["base"].figure.value is None
    (tmp_path / "stub" / "lm_eval" / "__init__.py").write_text(
        "import os\nprint('out of memory', flush=True)\nos._exit(9)"
    )
    changed.tasks.measure()
    assert any("base: lm-eval ended with 9: out of memory; see" in one for one in changed.result().warnings)


# The real one


@pytest.mark.slow
def test_the_real_harness_measures_a_task_of_ones_own(pair: list[str], tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    suite = suite_of(tmp_path / "out", *pair, tasks=own_task(tmp_path))
    suite.tasks.measure()
    lines = lines_of(suite, "tiny_sums")
    assert not suite.result().warnings
    assert [line.figure.n for line in lines.values()] == [8, 8]
    gap = lines["copy"].difference
    assert gap is not None and gap.value == 0
    with pytest.raises(UsageError, match="did you mean 'hellaswag'"):
        suite_of(tmp_path / "other", *pair, tasks="helaswag")
