"""ORPO, SimPO and CPO: their losses against closed forms and TRL's, and tiny trainings that ask no reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seldom import seldom

pytest.importorskip("trl")
pytest.importorskip("peft")
import torch
import transformers
from measured import log_prob, reply_tokens, settled
from trainings import chats, ctrl_c, lines, losses, pairs, record, weights
from trainings import train as train_any

from cai.errors import InputError, UsageError
from cai.training.report.samples import greedy_replies, read_samples
from cai.training.setup.methods import METHODS
from cai.training.trainers.dpo import cross_entropy
from cai.training.trainers.loop import Guarded
from cai.training.trainers.reference_free import SURE, Contrastive, Objective, OddsRatio, Simple, log_odds, preference

NAMES = ("orpo", "simpo", "cpo")
KINDS = {"orpo": OddsRatio, "simpo": Simple, "cpo": Contrastive}
SETTLED = {"beta": 0.7, "gamma": 0.4, "nll": 0.3}

gaps = st.floats(-30, 30)
ps = st.floats(0, 1)
margins = st.floats(0, 4)
logps = st.floats(-40, -1e-4)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    """−log σ(−x)."""
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def differentiated(function: Any, *values: float) -> tuple[float, list[float]]:
    """The value of a function, and its slope in each of its arguments."""
    places = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]
    result = function(*places)
    result.backward()
    return float(result.detach()), [float(place.grad) for place in places if place.grad is not None]


def objective_of(method: str, **settings: float) -> Objective:
    rows: Any = SimpleNamespace(settled=SETTLED | settings)
    made: Objective = KINDS[method].objective(rows)
    return made


def loss_of(method: str, p: float, **settings: float) -> Any:
    """The loss of a pair without its NLL, of the log-probabilities that the method compares."""
    objective = objective_of(method, **settings)

    def loss(chosen: Any, rejected: Any) -> Any:
        gap = objective.reward(chosen) - objective.reward(rejected)
        return objective.weight * preference(gap, p, objective.margin)

    return loss


# Closed forms


@given(gaps, ps, margins)
def test_the_preference_is_the_loss_of_a_hard_label_expected_under_p(gap: float, p: float, margin: float) -> None:
    value, [slope] = differentiated(lambda x: preference(x, p, margin), gap)
    assert value == pytest.approx(p * softplus(margin - gap) + (1 - p) * softplus(margin + gap), abs=1e-9)
    assert slope == pytest.approx((1 - p) * sigmoid(gap + margin) - p * sigmoid(margin - gap), abs=1e-9)


@given(gaps, ps, margins)
def test_swapped_replies_with_the_other_probability_are_the_same_loss(gap: float, p: float, margin: float) -> None:
    one, _ = differentiated(lambda x: preference(x, p, margin), gap)
    other, _ = differentiated(lambda x: preference(-x, 1 - p, margin), gap)
    assert one == pytest.approx(other, abs=1e-9)


@given(gaps, ps)
def test_without_a_margin_the_preference_is_that_of_cdpo(gap: float, p: float) -> None:
    one, other = (differentiated(lambda x, form=form: form(x, p), gap) for form in (preference, cross_entropy))
    assert one == (pytest.approx(other[0], abs=1e-12), pytest.approx(other[1], abs=1e-12))


@given(st.floats(0.01, 0.99), margins)
def test_the_preference_is_least_at_its_closed_form(p: float, margin: float) -> None:
    """x = e^gap solves (1−p)·x² − e^γ·(2p−1)·x − p = 0."""
    lean = math.exp(margin) * (2 * p - 1)
    best = math.log((lean + math.sqrt(lean**2 + 4 * p * (1 - p))) / (2 * (1 - p)))
    _, [slope] = differentiated(lambda x: preference(x, p, margin), best)
    assert slope == pytest.approx(0, abs=1e-9)
    if margin == 0:
        assert best == pytest.approx(math.log(p / (1 - p)), abs=1e-9)


@given(margins)
def test_an_even_label_pulls_the_replies_together_whatever_the_margin(margin: float) -> None:
    _, [slope] = differentiated(lambda x: preference(x, 0.5, margin), 0.0)
    assert slope == 0


@given(logps)
def test_log_odds_and_their_slope_are_the_closed_form(logp: float) -> None:
    value, [slope] = differentiated(log_odds, logp)
    assert value == pytest.approx(logp - math.log(-math.expm1(logp)), abs=1e-9)
    assert slope == pytest.approx(-1 / math.expm1(logp), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("logp", [0.0, -1e-9, -SURE, -1e-3, -88.0, -1e4])
def test_log_odds_of_certain_and_of_impossible_replies_are_finite(logp: float, dtype: Any) -> None:
    place = torch.tensor(logp, dtype=dtype, requires_grad=True)
    odds = log_odds(place)
    odds.backward()
    assert place.grad is not None
    assert odds.dtype == torch.float32 and odds.isfinite() and place.grad.isfinite()


@given(logps, logps, ps, st.floats(0.01, 3))
def test_the_gradient_of_orpo_is_the_closed_form(chosen: float, rejected: float, p: float, beta: float) -> None:
    _, slopes = differentiated(loss_of("orpo", p, beta=beta), chosen, rejected)
    odds = [logp - math.log(-math.expm1(logp)) for logp in (chosen, rejected)]
    pull = beta * (sigmoid(odds[0] - odds[1]) - p)
    assert slopes == pytest.approx([-pull / math.expm1(chosen), pull / math.expm1(rejected)], rel=1e-6, abs=1e-9)


@given(logps, logps, st.floats(0.01, 3), margins)
def test_the_gradient_of_simpo_is_the_closed_form(chosen: float, rejected: float, beta: float, gamma: float) -> None:
    _, slopes = differentiated(loss_of("simpo", 1.0, beta=beta, gamma=gamma), chosen, rejected)
    pull = -beta * sigmoid(gamma - beta * (chosen - rejected))
    assert slopes == pytest.approx([pull, -pull], abs=1e-9)


@given(logps, logps, ps, st.floats(0.01, 3))
def test_the_gradient_of_cpo_is_the_closed_form(chosen: float, rejected: float, p: float, beta: float) -> None:
    _, slopes = differentiated(loss_of("cpo", p, beta=beta), chosen, rejected)
    pull = beta * (sigmoid(beta * (chosen - rejected)) - p)
    assert slopes == pytest.approx([pull, -pull], abs=1e-9)


# TRL's own values, as long as it has them


def theirs(module: str, name: str, settings: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """TRL's loss of log-probabilities, from a trainer that is nothing but its settings."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    gone = "this TRL has no experimental trainer of the method any more, so there is nothing to compare with"
    trainers = pytest.importorskip(f"trl.experimental.{module}", reason=gone)
    trainer = SimpleNamespace(accelerator=SimpleNamespace(device="cpu"), **settings)
    loss = getattr(getattr(trainers, f"{module.upper()}Trainer"), name)
    return lambda chosen, rejected: loss(trainer, chosen, rejected)[0]


