from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from cai.constitution.principles import Constitution, Principle
from cai.engine.gate import Gate
from cai.engine.revise import Ask, Chain, revise
from cai.engine.templates.sets import load_templates
from cai.errors import RowDropped
from cai.records import Completion, Finish, Message, Prompt, Request

USER: Message = {"role": "user", "content": "How do I sharpen a knife?"}
PROMPT = Prompt(id="knife", messages=(USER,))
KIND = Principle.model_validate({"id": "kind", "critique": "Is it kind?", "revise": "Make it kind."})
CLEAR = Principle.model_validate({"id": "clear", "critique": "Is it clear?", "revise": "Make it clear."})
LAW = Constitution(name="law", version="1.0.0", principles=(KIND, CLEAR))
VOTE = Gate(0.5, "vote", "Answer:")


def answer(text: str, finish: Finish = "stop", tokens: int | None = None) -> Completion:
    return Completion(text, finish, "model", output_tokens=tokens)


def play(
    *answers: Completion, principles: Sequence[Principle] = (KIND,), gate: Gate | None = VOTE, left: int = 0
) -> tuple[Chain, list[Request]]:
    """The chain that these answers make, and what was asked for them; `left` answers are not wanted."""
    flow = revise(PROMPT, principles, Ask(load_templates("chat"), LAW), gate=gate)
    waiting: Iterator[Completion] = iter(answers)
    asked = []
    try:
        requests = next(flow)
        while True:
            [request] = requests
            asked.append(request)
            requests = flow.send([next(waiting)])
    except StopIteration as end:
        assert len(list(waiting)) == left
        return end.value, asked


def roles(asked: list[Request]) -> list[str]:
    return [request.role for request in asked]


def weighted(*weights: float) -> list[Principle]:
    return [Principle.model_validate({"id": f"p{i}", "text": "Be good.", "weight": w}) for i, w in enumerate(weights)]


# The flow


def test_a_reply_is_critiqued_and_revised_once_per_principle_in_order() -> None:
    answers = ["Badly.", "Unkind.", "Yes", "Gently.", "Unclear.", "Yes", "Draw it over a stone."]
    chain, asked = play(*map(answer, answers), principles=(KIND, CLEAR))
    assert roles(asked) == ["assistant", "critic", "gate", "reviser", "critic", "gate", "reviser"]
    assert (chain.initial, chain.final) == ("Badly.", "Draw it over a stone.")
    assert [turn.principle for turn in chain.rounds] == ["kind", "clear"]
    assert [turn.critique for turn in chain.rounds] == ["Unkind.", "Unclear."]
    assert [turn.revision for turn in chain.rounds] == ["Gently.", "Draw it over a stone."]
    assert all(turn.changed and (turn.verdict, turn.p_revise) == ("revise", 0.75) for turn in chain.rounds)


def test_the_second_round_is_about_the_first_revision() -> None:
    texts = ["Badly.", "Unkind.", "Gently.", "Unclear.", "Slowly."]
    _, asked = play(*map(answer, texts), principles=(KIND, CLEAR), gate=None)
    replies = [[turn["content"] for turn in request.messages if turn["role"] == "assistant"] for request in asked]
    assert replies == [[], ["Badly."], ["Badly.", "Unkind."], ["Gently."], ["Gently.", "Unclear."]]


def test_a_reply_that_needs_no_change_is_kept_and_no_revision_is_asked_for() -> None:
    chain, asked = play(answer("Gently."), answer("Good."), answer("No"))
    assert roles(asked) == ["assistant", "critic", "gate"]
    [only] = chain.rounds
    assert (only.verdict, only.p_revise, only.revision, only.changed) == ("nothing_to_fix", 0.25, None, False)
    assert chain.initial == chain.final == "Gently."


def test_the_round_after_a_reply_that_was_kept_is_about_that_reply() -> None:
    texts = ["One.", "Fine.", "No", "Curt.", "Yes", "Two."]
    chain, asked = play(*map(answer, texts), principles=(KIND, CLEAR))
    assert roles(asked) == ["assistant", "critic", "gate", "critic", "gate", "reviser"]
    assert asked[3].messages[1]["content"] == "One."
    assert [turn.revision for turn in chain.rounds] == [None, "Two."]


