"""A training run on disk: all that is needed to go on to the same weights."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from trmml.errors import CheckpointError
from trmml.features import ranks
from trmml.method.interface import MultiLabelModel
from trmml.method.pseudo_labels import PseudoLabeller
from trmml.storage.tensors import load_tensors, save_tensors, sum_of
from trmml.training.old_formats import current_tensors


class TrainingState:
    """What moves while a model trains; `Trainer` sets it up and moves it.

    Attributes:
        model: with its running state.
        average: of the trained weights, by name.
        best: the state of the model after the best epoch so far; empty before any.
        pseudo_labeller: evidence and pseudo-labels; None of a model that trains without.
        epoch, batch, step: how many are done; batches of this epoch.
        totals: losses of this epoch, times images.
        gradient_shares: of the loss terms, at the first batch of this epoch.
        records: of the epochs so far.
    """

    model: MultiLabelModel
    optimizer: torch.optim.Optimizer
    fabric: Fabric
    average: dict[str, Tensor]
    best: dict[str, Tensor]
    best_record: dict[str, Any]
    best_aps: list[float]
    pseudo_labeller: PseudoLabeller | None
    epoch: int
    batch: int
    step: int
    totals: dict[str, float]
    gradient_shares: dict[str, float]
    records: list[dict[str, Any]]

    def save(self, path: Path, fingerprint: str) -> None:
        """Write everything that continuing needs into one file; of several processes the first."""
        if ranks.number():
            return
        tensors = {f"model.{n}": v for n, v in self.model.state_dict().items()}
        tensors |= {f"average.{n}": v for n, v in self.average.items()}
        tensors |= {f"best.{n}": v for n, v in self.best.items()}
        tensors |= {} if self.pseudo_labeller is None else self.pseudo_labeller.tensors()
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{n}": v for n, v in moments.items()}
        names = (
            "epoch",
            "batch",
            "step",
            "totals",
            "gradient_shares",
            "records",
            "best_record",
            "best_aps",
        )
        place = {name: getattr(self, name) for name in names}
        place["precision"] = self.fabric.strategy.precision.state_dict()
        metadata = {"place": json.dumps(place), "fingerprint": fingerprint}
        save_tensors(path, tensors, metadata | {"sum": sum_of(tensors, metadata)})

    def load(self, path: Path, fingerprint: str) -> None:
        """Continue from a state that `save` wrote.

        Raises:
            CheckpointError: the state is damaged, or belongs to other data, settings or features.
        """
        tensors, metadata = load_tensors(path)
        found = metadata.pop("sum", None)  # states of before 2026-12 have none
        if found not in (None, sum_of(tensors, metadata)):
            raise CheckpointError(
                f"{path} is damaged: it does not fit its checksum. Restore it, or begin the run"
                " again in a new folder"
            )
        if metadata.get("fingerprint") != fingerprint:
            raise CheckpointError(
                f"{path} was written with other data, labels or settings, or with features of"
                " another encoder, size, precision or form; resume with the same ones, or start in"
                " a new folder"
            )
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = value
        self.model.load_state_dict(current_tensors(groups["model"]))
        average = current_tensors(groups["average"])
        self.average = {n: v.to(self.fabric.device) for n, v in average.items()}
        self.best = current_tensors(groups.get("best", {}))
        if self.pseudo_labeller is not None:
            self.pseudo_labeller.load(tensors)
        self._load_optimizer(groups.get("optimizer", {}))
        place = json.loads(metadata["place"])
        self.fabric.strategy.precision.load_state_dict(place.pop("precision"))
        for name, value in place.items():
            setattr(self, name, value)

    def _load_optimizer(self, moments: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in moments.items():
            index, _, rest = name.partition(".")
            state.setdefault(int(index), {})[rest] = value
        tree = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state, "param_groups": tree["param_groups"]})
