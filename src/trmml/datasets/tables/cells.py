"""Turn the cells of a label table, wide or long, into categories and a label matrix."""

import difflib
import logging
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import polars.selectors as cs
import torch

from trmml.datasets.tables.name_lists import by_number, check_separator, listed_words, parse_lists
from trmml.datasets.tables.names import clean_name, refuse_look_alikes, refuse_too_many, suggest
from trmml.datasets.tables.not_categories import edges, is_score, is_use, kind, refuse_no_names
from trmml.datasets.tables.table import Table, image_columns
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix
from trmml.settings.choices import Blank

PRESENT_COLUMNS = ("present", "labels", "tags")
# Columns that list names unless all their cells are answers.
LABEL_COLUMNS = (
    *("label", "tag", "class", "category", "target", "classes", "categories", "targets"),
    *("class_name", "label_name", "labelname", "category_name"),
)
_ABSENT_COLUMN = "absent"
_NO, _ZERO, _YES, _MINUS_ONE, _BLANK, _WRONG = range(6)
_MEANING = {
    "1": _YES,
    "1.0": _YES,
    "yes": _YES,
    "true": _YES,
    "0": _ZERO,
    "0.0": _ZERO,
    "no": _NO,
    "false": _NO,
    "-1": _MINUS_ONE,
    "-1.0": _MINUS_ONE,
    "": _BLANK,
}

# A table may be named itself, with options of its own, or belong to a data set by name.
CHOICE = "--categories FILE; of a data set by name, option categories=FILE or its categories.txt"

_log = logging.getLogger(__name__)


def is_long(table: Table) -> bool:
    """Return whether the table lists names per image, rather than having a column per category."""
    return bool(_present_columns(table))


def _present_columns(table: Table) -> list[str]:
    lists = [name for name in table.names if name.casefold() in PRESENT_COLUMNS]
    named = [name for name in table.names if name.casefold() in LABEL_COLUMNS]
    if lists or not named or holds_answers(table.column(named[0])):
        return lists
    others = {*table.names} - {named[0], *image_columns(table.names), *edges(table.names)}
    return [] if any(holds_answers(table.column(name)) for name in others) else named[:1]


def holds_answers(column: pl.Series) -> bool:
    """Return whether all cells are answers as in a column of a category: 1, 0, no, blank ..."""
    if not (_is_text(column) or column.dtype == pl.Boolean or column.dtype.is_numeric()):
        return False
    words = column.cast(pl.String).fill_null("").str.strip_chars().str.to_lowercase()
    return bool(words.is_in([*_MEANING]).all())


def names_in(table: Table, separator: str | None = None) -> set[str]:
    """Return every name that a table may mean as a category: its columns, or what it lists."""
    if not is_long(table):
        return set(table.names)
    absent = [name for name in table.names if name.casefold() == _ABSENT_COLUMN]
    lists = [*_present_columns(table), *absent]
    words = (listed_words(table, name, separator)["word"].unique() for name in lists)
    return {clean_name(word) for each in words for word in each}


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
    known = (codes == _YES) | (codes == _NO)
    known |= codes == (_MINUS_ONE if minus_one == "absent" else _ZERO)
    if blank == "absent":
        known |= codes == _BLANK
    return names, LabelMatrix(torch.from_numpy(codes == _YES), torch.from_numpy(known))


