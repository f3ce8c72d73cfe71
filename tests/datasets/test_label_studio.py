import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.sets import N, U, Y, boxes, read, states, write, write_images
from trmml.errors import DataError

Result = dict[str, Any]


def choices(*names: str, control: str = "tag") -> Result:
    return {"type": "choices", "from_name": control, "to_name": "img", "value": {"choices": names}}


def taxonomy(*paths: Any) -> Result:
    return {"type": "taxonomy", "from_name": "kind", "value": {"taxonomy": paths}}


def rectangle(*names: str, x=0.0, y=0.0, width=50.0, height=50.0, rotation=0.0) -> Result:
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation}
    return {"type": "rectanglelabels", "from_name": "box", "original_width": 200,
            "original_height": 100, "value": value | {"rectanglelabels": names}}  # fmt: skip


def task(image: str, *annotations: Any, **more: Any) -> dict[str, Any]:
    """A task; None is an annotation that was skipped."""
    entries = [
        {"was_cancelled": results is None, "result": results or []} for results in annotations
    ]
    return {"id": 1, "data": {"image": image}, "annotations": entries} | more


def write_export(root: Path, tasks: object, file: str = "train.json") -> Path:
    write(root, {file: json.dumps(tasks)})
    return root


def read_tasks(root: Path, *tasks: dict[str, Any], **options: str):
    write_images(root, [f"images/{index}.png" for index in range(len(tasks))])
    return read("label-studio", write_export(root, tasks), **options)


def test_choices(tmp_path):
    data = read_tasks(
        tmp_path,
        task("/data/upload/7/0.png", [choices("dog")]),
        task("1.png", [choices("cat ", "dog")]),
        task("2.png", [{"type": "textarea", "from_name": "t", "value": {"text": ["hm"]}}]),
        task("3.png", None),
        task("4.png"),
        task("5.png", None, [choices("cat")]),
    )
    assert data.category_names == ("cat", "dog") and data.rows == (1, 2, 3, 4, 5, 6)
    assert states(data) == [[N, Y], [Y, Y], [U, U], [U, U], [U, U], [Y, N]]
    assert boxes(data) == []


def test_an_empty_choice_may_mean_none_of_them(tmp_path):
    tasks = [task("0.png", [choices("dog")]), task("1.png", []), task("2.png", None)]
    assert states(read_tasks(tmp_path, *tasks)) == [[Y], [U], [U]]
    assert states(read_tasks(tmp_path, *tasks, blank="absent")) == [[Y], [N], [U]]


def test_two_controls_are_two_questions(tmp_path):
    data = read_tasks(
        tmp_path,
        task("0.png", [choices("cat"), choices("night", control="time")]),
        task("1.png", [choices("day", control="time")]),
    )
    assert data.category_names == ("cat", "day", "night")
    assert states(data) == [[Y, N, Y], [U, Y, N]]


def test_a_name_of_two_controls_is_two_categories(tmp_path):
    def house(indoor: str, people: str) -> list[Result]:
        return [choices(indoor, control="indoor"), choices(people, "cat", control="people")]

    tasks = [task("0.png", house("some", "none")), task("1.png", house("none", "some"))]
    data = read_tasks(tmp_path, *tasks)
    asked = ("indoor: none", "indoor: some", "cat", "people: none", "people: some")
    assert data.category_names == asked
    assert states(data) == [[N, Y, Y, Y, N], [Y, N, Y, N, Y]]
    write_export(tmp_path, [task("0.png", [choices("some", control="indoor")])], "test.json")
    assert read("label-studio", tmp_path, "test").category_names == asked
    assert states(read("label-studio", tmp_path, "test")) == [[N, Y, U, U, U]]


