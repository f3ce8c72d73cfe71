"""Images per second of `trmml batch tag` against `trmml tag`, and what planning 10^6 rows takes.

    python -m benchmarks.speed.batch RUN IMAGES [--images 256] [--rounds 3] [--rows 1000000]
        [--ray 1 2]

Both tag the same files with the run's kept ONNX file in fp32, in turn within one process; each
round of a job has a new folder, and reads its manifest. The ratio is that of the medians. The
manifest of `--rows` rows names files that do not exist; what is timed is what a job does before its
first image: reading it, checking ids, cutting it into parts and looking each of them up. With
`--ray`, both engines do the same files in ten parts, Ray by so many workers: what is timed is from
the first part of each worker to the last, so once it is started. Prints tables and writes
benchmarks/results/batch.json, of Ray benchmarks/results/batch_ray.json.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
from benchmarks.record import write_results
from benchmarks.speed.timing import in_process, in_turn, rates

from trmml.deploy.tag import tag
from trmml.image_search import find_images
from trmml.scale.job import Job, part_card, part_path, rows_checksum
from trmml.scale.manifest import read_manifest, write_manifest
from trmml.scale.run import tag_manifest
from trmml.settings.choices import Engine


def compare(run: Path, folder: Path, images: int, rounds: int) -> dict[str, Any]:
    """Rates of both verbs, and their ratio."""
    paths = find_images([folder])[:images]
    with tempfile.TemporaryDirectory() as place:
        listed = Path(place, "list.txt")
        listed.write_text("".join(f"{path}\n" for path in paths), "utf-8")
        manifest, number = Path(place, "m.parquet"), count()
        write_manifest([str(listed)], manifest)

        def batch() -> None:
            done = tag_manifest(run, manifest, Path(place, f"{next(number)}"), device="cpu")
            assert (done.done, done.errors) == (len(paths), 0)

        seconds = in_turn({"tag": lambda: tag(run, paths), "batch": batch}, rounds)
    found = {name: rates(len(paths), taken) for name, taken in seconds.items()}
    ratio = found["batch"]["images_per_second"] / found["tag"]["images_per_second"]
    return {"images": len(paths), "rates": found, "ratio": ratio, "load": os.getloadavg()}


def by_engine(run: Path, folder: Path, images: int, rounds: int, workers: list[int]) -> Any:
    """Images a second of each engine once it is started, by the times of its files."""
    paths = find_images([folder])[:images]
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        listed, manifest = Path(place, "list.txt"), Path(place, "m.parquet")
        listed.write_text("".join(f"{path}\n" for path in paths), "utf-8")
        write_manifest([str(listed)], manifest)
        part = len(paths) // 10
        for number in range(rounds):
            for many in (0, *workers):
                out = Path(place, f"{number}-{many}")
                engine: Engine = "ray" if many else "local"
                tag_manifest(run, manifest, out, engine=engine, workers=many, part=part,
                             device="cpu")  # fmt: skip
                times = sorted(path.stat().st_mtime_ns for path in out.glob("part-*"))
                first = max(many, 1)
                rate = part * (len(times) - first) / (times[-1] - times[first - 1]) * 1e9
                found.setdefault(f"{engine} {many}".removesuffix(" 0"), []).append(rate)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    shares = {name: rate / medians["local"] for name, rate in medians.items()}
    return {"images": len(paths), "rates": found, "shares": shares, "load": os.getloadavg()}


def plan(rows: int) -> dict[str, float]:
    """Seconds and peak memory of planning a manifest, in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "m.parquet")
        names = [f"scans/{number // 1000:04}/{number:08}.jpg" for number in range(rows)]
        pl.DataFrame(
            {
                "id": names,
                "uri": [f"s3://museum/{name}" for name in names],
                "size": [200_000] * rows,
                "etag": [f"{number:032x}" for number in range(rows)],
            }
        ).write_parquet(path)
        return in_process("benchmarks.speed.batch", {"manifest": str(path), "out": place})


def planned(manifest: Path, out: Path) -> dict[str, float]:
    """What `plan` measures."""
    before = _peak_mib()
    started = time.perf_counter()
    rows = read_manifest(manifest)
    job = Job(
        format=1, run="", encoder={}, category_names=[], thresholds=[], what=["tags"], batch=64,
        part=10_000, precision="fp32", by="torch", grid=[7, 7], feature_size=0, rows=len(rows),
        manifest=rows_checksum(rows), trmml="",
    )  # fmt: skip
    todo = [p for p in rows.iter_slices(job.part) if part_card(part_path(out, p, job)) is None]
    seconds = time.perf_counter() - started
    return {
        "rows": len(rows), "parts": len(todo), "seconds": seconds,
        "peak_mib": _peak_mib(), "of_it_before_mib": before,
    }  # fmt: skip


def _peak_mib() -> float:
    """Largest memory of this process so far; that of `getrusage` would be its parent's."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) / 1024


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ray", type=int, nargs="*", metavar="WORKERS", help="Ray alone")
    parser.add_argument("--cell")
    given = parser.parse_args()
    if given.cell:
        cell = json.loads(given.cell)
        print(json.dumps(planned(Path(cell["manifest"]), Path(cell["out"]))))
        return
    if given.ray:
        found = by_engine(given.run, given.folder, given.images, given.rounds, given.ray)
        print(json.dumps(found, indent=1), write_results("batch_ray", found), sep="\n")
        return
    tree = {
        "tagging": compare(given.run, given.folder, given.images, given.rounds),
        "planning": plan(given.rows),
    }
    for name, rate in tree["tagging"]["rates"].items():
        print(f"{name:6} {rate['images_per_second']:.1f} images/s ({rate['lowest']:.1f} to"
              f" {rate['highest']:.1f})")  # fmt: skip
    print(f"ratio  {tree['tagging']['ratio']:.3f}")
    plan_ = tree["planning"]
    print(f"{plan_['rows']} rows planned in {plan_['seconds']:.1f} s, {plan_['peak_mib']:.0f} MiB")
    print(write_results("batch", tree))


if __name__ == "__main__":
    main()
