from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import shared

from cai.texts import repeats
from cai.texts.hygiene import (
    FAULTS,
    comfort,
    emoji,
    evasive,
    faults_of,
    preamble_leak,
    role_mixup,
    said_in,
    sign_off,
    truncated,
)
from cai.texts.likeness import WORD, identical, near_identical, words
from cai.texts.repeats import Phrases, Repeats

ROOT = Path(__file__).resolve().parents[2]
CHECKS = (preamble_leak, role_mixup, evasive, emoji, comfort, sign_off, truncated)
STORY = "The ferry left at dawn, and the gulls went with it as far as the second buoy, where the wind turned."


@pytest.mark.parametrize(
    "reply",
    [
        "Here is a revised reply: Talk to your landlord first.",
        "Here's the rewritten response:\n\nTalk to your landlord first.",
        "Sure! Here's an improved and kinder version:\n\nTalk to her.",
        "Certainly. Below is my revised answer, without the insult.",
        "Revised response: Talk to your landlord first.",
        "**Revision:** Talk to your landlord first.",
        "Revision 2: Talk to your landlord first.",
        "I have rewritten my previous answer to be less harsh. Talk to her.",
        "The revised reply would be: talk to her.",
        "Based on the critique, I would say: talk to her.",
        "In light of your criticism, talk to her.",
        "Here is the response, revised to be polite: talk to her.",
    ],
)
def test_talk_about_the_task_at_the_start_is_a_leak(reply: str) -> None:
    assert preamble_leak(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "Here is a recipe for lentil soup: wash the lentils.",
        "Here's a revised version of your cover letter: Dear Ms Okafor, …",
        "The correct answer is 42.",
        "An updated version of Python is out.",
        "I improved the response time of the server by half.",
        "Revise for an hour, then sleep.",
        "Answer: nine.",
        "After reading Kant's critique of reason, rest.",
        "Sure! Boil the eggs for six minutes.",
        f"{STORY} Here is a revised reply: no.",
        "",
    ],
)
def test_an_ordinary_start_is_no_leak(reply: str) -> None:
    assert not preamble_leak(reply)


@pytest.mark.parametrize(
    "reply",
    [
        f"{STORY}\n\nHuman: And then?\n\nAssistant: It came back.",
        f"{STORY}\n\nHuman:",
        f"{STORY}\n\nAssistant: More of it.",
        "Assistant: The ferry left at dawn.",
        f"{STORY}\n\nUser: Thanks!\n\nAssistant: My pleasure.",
        f"{STORY}\n\nCritiqueRequest: Name what is harmful.",
        f"{STORY}\n\nCritique: It is rude.\n\nRevision: Please wait.",
        f"{STORY}<|im_end|>\n<|im_start|>user\nAnd then?",
        f"{STORY} [/INST] and more",
        f"{STORY}<end_of_turn>",
        f"{STORY}\n\n**Human:** And then?",
        "\r\nHuman: And then?",
        f"{STORY}\n \t\n  Assistant: More of it.",
    ],
)
def test_a_reply_that_goes_on_with_other_turns_is_a_mix_up(reply: str) -> None:
    assert role_mixup(reply)


@pytest.mark.parametrize(
    "reply",
    [
        STORY,
        "ROBOT: Who are you?\n\nHUMAN: I forgot.\n\nROBOT: So did I.",
        "Robot: Who are you?\n\nHuman: I forgot.\n\nRobot: So did I.\n\nHuman: Good.",
        'Split it like this:\n\n```python\ntext.split("\\n\\nHuman:")\n```\n\nThat is all.',
        "```\n\nHuman: hi\n\nAssistant: hello\n```",
        "A chat template ends a turn with `<|im_end|>` and a line break.",
        "Host: alpha\nUser: admin\nPort: 22",
        "Three kinds of account exist.\n\nUser: may read.\n\nAdmin: may write.",
        "Strengths: short.\n\nCritique: it never says who paid.",
        "Species differ.\nHuman: 46 chromosomes.\nDog: 78 chromosomes.",
        "The assistant: a portrait. It says Human: never mind.",
        "",
    ],
)
def test_a_scene_code_or_a_heading_is_no_mix_up(reply: str) -> None:
    assert not role_mixup(reply)


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("Write a dialogue between a human and an AI.", True),
        ("Give me a sample transcript of a chat with a support bot.", True),
        ("Write a scene in which a robot asks its owner for advice.", True),
        ("Write a dialogue.", False),
        ("Write a script that counts lines.", False),
        ("Write a Python script that lists all users.", False),
        ("Summarize this transcript of a call with a customer: hello.", False),
        ("Write a script for a chat between a shop and its customer.", True),
        ("What does a human eat?", False),
    ],
)
def test_turns_that_the_user_asks_for_are_no_mix_up(prompt: str, asked: bool) -> None:
    reply = "It rains.\n\nHuman: And then?\n\nAssistant: Then the other."
    assert role_mixup(reply, prompt) is not asked
    assert role_mixup(f"{reply}<|im_end|>", prompt)


