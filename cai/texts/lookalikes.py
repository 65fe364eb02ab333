"""Texts as a careless reader sees them: without case, width, style and accents, and with look-alikes as one letter."""

from __future__ import annotations

import re
import unicodedata

UNSEEN = "\x00"  # in the place of what a reader does not see
BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"  # letters and marks without ink
# Characters of ASCII, each with those that look like it and are not the same to Unicode, mostly of other scripts.
LOOKALIKES = (
    "aаαɑ⍺ᎪꓮΑАλ bЬЪƅвВΒᏴꓐß cсϲСϹᏟꓚ dԁժᎠꓓɗ eеєҽ℮ЕΕᎬꓰεзЭэ fƒꓝϝքֆ gɡցᏀꓖԍ hһհНΗᎻꓧн jјЈϳᎫꓙ kкκКΚᏦꓗ "
    "l1ііїІЇıιɩΙӏӀᎥꓲꓡᏞⵏ mмМΜᎷꓟ nոпиΝꓠη o0оοօОΟՕꓳσ๐໐၀ഠ०০੦૦௦౦೦൦ pрρРΡᏢꓑ qԛզ rгᴦᎡꓣяɾ sѕЅՏᏚꓢ tтτТΤᎢꓔ uυսцꓴՍʋ "
    "vνѵᏙꓦ wѡԝաωᎳꓪшщ xхχХΧꓫ yуүγУΥҮꓬᎽʏ zᏃꓜΖ <‹〈〈⟨˂ᐸ≺❮❬⧼❰« >›〉〉⟩˃ᐳ≻❯❭⧽❱» /∕⁄╱⟋⧸〳丿 :∶ː꞉׃։܃˸⁚᛬ |∣❘ǀ│┃¦⏐ا׀ꟾ "
    "[〔【⟦❲⁅⦗ ]〕】⟧❳⁆⦘"
)
ALIKE = {other: alike[0] for alike in LOOKALIKES.split(" ") for other in alike[1:]}


class Seen(dict[int, str]):
    """What becomes of each character, by its code; filled as characters come."""

    def __missing__(self, code: int) -> str:
        self[code] = _seen(chr(code))
        return self[code]


SEEN = Seen()


def careless(text: str) -> str:
    """A text of the same length, in which what looks alike is one character, i and l too, and the unseen `UNSEEN`."""
    return text.translate(SEEN)


def _seen(char: str) -> str:
    kind = unicodedata.category(char)
    if char.isspace() or 0x1C <= ord(char) <= 0x1F:
        return char
    if kind in ("Cc", "Cf", "Mn", "Me") or char in BLANK:
        return UNSEEN
    if kind == "Pd":
        return "-"
    letter = _letter(char, kind)
    return "l" if letter == "i" else letter


def _letter(char: str, kind: str) -> str:
    """The small letter or sign of ASCII that a character looks like; itself if it looks like none."""
    base = [part for part in unicodedata.normalize("NFKD", char) if not unicodedata.combining(part)]
    if kind == "So" and len(base) == 3 and base[0] == "(":  # a letter in brackets
        base = base[1:2]
    if len(base) == 1:
        alike = ALIKE.get(char) or ALIKE.get(base[0])
        if alike is not None:
            return alike
        if base[0].isascii():
            return base[0].lower()
    latin = re.search(r"(?:LATIN|SYMBOL|SQUARED|CIRCLED) .*\b([A-Z])(?: WITH .*)?$", unicodedata.name(char, ""))
    return latin[1].lower() if latin else char
