"""The options of the command line, each named and explained once."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from trmml.cli.runs import Run as Run
from trmml.settings import choices

TagFormat = Literal["table", "csv", "jsonl"]


def writable(path: Path | None) -> Path | None:
    """The path, where something can be written: it is noticed before anything long begins.

    Raises:
        BadParameter: nothing can be written there.
    """
    if path is None:
        return None
    if str(path) == "-":
        raise typer.BadParameter("- stands for no file here; name one")
    if path.exists() and not (path.is_file() or path.is_dir()):
        return path  # a pipe or a device takes what it is given
    try:
        place = path.absolute() if path.is_dir() else path.absolute().parent
        while not place.exists():
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            return path
    except OSError as error:
        raise typer.BadParameter(
            f"nothing can be written to {path} ({error.strerror}); name another place"
        ) from None


def writable_folder(path: Path | None) -> Path | None:
    """The same of a folder."""
    if path is not None and path.exists() and not path.is_dir():
        raise typer.BadParameter(f"{path} is a file; name a folder")
    return writable(path)


def writable_file(path: Path | None) -> Path | None:
    """The same of a file; its folder must be there."""
    if path is not None and not path.absolute().parent.is_dir():
        raise typer.BadParameter(
            f"there is no folder {path.parent}; make it, or name another place"
        )
    return writable(path)


def store_folder(path: Path | None) -> Path | None:
    """The same of a feature store; one that is there may only be read."""
    return path if path is None or path.is_dir() else writable_folder(path)


Images = Annotated[Path | None, typer.Option(help="Folder of the images.")]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="CSV or Parquet: one column per category, or the columns image, present, absent."
        " Or COCO's JSON, JSON lines, CVAT's XML ...: docs/data.md."
    ),
]
AnswersOption = Annotated[
    Path | None,
    typer.Option("--answers", help="Answers of `trmml review`, which count before the labels."),
]
Encoder = Annotated[
    str,
    typer.Option(
        help="bundled, RN101:openai, ViT-B-16:/path/weights.safetensors, hf-hub:owner/model,"
        " local-dir:path/to/model, package.module:factory"
        " or path/to/file.py:factory."
    ),
]
RunEncoder = Annotated[
    str | None, typer.Option(help="The run's encoder, where it cannot be found as it was named.")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Let the run's own encoder run where it is Python code.")
]
Categories = Annotated[Path | None, typer.Option(help="File with the names to read, one per line.")]
BlankOption = Annotated[
    choices.Blank | None, typer.Option(help="What a blank, or a name that is not listed, means.")
]
Separator = Annotated[str | None, typer.Option(help="Between names in a list; ; when not given.")]
MinusOne = Annotated[choices.Blank | None, typer.Option(help="What -1 means.")]
BadImage = Annotated[
    choices.OnBadImage,
    typer.Option(help="Stop at an unreadable image, or leave it out and list it."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Threshold = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="One probability for all, instead of each category's own threshold."
    ),
]

Out = Annotated[
    Path,
    typer.Option(help="New folder for the run.", show_default=False, callback=writable_folder),
]
Known = Annotated[
    float | None, typer.Option(help="Hide labels until this share of them is known; above 0 to 1.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Sets training.seed, and what is hidden.")]
SinglePositive = Annotated[
    bool, typer.Option("--single-positive", help="Keep one present category per image.")
]
Quota = Annotated[
    tuple[int, int] | None,
    typer.Option(
        "--quota",
        metavar="POSITIVES NEGATIVES",
        help="Keep so many present and absent labels of each category.",
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        "--mask",
        metavar="FILE",
        help="Take what is known from a file of another project or run; see docs/data.md.",
    ),
]
ImageSize = Annotated[
    int | None, typer.Option(min=1, help="Side of the encoder's input in pixels.")
]
Preset = Annotated[str | None, typer.Option(help="Settings that come with trmml.")]
Config = Annotated[
    Path | None,
    typer.Option(help="Settings in a TOML file, also in the trmml.toml of benchmark --tune."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.NAME=VALUE", help="One setting; may be repeated."),
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Sets training.epochs.")]
PrecisionOption = Annotated[choices.Precision | None, typer.Option(help="Sets training.precision.")]
Store = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        help="Folder for the encoder's features. [default: in the user's cache folder]",
        callback=store_folder,
    ),
]
StoreForm = Annotated[
    choices.StoreForm,
    typer.Option(help="How features are kept: int8 is half of fp16, fp32 is exact."),
]
Live = Annotated[bool, typer.Option("--live", help="Keep no features; compute them at each use.")]
EncoderPrecision = Annotated[
    choices.EncoderPrecision,
    typer.Option(help="Arithmetic of the encoder; auto is the fastest that changes nothing."),
]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Write a TensorBoard log into the run.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")]
TestImages = Annotated[
    Path | None, typer.Option(help="Images to evaluate on, and to compare with zero-shot.")
]
TestLabels = Annotated[Path | None, typer.Option(help="Their labels; never trained on.")]
TestShare = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE", help="Keep this share of the images aside, as test images; below 1."
    ),
]

Csv = Annotated[
    Path | None,
    typer.Option(help="Write one row per category to this file.", callback=writable),
]
Report = Annotated[bool, typer.Option("--report", help="Write the run's report.html anew.")]

ImagePaths = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES...",
        help="Files, folders and patterns; - reads a list from stdin, one path a line.",
        show_default=False,
    ),
]
Top = Annotated[int | None, typer.Option(min=1, help="Tags per image, whatever their probability.")]
Also = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A further category, by its name alone; may be repeated."),
]
Explain = Annotated[
    Path | None,
    typer.Option(
        help="Folder for a region map of each tag, over its image.", callback=writable_folder
    ),
]
Format = Annotated[TagFormat, typer.Option("--format", help="How to print the tags.")]
Jsonl = Annotated[
    bool, typer.Option("--jsonl", "--json", help="Short for --format jsonl: one object an image.")
]
Null = Annotated[
    bool, typer.Option("--null", "-0", help="Names on stdin end with a zero byte: find -print0.")
]
OnnxFile = Annotated[
    Path,
    typer.Argument(
        metavar="OUT", help="File to write, as photos.onnx.", show_default=False, callback=writable
    ),
]
Part = Annotated[
    choices.ExportPart,
    typer.Option(help="The whole tagger, or its head alone: from hidden patches on."),
]
Check = Annotated[
    list[str] | None,
    typer.Option(
        metavar="IMAGES",
        help="Files, folder or pattern to compare on besides drawn images; may be repeated.",
    ),
]
SceneCount = Annotated[int, typer.Option("--images", min=1, help="How many images.")]
TagPrecision = Annotated[
    choices.EncoderPrecision,
    typer.Option(
        "--precision", help="Arithmetic of the encoder; auto is the fastest that changes nothing."
    ),
]

Data = Annotated[
    tuple[str, Path] | None,
    typer.Option(metavar="NAME ROOT", help="A data set: its name, and the folder that holds it."),
]
TrainSplit = Annotated[
    Literal["train", "test"] | None,
    typer.Option("--split", help="Which part of the data set. [default: train]"),
]
TestSplit = Annotated[
    Literal["train", "test"] | None,
    typer.Option("--split", help="Which part of the data set. [default: test]"),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="A choice of the data set; may be repeated."),
]


def encoding(
    store: Path | None, form: choices.StoreForm, live: bool, precision: choices.EncoderPrecision
) -> Any:
    """What the options on features say, as an `Encoding`.

    Raises:
        BadParameter: they contradict each other.
    """
    if live and (store is not None or form != "fp16"):
        raise typer.BadParameter("--live keeps no features: leave --store and --store-form out")
    from trmml.features.extract import Encoding  # torch takes seconds to import

    return Encoding(store, form, live, precision)


def named_values(given: Sequence[str] | None, flag: str) -> dict[str, str]:
    """What NAME=VALUE options say.

    Args:
        given: as typed.
        flag: how the option is called, for messages.

    Raises:
        BadParameter: one has no equals sign, or a name comes twice.
    """
    chosen: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"expected {flag} NAME=VALUE, got {text!r}")
        if name.strip() in chosen:
            raise typer.BadParameter(f"{flag} {name.strip()} is given twice; give it once")
        chosen[name.strip()] = value.strip()
    return chosen