@pytest.mark.parametrize(("yes", "no"), [("yes", "no"), ("Yes", "No"), ("YES", "no")])
def test_choices_of_yes_and_no_are_one_category(tmp_path, yes, no):
    tasks = [
        task("0.png", [choices(yes, control="cat"), choices(no, control="sea buoy")]),
        task("1.png", [choices(no, control="cat"), choices(control="sea buoy")]),
        task("2.png", [choices(yes, no, control="cat")]),
    ]
    data = read_tasks(tmp_path, *tasks)
    assert data.category_names == ("cat", "sea buoy")
    assert states(data) == [[Y, N], [N, U], [U, U]]
    apart = task("0.png", [choices(yes, control="cat")], [choices(no, control="cat")])
    assert states(read_tasks(tmp_path, apart, tasks[1])) == [[U], [N]]


def test_a_name_of_an_interface_s_two_controls(tmp_path):
    write(tmp_path, {"config.xml": CONFIG.replace('"car"', '"cat"').replace('"dog"', '"owl"')})
    tree = taxonomy(["animal", "owl"])
    data = read_tasks(tmp_path, task("0.png", [choices("cat"), tree, rectangle("cat")]))
    names = ("tag: owl", "tag: cat", "box: cat", "animal", "kind: owl")
    assert data.category_names == names and states(data) == [[N, Y, Y, Y, Y]]
    assert [name for _, name, _ in boxes(data)] == ["box: cat"]


def test_names_that_are_still_the_same_are_refused(tmp_path):
    same = [choices("some", control="a"), choices("some", control="b"),
            choices("a: some", control="c")]  # fmt: skip
    with pytest.raises(DataError, match="the controls' list names 'a: some' twice"):
        read_tasks(tmp_path, task("0.png", same))


def test_annotators_who_disagree_leave_it_open(tmp_path):
    data = read_tasks(
        tmp_path,
        task("0.png", [choices("cat", "dog")], [choices("cat")]),
        task("1.png", [choices("owl")], [choices("owl")], None),
        task("2.png", [choices("cat")], []),
    )
    assert states(data) == [[Y, U, N], [N, N, Y], [U, U, U]]
    agreed = task("0.png", [choices("cat")], [choices("dog")])
    agreed["annotations"][1]["ground_truth"] = True
    assert states(read_tasks(tmp_path, agreed, task("1.png", [choices("cat")]))) == [[N, Y], [Y, N]]


def test_predictions_are_not_read(tmp_path):
    guess = {"predictions": [{"result": [choices("dog")]}]}
    data = read_tasks(tmp_path, task("0.png", [choices("cat")], **guess), task("1.png", **guess))
    assert data.category_names == ("cat",) and states(data) == [[Y], [U]]


def test_rectangles(tmp_path):
    data = read_tasks(
        tmp_path,
        task("0.png", [rectangle("car", x=10, y=20), rectangle("bus", x=80, width=40)]),
        task("1.png", [rectangle("car", x=50, y=0, width=20, height=40, rotation=90)]),
        task("2.png", []),
        task("3.png", None),
    )
    assert states(data) == [[Y, Y], [N, Y], [N, N], [U, U]]
    assert boxes(data) == [
        ("images/0.png", "car", (0.1, 0.2, 0.6, 0.7)),
        ("images/0.png", "bus", (0.8, 0.0, 1.0, 0.5)),
        # 40 by 40 pixels at (100, 0); turned clockwise about that corner: to its left
        ("images/1.png", "car", (0.3, 0.0, 0.5, 0.4)),
    ]


def test_a_box_that_not_all_drew_is_left_out(tmp_path):
    data = read_tasks(tmp_path, task("0.png", [rectangle("car")], []))
    assert states(data) == [[U]] and boxes(data) == []


TAXA = (
    task("0.png", [taxonomy(["animal", "dog"])]),
    task("1.png", [taxonomy(["animal"], ["plant", "oak"])]),
)


def test_a_taxonomy_names_what_is_above_too(tmp_path):
    data = read_tasks(tmp_path, *TAXA)
    assert data.category_names == ("animal", "dog", "oak", "plant")
    assert states(data) == [[Y, Y, N, N], [Y, N, Y, Y]]


