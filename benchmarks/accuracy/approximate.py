"""Whether `--ann` finds what an exact search finds, of real queries, and under a filter of 1 %.

    python -m benchmarks.accuracy.approximate --data corel5k DIR --encoder SPEC

The training images are indexed with their features and known labels alone. Queries are the names of
100 categories in CLIP's prompt and 100 test images. The filter is the category that is nearest to
1 % of the images. Writes benchmarks/results/<dataset>/approximate.json.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.record import write_results

from trmml import load_encoder
from trmml.datasets.base import Dataset
from trmml.datasets.catalog import read_named
from trmml.encoders.base import Encoder
from trmml.features.base import read_features
from trmml.features.extract import encode_images
from trmml.method.prompts import encode_templates
from trmml.search.approximate import index_vectors, recall
from trmml.search.table import IndexCard, connect, image_schema, quoted, vectors

EACH, PROMPT, SHARE = 100, "a photo of a {}", 0.01


def features_of(data: Dataset, encoder: Encoder) -> np.ndarray:
    """Unit-length features of whole images."""
    source = encode_images(data.paths, encoder).source
    return np.asarray(read_features(source, pooled=True, views=1, dtype=torch.float32)[1][0])


def indexed(folder: Path, data: Dataset, features: np.ndarray) -> Any:
    """A table of images with their features and what they are known to show."""
    import pyarrow as pa

    names, count = list(data.category_names), len(data)
    kind = {"name": "", "feature_size": features.shape[1], "image_checksum": "", "size": 0}
    card = IndexCard(1, "/", kind, None, PROMPT, "", names, [0.5] * len(names), "0")
    schema = image_schema(card)
    shown = (data.matrix.labels & data.matrix.known).numpy()
    nothing = np.zeros(shown.shape)
    columns: dict[str, Any] = {
        **{name: pa.nulls(count, schema.field(name).type) for name in schema.names},
        "image": list(data.images),
        "image_feature": vectors(features, schema, "image_feature"),
        "probability": vectors(nothing, schema, "probability"),
        "present": [[names[c] for c in row.nonzero()[0]] for row in shown],
    }
    table = connect(folder).create_table("images", schema=schema)
    table.add(pa.table(columns, schema=schema))
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", nargs=2, required=True, metavar=("NAME", "DIR"))
    parser.add_argument("--encoder", default="bundled")
    given = parser.parse_args(arguments)
    name, root = given.data
    encoder = load_encoder(given.encoder)
    data, test = (read_named(name, Path(root), part, {}) for part in ("train", "test"))
    (texts,) = encode_templates(encoder, [PROMPT], list(data.category_names[:EACH]))
    images = features_of(test.subset(range(EACH)), encoder)
    queries = np.concatenate([np.asarray(texts.float()), images])
    shares = (data.matrix.labels & data.matrix.known).float().mean(dim=0)
    rare = int((shares - SHARE).abs().argmin())
    filters = {"no filter": "error IS NULL"}
    filters["1 %"] = f"error IS NULL AND array_has(present, {quoted(data.category_names[rare])})"
    with tempfile.TemporaryDirectory() as folder:
        table = indexed(Path(folder), data, features_of(data, encoder))
        index_vectors(table, queries[:1])
        found = {what: recall(table, queries, where) for what, where in filters.items()}
    tree = {"images": len(data), "queries": len(queries), "share": float(shares[rare])}
    print(tree, found)
    print(f"written: {write_results(f'{name}/approximate', {**tree, 'recall_50': found})}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
