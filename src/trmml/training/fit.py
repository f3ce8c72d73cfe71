"""From a data set and an encoder to a trained model in a run folder."""

import hashlib
import json
import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trmml.datasets.base import Dataset
from trmml.encoders.base import Encoder, EncoderIdentity
from trmml.encoders.frozen import frozen_encoder
from trmml.errors import CheckpointError, MissingExtraError
from trmml.features import ranks
from trmml.features.base import Progress
from trmml.features.extract import Encoded, Encoding, encode_images
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import counted_by_blanks, pairs_that_count
from trmml.method.build import build_trmml
from trmml.method.pseudo_labels import PseudoLabeller, PseudoLabels
from trmml.method.trmml import TRMML
from trmml.metrics.calibration import (
    Calibration,
    both_answers,
    calibrate,
    fit_calibration,
)
from trmml.settings.choices import OnBadImage
from trmml.settings.old_names import first_names
from trmml.settings.sections import Settings, changed
from trmml.storage.atomic import write_json, write_text
from trmml.storage.held import held_folder
from trmml.storage.tensors import save_tensors
from trmml.training.fabric import make_fabric
from trmml.training.loop import refit, train
from trmml.training.record import EpochRecord
from trmml.training.run_folder import (
    STATE,
    RunCard,
    check_files,
    load_card,
    refuse_changes,
    remove_states,
    save_model,
    skipped_images,
)
from trmml.training.schedule import planned
from trmml.training.trainer import Trainer

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


def train_run(
    data: Dataset,
    encoder: Encoder,
    out: Path | str,
    *,
    settings: Settings | None = None,
    encoder_spec: str | None = None,
    truth: LabelMatrix | None = None,
    resume: bool = False,
    device: str = "auto",
    encoding: Encoding | None = None,
    on_bad_image: OnBadImage = "error",
    encoded: Encoded | None = None,
    tensorboard: bool = False,
    progress: Progress | None = None,
    keep_states: bool = False,
    fabric: "Fabric | None" = None,
) -> Generator[EpochRecord, None, Sequence[int]]:
    """Train a run; a generator of epoch records that returns which rows of `data` it could read.

    The run folder holds a model after the last record. `reporting/fit.py` adds the evaluation and
    the report, and explains the arguments. With `keep_states` the run is not marked as finished:
    what `resume` needs stays until the caller removes it. `fabric` is where it runs, if it is made
    already; of several processes the first writes.

    Raises:
        CheckpointError: the folder holds a run already, another process works in it, or `resume`
            does not fit it.
        DataError, ConfigError, EncoderError, TrainingError: see their names.
    """
    settings, out = settings or Settings(), Path(out)
    training = planned(settings, data.matrix)
    log = _tensorboard(out, tensorboard and not ranks.number())
    fabric = fabric or make_fabric(device, training.precision)
    with nullcontext() if ranks.number() else held_folder(out):
        check_folder(out, resume, data.root)
        frozen = frozen_encoder(encoder, device=str(fabric.device), spec=encoder_spec)
        model = build_trmml(frozen, data.category_names, settings)  # or refused before encoding
        encoded = encoded or encode_images(
            data.paths,
            frozen,
            encoding=encoding,
            views=training.encoded_views,
            seed=training.seed,
            on_bad_image=on_bad_image,
            progress=progress,
        )
        data = data.subset(encoded.kept)
        truth = None if truth is None else truth.subset(encoded.kept)
        training = planned(settings, data.matrix)  # of fewer images, where some cannot be read
        trainer = Trainer(
            model=model,
            source=encoded.source,
            matrix=data.matrix,
            truth=truth,
            training=training,
            fabric=fabric,
        )
        state, fingerprint = out / STATE, _fingerprint(data, settings, frozen.identity, encoded)
        if resume:
            _go_on(trainer, out, fingerprint, settings)
        _open_folder(out, data, settings, encoded)
        with log as writer:
            records = train(trainer, state=state, fingerprint=fingerprint, progress=progress)
            yield from _logged(records, trainer, out, writer)
        spec = encoder_spec or getattr(frozen.encoder, "spec", None)
        new = _calibrate_new_categories(model, trainer)
        labeller = trainer.pseudo_labeller
        if training.refit:
            again = out / "refit.safetensors"
            labeller = refit(trainer, state=again, fingerprint=fingerprint, progress=progress)
        _finish(out, model, trainer, labeller, data, settings, frozen.identity, spec, new)
        if not keep_states and not ranks.number():
            remove_states(out)
        return encoded.kept


