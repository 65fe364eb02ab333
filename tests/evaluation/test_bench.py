"""Judges whose minds are known before pairs that people have labelled."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import Fake
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from shared import shared
from stub import Stub, stub
from trial_judges import Judge, command, fair, value

import cai.models
from cai.calls.model import Call
from cai.constitution.files import load_constitution
from cai.constitution.principles import Constitution
from cai.errors import CallRejected, ModelStopped, RunError, SourceError, UsageError
from cai.evaluation.bench import judge_bench, resolve_bench
from cai.evaluation.bench_report import BenchReport, BenchResult
from cai.judge.calibration import calibrate_judge
from cai.models import Provider
from cai.records import Abilities, Completion, Condition

Fakes = Callable[..., Judge]
LAW = Constitution.model_validate(
    {"name": "law", "version": "1.0.0", "principles": [f"Choose reply number {n}." for n in range(5)]}
)


def lines(results: list[BenchResult]) -> list[str]:
    return list(BenchReport("gold.jsonl", tuple(results)).lines())


def pair(n: int, first: float, second: float, human: int | None) -> dict[str, Any]:
    """Two replies that say what they are worth, as LLMBar writes pairs; people prefer `human`, 1 or 2."""
    texts = [f"{worth} {'word ' * (n % 3 + place)}".strip() for place, worth in enumerate((first, second))]
    return {"id": f"p{n}", "input": f"Question {n}?", "output_1": texts[0], "output_2": texts[1], "label": human}


def swapped(row: dict[str, Any]) -> dict[str, Any]:
    label = None if row["label"] is None else 3 - row["label"]
    return row | {"output_1": row["output_2"], "output_2": row["output_1"], "label": label}


TEN = [pair(n, n % 4 + 0.5, (n * 7) % 5, 1 + (n % 3 == 0)) for n in range(10)]
ROWS = st.lists(st.tuples(st.integers(-8, 8), st.integers(-8, 8), st.integers(1, 2)), min_size=1, max_size=8).map(
    lambda rows: [pair(n, a / 4, b / 4 + 0.1, human) for n, (a, b, human) in enumerate(rows)]
)
fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)


def bench(rows: Any, judges: Any = "fake:x", **more: Any) -> list[dict[str, Any]]:
    return [result.summary() for result in judge_bench(rows, judges, LAW, **more)]


def same(one: Any, other: Any) -> bool:
    """Equal but for rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == (pytest.approx(other) if isinstance(other, float) else other))


# Position


@fixtures
@given(rows=ROWS, bias=st.floats(-3, 3))
def test_a_constant_bias_changes_flips_and_single_orders_alone(
    judged: Fakes, rows: list[dict[str, Any]], bias: float
) -> None:
    gaps = [abs(value(row["output_1"]) - value(row["output_2"])) for row in rows]
    in_order = sorted(gaps)
    assume(all(b - a > 1e-6 for a, b in itertools.pairwise(in_order)))  # rounding decides between equals
    judged(fair)
    [plain] = bench(rows)
    judged(lambda question, first, second: bias + fair(question, first, second))
    [biased] = bench(rows)
    of_place = {
        "bias", "absolute_bias", "flip_rate", "position_consistency", "consistent_accuracy", "single_order_accuracy",
        "accuracy_a_first", "accuracy_b_first", "per_label",
    }  # fmt: skip
    for name in plain.keys() - of_place:
        if name != "verdict" and (name != "temperature" or plain["temperature"] < 50):
            assert same(biased[name], plain[name]), name
    assert biased["bias"] == pytest.approx(bias, abs=1e-9)
    assert biased["absolute_bias"] == pytest.approx(abs(bias), abs=1e-9)
    if all(abs(gap - abs(bias)) > 1e-6 for gap in gaps):  # on the edge rounding decides
        assert biased["flip_rate"] == pytest.approx(sum(abs(bias) > gap for gap in gaps) / len(gaps))
    assert plain["flip_rate"] == 0
    assert biased["position_consistency"] == 1 - biased["flip_rate"]
    assert biased["single_order_accuracy"] == (biased["accuracy_a_first"] + biased["accuracy_b_first"]) / 2


