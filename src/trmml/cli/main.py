"""The command line: a thin command per verb. Everything heavy is imported where it is used."""

from pathlib import Path
from typing import Annotated

import typer

from trmml.cli import options
from trmml.cli.app import Verb, Verbs, examples, trmml
from trmml.cli.batch import batch
from trmml.cli.benchmark import benchmark
from trmml.cli.curation import complete
from trmml.cli.data import data as data_verbs
from trmml.cli.fit import fit, resolve_settings
from trmml.cli.hub import hub
from trmml.cli.output import (
    comparison,
    export_lines,
    print_json,
    print_table,
    print_tags,
    settings_table,
    shown_progress,
)
from trmml.cli.reading import TableOptions, named_paths, read_either, read_names, with_answers
from trmml.cli.review import review
from trmml.cli.runs import refuse_cached, refuse_tested
from trmml.cli.search import add_commands
from trmml.cli.serve import serve
from trmml.cli.sidecar import sidecar
from trmml.cli.store import store
from trmml.settings.choices import StyleName

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich would take as long to import as all the rest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "trmml demo",
        "trmml fit --images photos --labels labels.csv --encoder RN101:openai --out runs/photos",
        "trmml evaluate runs/photos --images test --labels test.csv",
        "trmml tag runs/photos holiday/*.jpg --top 5",
    ),
)
app.callback()(trmml)
app.add_typer(store, name="store")
app.add_typer(data_verbs, name="data")
app.add_typer(batch, name="batch")
app.add_typer(hub, name="hub")
app.add_typer(review, name="review")
app.add_typer(sidecar, name="sidecar")


@app.command(cls=Verb, epilog=examples("trmml demo", "trmml demo --known 0.1 --out runs/demo-10"))
def demo(
    out: Annotated[
        Path,
        typer.Option(help="Folder for data, model and report.", callback=options.writable_folder),
    ] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of scenes, hidden labels and training.")] = 0,
    known: Annotated[float, typer.Option(max=1, help="Known share of the labels, over 0.")] = 0.3,
    images: Annotated[int, typer.Option(min=2, help="Images to train on.")] = 1500,
    test_images: Annotated[int, typer.Option(min=1, help="Images to test on.")] = 600,
    json: options.Json = False,
) -> None:
    """Run the main job on drawn scenes. Compares zero-shot, a probe and both forms of TRM-ML."""
    from trmml.benchmark.demo import demo as run_demo

    with shown_progress() as progress:
        result = run_demo(
            out,
            seed=seed,
            known_share=known,
            images=images,
            test_images=test_images,
            progress=progress,
            note=progress.line,
        )
    if json:
        print_json(result.results)
        return
    print_table(comparison(result.results["methods"]))
    typer.echo(f"report:  {result.run / 'report.html'}")
    typer.echo(f"tags:    {result.run / 'tags'}")
    typer.echo(f"next:    trmml tag {result.run} {result.new_folder} --top 3")
    typer.echo(f"         trmml serve {result.run} --open")


@app.command(
    cls=Verb,
    epilog=examples(
        "trmml scenes data/scenes --images 200 --seed 1",
        "trmml scenes data/captions --style caption",
    ),
)
def scenes(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="New folder.", show_default=False, callback=options.writable_folder
        ),
    ],
    images: options.SceneCount = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same images.")] = 0,
    style: Annotated[StyleName, typer.Option(help="The hand they are drawn in.")] = "demo",
    known: Annotated[float, typer.Option(help="Share of labels in labels_partial.csv.")] = 0.3,
    json: options.Json = False,
) -> None:
    """Draw a folder of labelled images. With complete and hidden labels, and captions."""
    from trmml.synthetic import write_scenes

    write_scenes(folder, images=images, seed=seed, style=style, known_share=known)
    if json:
        print_json({"folder": str(folder), "images": images, "seed": seed, "style": style})
    else:
        typer.echo(f"{images} images in {folder}")


app.command(
    cls=Verb,
    epilog=examples(
        "trmml fit --images photos --labels labels.csv --out runs/photos",
        "trmml fit --images photos --labels labels.csv --out runs/photos --resume",
        "trmml fit --images photos --labels instances.json --test-share 0.2 --out runs/photos",
        "trmml fit --data yolo data/signs --data-option no_file=absent --out runs/signs",
        "trmml fit --images photos --labels labels.csv --out runs/rn101 \\",
        "    --encoder RN101:openai --image-size 448 --known 0.1 --seed 0 \\",
        "    --set prompts.train_context=true --test-images test --test-labels test.csv",
    ),
)(fit)

app.command(
    cls=Verb,
    epilog=examples(
        "trmml benchmark --data corel5k data/corel5k --out runs/corel5k --single-positive",
        "trmml benchmark --data corel5k data/corel5k --out runs/few --known 10,50 --seeds 1 \\",
        "    --methods zero-shot,probe-masked,trmml",
        "trmml benchmark --data corel5k data/corel5k --out runs/tuned --tune 30 --settings tuned",
        "trmml benchmark --out runs/corel5k --report-only",
    ),
)(benchmark)

app.command(
    cls=Verb,
    epilog=examples(
        "trmml complete runs/photos --images photos --labels labels.csv --out probabilities.jsonl",
        "trmml complete runs/photos --images photos --labels labels.csv --out completed.csv \\",
        "    --accept precision=0.9 --provenance why.parquet",
    ),
)(complete)
add_commands(app)
app.command(
    cls=Verb,
    epilog=examples(
        "trmml serve runs/demo",
        "trmml serve runs/photos --images photos --labels labels.csv --index photos.index",
    ),
)(serve)


