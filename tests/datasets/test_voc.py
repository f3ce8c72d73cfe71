from pathlib import Path

import pytest

from tests.sets import N, U, Y, boxes, read, states, write, write_images
from trmml.datasets.formats.voc import VOC_NAMES
from trmml.errors import DataError

Thing = tuple[str, int, tuple[int, int, int, int]]
DOG, CAT, CAR = ("dog", "cat", "car")


def annotation(image: str, *things: Thing, size: str = "8 4", more: str = "") -> str:
    """An XML file as VOC has them; an object's part has a box and a name of its own."""
    width, height = size.split()
    objects = "".join(
        f"<object><name>{name}</name><pose>Left</pose><difficult>{hard}</difficult><bndbox>"
        f"<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>"
        "</bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax>"
        "<ymax>2</ymax></bndbox></part></object>"
        for name, hard, box in things
    )
    return (
        f"<annotation><folder>VOC</folder><filename>{image}</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>{objects}{more}</annotation>"
    )


WHOLE = (1, 1, 8, 4)
PART = (3, 2, 4, 4)


def write_devkit(root: Path, year: str = "2007", base: str = "VOCdevkit/VOC2007") -> Path:
    first, second = {"2007": ("trainval", "test"), "2012": ("train", "val")}[year]
    main = f"{base}/ImageSets/Main"
    write(
        root,
        {
            f"{main}/{first}.txt": "\ufeff000012\r\n000005\r\n000009\r\n\r\n",
            f"{main}/{second}.txt": "000001\n",
            f"{main}/cat_{first}.txt": "000012  1\n",
            f"{base}/Annotations/000012.xml": annotation(
                "000012.jpg", (CAT, 0, WHOLE), (CAT, 1, PART), (DOG, 1, PART), (CAT, 0, WHOLE)
            ),
            f"{base}/Annotations/000005.xml": "\ufeff" + annotation("wrong.jpg", (CAR, 1, WHOLE)),
            f"{base}/Annotations/000009.xml": annotation("000009.jpg"),
            f"{base}/Annotations/000001.xml": annotation("000001.jpg", (DOG, 0, PART)),
        },
    )
    numbers = ("000012", "000005", "000009", "000001")
    write_images(root, [f"{base}/JPEGImages/{number}.jpg" for number in numbers])
    return root


def named(data) -> list[dict[str, bool | None]]:
    """What is not absent in each image."""
    rows = (zip(data.category_names, row, strict=True) for row in states(data))
    return [{name: state for name, state in row if state is not False} for row in rows]


DIFFICULT = {
    "negative": [{CAT: Y}, {}, {}],
    "unknown": [{CAT: Y, DOG: U}, {CAR: U}, {}],
    "positive": [{CAT: Y, DOG: Y}, {CAR: Y}, {}],
}


@pytest.mark.parametrize("choice, expected", DIFFICULT.items(), ids=DIFFICULT)
def test_difficult_objects(tmp_path, choice, expected):
    data = read("voc2007", write_devkit(tmp_path), difficult=choice)
    assert data.category_names == VOC_NAMES and len(set(VOC_NAMES)) == 20
    assert list(VOC_NAMES) == sorted(VOC_NAMES)
    assert [Path(name).name for name in data.images] == ["000012.jpg", "000005.jpg", "000009.jpg"]
    assert data.rows == (1, 2, 3) and named(data) == expected
    folder = "VOCdevkit/VOC2007/JPEGImages"
    whole, part = (0.0, 0.0, 1.0, 1.0), (0.25, 0.25, 0.5, 1.0)
    easy = [(f"{folder}/000012.jpg", CAT, whole)]
    hard = [(f"{folder}/000012.jpg", CAT, part), (f"{folder}/000012.jpg", DOG, part),
            (f"{folder}/000005.jpg", CAR, whole)]  # fmt: skip
    assert boxes(data) == (easy + hard if choice == "positive" else easy)


def test_difficult_objects_are_negatives_by_default(tmp_path):
    assert named(read("voc2007", write_devkit(tmp_path))) == DIFFICULT["negative"]


