"""Whether a server grows over two hours of review: its memory while a script answers.

    python -m benchmarks.speed.serve_memory runs/demo [--brief]

By turns the script answers a block of 12 with its thumbs, takes all but one back, answers a whole
image, and takes that back. A person takes some 2 seconds for each of these, so 3,600 are two hours;
the script does them as fast as the server replies. A tenth warms. Prints a table and writes
benchmarks/results/serve_memory.json.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.serve import Client, one_answer, parser, publish, server

from trmml.curation.answers import new_id


def review(client: Client, actions: int, pid: int) -> dict[str, Any]:
    """The server's memory in MB, some 54 times."""
    began, found, rows, last = time.monotonic(), list[float](), 0, list[dict[str, Any]]()
    for number in range(actions):
        if number % 2 == 0:
            last = (block, image)[number // 2 % 2](client)
        else:  # taken back, or the questions run out; one of a block stays
            last = [{**row, "id": new_id(), "answer": None, "undoes": row["id"]}
                    for row in last[number % 4 // 2 == 0 :]]  # fmt: skip
        client.json("/api/v1/answers", {"answers": last})
        client.json("/api/v1/progress")
        rows += len(last)
        if number % max(1, actions // 60) == 0 and number >= actions // 10:
            found.append(memory(pid))
    return {"actions": actions, "rows": rows, "seconds": time.monotonic() - began,
            "grown_mb": found[-1] - found[0], "memory_mb": found}  # fmt: skip


def block(client: Client) -> list[dict[str, Any]]:
    """Rows that answer a block of 12, with its thumbs."""
    asked = client.json("/api/v1/queue?n=12")["questions"]
    for each in asked:
        client.ask(f"/api/v1/thumb/{each['image']}?w=320")
    return [one_answer(client, each) for each in asked]


def image(client: Client) -> list[dict[str, Any]]:
    """Rows that answer a whole image."""
    asked = client.json("/api/v1/queue/images?n=1")["images"]
    if not asked:  # all were asked about once
        asked = client.json("/api/v1/queue/images?n=1&anew=true")["images"]
    client.ask(f"/api/v1/thumb/{asked[0]['image']}?w=1280")
    return [one_answer(client, each) for each in asked[0]["questions"]]


def memory(pid: int) -> float:
    """Resident memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The server's memory over two hours, or over some minutes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        server(options.run, Path(folder) / "answers.sqlite") as (port, token, pid),
    ):
        return review(Client(port, token), 120 if options.brief else 3600, pid)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    return publish("serve_memory", parser(__doc__).parse_args(arguments), measured)


if __name__ == "__main__":
    raise SystemExit(main())
