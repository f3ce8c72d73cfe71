"""An ML backend of Label Studio: it asks for predictions, and tells what people annotated.

Images are those of the collection, found by the hash that `trmml data export` wrote into each task,
or by name. Nothing is fetched: a task cannot make this server ask another.

Source of the requests: label_studio_ml/api.py of HumanSignal/label-studio-ml-backend, 2026-08. What
a webhook sends: label_studio/webhooks of HumanSignal/label-studio; `project` has all of its fields.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from fastapi import APIRouter, Response
from pydantic import AwareDatetime, BaseModel, Field

from trmml.curation.answers import Answer, State, Verdict, encoded_id, now
from trmml.datasets.files import parsed_xml
from trmml.errors import DataError
from trmml.exchange.label_studio import TAGS, results_of
from trmml.server.batching import Batcher
from trmml.server.review import Desk

# Answers by the marks in their ids, and whether one that is not taken back itself undoes them.
_GIVEN = """
SELECT *, EXISTS (
    SELECT 1 FROM answers AS undo WHERE undo.undoes = answers.id
    AND NOT EXISTS (SELECT 1 FROM answers AS redo WHERE redo.undoes = undo.id)
) FROM answers
WHERE who LIKE 'label-studio:%' AND answer IS NOT NULL
AND SUBSTR(id, 11, 8) IN (SELECT value FROM json_each(?)) ORDER BY id
"""
YES_NO: dict[str, Verdict] = {"yes": "present", "no": "absent"}


class Task(BaseModel):
    """A task: where its image lies, and what our export told of it."""

    data: dict[str, Any] = {}
    meta: dict[str, Any] | None = None


class Annotation(BaseModel):
    """What a person said of a task."""

    id: int = 0
    completed_by: int | dict[str, Any] | None = None
    updated_at: AwareDatetime | None = None
    result: list[dict[str, Any]] = []


class Wanted(BaseModel):
    """A request for predictions."""

    tasks: list[Task] = Field(default=[], max_length=1000)
    label_config: str | None = None


class Project(BaseModel):
    """A project: its interface, in XML."""

    label_config: str | None = None


class Told(BaseModel):
    """What happened in Label Studio."""

    action: str
    project: Project | None = None
    task: Task | None = None
    annotation: Annotation | None = None
    annotations: list[Annotation] = []


def label_studio_routes(desk: Desk, batcher: Batcher) -> APIRouter:
    """The endpoints that Label Studio knows; its password is the token."""
    router = APIRouter(prefix="/label-studio", tags=["label-studio"])
    version = {"model_version": f"trmml-{desk.queue.collection.run[:12]}"}

    @router.get("/health")
    @router.get("/")
    def health() -> dict[str, str]:
        """Whether the backend lives."""
        return {"status": "UP", "model_class": "trmml"}

    @router.post("/setup")
    def setup(config: dict[str, Any]) -> dict[str, str]:
        """The version of the model; the access token that is sent is not kept."""
        return version

    @router.post("/predict")
    async def predict(wanted: Wanted) -> dict[str, Any]:
        """A prediction for each task, in their order; an empty one for an unknown image."""
        choices = f'name="{TAGS}"' in (wanted.label_config or "")
        found = [await _predicted(task, desk, batcher, choices) for task in wanted.tasks]
        return {"results": [{**each, **version} for each in found]}

    @router.post("/webhook")
    def webhook(told: Told, response: Response) -> dict[str, str]:
        """Annotations become answers in the journal; other news are passed over."""
        if told.action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED"):
            desk.add(_rows(told, desk))
            response.status_code = 201
        return {"status": "ok"}

    return router


async def _predicted(task: Task, desk: Desk, batcher: Batcher, choices: bool) -> dict[str, Any]:
    place = place_of(task, desk)
    if place is None:
        return {"result": [], "score": 0.0}
    with batcher.place():
        found = await batcher.probabilities(desk.paths[place])
    if isinstance(found, DataError):
        return {"result": [], "score": 0.0}
    present = found >= batcher.scorer.thresholds
    names = tuple(batcher.scorer.category_names)
    known = np.ones_like(present)
    result = results_of(names, present, known, "choices" if choices else "yes-no")
    # Label Studio sorts by it, the least sure first.
    return {"result": result, "score": round(float(1 - (4 * found * (1 - found)).max()), 4)}


def place_of(task: Task, desk: Desk) -> int | None:
    """The image of a task in the collection; None where it is not in it, or that is not clear.

    A name counts where nothing stands before it in the task's address, or the collection's folder:
    of `images/B/001.jpg`, `001.jpg` is another image.
    """
    told = (task.meta or {}).get("trmml")
    known = told.get("sha256") if isinstance(told, dict) else None
    if isinstance(known, str):
        return desk.places.get(known)
    try:
        address = urlsplit(str(task.data.get("image", "")))
    except ValueError:
        return None
    path = parse_qs(address.query).get("d", [unquote(address.path)])[0]
    parts, folder = path.strip("/").split("/"), desk.queue.collection.data.root.resolve().name
    starts = [n for n in range(len(parts)) if n == 0 or parts[n - 1] == folder]
    names = ("/".join(parts[start:]) for start in starts)
    found = [desk.by_name[name] for name in names if name in desk.by_name]
    return found[0] if len(found) == 1 else None


def listed(told: Told) -> frozenset[str]:
    """The names in the interface's one list of categories; none where it did not come, or is bad.

    It may show fewer than the run has: those of the table that was exported, or what was left of
    them when somebody changed the interface.
    """
    try:
        root = parsed_xml((told.project and told.project.label_config) or "")
    except ValueError:
        return frozenset()
    lists = (each for each in root.iter("Choices") if each.get("name") == TAGS)
    choices = (choice for each in lists for choice in each.iter("Choice"))
    return frozenset(each.get("alias") or each.get("value") or "" for each in choices)


def verdicts(
    result: Sequence[dict[str, Any]], names: Sequence[str], shown: Collection[str]
) -> dict[str, Verdict]:
    """What an annotation says: yes or no of some categories, or ticks in a list.

    Args:
        result: of the annotation.
        names: of the run's categories.
        shown: in the list; one of them without a tick is absent. Nobody was asked about others.
    """
    said: dict[str, Verdict] = {}
    for each in result:
        value = each.get("value")
        chosen = value.get("choices") if isinstance(value, dict) else None
        if not isinstance(chosen, list):
            continue
        if each.get("from_name") == TAGS:
            said |= {name: "absent" for name in names if name in shown}
            said |= {name: "present" for name in names if name in chosen}
        elif each.get("from_name") in names and str((chosen or [""])[0]) in YES_NO:
            said[str(each["from_name"])] = YES_NO[str(chosen[0])]
    return said


def _rows(told: Told, desk: Desk) -> list[Answer]:
    """The rows of what happened: answers, and what they no longer say taken back."""
    place = None if told.task is None else place_of(told.task, desk)
    image = None if place is None else desk.ids[place]
    if told.action == "ANNOTATIONS_DELETED":
        gone = _given(desk, [each.id for each in told.annotations], image)
        return [_undone(row, f"delete {row.id}") for row, stands in gone if stands]
    if told.annotation is None or place is None:
        return []
    given, at = _given(desk, [told.annotation.id], image), _moment(told.annotation)
    if any(row.id[:10] > encoded_id(at, bytes(10))[:10] for row, _ in given):
        return []  # it is late: a newer state of the annotation came first
    names = desk.queue.collection.category_names
    said = verdicts(told.annotation.result, names, listed(told))
    old = [row for row, stands in given if stands]
    rows = [_undone(row, row.id) for row in old if said.get(row.category) != row.answer]
    same = {row.category for row in old if said.get(row.category) == row.answer}
    return rows + [
        _row(told.annotation, at, desk, place, name, verdict)
        for name, verdict in said.items()
        if name not in same
    ]


def _row(told: Annotation, at: int, desk: Desk, place: int, name: str, verdict: Verdict) -> Answer:
    who = told.completed_by.get("id") if isinstance(told.completed_by, dict) else told.completed_by
    made = encoded_id(at, _mark(told.id) + _digest(f"{at} {name} {verdict}"))
    return Answer(
        made, now(), f"label-studio:{who}", desk.queue.collection.data.images[place],
        desk.ids[place], name, verdict, _was(desk, place, name), None, "typed",
        desk.queue.collection.run[:12],
    )  # fmt: skip


def _was(desk: Desk, place: int, name: str) -> State:
    """What the table says: Label Studio does not tell what its page showed."""
    data = desk.queue.collection.data
    here = place, data.category_names.index(name)
    if not data.matrix.known[here]:
        return "unknown"
    return "present" if data.matrix.labels[here] else "absent"


def _undone(row: Answer, why: str) -> Answer:
    """A row that takes one back; the same however often it is made."""
    made = encoded_id(int(datetime.now(UTC).timestamp() * 1000), _digest(row.id) + _digest(why))
    return row._replace(id=made, at=now(), answer=None, ms=None, undoes=row.id)


def _moment(told: Annotation) -> int:
    """When an annotation became what it is, in milliseconds."""
    return int((told.updated_at or datetime.now(UTC)).timestamp() * 1000)


def _given(desk: Desk, annotations: Sequence[int], image: str | None) -> list[tuple[Answer, bool]]:
    """Rows of annotations, and whether they stand: their numbers are marked in their ids.

    Another Label Studio counts annotations from 1, too, so a number alone means several. An
    annotation is of one image. News of a deleted one do not name it; the newest is meant.

    Args:
        desk: with the journal.
        annotations: their numbers.
        image: id of the image that they are of; None where that is not told.
    """
    marks = {encoded_id(0, _mark(each) + bytes(5))[10:18] for each in annotations}
    rows = [(Answer._make(row), taken) for *row, taken in desk.select(_GIVEN, json.dumps([*marks]))]
    newest = {row.id[10:18]: row.sha256 for row, _ in rows}  # in the order of their times
    return [
        (row, not taken) for row, taken in rows if row.sha256 == (image or newest[row.id[10:18]])
    ]


def _mark(annotation: int) -> bytes:
    return _digest(f"annotation {annotation}")


def _digest(text: str) -> bytes:
    """Five bytes, which are eight letters of an id."""
    return hashlib.sha256(text.encode()).digest()[:5]
