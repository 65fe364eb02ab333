"""A process in which lm-evaluation-harness measures one model; standard input says which, and where to write.

What is measured is written after each task, so that a kill loses one at most.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from cai.disk.writing import write_atomically
from cai.errors import CaiError, UsageError
from cai.packages import package_version
from cai.records import Object, Values
from cai.texts.wording import nearest, one_line, reason_of

METRICS = ("acc", "exact_match", "acc_norm", "pass@1", "f1")  # of single items; the first that a task has
BATCH = 8


def main() -> None:
    """Measure what standard input asks for; what keeps a task from being measured is written instead of its items."""
    request = orjson.loads(sys.stdin.buffer.read())
    out = Path(request["out"])
    answer: Values = {"identity": request["identity"], "version": package_version("lm-eval"), "problems": {}}
    answer["tasks"] = request["measured"]
    try:
        manager = _manager(request)
        if request["spec"] is not None:
            model = _model(request["spec"])
            for name in request["tasks"]:
                _add(answer, name, partial(_measured, model, name, manager, request["limit"]))
                write_atomically(out, orjson.dumps(answer))
    except CaiError as error:
        answer["error"] = str(error)
    write_atomically(out, orjson.dumps(answer))


def _add(answer: Values, name: str, measured: Callable[[], Object]) -> None:
    """Add what was measured of a task, or why that could not be done, to an answer."""
    try:
        answer["tasks"][name] = items_of(measured())
    except ConnectionError as error:
        answer["problems"][name] = f"its data is on the hub, which cannot be reached ({reason_of(error)})"
    except CaiError as error:
        answer["problems"][name] = str(error)
    except (OSError, ValueError, LookupError) as error:  # lm-eval and datasets have no errors of their own
        answer["problems"][name] = f"{type(error).__name__}: {one_line(error)}"


def _manager(request: Object) -> Any:
    """What finds tasks by name; raises UsageError for a name that there is not."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=request["folders"] or None)
    for name in request["tasks"]:
        if name not in manager.all_tasks:
            raise UsageError(
                f"--tasks {name}: no task of lm-evaluation-harness {package_version('lm-eval')}; "
                f"{nearest(name, manager.all_tasks)}"
            )
    return manager


def _model(spec: str) -> Any:
    """The weights of a contestant, as every other part of an evaluation loads them."""
    import torch
    from lm_eval.models.huggingface import HFLM

    from cai.weights.bases import find_base
    from cai.weights.loading import load_model, load_tokenizer

    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    base = find_base(spec)
    model = load_model(base, dtype)
    if base.adapter is not None:
        model = model.get_base_model()
    return HFLM(pretrained=model.to(device).eval(), tokenizer=load_tokenizer(base), batch_size=BATCH)


def _measured(model: Any, name: str, manager: Any, limit: int | None) -> Object:
    import lm_eval

    results: Object = lm_eval.simple_evaluate(
        model=model,
        tasks=[name],
        task_manager=manager,
        limit=limit,
        log_samples=True,
        bootstrap_iters=0,
        apply_chat_template=False,
    )
    return results


def items_of(results: Object) -> Values:
    """Metric and value of every item of one task, or of all tasks of a group, from what lm-eval returns.

    An item is named by its task, its number and what is in it, so that only equal items are compared. Of several
    filters the first counts. Raises UsageError if single items have no value between 0 and 1.
    """
    items: dict[str, float] = {}
    metrics: dict[str, None] = {}
    for task, samples in results["samples"].items():
        for sample in samples:
            metric = _metric(sample)
            name = f"{task}:{sample['doc_id']}:{str(sample.get('doc_hash', ''))[:8]}"
            metrics[metric] = None
            items.setdefault(name, float(sample[metric]))
    if not items:
        raise UsageError("it has no items")
    return {"metric": ", ".join(metrics), "items": items}


def _metric(sample: Object) -> str:
    known: Sequence[str] = sample.get("metrics", ())
    for name in (*METRICS, *known):
        value = sample.get(name)
        if isinstance(value, bool | int | float) and 0 <= value <= 1:
            return name
    raise UsageError(f"single items have no value from 0 to 1 ({', '.join(known) or 'no metric'})")


if __name__ == "__main__":
    main()
