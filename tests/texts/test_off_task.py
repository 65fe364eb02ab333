from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.texts.hygiene import FAULTS, faults_of
from cai.texts.off_task import (
    BETTER,
    REQUEST,
    SOON,
    asks_for_the_text,
    copies,
    echo,
    ngrams_of_all,
    talks_of_itself,
    verdict_line,
)
from cai.texts.scripts import changes_script

PROMPT = "How do I tell my neighbour that her dog barks all night?"
LAW = "Guard the privacy of people who are not present, and suggest talking with them over going behind their backs."
ASKED = ngrams_of_all(
    [LAW, "Write only the new reply, in as few sentences as it needs, and nothing about the critique."]
)


LETTERS = st.sampled_from([("", ""), ("s", "ſ"), ("i", "ı"), ("i", "İ"), ("k", "\u212a"), ("e", "é")])


@given(st.from_regex(BETTER) | st.from_regex(REQUEST, fullmatch=True), LETTERS)
def test_every_match_of_a_pattern_is_seen_in_any_spelling_of_its_letters(text: str, other: tuple[str, str]) -> None:
    text = text.replace(*other)
    assert talks_of_itself(text) >= bool(BETTER.search(text))
    assert asks_for_the_text(text) == bool(REQUEST.search(text, 0, SOON))


# Verdicts


@pytest.mark.parametrize(
    "reply",
    [
        "Talk to her first.\n\nVerdict: revise.",
        "Talk to her first.\n\nVerdict: nothing to fix.",
        "Verdict: nothing to fix",
        "**Verdict:** Revise\n\nTalk to her first.",
        "Talk to her.\n- Verdict: No changes needed.",
        "Talk to her.\nFinal verdict — needs a revision",
        "Talk to her.\nVERDICT: NEEDS REVISION",
        "Talk to her.\nThe verdict is: nothing to change.",
        "Talk to her.\nVerdict: The reply is kind and clear.",
        "Talk to her.\n\nNothing to fix.",
        "Talk to her.\n\nVerdict: OK",
        "Talk to her.\n\nMy verdict: fine",
        "Talk to her. Verdict: revise.",
        "Talk to her.\n\nNothing needs to be fixed.",
        "Talk to her.\n\n**No changes needed.**",
        "Talk to her.\n\nNo revision is necessary.",
        "Talk to her.\n\nFinal decision: needs revision",
        "Talk to her.\n\nConclusion: nothing to fix.",
        "Talk to her.\n\nNeeds change: Yes",
        "Talk to her.\n\nYes, the reply needs a change.",
    ],
)
def test_a_verdict_line_is_seen(reply: str) -> None:
    assert verdict_line(reply, PROMPT)


@pytest.mark.parametrize(
    "reply",
    [
        "The jury's verdict: guilty on all counts.",
        "Verdict: worth its price if you bake every week.",
        "Verdict: 8/10, and the best of the three knives.",
        "There is nothing to fix in the engine, so keep driving.",
        "You may want to revise your letter before you send it.",
        "The court will revise the verdict on Monday.",
        "Our verdict on the film is mixed.",
        "Conclusion: no changes in the law are planned.",
        "Decision: no change of tenancy without notice.",
        "The verdict is fine with both parties.",
        "No change required: her lease allows dogs.",
        "Keep going.\nPass",
        "Yes, the answer needs time.",
    ],
)
def test_a_verdict_on_something_else_is_an_ordinary_reply(reply: str) -> None:
    assert not verdict_line(reply, PROMPT)


def test_who_asks_for_a_verdict_gets_one() -> None:
    assert not verdict_line("Verdict: revise.", "Read my essay and end with a verdict: revise or submit.")


# Talk about the reply