CHOSEN = torch.tensor([-0.01, -0.4, -1.3, -2.0, -9.0])
REJECTED = torch.tensor([-0.5, -0.4, -0.2, -6.0, -0.03])


def test_orpo_has_the_value_of_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = theirs("orpo", "odds_ratio_loss", {"beta": 0.7}, monkeypatch)
    assert loss_of("orpo", 1.0)(CHOSEN, REJECTED).tolist() == pytest.approx(
        (-loss(CHOSEN, REJECTED)).tolist(), abs=1e-5
    )


@pytest.mark.parametrize(("method", "kind"), [("cpo", "sigmoid"), ("simpo", "simpo")])
def test_cpo_and_simpo_have_the_values_of_trl(monkeypatch: pytest.MonkeyPatch, method: str, kind: str) -> None:
    settings = {"alpha": 0.0, "beta": 0.7, "simpo_gamma": 0.4, "loss_type": kind, "label_smoothing": 0.0}
    loss = theirs("cpo", "cpo_loss", settings, monkeypatch)
    assert loss_of(method, 1.0)(CHOSEN, REJECTED).tolist() == pytest.approx(loss(CHOSEN, REJECTED).tolist(), abs=1e-6)


# Tiny trainings


def train(method: str, base: Path, out: Path, data: Any = None, /, **more: Any) -> Any:
    flags = {"split": 0.8, "batch_size": 4, "dtype": "float32", "learning_rate": 1e-3} | more.pop("flags", {})
    return train_any(method, pairs() if data is None else data, out=out, model=str(base), flags=flags, **more)


