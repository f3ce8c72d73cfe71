"""From `architecture:tag`, `architecture:path@tag`, `hf-hub:` or `local-dir:` to an encoder."""

import contextlib
import difflib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.constants import (
    HF_CONFIG_NAME,
    HF_SAFE_WEIGHTS_NAME,
    HF_WEIGHTS_NAME,
    OPENAI_DATASET_MEAN,
    OPENAI_DATASET_STD,
)
from open_clip.factory import HF_HUB_PREFIX, LOCAL_DIR_PREFIX
from open_clip.model import _build_vision_tower
from open_clip.pretrained import download_pretrained_from_hf
from torch import nn

from trmml.encoders.clip.encoder import OpenClipEncoder
from trmml.encoders.clip.weights import fit_weights, read_weights
from trmml.errors import EncoderError, MissingExtraError
from trmml.storage.json_text import parse_object

logger = logging.getLogger(__name__)

BUILD_ERRORS = (RuntimeError, TypeError, ValueError, KeyError, OSError, AssertionError)
_OPENAI = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic"}
# All that a stranger's configuration may say of its tokenizer: the rest reaches transformers, and
# there `trust_remote_code` runs what the author wrote.
TOKENIZER_KEYS = {"clean", "strip_sep_token", "reduction_mask", "language"}


@dataclass(frozen=True)
class Source:
    """Where a model comes from."""

    weights: Path  # the file
    config: dict[str, Any]  # of the architecture, as open_clip writes it
    # whether the weights were trained with OpenAI's approximation of GELU, where that is known
    # beside the configuration
    quick_gelu: bool = False
    # those of mean, std and interpolation that differ from OpenAI's
    preprocess: dict[str, Any] = field(default_factory=dict)
    described: bool = True  # whether somebody says what the weights need; not of a file alone


def load_open_clip(
    spec: str, *, image_size: int | None = None, text: bool = True, resize_mode: str = "squash"
) -> OpenClipEncoder:
    """The encoder that a spec names.

    Args:
        spec: `RN101:openai` (a tag of open_clip, downloaded once), `RN101:weights.safetensors`
            (also a torch state dict, or OpenAI's own archive; with `@tag` where the file holds
            the weights of a tag or of the same training), `hf-hub:owner/model`, of which
            safetensors alone are read, or `local-dir:FOLDER` for a copy of such a model; a folder
            may follow `hf-hub:` as well.
            Weights of OpenAI in another file than their archive need `RN101-quickgelu`.
        image_size: side of the input in pixels; the model's own by default.
        text: whether to load the text tower and the tokenizer.
        resize_mode: see `OpenClipEncoder`.

    Raises:
        EncoderError: unknown architecture or tag, no network, weights that do not fit, a model for
            which no patch feature is defined, or one that would run code of its author.
        MissingExtraError: its tokenizer needs transformers.
    """
    folder = Path(spec.removeprefix(LOCAL_DIR_PREFIX).removeprefix(HF_HUB_PREFIX)).expanduser()
    copied = spec.startswith(HF_HUB_PREFIX) and (folder / HF_CONFIG_NAME).is_file()
    if copied or spec.startswith(LOCAL_DIR_PREFIX):
        architecture, source = f"{LOCAL_DIR_PREFIX}{folder}", _folder_source(spec, folder)
    elif spec.startswith(HF_HUB_PREFIX):
        architecture, source = spec, _hub_source(spec)
    else:
        architecture, _, wanted = spec.partition(":")
        architecture = architecture.replace("/", "-")
        source = _source(architecture, wanted)
    state, is_openai = read_weights(source.weights, text=text)
    quick_gelu = source.quick_gelu or is_openai or source.config.get("quick_gelu", False)
    build = build_model if text else build_image_model
    model = build(source.config, quick_gelu=quick_gelu)
    others = "" if source.described or is_openai else _others(architecture, source, quick_gelu)
    if others:
        logger.warning(
            "%s: a file does not say which settings its weights need. If they are those of "
            "%s, other ones than are taken: write %s@TAG",
            spec,
            others,
            spec,
        )
    elif "openai" in str(source.weights).lower() and not quick_gelu:
        logger.warning(
            "%s: weights of OpenAI need QuickGELU, which this file does not say; if they are "
            "OpenAI's, write %s-quickgelu before the colon",
            spec,
            architecture,
        )
    fit_weights(model, state, spec)
    return OpenClipEncoder(
        model,
        _tokenizer(architecture, spec, source.config) if text else None,
        name=spec if resize_mode == "squash" else f"{spec} ({resize_mode})",
        size=image_size,
        resize_mode=resize_mode,
        **source.preprocess,
    )


