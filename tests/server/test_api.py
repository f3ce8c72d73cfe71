"""What the API answers, and what it keeps."""

import shlex
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from tests.cli.test_main import good
from tests.conftest import TOY_SPEC
from tests.server.conftest import Served, make
from trmml.curation.answers import Answer, Answers, new_id, now
from trmml.deploy.tag import tag
from trmml.errors import DataError
from trmml.search.index import Index
from trmml.server.batching import MOST_WAITING, Batcher
from trmml.server.finding import Searcher, search_routes
from trmml.server.library import Library
from trmml.server.problems import Problem, add_handlers
from trmml.server.serve import listen
from trmml.server.site import Wish, _commands, unlabelled
from trmml.tagging.scorer import Scored


def question(client: TestClient, **query: object) -> dict[str, object]:
    return client.get("/api/v1/queue", params=query).json()["questions"][0]


def row(asked, answer, **others):
    plain = {name: asked[name] for name in ("image", "category", "was", "p", "why")}
    return {"id": new_id(), "answer": answer, "ms": 700, "undoes": None, **plain, **others}


def keep(client: TestClient, *rows):
    return client.post("/api/v1/answers", json={"answers": rows})


def kept(served: Served):
    with Answers(served.answers) as journal:
        return journal.rows()


@pytest.fixture
def own(finished_run, toy_images, tmp_path) -> Served:
    return make(finished_run, toy_images, tmp_path)


def test_tags_are_those_of_the_command(client, served, finished_run) -> None:
    files = sorted(served.images.iterdir())[:3]
    sent = [("image", path.read_bytes()) for path in files]
    told = client.post("/api/v1/tag", files=sent).json()["images"]
    wanted = tag(finished_run, files, encoder=TOY_SPEC)
    for got, image in zip(told, wanted, strict=True):
        assert got["tags"] == image.to_dict()["tags"]
    again = {"images": [each["image"] for each in told]}
    assert client.post("/api/v1/tag", json=again).json()["images"] == told
    top = client.post("/api/v1/tag?top=1", json=again).json()["images"]
    assert [len(each["tags"]) for each in top] == [1, 1, 1]


def test_an_explanation_has_maps_and_images_alike(client) -> None:
    asked = question(client)
    name = asked["category"]
    query = {"explain": "true", "top": 1, "category": name}
    told = client.post("/api/v1/tag", params=query, json={"images": [asked["image"]]}).json()
    maps = told["images"][0]["maps"]
    assert len(maps["values"][name]) == maps["rows"] * maps["columns"] == 9
    assert max(maps["values"][name]) == 1
    assert 0 < len(told["images"][0]["alike"][name]) <= 3
    strange = client.post(
        "/api/v1/tag", params={**query, "category": "x"}, json={"images": [asked["image"]]}
    )
    assert strange.status_code == 422 and "no category 'x'" in strange.json()["detail"]


def test_one_bad_image_among_several_is_told_in_its_place(client, served) -> None:
    good = next(served.images.iterdir()).read_bytes()
    told = client.post("/api/v1/tag", files=[("image", good), ("image", b"junk")]).json()["images"]
    assert "error" not in told[0] and "no image" in told[1]["error"]


def test_an_answer_is_kept_once_however_often_it_is_sent(own) -> None:
    client = own.client()
    asked = question(client)
    said = row(asked, "present")
    assert keep(client, said).json() == {"kept": 1, "new": 1}
    assert keep(client, said, said).json() == {"kept": 2, "new": 0}
    (found,) = kept(own)
    assert (found.id, found.answer, found.category) == (said["id"], "present", asked["category"])
    assert found.sha256 == asked["image"] and found.image == asked["name"] and found.ms == 700
    there = [
        each["image"]
        for each in client.get("/api/v1/queue", params={"category": asked["category"]}).json()[
            "questions"
        ]
    ]
    assert asked["image"] not in there


def reds(client: TestClient) -> list[str]:
    asked = client.get("/api/v1/queue", params={"category": "red", "n": 30}).json()["questions"]
    return [each["image"] for each in asked]


def test_what_is_taken_back_is_asked_again(own) -> None:
    client = own.client()
    for verdict in ("absent", "skip", "unsure"):
        asked = question(client, category="red")
        said = row(asked, verdict)
        keep(client, said)
        assert asked["image"] not in reds(client), verdict
        keep(client, row(asked, None, undoes=said["id"], ms=None))
        assert asked["image"] in reds(client), verdict
    assert client.get("/api/v1/progress").json()["answers"] == 0


