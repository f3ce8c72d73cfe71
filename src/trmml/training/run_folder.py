"""Runs on disk: safetensors and JSON, never pickle; every file is written whole or not at all.

A run folder holds

    model.safetensors   the trained part, text features and prototypes; nothing of the encoder
    model.json          settings, category names, the encoder's identity, calibration, provenance
    settings.json       the resolved settings, written before training
    known.safetensors   which labels were known to the run, and their values
    state.safetensors, refit.safetensors   all that `--resume` needs of both trainings; removed when
                        the run is finished, by `fit` after the report
    log.jsonl           one record per epoch
    held_out.safetensors, pseudo.safetensors   for the report: held-out logits, and the
                        pseudo-labels chosen after the last epoch that was trained
    skipped.json        images that could not be read, where there are any
    results.json, report.html   test scores where there is a test set, and the page: written last

The card holds checksums of all that was written before it, and of itself. Runs of before 2026-12
lack them, and are read all the same.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trmml.encoders.base import EncoderIdentity
from trmml.encoders.frozen import FrozenEncoder
from trmml.errors import CheckpointError
from trmml.images import BadImage
from trmml.labels.matrix import LabelMatrix
from trmml.method.build import join
from trmml.method.prompts import StoredPrompts
from trmml.method.trmml import TRMML
from trmml.metrics.calibration import Calibration
from trmml.settings.old_names import ADDED, current_name, first_names
from trmml.settings.sections import Settings, parse_settings
from trmml.storage.atomic import write_json
from trmml.storage.hashes import hash_file
from trmml.storage.json_text import of_kind, parse_json, parse_object
from trmml.storage.provenance import versions
from trmml.storage.tensors import load_tensors, save_tensors
from trmml.training.old_formats import FORMAT, current_card, current_tensors

# Files of a run that its card has checksums of, besides the model's.
SUMMED = (
    *("settings.json", "known.safetensors", "held_out.safetensors", "pseudo.safetensors"),
    *("log.jsonl", "skipped.json"),
)
# Of the first training; a run that has it is not finished.
STATE = "state.safetensors"
# So many settings are named where others are asked for than a run was begun with.
SHOWN = 3


@dataclass(frozen=True)
class RunCard:
    """What a trained model needs besides its tensors.

    Attributes:
        category_names: C names, in the order of the logits.
        encoder: identity of the frozen encoder it was trained on.
        encoder_spec: what `load_encoder` takes, or None when an object was passed.
        settings: the resolved settings.
        calibration: from logits to probabilities and thresholds.
        new_categories: the same for a category that was never trained, all as one.
        chosen: epoch, held-out mAP and how the epoch was chosen.
        data: name and counts of the training data, the mask's checksum.
        files: SHA-256 of the other files of the run, by name; empty in older runs.
    """

    category_names: tuple[str, ...]
    encoder: EncoderIdentity
    encoder_spec: str | None
    settings: Settings
    calibration: Calibration
    new_categories: Calibration
    chosen: dict[str, Any]
    data: dict[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return {
            "format": FORMAT,
            "method": "TRM-ML",
            "category_names": list(self.category_names),
            "encoder": self.encoder.to_dict(),
            "encoder_spec": self.encoder_spec,
            "settings": self.settings.model_dump(),
            "calibration": self.calibration.to_dict(),
            "new_categories": self.new_categories.to_dict(),
            "chosen": self.chosen,
            "data": self.data,
            "files": dict(self.files),
            "versions": versions(),
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any], where: str) -> "RunCard":
        """Read the JSON form; `where` names the file in errors."""
        try:
            tree = current_card(tree, where)
            card = cls(
                category_names=of_kind(tuple[str, ...], tree["category_names"]),
                encoder=EncoderIdentity.from_dict(tree["encoder"]),
                encoder_spec=of_kind(str | None, tree["encoder_spec"]),
                settings=parse_settings(tree["settings"], where),
                calibration=Calibration.from_dict(tree["calibration"]),
                new_categories=Calibration.from_dict(tree["new_categories"]),
                chosen=of_kind(dict[str, Any], tree["chosen"]),
                data=of_kind(dict[str, Any], tree["data"]),
                files=of_kind(dict[str, str], tree.get("files", {})),
            )
            if len(card.calibration.slope) != len(card.category_names):
                raise ValueError("calibration has not as many entries as category_names")
            return card
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{where} is damaged: {error!r}; restore it or train again"
            ) from None


def refuse_changes(run: Path, settings: Settings, matrix: LabelMatrix) -> None:
    """Refuse to resume with other settings or labels, by name; what else differs is told later.

    Raises:
        CheckpointError: naming some of what differs.
    """
    try:
        before = _flat(json.loads((run / "settings.json").read_bytes()))
    except (OSError, ValueError, AttributeError, TypeError):  # gone, or other JSON than was written
        return  # the state knows by its fingerprint
    now = _flat(json.loads(json.dumps(settings.model_dump())))
    found = [
        f"{current_name(name)} is {now.get(name, ADDED.get(name))} and was"
        f" {before.get(name, ADDED.get(name))}"
        for name in sorted({*before, *now} - {"training.refit"})
        if before.get(name) != now.get(name)
    ]
    known = run / "known.safetensors"  # not there yet, where it was cut off at once
    if known.is_file() and LabelMatrix.load(known).checksum() != matrix.checksum():
        found.append("the labels or the images are others")
    if found:
        more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise CheckpointError(
            f"{run} was begun otherwise: {'; '.join(found[:SHOWN])}{more}. Resume with the same"
            " settings and labels, or start in a new folder"
        )


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as first written, by section and name."""
    sections = first_names(tree).items()
    return {f"{s}.{n}": v for s, values in sections for n, v in dict(values).items()}