@fixtures
@given(rows=ROWS, bias=st.floats(-1, 1))
def test_swapping_the_replies_of_the_gold_pairs_changes_nothing(
    judged: Fakes, rows: list[dict[str, Any]], bias: float
) -> None:
    judged(lambda question, first, second: bias + fair(question, first, second))
    [one], [other] = bench(rows), bench(list(map(swapped, rows)))
    assert (other["accuracy_a_first"], other["accuracy_b_first"]) == (one["accuracy_b_first"], one["accuracy_a_first"])
    first = [result["baselines"].pop("always_first")["accuracy"] for result in (one, other)]
    assert sum(first) == pytest.approx(1)
    of_place = {"accuracy_a_first", "accuracy_b_first", "per_label", "verdict", "notes"}  # and of always_first
    for name in one.keys() - of_place:
        assert same(one[name], other[name]), name


def test_a_judge_of_place_alone_is_right_in_one_order_and_never_consistent(judged: Fakes) -> None:
    judged(lambda question, first, second: 2.0 + 1e-3 * fair(question, first, second))
    [result] = bench(TEN)
    judged(fair)
    [plain] = bench(TEN)
    assert (result["flip_rate"], result["position_consistency"], result["consistent_accuracy"]) == (1, 0, 0)
    assert result["single_order_accuracy"] == 0.5  # it says a when a is first, b when b is
    assert result["accuracy"] == plain["accuracy"] == plain["consistent_accuracy"] != 0.5
    assert (result["mean_confidence"], result["confident"]) == (pytest.approx(0.5, abs=1e-2), 0)


def test_the_numbers_of_two_pairs_are_those_found_by_hand(judged: Fakes) -> None:
    judged(lambda question, first, second: 1.0 + fair(question, first, second))
    rows = [pair(0, 2, 0, 1), pair(1, 0, 0.5, 2), pair(2, 3, 0, 2)]  # right; right, flips; wrong
    [result] = bench(rows, principles=2)
    assert (result["n"], result["votes"], result["invalid_vote_rate"]) == (3, 6, 0)
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert result["flip_rate"] == pytest.approx(1 / 3)
    assert result["consistent_accuracy"] == pytest.approx(1 / 3)
    assert result["accuracy_a_first"] == pytest.approx(1 / 3)  # 3 and 0.5 and 4: always a
    assert result["accuracy_b_first"] == pytest.approx(2 / 3)  # of a: 1, -1.5, 2
    confidences = [1 / (1 + math.exp(-gap)) for gap in (2, 0.5, 3)]
    assert result["mean_confidence"] == pytest.approx(sum(confidences) / 3)
    assert result["confident"] == pytest.approx(2 / 3)
    assert result["prefers_longer"] == pytest.approx(1 / 3)  # the second is always longer by a word
    assert result["people_prefer_longer"] == pytest.approx(2 / 3)
    assert result["mass"] == pytest.approx(1)
    assert (result["per_label"]["calls"], result["per_label"]["input_tokens"]) == (4, 400)


# Protocols


def test_votes_in_words_have_no_bias_in_nats(judged: Fakes) -> None:
    judged(lambda question, first, second: 1.0 + fair(question, first, second), logprobs=0)
    rows = [pair(0, 2, 0, 1), pair(1, 0, 0.5, 2), pair(2, 3, 0, 2)]
    [result] = bench(rows, principles=2)
    assert (result["protocol"], result["bias"], result["absolute_bias"], result["mass"]) == ("vote", None, None, None)
    assert result["votes"] == 2 + 2 + 6  # the split pair is asked three times
    assert result["flip_rate"] == pytest.approx(6 / 10)
    assert result["accuracy"] == pytest.approx((1 + 0.5 + 0) / 3)  # the split pair names neither


