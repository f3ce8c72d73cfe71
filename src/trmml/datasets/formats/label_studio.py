"""Read Label Studio's exports: choices, taxonomies and rectangles.

Export a project as "JSON" (https://labelstud.io/guide/task_format), "JSON-MIN" or "CSV", one file
per split, beside the folder of its images. The short forms lack what was skipped, and do not tell
texts from a choice of one name: add config.xml.

    train.json, test.json       a list of tasks, each with `data` and `annotations`
    images/...                  what data.image names: its path, without `/data/upload/1/` or
                                `?d=` before it, and without the prefix that an upload adds
    config.xml                  optional: the labelling interface, with all names there are

What a category is in a task, for each control (a Choices, Taxonomy or RectangleLabels tag):

- the annotator named it: present; they answered the control without naming it: absent;
- they left the control empty: `blank=unknown` or `absent` for choices and taxonomies; rectangles
  and other regions are absent, since drawing none is the answer;
- choices of `yes` and `no` alone, in capitals or not, are one category with the control's name: yes
  is present, no is absent, an empty control unknown;
- the task was skipped (`was_cancelled`), or nobody has annotated it: unknown;
- several annotators disagree: unknown. An annotation marked `ground_truth` alone counts.

Predictions are not read. Names come from config.xml, or else are all that occur in both files. A
name that several controls have is a category of each: "indoor: yes" and "people: yes". Of a
taxonomy's path `taxonomy=all` takes every name on the way; `leaf` takes the last and leaves those
above it unknown.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from trmml.datasets.base import Boxes, Dataset
from trmml.datasets.files import below_folder, find_file, read_xml
from trmml.datasets.formats.label_studio_tasks import (
    REGIONS,
    Answer,
    Task,
    Taxonomy,
    control_key,
    read_tasks,
)
from trmml.datasets.image_files import UPLOAD_PREFIX, ImageFiles
from trmml.datasets.options import ReaderOptions, Split
from trmml.datasets.tables.names import clean_name, unique_names
from trmml.errors import DataError
from trmml.labels.matrix import LabelMatrix


class LabelStudioOptions(ReaderOptions):
    """Choices of `label-studio`."""

    train: str = Field("train.json", description="the training set's export below the root")
    test: str = Field("test.json", description="the test set's export below the root")
    image_folder: str = Field("images", description="folder of the images below the root")
    image: str = Field("image", description="the key of a task's data that names its image")
    config: str = Field("config.xml", description="the labelling interface, where it is there")
    blank: Literal["unknown", "absent"] = Field(
        "unknown", description="what the names of a choice or taxonomy are that was left empty"
    )
    taxonomy: Taxonomy = Field(
        "all", description="every name on a taxonomy's path, or the last one"
    )


def read_label_studio(root: Path, split: Split, options: LabelStudioOptions) -> Dataset:
    """Return the tasks of an export with what annotators answered; see the module.

    Raises:
        DataError: the export or the interface is missing, damaged or of another form.
    """
    files = {"train": options.train, "test": options.test}
    path = find_file(root, [files[split]], f"the {split} export (option {split}=FILE)", split)
    config = root / options.config
    controls = _interface(config, options) if config.is_file() else {}
    kinds = {name: kind for kind, _, name in (each.partition("/") for each in controls)}
    parts = {
        part: read_tasks(root / file, image=options.image, taxonomy=options.taxonomy, kinds=kinds)
        for part, file in files.items()
        if (root / file).is_file()
    }
    if not config.is_file():
        controls = _used_names(task for part in parts.values() for task in part)
    controls, tasks = _distinct_names(*_questions(controls, parts[split]))
    listed = [name for names in controls.values() for name in names]
    names = unique_names(listed, f"{path}: the controls' list")
    if not names:
        raise DataError(
            f"{path} holds no choice, taxonomy or rectangle that was answered. Export the project "
            "as JSON after annotating, or add config.xml (option config=FILE)."
        )
    if not any(answers for task in tasks for answers in task.annotators):
        raise DataError(
            f"{path}: none of the {len(tasks)} tasks holds an answer. Annotate the project, then "
            "export it again."
        )
    columns = {name: column for column, name in enumerate(names)}
    labels, known = (torch.zeros(len(tasks), len(names), dtype=torch.bool) for _ in range(2))
    boxes = []
    for index, task in enumerate(tasks):
        present, absent = _agreed(task, controls, options, path)
        labels[index, [columns[name] for name in present]] = True
        known[index, [columns[name] for name in present | absent]] = True
        drawn = (box for answers in task.annotators for a in answers for box in a.boxes)
        boxes += [(index, columns[name], edges) for name, edges in drawn if name in present]
    folder = below_folder(options.image_folder, "image_folder", root)
    images = _locate(root, folder, [task.image for task in tasks])
    rows = tuple(task.row for task in tasks)
    return Dataset(root, images, names, LabelMatrix(labels, known), rows, Boxes.collect(boxes))


def _agreed(
    task: Task, controls: Mapping[str, Sequence[str]], options: LabelStudioOptions, path: Path
) -> tuple[set[str], set[str]]:
    """Return what all annotators agree is present, and what all agree is absent."""
    present: list[set[str]] = []
    absent: list[set[str]] = []
    for answers in task.annotators:
        yes = {name for answer in answers for name in answer.names}
        unlisted = yes - {name for listed in controls.values() for name in listed}
        if unlisted:
            raise DataError(
                f"{path}, task {task.row}: {min(unlisted)!r} is no name of {options.config}. "
                "Export the interface again, remove the file, or take taxonomy=all."
            )
        answered = {answer.control for answer in answers}
        if options.blank == "absent":
            answered |= set(controls)
        else:
            answered |= {control for control in controls if control.startswith(REGIONS)}
        present.append(yes)
        implied = {name for answer in answers for name in answer.implied}
        asked = {name for control in answered for name in controls.get(control, ())}
        absent.append(asked - yes - implied)
    if not present:
        return set(), set()
    return set.intersection(*present), set.intersection(*absent)


def _used_names(tasks: Iterable[Task]) -> dict[str, list[str]]:
    """Return all names that occur as an answer of each control, sorted."""
    used: dict[str, set[str]] = {}
    for task in tasks:
        for answers in task.annotators:
            for answer in answers:
                used.setdefault(answer.control, set()).update(answer.names)
    return {control: sorted(used[control]) for control in sorted(used)}


def _questions(
    controls: Mapping[str, Sequence[str]], tasks: Sequence[Task]
) -> tuple[dict[str, Sequence[str]], list[Task]]:
    """Return controls and tasks, where choices of yes and no alone are one category, their name."""
    asked = {control: clean_name(control.partition("/")[2])
             for control, names in controls.items()
             if control.startswith("choices/") and names
             and {name.casefold() for name in names} <= {"yes", "no"}}  # fmt: skip

    def answers(each: Iterable[Answer]) -> tuple[Answer, ...]:
        """The answers as of lists; one without yes or no, or with both, says nothing."""
        return tuple(
            answer._replace(names=frozenset({asked[answer.control]} if said == {"yes"} else ()))
            if answer.control in asked
            else answer
            for answer in each
            if len(said := {name.casefold() for name in answer.names}) == 1
            or answer.control not in asked
        )

    named = {control: [asked[control]] if control in asked else names
             for control, names in controls.items()}  # fmt: skip
    return named, [task._replace(annotators=tuple(map(answers, task.annotators)))
                   for task in tasks]  # fmt: skip


def _distinct_names(
    controls: Mapping[str, Sequence[str]], tasks: Sequence[Task]
) -> tuple[dict[str, list[str]], list[Task]]:
    """Return controls and tasks, where names that several controls have begin with the control."""
    counts = Counter(name for listed in controls.values() for name in listed)

    def full(control: str, name: str) -> str:
        return f"{control.partition('/')[2]}: {name}" if counts[name] > 1 else name

    def renamed(answer: Answer) -> Answer:
        title = partial(full, answer.control)
        boxes = tuple((title(name), edges) for name, edges in answer.boxes)
        names, implied = (frozenset(map(title, each)) for each in (answer.names, answer.implied))
        return Answer(answer.control, names, implied, boxes)

    return (
        {control: [full(control, name) for name in listed] for control, listed in controls.items()},
        [task._replace(annotators=tuple(tuple(map(renamed, each)) for each in task.annotators))
         for task in tasks],
    )  # fmt: skip


def _interface(path: Path, options: LabelStudioOptions) -> dict[str, list[str]]:
    controls: dict[str, list[str]] = {}
    for element in read_xml(path).iter():
        kind = element.tag.lower()
        control = control_key(kind, element.get("name", ""))
        if control is None:
            continue
        inner = [node for node in element.iter() if node.tag in ("Choice", "Label")]
        if kind == "taxonomy" and options.taxonomy == "leaf":
            inner = [node for node in inner if node.find("Choice") is None]
        names = [clean_name(node.get("alias") or node.get("value") or "") for node in inner]
        controls[control] = list(dict.fromkeys(filter(None, names)))
    return controls


def _locate(root: Path, folder: str, images: Sequence[str]) -> tuple[str, ...]:
    """Return where each image lies: by its path, its name, or its name before it was uploaded."""
    files = ImageFiles(root)
    located = []
    for image in images:
        name = image.rpartition("/")[2]
        tries = [f"{folder}/{each}".removeprefix("/")
                 for each in (image, name, UPLOAD_PREFIX.sub("", name))]  # fmt: skip
        places = (files.find(place) for place in (tries[0], image, *tries[1:]))
        located.append(next((place for place in places if place), tries[0]))
    return tuple(located)
