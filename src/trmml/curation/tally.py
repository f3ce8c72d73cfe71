"""What a journal amounts to, kept up to date by its new rows: a long one takes a while to count."""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trmml.curation.answers import Answer, Answers

# Some rows, what they undo, and what undoes any of these.
_KIN = """
WITH RECURSIVE up(id) AS (
    SELECT value FROM json_each(?)
    UNION SELECT undoes FROM answers JOIN up USING (id) WHERE undoes IS NOT NULL
), kin(id) AS (SELECT id FROM up UNION SELECT answers.id FROM answers JOIN kin ON undoes = kin.id)
SELECT *, rowid FROM answers WHERE id IN kin
"""


class Tally(NamedTuple):
    """What a journal amounts to.

    Attributes:
        answers: that were not taken back.
        present: of these.
        ms: that they took.
        as_before: gold questions that were answered as before.
        again: gold questions, of an answer present or absent.
    """

    answers: int
    present: int
    ms: int
    as_before: int
    again: int


class LiveTally:
    """The tally of a journal that grows.

    Args:
        answers: the journal.
    """

    def __init__(self, answers: Answers) -> None:
        rows, self._read = answers.since(0)
        self._answers, self._tally = answers, tally_of(rows)

    def now(self) -> Tally:
        """The tally with all rows that came since, whoever wrote them."""
        rows, number = self._answers.since(self._read)
        if rows:
            # An undo changes what another row counts for, and may itself be undone.
            found = self._answers.select(_KIN, json.dumps([row.id for row in rows]))
            kin = [(Answer._make(row), place) for *row, place in found]
            before = tally_of([row for row, place in kin if place <= self._read])
            after = tally_of([row for row, place in kin if place <= number])
            parts = zip(self._tally, before, after, strict=True)
            self._tally = Tally(*(old - gone + new for old, gone, new in parts))
            self._read = number
        return self._tally


def tally_of(rows: Sequence[Answer]) -> Tally:
    """What rows amount to, in any order, with all that undo one of them among them."""
    undos = ((row.id, row.undoes) for row in sorted(rows, reverse=True) if row.undoes is not None)
    taken = taken_back(undos)
    given = [row for row in rows if row.answer is not None and row.id not in taken]
    gold = [row for row in given if row.why == "gold" and row.answer in ("present", "absent")]
    return Tally(
        len(given),
        sum(row.answer == "present" for row in given),
        sum(row.ms or 0 for row in given),
        sum(row.answer == row.was for row in gold),
        len(gold),
    )


def taken_back(undos: Iterable[tuple[str, str]]) -> set[str]:
    """Ids of rows that do not count any more; an undo that was itself undone takes nothing back.

    Args:
        undos: id of each row that undoes another, newest first, and the other's.
    """
    taken = set[str]()
    for row, other in undos:
        if row not in taken:
            taken.add(other)
    return taken
