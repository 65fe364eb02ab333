"""What every trainer of TRL is told, and what is read from it while it runs.

Knows the arguments that all trainers share, its callbacks, signals, and batches. Knows nothing of data or methods.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

from cai.errors import UsageError
from cai.training.data.rows import Method
from cai.training.setup.config import Loaded, TrainConfig, trl_arguments
from cai.training.setup.folder import CHECKPOINTS
from cai.training.setup.plan import Plan
from cai.weights.vendors import silence_libraries


def arguments(plan: Plan, config: TrainConfig, out: Path, *, evaluates: bool) -> dict[str, Any]:
    """The arguments of TRL's config; evaluates: whether there are eval rows."""
    import torch

    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(out / CHECKPOINTS),
        "per_device_train_batch_size": plan.rows_at_once,
        "per_device_eval_batch_size": plan.rows_at_once,
        "gradient_accumulation_steps": plan.accumulation,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": config.schedule,
        "warmup_steps": int(config.warmup * plan.steps),  # rounded down: the first step of a warm-up has rate 0
        "num_train_epochs": config.epochs,
        "seed": config.seed,
        "bf16": plan.dtype == "bfloat16",
        "use_cpu": not gpu,
        "dataloader_pin_memory": gpu,
        "activation_checkpointing": plan.gradient_checkpointing,
        "logging_steps": 1,  # a wider window would begin anew when resumed, and read otherwise than undisturbed
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": plan.save_every,
        "save_total_limit": 2,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": plan.eval_every,
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
        "ddp_find_unused_parameters": False,  # every weight that trains is used at every step
    }


def trl_config(method: Method) -> Any:
    """TRL's class of arguments for a method."""
    import trl

    return {"sft": trl.SFTConfig, "dpo": trl.DPOConfig, "kto": trl.KTOConfig, "reward": trl.RewardConfig}[method]


def check_trl(method: Method, loaded: Loaded) -> dict[str, Any]:
    """What stands under `trl:`, checked; UsageError or InputError before anything is read for what TRL refuses."""
    import torch

    made = trl_config(method)
    given = trl_arguments(loaded, method, {field.name: field for field in dataclasses.fields(made)})
    check_reporters(given.get("report_to"))
    neutral = {"output_dir": "unused", "use_cpu": not torch.cuda.is_available(), "bf16": False, "report_to": []}
    try:
        with silence_libraries():
            made(**neutral | {"gradient_checkpointing": None} | given)
    except Exception as error:  # of any type: a misspelt optimiser is a ValueError, a missing package an ImportError
        raise UsageError(f"TRL refuses an argument under 'trl': {' '.join(str(error).split())[:300]}") from error
    return given


def check_reporters(wanted: Any) -> None:
    """UsageError for a service that metrics are to go to and whose package is not installed."""
    for name in [wanted] if isinstance(wanted, str) else wanted or []:
        if name not in ("wandb", "tensorboard", "none"):
            raise UsageError(f"report_to {name} must be wandb or tensorboard")
        if name == "tensorboard" and importlib.util.find_spec("tensorboardX"):
            continue
        if name in ("wandb", "tensorboard") and importlib.util.find_spec(name) is None:
            raise UsageError(f"report_to {name}: the package is not installed: pip install {name}")