def read_long(
    table: Table,
    image_column: str,
    categories: Sequence[str] | None,
    *,
    blank: Blank | None,
    separator: str | None = None,
) -> tuple[tuple[str, ...], LabelMatrix]:
    """Return the categories and the labels of a table that lists names, as in `cat;dog`.

    Args:
        table: has one column of what is present and perhaps one of what is absent.
        image_column: the column of the images.
        categories: the names to keep, in this order; the sorted union when None.
        blank: what a name means that a row does not list. Without a column of absent names it
            is required.

        separator: between names; `;` when None, and then another one in use is refused.

    Raises:
        DataError: `blank` is needed, a row contradicts itself, or no name is left.
    """
    present_column, absent_column = _list_columns(table, image_column)
    if absent_column is None and blank is None:
        raise DataError(
            f"{table.path} lists in {present_column!r} what is present, but not what is absent. "
            "Say what a name means that a row does not list: absent (--blank absent) if every "
            "image was checked for every category, unknown (--blank unknown) if not; or add a "
            "column 'absent'. In Python: blank='absent' or blank='unknown'; of a data set by name: "
            "option blank=absent or blank=unknown."
        )
    present = listed_words(table, present_column, separator)
    absent = (
        present.clear() if absent_column is None else listed_words(table, absent_column, separator)
    )
    if separator is None:
        check_separator(
            str(table.path), _texts(table, present_column, absent_column), categories or ()
        )
    if categories is not None:
        present, absent = by_number(table, present, absent, categories)
    names = _long_names(table, present_column, pl.concat([present, absent]), categories)
    yes, no = (_pairs(words, names) for words in (present, absent))
    both = np.intersect1d(yes, no)
    if len(both):
        row, column = divmod(int(both[0]), len(names))
        raise DataError(
            f"{table.place(row)}: {names[column]!r} is both present and absent "
            f"({len(both)} such pairs). Remove it from one of the two lists."
        )
    labels = torch.zeros(len(table.rows), len(names), dtype=torch.bool)
    labels.view(-1)[torch.tensor(yes)] = True
    if blank == "absent":  # one value for all pairs: the matrix of a large table takes 200 MB
        return names, LabelMatrix(labels, torch.tensor(True).expand_as(labels))
    known = labels.clone() if len(no) else labels
    known.view(-1)[torch.tensor(no)] = True
    return names, LabelMatrix(labels, known)


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
            "Add the column, or leave the name out of categories."
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
    if _is_text(column):
        return _of_texts
    raise DataError(
        f"{table.path}: column {names[int(column.name)]!r} holds {kind(column)}, which is no "
        f"answer. A cell is 1, 0 or blank; leave other columns out: {CHOICE}."
    )


def _of_answers(frame: pl.DataFrame) -> np.ndarray:
    answers = {True: _YES, False: _NO, None: _BLANK}
    return frame.select(pl.all().replace_strict(answers, return_dtype=pl.Int8)).to_numpy()


def _of_numbers(frame: pl.DataFrame) -> np.ndarray:
    numbers = frame.cast({~cs.by_dtype(pl.Int8): pl.Float64}).to_numpy()  # a blank is NaN
    meant = (numbers == 1, numbers == 0, numbers == -1, np.isnan(numbers))
    return np.select(meant, [np.int8(each) for each in (_YES, _ZERO, _MINUS_ONE, _BLANK)], _WRONG)


def _of_texts(frame: pl.DataFrame) -> np.ndarray:
    texts = pl.all().cast(pl.String).fill_null("")
    meant = frame.select(texts.replace_strict(_MEANING, default=_WRONG, return_dtype=pl.Int8))
    wrong = meant.select((pl.all() == _WRONG).any()).row(0)
    rare = frame.select(texts)[:, [place for place, each in enumerate(wrong) if each]]
    words = pl.all().str.strip_chars().str.to_lowercase().str.replace(r"[.,]0+$", "")
    spelled = words.replace_strict(_MEANING, default=_WRONG, return_dtype=pl.Int8)
    return meant.with_columns(rare.select(spelled)).to_numpy()


def _is_text(column: pl.Series) -> bool:
    return column.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)


def _check_cells(
    table: Table, names: tuple[str, ...], codes: np.ndarray, minus_one: Blank | None
) -> None:
    wrong = np.argwhere(codes == _WRONG)
    if len(wrong):
        row, column = wrong[0].tolist()
        value = table.column(names[column])[row]
        advice = " For a score, write 1 or 0 by a threshold of your own." if is_score(value) else ""
        raise DataError(
            f"{table.place(row)}, column {names[column]!r}: {value!r:.80} is not one of 1, 0, yes, "
            f"no, true, false, -1 or blank ({len(wrong)} such cells).{advice} Leave unknown cells "
            f"blank; if {names[column]!r} is no category, say which are: {CHOICE}."
        )
    if minus_one is None and (codes == _MINUS_ONE).any():
        row, column = np.argwhere(codes == _MINUS_ONE)[0].tolist()
        raise DataError(
            f"{table.place(row)}, column {names[column]!r} holds -1, which means opposite things "
            "in this field. Say which: --minus-one unknown (then 0 is absent, as DualCoOp writes "
            "it) or --minus-one absent (then 0 is unknown, as HCP-MLR-PL writes it). In Python: "
            "minus_one='unknown' or minus_one='absent'; of a data set by name: option "
            "minus_one=unknown or minus_one=absent."
        )