def build_model(config: dict[str, Any], *, quick_gelu: bool = False) -> nn.Module:
    """open_clip's model for a configuration, with random weights, in fp32.

    Args:
        config: embed_dim, vision_cfg, text_cfg and the like; left as it is.
        quick_gelu: use QuickGELU whatever the configuration says.

    Raises:
        EncoderError: open_clip, timm or transformers cannot build it.
    """
    settings = {**config, "text_cfg": dict(config["text_cfg"])}
    settings["vision_cfg"] = _without_weights(config["vision_cfg"])
    custom_text = settings.pop("custom_text", False) or "hf_model_name" in settings["text_cfg"]
    if "hf_model_name" in settings["text_cfg"]:
        settings["text_cfg"]["hf_model_pretrained"] = False  # the weights follow
    if quick_gelu:
        settings["quick_gelu"] = True
    kind = open_clip.CLIP
    if custom_text:
        kind = open_clip.CoCa if "multimodal_cfg" in settings else open_clip.model.CustomTextCLIP
    try:
        model: nn.Module = kind(**settings)
    except BUILD_ERRORS as error:
        raise EncoderError(f"open_clip cannot build this model: {error}") from error
    return model


class ImageModel(nn.Module):
    """The part of an open_clip model that encodes images, under the names of the whole.

    Args:
        visual: open_clip's image tower.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.logit_scale = nn.Parameter(torch.zeros(()))


def build_image_model(config: dict[str, Any], *, quick_gelu: bool = False) -> ImageModel:
    """The image tower of `build_model`, without building the text tower; `fit_weights` follows.

    Its weights are left as the memory was where that is possible: drawing random ones would take
    two thirds of the time of loading.

    Raises:
        EncoderError: open_clip or timm cannot build it.
    """
    parts = config["embed_dim"], _without_weights(config["vision_cfg"])
    quick_gelu = quick_gelu or config.get("quick_gelu", False)
    with contextlib.suppress(*BUILD_ERRORS), torch.device("meta"):
        model = ImageModel(_build_vision_tower(*parts, quick_gelu))
        # What a file does not hold must be computed: not on the meta device.
        if not any(module._non_persistent_buffers_set for module in model.modules()):
            return model.to_empty(device="cpu")
    try:
        return ImageModel(_build_vision_tower(*parts, quick_gelu))
    except BUILD_ERRORS as error:
        raise EncoderError(f"open_clip cannot build this model: {error}") from error


def _without_weights(vision: dict[str, Any]) -> dict[str, Any]:
    """The image tower's configuration; timm is to fetch no weights, for they follow."""
    if "timm_model_name" not in vision:
        return vision
    return {**vision, "timm_model_pretrained": False}