@pytest.mark.parametrize(
    "reply",
    [
        "The reply would be more respectful if it named the dog.",
        "The response is harmful and unfair to the neighbour.",
        "That reply does not judge people. It simply provides advice.",
        "This response fails to address the user's feelings.",
        "A better reply would acknowledge that nights without sleep are hard.",
        "Your previous response was inappropriate.",
        "The revised response should focus on talking with her.",
        "Sorry, the reply should not assume that she ignores it.",
        "The reply you provided is rude and offensive.",
        "The response made by the user is not well informed. It is rude.",
        "**The assistant's response** is polite but vague.",
        "The critique is right: talk to her first.",
        "I have addressed the criticism and will talk to her.",
        "The original reply already suggests a calm talk.",
        "The reply will not provide details about dogs.",
        "This reply respects the neighbour's privacy.",
        "The assistant's reply was too direct.",
        "Overall, the reply is respectful.",
        "You're right, my last reply was rude.",
        "Thank you for the feedback. Talk to her.",
        "Thank you for your advice. I'll make sure to talk to her first.",
        "Thanks so much for the helpful suggestions on how to talk to her. I will follow them.",
        "Great! I appreciate your help. It is important to talk to her.",
        "Thank you for bringing this to my attention. I will be kinder in the future.",
        "Thank you for your understanding and willingness to help. Would you like more?",
        "As the critique notes, the reply is too long.",
        "Critique: Too long.",
        "The principle asks for kindness, and the reply is kind.",
        "There is nothing wrong with the reply.",
        "No changes are necessary, for the reply is kind.",
        "In this revised version, I name nobody.",
        "To improve the reply, I would soften its tone.",
        "Talk to her.\n\nThis reply is more respectful than the last.",
        "Talk to her.\n\nNote: This revision avoids blame.",
        "Talk to her.\n\nChanges made: softer words.",
        "Talk to her.\n\n(I removed the part about the police.)",
        "It is her dog.\n\nA better reply would be to suggest a talk.",
        "The most convincing case is that sending the reply could cause a quarrel.",
        "The user's message is not fair, because it speaks of the dog alone.",
        "The user is asking how to speak with a neighbour.",
        "The user responded with warmth.",
        "To see whether all find the reply decent, one must know to whom the reply was given.",
        "It is loud at night. I would say that this reply is honest, and that the original reply is not.",
    ],
)
def test_a_reply_that_describes_a_reply_is_seen(reply: str) -> None:
    assert talks_of_itself(reply, PROMPT)


@pytest.mark.parametrize(
    "reply",
    [
        "The reply to your letter is fine; wait until Monday.",
        "The response time should be below one second.",
        "The response from the server is wrong: it lacks a header.",
        "The answer is 42.",
        "A better answer to noise is a thick curtain.",
        "The response code should be 404.",
        "His reply was kind, so write back.",
        "Your neighbour's response does not matter much; you can still call the town.",
        "Talk to her. The reply would tell you what she thinks.",
        "The user interface of the town's page is hard to read; call them.",
        "The user clicks on the form, and the user's name is sent to the town.",
        "Write to the town. The reply from them may take a week, and the reply to your next letter less.",
        "The critique of pure reason is a book by Kant.",
        "My response would be to talk to her.",
        "The immune response is too strong in allergies.",
        "I would consider her criticism and talk to her.",
        "That reply was rude of her, so wait a day.",
        "To improve the response of the town, send photos.",
        "There is nothing in the response of a dog that is evil.",
        "The principle is that the reply of the owner comes first.",
        "(I have removed the collar, because it hurts dogs.)",
        "A good response would take a week.",
        "The response follows within a week.",
        "In this new version of the lease, dogs are allowed.",
        "Changes made to the fence may help.",
        "Thank you for your question. Talk to her.",
        "Thank you for sharing this with me; nights without sleep are hard.",
        "Tell her: thank you for your help.",
    ],
)
def test_a_reply_about_other_replies_is_an_ordinary_one(reply: str) -> None:
    assert not talks_of_itself(reply, PROMPT)


@pytest.mark.parametrize(
    "prompt",
    [
        "What is wrong with this reply: 'Go away'?",
        "Review my response to the customer.",
        "Is my critique of her essay fair?",
    ],
)
def test_who_asks_about_a_reply_hears_about_it(prompt: str) -> None:
    assert not talks_of_itself("The reply is rude. The response should be kinder.", prompt)


@pytest.mark.parametrize(
    "prompt", ["Here is a tip for you: talk to her.", "That is wrong, it was her cat.", "You should talk to her first."]
)
def test_a_user_who_helps_may_be_thanked(prompt: str) -> None:
    assert not talks_of_itself("Thank you for your advice. I will remember it.", prompt)


# Requests for the text


@pytest.mark.parametrize(
    "reply",
    [
        "Sorry, what should I rewrite?",
        "Please provide the text that you would like me to rewrite.",
        "Could you share the original reply so that I can revise it?",
        "I don't see a reply to revise. Could you paste it?",
        "Send me the text and I'll revise it.",
        "The critique seems to be missing.",
        "I need to see the previous answer before I can rewrite it.",
        "There is no reply in your message for me to rewrite.",
        "I cannot revise it without a text.",
        "I'd be glad to help. Please paste the message you want rephrased.",
        "Which reply should be rewritten?",
        "There is no reply to rewrite.",
        "I don't see any text to revise here.",
        "What would you like me to revise?",
        "Please give me the response you'd like improved.",
    ],
)
def test_a_request_for_the_missing_text_is_seen(reply: str) -> None:
    assert asks_for_the_text(reply, PROMPT)


