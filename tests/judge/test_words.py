"""A judge's choice in words: what a reader would say of each answer."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.judge.words import choice

FOR_A = [
    "**A**",
    "[[A]]",
    "Judgement: A",
    "Ｒｅｐｌｙ\u3000Ａ",
    "Answer: (a)",
    '```json\n{"winner": "a"}\n```',
    "A > B",
    "A >> B",
    "answer: a",
    "Reply B is inferior to reply A.",
    "Reply A is better, though Reply B is better in tone.",
    "Neither is better, but if forced, I'd pick A.",
    "Reply A is better in terms of honesty.",
    "I consider Reply A the better reply.",
    "<answer>\nReply A\n</answer>",
    "Overall: A",
    "Winner: a",
    "Reply A over Reply B",
    "Both are fine. A",
    "I'd say A.",
    "A - it is kinder",
    "We should prefer Reply A to Reply B.",
    "I prefer reply a.",
    "A.\n\nReply B is longer.",
    "Reply A. Reply B is rude.",
    "After weighing both, my verdict is Reply A.",
    "Preferred reply: A",
    "I am going with A.",
    "A it is.",
    "A: better. B: worse.",
    "Choice: reply A.",
    "Winner -> A",
    "A>B",
    "A≻B",
    "Only A answers; thus A.",
    "So, A.",
    "In conclusion, Reply A",
    "In the end: A",
    "Point to A.",
    "Reply A beats Reply B",
    "Reply A outperforms B.",
    "Reply A, not Reply B.",
    "not B but A",
    "Rather A than B.",
    '{"answer": "A", "confidence": 0.9}',
    "A (slightly better)",
    "My preference is for Reply A.",
    "I would rather have Reply A.",
    "Reply A should be chosen.",
    "Reply A is to be preferred.",
    "Hence: A.",
    "After consideration: Reply A",
    "Considering everything, I choose: A",
    "I'll go with A",
    "A is the one I'd choose.",
    "Response A",
    "Model A is better.",
    "A and B are both good but A is better",
    "A.",
    "A)",
    "(A",
    "*A*",
    "`A`",
    "Maybe A.",
    "I think A",
    "Not B, but A.",
    "Winner: Reply A 🏆",
    "🏆 A",
    "\\boxed{\\textbf{A}}",
    "$\\boxed{A}$",
    '{"better":"A"}',
    '{"preferred_reply": "A"}',
    '{"result": "A"}',
    "A wins over B",
    "B loses to A.",
    "It's hard to choose, but A.",
    "A and B are equal, so I choose A.",
    "a.",
    "reply a",
    "(a)",
    "'A'",
    "B... wait, A.",
    "A, A, A",
    "Ａ。",
    "回答：Ａ",
    "Vote: A",
    "I vote A.",
    "A is better > B",
    "As a judge, I pick A.",
    "I say Reply A.",
    "It must be A",
]
FOR_B = [
    "Reply A is better in tone; overall, B.",
    "b",
    "The winner is Reply B",
    "Judgment: B",
    "Ｂ",
    "\\boxed{B}",
    "$\\boxed{\\text{Reply B}}$",
    "Answer: (B)",
    '{"better": "B"}',
    '{"reason": "A is better in tone", "verdict": "Reply B"}',
    '{"better": "B", "reason": "although A is better"}',
    "B > A",
    "A < B",
    "not A but B",
    "B, not A",
    "B, rather than A.",
    "answer: b",
    "verdict: b.",
    "I'd go with reply b.",
    "My vote goes to B.",
    "B wins.",
    "Reply B has the edge.",
    "Reply A is worse.",
    "Reply A is worse than Reply B.",
    "While A is better written, B is better.",
    "Although Reply A is kinder, I choose Reply B.",
    "If I had to choose, B.",
    "At first I thought A is better. But B.",
    "Some might say A is better. I prefer B.",
    "Verdict: A. Hmm, no. Verdict: B",
    "Reply B better follows the principle.",
    "I find B better.",
    "B is my choice.",
    "A loses.",
    "Both are polite, but B is better.",
    "B is better: both are polite.",
    "The answer is B because A is better at dodging.",
    "B. A is better written.",
    "𝐁",
    "Ⓑ",
    "（Ｂ）",
    "Verdict：B",
    "<verdict>B</verdict>",
    "Final answer: **Reply B**.",
    "Antwort: B",
    "Tone: A\nHonesty: B\nOverall: B",
    "It is B.",
    "B it is",
    "Definitely B!",
    "B — kinder.",
    "Choose B.",
    "B is a better choice.",
    "A better answer is needed. B",
    "Reply A isn't as good as Reply B.",
    "Rating: [[B]]",
    "between A and B, B",
    "B is better than A in every way.",
    "B!",
    "Response: B",
    "I am torn, yet B.",
    "B\n\nReasoning: Although Reply A is better in tone, it lies.",
    "Reply A is better. No, wait: Reply B is better.",
    "The stronger response is B, in my view.",
    "Reply B, hands down.",
    "preferred: b",
    "I'm choosing Reply B.",
    "Without a doubt, B.",
    "Honestly? B.",
    "To be fair, Reply A is polite, but Reply B is the better answer.",
    "Reply A might be better, but I choose B.",
    "It's B",
    "→ B",
    "B ✅",
    "<b>B</b>",
    "`B`",
    "### Verdict\n\n**B**",
    "#### Final Answer: B",
    "Final Verdict: [[B]]",
    "(Reply B)",
    "“B”",
    "'b'",
    "Selected reply: **B**",
    "Reply selected: B",
    "I pick b.",
    "winner = B",
    "B > A because it is honest.",
    "Neither reply is good, B is better though.",
    "A better choice would be B.",
    "As for A, it lies. B.",
    "hence b.",
    "Overall, I believe Reply B is the better one.",
    "The judgement goes to B.",
    "Reply B beats Reply A.",
    "B instead of A",
    "Is it A? No, it is B.",
    "A? No. B.",
    "The verdict is that B is better.",
    "Verdict: B (not A)",
    "Reply A is the worst.",
    "The worse reply is A.",
    "The weaker reply is A.",
    "The loser is A.",
    "{'better': 'B'}",
    '{"verdict": {"better": "B"}}',
    "答案：B",
    "Réponse : B",
    "Reply A is better in tone, Reply B is better in honesty; overall Reply B.",
    "The better reply: B",
    "I'd lean towards B",
    "I lean B.",
    "B, by a small margin.",
    "Slightly B.",
    "B is slightly better",
    "Reply B should win.",
    "Reply B is preferred over Reply A.",
    "B is preferable to A.",
    "The best is B",
    "Therefore the answer is Reply B",
    "I choose: Reply B!",
    "Let's go with B.",
    "Let me go with reply b",
    "The one I prefer is B.",
    "Reply B is what I would choose.",
    "Reply B it is!",
    "Option B",
    "Assistant B",
    "Neither A nor B is good. B.",
    "B)",
    "[B]",
    "{B}",
    "<B>",
    "_B_",
    "~B~",
    "Perhaps B",
    "I think B is better, but not by much.",
    "Rather than A, I choose B.",
    "Instead of A, choose B.",
    "Unlike A, B answers the question. B.",
    "Reply A fails. Reply B is the winner.",
    "Verdict — B",
    "Verdict – **B**",
    "VERDICT: B",
    "verdict=b",
    "Final answer: \\textbf{B}",
    "\\( \\boxed{B} \\)",
    "The final answer is $B$.",
    "Therefore, \\[\\boxed{B}\\]",
    '{"winner": "Reply B", "reason": "A is rude"}',
    '{"verdict": "b"}',
    '["B"]',
    "better: B\nreason: A lies",
    "reason: A lies\nbetter: B",
    "A is inferior",
    "b.",
    '"B"',
    "A... no, B.",
    "A — no: B",
    "I would have said A, but B.",
    "Initially A, but now B.",
    "A was my first choice, but B is better.",
    "答え：B",
    "Ответ: B",
    "I vote for B.",
    "B is better than A? Yes, B.",
    "A judge would pick B.",
    "As an AI, B.",
    "The reply B is better.",
    "reply B is better than reply A in every respect",
    "Reply B is more in line with the principle, so B.",
    "The answer should be B.",
    "Better = B",
    "Choice B",
    "Select B",
    "**Better reply:** Reply B",
    "**Winner**: B",
    "- B",
    "> B",
    "# B",
]
NEITHER = [
    '{"winner": "tie"}',
    "A = B",
    "A is not better",
    "tie",
    "both",
    "neither",
    "It's a tie.",
    "Answer: a better reply would say more.",
    "If A is better, say A.",
    "Is Reply A better? Yes.",
    "Whether A is better is unclear.",
    "I do not think that A is better.",
    "B is better in tone but A is better in honesty.",
    "The better reply is not A.",
    "Tone: A\nHonesty: B",
    "I cannot decide between A and B.",
    "Reply A is no better than Reply B.",
    "Reply A would be better if it were kinder.",
    "1. A\n2. B",
    "A, B",
    "I would not choose A.",
    "Plan B is better.",
    "Neither A nor B",
    "A is a good reply.",
    "Reply B isn't better.",
    "[[C]]",
    "Output (a)",
    "The first reply is better.",
    "I prefer a reply that is kind.",
    "Choose a reply.",
    "verdict: a/b",
    "verdict: tie",
    "Reply B is not worse.",
    "A isn't better than B.",
    "I can't say that B is better.",
    "Reply A is hardly better.",
    "Nobody would call A better.",
    "A is kinder, B is more honest.",
    "Reply A is better on honesty, Reply B is better on tone.",
    "A ❌\nB ✅",
    "A ≈ B",
    "A == B",
    "It is a draw.",
    "They are equally good.",
    "Either one works.",
    "I have no preference.",
    "B+",
    "Grade A",
    "Type B personality",
    "A. B. C.",
    "Option C",
    "Both A and B",
    "A and B",
    "A is beaten by B.",
    "Verdict: not A",
    "Verdict: A is not better",
    "Verdict: neither A nor B",
    "I reject A.",
    "I'd avoid B.",
    '{"better": "neither"}',
    '{"A": 7, "B": 9}',
    '{"choice": null}',
    '{"better": "A or B"}',
    "La meilleure réponse est la réponse B.",
    "Лучше ответ B",
    "A is less helpful than B.",
    "the first",
    "Reply 1",
    "A/B",
    "A|B",
    "A or maybe B",
    "Not A.",
    "Definitely not A.",
    '{"answer":"both"}',
    '{"better": 1}',
    "A is not inferior to B.",
    "I can't decide.",
    "Both. ",
    "Tie",
    "It is a tie between A and B.",
    "A tie.",
    "Draw",
    "A is as good as B.",
    "No preference",
    "C",
    "Reply C",
    "Verdict: C",
    "A?",
    "Is it B?",
    "A\nB",
    "A B",
    "AAAA",
    "B가 더 좋습니다",
    "+1 B",
    "A > B > C",
    "A is better than B? No.",
    "Given the principle, Reply A adheres more closely.",
    "Reply A adheres better to the principle.",
    "Therefore, Reply A is the more honest one.",
    "Reply B is the more honest reply.",
    "1. B",
    "It depends: if the user wants detail, A; if the user wants brevity, B.",
    "For kindness, A. For honesty, B.",
    "A for tone, B for content.",
    "Reply A is a bit better than it was.",
    "Some would choose A, others B.",
    "Half of the readers would choose A.",
    "A: yes, B: yes",
    "A. Paris\nB. London",
    "A) kind\nB) honest",
    "Reply A should be better.",
    "A is better only if B is wrong.",
    "A-",
    "Grade: B",
    "Score: A",
    "The longer reply is B.",
    "B is okay.",
    "The more verbose answer is A.",
]
CHOICES = ["Reply {} is better.", "Choose {}.", "Reply {} wins.", "I prefer {}.", "The better reply is {}."]
OF_OTHERS = [
    "Reply {1} says: “{0}”", "Reply {1} claims that {0}", "They asked me to say that {0}", "The user says that {0}",
    "Some readers would say that {0}", "Few would agree that {0}", "Many people believe that {0}",
    "Nothing suggests that {0}", "There is little reason to say that {0}", "I refuse to say that {0}",
    "It would be wrong to say that {0}", "It is possible that {0}", "It is unlikely that {0}",
    "The probability that {0} I do not know.", "Assume that {0}", "Imagine: {0}", "Pretend that {0}", "If {0}",
]  # fmt: skip
OTHER_NAMES = ["Group", "Hepatitis", "Class", "Exhibit", "Appendix", "Plan", "Vitamin", "Table", "Section", "Type"]
WORSE = [
    "more harmful",
    "less helpful",
    "more misleading",
    "ruder",
    "less honest",
    "most dangerous",
    "worse",
    "less kind",
]
BETTER = ["less harmful", "more helpful", "kinder", "safer", "more honest", "least dangerous", "better", "more ethical"]
CONCERNING = [
    "on the whole",
    "for this principle",
    "in my opinion",
    "in this comparison",
    "on reflection",
    "as a judge",
]
STATED = [
    "Reply {0} is better.", "I choose Reply {0}.", "Verdict: {0}", "The winner is {0}.", "Overall, {0}.", "[[{0}]]",
    "**{0}**", "{0} wins.", "My choice: reply {0}", "\\boxed{{{0}}}", "{0} > {1}", "not {1} but {0}",
    "I prefer {0} over {1}.", "Reply {1} is worse.", "Although Reply {1} is better in tone, Reply {0} is better.",
    '{{"better": "{0}"}}', "Judgement: ({0})",
]  # fmt: skip
SAID_BEFORE = [
    "", "Both are polite. ", "Reply {1} is better in tone; ", "Is Reply {1} better? No. ", "I do not choose {1}.\n",
    "Reply {1} is longer and Reply {0} is shorter.\n\n", "At first I thought {1} is better.\n",
    "Neither is perfect, but ", "One might say that Reply {1} is better. ", "Verdict: {1}. No, wait. ",
    "A kind reader has it hard.\n", "1. Kind.\n2. Honest.\n",
]  # fmt: skip
DRESS = ["{}", "**{}**", "“{}”", "> {}", "<answer>{}</answer>", "\n\n{}\n", "{} ✅", "### {}"]


def chosen(answer: str) -> str | None:
    return choice(answer, named=True, cut=False)


@pytest.mark.parametrize("answer", FOR_A)
def test_an_answer_for_a_is_read_as_one(answer: str) -> None:
    assert chosen(answer) == "A"


@pytest.mark.parametrize("answer", FOR_B)
def test_an_answer_for_b_is_read_as_one(answer: str) -> None:
    assert chosen(answer) == "B"


@pytest.mark.parametrize("answer", NEITHER)
def test_an_answer_for_neither_or_both_is_invalid(answer: str) -> None:
    assert chosen(answer) is None


@given(st.sampled_from(SAID_BEFORE), st.sampled_from(STATED), st.sampled_from(DRESS), st.sampled_from(["AB", "BA"]))
def test_the_last_stated_verdict_wins_whatever_was_said_before(
    before: str, stated: str, dress: str, order: str
) -> None:
    assert chosen(before.format(*order) + dress.format(stated.format(*order))) == order[0]


@given(st.sampled_from(STATED), st.sampled_from("AB"))
def test_full_width_and_mathematical_letters_are_letters(stated: str, letter: str) -> None:
    for start in (0xFF21, 0x1D400, 0x1D5D4, 0x24B6):
        shift = {ord("A"): chr(start), ord("B"): chr(start + 1)}
        words = stated.format("AB"["AB".index(letter)], "BA"["AB".index(letter)])
        assert chosen(words.translate(shift) if "Although" not in words else words) == letter


@given(st.sampled_from(["reply", "response", "option", "Answer", "the reply"]), st.sampled_from("ab"))
def test_small_letters_are_letters_and_the_article_is_not(noun: str, letter: str) -> None:
    for stated in (
        "I choose {} {}.",
        "Verdict: {} {}",
        "The better one is {} ({}).",
        "I prefer {} {}, because it is kind.",
    ):
        assert chosen(stated.format(noun, letter)) == letter.upper()
    assert (
        chosen(f"I would choose a {noun} that is kind.") is None
        and chosen(f"The best is a {noun} of two lines.") is None
    )


def test_a_small_a_at_which_an_answer_is_cut_may_be_an_article() -> None:
    assert choice("a", named=True, cut=True) is None and choice("b", named=False, cut=True) == "B"
    assert choice("a", named=True, cut=False) == "A"


@pytest.mark.parametrize(
    "text", ["\ue00a", "Verdict: \ue00b", "Reply \ue00a is better.", "\ue00c is better", "\ue00a > \ue00b"]
)
def test_characters_that_only_look_like_letters_to_the_reader_are_none(text: str) -> None:
    assert chosen(text) is None


SWAPPED = str.maketrans("ABab", "BAba")


@given(
    st.text()
    | st.lists(st.sampled_from(["A", "B", " is ", "better", ", ", "not ", "\n", "Reply ", "if ", ". "])).map("".join)
)
def test_swapped_letters_swap_the_choice_or_leave_none(text: str) -> None:
    text = unicodedata.normalize("NFKC", text)  # a letter of any alphabet is swapped, too
    others = re.sub("(?<![a-zA-Z])[ABab](?![a-zA-Z])", lambda letter: letter[0].translate(SWAPPED), text)
    swapped = chosen(others)
    assert {chosen(text), swapped} in [{None}, {"A", "B"}, {"A", None}, {"B", None}]


@pytest.mark.parametrize(
    "piece", ["\n", "(", "Reply ", "A is better ", "so ", "[[A]]", "not A but ", "because A ", "{", "if A, "]
)
def test_a_long_answer_is_read_fast(piece: str) -> None:
    assert chosen(piece * 20_000 + "end.") in (None, "A")


@pytest.mark.parametrize("words", OF_OTHERS)
@pytest.mark.parametrize("said", CHOICES)
@pytest.mark.parametrize(("one", "other"), [("A", "B"), ("B", "A")])
def test_what_others_say_or_nobody_can_is_no_choice(words: str, said: str, one: str, other: str) -> None:
    assert chosen(words.format(said.format(one), other)) is None


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_a_letter_that_names_something_else_is_no_reply(name: str) -> None:
    for sentence in (f"{name} B is better.", f"I choose {name.lower()} B.", f"The winner is {name} B."):
        assert chosen(sentence) is None
        assert chosen(f"{sentence} Verdict: A") == "A"


@pytest.mark.parametrize(("qualities", "letter"), [(WORSE, "B"), (BETTER, "A")])
def test_a_reply_that_is_named_by_a_quality_is_chosen_if_the_quality_is_good(qualities: list[str], letter: str) -> None:
    for quality in qualities:
        for noun in ("reply", "response", "answer", "option"):
            assert chosen(f"The {quality} {noun} is Reply A.") == letter
            assert chosen(f"**The {quality} {noun}: A**") == letter


@pytest.mark.parametrize("phrase", CONCERNING)
def test_a_phrase_in_front_that_names_no_aspect_limits_nothing(phrase: str) -> None:
    assert chosen(f"Reply B is better in tone. {phrase.capitalize()}, Reply A is better.") == "A"
