"""Replies about the chain of critique and revision instead of the user's question.

Small models write them. Known in English only. What the user says counts: whoever asks for a verdict, a review of a
reply or a rewriting may get one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from cai.texts.likeness import Ngram, ngrams, words

PARAGRAPHS = "\n\n"  # between the messages of a user

# Verdicts

_FINE = (
    r"(?:nothing (?:to|needs to be) (?:fix|change|revise)(?:e?d)?"
    r"|no (?:changes?|revisions?|fix(?:es)?)\b)"
)
_BAD = (
    r"(?:revise[ds]?\b|needs? (?:a |an? )?(?:change|revision|fix)"
    r"|(?:the |this |that )?(?:reply|response) (?:is|needs|does))"
)
VERDICT = re.compile(  # a decision or conclusion only if it ends its line
    r"(?:^|[.!?] )(?:[^\w\n]|_){0,12}(?:(?:final|my|the|overall) )?"
    r"(?:verdict|(?:decision|conclusion)(?=.{0,28}$))[\W_]*"
    rf"(?:[:=–—-]|\bis\b)[\W_]*(?:{_FINE}|{_BAD}|"
    r"(?:ok(?:ay)?|pass(?:es|ed)?|keep(?: it)?|fine|accept(?:ed|able)?)[\W_]*$)"
    r"|^(?:[^\w\n]|_){0,12}(?:nothing (?:to |needs to be |is to be |needs )(?:fix|chang|revis)\w*"
    r"|no (?:changes?|edits?|revisions?|fix(?:es)?) (?:(?:is|are) )?(?:needed|necessary|required))[\W_]*$"
    r"|^(?:[^\w\n]|_){0,12}(?:needs?|requires?) (?:an? )?(?:change|revision|fix)\w*[\W_]*[:=?–—-][\W_]*(?:yes|no)\b"
    r"|^(?:[^\w\n]|_){0,12}(?:yes|no)\W+(?:the|this) (?:reply|response|answer) "
    r"(?:needs?|requires?|does(?: not|n't) (?:need|require)) (?:an? |any |no )?"
    r"(?:changes?|revisions?|fix(?:es)?|to be)\b",
    re.IGNORECASE | re.MULTILINE,
)

NO_CHANGE = re.compile(
    r"\W*no (?:changes?|edits?|fix(?:es)?) (?:(?:is|are) )?(?:needed|necessary|required)\W*", re.IGNORECASE
)
ASK_OF_CHANGES = re.compile(r"\b(?:chang\w+|migrat\w+|upgrad\w+|updat\w+|port(?:ing)?|convert\w*)\b", re.IGNORECASE)

# Talk about the reply

ABOUT_REPLIES = re.compile(
    r"\b(?:repl(?:y|ies|ied)|respon(?:se|ses|d|ds)|answers?|critiques?|criticisms?|feedback|verdict|review\w*"
    r"|revis\w+|rewrit\w+|rewrote|rephras\w+|reword\w*|paraphras\w+|summari[sz]\w+|edit(?:s|ed|ing)?|proofread\w*"
    r"|improve\w*|correct(?:ed|ion|ions)?)\b",
    re.IGNORECASE,
)
HAS_RESPONSES = re.compile(  # what a user may ask about, whose responses a reply then speaks of
    r"\b(?:apis?|https?|endpoints?|servers?|fetch(?:es|ing)?|rsvp|invitations?|surveys?|questionnaires?)\b",
    re.IGNORECASE,
)
OF_CHAIN = re.compile(r"\b(?:repl(?:y|ies)|responses?|answers?|critiques?|criticisms?|revisions?)\b", re.IGNORECASE)
TALK = re.compile(
    r"\s*[\W_]*(?:"
    r"(?:(?:sorry|sure|yes|no|okay|ok|well|certainly|i apologi[sz]e|overall|you(?:'|’)re right|"
    r"as (?:the|your) (?:critique|criticism) (?:notes|says|points out|suggests))\b[^.!?\n]{0,60}[,.!]\s+)?"
    # whose reply
    r"(?:(?:the|this|that|your|my|our) (?:(?:assistant|ai|model|user)(?:'s|’s)? )?(?:(?:\w+ ){0,2}?(?:original|initial"
    r"|previous|last|first|above|provided|given|revised|rewritten|new|current|better) )?"
    r"|an? (?:better|good|more \w+|kinder|improved|revised) )"
    r"(?:repl(?:y|ies)|responses?)(?! (?:time|rate|code|from|of|to (?:the|your|my|an?|this|that|his|her|their) ))"
    r"[*_\"]* "
    r"(?:(?:that )?(?:you|i) (?:gave|provided|wrote|made) "
    r"|(?:made|given|provided|written) by the (?:user|assistant) )?"
    # ought to be, does or is what
    r"(?:(?:would|will|should|could|might|can|must) (?:be(?! to\b)|not|have|also|instead|include|address|acknowledge"
    r"|focus|provide|say|offer|suggest|explain|avoid)"
    r"|(?:does|did)(?:n't| not)?|fail(?:s|ed)|lack(?:s|ed)|needs? to|takes|respects|follows (?:the|this|all)|adheres"
    r"|violates|avoids|reflects|sounds"
    r"|(?:simply |only |already |also )?(?:provide|suggest|address|assume|treat|protect|acknowledge|ignore|encourage"
    r"|promote|imply|implie|offer|show)(?:s|es|d|ed)"
    r"|(?:is|was) (?:(?:not |too |already |quite |very |also |still )?(?:\w+ and )?"
    r"(?:harmful|harmless|inappropriate|appropriate|unkind|kind|rude|polite|respectful|disrespectful|unhelpful|helpful"
    r"|fine|good|bad|wrong|correct|biased|unfair|fair|insensitive|offensive|clear|unclear|vague|problematic|misleading"
    r"|judgmental|considerate|dismissive|well)(?! of (?:her|him|them)\b)"
    r"|too (?:direct|harsh|long|short|blunt|general|strong|formal|casual|wordy|preachy|negative|positive|detailed)))\b"
    r"|the user(?:['’]s (?:message|question|request|prompt|reply|response)|(?: is| was| has)? "
    r"(?:ask|respond|want|request|seek|express|repl)(?:ing|ed|ied|ies|s)?)\b"
    # "The critique is right", "I have addressed the criticism"
    r"|(?:the|this|that|your) (?:critique|criticism)(?! of)\b[^.!?\n]{0,60}"
    r"\b(?:is|was|says|points|raises|notes|suggests|does|has)\b"
    r"|(?:i|we) (?:have |will |would |'ll |'ve )?(?:address(?:ed)?|tak(?:e|en)|consider(?:ed)?|accept(?:ed)?) (?:\w+ )?"
    r"(?:the|this|that|your) (?:critique|criticism)\b"
    r"|(?:thank you|thanks|i appreciate)\b[^.!?\n]{0,30}\b(?:the|this|that|your) (?:critique|criticism|feedback)\b"
    r"|critique[*_]*:|no (?:changes?|revisions?) (?:is|are) (?:needed|necessary|required)\b)",
    re.IGNORECASE,
)

THANKS = re.compile(  # to a critic, or what the user would say; begins none of 5,260 replies of people's data
    r"\s*[\W_]*(?:(?:great|sure|okay|ok|well|hi|hello|hey)\b[^.!?\n]{0,20}[,.!]\s+)?"
    r"(?:(?:thank you|thanks|i appreciate)\b(?: (?:so|very) much)?(?: for)?"
    r"(?: (?:all|providing|giving|sharing)(?: me)?)? (?:your|the|this|that|those|these)(?: \w+){0,2}? "
    r"(?:advice|help|assistance|guidance|suggestions?|corrections?|instructions?|tips?|explanations?|understanding"
    r"|responses?|repl(?:y|ies)|answers?)\b"
    r"|(?:thank you|thanks) for (?:bringing (?:this|that|it) to my attention|pointing (?:this|that|it) out))",
    re.IGNORECASE,
)
HELPED = re.compile(  # a user who may be thanked
    r"\b(?:advi[cs]e|tips?|help(?:ed|s)|thank\w*|wrong|mistakes?|actually|should|try (?:this|it)"
    r"|here(?:['’]s| is| are)|write|draft|compose|card|letter|speech|toast)\b",
    re.IGNORECASE,
)

BETTER = re.compile(  # anywhere
    r"\ba (?:better|good) (?:reply|response) would(?! (?:take|come|arrive))\b|\bsending the reply\b"
    r"|\b(?:in (?:this|my) (?:revised|rewritten)|(?:to|i(?:'d|’d| would)) (?:improve|revise|rewrite|rephrase) "
    r"(?:the|this|my)|(?:nothing|anything|something) (?:\w+ )?(?:with|in|about) the|the principle\b[^.\n]{0,80}\bthe) "
    r"(?:version|reply|response)\b(?! (?:of|from|to|time|rate)\b)"
    r"|\bthe (?:reply|response)\b(?! (?:of|from|to|time|rate)\b)[^.\n]{0,80}\bthe principle\b"
    r"|\b(?:this|the) (?:revision|revised (?:reply|response)) is\b"
    r"|\b(?:this|the) (?:revision|revised (?:version|reply|response)) (?:better )?"
    r"(?:avoid|reflect|respect|follow|addresse)s?\b"
    r"|^(?:[^\w\n]|_){0,12}this (?:new )?(?:reply|response) is (?:\w+ ){1,3}than\b",
    re.IGNORECASE | re.MULTILINE,
)
NOTED = re.compile(  # what a revision changed
    r"^(?:[^\w\n]|_){0,12}changes(?: i(?:'ve)?)? made[*_]*:"
    r"|^[(\[*_]+(?:note: )?I(?:'ve| have)? (?:removed|softened|rewrote|rewritten|revised|reworded|rephrased|changed) "
    r"the (?:part|line|sentence|wording|word|phrase|mention|suggestion|tone|insult|reference)\b",
    re.IGNORECASE | re.MULTILINE,
)
MENTION = re.compile(  # twice or more in none of 5,722 replies of people's data whose prompts speak of no reply
    r"\b(?:the|this|that) (?:(?:original|initial|previous|last|first|better|revised|new) )?reply\b"
    r"(?! (?:to|from|of|all)\b)"
    r"|\b(?:original|initial|previous|revised|rewritten) response\b",
    re.IGNORECASE,
)
OF_REPLIES = ("reply", "response", "revis", "rewritten")  # without one of them there is no match of BETTER or MENTION

# A request for the text

_TEXT = r"(?:text|repl(?:y|ies)|responses?|message|sentence|passage|paragraph|content|original|conversation)"
_REDO = (
    r"(?:rewrit(?:e|ten|ing)|rewrote|revis(?:e|ed|ing)|rephras(?:e|ed|ing)|reword(?:ed|ing)?|edit(?:ed)?|improved?"
    r"|critiqued?)"
)
_REQUEST = (  # TEXT and REDO stand for the patterns above
    r"\bwhat (?:should|shall|would you like|do you want) (?:i|me)(?: to)? REDO\b"
    r"|\b(?:provide|share|give|send|show|paste|tell)\b[^.!?\n]{0,40}\bTEXT\b[^.!?\n]{0,20}"
    r"\b(?:you(?:'d| would)? (?:like|want)|you need|i (?:can|could|should|may|am to)|me to|to be)\b"
    r"[^.!?\n]{0,20}\bREDO\b"
    r"|\b(?:which|what) TEXT\b[^.!?\n]{0,40}\bREDO\b"
    r"|\b(?:no|any|need the|see the|without the)(?: \w+)? TEXT (?:that |which )?"
    r"(?:to (?:be )?|i (?:should|could|can) )?REDO\b"
    r"|\b(?:see|find|is no|need|without|missing)\b[^.!?\n]{0,20}\bTEXT (?:in your message )?(?:for me )?"
    r"(?:that |which )?(?:to (?:be )?|i (?:should|could|can) )REDO\b"
    r"|\b(?:send|share|paste|provide|give)\b[^.!?\n]{0,30}\bTEXT\b,? (?:and|so) i(?:'ll| will| can)\b"
    r"[^.!?\n]{0,20}\bREDO\b"
    r"|\b(?:need|have) (?:to see )?the (?:\w+ )?(?:TEXT|answer)\b[^.!?\n]{0,12}\bi (?:can|could|will)\b"
    r"[^.!?\n]{0,20}REDO\b"
    r"|\bthe (?:critique|(?:reply|response)(?= (?:seems|appears))) (?:is|seems to be|appears to be) missing\b"
    r"|\b(?:provide|share|send|paste)\b[^.!?\n]{0,20}\bthe critique\b"
    r"|\b(?:cannot|can(?:'|’)t|unable to) (?:revise|rewrite|rephrase|critique) (?:the|it|this|any)\b"
)
REQUEST = re.compile(_REQUEST.replace("TEXT", _TEXT).replace("REDO", _REDO), re.IGNORECASE)
OF_REQUEST = ("rewr", "revis", "rephras", "reword", "edit", "improve", "critique")  # the same: all of `_REDO`
SOON = 400  # characters in which a reply talks of itself or asks for a text if it does nothing else

ODD = ("ſ", "ı", "\u0307")  # in lower case, of letters that IGNORECASE takes for s and i

# Echoes

ECHO = 8  # consecutive words; eight of a principle are not said by chance
FEW, AGAIN = 4, 0.7  # words of a question that asks again, and the share of the words of both that they share
COPIED = 0.6  # of the runs of words of a reply from which on it is a copy


def verdict_line(reply: str, prompt: str = "") -> bool:
    """Whether a line of a reply is a verdict on it: "Verdict: revise.", "Nothing to fix.".

    Whoever asks what has to be changed may be told "No changes required.".
    """
    found = VERDICT.search(reply)
    if found is None or "verdict" in prompt.casefold():
        return False
    return not (ASK_OF_CHANGES.search(prompt) and NO_CHANGE.fullmatch(found[0]))


def talks_of_itself(reply: str, prompt: str = "") -> bool:
    """Whether a reply talks about replies: it starts with one, a critique or thanks for it, or says what is better."""
    talks = (TALK.match(reply, 0, SOON) or NOTED.search(reply)) is not None
    if not talks and THANKS.match(reply, 0, SOON):
        talks = not HELPED.search(prompt)
    if not talks and _may_hold(reply, OF_REPLIES):
        talks = BETTER.search(reply) is not None or len(MENTION.findall(reply)) > 1
    is_of_others = HAS_RESPONSES.search(prompt) and set(map(str.lower, OF_CHAIN.findall(reply))) <= {
        "response",
        "responses",
    }
    return talks and not is_of_others and not ABOUT_REPLIES.search(prompt)


def asks_for_the_text(reply: str, prompt: str = "") -> bool:
    """Whether a reply asks for what it is to rewrite: "Please share the text that you want rewritten"."""
    asks = _may_hold(reply[:SOON], OF_REQUEST) and REQUEST.search(reply, 0, SOON)
    return bool(asks) and not ABOUT_REPLIES.search(prompt)


def _may_hold(text: str, parts: Iterable[str]) -> bool:
    """Whether a text can hold one of these parts in any case, in a tenth of the time that a pattern takes."""
    return any(map(text.lower().__contains__, (*parts, *ODD)))


def echo(reply: str, prompt: str, asked: frozenset[Ngram]) -> bool:
    """Whether a reply is the user's question again, or has eight words in a row of another that was asked about it."""
    if any(asks_again(reply, each) for each in (prompt, prompt.rpartition(PARAGRAPHS)[2])):
        return True
    same = ngrams_of(reply) & asked
    return bool(same) and not same <= ngrams_of(prompt)


def asks_again(reply: str, prompt: str) -> bool:
    """Whether a reply asks what it was asked, in much the same words, and does nothing else."""
    if not (reply.rstrip().endswith("?") and prompt.rstrip().endswith("?")):
        return False
    own, other = set(words(reply)), set(words(prompt))
    return len(own) >= FEW and len(own & other) >= AGAIN * len(own | other)


def copies(reply: str, critique: str, before: str) -> bool:
    """Whether a reply is mostly the critique of the one before, from where that begins, and not words of that one."""
    own, first = ngrams_of(reply), tuple(words(critique)[:ECHO])
    if first not in own:  # as of most
        return False
    copied = own & ngrams_of(critique) - ngrams_of(before)
    return first in copied and len(copied) >= COPIED * len(own)


@lru_cache(maxsize=8)  # a text is compared with several
def ngrams_of(text: str) -> set[Ngram]:
    """All runs of eight words of a text."""
    return ngrams(words(text), ECHO)


def ngrams_of_all(texts: Iterable[str]) -> frozenset[Ngram]:
    """All runs of eight words of several texts."""
    return frozenset().union(*map(ngrams_of, texts))