def _list_columns(table: Table, image_column: str) -> tuple[str, str | None]:
    lists = _present_columns(table)
    if len(lists) > 1:
        raise DataError(
            f"{table.path} has the columns {lists[0]!r} and {lists[1]!r}, which both list what "
            "is present. Remove or rename one."
        )
    absent = [name for name in table.names if name.casefold() == _ABSENT_COLUMN]
    ignored = set(table.names) - {image_column, lists[0], *absent[:1]}
    for name in sorted(ignored):
        if difflib.get_close_matches(name.casefold(), [_ABSENT_COLUMN], cutoff=0.8):
            raise DataError(
                f"{table.path}: column {name!r} is unknown; did you mean {_ABSENT_COLUMN!r}? "
                "Rename or remove it."
            )
    if ignored:
        _log.warning("%s: the columns %s are not read", table.path, sorted(ignored))
    return lists[0], absent[0] if absent else None


def _texts(table: Table, *columns: str | None) -> set[str]:
    """Return the cells of the columns that hold texts and not lists."""
    lists = [parse_lists(table.column(column)) for column in columns if column is not None]
    return {
        text for each in lists if each.dtype == pl.String for text in each.drop_nulls().unique()
    }


def _long_names(
    table: Table, column: str, words: pl.DataFrame, categories: Sequence[str] | None
) -> tuple[str, ...]:
    listed: Counter[str] = Counter()
    for word, count in words["word"].value_counts().iter_rows():
        listed[clean_name(word)] += count
    if listed and all(word.casefold() in _MEANING for word in listed):
        raise DataError(
            f"{table.path}: column {column!r} should list names as in 'cat;dog', but holds only "
            f"{', '.join(sorted(listed))}. If {column!r} is a category, or these are numbers of "
            f"categories, name the categories: {CHOICE}."
        )
    if categories is None:
        if not listed:
            raise DataError(
                f"{table.path} lists no category in {column!r}. Write names as in 'cat;dog', or "
                "give categories."
            )
        refuse_no_names(listed, f"{table.path}: column {column!r}", CHOICE)
        refuse_too_many(len(listed), f"{table.path} lists", "names")
        refuse_look_alikes(listed, listed, str(table.path))
        return tuple(sorted(listed))
    strange = Counter({name: count for name, count in listed.items() if name not in categories})
    unused = [name for name in categories if name not in listed]
    if listed and len(unused) == len(categories):
        raise DataError(
            f"{table.path} lists none of the {len(categories)} categories: {unused[0]!r} does not "
            f"occur{suggest(unused[0], sorted(listed))} Check that both use the same words."
        )
    refuse_look_alikes(strange, categories, str(table.path))
    if unused:
        _log.warning("%s never lists %d categories: %s", table.path, len(unused), unused[:10])
    if strange:
        most = [f"{name!r} ({count} times){suggest(name, categories)[:-1]}"
                for name, count in strange.most_common(3)]  # fmt: skip
        _log.warning("%s lists %d names that are none of the %d categories and are left out: %s",
                     table.path, len(strange), len(categories), ", ".join(most))  # fmt: skip
    return tuple(categories)


def _pairs(words: pl.DataFrame, names: tuple[str, ...]) -> np.ndarray:
    """Return row * C + column for each word that is a name; a pair may come twice."""
    position = {name: index for index, name in enumerate(names)}
    columns = {word: position.get(clean_name(word)) for word in words["word"].unique()}
    columns = {word: column for word, column in columns.items() if column is not None}
    if not columns:
        return np.empty(0, np.int64)
    listed = words.filter(pl.col("word").is_in(list(columns)))
    column = listed["word"].replace_strict(columns, return_dtype=pl.Int64)
    return (listed["row"].cast(pl.Int64) * len(names) + column).to_numpy()
