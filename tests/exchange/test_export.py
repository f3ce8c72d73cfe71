"""Each form is written, read again by our own reader, and holds what it can hold."""

import hashlib
import json
import os
import runpy
import sys
import xml.etree.ElementTree as Xml
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from PIL import Image

from tests.sets import N, State, U, Y, boxes, read, states, write, write_images
from trmml.curation.answers import Answer, Answers, new_id, now
from trmml.datasets.base import Boxes, Dataset
from trmml.datasets.formats.folder import read_folder
from trmml.errors import DataError
from trmml.exchange.export import export
from trmml.exchange.source import Source, kind_of, read_journal
from trmml.labels.matrix import LabelMatrix

NAMES = ("cat", "sea buoy", "salt, pepper & <b>", "\u732b")
STATES: list[list[State]] = [[Y, N, U, Y], [U, U, U, U], [N, N, N, N], [U, Y, Y, U]]
IMAGES = ("a.1.png", "trip/b.png", "c d+e%20f.png", "\u00e9.png")
LOSSY = ("fiftyone", "cvat", "coco", "yolo")


def made(root: Path, given: list[list[State]] = STATES, names: tuple[str, ...] = NAMES) -> Dataset:
    """Images with these labels."""
    images = IMAGES[: len(given)]
    write_images(root, images)
    known = torch.tensor([[state is not None for state in row] for row in given])
    labels = torch.tensor([[state is True for state in row] for row in given])
    return Dataset(root, images, names, LabelMatrix(labels, known), tuple(range(len(given))))


def boxed(data: Dataset) -> Dataset:
    """The data with a box for each present pair."""
    pairs = data.matrix.labels.nonzero().tolist()
    return replace(data, boxes=Boxes.collect((i, c, (0.25, 0.5, 0.5, 0.75)) for i, c in pairs))


def again(form: str, data: Dataset, out: Path) -> Dataset:
    """What our own reader makes of an export."""
    if form == "label-studio":
        where = {"train": str(out / "tasks.json"), "config": str(out / "config.xml")}
        return read("label-studio", data.root, image_folder=".", **where)
    if form == "yolo":
        return read("yolo", out)
    files = {"fiftyone": "labels.json", "cvat": "annotations.xml", "coco": "instances.json"}
    blank: Any = None if form == "coco" else "unknown"
    return read_folder(data.root, out / files[form], blank=blank)


def present(data: Dataset) -> set[tuple[str, str]]:
    return {(data.images[i].removeprefix("images/train/"), data.category_names[c])
            for i, c in data.matrix.labels.nonzero().tolist()}  # fmt: skip


def hashes(root: Path) -> dict[str, tuple[str, int]]:
    return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
            for path in root.rglob("*") if path.is_file()}  # fmt: skip


@pytest.mark.parametrize("form", ["wide", "parquet"])
def test_tables_come_back_as_they_were(tmp_path: Path, form: Any) -> None:
    data = made(tmp_path / "in")
    out = tmp_path / f"new.{'parquet' if form == 'parquet' else 'csv'}"
    done = export(form, Source.of_people(data), out)
    assert states(read_folder(data.root, out)) == STATES
    assert read_folder(data.root, out).category_names == NAMES
    assert (done.present, done.absent, done.unknown, done.lost) == (4, 5, 7, ())


def test_a_long_table_holds_the_same_pairs(tmp_path: Path) -> None:
    data = made(tmp_path / "in")
    export("long", Source.of_people(data), tmp_path / "long.csv")
    assert states(read_folder(data.root, tmp_path / "long.csv", categories=NAMES)) == STATES
    split = replace(data, category_names=("cat", "a;b", "c", "d"))
    with pytest.raises(DataError, match="'a;b' holds ';', so no list holds it"):
        export("long", Source.of_people(split), tmp_path / "split.csv")
    assert not (tmp_path / "split.csv").exists()


