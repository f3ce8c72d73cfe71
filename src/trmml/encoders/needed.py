"""The encoder that a run or an index needs: by what it says of itself, or as it is given."""

import shlex
from pathlib import Path

from trmml.encoders import is_factory, load_encoder
from trmml.encoders.base import Encoder
from trmml.encoders.factory import describe_factory
from trmml.encoders.frozen import FrozenEncoder, frozen_encoder
from trmml.errors import CheckpointError, ConfigError


def needed_encoder(
    where: Path | str,
    spec: str | None,
    given: Encoder | str | None,
    *,
    name: str,
    size: int,
    trust: bool = False,
    text: bool = True,
    device: str = "cpu",
) -> FrozenEncoder:
    """The encoder, frozen; whether it is the same one is for the caller to compare.

    Args:
        where: what needs it, for messages, which also say its `name`.
        spec: how `where` says that it is loaded; None where it was made with an object.
        given: an encoder, or what `load_encoder` takes; as `spec` says when None.
        name: see `where`.
        size: side of its input in pixels.
        trust: whether a factory that `spec` names may run; see docs/security.md.
        text: see `load_encoder`.
        device: where it will run.

    Raises:
        CheckpointError: it is code that nobody named.
        ConfigError: nothing says which encoder it is.
        EncoderError: it cannot be loaded.
    """
    wanted = spec if given is None else given
    if wanted is None:
        raise ConfigError(
            f"{where} was made with an encoder object ({name}), which cannot be loaded by name;"
            " pass it as encoder=, or name a factory with --encoder"
        )
    if isinstance(wanted, str):
        if given is None and not trust and is_factory(wanted):
            raise CheckpointError(
                f"{where} needs an encoder that is code: it would run {describe_factory(wanted)}."
                " Nothing was run. If you know that code, name it with --encoder"
                f" {shlex.quote(wanted)}, or say --trust (in Python: encoder=, trust=True)"
            )
        wanted = load_encoder(wanted, image_size=size, text=text)
    return frozen_encoder(wanted, device=device, spec=spec)