def by_hand(method: str, model: Any, words: Any, row: dict[str, Any], p: float) -> tuple[float, float, int]:
    """The preference loss of a pair at the default settings, the NLL of its chosen reply, and that reply's tokens."""
    whole = [log_prob(model, words, row, side) for side in ("chosen", "rejected")]
    counts = [reply_tokens(words, row, side) for side in ("chosen", "rejected")]
    means = [logp / count for logp, count in zip(whole, counts, strict=True)]
    gap = {
        "orpo": math.log(math.exp(means[0]) / -math.expm1(means[0]))
        - math.log(math.exp(means[1]) / -math.expm1(means[1])),
        "simpo": 2 * (means[0] - means[1]),
        "cpo": 0.1 * (whole[0] - whole[1]),
    }[method]
    margin = 1.0 if method == "simpo" else 0.0
    loss = p * softplus(margin - gap) + (1 - p) * softplus(margin + gap)
    return (0.1 if method == "orpo" else 1.0) * loss, -whole[0], counts[0]


@pytest.mark.parametrize("p", [None, 0.8], ids=["hard", "soft"])
@pytest.mark.parametrize("method", NAMES)
def test_the_loss_and_the_held_out_pairs_are_those_computed_by_hand(
    base: Path, tmp_path: Path, method: str, p: float | None
) -> None:
    told: list[str] = []
    rows = pairs(9) if p is None else pairs(9, p_chosen=p)
    flags = {"split": 0.6, "batch_size": 6, "rows_at_once": 1}
    summary = train(method, base, tmp_path / "out", rows, flags=flags, tell=told.append)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    words = transformers.AutoTokenizer.from_pretrained(base)
    before = [line for line in lines(tmp_path / "out", "eval.jsonl") if line["step"] == 0]
    held = {line["id"] for line in before}
    parts = [by_hand(method, model, words, row, 1.0 if p is None else p) for row in rows if row["id"] not in held]
    assert 1 < summary.eval_rows == len(held) and len(parts) == summary.rows <= 6, "one step sees all rows that train"
    nll = (
        {"orpo": 1.0, "simpo": 0.0, "cpo": 1.0}[method]
        * sum(part[1] for part in parts)
        / sum(part[2] for part in parts)
    )
    assert losses(tmp_path / "out")[1] == pytest.approx(sum(part[0] for part in parts) / len(parts) + nll, abs=1e-3)
    by_id = {row["id"]: row for row in rows}
    for line in before:
        for side in ("chosen", "rejected"):
            whole = log_prob(model, words, by_id[line["id"]], side)
            assert line[f"logp_{side}"] == pytest.approx(whole, abs=2e-3)
            if method != "cpo":
                mean = whole / reply_tokens(words, by_id[line["id"]], side)
                assert line[f"mean_logp_{side}"] == pytest.approx(mean, abs=1e-4)
    assert f"loss {'soft (data: every pair has' if p else 'hard (data: 9 of 9 pairs have no'} p_chosen)" in told


@pytest.mark.parametrize("method", NAMES)
def test_preferred_replies_win_by_more_and_no_reference_is_asked(
    base: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers = []
    inner = Guarded.training_step

    def seen(self: Any, *rest: Any, **named: Any) -> Any:
        trainers.append(self)
        return inner(self, *rest, **named)

    monkeypatch.setattr(Guarded, "training_step", seen)
    progress: list[Mapping[str, Any]] = []
    train(method, base, tmp_path / "out", flags={"epochs": 3.0, "full": True}, progress=progress.append)
    assert trainers[0].ref_model is None
    assert not any("reference_rows" in metrics for metrics in progress)
    first, last = (line for line in lines(tmp_path / "out") if "eval_loss" in line)
    assert (first["step"], last["eval_loss"] < first["eval_loss"]) == (0, True)
    assert last["eval_rewards/margins"] > first["eval_rewards/margins"] + 0.1
    assert last["eval_rewards/margins"] == pytest.approx(
        last["eval_rewards/chosen"] - last["eval_rewards/rejected"], abs=1e-4
    )
    pairs_of = record(tmp_path / "out")["summary"]["pairs"]
    assert pairs_of["measure"] == ("log probability" if method == "cpo" else "log probability a token")
    assert (pairs_of["before_step"], pairs_of["implicit"]) == (0, None)


@pytest.mark.parametrize("method", seldom(["orpo", "simpo", "cpo"], ["simpo"]))
def test_an_interrupted_training_that_goes_on_is_the_undisturbed_one(base: Path, tmp_path: Path, method: str) -> None:
    flags = {"save_every": 2, "eval_every": 2}
    data = pairs(p_chosen=0.9)
    train(method, base, tmp_path / "whole", data, flags=flags)
    with pytest.raises(KeyboardInterrupt):
        train(method, base, tmp_path / "cut", data, flags=flags, progress=ctrl_c(3))
    train(method, base, tmp_path / "cut", data, flags=flags)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert lines(tmp_path / "cut", "eval.jsonl") == lines(tmp_path / "whole", "eval.jsonl")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_an_adapter_is_trained_further_and_stays_one(base: Path, tmp_path: Path) -> None:
    flags = {"split": 0.8, "batch_size": 4, "dtype": "float32", "learning_rate": 1e-2}
    train_any("sft", chats(8), out=tmp_path / "sft", model=str(base), flags=flags)
    flags = {"save_every": 2, "samples": 1}
    train("simpo", tmp_path / "sft", tmp_path / "whole", pairs(16), flags=flags)
    with pytest.raises(KeyboardInterrupt):
        train("simpo", tmp_path / "sft", tmp_path / "cut", pairs(16), flags=flags, progress=ctrl_c(1))
    train("simpo", tmp_path / "sft", tmp_path / "cut", pairs(16), flags=flags)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole") != weights(tmp_path / "sft")
    assert not (tmp_path / "whole" / "ref").exists()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "sft")
    words = transformers.AutoTokenizer.from_pretrained(base)
    [sample] = read_samples(tmp_path / "whole")
    assert greedy_replies(model, words, [sample.prompt], most_tokens=sample.most_tokens) == [sample.before]
    by_id = {row["id"]: row for row in pairs(16)}
    for line in (line for line in lines(tmp_path / "whole", "eval.jsonl") if line["step"] == 0):
        assert line["logp_chosen"] == pytest.approx(log_prob(model, words, by_id[line["id"]], "chosen"), abs=2e-3)