def test_without_the_gate_every_round_revises_whatever_the_critique_says() -> None:
    chain, asked = play(answer("One."), answer("Good.\nVerdict: nothing to fix"), answer("Two."), gate=None)
    assert roles(asked) == ["assistant", "critic", "reviser"]
    [only] = chain.rounds
    assert (only.verdict, only.p_revise, only.revision) == (None, None, "Two.")


@pytest.mark.parametrize("gate", [VOTE, Gate(0.0, "score"), Gate(0.5, "logprob", "Answer:")])
def test_the_reviser_is_asked_as_if_there_were_no_gate(gate: Gate) -> None:
    texts = ["One.", "Hm.", "Two.", "Hm!", "Three."]
    _, plain = play(*map(answer, texts), principles=(KIND, CLEAR), gate=None)
    yes = Completion("Yes", "stop", "m", logprobs=({"Yes": -0.1, "No": -3.0, "x": -9.0},), scores=None)
    if gate.protocol == "score":
        yes = Completion("", "stop", "m", scores=(-0.1, -3.0))
    first, critique, revision, second, last = map(answer, texts)
    _, gated = play(first, critique, yes, revision, second, yes, last, principles=(KIND, CLEAR), gate=gate)
    assert [request for request in gated if request.role != "gate"] == plain


def test_the_gate_is_asked_after_the_critique_so_that_a_server_has_all_but_its_question() -> None:
    _, [_, critic, gate, reviser] = play(answer("One."), answer("Hm."), answer("Yes"), answer("Two."))
    shared = [*critic.messages, {"role": "assistant", "content": "Hm."}]
    assert list(gate.messages[:-1]) == list(reviser.messages[:-1]) == shared
    assert gate.messages[-1] != reviser.messages[-1]


def test_a_reply_of_which_the_gate_says_nothing_readable_is_revised() -> None:
    chain, asked = play(answer("One."), answer("Fine."), answer("I suppose."), answer("Two."))
    assert len(asked) == 4
    assert (chain.rounds[0].verdict, chain.rounds[0].p_revise, chain.final) == (None, None, "Two.")


def test_a_revision_that_repeats_the_reply_changed_nothing() -> None:
    chain, _ = play(answer(" One. "), answer("Hm."), answer("\nOne.\n"), gate=None)
    assert (chain.rounds[0].revision, chain.rounds[0].changed) == ("One.", False)


def test_answers_are_stripped_of_the_space_around_them_alone() -> None:
    chain, _ = play(answer("\n One.\n\n  Two. \n"), answer(" Hm.\n"), answer("  Three.\t"), gate=None)
    assert (chain.initial, chain.rounds[0].critique, chain.final) == ("One.\n\n  Two.", "Hm.", "Three.")


def test_a_cut_critique_is_used_as_it_is() -> None:
    chain, asked = play(answer("One."), answer("It is rude, and it", "length"), answer("Two."), gate=None)
    assert asked[2].messages[3]["content"] == chain.rounds[0].critique == "It is rude, and it"
    assert chain.final == "Two."


@pytest.mark.parametrize(
    ("answers", "reason", "stage"),
    [
        ([answer(" \n")], "empty", "assistant"),
        ([answer("One."), answer("")], "empty", "critic"),
        ([answer("One."), answer("Hm."), answer("\t")], "empty", "reviser"),
        ([answer("One", "length", 512)], "truncated", "assistant"),
        ([answer("One."), answer("Hm."), answer("Tw", "length")], "truncated", "reviser"),
        ([answer("", "content_filter")], "content_filter", "assistant"),
        ([answer("One."), answer("Half a", "content_filter")], "content_filter", "critic"),
        ([answer("One."), answer("Hm."), answer("Half a", "content_filter")], "content_filter", "reviser"),
        ([answer("", "length", 512)], "truncated", "assistant"),
    ],
)
def test_an_answer_that_cannot_be_used_drops_the_row_where_it_fell_out(
    answers: list[Completion], reason: str, stage: str
) -> None:
    with pytest.raises(RowDropped) as dropped:
        play(*answers, gate=None)
    assert (dropped.value.reason, dropped.value.stage) == (reason, stage)


@pytest.mark.parametrize(("tokens", "told"), [(512, "cut after 512 tokens"), (None, "cut:")])
def test_a_cut_reply_says_after_how_many_tokens_and_what_to_do(tokens: int | None, told: str) -> None:
    with pytest.raises(RowDropped, match=rf"{told}.*--max-tokens"):
        play(answer("One", "length", tokens))