def test_questions_of_label_studio_keep_the_three_states(tmp_path: Path) -> None:
    data, before = made(tmp_path / "in"), hashes(tmp_path)
    done = export("label-studio", Source.of_people(data), tmp_path / "out")
    back = again("label-studio", data, tmp_path / "out")
    assert (back.images, back.category_names, states(back)) == (IMAGES, NAMES, STATES)
    assert done.lost == () and sorted(os.listdir(tmp_path / "out")) == ["config.xml", "tasks.json"]
    assert hashes(tmp_path / "in").items() <= before.items()


def test_a_list_of_label_studio_says_what_it_loses(tmp_path: Path) -> None:
    data = made(tmp_path / "in")
    done = export("label-studio", Source.of_people(data), tmp_path / "out", ask="choices")
    back = again("label-studio", data, tmp_path / "out")
    assert present(back) == present(data) and back.category_names == NAMES
    assert states(back)[0] == [Y, N, N, Y]  # what is not ticked counts as absent
    assert "also 7 unknown pairs; trmml.csv keeps the three states" in done.lost[0]
    assert states(read_folder(data.root, tmp_path / "out/trmml.csv")) == STATES


@pytest.mark.parametrize("form", LOSSY)
def test_lossy_forms_hold_what_is_present_and_a_table_the_rest(tmp_path: Path, form: Any) -> None:
    data = boxed(made(tmp_path / "in"))
    before = hashes(tmp_path)
    done = export(form, Source.of_people(data), tmp_path / "out")
    back = again(form, data, tmp_path / "out")
    assert present(back) == present(data) and back.category_names == tuple(
        sorted(NAMES) if form in ("fiftyone", "cvat") else NAMES
    )
    assert done.lost and "trmml.csv keeps the three states" in done.lost[0]
    assert states(read_folder(data.root, tmp_path / "out/trmml.csv")) == STATES
    assert hashes(tmp_path / "in").items() <= before.items()


@pytest.mark.parametrize("form", [*LOSSY[:3], "label-studio"])
def test_the_table_beside_a_form_has_no_tag_of_a_run(tmp_path: Path, form: Any) -> None:
    data = made(tmp_path / "in")
    source = replace(Source.of_people(data), tags=~data.matrix.known)
    ask: Any = "choices" if form == "label-studio" else None
    done = export(form, source, tmp_path / "out", image_level=form == "coco", ask=ask)
    assert states(read_folder(data.root, tmp_path / "out/trmml.csv")) == STATES
    assert "without the 7 tags of the run" in done.lost[-1]


def test_coco_tells_us_what_is_absent_and_what_unknown(tmp_path: Path) -> None:
    data = boxed(made(tmp_path / "in"))
    export("coco", Source.of_people(data), tmp_path / "out")
    back = again("coco", data, tmp_path / "out")
    assert states(back) == STATES and boxes(back) == boxes(data)


def test_coco_of_tags_only_as_boxes_around_the_whole(tmp_path: Path) -> None:
    data = made(tmp_path / "in")
    with pytest.raises(DataError, match=r"4 of 4 present pairs have no box, first 'cat' in a\.1"):
        export("coco", Source.of_people(data), tmp_path / "out")
    assert os.listdir(tmp_path) == ["in"]
    export("coco", Source.of_people(data), tmp_path / "out", image_level=True)
    back = again("coco", data, tmp_path / "out")
    assert states(back) == STATES and boxes(back) == []  # nobody drew them
    tree = json.loads((tmp_path / "out/instances.json").read_text())
    first = tree["annotations"][0]
    assert first["bbox"] == [0, 0, 8, 4] and first["area"] == 32 and first["iscrowd"] == 0
    assert first["attributes"] == {"image_level": True}


