"""What is known of each pair, and which may be asked about, kept up to date answer by answer.

Rows stay in the journal: two hours of review are 80,000 of them, which would take 50 MB here. Those
about one image are read again when another comes.
"""

import functools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from trmml.curation.answers import Answer, Answers, State
from trmml.curation.standing import (
    apply_answers,
    identity,
    places_by_content,
    sha256_of,
    standing,
)
from trmml.datasets.base import Dataset
from trmml.datasets.tables.names import clean_name
from trmml.labels.matrix import LabelMatrix


@dataclass(frozen=True)
class Held:
    """What is not to be asked, as somebody else is being asked it.

    Attributes:
        pairs: place of an image, and name of a category.
        images: places of images of which nothing is to be asked.
    """

    pairs: frozenset[tuple[int, str]] = frozenset()
    images: frozenset[int] = frozenset()

    def has(self, place: int, category: str) -> bool:
        """Whether a pair is not to be asked about."""
        return place in self.images or (place, category) in self.pairs

    def places(self, category: str) -> list[int]:
        """Images about which a category is not to be asked."""
        return [*self.images, *(place for place, name in self.pairs if name == category)]


NOTHING = Held()


class LivePairs:
    """Labels of a data set as its table and its answers have them now.

    Args:
        data: images and labels.
        answers: the journal.
        rows: those of its rows that count at the start, in the order of their ids.

    Attributes:
        applied: what the rows at the start did.
        labels: True where a pair is present; its entries change as answers come.
        known: True where a table or an answer says so.
        asked: pairs not to be asked about: answered, resting or passed over.
        answered: for each category, what answers say of each image.
        places: of images by their identity, copies together.
    """

    def __init__(self, data: Dataset, answers: Answers, rows: Sequence[Answer]) -> None:
        self.data, self._answers = data, answers
        self.places = places_by_content(data, rows)
        self._identities: dict[int, list[str]] = {}
        for known_as, here in self.places.items():
            for place in here:
                self._identities.setdefault(place, []).append(known_as)
        self.applied = apply_answers(data, rows, self.places)
        matrix = self.applied.data.matrix
        self.labels, self.known = matrix.labels, matrix.known
        self.asked = torch.zeros_like(self.known)
        self.answered: list[dict[int, State]] = [{} for _ in data.category_names]
        for (place, column), state in self.applied.pairs.items():
            self.answered[column][place] = state
            self.asked[place, column] = True
        # Who passes a pair over does not see it again in this session; in another one he does.
        self._old = {row.id for row in rows if row.answer == "skip"}
        self._hashes = dict[int, str]()
        self._images = {name: place for place, name in enumerate(data.images)}
        self._columns = {clean_name(name): place for place, name in enumerate(data.category_names)}
        for image, name in standing(rows, places=self.places).resting:
            if isinstance(image, int) and name in self._columns:
                self.asked[image, self._columns[name]] = True

    def note(self, image: str, place: int) -> None:
        """Take note of an image by its identity; what was said of copies of it counts for it.

        So does what was said of it by another identity, as by its name alone.
        """
        here, known_as = self.places.setdefault(image, []), self._identities.setdefault(place, [])
        if place in here:
            return
        here.append(place)
        known_as.append(image)
        if len(here) > 1 or len(known_as) > 1:
            self._settle(image)

    def note_all(self, hashes: Sequence[str]) -> None:
        """Take note of all images by the hashes of their bytes, so that no file is read for a row.

        Args:
            hashes: in the order of the images; "" where one could not be read.
        """
        self._hashes = dict(enumerate(hashes))
        for place, image in self._hashes.items():
            if image:
                self.note(image, place)

    def take(self, rows: Iterable[Answer]) -> set[int]:
        """Count further rows; return the categories that they are about."""
        touched = dict[str, set[str]]()
        for row in rows:
            if clean_name(row.category) in self._columns and self._is_here(row):
                touched.setdefault(identity(row), set()).add(clean_name(row.category))
        return set().union(*(self._settle(image, names) for image, names in touched.items()))

    def matrix(self, categories: Sequence[int]) -> LabelMatrix:
        """A copy of some columns."""
        return LabelMatrix(self.labels[:, categories], self.known[:, categories])

    def open(self, category: int) -> Bool[Tensor, " N"]:
        """Images that may be asked about a category: unknown, and not asked before."""
        return ~(self.known[:, category] | self.asked[:, category])

    def _is_here(self, row: Answer) -> bool:
        """Whether its image is in the data; another person's may be seen for the first time."""
        place, image = self._images.get(row.image), identity(row)
        if place is not None and place not in self.places.get(image, ()):
            if place not in self._hashes:
                self._hashes[place] = sha256_of(self.data.root / row.image)
            if row.sha256 in ("", self._hashes[place]):
                self.note(image, place)
        return image in self.places

    def _settle(self, image: str, names: Collection[str] | None = None) -> set[int]:
        """Put what the journal says of an image in its places; return the categories.

        Args:
            image: its identity.
            names: of the categories, cleaned; all that the journal has a row about by default.
        """
        touched, about = set[int](), functools.cache(self._answers.about)
        for place in self.places[image]:
            rows = sorted(row for each in self._identities[place] for row in about(each))
            by_name: dict[str, list[Answer]] = {}
            for row in rows:
                by_name.setdefault(clean_name(row.category), []).append(row)
            for name, told in by_name.items():
                if name in self._columns and (not names or name in names):
                    self._settle_pair(place, self._columns[name], told)
                    touched.add(self._columns[name])
        return touched

    def _settle_pair(self, place: int, column: int, rows: Sequence[Answer]) -> None:
        """Put what all rows about a pair say together in its place."""
        said = standing(rows, places={identity(row): [place] for row in rows})
        gone = said.taken | self._old
        passed = any(row.answer == "skip" and row.id not in gone for row in rows)
        here, state = (place, column), next((state for _, state in said.last.values()), None)
        if state is None:
            self.answered[column].pop(place, None)
            given = self.data.matrix
            self.labels[here], self.known[here] = given.labels[here], given.known[here]
        else:
            self.answered[column][place] = state
            self.labels[here], self.known[here] = state == "present", state != "unknown"
        self.asked[here] = state is not None or bool(said.resting) or passed