def test_a_margin_that_is_not_set_is_half_of_beta(base: Path, tmp_path: Path) -> None:
    found = {}
    for name, flags in (("default", {}), ("other", {"beta": 10.0}), ("own", {"beta": 10.0, "gamma": 0.0})):
        train("simpo", base, tmp_path / name, pairs(4), flags={"split": 1, **flags})
        values = settled(tmp_path / name)
        found[name] = (values["beta"], values["gamma"])
    assert found == {"default": (2.0, 1.0), "other": (10.0, 5.0), "own": (10.0, 0.0)}


# What cannot be


@pytest.mark.parametrize(
    ("method", "flags", "message"),
    [
        ("orpo", {"gamma": 0.5}, r"gamma \(flag\) is a setting of simpo, not of orpo"),
        ("orpo", {"nll": 0.5}, r"nll \(flag\) is a setting of dpo, simpo, cpo, not of orpo"),
        ("cpo", {"reference": "once"}, r"reference \(flag\) is a setting of dpo, kto, not of cpo"),
        ("simpo", {"gamma": -1.0}, "'gamma' must be .*0"),
        ("simpo", {"loss": "sigmoid"}, "no loss of simpo is called 'sigmoid'"),
        ("simpo", {"loss": "soft"}, r"row q\d has no p_chosen, which the loss soft reads of every row"),
        *((method, {f"trl.{name}": 0.1}, f"trl.{name} has no effect on {method}: leave it out")
          for method in NAMES for name in ("label_smoothing", "ld_alpha")),
        ("orpo", {"trl.loss_weights": [1.0]}, "trl.loss_weights has no effect on orpo"),
        ("cpo", {"trl.loss_weights": [1.0]}, "trl.loss_weights is set by the key 'nll'"),
        ("orpo", {"trl.precompute_ref_log_probs": True}, "trl.precompute_ref_log_probs has no effect on orpo"),
    ],
)  # fmt: skip
def test_settings_without_a_meaning_are_refused(
    base: Path, tmp_path: Path, method: str, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises((UsageError, InputError), match=message):
        train(method, base, tmp_path / "out", pairs(6), flags=flags)
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize("method", NAMES)
def test_single_replies_are_refused_with_the_method_that_takes_them(base: Path, tmp_path: Path, method: str) -> None:
    rows = [{"prompt": f"Question {n}?", "completion": "Yes.", "label": True} for n in range(4)]
    with pytest.raises(InputError, match=f"not what {method} trains on: cai train kto"):
        train(method, base, tmp_path / "out", rows)


def test_what_a_method_calls_unused_is_an_argument_of_trls_trainer() -> None:
    trl = pytest.importorskip("trl")
    for method in NAMES:
        assert set(METHODS[method].unused) <= set(trl.DPOConfig.__dataclass_fields__)
