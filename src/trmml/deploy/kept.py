"""The ONNX file of a run that is kept in the cache, so that tagging needs no torch.

Beside `<key>.onnx` lies `<key>.json` with the sha256 of each file, or with why there is none. The
key is a hash of the run's files: what was checked when the run was exported holds for these bytes.
`<key>.int8.onnx` is made from it when first asked for.
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

from trmml.errors import EncoderError
from trmml.storage.atomic import whole_file, write_json
from trmml.storage.cache import cache_folder
from trmml.storage.hashes import hash_file
from trmml.storage.json_text import parse_object
from trmml.tagging.onnx_tagger import OnnxTagger
from trmml.tagging.scorer import Scorer

if TYPE_CHECKING:
    from trmml.training.run_folder import RunCard

logger = logging.getLogger(__name__)

KeptPrecision = Literal["fp32", "int8"]
# To be raised when what is written changes. Since 2 all of the trained head is fp32 in int8 files.
FORMAT = 2
# Runs whose files are kept, those used last.
KEPT = 8


def open_kept(run: Path, precision: KeptPrecision = "fp32") -> OnnxTagger | None:
    """The tagger of a run by its kept file; None where there is none, or it is damaged."""
    note = _note_path(run)
    if note is None:
        return None
    with suppress(OSError):  # of a cache that may only be read
        os.utime(note)  # the last to be removed
    files = _read(note).get("files", {})
    if not files:
        return None
    plain = note.with_suffix(".onnx")
    try:
        _check(note, files)
        tagger = OnnxTagger(plain) if precision == "fp32" else None
    except Exception as error:  # ONNX Runtime has many errors; torch tags, and it is made anew
        logger.info("%s cannot be used: %s", plain, error)
        with suppress(OSError):
            note.unlink()
        return None
    if tagger is not None:
        return tagger
    try:
        return OnnxTagger(_int8(note, plain))
    except Exception as error:  # the file in fp32 is good all the same
        logger.info("%s cannot be quantised: %s", plain, error)
        return None


def load_scorer(
    run: Path,
    *,
    features: bool = False,
    device: str = "cpu",
    precision: str = "fp32",
    encoder: str | None = None,
    trust: bool = False,
) -> Scorer:
    """A run, ready to score: by its kept file, made where it is not there yet, or by torch.

    Args:
        run: folder of a finished run.
        features: whether image features are asked for, which only torch gives.
        device: see `Tagger.load`, as `encoder` and `trust`.
        precision: of the encoder; "fp32" or "int8" by ONNX Runtime.
        encoder: of the run, where it is another one's.
        trust: whether a factory may run.

    Raises:
        CheckpointError: no finished run there.
    """
    if device == "cpu" and encoder is None and not features and precision in ("fp32", "int8"):
        wanted: KeptPrecision = "int8" if precision == "int8" else "fp32"
        if (kept := open_kept(run, wanted)) is None:
            keep(run)
            kept = open_kept(run, wanted)
        if kept is not None:
            return kept
    from trmml.tagging.tagger import Tagger  # torch takes seconds to import
    from trmml.tagging.torch_scorer import TorchScorer

    tagger = Tagger.load(run, encoder=encoder, device=device, trust=trust)
    return TorchScorer(tagger, precision)


def _check(note: Path, files: Mapping[str, str]) -> None:
    """Raise ValueError for a file whose sha256 is another."""
    for name, sha256 in files.items():
        if hash_file(note.with_name(name)) != sha256:
            raise ValueError(f"{name} is not the file that was written")


def _int8(note: Path, plain: Path) -> Path:
    """The kept file, its encoder in int8; made where it is not there, or damaged."""
    path = note.with_suffix(".int8.onnx")
    with FileLock(note.with_suffix(".lock")):
        about = _read(note)
        if not _is_whole(note, about.get("int8", {})):
            from trmml.deploy.onnx_graph import TRAINED  # torch takes seconds to import
            from trmml.encoders.speed.onnx import quantise

            logger.info("quantising %s; this is done once", plain)
            with whole_file(path) as part:
                quantise(plain, part, apart=TRAINED)
            write_json(note, {**about, "int8": {path.name: hash_file(path)}})
    return path


def _is_whole(note: Path, files: Mapping[str, str]) -> bool:
    """Whether there are files, each as it was written."""
    try:
        _check(note, files)
    except (OSError, ValueError) as error:
        logger.info("it is made anew: %s", error)
        return False
    return bool(files)


def keep(run: Path) -> None:
    """Export a run into the cache, unless that was done or found impossible before.

    A run on an encoder of the user's own is not exported: what its code may do is asked anew each
    time. Nor is one that scores several views. Whatever fails is logged: torch can tag without.
    """
    note = _note_path(run)
    if note is None:
        return
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(note.with_suffix(".lock")):
            if not _read(note):
                _remove_kept(note)  # what is damaged is no export any more, and never written over
                write_json(note, _exported(run, note.with_suffix(".onnx")))
        _remove_all_but(KEPT, note.parent)
    except Exception as error:
        logger.info("%s is not kept as an ONNX file: %s", run, error)


def _note_path(run: Path) -> Path | None:
    """Where the note on a run is kept; None where its files cannot be read."""
    try:
        sums = [hash_file(run / name) for name in ("model.json", "model.safetensors")]
    except OSError:
        return None
    key = hashlib.sha256("|".join([str(FORMAT), *sums]).encode()).hexdigest()
    return cache_folder() / "taggers" / f"{key[:32]}.json"


def _read(note: Path) -> dict[str, Any]:
    """What a note says; nothing where it is missing or damaged."""
    try:
        return parse_object(note.read_bytes())
    except (OSError, ValueError):
        return {}


def _exported(run: Path, path: Path) -> dict[str, Any]:
    """Export the run; what its note will say."""
    from trmml.deploy.onnx_file import export  # torch takes seconds to import
    from trmml.training.run_folder import load_card

    if reason := _why_not(load_card(run)):
        return {"reason": reason}
    logger.info("exporting %s, so that it can be tagged with at once; this is done once", run)
    try:
        done = export(run, path)
    except EncoderError as error:
        return {"reason": str(error)}
    files = [file for file in (done.path, done.external_data) if file is not None]
    return {"files": {file.name: hash_file(file) for file in files}}


def _why_not(card: "RunCard") -> str | None:
    """Why a run is not kept, or None."""
    from trmml.encoders import is_factory

    if card.encoder_spec is None or is_factory(card.encoder_spec):
        return "its encoder is the user's own"
    return "it scores several views" if card.settings.training.scored_views > 1 else None


def _remove_all_but(count: int, folder: Path) -> None:
    """Remove the files of all runs but those used last, and as many notes on runs without any."""
    notes = sorted(folder.glob("*.json"), key=lambda note: note.stat().st_mtime, reverse=True)
    with_files = [note for note in notes if _read(note).get("files")]
    without = [note for note in notes if note not in with_files]
    for note in with_files[count:] + without[count:]:
        with suppress(Timeout), FileLock(note.with_suffix(".lock")).acquire(timeout=0):
            _remove_kept(note)
            note.with_suffix(".lock").unlink(missing_ok=True)


def _remove_kept(note: Path) -> None:
    """Remove all files of a run but the lock."""
    for path in note.parent.glob(f"{note.stem}.*"):
        if path.suffix != ".lock":
            path.unlink(missing_ok=True)
