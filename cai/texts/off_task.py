"""Replies about the chain of critique and revision instead of the user's question, or that slide into another script.

Small models write them. All but the change of script know English only. The user's message counts: whoever asks for a
verdict, a review of a reply, a rewriting or a translation may get one.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache, lru_cache

from cai.texts.likeness import Ngram, ngrams, words

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

# Talk about the reply

ABOUT_REPLIES = re.compile(
    r"\b(?:repl(?:y|ies|ied)|respon(?:se|ses|d|ds)|answers?|critiques?|criticisms?|feedback|verdict|review\w*"
    r"|revis\w+|rewrit\w+|rewrote|rephras\w+|reword\w*|paraphras\w+|summari[sz]\w+|edit(?:s|ed|ing)?|proofread\w*"
    r"|improve\w*|correct(?:ed|ion|ions)?)\b",
    re.IGNORECASE,
)
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
    r"|here(?:['’]s| is| are))\b",
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

# Scripts

CODE = re.compile(r"^[ \t]*(?:```|~~~).*?(?:^[ \t]*(?:```|~~~)|\Z)|`[^`\n]*`", re.MULTILINE | re.DOTALL)
# Brackets and quotes, in which names and words of other languages stand.
ASIDE = re.compile(r"\([^()\n]{0,80}\)|[\"“«„‘「『《][^\"”»“’」』》\n]{0,200}[\"”»“’」』》]")
WORD = re.compile(r"[^\W\d_]{2,}")
A_LATIN_LETTER = re.compile("[a-zA-Z]")
A_FAR_LETTER = re.compile(r"[^\W\d_\x00-\u024f]")  # beyond those of European languages in Latin script
IN_FORMULAS = {"GREEK"}
FEWEST = 12  # letters of another script that are more than a name
SHARE = 0.05  # of all letters
NO_SCRIPT = re.compile(
    "LATIN|FULLWIDTH|HALFWIDTH|MATHEMATICAL|MODIFIER|FEMININE|MASCULINE|MICRO|DOUBLE-STRUCK|SCRIPT|"
    "BLACK-LETTER|SUPERSCRIPT|SUBSCRIPT|CIRCLED|KELVIN|OHM|ANGSTROM|ALEF|PLANCK|COMBINING"
)
JAPANESE_AND_CHINESE = re.compile("CJK|HIRAGANA|KATAKANA|KATAKANA-HIRAGANA|IDEOGRAPHIC|BOPOMOFO")
LANGUAGES = re.compile(
    r"\b(?:translat\w*|language|alphabet|script|pronounc\w*|spell\w*|transliterat\w*|unicode|kanji|hiragana|katakana|pinyin|haiku|"
    r"chinese|mandarin|cantonese|japanese|korean|hangul|arabic|quran\w*|qur'an\w*|hebrew|yiddish|torah|persian|farsi|urdu|hindi|"
    r"sanskrit|bengali|tamil|telugu|punjabi|thai|khmer|lao|burmese|tibetan|mongolian|russian|cyrillic|ukrainian|bulgarian|"
    r"serbian|belarusian|kazakh|greek|georgian|armenian|amharic|foreign|bilingual|multilingual)\b",
    re.IGNORECASE,
)


def verdict_line(reply: str, prompt: str = "") -> bool:
    """Whether a line of a reply is a verdict on it: "Verdict: revise.", "Nothing to fix."."""
    return VERDICT.search(reply) is not None and "verdict" not in prompt.casefold()


def talks_of_itself(reply: str, prompt: str = "") -> bool:
    """Whether a reply talks about replies: it starts with one, a critique or thanks for it, or says what is better."""
    talks = (TALK.match(reply, 0, SOON) or NOTED.search(reply)) is not None
    if not talks and THANKS.match(reply, 0, SOON):
        talks = not HELPED.search(prompt)
    if not talks and _may_hold(reply, OF_REPLIES):
        talks = BETTER.search(reply) is not None or len(MENTION.findall(reply)) > 1
    return talks and not ABOUT_REPLIES.search(prompt)


def asks_for_the_text(reply: str, prompt: str = "") -> bool:
    """Whether a reply asks for what it is to rewrite: "Please share the text that you want rewritten"."""
    asks = _may_hold(reply[:SOON], OF_REQUEST) and REQUEST.search(reply, 0, SOON)
    return bool(asks) and not ABOUT_REPLIES.search(prompt)


def _may_hold(text: str, parts: Iterable[str]) -> bool:
    """Whether a text can hold one of these parts in any case, in a tenth of the time that a pattern takes."""
    return any(map(text.lower().__contains__, (*parts, *ODD)))


def echo(reply: str, prompt: str, asked: frozenset[Ngram]) -> bool:
    """Whether a reply is the user's question again, or has eight words in a row of another that was asked about it."""
    if asks_again(reply, prompt):
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


def changes_script(reply: str, prompt: str = "") -> bool:
    """Whether a good part of a reply is in a script that the prompt is not written in, and does not ask for.

    A word that mixes Latin letters with it is enough. Code, quotations, what stands in brackets, and single letters as
    in formulas are left out. A reply in Latin letters to any prompt is not counted: names, code and English are
    everywhere.
    """
    if reply.isascii() or not A_FAR_LETTER.search(reply) or LANGUAGES.search(prompt):
        return False
    text = ASIDE.sub(" ", CODE.sub(" ", reply))
    own = scripts_of(prompt).keys()
    half_latin = " ".join(word for word in WORD.findall(text) if A_LATIN_LETTER.search(word))
    if scripts_of(half_latin).keys() - own - IN_FORMULAS:
        return True
    counts = scripts_of(text)
    foreign = sum(count for script, count in counts.items() if script not in own)
    letters = sum(map(len, WORD.findall(text)))
    return foreign >= FEWEST and foreign >= SHARE * letters


def scripts_of(text: str) -> Counter[str]:
    """How many letters of each script but Latin stand in words of a text."""
    letters = Counter[str]()
    if not text.isascii():
        letters.update(char for word in WORD.findall(text) for char in word if char > "\u024f")
    scripts = Counter[str]()
    for char, count in letters.items():
        script = _script(char)
        if not NO_SCRIPT.fullmatch(script):
            scripts[script] += count
    return scripts


@cache
def _script(char: str) -> str:
    first = unicodedata.name(char, "LATIN").split()[0]
    return "CJK" if JAPANESE_AND_CHINESE.fullmatch(first) else first