@pytest.mark.parametrize(
    "reply",
    [
        "Send her a short message and revise it once before you do.",
        "Please share the details with the landlord.",
        "What should I know about the dog?",
        "Rewrite the note until it is friendly.",
        "Tell her which nights were the worst.",
        "Provide the text of the by-law when you meet.",
    ],
)
def test_advice_to_write_is_an_ordinary_reply(reply: str) -> None:
    assert not asks_for_the_text(reply, PROMPT)


@pytest.mark.parametrize(
    "prompt", ["Can you rewrite something for me?", "Proofread this.", "Improve my message please"]
)
def test_who_asks_for_a_rewriting_may_be_asked_for_the_text(prompt: str) -> None:
    assert not asks_for_the_text("Sure! Please paste the text that you want rewritten.", prompt)


# Echoes


@pytest.mark.parametrize(
    "reply",
    [
        "Guard the privacy of people who are not present.",
        "Knock. Suggest talking with them over going behind their backs!",
        "I will write only the new reply, in as few sentences as it needs.",
        f"{LAW} Then knock.",
        LAW.upper().replace(",", " –"),
    ],
)
def test_eight_words_of_what_was_asked_are_an_echo(reply: str) -> None:
    assert echo(reply, PROMPT, ASKED)


@pytest.mark.parametrize(
    "reply",
    [
        "Respect the privacy of people who are absent.",
        "Talk with her over a cup of tea before going behind her back.",
        "Guard the privacy of people.",
        "Write a new note, in as few sentences as it needs.",
        "",
    ],
)
def test_fewer_words_or_others_are_none(reply: str) -> None:
    assert not echo(reply, PROMPT, ASKED)


@given(st.integers(0, 20), st.integers(0, 11), st.integers(0, 20), st.integers(7, 8))
def test_eight_words_are_an_echo_wherever_they_stand(before: int, start: int, after: int, count: int) -> None:
    said = LAW.split()[start : start + count]
    reply = " ".join(["so"] * before + said + ["so"] * after)
    assert echo(reply, PROMPT, ASKED) == (count == 8)


def test_words_of_the_prompt_are_its_own() -> None:
    assert not echo(f"You asked: {LAW}", f"What does this mean? {LAW}", ASKED)


@given(st.text())
def test_nothing_asked_has_no_echo(reply: str) -> None:
    assert not echo(reply, PROMPT, frozenset())


@pytest.mark.parametrize(
    ("reply", "prompt"),
    [
        ("How can I keep tabs on my spouse?", "How can I keep tabs on my spouse?"),
        ("Who can I take money from?", "Who can I steal money from?"),
        ("Human: Is there a way to avoid parking tickets?\n", "Is there a way to avoid parking tickets?"),
    ],
)
def test_a_reply_that_asks_the_users_question_again_is_an_echo(reply: str, prompt: str) -> None:
    assert echo(reply, prompt, frozenset())


@pytest.mark.parametrize(
    ("reply", "prompt"),
    [
        ("Why?", "Why?"),
        ("Who can I take money from? Nobody: it is theft.", "Who can I take money from?"),
        ("Which dog barks at night, hers or the one next door?", PROMPT),
        ("The cat is on the mat", "The cat is on the mat"),
    ],
)
def test_a_question_of_its_own_is_no_echo(reply: str, prompt: str) -> None:
    assert not echo(reply, prompt, frozenset())


# Scripts


@pytest.mark.parametrize(
    ("prompt", "reply"),
    [
        (PROMPT, "Talk to her first. 你应该先和她谈谈,然后再去找房东。"),
        (PROMPT, "Поговорите с ней сначала, а потом с хозяином."),
        (PROMPT, "Talk to her, then التحدث معها أولا ثم المالك and wait."),
        (PROMPT, "Speak with her. まずは彼女と話してみてください。"),
        (PROMPT, "먼저 그녀와 이야기해 보세요. 그 다음에 집주인에게 가세요."),
        ("Wie sage ich es meiner Nachbarin?", "Sprechen Sie mit ihr. Σκεφτείτε πρώτα τι θέλετε να πείτε."),
        ("我该怎么跟邻居说?", "Поговорите с ней сначала, а потом с хозяином."),
        (PROMPT, "Write down the nights, and call the town for此类 noise." + " It helps to be calm." * 30),
        (PROMPT, "You may талkto her first." + " It helps to be calm." * 30),
        (PROMPT, "Ask for a 조용quiet hour." + " It helps to be calm." * 30),
        ("Как ей сказать?", "Поговорите с ней о шумnoise и의견opinion."),
    ],
)
def test_a_reply_that_slides_into_another_script_is_seen(prompt: str, reply: str) -> None:
    assert changes_script(reply, prompt)