@app.command(
    cls=Verb,
    epilog=examples(
        "trmml evaluate runs/photos --images test --labels test.csv",
        "trmml evaluate runs/photos --images test --labels test.csv --json --csv categories.csv",
        "trmml evaluate runs/signs --data yolo data/signs",
    ),
)
def evaluate(
    run: options.Run,
    images: options.Images = None,
    labels: options.Labels = None,
    answers: options.AnswersOption = None,
    data: options.Data = None,
    data_option: options.DataOption = None,
    split: options.TestSplit = None,
    encoder: options.RunEncoder = None,
    trust: options.Trust = False,
    categories: options.Categories = None,
    blank: options.BlankOption = None,
    minus_one: options.MinusOne = None,
    separator: options.Separator = None,
    threshold: options.Threshold = None,
    on_bad_image: options.BadImage = "error",
    device: options.Device = "auto",
    store: options.Store = None,
    store_form: options.StoreForm = "fp16",
    live: options.Live = False,
    encoder_precision: options.EncoderPrecision = "fp32",
    csv: options.Csv = None,
    report: options.Report = False,
    json: options.Json = False,
) -> None:
    """Score a run on labelled images. Unknown labels are ignored."""
    from trmml.metrics.figures import refuse_other_csv
    from trmml.tagging.evaluate import evaluate as score_run
    from trmml.tagging.tagger import Tagger

    if report:
        refuse_cached(run, "the report")
        options.writable(run / "report.html")
    if csv is not None:
        refuse_other_csv(csv)
    tagger = Tagger.load(run, encoder=encoder, trust=trust, device=device)
    names = read_names(categories)
    if data is None:
        names = names or list(tagger.category_names)
    table = TableOptions(names, blank, minus_one, separator)
    labelled = read_either(images, labels, data, data_option, table, split, "test")
    labelled = with_answers(labelled, labels, answers)
    with shown_progress() as progress:
        evaluation = score_run(
            tagger,
            labelled,
            threshold=threshold,
            on_bad_image=on_bad_image,
            encoding=options.encoding(store, store_form, live, encoder_precision),
            progress=progress,
        )
    if csv is not None:
        evaluation.metrics.write_csv(csv)
    if report:
        from trmml.reporting.report import write_report

        write_report(run, evaluation)
    if json:
        print_json(evaluation.metrics.to_dict())
    else:
        print_table(evaluation.metrics.table())


@app.command(
    cls=Verb,
    epilog=examples(
        "trmml tag runs/photos holiday/*.jpg --top 5",
        "trmml tag runs/photos holiday --jsonl > tags.jsonl",
        "trmml tag runs/photos a.jpg --also 'zebra crossing' --explain maps",
        "find . -name '*.png' -print0 | trmml tag runs/photos - -0 --format csv",
    ),
)
def tag(
    run: options.Run,
    images: options.ImagePaths,
    encoder: options.RunEncoder = None,
    trust: options.Trust = False,
    top: options.Top = None,
    threshold: options.Threshold = None,
    also: options.Also = None,
    explain: options.Explain = None,
    on_bad_image: options.BadImage = "error",
    precision: options.TagPrecision = "auto",
    device: options.Device = "auto",
    style: options.Format = "table",
    jsonl: options.Jsonl = False,
    null: options.Null = False,
) -> None:
    """Tag images. With probabilities and, on request, region maps."""
    from trmml.deploy.tag import tag_each

    tagged = tag_each(
        run,
        named_paths(images, null),
        encoder=encoder,
        device=device,
        also=also or (),
        trust=trust,
        top=top,
        threshold=threshold,
        explain=explain,
        precision=precision,
        on_bad_image=on_bad_image,
    )
    print_tags(tagged, "jsonl" if jsonl else style)


@app.command(
    cls=Verb,
    epilog=examples(
        "trmml export runs/photos photos.onnx --check test",
        "trmml export runs/photos head.onnx --part head",
        "trmml export runs/photos more.onnx --also 'zebra crossing'",
    ),
)
def export(
    run: options.Run,
    out: options.OnnxFile,
    encoder: options.RunEncoder = None,
    trust: options.Trust = False,
    part: options.Part = "all",
    also: options.Also = None,
    check: options.Check = None,
    json: options.Json = False,
) -> None:
    """Write a run as an ONNX file that tags without torch. Checked against torch first."""
    from trmml.deploy.onnx_file import export as export_run

    done = export_run(
        run, out, part=part, encoder=encoder, trust=trust, also=also or (), check=check or ()
    )
    if json:
        print_json(done.to_dict())
        return
    for line in export_lines(done):
        typer.echo(line)


@app.command(cls=Verb, epilog=examples("trmml report runs/photos"))
def report(run: options.Run, json: options.Json = False) -> None:
    """Write a run's report.html anew. Without test images, which `evaluate --report` takes."""
    refuse_cached(run, "the report")
    refuse_tested(run)
    options.writable(run / "report.html")
    from trmml.reporting.report import write_report

    path = write_report(run)
    if json:
        print_json({"report": str(path)})
    else:
        typer.echo(str(path))


@app.command(
    cls=Verb,
    epilog=examples(
        "trmml settings",
        "trmml settings --toml > settings.toml",
        "trmml settings --set training.epochs=3 --json",
    ),
)
def settings(
    preset: options.Preset = None,
    config: options.Config = None,
    set_: options.Set = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print a file for fit --config.")] = False,
    json: options.Json = False,
) -> None:
    """List all settings of fit."""
    resolved = resolve_settings(preset, config, set_)
    if json:
        print_json(resolved.model_dump())
    elif toml:
        from trmml.settings.files import settings_toml

        typer.echo(settings_toml(resolved), nl=False)
    else:
        print_table(settings_table(resolved))
