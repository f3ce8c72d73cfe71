"""The errors trmml raises for bad input, so that a caller can tell them from bugs.

TrmmlError
├── DataError           a table, a label, a folder or an image is not what was asked for
│   └── MissingSplitError   a data set has no training set, or no test set
├── ConfigError         a setting has a wrong name or value, or two settings disagree
├── EncoderError        an encoder is unknown, cannot be loaded or breaks the protocol
├── CheckpointError     a run folder is missing, broken or belongs to something else
├── TrainingError       training cannot go on, for example after a loss that is not finite
└── MissingExtraError   an optional part is not installed

Every message says what was expected, what came, where, and what to do.
"""


def how_to_install(extra: str) -> str:
    """How an optional part is installed, the end of a sentence; no index of packages has trmml yet.

    Example:
        >>> how_to_install("hub")
        "from a clone of trmml: pip install '.[hub]'"
    """
    return f"from a clone of trmml: pip install '.[{extra}]'"


class TrmmlError(Exception):
    """Parent of every error that bad input can cause."""


class DataError(TrmmlError):
    """A table, a label, a folder or an image is not what was asked for."""


class JournalError(DataError):
    """A journal of answers cannot be used now: it is locked or damaged, or the disk is full."""


class MissingSplitError(DataError):
    """A data set has no training set, or no test set."""


class ConfigError(TrmmlError):
    """A setting has a wrong name or value, or two settings disagree."""


class EncoderError(TrmmlError):
    """An encoder is unknown, cannot be loaded or breaks the protocol."""


class CheckpointError(TrmmlError):
    """A run folder is missing, broken or belongs to something else."""


class TrainingError(TrmmlError):
    """Training cannot go on, for example after a loss that is not finite."""


class MissingExtraError(TrmmlError):
    """An optional part is not installed.

    Args:
        need: what the user wanted, for example "the TensorBoard log".
        extra: the extra that holds it, for example "tensorboard".
    """

    def __init__(self, need: str, extra: str) -> None:
        super().__init__(f"{need} needs an optional part. Install it {how_to_install(extra)}")
