"""Training on a dataset: which training it is, where its rows come from, and whether it begins, resumes or is finished.

Ctrl-C saves and stops; the same call resumes. The loop is TRL's.
"""

from __future__ import annotations

import logging
import math
import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from cai.constitution.files import load_constitution
from cai.errors import UsageError
from cai.folder.info import seen_from
from cai.folder.journal.store import Store
from cai.models.specs import without_address
from cai.records import Object, Values
from cai.rewards.settings import RewardSettings
from cai.sources.files import path_of
from cai.sources.yamlfile import make_settings
from cai.texts.wording import nearest, printable, words_of
from cai.training.data.conditioned import under_principles
from cai.training.data.dataset import TrainingData, check_there, load_rows
from cai.training.provenance import provenance
from cai.training.report.summary import TrainSummary
from cai.training.session import Session
from cai.training.setup.config import Loaded, load_config
from cai.training.setup.folder import TrainFolder
from cai.training.setup.keys import TrainConfig
from cai.training.setup.methods import METHODS, OF_REPLIES
from cai.training.setup.opening import join_processes, need_train
from cai.training.setup.quantize import check_quantize
from cai.training.setup.trackers import errors_of_trackers
from cai.training.trainers.loop import Progress, check_trl
from cai.training.trainers.online.rating import identity_of, key_of, open_rewards, rating
from cai.training.trainers.online.served import rollout_server
from cai.weights.bases import Base, find_base
from cai.weights.loading import check_unquantized

log = logging.getLogger("cai")

CALLS, PROCESS = "calls.sqlite", "process-"  # what models answered; its folder for each process but the first
SECRET = re.compile("token|key|secret|password", re.IGNORECASE)  # in the name of one of TRL's arguments
OF_REWARDS = ("judge", "constitution", "scoring", "principles", "protocol", "templates", "max_cost")  # no keys
# TRL's arguments that say where metrics go, and decide no weight.
ONLY_LOG = ("report_to", "run_name", "project", "trackio_space_id", "logging_dir")
LATER = ("quantize", "gamma", "condition", "constitution")  # keys of the config that came after the first release


def train(
    method: str,
    data: Any,
    *,
    out: str | Path,
    model: str = "local",
    config: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    eval_data: str | Path | None = None,
    reward: Any = None,
    watch: Any = None,
    judging: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = log.info,
    progress: Progress | None = None,
) -> TrainSummary:
    """Train `model` on `data` by `method`; the product is in `out`, an adapter unless `full` is set.

    method: a key of `METHODS`, such as sft, dpo or rloo. data: a run folder, a file, `hf:org/name`, or an iterable of
    records. model: local, a folder (an adapter's too, which is then trained further), a .gguf file or a name on the
    hub. flags: keys that override the config file's, such as {"lora.rank": 8}. reward: of online methods, in place of
    that key: a function f(prompts, replies) that returns a number or None for each reply, a `Reward`, or a list of
    (weight, one of these). It is recognised by its name: a changed function needs another folder. watch: the same for
    one reward that takes no part, and rates held-out replies. judging: settings of
    `RewardSettings`, by which judges give rewards. progress: is given the metrics of every step.

    Called again with the same data, model and config it resumes from the last checkpoint, and if it is finished,
    returns what it did. Ctrl-C saves a checkpoint and raises KeyboardInterrupt. Raises LossNotFinite, with the step and
    the rows, before such a loss reaches the weights, and other CaiErrors for what cannot be done.
    """
    if method not in METHODS:
        raise UsageError(f"no training method is called {method!r}; {nearest(method, METHODS)}")
    check_there(data)
    need_train()
    given = {**(flags or {}), **key_of(reward), **key_of(watch, "watch")}
    loaded = load_config(config, given)
    loaded.check(method)
    check_quantize(loaded.config)
    check_trl(method, loaded)
    processes = join_processes()
    if not processes.is_main_process:
        tell = log.debug
    asking = _judging(judging, loaded, processes)
    calls_folder = _calls_folder(Path(out), processes)
    rewards = open_rewards(method, loaded.config, reward, watch, asking, calls_folder)
    under = under_principles(loaded.config)
    rows = load_rows(data, method, eval_data=eval_data, split=loaded.config.split, under=under)
    with processes.main_process_first():  # it may unpack the base, and makes the folder
        base = find_base(model)
        _check_base(base, method, loaded)
        identity = _identity(method, rows, base, loaded)
        if rewards.weighted:
            identity["rewards"] = identity_of(rewards.weighted)
        folder = TrainFolder(Path(out), identity, writes=processes.is_main_process)
    with folder:
        summary = _finished(folder, tell)
        if summary is not None:
            return summary
        if "typed" not in folder.record:
            options = {"model": model, "config": config, "eval_data": eval_data}
            options |= {name: value for name, value in (judging or {}).items() if name in OF_REWARDS}
            command = _command(method, data, options, given)
            folder.write(typed=command, started_in=seen_from(folder.path, Path()))
        loaded = _with_settled(loaded, folder, processes.num_processes)
        try:
            serving = rollout_server(loaded.config, base, folder.path, processes.num_processes)
            with rating(rewards) as rater, serving as server, errors_of_trackers():
                parts = rows, base, loaded, folder, provenance(data), processes, tell, progress
                return Session(*parts, rater=rater, server=server).run()
        finally:
            if rewards.weighted:
                folder.write(**_cost(folder.path))


