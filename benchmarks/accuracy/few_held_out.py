"""How good are trmml's probabilities where few images are held out to fit and calibrate by?

    python -m benchmarks.accuracy.few_held_out --data scenes DIR [--encoder SPEC] [--known 10 100]

A quarter of the training images is set apart, and trmml with its default settings is trained once
on the rest with half of the labels known. Of the images set apart some are drawn as if they were
held out, with a share of their labels known. They fit the sum of the heads and the calibration, by
which the others are scored: cross-entropy in nats a pair, over all labels, the mean over draws. No
test image is read. *Sum* is before calibration, *plain* after the calibration of logits that were
fitted to nothing, *trmml* after that of fitted ones. Prints a table and writes
benchmarks/results/few_held_out_<dataset>.json.
"""

import argparse
import logging
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.accuracy.ablation import held_out_data
from benchmarks.record import write_results
from jaxtyping import Float
from torch import Tensor

from trmml.benchmark.catalog import METHODS
from trmml.benchmark.data import BenchmarkData
from trmml.benchmark.run_cell import for_cell
from trmml.labels.masks import share_known
from trmml.labels.matrix import LabelMatrix
from trmml.method.heads.joined import Heads
from trmml.method.trmml import TRMML
from trmml.metrics.calibration import fit_calibration
from trmml.settings.sections import Settings
from trmml.training.loop import train

TRAINED_SHARE = 0.5
Row = dict[str, float]


def main() -> None:
    """Print the table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs=2, required=True, metavar=("NAME", "ROOT"))
    parser.add_argument("--encoder", default="bundled")
    parser.add_argument("--known", type=int, nargs="+", default=[10, 100], help="percent")
    parser.add_argument("--images", type=int, nargs="+", default=[4, 8, 20, 50, 100, 200])
    parser.add_argument("--draws", type=int, default=12)
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # each draw without both answers would say so
    data = held_out_data(*given.data, given.encoder)
    heads, stacked = trained(data)
    found: dict[str, dict[str, Row]] = {}
    print(f"{'known':>6} {'images':>6} {'sum':>8} {'plain':>8} {'trmml':>8}")
    for percent in given.known:
        for images in given.images:
            row = scored(heads, stacked, data.test.matrix, images, percent / 100, given.draws)
            found.setdefault(f"{percent} %", {})[str(images)] = row
            print(f"{percent:>4} % {images:>6} " + " ".join(f"{v:8.4f}" for v in row.values()))
    tree: dict[str, Any] = {"dataset": data.name, "trained_share": TRAINED_SHARE}
    tree |= {"images": len(data.train), "apart": len(data.test), "draws": given.draws, "seed": 0}
    print(write_results(f"few_held_out_{data.name}", {**tree, "cross_entropy": found}))


def trained(data: BenchmarkData) -> tuple[Float[Tensor, "K N C"], dict[str, Tensor]]:
    """Logits of the heads for the images set apart, and what joins them before any fit."""
    settings = for_cell(Settings(), seed=0, choose_epoch="held-out")
    mask = share_known(TRAINED_SHARE).apply(data.train.matrix, 0)
    source = data.encoded_train.features(pooled=False, views=1)
    names = data.train.category_names
    trainer = METHODS["trmml"].trainer(data.frozen, names, settings, source, mask)
    for record in train(trainer):
        print(f"epoch {record.epoch}/{record.epochs}", end="\r", flush=True)
    model = trainer.model
    assert isinstance(model, TRMML) and model.heads.stacking is not None
    shown = data.encoded_test.features(pooled=False)
    parts = torch.split(torch.arange(len(shown)), 64)
    with torch.no_grad():
        outputs = [model(shown.batch(part)).head_logits for part in parts]
    heads = torch.cat([torch.stack(list(each.values())) for each in outputs], dim=1)
    # The best epoch's averaged weights, as they were before the fit to the images held out.
    start = {n.removeprefix("heads.stacking."): v for n, v in trainer.best.items()
             if n.startswith("heads.stacking.")}  # fmt: skip
    return heads.float(), {**start, "share": model.share.cpu()}


def scored(
    heads: Float[Tensor, "K N C"],
    stacked: dict[str, Tensor],
    truth: LabelMatrix,
    images: int,
    share: float,
    draws: int,
) -> Row:
    """Mean cross-entropy of the images that were not drawn."""
    row = dict.fromkeys(("sum", "plain", "trmml"), 0.0)
    for seed in range(draws):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(truth), generator=generator)
        held, others = order[:images], order[images:]
        known = torch.rand(images, heads.shape[2], generator=generator) < share
        joined = Heads(categories=heads.shape[2], hidden_size=1, settings=Settings()).stacking
        assert joined is not None
        joined.load_state_dict({name: v for name, v in stacked.items() if name != "share"})
        labels = truth.labels[held]
        joined.measure(heads[:, held])
        joined.fit_weights(heads[:, held], labels.float(), known.float(), stacked["share"])
        said, new = (joined(list(heads[:, rows])) for rows in (held, others))
        lines = (fit_calibration(said, labels, known, fitted=each) for each in (False, True))
        logits = (new, *(line.logits(new) for line in lines))
        for name, each in zip(row, logits, strict=True):
            right = truth.labels[others].to(each)
            row[name] += float(F.binary_cross_entropy_with_logits(each, right)) / draws
    return row


if __name__ == "__main__":
    main()
