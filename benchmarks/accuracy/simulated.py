"""Put what `trmml review simulate` found on several data sets into one file, and print its tables.

    python -m benchmarks.accuracy.simulated runs/simulated/*

Each folder holds the cells of one command. Intervals and single draws stay in those folders.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.record import write_results

from trmml.benchmark.simulation import Finished, read_finished, session_table
from trmml.benchmark.table_text import to_markdown


def main() -> None:
    """Read the folders, write benchmarks/results/simulated.json, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    found = {
        folder.name: sorted(
            map(read_finished, (folder / "cells").glob("*.json")),
            key=lambda each: (each.session.policy, each.session.asking, each.session.seed),
        )
        for folder in parser.parse_args().folders
    }
    for name, sessions in found.items():
        print(to_markdown(session_table(sessions, name)))
    path = write_results(
        "simulated",
        {"sessions": {name: list(map(_short, each)) for name, each in found.items()}},
    )
    print(path)


def _short(each: Finished) -> dict[str, Any]:
    """What is worth keeping of a session; scores with five digits."""
    points = [
        [round(p.mean_ap, 5), p.answers, p.present, p.questions, p.exceptions, round(p.seconds)]
        for p in each.points
    ]
    return {
        **asdict(each.session),
        "area": round(each.area, 5),
        "full": round(each.full, 5),
        "needed": each.needed,
        "points": points,
        "commit_of_cell": each.commit,
    }


if __name__ == "__main__":
    main()
