r"""Which of two replies a judge chooses in words.

An answer is put into one spelling, and cut into clauses, in which `STATEMENTS` finds what states a choice: a label
("answer: B"), a verb ("I choose B"), a comparison ("B is better") or a letter alone ("overall, B"). The last statement
is the verdict. One that is limited to an aspect or a case, or conceded ("although A is better in tone") counts only
without others, and if all of its kind agree. What is denied, asked, supposed or said by others states nothing; a
clause that states both states neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from cai.judge.spelling import one_spelling

READ = 20_000  # characters at the end of an answer in which its verdict is looked for

# Statements

OTHER = {"A": "B", "B": "A"}
X = r"(?P<x>[ABT])(?![\w'])"
HOW = (
    r"(?:\s+(?:also|clearly|definitely|still|slightly|much|far|by far|marginally|somewhat|therefore|overall|thus|"
    r"just|a bit|a little|significantly|the|a|an|my|our|actually|simply|certainly|probably|indeed|easily|narrowly|"
    r"hence|then|truly|obviously|arguably|clear|obvious|final|ultimately|strictly|considerably|noticeably|"
    r"more)){0,6}"
)
IS = (
    r"\s+(?:is|was|seems(?: to be)?|looks|appears(?: to be)?|would be|must be|has to be|should be(?! better)|"
    r"is to be|remains|does|did|performs|comes out|feels|reads|stands)"
)
GOOD = (
    r"(?:better(?! than (?:it|i|we|before|average|expected|nothing|usual)\b)|best|preferable|preferred|superior|"
    r"stronger|strongest|winner|favou?rite|ahead|on top|chosen|selected|"
    r"(?:right |correct |winning )?(?:choice|pick|answer|one|vote)(?! of\b| that\b))\b"
)
BAD = r"(?:worse|worst|inferior|weaker|weakest|loser|less good|not as good|not so good)\b"
LABEL = (
    r"(?:verdict|answer|choice|decision|winner|judge?ment|conclusion|preference|preferred|pick|selection|selected|"
    r"result|better|best|chosen|vote|favou?rite|winning|superior|stronger|output|final|overall|response|reply|"
    r"option)"
)
OF_LABEL = (
    r"(?:reply|response|answer|option|choice|one|letter|here|then|for me|verdict|overall|of the two|between T|of T)"
)
SAYS = r"(?::|=+>?|->|→|⇒|–|—|\s-\s|\b(?:is|was|would be|goes to|must be|remains)\b)"
SURELY = r"(?:(?:for|clearly|therefore|definitely|the|that|thus|still|again)\s+)*"
CHOOSE = (
    r"(?:choos(?:e|es|ing)|chose|prefer(?:s|red)?|pick(?:s|ed)?|select(?:s|ed)?|go(?:ing)? (?:with|for)|went with|"
    r"vote(?:d)? for|favou?rs?|opt for|settle (?:on|for)|lean(?:ing)? towards?|lean(?:s|ing)?(?: to)?|side with|"
    r"recommend|take|declare|"
    r"(?:give|edge|point|win|nod|vote|preference|victory|prize|award)(?: it| this)?(?: goes| is given)? to)"
)
WINS = (
    r"(?:wins|won|should win|prevails|outperforms|beats|has the (?:edge|advantage)|comes out (?:ahead|on top)|"
    r"edges out|deserves|takes (?:it|the (?:win|edge|lead))|gets (?:my|the) (?:vote|nod|win|point|edge)|"
    r"better (?:\w+s|meet|fit|keep|follow)\b)"
)
JUDGE = r"(?:find|consider|rate|rank|judge|deem|call|think|believe)"
FILLER = (
    r"(?:overall|so|thus|therefore|hence|finally|definitely|clearly|certainly|i'?d|i|we|would|will|must|say|think|"
    r"believe|it|is|it's|that's|this|then|final|my|the|be|all in all|in the end|in sum|in short|in conclusion|"
    r"in summary|ultimately|and|no|yes|well|okay|ok|hm+|actually|rather|between|T|two|of|them|forced|to|for me|sure|"
    r"probably|just|simply|better|verdict|answer|go|have|should|correction|wait|again|on|now|maybe|perhaps|slightly)"
)
REASON = r"(?:because|as|since|by|for|due|given|in|on|at|over)"
STATEMENTS = [
    re.compile(pattern)
    for pattern in (
        r"(?<!worse )(?<!worst )(?<!weaker )(?<!weakest )(?<!inferior )(?<!losing )(?<!rejected )(?<!wrong )"
        rf"\b{LABEL}(?:[_ \"']{{1,4}}{OF_LABEL}){{0,5}}[\"'\s)]{{0,8}}{SAYS}[\"'\s(\[]*"
        rf"{SURELY}(?P<x>[ABTabc])(?![\w']|-\w|\s*[/&|=]\s*[ab]\b)"
        rf"(?=\s*[^\w\s]|\s*$|\s+{REASON}\b)",
        rf"\b(?:verdict|winner|vote)\s+{X}",
        r"(?P<worse>)\b(?:worse|worst|weaker|weakest|inferior|losing|loser|rejected)"
        rf"(?: {OF_LABEL}){{0,3}}\s*{SAYS}\s*{X}",
        rf"\bone (?:that )?i(?:'d| would)? {CHOOSE} is {X}",
        rf"{X} is (?:what|the one) i(?:'d| would)? {CHOOSE}\b",
        rf"\b{CHOOSE}{HOW}(?:\s|:)+(?P<x>[ABT](?![\w'])|[ab](?=[^\w+-]*\Z))",
        rf"{X}{IS}{HOW}\s+{GOOD}",
        rf"{X}{HOW}\s+{WINS}",
        rf"\b{JUDGE}{HOW}\s+{X}(?:\s+(?:to be|is|as|was))?{HOW}\s+(?:{GOOD}|higher|first)",
        rf"(?P<worse>){X}(?:{IS}{HOW}\s+{BAD}|{HOW}\s+(?:loses|lost|falls short|comes second)\b)",
        rf"\A\W*(?:{FILLER}[\W\d]+)*"
        r"(?P<x>[ABT](?![\w']|[+-]\W*\Z|\s+(?:should be|is ok))|[ab](?=[^\w+-]*\Z))(?:[\W\d]*"
        rf"(?:{FILLER}\b[\W\d]*)*|(?=[\s,(–—-]*(?:{REASON}|slightly|clearly)\b)(?:(?!, [AB]\b).)*)\Z",
        rf",\s*(?:{FILLER}\W+){{0,4}}{X}\W*\Z",
        r"(?P<x>)\b(?:can|could) not\s+(?:really\s+)?(?:choose|decide|say|tell|pick|prefer|judge)\b",
        r"(?P<x>)\bno (?:clear )?(?:winner|preference|difference)\b",
    )
]
OTHER_LABEL = re.compile(  # "Antwort: B", and "tone: A"
    r"\A(?!.*(?:grade|score|rating|mark|quality|level)\b)[^\n:]{1,30}:\s*(?P<x>[AB])(?![\w'])\W*\Z"
)
SENTENCE = re.compile(r"(?<=[!?;\n])|(?<=\D\.)")  # "1." begins an item of a list
TURN = re.compile(  # where a new clause begins
    r"\b(?:but|however|yet|nevertheless|nonetheless|still|overall|all in all|on balance|on the whole|in the end|"
    r"ultimately|in sum|in short|in conclusion|to conclude|therefore|thus|hence)\b,?"
    r"|(?=\b(?:although|though|even though|even if|while|whereas|despite|if|whether|unless|because)\b)"
)
SET_ASIDE = re.compile(  # a clause of these is limited, up to a comma
    r"\W*(?:although|though|even though|even if|while|whereas|despite|because|admittedly|granted|true|at first|"
    r"initially|first|on (?:the )?one hand|one|you)\b"
)
OTHERS = (
    r"(?:some|many|most(?! \w+ (?:reply|response|answer|option)\b)|others|people|critics|few|half|nobody|no one|"
    r"users?|readers?|they)"
)
REPORTED = re.compile(rf"\W*(?:the |a |an |other )*{OTHERS}\b(?! (?:reply|[ABT])\b)")  # a clause of what others choose
CONCERNING = re.compile(  # what follows the comma is limited
    r"\W*(?:for|in|on|regarding|concerning|in terms of|with (?:respect|regard) to|as (?:to|regards)|"
    r"when it comes to)\s(?!(?:balance|the (?:whole|end|following)|"
    r"(?:my|our|short|sum|conclusion|summary|total|general|this|that|these|those|light|view|line|all|every|me|us|"
    r"reflection|consideration)\b))"
)
SUPPOSED = re.compile(
    r"\W*(?:if|whether|unless|suppos(?:e|ing)|assum(?:e|ing)|imagine|pretend|provided|had|were)\b"
    r"(?! (?:only|anything|not|any)\b)"
)
PRESSED = re.compile(
    r"\W*(?:if|were|had)\b(?: (?:i|we|one|you|had|were|have|must|forced|pressed|to|made|asked|need)\b)+"
)
DENIED = re.compile(
    r"(?:\b(?:not|never|hardly|doubt|deny|unsure|unclear|nor|refuse|unlikely|possible|impossible|nothing|nobody|"
    r"none|probability|likelihood|chance|odds)\b|\b(?:no|little) (?:reason|evidence|way)\b|"
    r"\b(?:wrong|false|untrue|incorrect|mistake|stretch) (?:that|to)\b|"
    rf"\b{OTHERS} (?:would|might|may|could)\b)[^,:]*\Z"
    r"|(?:[AB]|\b(?:user|prompt|instructions?|they))(?: \w+){0,2}? (?:says?|said|claims?|claimed|states?|asserts?|"
    r"insists?|contains?|tells?|told|asks?|asked|argues?|demands?)\b[^,]*\Z"
)
GOOD_QUALITIES = (
    r"(?:appropriate|ethical|helpful|honest|harmless|respectful|accurate|useful|polite|considerate|thoughtful|"
    r"suitable|truthful|responsible|balanced|fitting|kind|kinder|safe|safer|wiser|nicer|clearer|gentler|politer|"
    r"fairer|(?:bett|strong)er|(?:b|kind|saf|wis|nic|clear|gentl|fair|strong)est|either|neither|whether|under|after|"
    r"over|however|rather|answer|winner)"
)
BAD_QUALITIES = (
    r"(?:harmful|dangerous|offensive|toxic|biased|misleading|problematic|unethical|inappropriate|unsafe|dishonest|"
    r"insulting|disrespectful|evasive|preachy|judgmental|dismissive|ruder?|worse|worst|harsher|weaker|weakest)"
)
# Before "reply is A": which quality the reply is named by, a good one, a bad one, or one of which neither is known.
GOOD_ONE = re.compile(rf"(?:(?<!less )(?<!least )\b{GOOD_QUALITIES}|\b(?:less|least) {BAD_QUALITIES})\s*\Z")
BAD_ONE = re.compile(rf"(?:(?<!less )(?<!least )\b{BAD_QUALITIES}|\b(?:less|least) {GOOD_QUALITIES})\s*\Z")
ODD_ONE = re.compile(r"\b(?:(?:more|most|less|least) \w+|\w+(?:er|est))\s*\Z")
THAN = r"\W*(?:than [ABT]\W*)?"
ASPECT = re.compile(
    rf"{THAN}(?:in|at|on|for|regarding|with (?:respect|regard)|when it comes|as (?:to|regards)|written|worded|"
    r"phrased|organi[sz]ed|structured|formatted|put)\b"
)
WHOLE = re.compile(
    rf"{THAN}(?:in (?:every|all|general|my|this case|the end|total|sum)|on (?:balance|the whole|every|all)|at all|"
    r"for (?:me|this|these|that|us|all|every|the (?:following )?reasons?))\b"
)
ALONE = re.compile(r"[\W_]*(?P<x>[ABab])[^\w+?-]*")
LIST = re.compile(r"[\W\d_]*(?:\b[ABTabcd]\b[\W\d_]*){2,}")  # "A: 7, B: 9"
FRONT = re.compile(
    rf"[\W_]*(?:(?P<x>[AB])(?=\s*(?:[.,:;)\n–—]|-\s*\S)|\s*\Z|\s+{REASON}\b|\s+is\s*\Z)|"
    rf"(?P<y>[ab])(?=\s*[.,:;)\n]|\s+{REASON}\b))(?!\W+[AB]\b)"
)
ITEMS = re.compile(r"^[^\w\n]*([AB])[.)](?=[ \t]+\w)", re.MULTILINE)  # of a list
KEY = re.compile(rf"(?i)(?:\w+_)?(?:{LABEL}|label)(?:_\w+)?")


class Statement(NamedTuple):
    """A choice: A, B, or T for neither; `limited` to an aspect, conceded or reported."""

    letter: str
    limited: bool


@lru_cache(maxsize=256)  # most answers are a letter, or one of a few ways to name it
def choice(text: str, *, named: bool, cut: bool) -> str | None:
    """The letter of the reply that an answer chooses; None if it chooses neither, or does not say.

    named: whether words around the letter are expected; after a prefix the letter comes first. cut: whether the answer
    goes on; then only a letter that is all of it counts, or the first after a prefix.
    """
    spelled = one_spelling(text[-READ:])
    if {"A", "B"} <= {*ITEMS.findall(spelled)}:
        spelled = ITEMS.sub("", spelled)
    alone = ALONE.fullmatch(spelled)
    if alone and not (cut and alone["x"] == "a"):  # which may be an article
        return alone["x"].upper()
    front = FRONT.match(spelled if len(text) <= READ else one_spelling(text[:100]))
    first = (front["x"] or front["y"]).upper() if front else None
    if cut:
        return None if named else first
    if LIST.fullmatch(spelled) and len({*re.findall("[a-d]", spelled.lower())}) > 1:
        return None
    claims = in_json(text) or list(statements(spelled))
    verdict = last(claims)
    if not claims or not (named or any(not limited for _, limited in claims)):
        # Both letters begin lines or parts of a list that says something of each.
        starts = set(re.findall(r"(?:^|[.,;:]\s)[^\w\n]*([AB])\b", spelled, re.MULTILINE))
        verdict = first if starts <= {first} else None
    return None if verdict == "T" else verdict


def last(claims: list[Statement]) -> str | None:
    """The last statement that is not limited; else the limited ones, if they agree."""
    firm = [letter for letter, limited in claims if not limited]
    letters = firm[-1:] or sorted({letter for letter, _ in claims})
    return letters[0] if len(letters) == 1 else None


def in_json(text: str) -> list[Statement]:
    """What the last JSON object of an answer that has a key such as "better" states there."""
    for part in reversed(re.findall(r"\{[^{}]*\}", text[-READ:])):
        try:
            values = json.loads(part)
        except ValueError:
            continue
        named = [value for key, value in values.items() if KEY.fullmatch(key) and isinstance(value, str)]
        if named:
            return list(statements(one_spelling(f"verdict: {named[-1]}"))) or [Statement("T", False)]
    return []


def statements(text: str) -> Iterator[Statement]:
    """What the clauses of a text in one spelling state, in order."""
    for sentence in SENTENCE.split(text):
        if sentence.rstrip().endswith("?"):
            continue
        clauses = TURN.split(sentence)
        for clause, following in zip(clauses, [*clauses[1:], ""], strict=True):
            yield from of_clause(clause, following)


def of_clause(clause: str, following: str) -> list[Statement]:
    """What a clause states, before the one that follows it."""
    aside, _, rest = clause.partition(",")
    if SUPPOSED.match(clause):
        return [] if re.search("[ABT]", aside) else of_words(rest, limited=not PRESSED.match(clause))
    if SUPPOSED.match(following) and re.search(r"\bwould\b|\bonly\s*\Z", clause):
        return []
    if REPORTED.match(clause):
        return [] if REPORTED.match(rest) else of_words(rest, limited=True)
    if CONCERNING.match(clause):
        return of_words(aside) + of_words(rest, limited=True)
    if SET_ASIDE.match(clause):
        return of_words(aside, limited=True) + of_words(rest)
    return of_words(clause)


def of_words(text: str, *, limited: bool = False) -> list[Statement]:
    """What a clause or a part of one states; T if it states both firmly."""
    places: list[tuple[int, Statement]] = []
    for pattern in STATEMENTS:
        for match in pattern.finditer(text):
            before = text[max(match.start() - 80, 0) : match.start()]
            is_named = pattern is STATEMENTS[0]
            worse = "worse" in match.groupdict() or (is_named and BAD_ONE.search(before))
            is_odd = is_named and not worse and ODD_ONE.search(before) and not GOOD_ONE.search(before)
            if is_odd or DENIED.search(before):
                continue
            letter = match["x"].upper()
            if letter not in OTHER:
                letter = "T"
            elif worse:
                letter = OTHER[letter]
            aspect = ASPECT.match(text, match.end("x")) or ASPECT.match(text, match.end())
            whole = WHOLE.match(text, match.end("x")) or WHOLE.match(text, match.end())
            places.append((match.start("x"), Statement(letter, limited or bool(aspect and not whole))))
    if not places and (label := OTHER_LABEL.match(text)):
        return [Statement(label["x"], True)]
    ordered = [statement for _, statement in sorted(places)]
    if len({letter for letter, limits in ordered if not limits}) > 1:
        return [Statement("T", False)]
    return ordered
