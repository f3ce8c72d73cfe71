"""Byte-pair merges learned on the captions, in the form open_clip's SimpleTokenizer reads."""

import gzip
import itertools
from collections import Counter
from pathlib import Path

import numpy as np

from trmml.synthetic import CATEGORY_NAMES
from trmml.synthetic.captions import write_caption
from trmml.synthetic.settings import SETTINGS

TEMPLATES = (
    "a photo of {}", "a photo of {}", "a drawing of {}", "a picture of {}", "{}", "there is {}",
    "a small {}", "a large {}", "an image with {}", "a sketch of {}",
)  # fmt: skip


def write_vocabulary(path: Path, merges: int = 400) -> None:
    """Learn byte-pair merges on the words of the captions; always the same file."""
    rng = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    phrases = [setting.phrase for setting in SETTINGS]
    colours = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "grey",
               "black", "white", "turquoise")  # fmt: skip
    for k in range(6_000):
        colour = colours[k % len(colours)]
        text = write_caption(rng, [(k % len(CATEGORY_NAMES), colour)], phrases[k % len(phrases)])
        counts.update(f"{text} {TEMPLATES[k % len(TEMPLATES)]}".replace("-", " ").split())
    words = {(*word[:-1], word[-1] + "</w>"): n for word, n in counts.items() if word.isalpha()}
    learned = []
    for _ in range(merges):
        pairs: Counter[tuple[str, str]] = Counter()
        for parts, n in words.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learned.append(best)
        words = {_merge(parts, best): n for parts, n in words.items()}
    text = "\n".join(["#version: trmml", *(" ".join(pair) for pair in learned)])
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _merge(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return tuple(merged)
