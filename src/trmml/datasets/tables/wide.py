"""Read a table with a column per category into categories and a label matrix."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import polars.selectors as cs
import torch

from trmml.datasets.tables.cells import (
    BLANK,
    CHOICE,
    LABEL_COLUMNS,
    MEANING,
    MINUS_ONE,
    NO,
    PRESENT_COLUMNS,
    WRONG,
    YES,
    ZERO,
    holds_answers,
    is_text,
)
from trmml.datasets.tables.names import refuse_look_alikes, suggest
from trmml.datasets.tables.not_categories import is_score, is_use, kind
from trmml.datasets.tables.table import Table
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix
from trmml.settings.choices import Blank

_log = logging.getLogger(__name__)


def read_wide(
    table: Table,
    image_column: str,
    categories: Sequence[str] | None,
    *,
    blank: Blank | None,
    minus_one: Blank | None,
) -> tuple[tuple[str, ...], LabelMatrix]:
    """Return the categories and the labels of a table with one column per category.

    Args:
        table: its columns, apart from the images', are categories.
        image_column: the column to leave out.
        categories: the columns to read, in this order; all when None.
        blank: what a blank cell means; unknown when None.
        minus_one: what -1 means. With "absent", 0 means unknown.

    Raises:
        DataError: a category has no column, a column no name, a cell no meaning.
    """
    names = _wide_names(table, image_column, categories)
    codes = _decode(table, names)
    _check_cells(table, names, codes, minus_one)
    known = (codes == YES) | (codes == NO)
    known |= codes == (MINUS_ONE if minus_one == "absent" else ZERO)
    if blank == "absent":
        known |= codes == BLANK
    return names, LabelMatrix(torch.from_numpy(codes == YES), torch.from_numpy(known))


def _wide_names(
    table: Table, image_column: str, categories: Sequence[str] | None
) -> tuple[str, ...]:
    columns = tuple(name for name in table.names if name != image_column)
    if categories is None:
        if not columns:
            raise DataError(
                f"{table.path} has no category. Add a column per category, or a column "
                f"{' or '.join(PRESENT_COLUMNS)} that lists names as in 'cat;dog'."
            )
        if "" in columns:
            raise DataError(
                f"{table.path}: column {table.names.index('') + 1} has no name. Name it, remove "
                f"it, or say which columns to read: {CHOICE}."
            )
        refuse_look_alikes(dict.fromkeys(columns, 1), columns, str(table.path))
        if len(columns) == 1 and columns[0].casefold() in LABEL_COLUMNS:
            _log.warning(
                "%s: one category, %r, which is present or absent. Where the column holds numbers "
                "of categories, name these: %s", table.path, columns[0], CHOICE,
            )  # fmt: skip
        uses = [name for name in columns if is_use(name) and holds_answers(table.column(name))]
        if uses:
            raise DataError(
                f"{table.path}: column {uses[0]!r} seems to say which images are trained on, not "
                f"what they show. Remove it, or say which columns are categories: {CHOICE}."
            )
        return columns
    missing = [name for name in categories if name not in columns]
    if missing:
        raise DataError(
            f"{table.path} has no column {missing[0]!r}{suggest(missing[0], columns)} "
            f"{len(missing)} of {len(categories)} categories have no column. "
            "Add each, empty where nothing is known; or leave the name out of --categories."
        )
    return tuple(categories)


def _decode(table: Table, names: tuple[str, ...]) -> np.ndarray:
    """Return what each cell means, (N, C), as one of the codes above."""
    frame = pl.DataFrame([table.column(name).alias(str(n)) for n, name in enumerate(names)])
    codes = np.empty(frame.shape, np.int8, order="F")
    meanings = [_meaning(column, table, names) for column in frame]
    for meaning in {*meanings}:
        places = [place for place, each in enumerate(meanings) if each is meaning]
        codes[:, places] = meaning(frame[:, places])  # at once: fast
    return codes


def _meaning(
    column: pl.Series, table: Table, names: tuple[str, ...]
) -> Callable[[pl.DataFrame], np.ndarray]:
    """Return what decodes columns of its type; its name is its place in `names`."""
    if column.dtype == pl.Boolean or column.dtype.is_numeric():
        return _of_answers if column.dtype == pl.Boolean else _of_numbers
    if is_text(column):
        return _of_texts
    raise DataError(
        f"{table.path}: column {names[int(column.name)]!r} holds {kind(column)}, which is no "
        f"answer. A cell is 1, 0 or blank; leave other columns out: {CHOICE}."
    )


def _of_answers(frame: pl.DataFrame) -> np.ndarray:
    answers = {True: YES, False: NO, None: BLANK}
    return frame.select(pl.all().replace_strict(answers, return_dtype=pl.Int8)).to_numpy()


def _of_numbers(frame: pl.DataFrame) -> np.ndarray:
    numbers = frame.cast({~cs.by_dtype(pl.Int8): pl.Float64}).to_numpy()  # a blank is NaN
    meant = (numbers == 1, numbers == 0, numbers == -1, np.isnan(numbers))
    return np.select(meant, [np.int8(each) for each in (YES, ZERO, MINUS_ONE, BLANK)], WRONG)


def _of_texts(frame: pl.DataFrame) -> np.ndarray:
    texts = pl.all().cast(pl.String).fill_null("")
    meant = frame.select(texts.replace_strict(MEANING, default=WRONG, return_dtype=pl.Int8))
    wrong = meant.select((pl.all() == WRONG).any()).row(0)
    rare = frame.select(texts)[:, [place for place, each in enumerate(wrong) if each]]
    words = pl.all().str.strip_chars().str.to_lowercase().str.replace(r"[.,]0+$", "")
    spelled = words.replace_strict(MEANING, default=WRONG, return_dtype=pl.Int8)
    return meant.with_columns(rare.select(spelled)).to_numpy()


def _check_cells(
    table: Table, names: tuple[str, ...], codes: np.ndarray, minus_one: Blank | None
) -> None:
    wrong = np.argwhere(codes == WRONG)
    if len(wrong):
        row, column = wrong[0].tolist()
        value = table.column(names[column])[row]
        advice = " For a score, write 1 or 0 by a threshold of your own." if is_score(value) else ""
        raise DataError(
            f"{table.place(row)}, column {names[column]!r}: {value!r:.80} is not one of 1, 0, yes, "
            f"no, true, false, -1 or blank ({len(wrong)} such cells).{advice} Leave unknown cells "
            f"blank; if {names[column]!r} is no category, say which are: {CHOICE}."
        )
    if minus_one is None and (codes == MINUS_ONE).any():
        row, column = np.argwhere(codes == MINUS_ONE)[0].tolist()
        raise DataError(
            f"{table.place(row)}, column {names[column]!r} holds -1, which means opposite things "
            "in this field. Say which: --minus-one unknown (then 0 is absent, as DualCoOp writes "
            "it) or --minus-one absent (then 0 is unknown, as HCP-MLR-PL writes it). In Python: "
            "minus_one='unknown' or minus_one='absent'; of a data set by name: option "
            "minus_one=unknown or minus_one=absent."
        )