def check_architecture(architecture: str) -> None:
    """Refuse a name that open_clip does not know; EncoderError lists the closest ones."""
    known = open_clip.list_models()
    if architecture in known:
        return
    close = difflib.get_close_matches(architecture, known, n=5, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else "see open_clip.list_models()."
    raise EncoderError(f"open_clip has no architecture {architecture!r}; {hint}")


def describe_tags(architecture: str) -> str:
    """The tags of pretrained weights of an architecture, as part of a sentence."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    return f"its tags are {', '.join(tags)}" if tags else "open_clip has no weights for it"


def _source(architecture: str, wanted: str) -> Source:
    """The weights that a tag or a path names."""
    check_architecture(architecture)
    config = open_clip.get_model_config(architecture)
    tag = open_clip.get_pretrained_cfg(architecture, wanted)
    if not tag:
        return _file_source(architecture, Path(wanted).expanduser(), config)
    try:
        weights = open_clip.download_pretrained(tag)
    except Exception as error:  # the hub's client and urllib each raise their own
        raise _offline(f"{architecture}:{wanted}", error) from error
    return Source(Path(weights), config, tag.get("quick_gelu", False), _preprocess(tag))


def _file_source(architecture: str, wanted: Path, config: dict[str, Any]) -> Source:
    """Weights in a file, which may be followed by @ and the tag whose settings they need."""
    if wanted.is_file():
        preprocess = _agreed_preprocess(architecture)
        return Source(wanted, config, preprocess=preprocess, described=False)
    path, _, name = str(wanted).rpartition("@")
    if Path(path).is_file() and (tag := open_clip.get_pretrained_cfg(architecture, name)):
        return Source(Path(path), config, tag.get("quick_gelu") or False, _preprocess(tag))
    part = name if Path(path).is_file() else str(wanted)
    raise EncoderError(
        f"{architecture}:{wanted}: {part!r} is neither a file nor a tag of {architecture}; "
        f"{describe_tags(architecture)}"
    )


def _hub_source(spec: str) -> Source:
    """Configuration and weights of a model on the Hugging Face hub."""
    model_id = spec.removeprefix(HF_HUB_PREFIX)
    try:
        config_file = download_pretrained_from_hf(model_id, filename=HF_CONFIG_NAME)
    except Exception as error:  # as above
        raise _offline(spec, error) from error
    try:
        weights = download_pretrained_from_hf(model_id, filename=HF_SAFE_WEIGHTS_NAME)
    except Exception as error:
        raise EncoderError(
            f"{spec}: its {HF_SAFE_WEIGHTS_NAME} could not be downloaded ({_reason(error)}). Of the"
            " Hub only safetensors are read, for other files can hold code: ask its author for"
            " them, or check the network"
        ) from error
    return _described(spec, Path(config_file), Path(weights))


def _folder_source(spec: str, folder: Path) -> Source:
    """Configuration and weights of a model's folder, as the hub has it."""
    names = [HF_SAFE_WEIGHTS_NAME]
    if spec.startswith(LOCAL_DIR_PREFIX):
        names += [HF_WEIGHTS_NAME]
    weights = next((folder / name for name in names if (folder / name).is_file()), None)
    if weights is None or not (folder / HF_CONFIG_NAME).is_file():
        raise EncoderError(
            f"{spec}: expected {HF_CONFIG_NAME} and {' or '.join(names)} in the folder {folder}."
            " Copy both there, or give architecture:path/to/weights"
        )
    return _described(spec, folder / HF_CONFIG_NAME, weights)


def _described(spec: str, config: Path, weights: Path) -> Source:
    try:
        content = parse_object(config.read_bytes())
    except ValueError as error:
        raise EncoderError(f"{spec}: its {config.name} is no JSON object: {error}") from error
    if not isinstance(content.get("model_cfg"), dict):
        raise EncoderError(f"{spec}: its {config.name} has no 'model_cfg'")
    _refuse_code(spec, config.name, content["model_cfg"])
    preprocess = _preprocess(content.get("preprocess_cfg", {}))
    return Source(weights, content["model_cfg"], preprocess=preprocess)


def _refuse_code(spec: str, name: str, config: dict[str, Any]) -> None:
    """Raise where a configuration would have other libraries fetch or run what its author wrote."""
    vision, text = (config.get(part) for part in ("vision_cfg", "text_cfg"))
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise EncoderError(f"{spec}: its {name} has no 'vision_cfg' and 'text_cfg'")
    if ":" in str(vision.get("timm_model_name")):
        raise EncoderError(
            f"{spec} is refused: its {name} has timm fetch {vision['timm_model_name']!r}; ask its"
            " author for a name of timm's own"
        )
    given = text.get("tokenizer_kwargs") or {}
    if not isinstance(given, dict) or (more := sorted(set(given) - TOKENIZER_KEYS)):
        raise EncoderError(
            f"{spec} is refused: its {name} gives the tokenizer"
            f" {', '.join(more) if isinstance(given, dict) else 'no names'}, and only"
            f" {', '.join(sorted(TOKENIZER_KEYS))} are taken, for others can run code"
        )


def _agreed_preprocess(architecture: str) -> dict[str, Any]:
    """What all published weights of an architecture use; OpenAI's where they differ."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    settings = [_preprocess(open_clip.get_pretrained_cfg(architecture, tag)) for tag in tags]
    return settings[0] if settings and all(one == settings[0] for one in settings) else {}


def _others(architecture: str, source: Source, quick_gelu: bool) -> str:
    """The tags whose weights need something else than what is taken for a file, and what."""
    taken = {**_OPENAI, **source.preprocess, "quick_gelu": quick_gelu}
    always = source.config.get("quick_gelu", False)  # whatever the tag
    groups: dict[str, list[str]] = {}
    for name in open_clip.list_pretrained_tags_by_model(architecture):
        tag = open_clip.get_pretrained_cfg(architecture, name)
        needed = {**_OPENAI, **_preprocess(tag), "quick_gelu": tag.get("quick_gelu") or always}
        differ = [f"{key}={needed[key]}" for key in needed if needed[key] != taken[key]]
        if differ:
            groups.setdefault(", ".join(differ), []).append(name)
    return "; or ".join(f"{', '.join(names)} ({what})" for what, names in groups.items())


def _preprocess(values: dict[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in _OPENAI if values.get(key)}


def _reason(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _offline(spec: str, error: Exception) -> EncoderError:
    return EncoderError(
        f"{spec}: the weights could not be downloaded ({_reason(error)}). Check the network, or "
        "download them elsewhere and give the file: architecture:path/to/weights.safetensors"
    )


def _tokenizer(architecture: str, spec: str, config: dict[str, Any]) -> Any:
    """open_clip's tokenizer; some are on the Hugging Face hub, and code beside them is not run."""
    said = {"trust_remote_code": False} if config["text_cfg"].get("hf_tokenizer_name") else {}
    try:
        return open_clip.get_tokenizer(architecture, **said)
    except ImportError as error:
        raise MissingExtraError(f"the tokenizer of {spec}", "huggingface") from error
    except Exception as error:  # the hub's client raises many kinds
        raise EncoderError(
            f"{spec}: its tokenizer could not be downloaded ({_reason(error)}); check the network"
        ) from error