def _judging(judging: Mapping[str, Any] | None, loaded: Loaded, processes: Any) -> RewardSettings:
    """By what settings judges give rewards; UsageError for a cap that several processes would each spend."""
    asking = make_settings(RewardSettings, {"seed": loaded.config.seed, **(judging or {})})
    if asking.max_cost is not None and processes.num_processes > 1:
        raise UsageError(
            f"--max-cost {asking.max_cost:g} cannot hold over {processes.num_processes} processes: start one"
        )
    return asking


def _cost(folder: Path) -> Values:
    """What the answers about replies have cost so far, of all processes, if models were asked.

    In USD; None if a price is not known.
    """
    stores = [path.parent for path in (folder / CALLS, *folder.glob(f"{PROCESS}*/{CALLS}")) if path.exists()]
    if not stores:
        return {}
    costs = []
    for each in stores:
        with closing(Store(each, read_only=True)) as store:
            costs.append(store.spent().cost_usd)
    return {"cost_usd": None if None in costs else math.fsum(filter(None, costs))}


def _calls_folder(out: Path, processes: Any) -> Path:
    """Where this process keeps what models answered about replies: one store is written by one process."""
    if processes.is_main_process:
        return out
    return out / f"{PROCESS}{processes.process_index}"


def _command(method: str, data: Any, options: Object, flags: Object) -> str | None:
    """What makes this training on the command line, without keys of servers; None for rows that are in memory."""
    if not isinstance(data, str | Path):
        return None
    stated = {name: _kept(value) for name, value in options.items() if value is not None and value != "local"}
    words = words_of(stated)
    for name, value in flags.items():
        if not SECRET.search(name):
            words += ["--set", f"{name}={orjson.dumps(_kept(value)).decode()}"]
    return printable(shlex.join(["cai", "train", method, str(data), *words]))


def _kept(value: Any) -> Any:
    """A value as it is written down: the address of a model may hold a key."""
    return without_address(value) if isinstance(value, str) else value


def _finished(folder: TrainFolder, tell: Callable[[str], None]) -> TrainSummary | None:
    """What a finished training did, in the folder where it is now; None if there is still something to do.

    Without its weights a finished training begins anew.
    """
    if not folder.record["finished"]:
        return None
    if not any(folder.path.glob("*.safetensors")):
        tell(f"{folder.path} is finished, but its weights are gone: training again")
        folder.write(finished=False)
        return None
    tell(f"{folder.path} is finished: nothing to do")
    try:
        ours = {"folder": folder.path, "method": folder.identity["method"]}
        return TrainSummary.model_validate(folder.record["summary"] | ours)
    except ValidationError:
        raise folder.damaged() from None


def _check_base(base: Base, method: str, loaded: Loaded) -> None:
    """UsageError for what cannot be done to a model that is quantised already, or that is an adapter on another."""
    if loaded.config.quantize is not None:
        check_unquantized(base, "leave quantize out, or name the weights that they were made of")
    if base.adapter is None:
        return
    what = f"{base.spec} is a LoRA adapter"
    merge = f"merge it into its base model first: cai merge {base.spec} --out FOLDER"
    if METHODS[method].scores:
        raise UsageError(f"{what}, and a reward model needs a head of its own: {merge}")
    if loaded.config.full:
        raise UsageError(f"{what}, and all weights are to be trained: {merge}")
    for name in loaded.origins:
        if name.startswith("lora."):
            raise UsageError(f"{what}, whose layers and rank are fixed: leave {name} out, or {merge}")


def _identity(method: str, rows: TrainingData, base: Base, loaded: Loaded) -> Values:
    """Everything that decides the resulting weights; how the work is divided is settled once and kept."""
    config = loaded.config.model_dump(mode="json")
    template = loaded.config.chat_template
    if template is not None and path_of(template).is_file():
        config["chat_template"] = path_of(template).read_text(encoding="utf-8", errors="replace")
    if config["constitution"] is not None:
        config["constitution"] = load_constitution(config["constitution"]).hash
    del config["server_args"]  # how a server runs
    for name in ONLY_LOG:
        config["trl"].pop(name, None)
    for part, names in ((config["lora"], ("embeddings",)), (config, (*LATER, *OF_REPLIES))):
        for name in names:
            if part.get(name) is None:  # a key that 0.1.0 did not have
                part.pop(name, None)
    for name in ("watch", "rollouts"):  # of models and servers, which may come back at another address
        if name in config:
            config[name] = without_address(config[name])
    data = [[content, len(rows.train), len(rows.eval)] for _, content in rows.files]
    return {"method": method, "model": base.mark, "data": data, "config": config}


def _with_settled(loaded: Loaded, folder: TrainFolder, devices: int) -> Loaded:
    """The config with what an earlier session settled: free memory varies from day to day, the steps must not."""
    settled = dict(folder.record.get("settled", {}))
    devices_before = settled.pop("devices", devices)
    try:
        TrainConfig.model_validate(settled)
    except ValidationError:
        raise folder.damaged() from None
    if devices_before != devices:
        settled.pop("rows_at_once", None)  # a step must see as many rows as before, on another number of devices
    open_before = {name: value for name, value in settled.items() if getattr(loaded.config, name) is None}
    return loaded.with_values("resumed", open_before)
