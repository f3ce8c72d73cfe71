"""Questions for people in the browser, and their answers: in the journal before a reply is sent."""

import json
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import Annotated, Any, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, StringConstraints

from trmml.curation.answers import Answer, Answers, Reason, State, Verdict, now
from trmml.curation.queue import Question, Queue
from trmml.curation.tally import LiveTally
from trmml.datasets.tables.names import clean_name
from trmml.errors import DataError
from trmml.server.dealing import Dealer
from trmml.server.library import Library
from trmml.server.problems import Problem
from trmml.server.worth import Worth

Id = Annotated[str, StringConstraints(pattern=r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Kind = Literal["learn", "wrong", "missed"]
# A name that a page gives itself: others are not asked what it was given in the last ten minutes.
Page = Annotated[str, Query(max_length=64)]
# What rows are about.
_PAIRS = """
SELECT id, sha256, category FROM answers WHERE id IN (SELECT value FROM json_each(?))
"""


class Row(BaseModel):
    """An answer, or an answer taken back; columns as in docs/review.md.

    Attributes:
        image: id, the SHA-256 of the file.
        assumed: whether it was taken as it was marked, and nobody looked at it alone. It changes
            no answer that there is by now: another page may have sent one meanwhile.
    """

    id: Id
    image: Sha256
    category: Name
    answer: Verdict | None
    was: State = "unknown"
    p: float | None = Field(default=None, ge=0, le=1)
    why: Reason = "learn"
    ms: int | None = Field(default=None, ge=0, le=10**9)
    undoes: Id | None = None
    assumed: bool = False


class Rows(BaseModel):
    """Answers that are sent together: all are kept, or none.

    Attributes:
        journal: that they are for, as /api/v1/status names it; without it, whichever there is.
    """

    answers: Annotated[list[Row], Field(max_length=2000)]
    journal: Name | None = None


class Desk:
    """A collection under review.

    Args:
        queue: of its questions.
        library: of its images.
        journal: connects to the journal of the queue once more.
        read_only: whether answers are refused.
    """

    def __init__(
        self,
        queue: Queue,
        library: Library,
        journal: Callable[[], Answers],
        *,
        read_only: bool = False,
    ) -> None:
        self.queue, self._read_only, self._dealer = queue, read_only, Dealer(alike=read_only)
        self._asking, self._writing, self._counting = (threading.Lock() for _ in range(3))
        self._doubting = threading.Lock()
        # Connections of their own: an answer waits for no question, and for nothing that is read.
        self._journal, self._read = journal(), journal()
        self._tally = LiveTally(self._read)
        # By which a page knows whether answers that it still holds are for this journal and person.
        named = os.fsencode(queue.answers.path.resolve()) + b"\0" + os.fsencode(queue.who)
        self.journal = sha256(named).hexdigest()[:16]
        data = queue.collection.data
        self.paths = data.paths
        self.ids = [library.id_of(path) or "" for path in self.paths]
        self.places = {name: place for place, name in enumerate(self.ids)}
        self.by_name = {name: place for place, name in enumerate(data.images)}
        self._categories = frozenset(data.category_names)
        queue.pairs.note_all(self.ids)
        self.worth = Worth(queue, self._asking)

    def block(
        self, kind: Kind, count: int, category: str | None, after: str | None, page: str
    ) -> list[dict[str, Any]]:
        """The next questions of one kind; see `Queue.next` and `Queue.doubted`."""
        if category is not None and category not in self._categories:
            raise DataError(f"the run has no category {category!r:.80}; /api/v1/status lists them")
        if kind != "learn":
            with self._doubting:  # slow at first, and only then
                self.queue.suspect_list(given=kind == "wrong")
            ask = partial(self.queue.doubted, count, given=kind == "wrong")
        else:
            ask = partial(self.queue.next, count, category=category, after=after)
        with self._asking:
            asked = self._dealer.block(page, lambda held: ask(held=held))
        return [self._told(each) for each in asked]

    def whole(self, count: int, anew: bool, page: str) -> list[dict[str, Any]]:
        """The next images to ask about whole; see `Queue.next_images`."""
        with self._asking:
            ask = partial(self.queue.next_images, count)
            found = self._dealer.images(page, lambda seen: ask(without=seen), anew=anew)
            known = [self.queue.known_present(asked[0].place) for asked in found]
        return [
            {
                "image": self.ids[asked[0].place],
                "name": asked[0].image,
                "known": names,
                "questions": [self._told(each) for each in asked],
            }
            for asked, names in zip(found, known, strict=True)
        ]

    def keep(self, sent: Rows) -> int:
        """Number of rows that were new; all are on the disk.

        Raises:
            Problem: nothing may be written here, the rows are for another journal, or an image is
                not of this collection.
            DataError: a category that the run lacks, a row that neither answers nor takes back, or
                one that takes back what was said of another pair.
        """
        if sent.journal not in (None, self.journal):
            raise Problem(
                409,
                "these answers are for another journal, or by another person, than this server was"
                " started with; start it again with their --answers and --who, or reload the page"
                " to go on with its own",
            )
        self._check_writable()  # before any row: what is refused for all is no row's fault
        made = [(row, self._row(row)) for row in sent.answers]
        self._check_undone([new for _, new in made])
        return self.add(self._without_idle(made))

    def _without_idle(self, made: Sequence[tuple[Row, Answer]]) -> list[Answer]:
        """Rows but those assumed of pairs that have an answer, in the journal or before them."""
        if not any(row.assumed for row, _ in made):
            return [new for _, new in made]
        names = self.queue.collection.category_names
        pairs = {(row.image, row.category) for row, _ in made}
        with self._asking:
            self.queue.take_new()
            asked = self.queue.pairs.asked
            answered = {(i, c): bool(asked[self.places[i], names.index(c)]) for i, c in pairs}
        kept, idle = list[Answer](), set[str | None]()
        for row, new in made:
            pair = row.image, row.category
            if row.undoes in idle or (row.assumed and answered[pair]):
                idle.add(row.id)
                continue
            answered[pair] = row.answer is not None
            kept.append(new)
        return kept

    def add(self, rows: Sequence[Answer]) -> int:
        """Number of rows that were new; all are on the disk, or none where nothing may be kept."""
        self._check_writable()
        with self._writing:
            return self._journal.add(rows)

    def _check_writable(self) -> None:
        if self._read_only:
            raise Problem(403, "this server was started with --read-only: nothing is kept")

    def select(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """See `Answers.select`."""
        with self._counting:
            return self._read.select(query, *values)

    def _row(self, row: Row) -> Answer:
        if row.image not in self.places:
            raise Problem(404, f"no image of this collection has the id {row.image}")
        if row.category not in self._categories:
            raise DataError(f"the run has no category {row.category!r:.80}")
        if (row.answer is None) == (row.undoes is None):
            raise DataError("a row has an answer, or the id of the row that it takes back")
        images = self.queue.collection.data.images
        return Answer(
            row.id, now(), self.queue.who, images[self.places[row.image]], row.image, row.category,
            row.answer, row.was, row.p, row.why, self.queue.collection.run[:12], row.ms, row.undoes,
        )  # fmt: skip

    def _check_undone(self, rows: Sequence[Answer]) -> None:
        """Refuse what takes back an answer about another pair; ids not seen yet may come later."""
        undos = [row for row in rows if row.undoes is not None]
        if not undos:
            return
        wanted = json.dumps([row.undoes for row in undos])
        with self._writing:  # not by `select`, which waits for what is counted
            there = self._journal.select(_PAIRS, wanted)
        pairs = {row.id: (row.sha256, row.category) for row in rows}
        pairs |= {name: (image, category) for name, image, category in there}
        for row in undos:
            image, category = pairs.get(row.undoes or "", (row.sha256, row.category))
            if (image, clean_name(category)) != (row.sha256, clean_name(row.category)):
                raise DataError(
                    f"row {row.id} is about {row.category!r:.80} of image {row.sha256}, and takes"
                    f" back {row.undoes}, which is about {category!r:.80} of image {image}; send"
                    " the image and category of the row that it takes back"
                )

    def progress(self) -> dict[str, Any]:
        """What was answered so far, how long it took, and what is left."""
        with self._counting:
            tally = self._tally.now()
        with self._asking:
            self.queue.take_new()
            known, left = self.queue.pairs.known.float().mean(), self.queue.left
        return {
            "answers": tally.answers,
            "present": tally.present,
            "seconds": round(tally.ms / 1000),
            "left": left,
            "known_share": float(known),
            "again": tally.again,
            "as_before": tally.as_before,
        }

    def alike(self, feature: Any, category: str, count: int = 3) -> list[str]:
        """Ids of images known to show a category, those most like a feature first."""
        if category not in self._categories:
            return []
        column = self.queue.collection.category_names.index(category)
        shown = self.queue.pairs.labels[:, column].nonzero()[:, 0]
        features = self.queue.collection.features
        near = features[shown] @ features.new_tensor(feature)
        return [self.ids[n] for n in shown[near.argsort(descending=True)[:count]].tolist()]

    def _told(self, asked: Question) -> dict[str, Any]:
        return {
            "image": self.ids[asked.place],
            "name": asked.image,
            "category": asked.category,
            "was": asked.was,
            "p": round(asked.p, 6),
            "why": asked.why,
            "likely": asked.likely,
        }


def review_routes(desk: Desk | None) -> APIRouter:
    """The part of the API that asks people."""
    router = APIRouter(prefix="/api/v1", tags=["review"])
    keeping = CapacityLimiter(1)  # a thread that no other request takes; they write by turns

    def here() -> Desk:
        if desk is None:
            raise Problem(
                409, "nothing is under review: start `trmml serve` with --images (and --labels)"
            )
        return desk

    @router.get("/queue")
    def queue(
        kind: Kind = "learn",
        n: Annotated[int, Query(ge=1, le=30)] = 30,
        category: str | None = None,
        after: str | None = None,
        page: Page = "",
    ) -> dict[str, Any]:
        """Questions worth asking about one category, or known labels that look wrong."""
        return {"questions": here().block(kind, n, category, after, page)}

    @router.get("/queue/images")
    def images(
        n: Annotated[int, Query(ge=1, le=10)] = 2, anew: bool = False, page: Page = ""
    ) -> dict[str, Any]:
        """Images to ask about whole, each with its open categories, the most probable first."""
        return {"images": here().whole(n, anew, page)}

    @router.post("/answers")
    async def answers(rows: Rows) -> dict[str, int]:
        """Keep answers. They are on the disk when the reply is sent; a known id changes nothing."""
        new = await to_thread.run_sync(here().keep, rows, limiter=keeping)
        return {"kept": len(rows.answers), "new": new}

    @router.get("/progress")
    def progress() -> dict[str, Any]:
        """What was answered so far, and what is left."""
        return here().progress()

    @router.get("/worth")
    def worth() -> dict[str, Any]:
        """What this session's answers bought: mAP of linear heads before and with them."""
        return here().worth.now()

    return router