@pytest.mark.parametrize(
    "mark",
    [
        "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|header_start|>", "<|end|>", "<|return|>",
        "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "<|turn>", "<turn|>", "<start_of_turn>",
        "[/INST]", "[SYSTEM_PROMPT]", "<<SYS>>", "<</SYS>>", "[|endofturn|]", "<seed:eos>", "<longcat_user>", "[gMASK]",
        "<extra_id_1>", "<|observation|>",
    ],
)  # fmt: skip
def test_the_marks_of_every_family_of_chat_templates_are_a_mix_up(mark: str) -> None:
    assert role_mixup(f"{STORY}{mark}") and role_mixup(f"{STORY}\n{mark}user\nAnd then?")
    assert not role_mixup(f"A turn ends with `{mark}`.")


def test_a_reply_below_eighty_characters_is_evasive_and_an_empty_one_is_not() -> None:
    assert evasive("x" * 79) and evasive(f"  {'x' * 79}\n\n")
    assert not evasive("x" * 80) and not evasive("  \n")


@pytest.mark.parametrize(
    ("text", "is_one"), [("Great 🎉", True), ("❤️", True), ("✓ done → next", False), ("café", False)]
)
def test_pictographs_are_emoji_and_ticks_are_not(text: str, is_one: bool) -> None:
    assert emoji(text) == is_one


@pytest.mark.parametrize(
    ("reply", "is_one"),
    [
        (f"{STORY} I hope this helps!", True),
        (f"{STORY}\n\nLet me know if you want another verse.", True),
        (f"{STORY} Feel free to ask.", True),
        (f"{STORY} Is there anything else?", True),
        (f"{STORY} Good luck!", True),
        (f"Let me know if it rains. {STORY * 3}", False),
        (STORY, False),
    ],
)
def test_a_pleasantry_at_the_end_is_a_sign_off(reply: str, is_one: bool) -> None:
    assert sign_off(reply) == is_one


@pytest.mark.parametrize(
    ("reply", "is_one"),
    [
        (STORY, False),
        (STORY[:-20], True),
        (f"{STORY}\n\nSecond,", True),
        ("Paris", False),
        ("", False),
        (f"{STORY}\n\nYours,\nAda", False),
        ("Take:\n\n- eggs\n- as much flour as you can hold in the hollow of both hands\n- milk", False),
        ("Do this:\n\n1. Wash the lentils.\n2. Boil them.\n3. Drain the", True),
        ("```python\nprint(1)\n```", False),
        ("```python\nprint(1)", True),
        ("See the page https://example.org/a/very/long/address/that/nobody/could/ever/remember", False),
        ("It was over – and then “nothing more.”", False),
    ],
)
def test_prose_that_stops_in_the_middle_is_truncated(reply: str, is_one: bool) -> None:
    assert truncated(reply) == is_one


@given(st.text())
def test_any_text_has_every_verdict(text: str) -> None:
    assert all(isinstance(check(text), bool) for check in CHECKS)