def test_only_the_last_names_of_a_taxonomy(tmp_path):
    data = read_tasks(tmp_path, *TAXA, taxonomy="leaf")
    assert data.category_names == ("animal", "dog", "oak")
    assert states(data) == [[U, Y, N], [Y, N, Y]]


CONFIG = """<View><Image name="img" value="$image"/>
  <Choices name="tag" toName="img" choice="multiple">
    <Choice value="owl"/><Choice value="Cat" alias="cat"/></Choices>
  <RectangleLabels name="box" toName="img"><Label value="car" background="red"/></RectangleLabels>
  <Taxonomy name="kind" toName="img">
    <Choice value="animal"><Choice value="dog"/></Choice></Taxonomy>
</View>"""


def test_the_interface_names_what_nobody_chose(tmp_path):
    write(tmp_path, {"config.xml": CONFIG})
    one = task("0.png", [choices("cat")])
    data = read_tasks(tmp_path, one)
    assert data.category_names == ("owl", "cat", "car", "animal", "dog")
    assert states(data) == [[N, Y, N, U, U]]
    assert read_tasks(tmp_path, one, taxonomy="leaf").category_names == ("owl", "cat", "car", "dog")
    with pytest.raises(DataError, match=r"task 1: 'fox' is no name of config\.xml"):
        read_tasks(tmp_path, task("0.png", [choices("fox")]))


def test_names_of_both_splits_count(tmp_path):
    write_export(tmp_path, [task("0.png", [choices("owl")])], "test.json")
    assert states(read_tasks(tmp_path, task("0.png", [choices("cat")]))) == [[Y, N]]
    assert states(read("label-studio", tmp_path, "test")) == [[N, Y]]


@pytest.mark.parametrize(
    "source, place",
    [
        ("/data/upload/1/0a1b2c3d-my%20cat.png", "images/0a1b2c3d-my cat.png"),
        ("/data/upload/0a1b2c3d-owl.png", "images/owl.png"),
        ("/data/local-files/?d=trip/a.png", "images/trip/a.png"),
        ("https://example.com/bucket/b.png?token=1", "images/b.png"),
        ("s3://bucket/deep/c.png", "images/c.png"),
        ("photos/d.png", "photos/d.png"),
    ],
)
def test_where_an_image_lies(tmp_path, source, place):
    write_images(tmp_path, [place])
    write_export(tmp_path, [task(source, [choices("cat")])])
    assert read("label-studio", tmp_path).images == (place,)


def test_exports_of_another_kind(tmp_path):
    choice = choices("cat")
    for tree, message in (
        ({"images": []}, "is no list of tasks. Export"),
        ([{"image": "a.png", "tag": "cat"}], "holds no choice"),
        ([task("a.png") | {"data": {"photo": "a.png"}}], "task 1: data has no 'image', but photo"),
        ([task("../a.png", [choices("cat")])], "leads out of the images folder"),
        ([task("a.png")], "holds no choice, taxonomy or rectangle"),
        ([task("a.png", [choices(7)])], r"task 1: choices should be a list .* but is \[7\]"),
        ([task("a.png", [choice | {"value": {"choices": "cat"}}])], r"\[\"cat\"\], but is 'cat'"),
        ([task("a.png", [taxonomy("animal")])], r"task 1: taxonomy should be .*\['animal'\]"),
        ([task("a.png", [taxonomy(["animal", 7])])], r"task 1: taxonomy should be a list"),
        ([task("a.png", ["x"])], r"task 1: 'result' should be a list of objects, but is \['x'\]"),
        ([task("a.png", {"x": 1})], r"task 1: 'result' should be a list of objects, but is {"),
        *(
            ([task("a.png") | {"annotations": entries}], "task 1: 'annotations' should be a list")
            for entries in ([None], [17], {"result": []}, "x")
        ),
        *(
            (
                [task("a.png", [rectangle("cat", x=10) | {"original_height": size}])],
                "no usable number",
            )
            for size in (1e400, -100, "0", 10**400)
        ),
        *(
            ([task("a.png", [rectangle("cat", **edge)])], "task 1: a rectangle lacks x, y")
            for edge in ({"x": "?"}, {"x": 10**400}, {"rotation": 1e400})
        ),
    ):
        with pytest.raises(DataError, match=message):
            read("label-studio", write_export(tmp_path, tree))
    with pytest.raises(DataError, match=r"the test export .option test=FILE. was expected"):
        read("label-studio", tmp_path, "test")