@pytest.mark.parametrize("year, base", [("2007", "VOC2007"), ("2007", "."), ("2012", "VOC2012"),
                                        ("2012", "VOCdevkit/VOC2012")])  # fmt: skip
def test_both_years_wherever_they_were_unpacked(tmp_path, year, base):
    write_devkit(tmp_path, year, base)
    test = read(f"voc{year}", tmp_path, "test")
    assert named(test) == [{DOG: Y}] and test.images[0].endswith("JPEGImages/000001.jpg")
    assert len(read(f"voc{year}", tmp_path)) == 3


def test_the_right_folder_of_another_year(tmp_path):
    with pytest.raises(
        DataError, match=r"image lists of VOC 2012 were .* below .* holds VOCdevkit"
    ):
        read("voc2012", write_devkit(tmp_path))


def test_files_that_do_not_fit(tmp_path):
    base = tmp_path / "VOCdevkit/VOC2007"
    write_devkit(tmp_path)
    (base / "JPEGImages/000005.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of the 3 train images .*000005\.jpg \(entry 2"):
        read("voc2007", tmp_path)
    assert named(read("voc2007", tmp_path, missing="drop")) == [{CAT: Y}, {}]
    file = base / "Annotations/000005.xml"
    for content, message in (
        (annotation("a", ("unicorn", 0, WHOLE)), "'unicorn' is none of the 20 categories"),
        (annotation("a", ("", 0, WHOLE)), "an object without a name"),
        (annotation("a", (CAT, 0, WHOLE), size="wide 4"), "width is 'wide', not a number"),
        (annotation("a", (CAT, 0, (5, 1, 3, 4))), r"000005\.xml has a box with .*\[5\.0, 1\.0, 3"),
        ("<annotation><object>", "is no XML"),
        ("", "is no XML"),
        ("<!DOCTYPE a [<!ENTITY b 'b'>]><annotation/>", "declares a document type"),
    ):
        file.write_text(content)
        with pytest.raises(DataError, match=message):
            read("voc2007", tmp_path)
    file.unlink()
    with pytest.raises(DataError, match=r"trainval\.txt line 2: there is no .*000005\.xml"):
        read("voc2007", tmp_path)
    write(tmp_path, {"VOCdevkit/VOC2007/ImageSets/Main/trainval.txt": "000012\n\n000012\n"})
    with pytest.raises(DataError, match=r"line 3: '000012' is in line 1 already"):
        read("voc2007", tmp_path)
    write(tmp_path, {"VOCdevkit/VOC2007/ImageSets/Main/trainval.txt": "\n"})
    with pytest.raises(DataError, match=r"trainval\.txt is empty"):
        read("voc2007", tmp_path)


# Any folder of such files ---------------------------------------------------------------------


def write_folder(root: Path) -> Path:
    write(
        root,
        {
            "Annotations/b.xml": annotation("b.png", ("zebra", 0, PART), ("owl", 1, PART)),
            "Annotations/trip/a.xml": annotation("trip/a.png", ("owl", 0, PART), size="0 0"),
            "Annotations/c.xml": annotation("c.png", ("fox", 0, WHOLE)),
        },
    )
    write_images(root, ["JPEGImages/b.png", "JPEGImages/trip/a.png", "JPEGImages/c.png"])
    return root


def test_a_folder_with_a_test_list_alone(tmp_path):
    write(write_folder(tmp_path), {"test.txt": "c.xml\r\n"})
    data = read("voc-xml", tmp_path)
    assert data.category_names == ("fox", "owl", "zebra")
    assert data.images == ("JPEGImages/b.png", "JPEGImages/trip/a.png")
    assert states(data) == [[N, Y, Y], [N, Y, N]]
    assert [box[:2] for box in boxes(data)] == [
        ("JPEGImages/b.png", name) for name in ("zebra", "owl")
    ]
    assert states(read("voc-xml", tmp_path, "test")) == [[Y, N, N]]
    assert states(read("voc-xml", tmp_path, blank="unknown")) == [[U, Y, Y], [U, Y, U]]
    assert states(read("voc-xml", tmp_path, difficult="unknown"))[0] == [N, U, Y]
    assert states(read("voc-xml", tmp_path, difficult="negative"))[0] == [N, N, Y]


