"""The questions of a review: which to ask next, what an answer changes, and how to take it back."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trmml.curation.answers import Answer, Answers, Reason, State, Verdict, new_id, now
from trmml.curation.collection import Collection, check_categories
from trmml.curation.fast_head import FastHead
from trmml.curation.live_pairs import NOTHING, Held, LivePairs
from trmml.curation.policies import BLOCK, Pool, choose_images, choose_pairs, drawn, info
from trmml.curation.standing import identity, sha256_of
from trmml.curation.suspects import Suspects, label_logits, suspects
from trmml.settings.choices import Policy, ReviewKind

# Of the questions, one answered before comes again: how often it is answered alike says how sure
# answers are.
GOLD_SHARE = 0.02
# Categories beyond which images asked about whole come in any order: with 48 categories those that
# `trmml` chooses are worth more, with 242 those at random are (docs/review.md).
LONG_LIST = 100
# While others answer, and for minutes after, some are drawn from so many times as many questions.
SPREAD, MINUTES = 8, 10


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

    @property
    def likely(self) -> bool:
        """Whether it begins as present, where a whole image is asked about."""
        return self.p >= 0.5


class Queue:
    """Questions about a collection, and the journal of their answers.

    Args:
        collection: what a run sees.
        answers: the journal; what it holds already counts.
        who: name of the person who answers.
        policy: of what is worth asking; see `policies`.
        categories: to ask about; all by default.
        seed: of gold questions and of the policy `random`; unless 0, also of a draw of questions
            while others answer: people who ask at once are seldom asked the same.

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
        check_categories(categories, names)
        self.collection, self.answers, self.who, self._policy = collection, answers, who, policy
        self._columns = {name: place for place, name in enumerate(names)}
        self._wanted = torch.tensor([not categories or name in categories for name in names])
        self._seed, self._draw = seed, random.Random(seed)
        self._session: list[list[Answer]] = []
        self._lists = dict[bool, Suspects]()
        rows, self._read = answers.since(0)
        # When somebody else answered last.
        self._other_at = max((row.at for row in rows if row.who != self.who), default="")
        self.pairs = LivePairs(collection.data, answers, sorted(rows))
        self.head = FastHead(collection)
        answered = [place for place, found in enumerate(self.pairs.answered) if found]
        self.head.learn(answered, self.pairs.matrix(answered), anew=True)
        # Of each category, how many pairs are open and the sum of their info.
        self._left = torch.zeros(len(names), dtype=torch.int64)
        self._doubt = torch.zeros(len(names))
        self._stale = set(range(len(names)))
        self._refresh()

    @property
    def open(self) -> Bool[Tensor, "N C"]:
        """Pairs that may be asked about: unknown, and not asked before."""
        return ~(self.pairs.known | self.pairs.asked) & self._wanted

    @property
    def left(self) -> int:
        """Number of pairs that may be asked about."""
        self._refresh()
        return int(self._left[self._wanted].sum())

    def block(self, kind: ReviewKind) -> list[Question]:
        """The next questions: suspects first where both are wanted; [] at the end."""
        suspected: list[Question] = []
        if kind != "learn":
            first, second = self.suspects()
            suspected = first or second
        return suspected if suspected or kind == "suspects" else self.next()

    def next(
        self,
        count: int = BLOCK,
        *,
        category: str | None = None,
        after: str | None = None,
        held: Held = NOTHING,
    ) -> list[Question]:
        """The next block: questions about one category, most worth asking first; [] at the end.

        Its category is the one asked about least so far, of those the one most in doubt.

        Args:
            count: at most 30 are asked at a time.
            category: the one to ask about, by its name.
            after: one that is being asked about; the block is of another.
            held: not to be asked.
        """
        self.take_new()
        self._refresh()
        left = (self._left > 0) & self._wanted
        for place, name in enumerate(self._columns):
            left[place] &= name != after and category in (None, name)
        counts = torch.tensor([len(found) for found in self.pairs.answered])
        while bool(left.any()):
            tied = left & (counts == counts[left].min())
            column = int(self._doubt.masked_fill(~tied, -1).argmax())
            free = self.pairs.open(column)
            free[held.places(self.collection.category_names[column])] = False
            if bool(free.any()):
                return self._with_gold(self._chosen(count, column, free), column)
            left[column] = False
        return []

    def _chosen(self, count: int, column: int, free: Bool[Tensor, " N"]) -> list[Question]:
        pool = Pool(self.head.column(column)[:, None], free[:, None], self.collection.features)
        count = min(count, BLOCK)
        best = choose_pairs(self._policy, pool, self._spread(count), seed=self._seed)[:, 0].tolist()
        return [self._question(n, column, "learn") for n in drawn(best, count, self._draw)]

    def _spread(self, count: int) -> int:
        return count * (SPREAD if self._seed and self._other_at >= now(MINUTES) else 1)

    def next_images(self, count: int = 2, *, without: Iterable[int] = ()) -> list[list[Question]]:
        """The next images to ask about whole: their open pairs, most probable first; [] at the end.

        Args:
            count: images at most; those of one call are unlike each other.
            without: places of images that are not to be asked.
        """
        self.take_new()
        free = self.open
        free[list(without)] = False
        long = self._policy == "trmml" and len(self._columns) > LONG_LIST
        policy: Policy = "random" if long else self._policy
        # Any order needs no logits, and a copy of all takes a while.
        logits = self.collection.logits if policy == "random" else self.head.logits
        pool = Pool(logits, free, self.collection.features)
        best = choose_images(policy, pool, self._spread(count), seed=self._seed).tolist()
        images = drawn(best, count, self._draw)
        chance = self.head.rows(images).sigmoid().masked_fill(~free[images], -1)
        ordered, columns = (each.tolist() for each in chance.sort(descending=True))
        return [
            [
                self._question(image, column, "learn", p)
                for p, column in zip(*found, strict=True)
                if p >= 0
            ]
            for image, *found in zip(images, ordered, columns, strict=True)
        ]

    def still_open(self, questions: Sequence[Question]) -> list[Question]:
        """Those of questions that nobody has answered since; gold ones were answered before."""
        asked, columns = self.pairs.asked, self._columns
        return [q for q in questions if q.why == "gold" or not asked[q.place, columns[q.category]]]

    def known_present(self, place: int) -> list[str]:
        """Categories that an image is known to show.

        Args:
            place: of the image in the collection.
        """
        return [self.collection.category_names[c] for c in self.pairs.labels[place].nonzero()[:, 0]]

    def take_new(self) -> None:
        """Count what came into the journal, from anyone; the head begins to learn from it."""
        rows, self._read = self.answers.since(self._read)
        self._other_at = max([self._other_at, *(row.at for row in rows if row.who != self.who)])
        touched = sorted(self.pairs.take(rows))
        if touched:
            self._stale.update(touched)
            self.head.tell(touched, self.pairs.matrix(touched))

    def _refresh(self) -> None:
        """Count and sum again over categories with new answers or a new head."""
        for category in self._stale | self.head.taken():
            free = self.pairs.open(category)
            self._left[category] = free.sum()
            self._doubt[category] = info(self.head.column(category))[free].sum()
        self._stale.clear()

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

    def doubted(self, count: int, *, given: bool, held: Held = NOTHING) -> list[Question]:
        """The worst of one list; see `suspects`.

        Args:
            count: at most.
            given: labels that are given present, or absent.
            held: not to be asked.
        """
        self.take_new()
        found = self.suspect_list(given=given)
        chance = found.quality if given else 1 - found.quality
        seen = count + len(held.pairs) + len(held.images) * len(self._columns)  # enough, not all
        listed = zip(found.pairs[:seen].tolist(), chance[:seen].tolist(), strict=True)
        names = self.collection.category_names
        free = [(n, c, p) for (n, c), p in listed if not held.has(n, names[c])]
        return [self._question(n, c, "suspect", p) for n, c, p in free[:count]]

    def suspect_list(self, *, given: bool) -> Suspects:
        """One whole list, without what was asked about; see `suspects.suspects`.

        Slow the first time: what is known at the start says what is suspect, not the answers.

        Args:
            given: labels that are given present, or absent.
        """
        if given not in self._lists:
            logits = self._label_logits
            self._lists[given] = suspects(logits, self.collection.matrix, given=given)
        found = self._lists[given]
        images, categories = found.pairs.T
        left = ~self.pairs.asked[images, categories] & self._wanted[categories]
        return Suspects(found.pairs[left], found.quality[left], found.too_few)

    @cached_property
    def _label_logits(self) -> Float[Tensor, "N C"]:
        return label_logits(self.collection)

    def answer(self, question: Question, verdict: Verdict, ms: int | None = None) -> Answer:
        """The row that was added; it is on the disk. The head begins to learn from it.

        Args:
            question: from `next` or `suspects`.
            verdict: what the person said.
            ms: from shown to answered.
        """
        return self.answer_all([(question, verdict)], ms)[0]

    def answer_all(
        self, said: Sequence[tuple[Question, Verdict]], ms: int | None = None
    ) -> list[Answer]:
        """The rows that were added, all or none; `undo` takes them back together.

        Args:
            said: questions with what the person said to each; none for an image passed over.
            ms: from shown to answered, in all.
        """
        each = None if ms is None else ms // max(len(said), 1)
        hashes = {path: sha256_of(path) for path in {question.path for question, _ in said}}
        rows = [
            Answer(
                new_id(), now(), self.who, asked.image, hashes[asked.path], asked.category, verdict,
                asked.was, round(asked.p, 6), asked.why, self.collection.run[:12], each,
            )
            for asked, verdict in said
        ]  # fmt: skip
        self.answers.add(rows)
        self._session.append(rows)
        for (asked, _), row in zip(said, rows, strict=True):
            self.pairs.note(identity(row), asked.place)
        self.take_new()
        return rows

    def undo(self) -> list[Answer] | None:
        """The newest rows of this session that count, taken back; None if there are none."""
        if not self._session:
            return None
        rows = self._session[-1]
        back = [r._replace(id=new_id(), at=now(), answer=None, ms=None, undoes=r.id) for r in rows]
        self.answers.add(back)
        self._session.pop()  # not before the journal took it
        self.take_new()
        return rows

    def _question(self, place: int, category: int, why: Reason, p: float | None = None) -> Question:
        data, here = self.collection.data, (place, category)
        was: State = "unknown"
        if self.pairs.known[here]:
            was = "present" if self.pairs.labels[here] else "absent"
        if p is None:
            p = float(self.head.column(category)[place].sigmoid())
        name = data.category_names[category]
        return Question(
            place, data.images[place], data.root / data.images[place], name, was, p, why
        )

    def _with_gold(self, asked: list[Question], category: int) -> list[Question]:
        """The questions, now and then with one of the category that was answered before."""
        if self._draw.random() >= GOLD_SHARE * len(asked):
            return asked
        here = {question.place for question in asked}
        before = [place for place, state in self.pairs.answered[category].items()
                  if state != "unknown" and place not in here]  # fmt: skip
        if not before:
            return asked
        place = self._draw.choice(before)
        # As the run has it: the head has learned the answer that is asked for again.
        chance = float(self.collection.logits[place, category].sigmoid())
        gold = self._question(place, category, "gold", chance)
        asked[self._draw.randrange(len(asked))] = gold
        return asked
