"""Frozen image-text encoders: any open_clip model, the bundled one, or one of your own."""

from trmml.encoders.base import Encoder, EncoderIdentity, freeze, identify
from trmml.encoders.factory import is_installed, load_factory
from trmml.errors import EncoderError

__all__ = ["Encoder", "EncoderIdentity", "freeze", "identify", "load_encoder"]

FORMS = (
    "bundled, RN101:openai, RN101:path/to/weights.safetensors, hf-hub:owner/model, "
    "local-dir:path/to/model, "
    "package.module:factory or path/to/file.py:factory"
)


def load_encoder(spec: str, *, image_size: int | None = None, text: bool = True) -> Encoder:
    """The frozen encoder that a spec names, on the CPU in fp32.

    Args:
        spec: `bundled`; an open_clip architecture with a tag or a file of weights, as
            `RN101:openai`; `hf-hub:owner/model` or a folder of its files, as
            `local-dir:path/to/model`; or a factory of your own, as `package.module:factory` or
            `path/to/file.py:factory`.
        image_size: side of the square input in pixels; the encoder's own by default.
        text: whether texts will be encoded. Without, an open_clip model or the bundled one comes
            without its text tower and tokenizer, in a quarter of the time; a factory ignores it.

    Raises:
        EncoderError: the spec has another form, or what it names cannot be loaded.
    """
    encoder = _load(spec, image_size, text)
    freeze(encoder)
    object.__setattr__(encoder, "spec", spec)  # so that a run can say how to load it again
    return encoder


def _load(spec: str, image_size: int | None, text: bool) -> Encoder:
    if spec == "bundled":
        from trmml.encoders.bundled import load_bundled  # open_clip takes seconds to import

        return load_bundled(image_size, text=text)
    if is_factory(spec):
        return load_factory(spec, image_size=image_size)
    from trmml.encoders.clip.load import check_architecture, describe_tags, load_open_clip

    place, colon, wanted = spec.partition(":")
    if not spec.startswith(("hf-hub:", "local-dir:")):
        try:
            check_architecture(place.replace("/", "-"))
        except EncoderError as error:
            raise EncoderError(
                f"encoder {spec!r}: {error} Nor is there an installed Python module"
                f" {place!r}; one in the current folder is given as ./{place}.py:factory. "
                f"An encoder is given as {FORMS}"
            ) from None
        if not (colon and wanted):
            tags = describe_tags(place.replace("/", "-"))
            raise EncoderError(
                f"encoder {spec!r}: which weights? Give {place}:tag or {place}:path; {tags}"
            )
    return load_open_clip(spec, image_size=image_size, text=text)


def is_factory(spec: str) -> bool:
    """Whether a spec names a Python function rather than an architecture of open_clip."""
    place, colon, attribute = spec.rpartition(":")
    if not colon or spec.startswith(("hf-hub:", "local-dir:")):
        return False
    dotted = "." in place and all(part.isidentifier() for part in place.split("."))
    return place.endswith(".py") or (attribute.isidentifier() and (dotted or is_installed(place)))