def test_yolo_needs_boxes_and_links_to_the_images(tmp_path: Path) -> None:
    data = made(tmp_path / "in")
    with pytest.raises(DataError, match=r"YOLO's files say nothing but boxes\. .* --image-level"):
        export("yolo", Source.of_people(data), tmp_path / "out")
    data = boxed(data)
    done = export("yolo", Source.of_people(data), tmp_path / "out")
    assert (tmp_path / "out/images/train/a.1.png").is_symlink() and done.boxes == 4
    back = again("yolo", data, tmp_path / "out")
    assert [box[1:] for box in boxes(back)] == [box[1:] for box in boxes(data)]
    unknown = back.images.index("images/train/trip/b.png")
    assert states(back)[unknown] == [U, U, U, U]  # nobody answered, so it has no label file
    export("yolo", Source.of_people(data), tmp_path / "copy", images="copy")
    assert not (tmp_path / "copy/images/train/a.1.png").is_symlink()


def test_boxes_of_cvat_stand_for_tags(tmp_path: Path) -> None:
    data = made(tmp_path / "in")
    one = replace(data, boxes=Boxes.collect([(0, 0, (0.25, 0.5, 0.5, 0.75))]))
    done = export("cvat", Source.of_people(one), tmp_path / "out")
    tree = Xml.parse(tmp_path / "out/annotations.xml")
    box, tag = next(iter(tree.iter("image")))
    assert box.tag == "box" and [box.get(e) for e in ("xtl", "ytl", "xbr", "ybr")] == [
        "2.00", "2.00", "4.00", "3.00",
    ]  # fmt: skip
    assert tag.get("label") == "\u732b" and tag.get("source") == "manual" and done.boxes == 1


def test_forms_without_boxes_say_that_they_are_left_out(tmp_path: Path) -> None:
    data = boxed(made(tmp_path / "in"))
    done = export("wide", Source.of_people(data), tmp_path / "out.csv")
    assert done.lost == ("4 boxes are left out",)


def test_a_turned_image_has_the_size_it_is_shown_in(tmp_path: Path) -> None:
    data = made(tmp_path / "in", STATES[:1])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(data.root / "a.1.png", exif=exif)
    export("cvat", Source.of_people(data), tmp_path / "out")
    image = next(Xml.parse(tmp_path / "out/annotations.xml").iter("image"))
    assert (image.get("width"), image.get("height")) == ("4", "8")


def run_says(data: Dataset) -> Source:
    """The data with what a run of made-up probabilities says."""
    chances = torch.linspace(0.05, 0.95, len(data) * len(data.category_names))
    chances = chances.reshape(len(data), -1)
    tags = (chances > 0.5) & ~data.matrix.known
    return Source(data, tags, chances, torch.tensor([0.25, 1.0, 0.0, 0.5]), "0123456789ab")


def test_tags_of_a_run_are_predictions_and_never_what_people_know(tmp_path: Path) -> None:
    data = made(tmp_path / "in")
    done = export("label-studio", run_says(data), tmp_path / "out")
    tasks = json.loads((tmp_path / "out/tasks.json").read_text())
    assert states(again("label-studio", data, tmp_path / "out")) == STATES
    assert [task["predictions"][0]["score"] for task in tasks] == [0.75, 0.0, 1.0, 0.5]
    assert tasks[0]["predictions"][0]["model_version"] == "trmml-0123456789ab"
    assert tasks[0]["meta"]["trmml"]["probabilities"]["cat"] == 0.05
    sha256 = hashlib.sha256((data.root / IMAGES[0]).read_bytes()).hexdigest()
    assert tasks[0]["meta"]["trmml"]["sha256"] == sha256
    last = {result["from_name"]: result["value"]["choices"]
            for result in tasks[3]["predictions"][0]["result"]}  # fmt: skip
    assert last == {"cat": ["yes"], "sea buoy": ["yes"], "salt, pepper & <b>": ["yes"],
                    "\u732b": ["yes"]}  # fmt: skip
    assert "annotations" not in tasks[1] and tasks[1]["predictions"][0]["result"] == []
    assert done.tags == 2 and done.present == 6