def remove_states(run: Path) -> None:
    """Remove what only `--resume` needs; the first training's state, the mark, goes last."""
    for name in ("refit.safetensors", STATE):
        (run / name).unlink(missing_ok=True)


def save_model(run: Path, model: TRMML, card: RunCard) -> None:
    """Write model.safetensors and model.json; the JSON comes last and names the tensors' hash."""
    tensors = model.state_dict()
    save_tensors(run / "model.safetensors", tensors, {"format": str(FORMAT)})
    sums = {name: hash_file(run / name) for name in SUMMED if (run / name).is_file()}
    tree = replace(card, files=sums).to_dict()
    tree["tensors_sha256"] = hash_file(run / "model.safetensors")
    write_json(run / "model.json", tree | {"card_sha256": card_sum(tree)})


def summed(tree: dict[str, Any]) -> dict[str, Any]:
    """A model.json that was changed, with its own checksum anew where it has one."""
    return tree | {"card_sha256": card_sum(tree)} if "card_sha256" in tree else tree


def card_sum(tree: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of what a model.json says, but for this sum and where the encoder is found.

    Users may name another place; the encoder's own checksum says whether it is the right one.
    """
    free = ("card_sha256", "encoder_spec")
    rest = {name: value for name, value in tree.items() if name not in free}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_files(run: Path, card: RunCard) -> None:
    """Refuse a run of which a file is missing or is not what was written.

    Raises:
        CheckpointError: naming the file.
    """
    for name in SUMMED:
        path, digest = run / name, card.files.get(name)
        if digest is not None and (not path.is_file() or hash_file(path) != digest):
            raise CheckpointError(
                f"{path} is missing or is not the file that model.json describes;"
                " restore it or train again"
            )


def skipped_images(run: Path) -> list[BadImage]:
    """The images that a run could not read.

    Raises:
        CheckpointError: the file that lists them is damaged.
    """
    path = run / "skipped.json"
    try:
        tree = parse_json(path.read_bytes()) if path.is_file() else []
        skipped: list[BadImage] = of_kind(list[BadImage], tree)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); restore it") from None
    return skipped


def load_card(run: Path) -> RunCard:
    """The card of a finished run.

    Raises:
        CheckpointError: no such run, not finished, or its two files do not belong together.
    """
    path = run / "model.json"
    if not path.is_file():
        unfinished = (run / STATE).is_file()
        hint = (
            "its training has not finished: trmml fit ... --resume"
            if unfinished
            else ("train one with: trmml fit")
        )
        raise CheckpointError(f"{run} holds no trained model (expected {path}); {hint}")
    try:
        tree = parse_object(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(
            f"{path} is no valid JSON ({error}); restore it or train again"
        ) from None
    if tree.get("card_sha256", card_sum(tree)) != card_sum(tree):
        raise CheckpointError(
            f"{path} is damaged: it does not fit its own checksum; restore it or train again"
        )
    weights = run / "model.safetensors"
    if not weights.is_file() or hash_file(weights) != tree.get("tensors_sha256"):
        raise CheckpointError(
            f"{weights} is missing or is not the file that {path} describes;"
            " restore both or train again"
        )
    return RunCard.from_dict(tree, str(path))


def load_model(run: Path, frozen: FrozenEncoder, card: RunCard) -> TRMML:
    """The trained model, ready to score; the text encoder is not used.

    Args:
        run: the folder.
        frozen: the encoder, with or without its text tower; where it is there, it must be the
            right one too.
        card: of the run.

    Raises:
        CheckpointError: the encoder is not the one the run was trained on.
    """
    given, wanted = frozen.identity, card.encoder
    same_images = given.image_checksum == wanted.image_checksum and given.size == wanted.size
    sums = {given.checksum, wanted.checksum}
    same_texts = "" in sums or len(sums) == 1
    if not (same_images and same_texts):
        part = "texts" if same_images else "images"
        raise CheckpointError(
            f"{run} was trained on encoder {wanted.name} at {wanted.size} px ({_sums(wanted)}),"
            f" got {given.name} at {given.size} px ({_sums(given)}), which encodes {part}"
            " differently; pass the same encoder and input size"
        )
    tensors = current_tensors(load_tensors(run / "model.safetensors")[0])
    learned = ("prompts.text_residual", "prompts.context_tokens", "negative_prompts.")
    tensors = {k: v for k, v in tensors.items() if not k.startswith(learned)}
    size = card.encoder.feature_size
    prompts = StoredPrompts(categories=len(card.category_names), feature_size=size)
    model = join(frozen, prompts, None, card.settings)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{run / 'model.safetensors'} does not fit model.json: {error}"
        ) from None
    model.text_is_frozen = True
    return model.eval().requires_grad_(False)


def _sums(encoder: EncoderIdentity) -> str:
    """The beginnings of an encoder's checksums."""
    return f"weights {encoder.image_checksum[:12]}, with text {encoder.checksum[:12] or 'none'}"