def _go_on(trainer: Trainer, out: Path, fingerprint: str, settings: Settings) -> None:
    """Load the state, if one was written; other settings or labels are refused in any case."""
    refuse_changes(out, settings, trainer.matrix)
    if (out / STATE).is_file():
        trainer.load(out / STATE, fingerprint)


def kept_rows(run: Path, data: Dataset, settings: Settings) -> Sequence[int]:
    """Which rows of `data` a trained run could read.

    Raises:
        CheckpointError: it was trained on other images, labels or categories, or otherwise.
    """
    card = load_card(run)
    check_files(run, card)
    unread = {Path(bad.name).absolute() for bad in skipped_images(run)}
    kept = [row for row, path in enumerate(data.paths) if path.absolute() not in unread]
    known = data.matrix.subset(kept)
    if known.checksum() != card.data["mask_sha256"] or data.category_names != card.category_names:
        raise CheckpointError(
            f"{run} was trained on other images or labels; conclude it with the same ones"
        )
    refuse_changes(run, settings, known)
    return kept


def check_folder(out: Path, resume: bool, images: Path) -> None:
    """Refuse to overwrite a run, to write among images, and to resume what is not there.

    Raises:
        CheckpointError: naming what is there.
    """
    if ranks.number():
        return  # the first process looks
    if out.resolve() == images.resolve():
        raise CheckpointError(f"{out} is the folder of the images; name a new one for the run")
    if resume and not (out / "settings.json").is_file():
        raise CheckpointError(f"{out} holds no run to resume; leave --resume out to start one")
    if (out / "model.json").is_file() and resume:
        raise CheckpointError(f"{out} is finished already; nothing is left to resume")
    started = [n for n in ("model.json", "settings.json", STATE) if (out / n).exists()]
    if started and not resume:
        hint = "" if "model.json" in started else ", or continue it with --resume"
        raise CheckpointError(
            f"{out} holds a run already ({started[0]}); choose another folder{hint}"
        )