@pytest.mark.parametrize(
    ("prompt", "reply"),
    [
        (PROMPT, "Talk to her – it’s “only” a dog… naïve, café, Łódź, 100 €, 20 °C."),
        (PROMPT, "In Beijing (北京市朝阳区建国门外大街) you would call the committee."),
        ("Who wrote it?", "Fyodor Dostoevsky (Фёдор Михайлович Достоевский) wrote “Преступление и наказание”."),
        (
            "What is the law of cosines?",
            "c² = a² + b² − 2ab·cos γ, with α + β + γ = π and Δ, Σ, λ, μ, ω, φ, θ as usual.",
        ),
        ("Print it.", "```python\nprint('Поговорите с ней сначала, а потом с хозяином')\n```"),
        ("Translate 'talk to her' to Russian.", "Поговорите с ней сначала, пожалуйста."),
        ("How do I say good morning in Japanese?", "おはようございます、先生。元気ですか。"),
        ("我该怎么跟邻居说?", "你应该先和她谈谈,然后再去找房东。"),
        ("我该怎么跟邻居说?", "Talk to her first."),
        ("Как ей сказать?", "Поговорите с ней сначала."),
        ("ご近所にどう言えば?", "まずは彼女と話してみてください。漢字もあります。"),
        (PROMPT, "𝐓𝐚𝐥𝐤 𝐭𝐨 𝐡𝐞𝐫 𝐟𝐢𝐫𝐬𝐭, ｔｈｅｎ ｗａｉｔ ｆｏｒ ａ ｄａｙ."),
        (PROMPT, "Talk to her first. 👍🏽✅ → done"),
        (PROMPT, "The noise of Δx and 5 μm or 3 kΩ is measured in μPa, as in αβ-filters."),
        ("Как ей сказать?", "Поговорите с ней в WhatsApp-чате или в Tелеграме."),
        ("我该怎么跟邻居说?", "先穿上T恤,发个email给她,再看X光片和3D打印。"),
        (PROMPT, "The word шалом is short." + " It is used by many people in many places." * 5),
    ],
)
def test_names_quotes_formulas_code_and_what_was_asked_for_are_no_change_of_script(prompt: str, reply: str) -> None:
    assert not changes_script(reply, prompt)


# In the register


@pytest.mark.parametrize("name", ["verdict_line", "off_task", "asks_for_text", "echo", "script"])
def test_the_faults_of_chains_keep_a_text_from_being_learned(name: str) -> None:
    texts = {
        "verdict_line": "Talk to her.\nVerdict: revise.",
        "off_task": "The reply would be kinder if it named the dog.",
        "asks_for_text": "Sorry, what should I rewrite?",
        "echo": LAW,
        "script": "Поговорите с ней сначала, а потом с хозяином.",
    }
    assert name in FAULTS and name in list(faults_of(texts[name], PROMPT, ASKED))


# Copies of the critique

words_of_texts = st.lists(
    st.sampled_from(["a", "dog", "barks", "at", "night", "and", "she", "may", "not", "know"]), min_size=12
)


@given(critique=words_of_texts, more=words_of_texts)
def test_a_revision_that_begins_as_its_critique_and_is_mostly_that_is_a_copy(
    critique: list[str], more: list[str]
) -> None:
    text = " ".join(critique)
    assert copies(text, text, "Talk to her.") and copies(f"**{text.upper()}**", f"{text} {' '.join(more)}", "")
    assert not copies(text, text, text)  # the critique has the words from the reply
    assert not copies(f"{text} {'other words than these follow here and go on '.join(more)}", text, "")


def test_a_revision_that_follows_the_proposal_of_its_critique_is_no_copy() -> None:
    proposal = "Knock at her door on a quiet afternoon and tell her what you hear at night."
    critique = f"The reply blames her, which is unkind to a neighbour. It could say: {proposal}"
    assert not copies(proposal, critique, "She is to blame.")
    assert copies(critique, critique, "She is to blame.")
    assert not copies("Curt.", "Curt.", "")


@pytest.mark.parametrize(
    "piece",
    ["\n", "\n- ", "_", " ", "\n_", "the reply ", "the principle the reply ", "Verdict ", "need the text ", "(I "],
)
def test_a_quarter_of_a_megabyte_of_beginnings_is_no_trap(piece: str) -> None:
    text = piece * (2**18 // len(piece))
    for test in (verdict_line, talks_of_itself, asks_for_the_text):
        assert isinstance(test(text, PROMPT), bool)
