"""Searching an index: terms become one vector, tags become SQL, Lance does the rest."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from trmml.errors import DataError
from trmml.search.approximate import has_vector_index, nearest
from trmml.search.query import Edges, Query, Term, where
from trmml.search.reference import Reference, keep_texts, read_reference, with_texts
from trmml.search.table import READABLE, IndexCard, among, numbers_of, open_images, quoted
from trmml.storage.cache import free_memory

if TYPE_CHECKING:
    from trmml.search.in_memory import FeaturesInMemory

# Images that `--part` looks into: the best by their whole image.
LOOKED_INTO = 1000
# Of what memory is free, the features may take so much.
MEMORY_SHARE = 0.5
SHOWN = ("image", "given", "absent", "present", "width", "height")


@runtime_checkable
class Embedder(Protocol):
    """Turns what is not in the index into vectors; needs the encoder, and so torch."""

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "T D"]:
        """Unit-length features of texts, each set into the index's template."""
        ...

    def images(self, paths: Sequence[Path], box: Edges | None) -> Float[np.ndarray, "K D"]:
        """Unit-length features of whole images, or of the part in a box."""
        ...

    def best_parts(
        self, paths: Sequence[Path], vector: Float[np.ndarray, " D"]
    ) -> Float[np.ndarray, " K"]:
        """The largest inner product of a vector with a patch of each image; nan if unreadable."""
        ...


@dataclass(frozen=True)
class Hit:
    """An image that was found.

    Attributes:
        image: name below the root.
        path: where it lies.
        score: weighted cosines less their mean over the collection; without terms, the least
            probability of the wanted tags.
        given: categories known to be present.
        found: categories that the tagger found and nobody denied.
        missing: whether the file is gone.
    """

    image: str
    path: Path
    score: float
    given: tuple[str, ...]
    found: tuple[str, ...]
    missing: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        tree = {"image": self.image, "path": str(self.path), "score": round(self.score, 6)}
        return (
            tree
            | {"given": list(self.given), "found": list(self.found)}
            | ({"missing": True} if self.missing else {})
        )


@dataclass(frozen=True)
class Found:
    """What a query found.

    Attributes:
        hits: best first.
        cut: score below which nothing is shown; None where all is.
    """

    hits: list[Hit]
    cut: float | None = None