def test_tags_of_a_run_are_marked_where_the_form_can(tmp_path: Path) -> None:
    source = run_says(made(tmp_path / "in"))
    export("cvat", source, tmp_path / "cvat")
    tags = [tag for image in Xml.parse(tmp_path / "cvat/annotations.xml").iter("image")
            for tag in image]  # fmt: skip
    assert [tag.get("source") for tag in tags].count("auto") == 2
    back = read_folder(source.data.root, tmp_path / "cvat/annotations.xml", blank="unknown")
    assert present(back) == present(source.data)  # what a run said is no label
    export("fiftyone", source, tmp_path / "fiftyone")
    labels = json.loads((tmp_path / "fiftyone/labels.json").read_text())["labels"]
    assert labels["\u00e9"][0] == {"label": "cat", "confidence": 0.77}
    assert labels["a.1"] == [{"label": "cat"}, {"label": "\u732b"}]


def test_names_that_a_form_cannot_hold(tmp_path: Path) -> None:
    def refused(form: Any, names: tuple[str, ...], message: str, **how: Any) -> None:
        data = boxed(made(tmp_path / "in", names=names))
        with pytest.raises(DataError, match=message):
            export(form, Source.of_people(data), tmp_path / "out", **how)
        assert os.listdir(tmp_path) == ["in"]

    refused("wide", ("Image", *NAMES[1:]), "'Image' has the name of the column of images")
    refused("label-studio", ("$cat", *NAMES[1:]), "begins with [$], as data of a task does")
    refused("label-studio", ("id", *NAMES[1:]), "'id' cannot name a question: .* --ask choices")
    refused("cvat", ("a\nb", *NAMES[1:]), "holds a line break, a control character")
    refused("yolo", ("a\x85b", *NAMES[1:]), "which YOLO's list of names cannot hold")


def test_images_whose_names_a_form_cannot_tell_apart(tmp_path: Path) -> None:
    data = boxed(made(tmp_path / "in"))
    (data.root / "a.1.jpg").write_bytes((data.root / "a.1.png").read_bytes())
    twice = replace(data, images=("a.1.png", "a.1.jpg", *IMAGES[2:]))
    for form in ("fiftyone", "yolo"):
        with pytest.raises(DataError, match="are one name without their suffix"):
            export(form, Source.of_people(twice), tmp_path / "out")  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("form", ["wide", "long", "parquet", *LOSSY, "label-studio"])
def test_an_image_that_is_listed_twice(tmp_path: Path, form: Any) -> None:
    data = boxed(made(tmp_path / "in"))
    source = Source.of_people(replace(data, images=(*IMAGES[:3], IMAGES[0])))
    how: dict[str, Any] = {"ask": "choices"} if form == "label-studio" else {}
    with pytest.raises(DataError, match=r"1 images are listed more than once, as 'a.1.png', and"):
        export(form, source, tmp_path / "out", **how)
    assert os.listdir(tmp_path) == ["in"]


def test_two_tasks_of_one_image_stay_two(tmp_path: Path) -> None:
    given = [*STATES[:3], STATES[0]]
    data = made(tmp_path / "in", given)
    source = Source.of_people(replace(data, images=(*IMAGES[:3], IMAGES[0])))
    export("label-studio", source, tmp_path / "out")
    assert states(again("label-studio", data, tmp_path / "out")) == given


def test_an_address_that_could_mean_two_files(tmp_path: Path) -> None:
    data = made(tmp_path / "in", STATES[:1])
    (data.root / "in").mkdir()
    with pytest.raises(DataError, match="holds a folder of its own name"):
        export("label-studio", Source.of_people(data), tmp_path / "out")
    export("label-studio", Source.of_people(data), tmp_path / "out", base_url="https://x.org/p")
    task = json.loads((tmp_path / "out/tasks.json").read_text())[0]
    assert task["data"]["image"] == "https://x.org/p/a.1.png"