def test_several_protocols_of_several_judges_stand_side_by_side(judged: Fakes) -> None:
    judged(fair)
    result = judge_bench(TEN, ["fake:x", "fake:y", "fake:x"], LAW, protocols=["vote", "logprob", "vote"])
    assert [(one.judge, one.protocol) for one in result] == [
        ("fake:x", "vote"), ("fake:x", "logprob"), ("fake:y", "vote"), ("fake:y", "logprob")
    ]  # fmt: skip
    table = lines(result)
    assert [row.split() for row in table[:2]] == [["fake:x", "fake:x", "fake:y", "fake:y"], ["vote", "logprob"] * 2]
    assert len({len(row) for row in table if row.startswith("  ") and "%" in row}) == 1  # columns in line


def test_reasons_are_looked_at_without_naming_a_threshold(judged: Fakes) -> None:
    judged(fair)
    [result] = bench(TEN, protocols=["reason"])
    assert (result["protocol"], result["n"], result["per_label"]["calls"]) == ("reason", 10, 12)
    assert result["mean_confidence"] > 0.6  # as judged, not cut for training


class Rewards(Fake):
    """Rewards a reply by what it says it is worth."""

    def __init__(self, condition: Condition | None = None) -> None:
        super().__init__()
        self.can = Abilities(chat=False, reward=True, condition=condition)

    def payload(self, call: Call) -> dict[str, Any]:
        return {"messages": list(call.request.messages)}

    async def send(self, payload: dict[str, Any]) -> Completion:
        return Completion("", "stop", "reward-1", scores=(value(payload["messages"][-1]["content"]),))


@pytest.mark.parametrize(
    ("protocol", "condition", "calls"), [("reward", None, 2), ("conditioned", Condition("{principle}", ()), 6)]
)
def test_a_reward_model_is_asked_by_its_own_protocol_and_its_votes_have_no_order(
    judged: Fakes, monkeypatch: pytest.MonkeyPatch, protocol: str, condition: Condition | None, calls: int
) -> None:
    judged(fair)
    provider = Provider(lambda name, connection: Rewards(condition), "prizes:")
    monkeypatch.setitem(cai.models.PROVIDERS, "prizes", provider)
    [plain, prized] = bench(TEN, ["fake:x", "prizes:y"], protocols=["logprob"])
    assert prized["protocol"] == protocol
    assert (prized["accuracy"], prized["nll"]) == (plain["accuracy"], pytest.approx(plain["nll"]))
    assert (prized["votes"], prized["flip_rate"], prized["bias"], prized["invalid"]) == (None, None, None, 0)
    assert prized["per_label"]["calls"] == calls


# Which pairs


def test_pairs_without_a_human_label_are_counted_and_not_asked(judged: Fakes) -> None:
    judge = judged(fair)
    rows = [pair(0, 1, 0, None), *TEN[:2], pair(9, 1, 0, None)]
    [result] = bench(rows)
    assert (result["pairs"], result["judged"], result["n"], result["unlabelled"]) == (2, 2, 2, 2)
    assert len(judge.asked) == 12
    with pytest.raises(SourceError, match="no pair says which reply people prefer"):
        bench([pair(0, 1, 0, None)])


def test_records_that_hold_no_pair_are_dropped_with_their_reason(judged: Fakes) -> None:
    judged(fair)
    rows = [TEN[0], {"nothing": True}, TEN[1], TEN[1] | {"id": "again"}]
    [result] = bench(rows)
    assert (result["pairs"], result["judged"]) == (3, 2)
    assert result["dropped"] == {"bad_input": 1, "duplicate_prompt": 1}


def test_pairs_come_as_transcripts_and_as_chosen_and_rejected(judged: Fakes) -> None:
    judged(fair)
    talk = "\n\nHuman: Hi\n\nAssistant: "
    rows = [
        {"chosen": talk + "+2 so", "rejected": talk + "0 no"},
        {"prompt": "Hi there", "chosen": "+2 so", "rejected": "0 no"},
        {"input": "Hello", "output_1": "+2 so", "output_2": "0 no", "label": 1},
        {"prompt": "Hey", "a": "+2 so", "b": "0 no", "human": "b"},
    ]
    [result] = bench(rows)
    assert (result["n"], result["accuracy"]) == (4, 0.75)


