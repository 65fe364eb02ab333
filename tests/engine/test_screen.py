"""The screen of a reply: what is asked, what ordinary replies give, and which principle is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from fakes import play

from cai.constitution.principles import Constitution, Principle
from cai.engine.gate import YesNo
from cai.engine.screen import MOST, AskScreen, Baseline, Screen, baseline, ordinary
from cai.engine.templates.sets import load_templates
from cai.errors import RowDropped, Unreadable
from cai.records import Completion, Prompt, Request, Round

CHAT = load_templates("chat")
SCORE = YesNo("score", "Answer:")
ASKED = Prompt(id="one", messages=({"role": "user", "content": "How?"},))


def law(count: int, **weights: float) -> Constitution:
    principles = [Principle.model_validate({"id": f"p{n}", "text": f"Rule {n}."}) for n in range(count)]
    changed = [each.model_copy(update={"weight": weights.get(each.id, 1.0)}) for each in principles]
    return Constitution(name="law", version="1.0.0", principles=tuple(changed))


def against(request: Request) -> bool:
    return "go against" in request.messages[0]["content"]


def rule(request: Request) -> int:
    return int(request.messages[0]["content"].split("Rule ")[1].split(".")[0])


def scored(odds: float) -> Completion:
    return Completion("", "stop", "m", scores=(-math.log1p(math.exp(-odds)), -math.log1p(math.exp(odds))))


def answers(bias: Callable[[int], float], fault: Callable[[int], float]) -> Callable[[Request], Completion]:
    """Odds of Yes to either question; a fault raises the one and lowers the other, a bias raises both."""
    return lambda request: scored(bias(rule(request)) + (1 if against(request) else -1) * fault(rule(request)))


def turn_under(principle: str) -> Round:
    return Round(principle=principle, critique="Hm.", verdict=None, revision=None, changed=False)


def screen(count: int, faults: dict[int, float], **changes: Any) -> tuple[Any, Any]:
    own = law(count)
    asker = AskScreen(CHAT, own)
    settings = {"least": 0.6, "seed": 0} | changes
    used, row = settings.pop("used", []), settings.pop("prompt", ASKED)
    base = Baseline(SCORE, settings.pop("odds", dict.fromkeys([each.id for each in own.principles], 0.0)))
    rounds = [turn_under(name) for name in used]
    look = Screen(asker, own.principles, **settings, baseline=base).look(row, "So.", rounds)
    (drawn, screening), asked = play(look, answers(lambda n: n, lambda n: faults.get(n, 0.0)))
    return drawn and drawn.id, (screening, asked)


def test_both_questions_of_a_principle_share_all_but_their_last_line() -> None:
    _, (_, asked) = screen(3, {})
    texts = [request.messages[0]["content"] for request in asked]
    assert [against(request) for request in asked] == [True, False] * 3
    for one, other in zip(texts[::2], texts[1::2], strict=True):
        assert one.rsplit("\n", 1)[0] == other.rsplit("\n", 1)[0]
    shared = texts[0].index("A principle for such replies")
    assert {text[:shared] for text in texts} == {texts[0][:shared]}
    assert "How?" in texts[0][:shared] and "So." in texts[0][:shared]
    assert {(request.role, request.score, request.prefill) for request in asked} == {
        ("screen", (" Yes", " No"), "Answer:")
    }


def test_what_a_model_says_to_both_questions_cancels() -> None:
    drawn, (screening, _) = screen(3, {1: 1.0})  # biases 0, 1 and 2
    assert drawn == screening.principle == "p1"
    assert [each.p for each in screening.of] == pytest.approx([0.5, 1 / (1 + math.exp(-1)), 0.5])
    assert screening.of[1].against == pytest.approx(2.0) and screening.of[1].keeps == pytest.approx(0.0)


def test_what_ordinary_replies_give_is_taken_out() -> None:
    drawn, (screening, _) = screen(2, {0: 2.0, 1: 0.5}, odds={"p0": 2.0, "p1": -0.5})
    assert drawn == "p1"
    assert [each.p for each in screening.of] == pytest.approx([0.5, 1 / (1 + math.exp(-1))])
    assert [each.baseline for each in screening.of] == [2.0, -0.5]


def test_a_reply_that_goes_against_nothing_stands() -> None:
    assert screen(4, {2: 0.4})[0] is None  # p is .599
    assert screen(4, {2: 0.41})[0] == "p2"
    assert screen(4, {}, least=0.5)[0] is not None  # the threshold itself is enough


def test_no_principle_comes_again_before_the_others_that_are_wanting() -> None:
    faults = {0: 1.0, 3: 1.0}
    first = screen(5, faults)[0]
    other = {"p0": "p3", "p3": "p0"}[first]
    assert screen(5, faults, used=[first])[0] == other
    assert screen(5, faults, used=[first, other])[0] in ("p0", "p3")


def test_the_draw_follows_from_seed_and_row_and_goes_by_weight() -> None:
    drawn = [screen(4, {0: 1.0, 1: 3.0}, seed=seed)[0] for seed in range(40)]
    assert drawn == [screen(4, {0: 1.0, 1: 3.0}, seed=seed)[0] for seed in range(40)]
    assert {"p0", "p1"} == set(drawn)
    rows = [screen(4, {0: 1.0, 1: 1.0}, prompt=ASKED.model_copy(update={"id": str(n)}))[0] for n in range(40)]
    assert {"p0", "p1"} == set(rows)


def test_of_many_principles_some_are_screened() -> None:
    _, (one, _) = screen(40, {})
    _, (two, _) = screen(40, {}, prompt=ASKED.model_copy(update={"id": "two"}))
    assert len(one.of) == len(two.of) == MOST
    assert {each.principle for each in one.of} != {each.principle for each in two.of}


def test_a_principle_whose_answers_cannot_be_read_is_not_drawn() -> None:
    own = law(2)
    look = Screen(AskScreen(CHAT, own), own.principles, 0.0, 0, Baseline(SCORE, {"p0": 0.0, "p1": 0.0}))

    def answer(request: Request) -> Completion:
        return scored(0.0) if rule(request) else Completion("", "stop", "m", scores=(-9.0, -9.0))

    (drawn, screening), _ = play(look.look(ASKED, "So.", ()), answer)
    assert drawn.id == "p1"
    assert (screening.of[0].against, screening.of[0].p) == (None, None)
    mute = Screen(look.ask, own.principles, 0.0, 0, Baseline(SCORE, {"p0": 0.0}))
    with pytest.raises(RowDropped, match="no answer of the screen can be read"):
        play(mute.look(ASKED, "So.", ()), answer)


# The baseline


def test_the_baseline_is_the_mean_over_ordinary_replies() -> None:
    own = law(2)
    asker = AskScreen(CHAT, own)
    found, asked = play(baseline(asker, own.principles, SCORE), answers(lambda n: 5.0, lambda n: -1.0 - n))
    assert found.odds == pytest.approx({"p0": -1.0, "p1": -2.0})
    assert found.how == SCORE
    assert len(asked) == 4 * len(ordinary())
    for number, (prompt, reply) in enumerate(ordinary()):
        shown = asked[4 * number].messages[0]["content"]
        assert prompt[0]["content"] in shown and reply in shown


def test_a_model_that_lists_nothing_is_asked_in_words() -> None:
    own = law(2)

    def answer(request: Request) -> Completion:
        return Completion("No" if against(request) else "Yes.", "stop", "m")

    asker = AskScreen(CHAT, own)
    found, asked = play(baseline(asker, own.principles, YesNo("logprob", "Answer:")), answer)
    assert found.how == YesNo("vote", "Answer:")
    assert found.odds == pytest.approx(dict.fromkeys(("p0", "p1"), -math.log(3)))
    assert len(asked) == 4 + 4 * len(ordinary()) and asked[4].top_logprobs == 0
    screen_of = Screen(asker, own.principles, 0.6, 0, found)
    (drawn, screening), _ = play(screen_of.look(ASKED, "So.", ()), answer)
    assert drawn is None and [each.p for each in screening.of] == [0.5, 0.5]
    worse = lambda request: Completion("Yes", "stop", "m")  # noqa: E731
    (drawn, screening), _ = play(screen_of.look(ASKED, "So.", ()), worse)
    assert drawn is not None and screening.of[0].p == pytest.approx(0.75)


def test_a_critic_that_says_neither_word_is_unreadable() -> None:
    own = law(2)
    flow = baseline(AskScreen(CHAT, own), own.principles, YesNo("vote"))
    with pytest.raises(Unreadable, match="does not answer Yes or No: 0% of the screen's answers"):
        play(flow, lambda request: Completion("Perhaps.", "stop", "m"))


def test_a_refusal_of_logprobs_leads_to_words_and_any_other_ends_the_run() -> None:
    own = law(1)
    flow = baseline(AskScreen(CHAT, own), own.principles, YesNo("logprob"))
    next(flow)
    [first, _] = flow.throw(RowDropped("model_error", "screen", "no logprobs here"))
    assert first.top_logprobs == 0
    with pytest.raises(RowDropped):
        flow.throw(RowDropped("model_error", "screen", "nor words"))
