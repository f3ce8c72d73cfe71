"""Write tasks for Label Studio, and the interface that asks for their labels.

Shapes: https://labelstud.io/guide/task_format and https://labelstud.io/guide/predictions; the
interface keeps to label_studio/core/utils/schema/label_config_schema.json.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from trmml.errors import DataError
from trmml.exchange.source import Source
from trmml.exchange.writing import as_json, refuse_unfit, stream
from trmml.settings.choices import AskForm
from trmml.storage.hashes import hash_file

# Beyond so many questions a page is too long to answer one by one.
MOST_QUESTIONS = 30
TAGS = "tags"  # name of the one control that has all categories
# Names of other things in a task, or of columns in Label Studio's short exports.
_TAKEN = {
    *("image", "id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"),
    "agreement",
}


def ask_form(ask: AskForm | None, categories: int) -> AskForm:
    """How the interface asks: a question per category up to 30, by default."""
    return ask or ("yes-no" if categories <= MOST_QUESTIONS else "choices")


def write_label_studio(folder: Path, source: Source, ask: AskForm, base_url: str | None) -> None:
    """Write tasks.json and config.xml.

    What people know becomes an annotation; what a run says, a prediction that a person confirms.

    Args:
        folder: to write in.
        source: labels and, perhaps, a run's tags.
        ask: "yes-no" has a question for each category, and keeps what is unknown. "choices" has one
            list of all, in which what is not ticked is absent.
        base_url: what stands before each image's name; by default the address of Label Studio's
            local files, below the folder of the images.

    Raises:
        DataError: a name that the interface cannot have.
    """
    data = source.data
    refuse_unfit(data.category_names, "category", "Label Studio's interface")
    refuse_unfit(data.images, "image", "Label Studio")
    _refuse_names(data.category_names, ask)
    (folder / "config.xml").write_text(_config(data.category_names, ask), encoding="utf-8")
    start = _local_files(data.root) if base_url is None else base_url
    start += "" if start.endswith(("/", "=")) else "/"
    with (folder / "tasks.json").open("w", encoding="utf-8") as file:
        stream(file, "[", map(as_json, _tasks(source, ask, start)), "]\n")


def _refuse_names(names: tuple[str, ...], ask: AskForm) -> None:
    bad = next((name for name in names if name.startswith("$")), None)
    if bad is not None:
        raise DataError(
            f"category {bad!r} begins with $, as data of a task does in Label Studio. Rename it."
        )
    if ask == "choices" and len(names) < 2:
        raise DataError("Label Studio has no list of one choice. Take --ask yes-no.")
    taken = [name for name in names if name in _TAKEN]
    if ask == "yes-no" and taken:
        raise DataError(
            f"category {taken[0]!r} cannot name a question: Label Studio's exports have a key of"
            " that name. Take --ask choices, or rename it."
        )


def _local_files(root: Path) -> str:
    """The address of local files, of which Label Studio's document root is the folder above.

    Raises:
        DataError: the folder holds one of its own name, so an address could mean two files.
    """
    name = root.resolve().name
    if (root / name).exists():
        raise DataError(
            f"{root} holds a folder of its own name, so an address as {name}/a.jpg is not clear."
            " Say --base-url, as '/data/local-files/?d=" + name + "/'."
        )
    return f"/data/local-files/?d={quote(name)}/"


def _config(names: tuple[str, ...], ask: AskForm) -> str:
    lines = ["<View>", '  <Image name="image" value="$image"/>']
    if ask == "choices":
        lines.append(f'  <Choices name="{TAGS}" toName="image" choice="multiple">')
        lines += [f"    <Choice value={quoteattr(name)}/>" for name in names]
        lines.append("  </Choices>")
    for name in names if ask == "yes-no" else ():
        lines += [
            f"  <Header value={quoteattr(name)}/>",
            f'  <Choices name={quoteattr(name)} toName="image" choice="single">',
            '    <Choice value="yes"/>',
            '    <Choice value="no"/>',
            "  </Choices>",
        ]
    return "\n".join([*lines, "</View>\n"])


def _tasks(source: Source, ask: AskForm, start: str) -> Iterator[dict[str, Any]]:
    data, shown = source.data, source.shown.matrix
    for row, image in enumerate(data.images):
        meta: dict[str, Any] = {"sha256": hash_file(data.root / image)}
        task: dict[str, Any] = {"data": {"image": start + quote(image)}}
        known, labels = data.matrix.known[row].numpy(), data.matrix.labels[row].numpy()
        if known.any():
            task["annotations"] = [{"result": results_of(data.category_names, labels, known, ask)}]
        if source.probabilities is not None and source.doubt is not None:
            said = shown.labels[row].numpy(), shown.known[row].numpy()
            task["predictions"] = [{
                "model_version": f"trmml-{source.run}",
                "score": round(1 - source.doubt[row].item(), 4),
                "result": results_of(data.category_names, *said, ask),
            }]  # fmt: skip
            chances = (round(p, 4) for p in source.probabilities[row].tolist())
            meta["probabilities"] = dict(zip(data.category_names, chances, strict=True))
        yield {**task, "meta": {"trmml": meta}}


def results_of(
    names: tuple[str, ...], labels: np.ndarray, known: np.ndarray, ask: AskForm
) -> list[dict[str, Any]]:
    """What an annotator would have left for these labels."""
    columns = np.flatnonzero(known).tolist()
    if ask == "choices":
        ticked = [names[c] for c in columns if labels[c]]
        return [_result(0, TAGS, ticked)] if ticked else []
    return [_result(c, names[c], ["yes" if labels[c] else "no"]) for c in columns]


def _result(number: int, control: str, choices: list[str]) -> dict[str, Any]:
    value = {"choices": choices}
    return {"id": f"{number:08d}", "from_name": control, "to_name": "image", "type": "choices",
            "value": value}  # fmt: skip