def test_a_limit_counts_labelled_pairs(judged: Fakes, tmp_path: Path) -> None:
    judge = judged(fair)
    rows = [pair(20, 1, 0, None), *TEN]
    [whole] = bench(rows, out=tmp_path)
    asked = len(judge.asked)
    [part] = bench(rows, out=tmp_path, limit=3)
    assert (whole["n"], part["n"], part["pairs"], len(judge.asked)) == (10, 3, 3, asked)


def test_an_iterator_is_read_once_for_all_judges(judged: Fakes) -> None:
    judged(fair)
    assert [result["n"] for result in bench(iter(TEN), ["fake:x", "fake:y"])] == [10, 10]


# Judges that do not answer


def test_an_invalid_vote_is_counted_and_never_guessed(judged: Fakes) -> None:
    judged(lambda question, first, second: None if "number 0" in question else fair(question, first, second))
    [result] = bench(TEN, principles=5)
    assert (result["n"], result["invalid"], result["invalid_vote_rate"]) == (10, 0, pytest.approx(0.2))
    judged(lambda question, first, second: None if first.startswith("0.5") else fair(question, first, second))
    [result] = bench(TEN)
    assert result["invalid"] == 3
    assert result["n"] == 7


def test_a_judge_without_any_valid_vote_has_no_numbers(judged: Fakes) -> None:
    judged(lambda question, first, second: None)
    [result] = judge_bench(TEN, "fake:x", LAW)
    output = result.summary()
    assert (output["n"], output["invalid"], output["accuracy"], output["thresholds"]) == (0, 10, None, None)
    assert "nothing can be said" in output["verdict"]
    judged(fair)
    assert output.keys() == bench(TEN)[0].keys()
    assert any("nothing can be said" in line for line in lines([result]))