class Index:
    """An index that is there.

    Args:
        folder: that `build_index` wrote.
        embedder: makes vectors of texts, of images that are not in the index, and of parts; it is
            called once, when one is needed.
        root: of the images, where they lie elsewhere now.
        in_memory: read all features into memory at the first search by them, 2 D bytes an image,
            where half of the free memory holds them. The first search takes longer, others a tenth.

    Raises:
        CheckpointError: no index there, or of another format.
        DataError: LanceDB is not installed.
    """

    def __init__(
        self,
        folder: Path | str,
        embedder: Callable[[IndexCard], Embedder] | None = None,
        *,
        root: Path | str | None = None,
        in_memory: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self._table, self.card = open_images(folder)
        self._in_memory = in_memory
        self.root = Path(self.card.root if root is None else root)
        self._make = embedder

    def __len__(self) -> int:
        """Return the number of images."""
        return int(self._table.count_rows())

    @cached_property
    def embedder(self) -> Embedder:
        """See `Index`."""
        if self._make is None:
            raise DataError(
                "this query needs the encoder: open the index with one, or ask for images and tags"
                " that are in it"
            )
        return self._make(self.card)

    @cached_property
    def reference(self) -> Reference:
        """What scores are set against."""
        return read_reference(self.folder, self.card)

    @cached_property
    def labelled(self) -> list[str]:
        """Names that labels of the images have and the run has not."""
        rows = self._table.search().select(["given", "absent"]).limit(None).to_arrow()
        given, absent = (column.combine_chunks().flatten().unique() for column in rows.columns)
        return sorted({*given.to_pylist(), *absent.to_pylist()} - set(self.card.category_names))

    def search(
        self,
        query: Query,
        *,
        top: int = 20,
        least: float | Literal["auto"] | None = None,
        parts: bool = False,
    ) -> Found:
        """The best images of a query, best first.

        Args:
            query: from `parse_query`.
            top: at most so many.
            least: score that they must reach; "auto" is what unrelated queries hardly reach, see
                `reference.Reference.cut`; nothing in an index of one image.
            parts: score the best patch of each image instead of the whole image, among the
                `LOOKED_INTO` best by the whole image.

        Raises:
            DataError: a category that is not there, an image that cannot be read, an encoder that
                reads no text, `least` without terms or not finite, or "auto" for parts.
        """
        if parts and least == "auto":
            raise DataError(
                "the best part of an image resembles anything more than the whole does, so --min"
                " auto does not hold with --part; give a score: --min SCORE"
            )
        if isinstance(least, float) and not math.isfinite(least):
            raise DataError(f"the least score is a number or auto, got {least}; as in --min 0.1")
        query = self._named(query)
        names = [tag.name for tag in query.tags]
        unknown = [name for name in names if name not in self.card.category_names]
        filters = where(query, self.card, self.labelled if unknown else ())
        if not query.terms:
            if least is not None:
                raise DataError("a least score needs a text or an image to resemble")
            return Found(self._tagged(query, filters, top))
        vector = self._vector(query.terms)
        cut = self._cut(query) if least == "auto" else least
        own = [term.value for term in query.terms if term.kind == "image" and term.weight > 0]
        rows, products = self._nearest(
            vector, filters, own, max(top, LOOKED_INTO) if parts else top
        )
        offset = float(self.reference.mean @ vector)
        scores = products - offset
        if parts:
            paths = [self.root / name for name in rows["image"].to_pylist()]
            scores = self.embedder.best_parts(paths, vector).astype(np.float64) - offset
        shown = np.flatnonzero(np.isfinite(scores))  # a part of a file that is gone has none
        order = shown[np.argsort(-scores[shown], kind="stable")[:top]]
        hits = self._hits(rows.take(order), scores[order])
        return Found([hit for hit in hits if cut is None or hit.score >= cut], cut)

    def _named(self, query: Query) -> Query:
        """The same with names of this index: whole categories, and images that lie in it."""
        names = self.card.category_names
        if any(tag.cut is not None and tag.typed not in names for tag in query.tags):
            names = [*names, *self.labelled]
        tags = tuple(tag.among(names) for tag in query.tags)
        return Query(tuple(self._term(term) for term in query.terms), tags)

    def _term(self, term: Term) -> Term:
        """An image by its name in the index; all of what was typed where that is an image."""
        if term.kind == "text":
            return term
        whole = term.whole() if term.typed else term
        if whole.value != term.value and (Path(whole.value).is_file() or self._has(whole.value)):
            term = whole
        return replace(term, value=self._name_of(term.value))

    def _name_of(self, image: str) -> str:
        """The name in the index of an image that is given as a path.

        Another file is named by its absolute path, which is no name of the index; what is no file
        may be a name. A link in the folder has a name there, wherever it leads.
        """
        if not Path(image).is_file():
            return image
        pairs = [(Path(os.path.abspath(path)), path.resolve()) for path in (self.root, Path(image))]
        for root, path in zip(*pairs, strict=True):
            name = path.relative_to(root).as_posix() if path.is_relative_to(root) else ""
            inside = self.root / name
            if name and inside.is_file() and inside.samefile(image) and self._has(name):
                return name
        return str(Path(image).resolve())

    def _has(self, name: str) -> bool:
        """Whether an image of the index is called so."""
        return bool(self._table.count_rows(f"image = {quoted(name)}"))

    def _nearest(
        self, vector: Float[np.ndarray, " D"], filters: str, own: Sequence[str], count: int
    ) -> tuple[Any, Float[np.ndarray, " K"]]:
        """Rows with the largest inner products among those that hold the filters, and these.

        Args:
            vector: to compare with.
            filters: SQL.
            own: images that are left out.
            count: rows at most.
        """
        if self._features is not None:  # a filter for its own images would cost more than all else
            ids, products = self._features.nearest(vector, count + len(own), filters)
            rows = self._table.take_row_ids(ids.tolist()).select([*SHOWN]).with_row_id().to_arrow()
            place = {row: k for k, row in enumerate(rows["_rowid"].to_pylist())}
            order = np.asarray([place[row] for row in ids.tolist()], np.int64)
            names = rows["image"].to_pylist()
            left = np.asarray([names[k] not in own for k in order], bool)
            return rows.take(order[left][:count]), products[left][:count].astype(np.float64)
        if own:
            filters += f" AND NOT {among('image', own)}"
        search = nearest(self._table, vector, count, approximate=self.approximate)
        rows = search.where(filters, prefilter=True).select([*SHOWN, "_distance"]).to_arrow()
        return rows, 1 - np.asarray(rows["_distance"], np.float64)

    @cached_property
    def _features(self) -> "FeaturesInMemory | None":
        """All features, where they are to be in memory and fit into it."""
        size = 2 * self.card.feature_size * len(self)
        if not self._in_memory or self.approximate or size > MEMORY_SHARE * free_memory():
            return None
        from trmml.search.in_memory import FeaturesInMemory  # torch takes seconds to import

        return FeaturesInMemory(self._table)

    @cached_property
    def approximate(self) -> bool:
        """Whether an index of the vectors was built."""
        return has_vector_index(self._table)

    def _vector(self, terms: Sequence[Term]) -> Float[np.ndarray, " D"]:
        """The weighted sum of the terms' vectors: its inner product is the sum of cosines."""
        total = np.zeros(self.card.feature_size, np.float32)
        texts = [term for term in terms if term.kind == "text"]
        if texts:
            found = self.embedder.texts([term.value for term in texts])
            for term, feature in zip(texts, found, strict=True):
                total += term.weight * feature
        for term in terms:
            if term.kind == "image":
                total += term.weight * self._image(term)
        return total

    def _image(self, term: Term) -> Float[np.ndarray, " D"]:
        """The feature of an image, from the index where it is in it and whole."""
        if term.box is None:
            rows = self._table.search().where(f"image = {quoted(term.value)} AND {READABLE}")
            feature = rows.select(["image_feature"]).limit(1).to_arrow()["image_feature"]
            if len(feature):
                known: Float[np.ndarray, " D"] = numbers_of(feature, self.card.feature_size)[0]
                return known
        path = self.root / term.value  # an absolute path stays one
        if not path.is_file():
            raise DataError(
                f"{term.value} is neither a file nor an image of the index; --like and --unlike"
                " take one of both"
            )
        made: Float[np.ndarray, " D"] = self.embedder.images([path], term.box)[0]
        return made

    def _cut(self, query: Query) -> float | None:
        reference = self.reference
        if not len(reference.texts) and any(term.kind == "text" for term in query.terms):
            reference = with_texts(reference, self.embedder.texts)
            keep_texts(self.folder, reference, self.card)
            self.__dict__["reference"] = reference
        return reference.cut(query)

    def _tagged(self, query: Query, filters: str, top: int) -> list[Hit]:
        """Images that hold the filters, those first whose least wanted tag is most probable."""
        wanted = [tag.name for tag in query.tags if tag.wanted]
        names = self.card.category_names
        places = [names.index(name) for name in wanted if name in names]
        rows = self._table.search().where(filters).select([*SHOWN, "probability"])
        rows = rows.limit(None).to_arrow()
        scores = np.ones(len(rows))
        if places and len(rows):
            probability = numbers_of(rows["probability"], len(names))[:, places]
            given = [[names[p] in row for p in places] for row in rows["given"].to_pylist()]
            scores = np.where(given, 1.0, probability).min(axis=1).astype(np.float64)
        order = np.argsort(-scores, kind="stable")[:top]
        return self._hits(rows.take(order), scores[order])

    def _hits(self, rows: Any, scores: Float[np.ndarray, " K"]) -> list[Hit]:
        return [
            Hit(
                image=row["image"],
                path=self.root / row["image"],
                score=float(score),
                given=tuple(row["given"]),
                found=tuple(n for n in row["present"] if n not in {*row["given"], *row["absent"]}),
                missing=not (self.root / row["image"]).is_file(),
            )
            for row, score in zip(rows.to_pylist(), scores, strict=True)
        ]
