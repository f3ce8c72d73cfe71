"""The training loop: epochs up to the last, the best weights, and training again on all images."""

import time
from collections.abc import Iterator
from pathlib import Path

from trmml.features.base import Progress
from trmml.method.pseudo_labels import PseudoLabeller
from trmml.training.record import EpochRecord
from trmml.training.trainer import Trainer

# The state is written at every epoch's end, and within an epoch when this much time has passed.
STATE_SECONDS = 300.0


def train(
    trainer: Trainer,
    *,
    state: Path | None = None,
    fingerprint: str = "",
    progress: Progress | None = None,
) -> Iterator[EpochRecord]:
    """Run a trainer to its last epoch, then leave the best weights in its model.

    Args:
        trainer: new, or loaded from a state.
        state: where to write the state, or None.
        fingerprint: of data and settings, checked when the state is loaded.
        progress: called with ("epoch k/n", done, total) after each batch.
    """
    yield from _epochs(trainer, trainer.training.epochs, "epoch", state, fingerprint, progress)
    _leave_best(trainer)
    trainer.fit_on_held_out()


def refit(
    trainer: Trainer,
    *,
    state: Path | None = None,
    fingerprint: str = "",
    progress: Progress | None = None,
) -> PseudoLabeller | None:
    """Train the model anew on all images, up to the epoch that the held-out ones have chosen.

    What was fitted to the held-out images stays: the weights of the heads, adapted to their new
    logits, and `held_logits`, by which the model is calibrated.

    Args:
        trainer: after `train`.
        state: where to write the state of the second training, or None; it goes on from there.
        fingerprint: see `train`.
        progress: called with ("again on all images, epoch k/n", done, total).

    Returns:
        The pseudo-labeller that the model learned from; None where it trains without.
    """
    model = trainer.model
    shown = trainer.scored.batch(trainer.some_kept)
    fit = model.held_out_fit(shown)
    model.restart(trainer.start)
    again = Trainer(
        model=model,
        source=trainer.source,
        matrix=trainer.matrix,
        truth=trainer.truth,
        training=trainer.training,
        fabric=trainer.fabric,
        whole=True,
    )
    if state is not None and state.is_file():
        again.load(state, fingerprint)
    last = trainer.best_record["epoch"]
    for _ in _epochs(again, last, "again on all images, epoch", state, fingerprint, progress):
        pass
    _leave_best(again)
    model.keep_held_out_fit(fit, shown)
    return again.pseudo_labeller


def _epochs(
    trainer: Trainer,
    last: int,
    what: str,
    state: Path | None,
    fingerprint: str,
    progress: Progress | None,
) -> Iterator[EpochRecord]:
    """Train up to some epoch, or until held-out mAP rises no more."""
    written = time.monotonic()
    if not trainer.best:
        trainer.begin(progress)
    while trainer.epoch < last and not trainer.has_stalled:
        started = time.monotonic()
        trainer.model.train()
        for _ in trainer.run_epoch():
            if progress is not None:
                progress(f"{what} {trainer.epoch + 1}/{last}", trainer.batch, trainer.batches)
            # After the last batch the epoch is closed first: there is no next batch to go on with.
            whole = trainer.batch % trainer.training.accumulate == 0
            whole = whole and trainer.batch < trainer.batches
            if state is not None and whole and time.monotonic() - written > STATE_SECONDS:
                trainer.save(state, fingerprint)
                written = time.monotonic()
        record = trainer.close_epoch(time.monotonic() - started)
        if state is not None:
            trainer.save(state, fingerprint)
            written = time.monotonic()
        yield record


def _leave_best(trainer: Trainer) -> None:
    trainer.model.load_state_dict(trainer.best)
    trainer.model.freeze_text_features()
    trainer.model.eval()