def test_a_row_takes_back_one_about_its_own_pair(own) -> None:
    client = own.client()
    asked, other = client.get("/api/v1/queue", params={"category": "red"}).json()["questions"][:2]
    said, later = row(asked, "present"), new_id()
    keep(client, said)
    for strange in (other, {**asked, "category": "blue"}):
        back = row(strange, None, undoes=said["id"], ms=None)
        answer = keep(client, back)
        assert answer.status_code == 422 and said["id"] in answer.json()["detail"]
        together = row(asked, "absent"), row(strange, None, ms=None)
        together[1]["undoes"] = together[0]["id"]
        assert keep(client, *together).status_code == 422
    assert len(kept(own)) == 1 and client.get("/api/v1/progress").json()["answers"] == 1
    assert keep(client, row(asked, None, undoes=later, ms=None)).json()["new"] == 1  # may come
    back = row(asked, None, undoes=said["id"], ms=None)
    assert keep(client, back, row(asked, None, undoes=back["id"], ms=None)).json()["new"] == 2
    assert client.get("/api/v1/progress").json()["answers"] == 1


def test_all_rows_are_kept_or_none(own) -> None:
    client = own.client()
    good = row(question(client), "present")
    for bad, status, words in (
        ({**good, "image": "0" * 64}, 404, "no image of this collection"),
        ({**good, "category": "zebra"}, 422, "no category 'zebra'"),
        ({**good, "answer": None}, 422, "has an answer, or"),
        ({**good, "undoes": good["id"]}, 422, "has an answer, or"),
        ({**good, "id": "x"}, 422, "answers.1.id"),
        ({**good, "p": 2}, 422, "answers.1.p"),
    ):
        answer = keep(client, {**good, "id": new_id()}, bad)
        assert answer.status_code == status and words in answer.json()["detail"], answer.text
    assert kept(own) == []


def test_whole_images_come_with_what_is_known(own) -> None:
    client = own.client()
    first = client.get("/api/v1/queue/images?n=2").json()["images"]
    second = client.get("/api/v1/queue/images?n=2").json()["images"]
    assert len({each["image"] for each in first + second}) == 4
    assert [q["p"] for q in first[0]["questions"]] == sorted(
        (q["p"] for q in first[0]["questions"]), reverse=True
    )
    again = client.get("/api/v1/queue/images?n=2&anew=true").json()["images"]
    assert {each["image"] for each in again} == {each["image"] for each in first}


def test_two_pages_are_not_asked_the_same(own) -> None:
    client = own.client()

    def asked(page: str, **query: str) -> set[tuple[str, str]]:
        told = client.get("/api/v1/queue", params={"n": 5, "page": page, **query}).json()
        return {(each["image"], each["category"]) for each in told["questions"]}

    for query in ({}, {"category": "red"}):
        first, second = asked("one", **query), asked("two", **query)
        assert first and second and not first & second
        assert asked("one", **query) == first  # a page that is loaded again gets what it had
    path = "/api/v1/queue/images?n=2&page="
    first, second = (client.get(path + page).json()["images"] for page in ("one", "two"))
    assert len({each["image"] for each in first + second}) == 4
    assert client.get(path + 65 * "x").status_code == 422


def test_blocks_after_another_are_of_another_category(own) -> None:
    client = own.client()
    name = question(client)["category"]
    assert question(client, after=name)["category"] != name
    assert question(client, category="blue")["category"] == "blue"
    wrong = client.get("/api/v1/queue", params={"category": "zebra"})
    assert wrong.status_code == 422 and "zebra" in wrong.json()["detail"]


def test_suspects_and_progress(own) -> None:
    client = own.client()
    for kind in ("wrong", "missed"):
        told = client.get("/api/v1/queue", params={"kind": kind}).json()["questions"]
        assert all(each["why"] == "suspect" for each in told)
    asked = client.get("/api/v1/queue").json()["questions"]
    keep(client, *(row(each, "present") for each in asked))
    told = client.get("/api/v1/progress").json()
    assert told["answers"] == len(asked) and told["seconds"] == round(0.7 * len(asked))
    worth = client.get("/api/v1/worth").json()
    assert worth["new"] == len(asked) and 0 <= worth["now"] <= 1
    assert client.get("/api/v1/worth").json() == worth


def test_a_server_that_only_reads_keeps_and_makes_nothing(
    finished_run, toy_images, tmp_path
) -> None:
    closed = make(finished_run, toy_images, tmp_path, read_only=True)
    answer = keep(closed.client(), row(question(closed.client()), "present"))
    assert answer.status_code == 403 and "--read-only" in answer.json()["detail"]
    assert closed.client().get("/api/v1/progress").json()["answers"] == 0
    assert not list(tmp_path.glob("answers*"))


