import pytest

from tests.sets import N, U, Y, boxes, read, states, write, write_images
from trmml.errors import DataError

TREE = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><job><labels><label><name>owl</name></label></labels></job></meta>
<image id="0" name="trip/a.png" width="8" height="4">
  <box label="cat" source="manual" occluded="0" xtl="2.00" ytl="1.00" xbr="6.00" ybr="9.00"/>
  <box label="cat" source="auto" occluded="0" xtl="0" ytl="0" xbr="1" ybr="1"/>
  <box label="dog" source="file" occluded="0" rotation="30" xtl="0" ytl="0" xbr="1" ybr="1"/>
</image>
<image id="1" name="b.png" width="8" height="4"><tag label="owl" source="manual"/></image>
</annotations>"""


def test_tags_and_boxes(tmp_path):
    write(tmp_path, {"annotations.xml": TREE})
    write_images(tmp_path, ["images/trip/a.png", "images/b.png"])
    data = read("cvat", tmp_path, blank="unknown")
    assert data.category_names == ("cat", "dog", "owl")
    assert data.images == ("images/trip/a.png", "images/b.png")
    assert states(data) == [[Y, Y, U], [U, U, Y]]
    assert boxes(data) == [("images/trip/a.png", "cat", (0.25, 0.25, 0.75, 1.0))]
    assert states(read("cvat", tmp_path, blank="absent")) == [[Y, Y, N], [N, N, Y]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('xtl="2.00"', 'xtl="two"', "image 1: a box lacks xtl, ytl, xbr or ybr"),
        ('width="8"', "", "image 1: a box lacks xtl, .*, or its image width"),
        ('xtl="2.00"', 'xtl="7"', "image 1 has a box with left, top, right, bottom"),
        ('rotation="30"', 'rotation="round"', "image 1: a box lacks xtl"),
        ("<annotations>", "<!DOCTYPE a><annotations>", "declares a document type"),
        ("annotations>", "annotation>", "belongs to a data set of the kind 'voc-xml'"),
    ],
)
def test_what_is_damaged(tmp_path, old, new, message):
    write(tmp_path, {"annotations.xml": TREE.replace(old, new)})
    write_images(tmp_path, ["images/trip/a.png", "images/b.png"])
    with pytest.raises(DataError, match=message):
        read("cvat", tmp_path, blank="unknown")


def test_a_list_is_no_xml_and_blanks_are_asked_about(tmp_path):
    write(tmp_path, {"annotations.xml": "image,cat\na.png,1\n"})
    with pytest.raises(DataError, match=r"is no XML\. In CVAT, export as"):
        read("cvat", tmp_path, blank="unknown")
    write(tmp_path, {"annotations.xml": TREE})
    with pytest.raises(DataError, match="lists in 'present' what is present, but not what is abs"):
        read("cvat", tmp_path)
