"""What is written for Label Studio has the shape that Label Studio documents and checks.

Tasks: https://labelstud.io/guide/tasks#Basic-Label-Studio-JSON-format, /guide/predictions and
/guide/task_format; `to_name` and `from_name` are names of the interface. The interface: the rules
of label_studio/core/utils/schema/label_config_schema.json (0bc3efb3), told again here for the tags
that we write: an Image has a name and a value; Choices have name, toName and a list of at least two
Choice (one would be no list there), each with a value; names are unique.
"""

import json
import xml.etree.ElementTree as Xml
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.exchange.test_export import NAMES, STATES, made, run_says
from trmml.errors import DataError
from trmml.exchange.export import export
from trmml.exchange.source import Source
from trmml.settings.choices import AskForm


def check_config(path: Path) -> dict[str, list[str]]:
    """The values of each control."""
    view = Xml.parse(path).getroot()
    assert view.tag == "View"
    objects = [element for element in view if element.tag == "Image"]
    assert [(each.get("name"), each.get("value")) for each in objects] == [("image", "$image")]
    controls = {}
    for element in view.iter("Choices"):
        values = [choice.attrib["value"] for choice in element]
        assert {choice.tag for choice in element} == {"Choice"} and len(values) > 1
        assert element.get("toName") == "image" and element.attrib["name"] not in controls
        assert element.get("choice") in ("single", "multiple")
        controls[element.attrib["name"]] = values
    return controls


def check_task(task: dict[str, Any], controls: dict[str, list[str]]) -> None:
    assert set(task) <= {"data", "annotations", "predictions", "meta"}
    assert set(task["data"]) == {"image"} and isinstance(task["data"]["image"], str)
    for entry in (*task.get("annotations", ()), *task["predictions"]):
        ids = [result["id"] for result in entry["result"]]
        assert len(set(ids)) == len(ids)
        for result in entry["result"]:
            assert set(result) == {"id", "from_name", "to_name", "type", "value"}
            assert result["to_name"] == "image" and result["type"] == "choices"
            assert set(result["value"]) == {"choices"} and result["value"]["choices"]
            assert set(result["value"]["choices"]) <= set(controls[result["from_name"]])
    for prediction in task["predictions"]:
        assert set(prediction) == {"model_version", "score", "result"}
        assert isinstance(prediction["model_version"], str) and 0 <= prediction["score"] <= 1


@pytest.mark.parametrize("ask", get_args(AskForm))
def test_tasks_and_interface(tmp_path: Path, ask: AskForm) -> None:
    export("label-studio", run_says(made(tmp_path / "in")), tmp_path / "out", ask=ask)
    controls = check_config(tmp_path / "out/config.xml")
    yes_no = {name: ["yes", "no"] for name in NAMES}
    assert controls == (yes_no if ask == "yes-no" else {"tags": [*NAMES]})
    tasks = json.loads((tmp_path / "out/tasks.json").read_text("utf-8"))
    assert len(tasks) == len(STATES)
    for task in tasks:
        check_task(task, controls)
    urls = [task["data"]["image"] for task in tasks]
    assert urls[2] == "/data/local-files/?d=in/c%20d%2Be%2520f.png"


def test_many_categories_are_one_list_and_one_is_a_question(tmp_path: Path) -> None:
    names = tuple(f"name {number}" for number in range(31))
    many = made(tmp_path / "in", [[True] * 31], names)
    export("label-studio", Source.of_people(many), tmp_path / "many")
    assert list(check_config(tmp_path / "many/config.xml")) == ["tags"]
    one = made(tmp_path / "in", [[True]], ("cat",))
    export("label-studio", Source.of_people(one), tmp_path / "one")
    assert check_config(tmp_path / "one/config.xml") == {"cat": ["yes", "no"]}
    with pytest.raises(DataError, match=r"no list of one choice\. Take --ask yes-no"):
        export("label-studio", Source.of_people(one), tmp_path / "list", ask="choices")