def test_a_judge_that_stops_leaves_the_others_their_turn(judged: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(fair)

    def stop(text: str, time: int) -> None:
        raise ModelStopped("the server is gone")

    broken = Judge(fair)
    broken.behave = stop
    monkeypatch.setitem(cai.models.PROVIDERS, "broken", Provider(lambda name, connection: broken, "broken:"))
    result = judge_bench(TEN, ["broken:b", "fake:x"], LAW)
    assert [(one.stopped, one.judged) for one in result] == [("the server is gone", 0), (None, 10)]
    assert any("not finished" in line and "the server is gone" in line for line in lines(result))


def test_a_judge_that_cannot_be_read_is_stopped_after_twenty_pairs(judged: Fakes) -> None:
    judge = judged(lambda question, first, second: None)
    judge.concurrency = 1
    [result] = judge_bench([pair(n, n, 0.5, 1) for n in range(60)], "fake:x", LAW, principles=1)
    assert result.stopped is not None and "does not answer A or B" in result.stopped
    assert result.judged < 60


def test_what_is_refused_is_dropped_and_the_rest_measured(judged: Fakes) -> None:
    judge = judged(fair)

    def refuse(text: str, time: int) -> None:
        if "Question 3?" in text:
            raise CallRejected("too_long", "more than the model reads")

    judge.behave = refuse
    [result] = bench(TEN)
    assert (result["pairs"], result["judged"], result["dropped"]) == (10, 9, {"too_long": 1})


# What a run costs


def test_running_again_asks_and_changes_nothing(judged: Fakes, tmp_path: Path) -> None:
    judge = judged(fair)
    [once] = bench(TEN, out=tmp_path)
    asked = len(judge.asked)
    [again] = bench(TEN, out=tmp_path)
    assert len(judge.asked) == asked
    assert once.pop("per_label")["calls"] == again.pop("per_label")["calls"]
    assert again == once
    assert again["folder"] == str(tmp_path / "fake-x-logprob")
    assert not list(tmp_path.rglob("dpo.jsonl"))  # nothing is trained on gold pairs


def test_the_folders_are_label_runs_that_calibrate_reads_alike(judged: Fakes, tmp_path: Path) -> None:
    judged(lambda question, first, second: 0.7 + fair(question, first, second))
    [result] = bench(TEN, out=tmp_path)
    report = calibrate_judge(tmp_path / "fake-x-logprob").summary()
    for name in ("n", "accuracy", "interval", "kappa", "ece", "brier", "nll", "auroc", "temperature", "thresholds"):
        assert same(result[name], report[name]), name
    assert result["binding"] == report["binding"]


def test_a_damaged_label_is_named(judged: Fakes, tmp_path: Path) -> None:
    judged(fair)
    many = [pair(n, n % 4 + 0.5, (n * 7) % 5, 1 + (n % 3 == 0)) for n in range(30)]
    bench(many, out=tmp_path / "many")
    path = tmp_path / "many" / "fake-x-logprob" / "labels.jsonl"
    rows = path.read_bytes().splitlines(keepends=True)
    rows[24] = rows[24].replace(b'"votes":', b'"vetos":')  # the first twenty are looked at before the run goes on
    path.write_bytes(b"".join(rows))
    with pytest.raises(RunError, match=r"labels.jsonl: line 25 is damaged"):
        bench(many, out=tmp_path / "many")


def test_another_law_in_the_same_folder_is_refused(judged: Fakes, tmp_path: Path) -> None:
    judged(fair)
    bench(TEN, out=tmp_path)
    with pytest.raises(RunError, match="it has --principles 3, and 2 is less"):
        bench(TEN, out=tmp_path, principles=2)
    [result] = bench(TEN, out=tmp_path, principles=2, force=True)
    assert result["binding"]["principles"] == 2


@pytest.mark.parametrize("words", [("judge", "bench"), ("constitution", "test")])
def test_the_force_that_errors_advise_is_an_option(
    words: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, *words, "--help") == 0
    assert "--force" in capsys.readouterr().out


def test_judges_that_share_a_short_name_do_not_share_a_folder(judged: Fakes, tmp_path: Path) -> None:
    judged(fair)
    benches = resolve_bench(TEN, ["fake:a/x", "fake:b/x", "fake:x"], LAW, [], tmp_path, {})
    assert len({bench.run.out for bench in benches}) == 3


def test_settings_that_make_no_sense_are_refused_before_anything_is_asked(judged: Fakes) -> None:
    judge = judged(fair)
    with pytest.raises(UsageError, match="'target' is for labels"):
        bench(TEN, target=3)
    with pytest.raises(UsageError, match="--protocol score"):
        bench(TEN, protocols=["logprob", "score"])
    with pytest.raises(UsageError, match="would go to anthropic and openai alike"):
        bench(TEN, ["openai:m", "anthropic:m"], base_url="http://127.0.0.1:1/v1")
    assert judge.asked == []


@pytest.fixture(scope="module")
def server() -> Iterator[Stub]:
    with stub() as running:
        yield running


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    for name in ("OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("key")
def test_what_a_label_costs_is_known_where_the_price_is(server: Stub) -> None:
    [unknown] = bench(TEN, "openai:m", base_url=server.url + "/v1")
    [known] = bench(TEN, "openai:m", base_url=server.url + "/v1", price="10,20")
    assert unknown["per_label"]["cost_usd"] is None
    tokens = known["per_label"]
    assert tokens["cost_usd"] == pytest.approx((10 * tokens["input_tokens"] + 20 * tokens["output_tokens"]) / 1e6)
    assert tokens["output_tokens"] == tokens["calls"] == 6


@pytest.mark.usefixtures("key")
def test_a_cap_holds_for_all_judges_together(server: Stub) -> None:
    given: dict[str, Any] = {"base_url": server.url + "/v1", "price": "10,20", "concurrency": 1}
    [one] = bench(TEN, "openai:m", **given)
    cost = 10 * one["per_label"]["cost_usd"]
    first, second = bench(TEN, ["openai:m", "openai:n"], max_cost=1.5 * cost, **given)
    assert first["stopped"] is None
    assert second["stopped"] is not None and "cost" in second["stopped"]
    assert 0 < second["judged"] < 10


@pytest.mark.usefixtures("key")
def test_the_command_prints_one_table_or_one_document(
    server: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TEN))
    words = ("judge", "bench", "--gold", "gold.jsonl", "--judge", "openai:m", "--base-url", server.url + "/v1")
    words += ("--protocol", "logprob", "-k", "2", "--limit", "6")
    assert command(monkeypatch, *words) == 0
    shown = capsys.readouterr().out
    assert "judge, both orders" in shown and "openai:m (logprob) agrees with people on" in shown
    asked = server.stats()["requests"]
    assert command(monkeypatch, *words, "--json") == 0
    output = json.loads(capsys.readouterr().out)
    assert server.stats()["requests"] == asked
    assert (output["gold"], [row["n"] for row in output["results"]]) == ("gold.jsonl", [6])
    assert (Path("runs") / "bench-gold" / "openai-m-logprob" / "labels.jsonl").exists()


@pytest.mark.usefixtures("key")
def test_the_command_exits_1_where_a_judge_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TEN))
    with stub("--mode", "401") as broken:
        words = ("--judge", "openai:m", "--base-url", broken.url + "/v1")
        assert command(monkeypatch, "judge", "bench", "--gold", "gold.jsonl", *words) == 1
    said = capsys.readouterr()
    assert "not finished: openai:m (logprob)" in said.err
    assert "is not finished, rerun the same command to resume" in said.out


