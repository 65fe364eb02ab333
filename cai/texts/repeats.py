"""What repeats in a dataset: phrases and prompts."""

from __future__ import annotations

import hashlib
from itertools import pairwise

from cai.texts.likeness import words

NEAR_PROMPT = 0.8  # the same for prompts, of word pairs: in 20 words one may differ
NGRAM = 5  # words: the shortest run that people recognise as a phrase, and long enough not to be grammar
MOST_NGRAMS = 300_000  # held at a time, about 60 MB


class Phrases:
    """Counts in how many texts each run of five words occurs; its memory is bounded however many texts come."""

    def __init__(self) -> None:
        self.texts = 0
        self.off_by = 0  # counts may be too high by so many texts; 0 until there are more runs than are held
        self._counts: dict[str, int] = {}

    def add(self, text: str) -> None:
        """Count one text."""
        self.texts += 1
        sequence = words(text)
        counts = self._counts
        floor = self.off_by
        for run in {" ".join(sequence[i : i + NGRAM]) for i in range(len(sequence) - NGRAM + 1)}:
            counts[run] = counts.get(run, floor) + 1
        while len(counts) > MOST_NGRAMS:  # lossy counting (Manku and Motwani 2002) drops the rarest
            self.off_by += 1
            self._counts = counts = {run: count for run, count in counts.items() if count > self.off_by}

    def top(self, share: float, most: int = 10) -> list[tuple[str, float]]:
        """Phrases that at least `share` of the texts hold, and their shares; runs that overlap are joined to one."""
        least = max(2.0, share * self.texts)
        runs = {run: count for run, count in self._counts.items() if count >= least}
        phrases: list[tuple[str, float]] = []
        while runs and len(phrases) < most:
            run = max(runs, key=lambda run: (runs[run], run))
            count = runs.pop(run)
            phrases.append((self._grown(run, count, runs), count / self.texts))
        return phrases

    @staticmethod
    def _grown(run: str, count: int, runs: dict[str, int]) -> str:
        """A run with the words around it that come as often (to a tenth); what it takes in is removed from `runs`."""
        phrase = run
        for before in (False, True):
            while True:
                sequence = phrase.split()
                start, end = " ".join(sequence[: NGRAM - 1]), " ".join(sequence[1 - NGRAM :])
                if before:
                    fits = [run for run in runs if run.endswith(f" {start}")]
                else:
                    fits = [run for run in runs if run.startswith(f"{end} ")]
                best = max(fits, key=lambda run: (runs[run], run), default="")
                if not best or runs[best] < 0.9 * count:
                    break
                del runs[best]
                if before:
                    phrase = best.removesuffix(start) + phrase
                else:
                    phrase += best.removeprefix(end)
        return phrase


class Repeats:
    """Finds texts that came before, and texts much like one that came before; about 2 KB of memory a text.

    Likeness is estimated: Jaccard of word pairs from 0.8, by MinHash of 128 hashes under a fixed seed, whose standard
    error is 0.035. The first of texts that are alike is not a repeat.
    """

    def __init__(self) -> None:
        from rensa import RMinHashDeduplicator

        self._seen: set[bytes] = set()
        self._like = RMinHashDeduplicator(
            threshold=NEAR_PROMPT,
            num_perm=128,
            use_lsh=True,
            num_bands=16,  # its own choice of 8 overlooks 43 % at a likeness of 0.86; 16 overlook 1 % of them
            seed=0,
        )

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, text: str) -> tuple[bool, bool]:
        """Whether the same text came before (case and space apart), and whether one much like it did."""
        key, pairs = self._prepared(text)
        if key in self._seen:
            return True, True
        self._seen.add(key)
        [new] = self._like.add_pairs([(key.hex(), pairs)])
        return False, not new

    def find(self, text: str) -> tuple[bool, bool]:
        """The same, without remembering the text."""
        key, pairs = self._prepared(text)
        if key in self._seen:
            return True, True
        [alike] = self._like.is_duplicate_pairs([("", pairs)])
        return False, bool(alike)

    @staticmethod
    def _prepared(text: str) -> tuple[bytes, list[str]]:
        same = text.casefold().split()
        sequence = words(text) or same
        key = hashlib.blake2b(" ".join(same).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return key, [" ".join(pair) for pair in pairwise(sequence)] or sequence
