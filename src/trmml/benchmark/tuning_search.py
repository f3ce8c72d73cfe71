"""The search itself, by Optuna: spaces, journal, the next settings to try."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trmml.errors import ConfigError, MissingExtraError
from trmml.settings.search_space import OneOf, Range

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

# Trials before the search has enough to learn from: the starts, and the rest drawn at random.
RANDOM_TRIALS = 8


def open_study(journal: Path) -> "optuna.Study":
    """A search that is kept in a journal, line by line, and continues from there.

    Raises:
        MissingExtraError: Optuna is not installed.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise MissingExtraError("tuning", "benchmark") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    return optuna.create_study(
        storage=storage, study_name=journal.stem, direction="maximize", load_if_exists=True
    )


def ask(
    study: "optuna.Study", space: "dict[str, BaseDistribution]", seed: int, done: int
) -> "optuna.trial.Trial":
    """The next settings. A sampler per trial, so that a search continues as if never stopped."""
    import optuna

    study.sampler = optuna.samplers.TPESampler(
        seed=1_000_003 * seed + done, n_startup_trials=RANDOM_TRIALS
    )
    return study.ask(space)


def tell(
    study: "optuna.Study",
    space: "dict[str, BaseDistribution]",
    trial: "optuna.trial.Trial | None",
    changes: Mapping[str, Any],
    value: float,
) -> None:
    """Write a trial into the journal; the defaults were not asked for."""
    import optuna

    if trial is not None:
        study.tell(trial, value)
        return
    made = optuna.trial.create_trial(params=dict(changes), distributions=space, value=value)
    study.add_trial(made)


def distribution(name: str, part: OneOf | Range, default: Any) -> "BaseDistribution":
    """What Optuna draws a setting from.

    Raises:
        ConfigError: the default lies outside, so the search would leave it out.
    """
    try:
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )
    except ImportError:
        raise MissingExtraError("tuning", "benchmark") from None
    if isinstance(part, OneOf):
        if default not in part.values:
            raise ConfigError(f"the default of {name}, {default}, is none of {part.values}")
        return CategoricalDistribution(part.values)
    if not part.low <= default <= part.high:
        raise ConfigError(
            f"the default of {name}, {default}, is not from {part.low} to {part.high}"
        )
    if isinstance(default, int):
        return IntDistribution(round(part.low), round(part.high), log=part.log)
    return FloatDistribution(part.low, part.high, log=part.log)