# What is said


def verdict_of(judged: Fakes, right: int, wrong: int, *, trivial: bool = False) -> BenchResult:
    """A judge that is right and wrong on so many pairs; the first reply is longer in half, or in all that are right."""
    rows = []
    for n in range(right + wrong):
        good, longer = n < right, n % 2 == 0
        human = (1 if longer else 2) if trivial == good else 1 + (n // 2) % 2
        texts = ["+1 a" if (human == 1) == good else "0 a", "+1 a" if (human == 2) == good else "0 a"]
        texts[not longer] += " and more"
        rows.append({"input": f"Q{n}", "output_1": texts[0], "output_2": texts[1], "label": human, "id": f"q{n}"})
    judged(fair)
    [result] = judge_bench(rows, "fake:x", LAW, principles=1)
    return result


def test_a_judge_near_chance_is_called_so(judged: Fakes) -> None:
    output = verdict_of(judged, 22, 18).verdict()
    assert "agrees with people on 55.0% of 40 pairs" in output
    assert "cannot be told from a coin" in output


def test_a_good_judge_is_called_so_and_a_bad_one_too(judged: Fakes) -> None:
    assert "is better than a coin, and is better than the best trivial judge" in verdict_of(judged, 80, 0).verdict()
    assert "is wrong more often than a coin, and is no better" in verdict_of(judged, 0, 40).verdict()


def test_a_judge_that_length_equals_is_not_praised(judged: Fakes) -> None:
    judged(lambda question, first, second: math.tanh(len(first) - len(second)))
    rows = [pair(n, n, 0.5, 2) for n in range(60)]  # the second is longer
    [result] = judge_bench(rows, "fake:x", LAW, principles=1)
    output = result.verdict()
    assert "is better than a coin, and is no better than the best trivial judge (the longer reply, 100.0%)" in output


def test_few_pairs_are_called_few(judged: Fakes) -> None:
    judged(fair)
    assert any("10 pairs are too few" in line for line in lines(judge_bench(TEN, "fake:x", LAW)))


def test_it_can_be_called_where_a_loop_runs(judged: Fakes) -> None:
    judged(fair)

    async def inside() -> int:
        return len(judge_bench(TEN, "fake:x", LAW))

    assert asyncio.run(inside()) == 1


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["llmbar_natural.jsonl", "hhh221.jsonl", "hh_harmless_dev.jsonl.gz"])
def test_pairs_that_others_labelled_can_be_read(judged: Fakes, name: str) -> None:
    judged(lambda question, first, second: 0.1 + math.tanh(len(first) - len(second)))
    [result] = judge_bench(shared(name), "fake:x", load_constitution("hhh"), limit=30, principles=1)
    assert result.report is not None and result.judged >= 25
    longer = result.summary()
    assert longer["accuracy"] == pytest.approx(result.report.baselines["longer"].accuracy)
    assert longer["prefers_longer"] == 1
