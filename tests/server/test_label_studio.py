"""Label Studio's requests, as its ML backends get them."""

import pytest

from tests.server.conftest import TOKEN, Served, make
from tests.server.test_api import kept
from trmml.curation.standing import standing
from trmml.datasets.formats.folder import read_folder
from trmml.exchange.label_studio import _config
from trmml.server.review import Desk

CATEGORIES = ("red", "green", "blue", "yellow")


@pytest.fixture
def studio(finished_run, toy_images, tmp_path) -> Served:
    return make(finished_run, toy_images, tmp_path, label_studio=True)


def task(name: str) -> dict[str, object]:
    return {"id": 1, "data": {"image": f"/data/local-files/?d=images/{name}"}}


def say(client, action, number=7, at="2026-11-29T10:00:00Z", about=None, **choices):
    result = [
        {"from_name": name, "to_name": "image", "type": "choices", "value": {"choices": [value]}}
        for name, value in choices.items()
    ]
    body = {
        "action": action, "task": about or task("003.png"),
        "annotations": [{"id": number}],
        "annotation": {"id": number, "completed_by": 4, "updated_at": at, "result": result},
    }  # fmt: skip
    return client.post("/label-studio/webhook", json=body)


def told(studio):
    """What stands, by category."""
    found = standing(kept(studio)).last
    return {category: state for (_, category), (_, state) in found.items()}


def test_it_lives_and_names_its_version(studio) -> None:
    client = studio.client()
    assert client.get("/label-studio/health").json() == {"status": "UP", "model_class": "trmml"}
    body = {"project": "1.1", "schema": "<View/>", "access_token": "secret"}
    answer = client.post("/label-studio/setup", json=body)
    assert answer.json()["model_version"].startswith("trmml-") and "secret" not in answer.text


def test_a_password_serves_and_nothing_else(studio) -> None:
    client = studio.client()
    del client.headers["Authorization"], client.headers["X-Trmml"]
    body = {"tasks": [task("003.png")]}
    assert client.post("/label-studio/predict", json=body).status_code == 401
    client.auth = ("label-studio", TOKEN)
    assert client.post("/label-studio/predict", json=body).status_code == 200


@pytest.mark.parametrize("ask", ["yes-no", "choices"])
def test_predictions_are_in_the_form_of_the_interface(studio, ask) -> None:
    tasks = [task("003.png"), task("nothing.png"), {"data": {"image": "http://[x"}}]
    body = {"tasks": tasks, "label_config": _config(CATEGORIES, ask)}
    results = studio.client().post("/label-studio/predict", json=body).json()["results"]
    assert len(results) == 3 and results[1]["result"] == results[2]["result"] == []
    names = [each["from_name"] for each in results[0]["result"]]
    assert names == list(CATEGORIES) if ask == "yes-no" else set(names) <= {"tags"}
    assert 0 <= results[0]["score"] <= 1


def test_annotations_land_in_the_journal_once(studio) -> None:
    client = studio.client()
    for _ in range(2):  # Label Studio sends again where it heard nothing
        answer = say(client, "ANNOTATION_CREATED", red="yes", green="no")
        assert answer.status_code == 201 and answer.json() == {"status": "ok"}
    rows = kept(studio)
    assert len(rows) == 2 and told(studio) == {"red": "present", "green": "absent"}
    assert {row.who for row in rows} == {"label-studio:4"} and rows[0].image == "003.png"


def test_a_changed_annotation_replaces_and_a_deleted_one_takes_back(studio) -> None:
    client = studio.client()
    say(client, "ANNOTATION_CREATED", red="yes", green="no")
    say(client, "ANNOTATION_UPDATED", at="2026-11-29T11:00:00Z", green="yes")
    assert told(studio) == {"green": "present"}
    say(client, "ANNOTATION_CREATED", number=8, blue="no")
    for _ in range(2):
        say(client, "ANNOTATIONS_DELETED")
    assert told(studio) == {"blue": "absent"}
    assert (
        client.post("/label-studio/webhook", json={"action": "START_TRAINING"}).status_code == 200
    )


