"""The page of a run on the Hub: front matter, figures with their source, and how to use it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trmml.errors import ConfigError, MissingExtraError, how_to_install
from trmml.labels.matrix import LabelMatrix
from trmml.metrics.average_precision import average_precisions
from trmml.storage.json_text import parse_object
from trmml.storage.tensors import load_tensors
from trmml.training.run_folder import RunCard, check_files, load_card

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def config_of(card: RunCard, format_: int) -> dict[str, Any]:
    """What config.json says; the Hub counts downloads by this file."""
    return {
        "library": "trmml",
        "format": format_,
        "encoder_spec": card.encoder_spec,
        "category_names": list(card.category_names),
    }


def write_card(
    run: Path | str, name: str, *, license_id: str, encoder: str | None = None, dataset: str = ""
) -> str:
    """The text of a run's README.md on the Hub, with front matter.

    Args:
        run: folder of a finished run.
        name: of the repository, as owner/name.
        license_id: of the run, as the Hub names licences; never guessed.
        encoder: how others load the encoder; as the run says by default.
        dataset: what the test images are called; by default the folder that was trained on.

    Raises:
        CheckpointError: no finished run there.
        ConfigError: the licence has no name of the Hub's form, or the repository has no owner.
        MissingExtraError: huggingface_hub is not installed.
    """
    if not all(name.partition("/")) or name.count("/") > 1:
        raise ConfigError(f"a repository is called owner/name, as anna/photos; got {name!r}")
    if not _LICENSE.fullmatch(license_id):
        raise ConfigError(
            f"--license takes a name as apache-2.0, cc-by-4.0 or other, got {license_id!r}"
        )
    try:
        from huggingface_hub import ModelCard, ModelCardData
    except ImportError:
        raise MissingExtraError("the Hub", "hub") from None
    run = Path(run)
    card = load_card(run)
    check_files(run, card)
    spec = encoder or card.encoder_spec or ""
    base = spec.removeprefix("hf-hub:") if spec.startswith("hf-hub:") else None
    figures = _test_figures(run)
    data = ModelCardData(
        library_name="trmml",
        pipeline_tag="image-classification",
        license=license_id,
        tags=["multi-label", "trmml", "missing-labels"],
        base_model=base,
        model_name=name.rpartition("/")[2],
        eval_results=_eval_results(figures, dataset or str(card.data["root"])),
        metrics=["mAP"] if figures else None,
    )
    if base is not None:
        data["base_model_relation"] = "adapter"
    body = "\n".join(_body(run, card, name, spec, figures))
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def _test_figures(run: Path) -> dict[str, dict[str, Any]]:
    """Figures of results.json by method; none where the run had no test images."""
    path = run / "results.json"
    methods: dict[str, dict[str, Any]] = (
        parse_object(path.read_bytes()).get("methods", {}) if path.is_file() else {}
    )
    return methods


def _eval_results(figures: dict[str, dict[str, Any]], dataset: str) -> "list[EvalResult] | None":
    """The run's own mAP, as leaderboards read it; the run stands last in results.json."""
    from huggingface_hub import EvalResult

    own = list(figures.values())[-1:]
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type="imagefolder",
            dataset_name=dataset,
            metric_type="mean-average-precision",
            metric_name="mAP",
            metric_value=one["map"],
        )
        for one in own
        if one["map"] is not None
    ] or None


def _body(
    run: Path, card: RunCard, name: str, spec: str, figures: dict[str, dict[str, Any]]
) -> Iterator[str]:
    data, chosen = card.data, card.chosen
    yield f"# {name.rpartition('/')[2]}"
    yield f"\nSays which of {len(card.category_names)} categories an image shows, each by itself.\n"
    yield f"Install what tags with it {how_to_install('hub')}. Then:\n"
    yield f"```console\n$ trmml tag hf:{name} photos/*.jpg\n```\n"
    yield "## How it was trained\n"
    yield (
        f"On {data['images']} images. {100 * data['known_share']:.1f} % of their labels were known,"
        f" {data['known_positives']} of them present. A blank counted as unknown, never as absent."
    )
    yield f"\nThe frozen encoder is `{spec}`, under its own licence.\n"
    yield "## How well it does\n"
    yield from _tests(figures)
    held = chosen["held_out_map"]
    yield (
        f"On {chosen['held_out_images']} held-out images of the training set mAP is"
        f" {'not to be had' if held is None else format(100 * held, '.1f')}. They chose the epoch,"
        " so expect less of new images.\n"
    )
    if chosen.get("refit"):
        yield (
            "Held-out figures are of the model before it was trained again on all images. The"
            " weights here are those of the second training.\n"
        )
    yield "| category | threshold | AP, held out | known present | known absent |"
    yield "|---|---|---|---|---|"
    yield from _categories(run, card)
    yield "\n## Where it fails\n"
    yield "AP says so for each category; `-` means that too few labels were held out to say."
    if not chosen.get("calibrated", True):
        yield (
            "Too few absent labels were held out to calibrate on. Probabilities order the"
            " categories, and may be far too low."
        )
    versions = parse_object((run / "model.json").read_bytes())["versions"]
    yield "\n## Where it comes from\n"
    yield f"- trmml {versions['trmml']}, torch {versions['torch']}"
    yield f"- SHA-256 of what was known: `{data['mask_sha256']}`"
    yield f"- trained {data['trained']}\n"


def _tests(figures: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The table of test figures; a sentence where there were no test images."""
    if not figures:
        yield "No test images were given.\n"
        return
    images = next(iter(figures.values()))["images"]
    yield f"On {images} test images, in percent:\n"
    yield "| method | mAP | OF1 | CF1 |\n|---|---|---|---|"
    for method, values in figures.items():
        cells = ("-" if values[n] is None else f"{values[n]:.1f}" for n in ("map", "of1", "cf1"))
        yield f"| {method} | {' | '.join(cells)} |"
    yield ""


def _categories(run: Path, card: RunCard) -> Iterator[str]:
    """A row per category; AP is nan where not both answers were held out."""
    tensors, _ = load_tensors(run / "held_out.safetensors")
    held = LabelMatrix(tensors["labels"], tensors["known"])
    aps = average_precisions(tensors["logits"], held.labels, held.known)
    rows = zip(
        card.category_names, card.calibration.thresholds.tolist(), aps.tolist(),
        held.positives.tolist(), held.negatives.tolist(), strict=True,
    )  # fmt: skip
    for name, threshold, ap, positives, negatives in rows:
        shown = f"{100 * ap:.1f}" if positives and negatives else "-"
        plain = json.dumps(name, ensure_ascii=False)[1:-1].replace("|", "\\|")
        yield f"| {plain} | {threshold:.3f} | {shown} | {positives} | {negatives} |"
