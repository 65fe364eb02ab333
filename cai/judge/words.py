r"""Which of two replies a judge chooses in words.

An answer is put into one spelling: lower case, in which A and B are references to a reply, however they were written
("Reply **a**", "[[A]]", full-width letters), and T is one to both or neither. The article of "A kind reply" is not a
reference. Then the answer is cut into clauses, in which `STATEMENTS` finds what states a choice: a label ("answer: B"),
a verb ("I choose B"), a comparison ("B is better") or a letter alone ("overall, B"). The last statement is the verdict.
One that is limited to an aspect, conceded or reported ("although A is better in tone") counts only without others, and
if all of its kind agree. What is denied, asked or supposed states nothing; a clause that states both states neither.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

READ = 20_000  # characters at the end of an answer in which its verdict is looked for
UNSEEN = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufe0f\ufeff]")
SPELLINGS = [
    (re.compile(pattern), spelling)
    for pattern, spelling in (
        (r"[’‘ʼ´]", "'"),
        (r"[“”«»„]", '"'),
        (r"\\f?boxed\b", " verdict: "),
        (r"\\[a-zA-Z]+|[$#{}`]|\*+|(?<![^\W_])_+|_+(?![^\W_])", " "),  # what LaTeX and Markdown dress letters in
        (r"\[\[\s*(\w+)\s*]]", r". verdict: \1. "),  # as MT-bench asks
        (r"(?i)<(b|i)>(.*?)</\1>", r" \2 "),
        (r"(?i)</?[a-z]{2,12}>|\b(?:without (?:a )?|no |beyond )doubt\b", " "),
        (r"(?m)^[ \t]*>[ \t]", ""),
        (r"(?i)\b(vs|e\.g|i\.e)\.", r"\1"),
        (r"(?i)(?<=[a-z])n't\b|(?<=\bcan)not\b", " not"),
        (r"(?i)(:|=|->|\bis|\bverdict)[ \t\"'(]*\n\s*", r"\1 "),  # a label, and its letter in the next line
    )
]

# References

NOUN = r"(?i:(?:the )?(?:reply|response|answer|option|choice|assistant|candidate|model|letter|text|completion))"
VERB = (  # what may follow an A that is no article
    r"(?i:(?:is|was|are|does|did|seems?|looks?|appears?|would|will|has|had|wins?|won|beats?|loses|gets|takes|comes|"
    r"edges|outperforms|prevails|deserves|feels|reads|stands|remains|performs|follows|keeps|or|and|nor|vs|over|than|"
    r"but|rather|instead|not|because|as|by|due|since|for|in|on|given|while|whereas|though|although|again|overall|"
    r"it is)\b)"
)
ENDS = rf"(?=\s*[^\w\s]|\s*$|\s*\n|\s+{VERB})"
WITHIN = r"(?![\w'+]|-\w|\.\w)"
REFERENCES = [
    re.compile(pattern)
    for pattern in (
        rf"\b{NOUN}[\s\"'(\[-]{{1,4}}(?:([AB])|([ab])(?={WITHIN}[\"')\]]*{ENDS})){WITHIN}(?:[\"')\]]+(?!\w))?",
        r"(?<![\w'])[\"'(\[]{1,4}\s{0,4}(?:([AB])|([ab]))\s{0,4}[\"')\]]{1,4}(?![\w'])",
        r"<\s?([ABab])\s?>",
        rf"(?<![\w'+.-])([AB])(?:'s\s+{NOUN}\b)",
        rf"(?<![\w'+.-])(?<!(?i:plan|type) )(?<!(?i:grade) )(?<!(?i:vitamin) )(?:(A){WITHIN}{ENDS}|(B)){WITHIN}",
    )
]
HELD = str.maketrans("\ue00a\ue00b\ue00c", "ABT")  # in the place of references until the rest is in lower case
ONE = "[\ue00a\ue00b]"
PAIRS = [  # what is said of both in one breath is a reference to one of them, or to neither
    (re.compile(pattern), reference)
    for pattern, reference in (
        (rf"\bnot\s+({ONE}),?\s*(?:but|rather)\s+({ONE})", r" \2"),
        (rf"({ONE})(?:,?\s*(?:and\s+)?not|\s+(?:over|rather than|instead of|before)|\s*[>≻≫]+)\s*{ONE}", r" \1"),
        (rf"\brather\s+({ONE})\s+than\s+{ONE}", r" \1"),
        (rf"{ONE}\s*[<≺≪]+\s*({ONE})", r" \1"),
        (rf"(?:\b(?:neither|both|either)\s+)?{ONE}\s*(?:,?\s*(?:or|and|nor|vs|versus)\s|[/&=≈~|]+)\s*{ONE}", "\ue00c"),
        (r"\b(?:neither|both|either)\b(?: of them| of the two)?(?: one| repl\w+| responses?| answers?)?", "\ue00c"),
        (r"\b(?:a )?(?:tie|tied|draw|toss-up|equal|undecided|inconclusive)\b", "\ue00c"),
    )
]

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
    r"\s+(?:is|was|seems(?: to be)?|looks|appears(?: to be)?|would be|must be|has to be|should be|is to be|remains|"
    r"does|did|performs|comes out|feels|reads|stands)"
)
GOOD = (
    r"(?:better|best|preferable|preferred|superior|stronger|strongest|winner|favou?rite|ahead|on top|chosen|"
    r"selected|(?:right |correct |winning )?(?:choice|pick|answer|one|vote)(?! of\b| that\b))\b"
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
    r"(?:choos(?:e|es|ing)|chose|prefer(?:s|red)?|pick(?:s|ed)?|select(?:s|ed)?|go(?:ing)? with|went with|"
    r"vote(?:d)? for|favou?rs?|opt for|settle (?:on|for)|lean(?:ing)? towards?|lean(?:s|ing)?(?: to)?|side with|"
    r"recommend|going for|take|declare|"
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
        rf"\A\W*(?:{FILLER}[\W\d]+)*(?P<x>[ABT](?![\w'])|[ab](?=[^\w+-]*\Z))"
        rf"(?:[\W\d]*(?:{FILLER}\b[\W\d]*)*|(?=[\s,(–—-]*(?:{REASON}|slightly|clearly)\b).*)\Z",
        rf",\s*(?:{FILLER}\W+){{0,4}}{X}\W*\Z",
        r"(?P<x>)\b(?:can|could) not\s+(?:really\s+)?(?:choose|decide|say|tell|pick|prefer|judge)\b",
        r"(?P<x>)\bno (?:clear )?(?:winner|preference|difference)\b",
    )
]
OTHER_LABEL = re.compile(r"\A[^\n:]{1,30}:\s*(?P<x>[AB])(?![\w'])\W*\Z")  # "Antwort: B", and "tone: A"
SENTENCE = re.compile(r"(?<=[!?;\n])|(?<=\D\.)")  # "1." begins an item of a list
TURN = re.compile(  # where a new clause begins
    r"\b(?:but|however|yet|nevertheless|nonetheless|still|overall|all in all|on balance|on the whole|in the end|"
    r"ultimately|in sum|in short|in conclusion|to conclude|therefore|thus|hence)\b,?"
    r"|(?=\b(?:although|though|even though|even if|while|whereas|despite|if|whether|unless|because)\b)"
)
SET_ASIDE = re.compile(  # a clause of these is limited, up to a comma
    r"\W*(?:although|though|even though|even if|while|whereas|despite|because|admittedly|granted|true|at first|"
    r"initially|first|on (?:the )?one hand|some|one|many|others|you|people|critics)\b"
)
SUPPOSED = re.compile(r"\W*(?:if|whether|unless|suppose|assuming|had|were)\b")
DENIED = re.compile(
    r"(?:\b(?:not|never|hardly|doubt|deny|unsure|unclear|nor)\b|\bno (?:reason|evidence|way)\b)[^,:]*\Z"
)
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
    rf"[\W_]*(?:(?P<x>[AB])(?=\s*[.,:;)\n–—-]|\s*\Z|\s+{REASON}\b|\s+is\s*\Z)|"
    rf"(?P<y>[ab])(?=\s*[.,:;)\n]|\s+{REASON}\b))(?!\W+[AB]\b)"
)
KEY = re.compile(rf"(?i)(?:\w+_)?(?:{LABEL}|label)(?:_\w+)?")


class Statement(NamedTuple):
    """A choice: A, B, or T for neither; `limited` to an aspect, conceded or reported."""

    letter: str
    limited: bool


def choice(text: str, *, named: bool, cut: bool) -> str | None:
    """The letter of the reply that an answer chooses; None if it chooses neither, or does not say.

    named: whether words around the letter are expected; after a prefix the letter comes first. cut: whether the answer
    goes on; then only a letter that is all of it counts, or the first after a prefix.
    """
    spelled = one_spelling(text[-READ:])
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
        # Both letters begin lines of a list that says something of each.
        starts = set(re.findall(r"^[^\w\n]*([AB])\b", spelled, re.MULTILINE))
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


def one_spelling(text: str) -> str:
    """A text in lower case, in which A, B and T are references to a reply, to the other, and to both or neither."""
    text = UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    for pattern, spelling in SPELLINGS:
        text = pattern.sub(spelling, text)
    for pattern in REFERENCES:
        text = pattern.sub(_held, text)
    text = text.lower()
    for pattern, reference in PAIRS:
        text = pattern.sub(reference, text)
    return text.translate(HELD)


def _held(reference: re.Match[str]) -> str:
    letter = next(filter(None, reference.groups()))
    return "\ue00a" if letter in "Aa" else "\ue00b"


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
        return [] if re.search("[ABT]", aside) else of_words(rest)
    if " would " in clause and SUPPOSED.match(following):
        return []
    if SET_ASIDE.match(clause):
        return of_words(aside, limited=True) + of_words(rest)
    return of_words(clause)


def of_words(text: str, *, limited: bool = False) -> list[Statement]:
    """What a clause or a part of one states; T if it states both firmly."""
    places: list[tuple[int, Statement]] = []
    for pattern in STATEMENTS:
        for match in pattern.finditer(text):
            if DENIED.search(text[max(match.start() - 80, 0) : match.start()]):
                continue
            letter = match["x"].upper()
            if letter not in OTHER:
                letter = "T"
            elif "worse" in match.groupdict():
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
