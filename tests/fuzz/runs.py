"""What trmml itself writes: runs, settings, the feature store and a benchmark's cells."""

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.damage import as_json, as_text, bits, json_head, json_lines, one_of, words
from tests.fuzz.target import Target, in_folder
from tests.sets import write
from tests.toy import kept_encoder
from trmml.benchmark.catalog import METHODS
from trmml.benchmark.method_settings import read_settings
from trmml.benchmark.records import Cell, CellFolder
from trmml.encoders.frozen import frozen_encoder
from trmml.features.admin import list_stores
from trmml.features.base import Features
from trmml.features.store import FeatureStore, StoreKey, code_version, settled_shortcut
from trmml.reporting.report import write_report
from trmml.settings.files import load_settings
from trmml.storage.hashes import ContentHashes
from trmml.training.run_folder import SUMMED, card_sum, load_card, load_model

_OLD = Path(__file__).parents[1] / "training" / "run_format_5"
OLD_RUN = {path.name: path.read_bytes() for path in sorted(_OLD.iterdir()) if path.is_file()}
OLD_RUN["skipped.json"] = b"[]"


def _sealed() -> dict[str, str | bytes]:
    """The run with checksums in its card, as runs of today have them."""
    tree = json.loads(OLD_RUN["model.json"])
    tree["files"] = {name: hashlib.sha256(OLD_RUN[name]).hexdigest() for name in SUMMED}
    return {**OLD_RUN, "model.json": json.dumps(tree | {"card_sha256": card_sum(tree)})}


RUN = _sealed()


def _load(run: Path) -> None:
    """Load the card and the model, of which the card says the sum, so that it is looked into."""
    tree = json.loads((run / "model.json").read_text("utf-8"))
    tensors = (run / "model.safetensors").read_bytes()
    tree["tensors_sha256"] = hashlib.sha256(tensors).hexdigest()
    tree.pop("card_sha256", None)
    (run / "model.json").write_text(json.dumps(tree), "utf-8")
    load_model(run, frozen_encoder(kept_encoder()), load_card(run))


def _use_card(run: Path) -> None:
    load_card(run)
    write_report(run)


def _of_run(name: str, file: str, read: Callable[[Path], object], damage: Any) -> Target:
    run = OLD_RUN if name.startswith("old-") else RUN
    return in_folder(name, file, run, read, damage)


TOML = 'training = {epochs = 3}\n[prompts]\ntemplate = "a {}"\nnegative_template = "no {}"\n'
SEARCHED = '[partial.training]\nepochs = 3\n[provenance.partial]\nfrom = "x"\ntrials = 8\n'


def _override(data: bytes) -> object:
    return load_settings(None, [data.decode("utf-8", "surrogateescape")])


def _read_settings(root: Path) -> object:
    return read_settings(METHODS["trmml"], root)


KEY = StoreKey("toy", "a", 24, "", "fp32", "pillow", "int8", 9, 12, 8)


def _store() -> dict[str, str | bytes]:
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder), KEY)
        store.add(["a", "b"], Features(torch.ones(2, 9, 12), torch.ones(2, 8)))
        (shard,) = store.folder.glob("*.safetensors")
        place = KEY.name
        return {
            f"{place}/1.safetensors": shard.read_bytes(),
            f"{place}/store.json": (store.folder / "store.json").read_bytes(),
            f"{place}/whole.json": json.dumps({"1.safetensors": [1, 2]}),
            f"{place}/shortcut.json": json.dumps({"holds": True}),
            "files.json": json.dumps({"/a": [1, 2, "hash"], "/b": [1, 2, "hash"]}),
        }


STORE = _store()


def _use_store(root: Path) -> object:
    write(root, {name: content for name, content in STORE.items() if not (root / name).exists()})
    store = FeatureStore(root, KEY)
    list_stores(root)
    settled_shortcut(store.folder)
    with store.filling(["a", "b"]) as lacking:
        if lacking:
            return lacking
    return store.features([["a", "b"]]).batch(torch.tensor([0, 1]))


