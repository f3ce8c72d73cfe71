"""`trmml complete`: fill a table's blanks by a run; parse, call, print."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trmml.cli import options
from trmml.cli.output import print_json, say, show, shown_progress
from trmml.cli.reading import TableOptions, read_either, read_names
from trmml.settings.choices import CompletedFormat, EvidenceChoice

if TYPE_CHECKING:
    from trmml.curation.complete import Completed

Out = Annotated[
    Path,
    typer.Option(
        help="New file for the labels.", show_default=False, callback=options.writable_file
    ),
]
Accept = Annotated[
    str,
    typer.Option(
        metavar="RULE",
        help="Which probabilities become labels: none, threshold, sure=P, precision=P or all.",
    ),
]
Evidence = Annotated[
    EvidenceChoice,
    typer.Option(help="What known labels of an image may say of its open ones; auto measures it."),
]
Form = Annotated[
    CompletedFormat | None,
    typer.Option(
        "--format",
        help="wide: a copy of the table with blanks filled. long: image, present, absent. jsonl:"
        " with probabilities; it is the default where no rule is given, else wide.",
    ),
]
Provenance = Annotated[
    Path | None,
    typer.Option(
        help="Parquet file with each open pair's probability and what moved it.",
        callback=options.writable_file,
    ),
]


def complete(
    run: options.Run,
    out: Out,
    images: options.Images = None,
    labels: options.Labels = None,
    data: options.Data = None,
    data_option: options.DataOption = None,
    split: options.TrainSplit = None,
    accept: Accept = "none",
    evidence: Evidence = "auto",
    style: Form = None,
    provenance: Provenance = None,
    answers: options.AnswersOption = None,
    encoder: options.RunEncoder = None,
    trust: options.Trust = False,
    categories: options.Categories = None,
    blank: options.BlankOption = None,
    minus_one: options.MinusOne = None,
    separator: options.Separator = None,
    on_bad_image: options.BadImage = "error",
    device: options.Device = "auto",
    store: options.Store = None,
    store_form: options.StoreForm = "fp16",
    live: options.Live = False,
    encoder_precision: options.EncoderPrecision = "fp32",
    json: options.Json = False,
) -> None:
    """Fill a table's blanks by a run and what is known. Given cells stay as they are."""
    from trmml.cli.reading import with_answers
    from trmml.curation.complete import complete as complete_run
    from trmml.curation.writing import write_completed, write_provenance
    from trmml.datasets.tables.changed import changed_cells
    from trmml.training.run_folder import load_card

    _refuse_places(out, provenance, labels)
    names, others = read_names(categories), list[str]()
    if labels is not None and names is None:
        names, others = _columns(labels, load_card(run).category_names, separator)
    style = _checked_form(labels, style, names, probabilities=accept == "none")
    table = TableOptions(names, blank, minus_one, separator)
    labelled, answered = read_either(images, labels, data, data_option, table, split), None
    if answers is not None:
        before, labelled = labelled, with_answers(labelled, labels, answers)
        if style == "wide":  # of which alone the cells must say what people said
            answered = changed_cells(before, labelled, blank, minus_one)
    with shown_progress() as progress:
        completed = complete_run(
            run,
            labelled,
            accept=accept,
            evidence=evidence,
            encoder=encoder,
            trust=trust,
            device=device,
            on_bad_image=on_bad_image,
            encoding=options.encoding(store, store_form, live, encoder_precision),
            progress=progress,
        )
    write_completed(completed, out, labels, style, minus_one=minus_one, answered=answered)
    if provenance is not None:
        write_provenance(completed, provenance)
    others += [name for name in labelled.category_names if name not in completed.asked]
    if others:
        what = "they stay" if style == "wide" else f"the form {style} leaves them out"
        say(f"of {len(others)} columns the run knows nothing; {what}: {', '.join(others)}")
    if json:
        print_json({**completed.report, "out": str(out), "others": others})
        return
    for line in completed_lines(completed):
        show(line)
    show(f"labels:  {out}")


def _refuse_places(out: Path, provenance: Path | None, labels: Path | None) -> None:
    """Refuse new files where something is, two of one name, and spreadsheets."""
    from trmml.curation.writing import refuse_spreadsheets, refuse_to_overwrite

    for new in filter(None, (out, provenance)):
        refuse_to_overwrite(new, labels)
    if provenance is not None and provenance.absolute() == out.absolute():
        raise typer.BadParameter(f"--provenance and --out are both {out}; name two files")
    refuse_spreadsheets(out)


def _checked_form(
    labels: Path | None,
    style: CompletedFormat | None,
    categories: Sequence[str] | None,
    *,
    probabilities: bool,
) -> CompletedFormat:
    """The form that was named, or else the table's own; a copy that cannot be is refused."""
    from trmml.curation.writing import own_form, refuse_other_forms

    if style is None:
        return "jsonl" if probabilities or labels is None else own_form(labels, categories)
    refuse_other_forms(labels, style, categories)
    return style


def _columns(
    labels: Path, run: Sequence[str], separator: str | None
) -> tuple[list[str] | None, list[str]]:
    """The run's categories that a CSV or Parquet table has, None for all; and its other columns."""
    from trmml.datasets.formats.other_forms import read_other_form
    from trmml.datasets.tables.cells import names_in
    from trmml.datasets.tables.table import image_columns, read_table

    if labels.suffix.lower() not in (".csv", ".tsv", ".txt", ".parquet", ".pq"):
        return None, []
    found = names_in(read_other_form(labels, None) or read_table(labels), separator)
    others = sorted(found - {*run, *image_columns(found)})
    return [name for name in run if name in found] or None, others


def completed_lines(completed: "Completed") -> list[str]:
    """What was found and decided, for people."""
    report = completed.report
    left = report["open"] - report["present"] - report["absent"]
    lines = [
        f"{report['images']} images, {report['categories']} categories: {report['given']} labels"
        f" given, {report['open']} open",
        f"decided: {report['present']} present, {report['absent']} absent; {left} stay open",
        f"evidence of known labels: {report['evidence']} (gain {report['gain']:.3f}"
        f" +- {report['gain_error']:.3f} in log-loss per positive, held out)",
    ]
    if completed.rule.name != "none" and left == report["open"]:
        lines.append("nothing was decided: the new table holds what was known before")
    if completed.rule.name == "all":
        lines.append("every blank was decided by its threshold: check before you trust it")
    if completed.unshown:
        lines.append(
            f"cannot show precision {completed.rule.number:g} and stay open:"
            f" {len(completed.unshown)} categories: {', '.join(completed.unshown)}"
        )
    return lines
