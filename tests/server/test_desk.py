"""What a review costs its server: figures and lists are computed once, and answers never wait."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.server.conftest import Served, listening, make
from tests.server.test_api import keep, question, row
from tests.server.test_library import status
from trmml.curation import live_pairs, queue
from trmml.curation.answers import Answers
from trmml.curation.standing import sha256_of
from trmml.datasets.formats.folder import read_folder
from trmml.errors import DataError
from trmml.server import review, worth
from trmml.server.tagging import Explainer


@pytest.fixture
def own(finished_run, toy_images, tmp_path) -> Served:
    return make(finished_run, toy_images, tmp_path)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each cross-fit of heads."""
    found: list[int] = []
    real = worth.cross_fitted
    monkeypatch.setattr(worth, "cross_fitted", lambda *given: found.append(1) or real(*given))
    return found


def test_other_answers_of_the_same_number_are_weighed_anew(own, fits) -> None:
    client = own.client()
    asked = client.get("/api/v1/queue", params={"category": "red"}).json()["questions"]
    first = [row(each, "present") for each in asked[:4]]
    keep(client, *first)
    assert client.get("/api/v1/worth").json()["new"] == 4 and len(fits) == 2
    client.get("/api/v1/worth")
    assert len(fits) == 2  # nothing is new
    backs = [row(each, None, undoes=said["id"]) for each, said in zip(asked, first, strict=False)]
    keep(client, *backs, *(row(each, "present") for each in asked[4:8]))
    assert client.get("/api/v1/worth").json()["new"] == 4 and len(fits) == 4


def test_a_corrected_label_counts(own, toy_images, fits) -> None:
    client = own.client()
    data = read_folder(toy_images.train, toy_images.train_table)
    place = data.images.index("005.png")  # known at the start
    right = "present" if bool(data.matrix.labels[place, 0]) else "absent"
    wrong = {"present": "absent", "absent": "present"}[right]
    asked = {**question(client), "image": sha256_of(own.images / "005.png"), "category": "red"}
    keep(client, row({**asked, "was": right}, right))
    assert client.get("/api/v1/worth").json()["new"] == 0 and len(fits) == 1
    keep(client, row({**asked, "was": right}, wrong))
    assert client.get("/api/v1/worth").json()["new"] == 1 and len(fits) == 3


def test_what_was_assumed_changes_no_answer_that_came_meanwhile(own) -> None:
    client = own.client()
    asked, other = client.get("/api/v1/queue").json()["questions"][:2]
    given = row(asked, "present")
    keep(client, given)
    sent = [row(each, "absent", assumed=True) for each in (asked, other)]
    for _ in range(2):  # a reply may be lost, and the same be sent again
        assert keep(client, *sent).status_code == 200
    with Answers(own.answers) as journal:
        assert [each.id for each in journal.rows()] == [given["id"], sent[1]["id"]]
    keep(client, row(asked, None, undoes=given["id"]), row(asked, "absent", assumed=True))
    with Answers(own.answers) as journal:  # what was taken back is open again
        assert [each.answer for each in journal.rows()][2:] == [None, "absent"]
    assert keep(client, row(asked, "absent", assumed=True)).json()["new"] == 0


def test_what_was_assumed_changes_no_answer_that_is_sent_with_it(own) -> None:
    """As after the server was away for a while."""
    client = own.client()
    (asked,) = client.get("/api/v1/queue").json()["questions"][:1]
    given, assumed = row(asked, "present"), row(asked, "absent", assumed=True)
    back = row(asked, None, undoes=assumed["id"])
    keep(client, given, assumed, back, row(asked, "absent", assumed=True))
    with Answers(own.answers) as journal:
        assert [each.id for each in journal.rows()] == [given["id"]]


def test_one_computes_what_answers_bought_and_others_do_not_wait(own, monkeypatch) -> None:
    go, began, real = threading.Event(), threading.Event(), worth.cross_fitted

    def slow(*given):
        began.set()
        assert go.wait(20)
        return real(*given)

    monkeypatch.setattr(worth, "cross_fitted", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(own.client().get, "/api/v1/worth")
        try:
            assert began.wait(20)
            told = own.client().get("/api/v1/worth").json()
            assert told["new"] == 0 and told["now"] is None
        finally:
            go.set()
        assert first.result().json()["now"] is not None


def test_suspects_are_listed_once(own, monkeypatch) -> None:
    made, real = [], queue.suspects
    monkeypatch.setattr(
        queue, "suspects", lambda *given, **how: made.append(1) or real(*given, **how)
    )
    for _ in range(3):
        assert own.client().get("/api/v1/queue", params={"kind": "missed"}).status_code == 200
    assert len(made) == 1


def test_no_image_is_read_again_for_an_answer(own, monkeypatch) -> None:
    """Of another person, too: the server knows the hashes of all its images."""
    client = own.client()
    asked = client.get("/api/v1/queue").json()["questions"]
    monkeypatch.setattr(live_pairs, "sha256_of", lambda path: pytest.fail(f"{path} is read"))
    keep(client, *(row(each, "present") for each in asked))
    left = client.get("/api/v1/progress").json()["left"]
    assert client.get("/api/v1/progress").json()["answers"] == len(asked) and left > 0


def test_answers_do_not_wait_for_what_is_counted(own) -> None:
    """Nor for a thread: those of the pool may all be taken."""
    taken = []

    def count(desk):
        taken.append(1)
        assert go.wait(20)
        return {}

    client, go = own.client(), threading.Event()
    asked = question(client)
    with pytest.MonkeyPatch.context() as patch, listening(own.app) as port:
        patch.setattr(review.Desk, "progress", count)
        with ThreadPoolExecutor(45) as pool:
            waiting = [pool.submit(status, port, "/api/v1/progress") for _ in range(45)]
            try:
                while len(taken) < 40:
                    time.sleep(0.01)
                body = json.dumps({"answers": [row(asked, "present")]}).encode()
                assert status(port, "/api/v1/answers", body) == 200
            finally:
                go.set()
            assert {each.result() for each in waiting} == {200}


def test_the_run_is_loaded_once_to_explain() -> None:
    """Though the request that began it was ended for its time, and another asks meanwhile."""
    loads, go = [], threading.Event()

    def load():
        loads.append(1)
        assert go.wait(20)
        return LoadedScorer()

    explainer = Explainer(load, None)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(explainer.explain, b"", ["strange"]) for _ in range(2)]
        time.sleep(0.1)
        go.set()
        for each in asked:
            with pytest.raises(DataError, match="no category"):
                each.result()
    assert len(loads) == 1


class LoadedScorer:
    """A scorer of one category."""

    category_names = ("red",)
