"""`trmml review`, the verbs about a journal: queue, apply, learn, export, import."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trmml.cli import options
from trmml.cli.fit import follow
from trmml.cli.output import print_json, print_line, say, show, shown_progress
from trmml.cli.reading import TableOptions, read_images, read_names, with_answers
from trmml.settings.choices import ReviewKind

if TYPE_CHECKING:
    from trmml.curation.queue import Question, Queue
    from trmml.datasets.base import Dataset

AnswerFile = Annotated[
    Path,
    typer.Option(
        metavar="FILE", help="Journal of the answers, as answers.sqlite.", show_default=False
    ),
]
ImagesNeeded = Annotated[Path, typer.Option(help="Folder of the images.", show_default=False)]
LabelsNeeded = Annotated[Path, typer.Option(help="Table of their labels.", show_default=False)]
NewFile = Annotated[
    Path, typer.Option(help="New file.", show_default=False, callback=options.writable_file)
]
Kind = Annotated[
    ReviewKind,
    typer.Option(help="Open pairs worth asking about, known labels that look wrong, or both."),
]
CategoryOption = Annotated[
    list[str] | None,
    typer.Option("--category", metavar="NAME", help="Only this one; may be repeated."),
]


def open_queue(
    run: Path,
    data: "Dataset",
    answers: Path | None,
    categories: Sequence[str] | None,
    who: str = "",
    *,
    asks: bool = True,
    **how: Any,
) -> "Queue":
    """The queue of a run over labelled images, with the journal's answers.

    Where it does not ask, the journal must be there and is only read.
    """
    from trmml.curation.answers import Answers, existing
    from trmml.curation.collection import check_categories, read_collection
    from trmml.curation.queue import Queue
    from trmml.training.run_folder import load_card

    check_categories(categories or (), load_card(run).category_names)
    journal = Answers(answers) if asks or answers is None else existing(answers)
    with shown_progress() as progress:
        collection = read_collection(run, data, progress=progress, **how)
    # People who ask at once are asked different questions.
    seed = zlib.crc32(who.encode())
    queue = Queue(collection, journal, who=who, categories=categories or (), seed=seed)
    applied = queue.pairs.applied
    for line in applied.lines()[0 if applied.pairs else 1 :]:
        say(line)
    return queue


def queue(
    run: options.Run,
    images: ImagesNeeded,
    labels: LabelsNeeded,
    answers: Annotated[
        Path | None, typer.Option(help="Journal of what was answered before.")
    ] = None,
    kind: Kind = "both",
    top: Annotated[int, typer.Option(min=1, help="Questions of each kind.")] = 30,
    category: CategoryOption = None,
    categories: options.Categories = None,
    blank: options.BlankOption = None,
    minus_one: options.MinusOne = None,
    separator: options.Separator = None,
    encoder: options.RunEncoder = None,
    trust: options.Trust = False,
    on_bad_image: options.BadImage = "error",
    device: options.Device = "auto",
    jsonl: Annotated[
        bool, typer.Option("--jsonl", "--json", help="One JSON object a question.")
    ] = False,
) -> None:
    """Print what is worth asking, and known labels that look wrong. Asks nothing."""
    table = TableOptions(read_names(categories), blank, minus_one, separator)
    found = open_queue(
        run, read_images(images, labels, table), answers, category, asks=False,
        encoder=encoder, trust=trust, device=device, on_bad_image=on_bad_image,
    )  # fmt: skip
    if kind != "suspects":
        _print("worth asking", found.most(top), jsonl)
    if kind != "learn":
        for name, given in (("probably not there", True), ("probably missed", False)):
            listed = found.doubted(top, given=given)
            few = found.suspect_list(given=given).too_few
            _print(name, listed, jsonl)
            if len(few):
                say(f"{name}: {len(few)} categories have fewer than 8 such labels and no suspects")


def _print(title: str, questions: "list[Question]", jsonl: bool) -> None:
    if jsonl:
        for each in questions:
            print_line({
                "list": title, "image": each.image, "category": each.category, "was": each.was,
                "p": round(each.p, 4), "why": each.why,
            })  # fmt: skip
        return
    show(f"{title}: {len(questions)}")
    for each in questions:
        show(f"  {each.p:6.1%}  {each.category}  {each.image}  (given: {each.was})")


def apply(
    labels: LabelsNeeded,
    answers: AnswerFile,
    out: NewFile,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images: finds those that were renamed.")
    ] = None,
    form: Annotated[
        Literal["wide", "long"] | None,
        typer.Option(
            "--format",
            help="Of the new table. [default: a copy of a wide CSV table, else wide]",
        ),
    ] = None,
    categories: options.Categories = None,
    blank: options.BlankOption = None,
    minus_one: options.MinusOne = None,
    separator: options.Separator = None,
    json: options.Json = False,
) -> None:
    """Write a new table with the answers. A copy of a wide CSV table keeps all else as it is."""
    from trmml.curation.answers import existing
    from trmml.curation.standing import apply_answers, places_by_name
    from trmml.datasets.formats.folder import other_columns, read_labels
    from trmml.datasets.tables.changed import as_table, changed_cells, is_wide_csv, with_cells
    from trmml.storage.atomic import refuse_old, write_bytes

    refuse_old(out)
    with existing(answers) as journal:
        rows = journal.rows()
    table = TableOptions(read_names(categories), blank, minus_one, separator)
    if images is not None:
        data = read_images(images, labels, table)
        applied = apply_answers(data, rows)
    else:
        data, _ = read_labels(
            Path(), labels, blank, minus_one, categories=table.categories, separator=separator
        )
        applied = apply_answers(data, rows, places_by_name(data, rows))
    left_out = list[str]()
    if form != "long" and is_wide_csv(labels, data, table.categories):
        content = with_cells(labels, changed_cells(data, applied.data, blank, minus_one))
    else:
        content = as_table(applied.data, form or "wide")
        left_out = other_columns(labels, data, table.categories)
    write_bytes(out, content)
    if left_out:
        say(f"a new table has no other columns; {len(left_out)} left out: {', '.join(left_out)}")
    if json:
        print_json({
            "out": str(out), "pairs": len(applied.pairs), "changed": len(applied.changed),
            "disagreed": len(applied.disagreed), "other_images": applied.other_images,
            "other_categories": applied.other_categories, "left_out": left_out,
        })  # fmt: skip
        return
    for line in (*applied.lines(), f"table: {out}"):
        show(line)


def learn(
    run: options.Run,
    images: ImagesNeeded,
    labels: LabelsNeeded,
    answers: AnswerFile,
    out: options.Out,
    categories: options.Categories = None,
    blank: options.BlankOption = None,
    minus_one: options.MinusOne = None,
    separator: options.Separator = None,
    encoder: options.RunEncoder = None,
    trust: options.Trust = False,
    on_bad_image: options.BadImage = "error",
    device: options.Device = "auto",
    resume: options.Resume = False,
    json: options.Json = False,
) -> None:
    """Train again with the answers, as the run was trained. Makes a new run."""
    from trmml.encoders import load_encoder
    from trmml.reporting.fit import fit as run_fit
    from trmml.tagging.tagger import Tagger

    tagger = Tagger.load(run, encoder=encoder, trust=trust, device=device)
    table = TableOptions(read_names(categories), blank, minus_one, separator)
    data = with_answers(read_images(images, labels, table), labels, answers)
    _compare_categories(data.category_names, tagger.category_names, labels)
    spec = encoder or tagger.card.encoder_spec or ""
    with shown_progress() as progress:
        records = run_fit(
            data,
            # With the text tower, which tagging does without.
            load_encoder(spec, image_size=tagger.card.encoder.size),
            out,
            settings=tagger.card.settings,
            encoder_spec=spec,
            resume=resume,
            device=device,
            on_bad_image=on_bad_image,
            progress=progress,
            note=progress.line,
        )
        summary = follow(records, out, progress)
    if json:
        print_json(summary)
    else:
        typer.echo(f"run:     {summary['run']}\nreport:  {summary['report']}")


def _compare_categories(own: Sequence[str], run: Sequence[str], labels: Path) -> None:
    """Tell which categories only the table or only the run has.

    Raises:
        BadParameter: they share none, so the table is another run's.
    """
    both = {*own} & {*run}
    new, gone = ([name for name in names if name not in both] for names in (own, run))
    if not both:
        raise typer.BadParameter(
            f"{labels} has none of the {len(run)} categories of the run, as {run[0]!r}; name the"
            " table that it was trained on, or train a new run with `trmml fit`"
        )
    if new:
        say(f"{len(new)} categories are new to the run, first {new[0]!r}")
    if gone:
        say(f"{len(gone)} categories of the run are not in {labels}, first {gone[0]!r}")


def export(answers: AnswerFile, out: NewFile, json: options.Json = False) -> None:
    """Write all answers as JSON lines, for people, git and other tools."""
    from trmml.curation.answers import existing
    from trmml.curation.journal_lines import write_lines
    from trmml.storage.atomic import refuse_old

    refuse_old(out)
    with existing(answers) as journal:
        rows = journal.rows()
    write_lines(rows, out)
    if json:
        print_json({"out": str(out), "rows": len(rows)})
    else:
        show(f"{len(rows)} rows in {out}")


def import_(
    lines: Annotated[list[Path], typer.Argument(metavar="LINES...", help="Files of JSON lines.")],
    answers: AnswerFile,
    json: options.Json = False,
) -> None:
    """Merge JSON lines into a journal. A row that is there already is left out."""
    from trmml.curation.answers import Answers
    from trmml.curation.journal_lines import read_lines

    read = {path: read_lines(path) for path in lines}  # all, before a journal is made
    merged = []
    with Answers(answers) as journal:
        for path, rows in read.items():
            new = journal.add(rows)
            merged.append({"file": str(path), "rows": len(rows), "new": new})
            if not json:
                show(f"{path}: {len(rows)} rows, {new} of them new")
    if json:
        print_json({"answers": str(answers), "files": merged})