@pytest.mark.parametrize(
    "piece",
    ["here is ", "a", "\n", "`", "Human:\n", "```\n", "revised ", "sure, ", "- ", "A:", "hope this ", "enjoy ", " "],
)
def test_half_a_megabyte_of_what_the_patterns_look_for_is_no_trap(piece: str) -> None:
    text = piece * (2**19 // len(piece))
    assert all(isinstance(check(text), bool) for check in CHECKS)


# Two texts

texts = st.text(alphabet="ab \n.", max_size=30)


@given(texts, texts)
def test_likeness_has_no_order_and_holds_for_a_text_and_itself(a: str, b: str) -> None:
    assert near_identical(a, a) and identical(a, a)
    assert near_identical(a, b) == near_identical(b, a)
    assert identical(a, b) == identical(b, a)
    assert not identical(a, b) or near_identical(a, b)


@given(st.text() | st.text("ab'_ -’é1\n", max_size=12))
def test_words_are_letters_and_digits_that_an_apostrophe_may_join(text: str) -> None:
    assert words(text) == WORD.findall(text.casefold())


def test_the_faults_that_keep_a_text_from_being_learned_are_named_in_the_order_of_the_register() -> None:
    text = f"Here is a revised reply: {STORY}\n\nHuman: And the gulls?\n\nAssistant: They flew 🎉"
    assert list(faults_of(text)) == ["preamble_leak", "role_mixup"]
    assert FAULTS["emoji"].test(text) and list(faults_of(STORY)) == []


def test_texts_are_near_identical_up_to_case_punctuation_and_a_word_in_sixty() -> None:
    long = " ".join(f"word{i}" for i in range(60))
    assert near_identical("It rains, again!", "it rains again")
    assert near_identical(long, long.replace("word59", "changed"))
    assert not near_identical(long, long.replace("word30", "changed").replace("word10", "changed"))
    assert not near_identical("Yes.", "No.") and not near_identical("", "Yes.")


def test_texts_are_identical_up_to_white_space() -> None:
    assert identical(" a  b\n", "a b") and not identical("a b", "a B")


# Many texts


def test_a_phrase_is_listed_with_the_share_of_texts_that_hold_it_and_whole() -> None:
    phrases = Phrases()
    for number in range(20):
        closing = "Please remember that you are never alone in this." if number % 2 else ""
        phrases.add(f"{number} topic{number} note{number} thing{number} item{number} more{number}. {closing}")
    assert phrases.top(0.3) == [("please remember that you are never alone in this", 0.5)]
    assert phrases.top(0.6) == [] and phrases.off_by == 0


def test_counting_phrases_keeps_what_is_frequent_when_its_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MOST_NGRAMS", 200)
    phrases = Phrases()
    for number in range(1_000):
        rest = " ".join(f"{number}x{i}" for i in range(20))
        phrases.add(f"{rest} and so it goes on" if number % 4 == 0 else rest)
        assert len(phrases._counts) <= 200
    [(phrase, found)] = phrases.top(0.2)
    assert phrase == "and so it goes on"
    assert 0.25 <= found <= 0.25 + phrases.off_by / 1_000


def test_repeats_are_seen_and_the_first_of_them_is_none() -> None:
    repeats = Repeats()
    question = "How do I get red wine out of a white shirt that has been washed twice with soap and still shows it all?"
    assert repeats.add(question) == (False, False)
    assert repeats.add(question.upper() + "  ") == (True, True)
    assert repeats.add(question.replace("shirt", "blouse")) == (False, True)
    assert repeats.add("How do I get red wine out of a carpet?") == (False, False)
    assert repeats.add("3 + 4") == (False, False) and repeats.add("3 * 5") == (False, False)
    assert repeats.find(question) == (True, True) and repeats.find("Why is the sky blue?") == (False, False)
    assert repeats.find("Why is the sky blue?") == (False, False)


def test_repeats_of_unlike_texts_are_not_seen() -> None:
    repeats = Repeats()
    asked = [f"Tell me about the {i}th bird on the {i * 7}th branch of tree number {i * 13}" for i in range(2_000)]
    assert not any(same for same, _ in map(repeats.add, asked))
    assert all(same for same, _ in map(repeats.find, asked))


# The paper's samples


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("model", "comforts", "evades"),
    [("RLMADISON", 89.6, 0), ("RLMADISON_COT", 16.5, 0), ("HHRLHF", 0.4, 31.3), ("HRLHF", 0.3, 0)],
)
def test_the_paper_s_samples_have_their_known_shares(model: str, comforts: float, evades: float) -> None:
    with gzip.open(shared("cai_paper", f"PALMS_{model}.jsonl.gz")) as file:
        replies = [answer["sampled_string"] for line in file for answer in json.loads(line)["sampled_answers"]]
    assert len(replies) == 680
    assert round(100 * sum(map(comfort, replies)) / 680, 1) == comforts
    assert round(100 * sum(map(evasive, replies)) / 680, 1) == evades
    assert not any(map(preamble_leak, replies))