def _use_versions(root: Path) -> object:
    return code_version(root, KEY, [[1.0], [2.0], [3.0]], keep=True)


def _use_hashes(root: Path) -> object:
    return ContentHashes(root).look_up(root / "files.json")


def _of_store(name: str, file: str, damage: Any) -> Target:
    place = next(each for each in STORE if each.endswith(file))
    return in_folder(name, place, STORE, _use_store, damage)


def _cell() -> dict[str, Any]:
    """A line of cells.jsonl with every field."""
    examples = {"str": "x", "bool": True, "int": 1, "float | None": 0.5, "str | None": "x"}
    tree: dict[str, Any] = {}
    for field in fields(Cell):
        kind = (
            getattr(field.type, "__name__", "") if isinstance(field.type, type) else str(field.type)
        )
        by_kind = {"Sequence[tuple": [[16, 0.5]], "Sequence": [0.5, None], "str, str]": {"a": "x"}}
        other = next((value for part, value in by_kind.items() if part in kind), {"map": 0.5})
        tree[field.name] = examples.get(kind, other)
    return tree


def _use_cells(root: Path) -> object:
    folder = CellFolder(root)
    return [(cell.key, cell.mean_ap, cell.protocol) for cell in folder.cells().values()]


def _grid_again(root: Path) -> object:
    from trmml.labels.matrix import LabelMatrix

    matrix = LabelMatrix(torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool))
    folder = CellFolder(root)
    try:
        return folder.open({"same": {"data": "x"}}, matrix)
    finally:
        (root / "test.safetensors").unlink(missing_ok=True)


_LINE = json.dumps(_cell()) + "\n"
_GRID = json.dumps({
    "same": {"data": "x"}, "dataset": "toys",
    "categories": [{"name": "a", "train_positives": 1, "test_positives": 1, "size": None}],
})  # fmt: skip
TARGETS = (
    _of_run("run-card", "model.json", load_card, as_json),
    _of_run("run-card-report", "model.json", _use_card, as_json),
    _of_run("run-weights", "model.safetensors", _load, one_of(json_head, bits)),
    _of_run("run-known", "known.safetensors", write_report, one_of(json_head, bits)),
    _of_run("run-held-out", "held_out.safetensors", write_report, one_of(json_head, bits)),
    _of_run("run-pseudo", "pseudo.safetensors", write_report, one_of(json_head, bits)),
    _of_run("run-log", "log.jsonl", write_report, one_of(json_lines, words)),
    _of_run("run-skipped", "skipped.json", write_report, as_json),
    _of_run("old-run-card", "model.json", _use_card, as_json),
    _of_run("old-run-held-out", "held_out.safetensors", write_report, one_of(json_head, bits)),
    _of_run("old-run-pseudo", "pseudo.safetensors", write_report, one_of(json_head, bits)),
    _of_run("old-run-log", "log.jsonl", write_report, one_of(json_lines, words)),
    _of_run("old-run-skipped", "skipped.json", write_report, as_json),
    in_folder("settings", "s.toml", {"s.toml": TOML}, lambda root: load_settings(root / "s.toml"),
              as_text),
    Target("settings-override", b"training.epochs=3", _override, as_text),
    in_folder("settings-searched", "trmml.toml", {"trmml.toml": SEARCHED}, _read_settings, as_text),
    _of_store("store-shard", "1.safetensors", one_of(json_head, bits)),
    _of_store("store-card", "store.json", as_json),
    _of_store("store-whole", "whole.json", as_json),
    _of_store("store-shortcut", "shortcut.json", as_json),
    in_folder("store-versions", "a-24.json", {"a-24.json": "[[[1.0], [2.0], [3]]]"}, _use_versions,
              as_json),
    in_folder("store-hashes", "files.json", {"files.json": STORE["files.json"]}, _use_hashes,
              as_json),
    in_folder("cells", "cells.jsonl", {"cells.jsonl": _LINE * 2}, _use_cells,
              one_of(json_lines, words, bits)),
    in_folder("cells-grid", "grid.json", {"grid.json": _GRID}, _grid_again, as_json),
)  # fmt: skip
