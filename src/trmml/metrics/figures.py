"""What measuring found: figures by name, as JSON, as CSV, and as a table for the terminal."""

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trmml.storage.atomic import begins_with, refuse_other, write_json, write_text

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision, recall and F1 over all known pairs (overall) and as means over categories.

    Usual names, in order: OP, OR, OF1, CP, CR, CF1; the last is the mean of the categories' F1.
    """

    overall_precision: float
    overall_recall: float
    overall_f1: float
    category_precision: float
    category_recall: float
    category_f1: float
    category_f1_mean_of_f1: float


@dataclass(frozen=True)
class CategoryMetrics:
    """One category's figures; all but the counts are nan without a known positive."""

    name: str
    ap: float
    ap_interpolated: float
    positives: int
    negatives: int
    unknown: int
    precision: float
    recall: float
    f1: float
    threshold: float


def refuse_other_csv(path: Path) -> None:
    """Refuse a place where another file is than `Metrics.write_csv` writes.

    Raises:
        DataError: it is there.
    """
    head = ",".join(field.name for field in fields(CategoryMetrics)) + "\n"
    refuse_other(path, lambda file: begins_with(file, head.encode()), "table of `--csv`")


@dataclass(frozen=True)
class Metrics:
    """What `measure` found.

    Args:
        mean_ap: mean non-interpolated AP over the defined categories.
        mean_ap_interpolated: the same with the interpolated form.
        mean_ap_undefined_as_zero: the field's habit: undefined categories enter `mean_ap` as 0.
        at_threshold: every entry whose score reaches its category's threshold is predicted.
        at_top_k: of these, only entries among the `top_k` highest known scores of their image.
        known_share: share of known pairs, in [0, 1].
    """

    mean_ap: float
    mean_ap_interpolated: float
    mean_ap_undefined_as_zero: float
    at_threshold: PrecisionRecall
    at_top_k: PrecisionRecall
    top_k: int
    images: int
    categories: int
    undefined_categories: int
    known_share: float
    per_category: tuple[CategoryMetrics, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts; None where a figure is undefined."""
        plain = asdict(self)
        plain["per_category"] = [_without_nan(row) for row in plain["per_category"]]
        plain["at_threshold"] = _without_nan(plain["at_threshold"])
        plain["at_top_k"] = _without_nan(plain["at_top_k"])
        return _without_nan(plain)

    def write_json(self, path: Path) -> None:
        """Write `to_dict` as JSON."""
        write_json(path, self.to_dict(), indent=2)

    def write_csv(self, path: Path) -> None:
        """Write one row per category; undefined figures are blank.

        Raises:
            DataError: another file is there than an earlier one of these.
        """
        import polars as pl  # half a second to import

        refuse_other_csv(path)
        rows = pl.DataFrame([asdict(category) for category in self.per_category])
        write_text(path, rows.fill_nan(None).write_csv())

    def summary_rows(self) -> list[tuple[str, float]]:
        """The figures of a results table under the field's names, shares in [0, 1]."""
        rows = [("mAP", self.mean_ap), ("mAP interpolated", self.mean_ap_interpolated)]
        short = ("OP", "OR", "OF1", "CP", "CR", "CF1", "mean F1")
        for suffix, part in (("", self.at_threshold), (f" top-{self.top_k}", self.at_top_k)):
            rows += [
                (name + suffix, value)
                for name, value in zip(short, asdict(part).values(), strict=True)
            ]
        return rows

    def table(self) -> "Table":
        """`summary_rows` in percent as a table for the terminal, counts in the caption."""
        from rich.table import Table

        table = Table(
            caption=f"{self.images} images, {self.categories} categories "
            f"({self.undefined_categories} without a known positive, left out of the means), "
            f"{100 * self.known_share:.1f} % of the labels known"
        )
        table.add_column("measure")
        table.add_column("percent", justify="right")
        for name, value in self.summary_rows():
            table.add_row(name, "undefined" if math.isnan(value) else f"{100 * value:.2f}")
        return table


def _without_nan(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in figures.items()
    }