@pytest.mark.parametrize(
    ("project", "absent"),
    [
        ({"label_config": _config(CATEGORIES, "choices")}, {"red", "green", "yellow"}),
        # The table that was exported lacks categories of the run; nobody was asked about those.
        ({"label_config": _config(("red", "blue", "zebra"), "choices")}, {"red"}),
        ({"label_config": _config(CATEGORIES, "yes-no")}, set()),
        ({"label_config": "<View"}, set()),
        ({"label_config": None}, set()),
        ({}, set()),
        (None, set()),
    ],
)
def test_what_the_list_shows_without_a_tick_is_absent(studio, project, absent) -> None:
    result = [{"from_name": "tags", "value": {"choices": ["blue", "zebra"]}}]
    body = {
        "action": "ANNOTATION_CREATED",
        "task": task("003.png"),
        "annotation": {"id": 1, "result": result},
        "project": project,
    }
    assert studio.client().post("/label-studio/webhook", json=body).status_code == 201
    assert told(studio) == {"blue": "present"} | dict.fromkeys(absent, "absent")


def test_a_row_tells_what_the_table_says(studio, toy_images) -> None:
    data = read_folder(toy_images.train, toy_images.train_table)
    red = bool(data.matrix.labels[data.images.index("003.png"), 0])
    say(studio.client(), "ANNOTATION_CREATED", red="yes")  # known
    say(studio.client(), "ANNOTATION_CREATED", number=8, about=task("030.png"), red="yes")  # hidden
    assert [row.was for row in kept(studio)] == ["present" if red else "absent", "unknown"]


def test_news_that_come_late_change_nothing(studio) -> None:
    client = studio.client()
    say(client, "ANNOTATION_UPDATED", at="2026-11-29T11:00:00Z", green="yes")
    say(client, "ANNOTATION_CREATED", at="2026-11-29T10:00:00Z", red="yes", green="no")
    assert told(studio) == {"green": "present"} and len(kept(studio)) == 1
    say(client, "ANNOTATIONS_DELETED")
    say(client, "ANNOTATION_CREATED", at="2026-11-29T10:00:00Z", red="yes", green="no")
    assert told(studio) == {}


def test_another_label_studio_may_count_from_one_again(studio) -> None:
    """Numbers of annotations are not its own; that of the image tells them apart."""
    client, other = studio.client(), task("005.png")
    say(client, "ANNOTATION_CREATED", number=1, red="yes", green="no")
    say(client, "ANNOTATION_CREATED", number=1, about=other, at="2026-11-28T10:00:00Z", red="no")
    stands = {(row.image, row.category): row.answer for row in kept(studio)}
    assert stands == {
        ("003.png", "red"): "present", ("003.png", "green"): "absent", ("005.png", "red"): "absent",
    }  # fmt: skip
    client.post(
        "/label-studio/webhook", json={"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 1}]}
    )
    gone = {row.image for row in kept(studio) if row.undoes}
    assert gone == {"003.png"} and told(studio) == {"red": "absent"}
    say(client, "ANNOTATIONS_DELETED", number=1, about=other)
    assert told(studio) == {}


def test_many_are_deleted_by_one_look_at_the_journal(studio, monkeypatch) -> None:
    client, looks = studio.client(), []
    for number in range(5):
        say(client, "ANNOTATION_CREATED", number=number, red="yes")
    real = Desk.select
    monkeypatch.setattr(Desk, "select", lambda *given: looks.append(1) or real(*given))
    body = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": n} for n in range(4)]}
    client.post("/label-studio/webhook", json=body)
    assert len(looks) == 1 and len(kept(studio)) == 9
    assert told(studio) == {"red": "present"}


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("/data/local-files/?d=images/003.png", True),
        ("/data/local-files/?d=003.png", True),
        ("http://photos.example/images/003.png", True),
        ("/data/local-files/?d=images/B/003.png", False),  # of another folder, the same name
        ("http://photos.example/B/003.png", False),
        ("/data/local-files/?d=images/nothing.png", False),
    ],
)
def test_a_name_counts_where_its_folder_is_the_collections(studio, address, found) -> None:
    say(studio.client(), "ANNOTATION_CREATED", about={"data": {"image": address}}, red="yes")
    assert bool(kept(studio)) == found


def test_a_hash_says_more_than_a_name(studio) -> None:
    client, asked = studio.client(), studio.client().get("/api/v1/queue").json()["questions"][0]
    other = {**task("003.png"), "meta": {"trmml": {"sha256": "0" * 64}}}
    say(client, "ANNOTATION_CREATED", about=other, red="yes")
    assert kept(studio) == []
    moved = {"data": {"image": "x/y.png"}, "meta": {"trmml": {"sha256": asked["image"]}}}
    say(client, "ANNOTATION_CREATED", about=moved, red="yes")
    assert kept(studio)[0].image == asked["name"]