def test_nothing_is_written_over_nor_half_written(tmp_path: Path) -> None:
    data = made(tmp_path / "in")
    write(tmp_path, {"old.csv": "old"})
    for out in (tmp_path / "old.csv", tmp_path / "in"):
        with pytest.raises(DataError, match="there already, and nothing is written over"):
            export("wide", Source.of_people(data), out)
    (data.root / IMAGES[3]).write_bytes(b"no image")
    with pytest.raises(DataError, match="png"):
        export("cvat", Source.of_people(data), tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["in", "old.csv"]


def test_what_a_source_is(tmp_path: Path) -> None:
    write(tmp_path, {"run/model.json": "{}", "a.csv": "image,cat\n", "set/train.csv": ""})
    Answers(tmp_path / "a.sqlite").close()
    kinds = [kind_of(tmp_path / name) for name in ("run", "a.csv", "set", "a.sqlite")]
    assert kinds == ["run", "table", "data", "journal"]
    with pytest.raises(DataError, match=r"nothing does not exist\. Name a run, a table"):
        kind_of(tmp_path / "nothing")


def test_a_journal_knows_images_by_content(tmp_path: Path) -> None:
    data = made(tmp_path / "in")

    def row(image: str, category: str, answer: Any) -> Answer:
        content = (data.root / image).read_bytes()
        return Answer(new_id(), now(), "", f"old/{image}", hashlib.sha256(content).hexdigest(),
                      category, answer, "unknown", 0.5, "learn", "")  # fmt: skip

    with Answers(tmp_path / "a.sqlite") as journal:
        journal.add([row(IMAGES[1], "cat", "present"), row(IMAGES[3], "dog", "absent"),
                     row(IMAGES[0], "cat", "skip")])  # fmt: skip
    applied = read_journal(tmp_path / "a.sqlite", data.root)
    assert sorted(applied.data.images) == sorted([IMAGES[1], IMAGES[3]])
    by_image = dict(zip(applied.data.images, states(applied.data), strict=True))
    assert by_image == {IMAGES[1]: [Y, U], IMAGES[3]: [U, N]}
    write_images(tmp_path / "other", ["x.png"])
    (tmp_path / "other/x.png").write_bytes(b"another")
    with pytest.raises(DataError, match="settles nothing about an image below"):
        read_journal(tmp_path / "a.sqlite", tmp_path / "other")


def test_a_journal_has_the_categories_of_settled_pairs(tmp_path: Path) -> None:
    data = made(tmp_path / "in", STATES[:2])
    sha256 = hashlib.sha256((data.root / IMAGES[0]).read_bytes()).hexdigest()
    seen = Answer(new_id(), now(), "", IMAGES[0], sha256, "cafe\u0301", "present", "unknown", 0.5,
                  "learn", "")  # fmt: skip
    taken = seen._replace(id=new_id(), category="taken")
    undone = taken._replace(id=new_id(), answer=None, undoes=taken.id)
    more: list[tuple[str, Any]] = [
        ("caf\u00e9", "present"), ("dog", "skip"), ("owl", "unsure"), ("fox", "absent"),
    ]  # fmt: skip
    rows = [seen._replace(id=new_id(), category=name, answer=answer) for name, answer in more]
    elsewhere = seen._replace(id=new_id(), sha256="0" * 64, image="else.png", category="cow")
    with Answers(tmp_path / "a.sqlite") as journal:
        journal.add([seen, taken, undone, *rows, elsewhere])
    applied = read_journal(tmp_path / "a.sqlite", data.root)
    assert applied.data.category_names == ("caf\u00e9", "fox") and applied.other_images == 1
    export("wide", Source.of_people(applied.data), tmp_path / "new.csv")
    back = read_folder(data.root, tmp_path / "new.csv")
    assert (back.images, states(back)) == ((IMAGES[0],), [[Y, N]])


def test_parquet_has_three_states_a_column(tmp_path: Path) -> None:
    export("parquet", Source.of_people(made(tmp_path / "in")), tmp_path / "new.parquet")
    frame = pl.read_parquet(tmp_path / "new.parquet")
    assert frame["cat"].to_list() == [True, None, False, None]


def test_the_example_brings_all_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = Path(__file__).parents[2] / "examples" / "exchange.py"
    monkeypatch.setattr(sys, "argv", [str(example), str(tmp_path)])
    runpy.run_path(str(example))
    told = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    assert told[0].endswith("unknown")
    assert told[0] == told[1] == told[3] == told[4]
