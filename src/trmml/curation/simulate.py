"""A simulated annotator: what answers are worth, by policy, counted in answers and in seconds.

It answers from complete labels, so that nobody has to. After each round a linear head on the
frozen features learns from all answers, and is scored on test images. What questions cost in
seconds is assumed: see `costs.py`. A mark that the head makes beforehand is wrong where its logit
has the other sign.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trmml.curation.costs import block_seconds, image_seconds
from trmml.curation.cross_fit import Head
from trmml.curation.learning_curve import Point
from trmml.curation.policies import BLOCK, Pool, blocks, choose_images, choose_pairs
from trmml.curation.warm_head import learn_on
from trmml.labels.matrix import LabelMatrix
from trmml.metrics.average_precision import average_precisions, mean_defined
from trmml.settings.choices import Asking, Policy, StartRule, Unit


@dataclass(frozen=True, eq=False)
class SimulatedData:
    """What a session needs of a data set.

    Attributes:
        inputs: what the head reads of the images that are asked about.
        features: of the same, whole images, unit length.
        truth: their labels; a pair that is unknown there is never asked about.
        test_inputs: what the head reads of the test images.
        test: labels of the test images.
    """

    inputs: Float[Tensor, "N K"]
    features: Float[Tensor, "N D"]
    truth: LabelMatrix
    test_inputs: Float[Tensor, "M K"]
    test: LabelMatrix


@dataclass(frozen=True)
class Session:
    """What is simulated.

    Attributes:
        policy: how questions are chosen.
        asking: in blocks of one category, or image by image.
        start: which pairs are known at first; see `known_at_first`.
        start_known: share of the pairs, in (0, 1]; of no effect with one positive an image.
        budget: answers or seconds.
        unit: of the budget; rounds are equal in it.
        rounds: after each the head learns and the next questions are chosen.
        flip: share of answers that are wrong, in [0, 1).
        seed: of the start, the flips and the policy `random`.
    """

    policy: Policy
    asking: Asking = "blocks"
    start: StartRule = "share"
    start_known: float = 0.02
    budget: float = 50_000.0
    unit: Unit = "answers"
    rounds: int = 10
    flip: float = 0.0
    seed: int = 0


def simulate(data: SimulatedData, session: Session) -> Iterator[tuple[Point, Float[Tensor, "M C"]]]:
    """Yield where a session stands and its test logits: at its start, then after each round.

    It ends when the budget is spent or nothing is open. The last round may overstep a budget in
    seconds, since what questions cost is known once they are answered.

    Args:
        data: with complete labels, or nearly.
        session: what to simulate.
    """
    answers, matrix = _answers(data.truth.labels, session), known_at_first(data.truth, session)
    head = learn_on(data.inputs, matrix)
    scored = _test_logits(head, data)
    point = Point(_score(scored, data.test))
    yield point, scored
    while point.spent(session.unit) < session.budget:
        logits = data.inputs @ head.weight + head.bias
        pool = Pool(logits, data.truth.known & ~matrix.known, data.features)
        asked, questions = _ask(session, pool, point)
        if not questions:
            return
        matrix = LabelMatrix(torch.where(asked, answers, matrix.labels), matrix.known | asked)
        head = learn_on(data.inputs, matrix, head)
        scored, wrong = _test_logits(head, data), asked & ((logits > 0) != answers)
        point = Point(
            mean_ap=_score(scored, data.test),
            answers=point.answers + int(asked.sum()),
            present=point.present + int((asked & answers).sum()),
            questions=point.questions + questions,
            exceptions=point.exceptions + int(wrong.sum()),
            seconds=point.seconds + _seconds(session, asked, questions, int(wrong.sum())),
        )
        yield point, scored


def known_at_first(truth: LabelMatrix, session: Session) -> LabelMatrix:
    """What of the labels is known before the first question.

    `share`: each pair with one probability. `popular-first`: with a probability in proportion to
    the frequency of its category, as far as the share allows. `single-positive`: one present
    category of each image.
    """
    if session.start == "single-positive":
        return truth.keep_single_positive(session.seed)
    if session.start == "share":
        return truth.hide(session.start_known, session.seed)
    chance = truth.positives.clamp(min=1).float()
    for _ in range(20):  # what the most frequent cannot take goes to the others
        chance = (chance * session.start_known / chance.mean()).clamp(max=1)
    draw = torch.rand(truth.known.shape, generator=torch.Generator().manual_seed(session.seed))
    return LabelMatrix(truth.labels, truth.known & (draw < chance))


def full_score(data: SimulatedData) -> float:
    """Test mAP in [0, 1] of the head with every label known."""
    return _score(_test_logits(learn_on(data.inputs, data.truth), data), data.test)


def _ask(session: Session, pool: Pool, point: Point) -> tuple[Bool[Tensor, "N C"], int]:
    """Pairs of the next round, and in how many blocks or images they are asked about."""
    asked, count = torch.zeros_like(pool.open), _wanted(session, point, pool.open.shape[1])
    seed = session.seed + 1000 * point.answers
    if session.asking == "images":
        images = choose_images(
            session.policy, pool, max(1, round(count / pool.open.shape[1])), seed=seed
        )
        asked[images] = pool.open[images]
        return asked, len(images)
    pairs = choose_pairs(session.policy, pool, max(1, round(count)), seed=seed)
    asked[pairs[:, 0], pairs[:, 1]] = True
    return asked, len(blocks(pairs, pool.logits))


def _wanted(session: Session, point: Point, categories: int) -> float:
    """Answers of the next round: what its budget buys at the price of the answers so far."""
    room = min(session.budget / session.rounds, session.budget - point.spent(session.unit))
    if session.unit == "answers":
        return room
    if point.answers:
        return room * point.answers / point.seconds
    if session.asking == "blocks":
        return room * BLOCK / block_seconds(1, BLOCK, 0)
    return room * categories / image_seconds(1, categories, 0)


def _seconds(session: Session, asked: Bool[Tensor, "N C"], questions: int, wrong: int) -> float:
    if session.asking == "blocks":
        return block_seconds(questions, int(asked.sum()), wrong)
    return image_seconds(questions, asked.shape[1], wrong)


def _answers(labels: Bool[Tensor, "N C"], session: Session) -> Bool[Tensor, "N C"]:
    draw = torch.Generator().manual_seed(session.seed + 2**20)
    return labels ^ (torch.rand(labels.shape, generator=draw) < session.flip)


def _test_logits(head: Head, data: SimulatedData) -> Float[Tensor, "M C"]:
    return data.test_inputs @ head.weight + head.bias


def _score(logits: Float[Tensor, "M C"], test: LabelMatrix) -> float:
    return mean_defined(average_precisions(logits, test.labels, test.known))