ORDINARY = {  # what a user says, and a reply to it without a fault
    "an email that was to be rewritten": (
        "Please rewrite my email to sound more polite: send me the money.",
        "Here's a revised version:\n\nDear Ms Hale,\n\nCould you please send the amount by Friday?",
    ),
    "code that was to be better": (
        "Make this code more pythonic: for i in range(len(a)): print(a[i])",
        "Here is an improved version:\n\n```python\nfor each in a:\n    print(each)\n```",
    ),
    "a sentence that was to be edited": (
        "Edit: the cat sitted on the mat.",
        "Sure! Here's the edited version: The cat sat on the mat.",
    ),
    "the response of a server": (
        "Why does my fetch call to another domain fail?",
        "The response does not include an Access-Control-Allow-Origin header, so the browser blocks it.",
    ),
    "what an API returns": ("What does the API return?", "The response would be a 200 with a JSON body."),
    "an answer to an invitation": (
        "How do I RSVP to the invitation?",
        "Your response should include your name, and whether you bring a guest.",
    ),
    "thanks in a card": (
        "Write a card for my brother, who carried our boxes.",
        "Thank you for your help with the move. We could not have done it without you.",
    ),
    "no changes in a migration": (
        "How do I migrate from 3.1 to 3.2?",
        "## Database\n\nNo changes required.\n\n## API\n\nRename `get` to `fetch` in all clients.",
    ),
    "a scene": (
        "Write a two-line scene between a human and a robot.",
        "Human: Hi, who are you?\n\nRobot: Hello, I am K3.",
    ),
    "fractions": (
        "A recipe for a cake?",
        "⅔cup sugar, ⅓cup butter, ¼cup milk, ½cup flour, then bake for ⅔ of an hour.",
    ),
    "numbers in circles": (
        "A recipe?",
        "❶Mix the flour. ❷Add the milk. ❸Bake it. ❹Cool it. ❺Eat it. ❻Wash up. ❼Rest a little.",
    ),
}


@pytest.mark.parametrize(("prompt", "reply"), ORDINARY.values(), ids=ORDINARY)
def test_ordinary_replies_have_no_fault_that_keeps_them_from_training(prompt: str, reply: str) -> None:
    assert list(faults_of(reply, prompt)) == []


LEAKS = {  # the same words where nobody has asked for them
    "preamble_leak": "Here's a revised version:\n\nTalk with her first, and then with her landlord.",
    "off_task": "The response does not include any advice for the neighbour, so it is not helpful.",
    "verdict_line": "Talk with her first.\n\nNo changes required.",
    "role_mixup": "Talk with her first.\n\nHuman: And then?\n\nAssistant: Then with her landlord.",
}


@pytest.mark.parametrize(("fault", "reply"), LEAKS.items())
def test_the_same_words_are_faults_where_nobody_asks_for_them(fault: str, reply: str) -> None:
    assert fault in list(faults_of(reply, "How do I tell my neighbour that her dog barks all night?"))


@pytest.mark.parametrize(
    ("prompt", "reply", "fault"),
    [
        ("How do I improve my credit score?", "Here is a revised reply:\n\nPay your bills on time.", "preamble_leak"),
        ("Can you edit photos?", "Based on the critique, I would say that it can be learned.", "preamble_leak"),
        ("How do I set up a server?", "The reply should be kinder to the user, and say more.", "off_task"),
        ("Why does the API fail?", "Please share the text that you would like me to rewrite.", "asks_for_text"),
    ],
)
def test_what_a_user_asks_for_excuses_nothing_else(prompt: str, reply: str, fault: str) -> None:
    assert fault in list(faults_of(reply, prompt))


def test_a_reply_that_is_to_be_rewritten_may_be_announced_as_one() -> None:
    prompt = "Rewrite this reply to a customer so that it is kinder: no refunds."
    assert not preamble_leak("Here is the revised reply:\n\nWe are sorry that we cannot refund you.", prompt)


def test_what_the_user_said_before_counts() -> None:
    russian = [
        {"role": "user", "content": "Привет! Посоветуй, что приготовить на ужин."},
        {"role": "assistant", "content": "Вот два блюда на выбор, 1 или 2."},
        {"role": "user", "content": "1"},
    ]
    reply = "Отлично, тогда борщ: свёкла, капуста, картофель, и час на медленном огне, а потом сметана и зелень."
    assert list(faults_of(reply, said_in(russian))) == []
    assert list(faults_of(reply, said_in(russian[2:]))) == ["script"]
    again = [
        {"role": "user", "content": "Tell me of the moon."},
        {"role": "user", "content": "Why is the moon so bright?"},
    ]
    assert "echo" in list(faults_of("Why is the moon so bright?", said_in(again)))