def test_a_server_that_only_reads_counts_what_is_there(finished_run, toy_images, tmp_path) -> None:
    said = Answer(new_id(), now(), "", "003.png", "", "red", "absent", "unknown", None, "typed", "")
    with Answers(tmp_path / "answers.sqlite") as journal:
        journal.add([said])
    closed = make(finished_run, toy_images, tmp_path, read_only=True)
    assert closed.client().get("/api/v1/progress").json()["answers"] == 1
    assert kept(closed) == [said]


def test_a_journal_that_is_locked_is_no_fault_of_the_request(
    finished_run, toy_images, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("trmml.curation.answers.BUSY_SECONDS", 0.0)
    own = make(finished_run, toy_images, tmp_path)
    client = own.client()
    said = row(question(client), "present")
    other = sqlite3.connect(own.answers, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = keep(client, said)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
    assert "Another process" in answer.json()["detail"]
    other.execute("ROLLBACK")
    other.close()
    assert keep(client, said).json() == {"kept": 1, "new": 1}


def test_answers_for_another_journal_are_not_taken(own) -> None:
    client = own.client()
    told = row(question(client), "present")
    answer = client.post("/api/v1/answers", json={"answers": [told], "journal": "f" * 16})
    assert answer.status_code == 409 and "--who" in answer.json()["detail"]
    assert kept(own) == []
    journal = client.get("/api/v1/status").json()["journal"]
    answer = client.post("/api/v1/answers", json={"answers": [told], "journal": journal})
    assert answer.status_code == 200 and [each.id for each in kept(own)] == [told["id"]]


def test_the_run_tells_its_figures(client) -> None:
    told = client.get("/api/v1/run").json()
    assert 0 <= told["held_out"]["mean_ap"] <= 1 and len(told["held_out"]["per_category"]) == 4
    status = client.get("/api/v1/status").json()
    assert status["categories"] == ["red", "green", "blue", "yellow"] and status["review"]
    assert "trmml_requests_total" in client.get("/metrics").text


def test_without_an_index_it_says_how_to_make_one(client, served, finished_run) -> None:
    told = client.get("/api/v1/status").json()["make_index"]
    assert told == (
        f"trmml index {served.images} --run {finished_run} --encoder {TOY_SPEC} --out"
        f" {finished_run.name}.index"
    )
    answer = client.post("/api/v1/search", json={"tags": ["red"]})
    assert answer.status_code == 409 and "trmml index" in answer.json()["detail"]


def test_without_a_table_the_commands_make_one_first(own, finished_run) -> None:
    client = own.client()
    told = client.get("/api/v1/status").json()
    made = own.answers.with_name("reviewed.csv")
    keep(client, row(question(client, category="red"), "present"))
    good(*shlex.split(told["apply"].replace("reviewed.csv", str(made)))[1:])
    assert made.read_text().startswith("image,red\n")
    assert told["learn"] == (
        f"trmml review learn {finished_run} --images {own.images} --labels reviewed.csv --answers"
        f" {own.answers} --out {finished_run.name}-2 --encoder {TOY_SPEC}"
    )


def test_commands_take_what_the_server_was_told(
    finished_run, toy_images, tmp_path, monkeypatch
) -> None:
    """With other options they would read other labels than the page shows."""
    wishes: list[Wish] = []
    monkeypatch.setattr("trmml.server.opening.Opening", lambda gate, load: load)
    monkeypatch.setattr(
        "trmml.server.serve.run_server", lambda load, listening: load(lambda *given: None)
    )
    monkeypatch.setattr("trmml.server.site.open_site", lambda wish, *given: wishes.append(wish))
    table = ["--images", toy_images.train, "--labels", toy_images.train_table]
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\n")
    meaning = [f"--categories={names}", "--blank=absent", "--minus-one=absent", "--separator=|"]
    loading = ["--encoder", TOY_SPEC, "--trust"]
    for options in ([], [*meaning, *loading]):
        good("serve", finished_run, "--port", "0", *table, *options)
    plain, told = map(_commands, wishes)
    words = [*map(str, table), "--answers", str(finished_run / "answers.sqlite"), "--out"]
    assert shlex.split(plain["apply"]) == ["trmml", "review", "apply", *words, "reviewed.csv"]
    assert shlex.split(told["apply"])[7:11] == meaning
    assert shlex.split(told["learn"])[8:12] == meaning
    assert shlex.split(told["learn"])[-3:] == loading
    assert told["make_index"].endswith(f"{shlex.join(loading)} --out {finished_run.name}.index")


def test_a_search_for_nothing_or_by_an_unknown_key_is_refused_in_words_of_the_interface() -> None:
    app = FastAPI()
    add_handlers(app)
    app.include_router(search_routes(Mock(spec=Searcher)))
    client = TestClient(app)
    nothing = client.post("/api/v1/search", json={"limit": 3})
    assert nothing.status_code == 422 and "give `text`" in nothing.json()["detail"]
    unknown = client.post("/api/v1/search", json={"query": "a red car"})
    assert unknown.status_code == 422 and "query" in unknown.text


def test_a_file_that_is_like_is_searched_for_by_its_whole_path(tmp_path) -> None:
    searcher = Searcher(Mock(spec=Index, root=tmp_path), Mock(spec=Library))
    (tmp_path / "16:9").mkdir()
    (tmp_path / "16:9/a.png").touch()
    assert searcher._name(tmp_path / "16:9/a.png") == str(tmp_path / "16:9/a.png")
    assert searcher._name(tmp_path / "gone.png") == "gone.png"


def test_a_folder_without_labels_can_be_reviewed(toy_images, finished_run) -> None:
    data = unlabelled(toy_images.test, finished_run)
    assert len(data) == 16 and not data.matrix.known.any()
    assert data.category_names == ("red", "green", "blue", "yellow")


def test_a_large_jpeg_has_the_tags_of_the_command(client, finished_run, tmp_path) -> None:
    """Which decodes it smaller where the encoder allows that."""
    path = tmp_path / "large.jpg"
    noise = np.random.default_rng(3).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=95)
    (expected,) = tag(finished_run, [path], threshold=0.0, encoder=TOY_SPEC)
    answer = client.post("/api/v1/tag?threshold=0", files={"image": path.read_bytes()}).json()
    assert answer["images"][0]["tags"] == expected.to_dict()["tags"]


def test_replies_do_not_wait_for_an_acknowledgement() -> None:
    """A reply is written in two pieces; the second waited 40 ms for the client's word."""
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


class SlowScorer:
    """Counts the images that come together, each its own number."""

    by, ahead, grid, feature_size = "onnxruntime", False, (1, 1), 0

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.category_names, self.thresholds = ["a"], np.zeros(1)

    def prepare(self, source, name=""):
        if source == b"bad":
            raise DataError("no image")
        return np.array([float(source)])

    def score(self, prepared):
        images = np.stack(prepared)
        self.batches.append(len(images))
        time.sleep(0.02)
        if (images < 0).any():
            raise RuntimeError("the model fails")
        return Scored(images, None, images[:, None])


def ask_all(batcher: Batcher, sources):
    import asyncio

    async def every():
        return await asyncio.gather(*map(batcher.probabilities, sources), return_exceptions=True)

    return asyncio.run(every())


def test_images_are_scored_together_and_go_back_to_who_asked() -> None:
    scorer = SlowScorer()
    batcher = Batcher(scorer)
    found = ask_all(batcher, [str(n).encode() for n in range(40)])
    assert [float(each[0]) for each in found] == list(range(40))
    assert sum(scorer.batches) == 40 and max(scorer.batches) == 16
    assert str(ask_all(batcher, [b"bad"])[0]) == "no image"
    assert str(ask_all(batcher, [b"-1"])[0]) == "the model fails"
    assert float(ask_all(batcher, [b"7"])[0][0]) == 7  # it goes on
    batcher.close()
    assert not batcher._thread.is_alive()


def test_beyond_64_requests_it_says_when_to_come_again() -> None:
    batcher = Batcher(SlowScorer())
    batcher.waiting = MOST_WAITING
    with pytest.raises(Problem) as told, batcher.place():
        pass
    assert told.value.status_code == 503 and told.value.headers == {"Retry-After": "1"}
    batcher.waiting = 0
    batcher.close()


def test_a_request_that_takes_too_long_ends(
    finished_run, toy_images, tmp_path, monkeypatch
) -> None:
    slow = make(finished_run, toy_images, tmp_path, seconds=0.3)
    wait = threading.Event()
    monkeypatch.setattr("trmml.server.review.Desk.progress", lambda desk: wait.wait(5) and {})
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(slow.client().get, "/api/v1/progress")
        time.sleep(0.6)
        wait.set()
        answer = asked.result()
    assert answer.status_code == 503 and "Retry-After" in answer.headers
    assert "longer than 0 seconds" in answer.json()["detail"]