def test_a_folder_with_lists_and_names(tmp_path):
    lists = {
        "split/one.txt": "trip/a\n",
        "split/two.txt": "c.png\nb\n",
        "names.txt": "zebra\nowl\n",
    }
    write(write_folder(tmp_path), lists)
    options = {"train": "split/one.txt", "test": "split/two.txt"}
    assert states(read("voc-xml", tmp_path, **options)) == [[N, Y, N]]
    assert read("voc-xml", tmp_path, "test", **options).rows == (1, 2)
    assert states(read("voc-xml", tmp_path, train="split/one.txt", categories="names.txt")) == [
        [N, Y]
    ]
    with pytest.raises(DataError, match=r"c\.xml: object 'fox' is none of the 2"):
        read("voc-xml", tmp_path, "test", categories="names.txt", **options)


def test_a_folder_without_what_is_asked_for(tmp_path):
    with pytest.raises(DataError, match=r"XML files .option annotations=FOLDER. were expected in"):
        read("voc-xml", tmp_path)
    write_folder(tmp_path)
    with pytest.raises(DataError, match=r"test list .option test=FILE. was expected at test\.txt"):
        read("voc-xml", tmp_path, "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no XML file to train on"):
        read("voc-xml", tmp_path, annotations="empty")


@pytest.mark.parametrize("name", ["b", "old.jpg", "elsewhere/b.png"])
def test_an_image_is_found_by_the_name_of_its_xml_file(tmp_path, name):
    write(tmp_path, {"Annotations/sub/b.xml": annotation(name, ("owl", 0, WHOLE))})
    write_images(tmp_path, ["JPEGImages/sub/b.JPG"])
    assert read("voc-xml", tmp_path).images == ("JPEGImages/sub/b.JPG",)
    write_images(tmp_path, [f"JPEGImages/{name}.tif", f"JPEGImages/{name}"])  # it exists
    assert read("voc-xml", tmp_path).images == (f"JPEGImages/{name}",)


def test_an_image_that_is_nowhere_is_asked_for_as_it_is_named(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "JPEGImages/c.png").unlink()
    with pytest.raises(DataError, match=r"1 of the 3 train images .*JPEGImages/c\.png"):
        read("voc-xml", tmp_path)


def test_dots_in_names_are_no_suffix(tmp_path):
    for name in ("a.b", "a.c"):
        write(tmp_path, {f"Annotations/{name}.xml": annotation(f"{name}.png", ("owl", 0, WHOLE))})
        write_images(tmp_path, [f"JPEGImages/{name}.png"])
    for line in ("a.b", "a.b.png", "a.b.xml", "a.b.PNG"):
        write(tmp_path, {"test.txt": line})
        assert read("voc-xml", tmp_path, "test").images == ("JPEGImages/a.b.png",)
        assert read("voc-xml", tmp_path).images == ("JPEGImages/a.c.png",)


def test_two_files_of_one_image_are_refused(tmp_path):
    write_folder(tmp_path)
    write(tmp_path, {"Annotations/d.xml": annotation("c.png", ("owl", 0, WHOLE))})
    with pytest.raises(DataError, match=r"d\.xml is of image 'c\.png', and so is .*c\.xml"):
        read("voc-xml", tmp_path)


def test_files_without_any_object_are_asked_about(tmp_path):
    write(tmp_path, {f"Annotations/{name}.xml": annotation(f"{name}.jpg") for name in "ab"})
    write_images(tmp_path, ["JPEGImages/a.jpg", "JPEGImages/b.jpg"])
    write(tmp_path, {"names.txt": "cat\n"})
    with pytest.raises(DataError, match=r"none of the 2 XML files of the train set has an object"):
        read("voc-xml", tmp_path, categories="names.txt")
    for choice, state in (("absent", N), ("unknown", U)):
        data = read("voc-xml", tmp_path, categories="names.txt", blank=choice)
        assert states(data) == [[state], [state]]
