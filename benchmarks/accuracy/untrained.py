"""What methods that start from texts say before their first step, on a set of the results page.

    python -m benchmarks.accuracy.untrained --data scenes DIR
    python -m benchmarks.accuracy.untrained --data corel5k DIR --encoder SPEC

They start from texts of the frozen encoder, so they have a mAP untrained, below which training
should not end. It is no zero-shot row: DualCoOp starts from the difference of two prompts. Settings
are each method's defaults, seed 0. Writes benchmarks/results/<dataset>/untrained.json, from which
the page says which rival stands below its start.
"""

import argparse
from pathlib import Path

from benchmarks.record import write_results

from trmml.benchmark.catalog import METHODS
from trmml.benchmark.data import BenchmarkData, encode_benchmark_data
from trmml.datasets.catalog import read_named
from trmml.encoders import load_encoder
from trmml.features.extract import Encoding
from trmml.method.interface import predict
from trmml.metrics.average_precision import average_precisions, mean_defined

FROM_TEXTS = ("coop", "dualcoop", "scpnet", "sarb", "trmml-paper")


def untrained_map(data: BenchmarkData, key: str) -> float:
    """Test mAP in percent of a method that has made no step."""
    method, truth = METHODS[key], data.test.matrix
    model = method.build(data.frozen, data.train.category_names, method.settings())
    model.to(data.frozen.device)
    source = data.encoded_test.scored_features(pooled=method.pooled, views=1)
    logits = predict(model, source, device=data.frozen.device)
    return 100 * mean_defined(average_precisions(logits, truth.labels, truth.known))


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", nargs=2, required=True, metavar=("NAME", "ROOT"))
    parser.add_argument("--encoder", default="bundled")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--store", type=Path, help="of features; default: the user's")
    options = parser.parse_args()
    name, root = options.data
    data = encode_benchmark_data(
        name,
        *(read_named(name, Path(root), split, {}) for split in ("train", "test")),
        load_encoder(options.encoder),
        device=options.device,
        encoding=Encoding(options.store),
        encoder_spec=options.encoder,
    )
    found = {key: round(untrained_map(data, key), 3) for key in FROM_TEXTS}
    for key, value in found.items():
        print(f"{METHODS[key].name:24}{value:7.2f}")
    print(write_results(f"{name}/untrained", {"dataset": name, "map": found}))


if __name__ == "__main__":
    main()
