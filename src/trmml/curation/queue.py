"""The questions of a review: which to ask next, what an answer changes, and how to take it back."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from trmml.curation.answers import Answer, Answers, Reason, State, Verdict, new_id, now
from trmml.curation.collection import Collection
from trmml.curation.fast_head import FastHead
from trmml.curation.policies import BLOCK, Pool, choose_pairs, info
from trmml.curation.standing import Applied, apply_answers, places_by_content, sha256_of, standing
from trmml.curation.suspects import Suspects, suspects
from trmml.errors import ConfigError
from trmml.labels.matrix import LabelMatrix
from trmml.settings.choices import Policy

# Of the questions, one answered before comes again: their agreement is a person's own error rate.
GOLD_SHARE = 0.02


@dataclass(frozen=True)
class Question:
    """One pair to ask about.

    Attributes:
        place: of the image in the collection.
        image: name below the images' folder.
        path: of the file.
        category: name.
        was: what is known.
        p: probability that the category is present.
        why: what it is asked for.
    """

    place: int
    image: str
    path: Path
    category: str
    was: State
    p: float
    why: Reason


class Queue:
    """Questions about a collection, and the journal of their answers.

    Args:
        collection: what a run sees.
        answers: the journal; what it holds already counts.
        who: name of the person who answers.
        policy: of what is worth asking; see `policies`.
        categories: to ask about; all by default.
        seed: of gold questions and of the policy `random`.

    Raises:
        ConfigError: a category that the run does not have.
    """

    def __init__(
        self,
        collection: Collection,
        answers: Answers,
        *,
        who: str = "",
        policy: Policy = "trmml",
        categories: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        names = collection.category_names
        strange = [name for name in categories if name not in names]
        if strange:
            raise ConfigError(
                f"the run has no category {strange[0]!r}; it has {', '.join(names)[:200]}."
            )
        self.collection, self.answers, self.who, self._policy = collection, answers, who, policy
        self._columns = {name: place for place, name in enumerate(names)}
        self._wanted = torch.tensor([not categories or name in categories for name in names])
        self._seed, self._draw = seed, random.Random(seed)
        self.head = FastHead(collection)
        self._session: list[Answer] = []
        self._passed = set[tuple[int, int]]()
        self._places = places_by_content(collection.data, answers.rows())
        self._read()
        self.head.learn(self.matrix, {category for _, category in self.applied.pairs})

    def _read(self) -> None:
        """Take what the journal says."""
        rows = self.answers.rows()
        self.applied: Applied = apply_answers(self.collection.data, rows, self._places)
        self.matrix = self.applied.data.matrix
        self._asked = torch.zeros_like(self.matrix.known)
        said = standing(rows)
        for sha256, name in said.resting:
            if sha256 in self._places and name in self._columns:
                self._asked[self._places[sha256], self._columns[name]] = True
        for place in [*self.applied.pairs, *self._passed]:
            self._asked[place] = True
        self._count = Counter(category for _, category in self.applied.pairs)

    @property
    def open(self) -> Bool[Tensor, "N C"]:
        """Pairs that may be asked about: unknown, and not asked before."""
        return ~self.matrix.known & ~self._asked & self._wanted

    def next(self, count: int = BLOCK) -> list[Question]:
        """The next block: questions about one category, most worth asking first; [] at the end.

        Its category is the one asked about least so far, of those the one most in doubt.

        Args:
            count: at most 30 are asked at a time.
        """
        free, logits = self.open, self.head.logits
        categories = [int(c) for c in free.any(dim=0).nonzero()]
        if not categories:
            return []
        least = min(self._count[c] for c in categories)
        tied = [c for c in categories if self._count[c] == least]
        doubt = (info(logits[:, tied]) * free[:, tied]).sum(dim=0)
        category = tied[int(doubt.argmax())]
        column = [category]
        features, count = self.collection.features, min(count, BLOCK)
        pool = Pool(logits[:, column], free[:, column], features)
        chosen = choose_pairs(self._policy, pool, count, seed=self._seed)[:, 0].tolist()
        asked = [self._question(place, category, "learn") for place in chosen]
        return self._with_gold(asked, category)

    def most(self, count: int) -> list[Question]:
        """Pairs most worth asking about, dealt out over the categories."""
        pool = Pool(self.head.logits, self.open, self.collection.features)
        pairs = choose_pairs(self._policy, pool, count, seed=self._seed).tolist()
        return [self._question(place, category, "learn") for place, category in pairs]

    def suspects(self, count: int = BLOCK) -> tuple[list[Question], list[Question]]:
        """Labels that are probably not there, and such that were probably missed, worst first.

        Args:
            count: of each list at most.
        """
        return self.doubted(count, given=True), self.doubted(count, given=False)

    def doubted(self, count: int, *, given: bool) -> list[Question]:
        """The worst of one list; see `suspects`.

        Args:
            count: at most.
            given: labels that are given present, or absent.
        """
        found = self.suspect_list(given=given)
        chance = found.quality if given else 1 - found.quality
        return [
            self._question(place, category, "suspect", p)
            for (place, category), p in zip(
                found.pairs[:count].tolist(), chance[:count].tolist(), strict=True
            )
        ]

    def suspect_list(self, *, given: bool) -> Suspects:
        """One whole list; see `suspects.suspects`.

        Args:
            given: labels that are given present, or absent.
        """
        found = self.collection.matrix
        matrix = LabelMatrix(found.labels, found.known & self._wanted)
        return suspects(self.collection.out_of_sample, matrix, given=given, asked=self._asked)

    def answer(self, question: Question, verdict: Verdict, ms: int | None = None) -> Answer:
        """The row that was added; it is on the disk. The head begins to learn from it.

        Args:
            question: from `next` or `suspects`.
            verdict: what the person said.
            ms: from shown to answered.
        """
        sha256 = sha256_of(question.path)
        row = Answer(
            new_id(), now(), self.who, question.image, sha256, question.category, verdict,
            question.was, round(question.p, 6), question.why, self.collection.run[:12], ms,
        )  # fmt: skip
        self.answers.add([row])
        self._session.append(row)
        self._places[sha256] = question.place
        place = question.place, self._columns[question.category]
        if verdict == "skip":
            self._passed.add(place)
        if place in self.applied.pairs or verdict not in ("present", "absent"):
            self._read()
        else:
            self._asked[place] = True
            self.applied.pairs[place] = verdict
            self._count[place[1]] += 1
            labels, known = self.matrix.labels.clone(), self.matrix.known.clone()
            labels[place], known[place] = verdict == "present", True
            self.matrix = LabelMatrix(labels, known)
        if verdict in ("present", "absent"):
            self.head.tell(self.matrix, [place[1]])
        return row

    def undo(self) -> Answer | None:
        """The newest answer of this session that counted, taken back; None if there is none."""
        if not self._session:
            return None
        row = self._session.pop()
        undo = row._replace(id=new_id(), at=now(), answer=None, ms=None, undoes=row.id)
        self.answers.add([undo])
        category = self._columns[row.category]
        self._passed.discard((self._places[row.sha256], category))
        self._read()
        self.head.tell(self.matrix, [category])
        return row

    def _question(self, place: int, category: int, why: Reason, p: float | None = None) -> Question:
        data, here = self.collection.data, (place, category)
        was: State = "unknown"
        if self.matrix.known[here]:
            was = "present" if self.matrix.labels[here] else "absent"
        if p is None:
            p = float(self.head.logits[here].sigmoid())
        name = data.category_names[category]
        return Question(
            place, data.images[place], data.root / data.images[place], name, was, p, why
        )

    def _with_gold(self, asked: list[Question], category: int) -> list[Question]:
        """The questions, now and then with one of the category that was answered before."""
        if self._draw.random() >= GOLD_SHARE * len(asked):
            return asked
        here = {question.place for question in asked}
        before = [place for (place, column), state in self.applied.pairs.items()
                  if column == category and state != "unknown" and place not in here]  # fmt: skip
        if not before:
            return asked
        gold = self._question(self._draw.choice(before), category, "gold")
        asked[self._draw.randrange(len(asked))] = gold
        return asked


def agreement(rows: Sequence[Answer]) -> tuple[int, int]:
    """How many gold questions were answered as before, and how many there were.

    Args:
        rows: in the order of their ids.
    """
    taken = standing(rows).taken
    gold = [row for row in rows if row.why == "gold" and row.id not in taken]
    plain = [row for row in gold if row.answer in ("present", "absent")]
    return sum(row.answer == row.was for row in plain), len(plain)