def test_a_project_that_nobody_annotated_is_no_project_without_labels(tmp_path):
    control = '<RectangleLabels name="b"><Label value="gull"/></RectangleLabels>'
    write(tmp_path, {"config.xml": f"<View>{control}</View>"})
    tasks = [{"data": {"image": "a.png"}, "annotations": [{"result": []}]}]
    write(tmp_path, {"train.json": json.dumps(tasks)})
    write_images(tmp_path, ["images/a.png"])
    with pytest.raises(DataError, match="none of the 1 tasks holds an answer"):
        read("label-studio", tmp_path)


# Short exports --------------------------------------------------------------------------------

ROWS = [
    {"image": "/data/upload/1/0.png", "id": 1, "tag": {"choices": ["cat", "dog"]}, "note": "hm"},
    {"image": "/data/upload/1/1.png", "id": 2, "tag": "cat", "annotator": 1, "annotation_id": 2},
    {"image": "/data/upload/1/1.png", "id": 2, "tag": {"choices": ["cat", "dog"]}, "annotator": 2},
    {"image": "/data/upload/1/2.png", "id": 3, "box": [
        {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["fox"],
         "original_width": 200, "original_height": 100}], "kind": [["animal", "owl"]]},
]  # fmt: skip


def as_csv(rows: list[dict[str, Any]]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, keys)
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: v if isinstance(v, str | int) else json.dumps(v) for k, v in row.items()}
        )
    return file.getvalue()


@pytest.mark.parametrize("form", ["json", "csv"])
def test_short_exports_are_read_as_the_whole_one(tmp_path, form: str):
    write_images(tmp_path, [f"images/{index}.png" for index in range(3)])
    write(tmp_path, {f"short.{form}": json.dumps(ROWS) if form == "json" else as_csv(ROWS)})
    data = read("label-studio", tmp_path, train=f"short.{form}")
    assert data.images == ("images/0.png", "images/1.png", "images/2.png")
    assert data.category_names == ("cat", "dog", "fox", "animal", "owl")
    assert states(data) == [[Y, Y, N, U, U], [Y, U, N, U, U], [U, U, Y, Y, Y]]
    assert boxes(data) == [("images/2.png", "fox", (0.0, 0.0, 0.5, 0.5))]


def test_the_interface_tells_a_choice_of_one_from_a_text(tmp_path):
    write_images(tmp_path, ["images/0.png", "images/1.png"])
    rows = [{"image": "0.png", "tag": "cat", "note": "hm"}, {"image": "1.png", "tag": "dog"}]
    write_export(tmp_path, rows)
    with pytest.raises(DataError, match=r"holds no choice.*add config\.xml"):
        read("label-studio", tmp_path)
    choice = '<Choices name="tag"><Choice value="cat"/><Choice value="dog"/></Choices>'
    write(tmp_path, {"config.xml": f'<View>{choice}<TextArea name="note"/></View>'})
    assert states(read("label-studio", tmp_path)) == [[Y, N], [N, Y]]


def test_what_is_neither_json_nor_csv(tmp_path):
    write(tmp_path, {"train.csv": 'a,"b\n'})
    with pytest.raises(DataError, match=r"train\.csv"):
        read("label-studio", tmp_path, train="train.csv")
