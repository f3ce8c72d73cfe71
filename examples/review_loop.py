"""The whole loop on drawn scenes, in under a minute: fit, complete, review, learn, tag.

    python examples/review_loop.py FOLDER

A person would answer in `trmml review ask`. Here the complete table of the scenes does.
"""

import sys
from pathlib import Path

import trmml
from trmml.curation.answers import Answers, Verdict
from trmml.curation.collection import read_collection
from trmml.curation.queue import Question, Queue
from trmml.curation.standing import apply_answers

IMAGES = 40  # to answer about

folder = Path(sys.argv[1])
photos, new = folder / "photos", folder / "new"
trmml.scenes(photos, images=240, seed=0, known_share=0.3)
trmml.scenes(new, images=60, seed=1)
encoder = trmml.load_encoder("bundled")
settings = trmml.load_settings(overrides=["training.epochs=4", "training.refit=false"])
truth = trmml.read_folder(photos / "images", photos / "labels.csv")
test = trmml.read_folder(new / "images", new / "labels.csv")


def fit(data: trmml.Dataset, run: Path) -> None:
    """Train a run and say how good it is on new images."""
    for _ in trmml.fit(data, encoder, run, settings=settings):
        pass
    score = trmml.evaluate(trmml.Tagger.load(run), test).metrics.mean_ap
    print(f"{data.matrix.known_share:.0%} known: mAP {100 * score:.1f} on new images")


def ask(question: Question) -> Verdict:
    """What a person would say."""
    column = truth.category_names.index(question.category)
    return "present" if truth.matrix.labels[question.place, column] else "absent"


data = trmml.read_folder(photos / "images", photos / "labels_partial.csv")
fit(data, folder / "first")

completed = trmml.complete(folder / "first", data, accept="precision=0.9")
print(f"complete: {completed.report['present']} labels found present at a precision of 0.9")

with Answers(folder / "answers.sqlite") as answers:
    queue = Queue(read_collection(folder / "first", data), answers)
    for image in queue.next_images(IMAGES):
        queue.answer_all([(asked, ask(asked)) for asked in image])
    answered = apply_answers(data, answers.rows())
print(f"review: {answered.lines()[0]}, {IMAGES} images whole")

fit(answered.data, folder / "second")
for image in trmml.tag(folder / "second", [str(new / "images" / "000001.jpg")]):
    print(image.path, [(tag.category, round(tag.probability, 2)) for tag in image.tags])
