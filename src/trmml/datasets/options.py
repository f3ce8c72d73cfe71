"""The choices of a reader, as `name=value` text from the command line or Python."""

import difflib
from collections.abc import Mapping
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trmml.errors import ConfigError

Split = Literal["train", "test"]

# What files and folders of a split may be called, in the order of preference.
SPLIT_NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "validation", "valid", "val"),
}


class ReaderOptions(BaseModel):
    """Choices of every reader; a reader's own options inherit from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    missing: Literal["error", "drop"] = Field(
        "error", description="a listed image that is not there: refuse the set, or leave it out"
    )


Options = TypeVar("Options", bound=ReaderOptions)


def parse_options(model: type[Options], options: Mapping[str, str], name: str) -> Options:
    """Return the options that text stands for.

    Args:
        model: of the reader.
        options: name to value, as after `--option`.
        name: of the data set, for messages.

    Raises:
        ConfigError: the reader has no such option, or it cannot take this value.

    Example:
        >>> parse_options(ReaderOptions, {"missing": "drop"}, "voc2007").missing
        'drop'
    """
    for given in options:
        if given not in model.model_fields:
            close = difflib.get_close_matches(given, model.model_fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise ConfigError(
                f"{name} has no option {given!r}{hint} Its options are "
                f"{', '.join(sorted(model.model_fields))}."
            )
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0])
        raise ConfigError(
            f"{name}: option {option}={first['input']}: {first['msg']}. It means: "
            f"{model.model_fields[option].description}."
        ) from None