def _fingerprint(
    data: Dataset, settings: Settings, identity: EncoderIdentity, encoded: Encoded
) -> str:
    """Hash of all that must be the same for a run to continue."""
    # A refit comes after all that a state holds.
    plain = changed(settings, {"training.refit": False})
    parts = [
        json.dumps(first_names(plain.model_dump()), sort_keys=True),
        data.matrix.checksum(),
        "\n".join((*data.images, *data.category_names)),
        identity.checksum,
        str(identity.size),
        encoded.form,
        encoded.precision,
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _open_folder(out: Path, data: Dataset, settings: Settings, encoded: Encoded) -> None:
    """Write what is fixed before training: settings, mask, and the files left out."""
    if ranks.number():
        return
    write_json(out / "settings.json", settings.model_dump())
    data.matrix.save(out / "known.safetensors")
    if encoded.bad:
        write_json(out / "skipped.json", [asdict(bad) for bad in encoded.bad])
        logger.warning("%d unreadable images left out, listed in skipped.json", len(encoded.bad))


def _logged(
    records: Iterator[EpochRecord], trainer: Trainer, out: Path, writer: "SummaryWriter | None"
) -> Iterator[EpochRecord]:
    """The records as they come, each in the logs before it is handed on."""
    _write_log(out, trainer.records)
    for record in records:
        _write_log(out, trainer.records)
        if writer is not None:
            _write_scalars(writer, record)
        yield record


def _write_log(out: Path, records: list[dict[str, Any]]) -> None:
    """Rewrite the log, so that a resumed run has no line twice."""
    if ranks.number():
        return
    lines = (json.dumps(_json_safe(record), ensure_ascii=False) for record in records)
    write_text(out / "log.jsonl", "".join(line + "\n" for line in lines))


def _json_safe(value: Any) -> Any:
    """NaN as null: JSON has no word for it."""
    if isinstance(value, dict):
        return {name: _json_safe(item) for name, item in value.items()}
    return None if isinstance(value, float) and value != value else value


def _finish(
    out: Path,
    model: TRMML,
    trainer: Trainer,
    labeller: PseudoLabeller | None,
    data: Dataset,
    settings: Settings,
    identity: EncoderIdentity,
    encoder_spec: str | None,
    new_categories: Calibration,
) -> None:
    """Calibrate on the held-out known labels and write the model."""
    if ranks.number():
        return
    held = trainer.matrix.subset(trainer.held)
    logits = trainer.held_logits
    save_tensors(
        out / "held_out.safetensors",
        {"logits": logits, "labels": held.labels, "known": held.known, "images": trainer.held},
        {"names": json.dumps([data.images[row] for row in trainer.held.tolist()])},
    )
    by_blanks = counted_by_blanks(data.matrix)
    pseudo = PseudoLabels.none(data.matrix) if labeller is None else labeller.labels
    save_tensors(out / "pseudo.safetensors", {"labels": pseudo.labels, "chosen": pseudo.chosen})
    card = RunCard(
        category_names=data.category_names,
        encoder=identity,
        encoder_spec=encoder_spec,
        settings=settings,
        calibration=calibrate(logits, held, by_blanks, fitted=trainer.held_log_odds),
        new_categories=new_categories,
        chosen={
            **_json_safe(trainer.best_record),
            "by": trainer.training.choose_epoch,
            "of": trainer.training.epochs,
            "held_out_images": len(trainer.held),
            "held_out_positives": int(held.labels.sum()),
            "calibrated": both_answers(held, by_blanks),
            "refit": trainer.training.refit,
        },
        data={
            "root": data.root.name,
            "images": len(data),
            "known_share": data.matrix.known_share,
            "known_positives": int(data.matrix.positives.sum()),
            "mask_sha256": data.matrix.checksum(),
            **({"sources": dict(data.sources)} if data.sources else {}),
            "trained": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    save_model(out, model, card)


def _calibrate_new_categories(model: TRMML, trainer: Trainer) -> Calibration:
    """One line and threshold for all categories that were never trained.

    The trained categories are scored as if they were new, by their text alone, and calibrated
    together: that is what a new category can expect.
    """
    text = model.prompts.start_features
    negative = None if model.negative_prompts is None else model.negative_prompts.start_features
    logits = []
    with torch.no_grad():
        for part in torch.split(trainer.held, 64):
            features = trainer.scored.batch(part).to(trainer.fabric.device)
            logits.append(model(features, text, negative).logits[:, len(text) :].float().cpu())
    held = trainer.matrix.subset(trainer.held)
    known = pairs_that_count(held, counted_by_blanks(trainer.matrix))
    one = (-1, 1)  # all pairs as one category
    pairs = (held.labels.reshape(one), known.reshape(one))
    return fit_calibration(torch.cat(logits).reshape(one), *pairs)


def _tensorboard(out: Path, wanted: bool) -> "AbstractContextManager[SummaryWriter | None]":
    """A TensorBoard writer, once it is entered, or nothing; a missing extra is refused now."""
    if not wanted:
        return nullcontext(None)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("the TensorBoard log", "tensorboard") from None
    return _opened(SummaryWriter, out / "tensorboard")


@contextmanager
def _opened(kind: type["SummaryWriter"], folder: Path) -> "Iterator[SummaryWriter]":
    with kind(str(folder)) as writer:
        yield writer


def _write_scalars(writer: "SummaryWriter", record: EpochRecord) -> None:
    scalars = {f"loss/{name}": value for name, value in record.losses.items()}
    scalars |= {f"weighted/{name}": value for name, value in record.weighted.items()}
    scalars |= {f"gradient_share/{name}": v for name, v in record.gradient_shares.items()}
    scalars |= {"held_out/map": record.held_out_map, "learning_rate": record.learning_rate}
    for name, value in scalars.items():
        writer.add_scalar(name, value, record.epoch)
