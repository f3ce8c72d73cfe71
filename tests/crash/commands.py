"""The commands that are killed: how they begin, how they go on, and what they must leave behind."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open

from tests.toy import COLOURS, write_images, write_table
from trmml.curation.answers import Answer, Answers, new_id, now

SPEC = f"{Path(__file__).parents[1] / 'toy.py'}:ToyEncoder"
FIT = (
    *("fit", "--images", "train", "--labels", "train.csv", "--out", "run", "--encoder", SPEC),
    *("--test-images", "test", "--test-labels", "test.csv", "--known", "0.7", "--epochs", "2"),
    *("--set", "training.batch_size=8", "--set", "training.held_out_share=0.3"),
    *("--set", "losses.pseudo=0.1", "--set", "prototypes.warm_up_share=0.2", "--device", "cpu"),
)
CONVERT = (
    *("data", "convert", "folder", "set", "out", "--option", "blank=absent", "--images", "copy"),
)
EXCHANGE = (
    *("data", "export", "label-studio", "set", "out", "--kind", "folder"),
    *("--option", "blank=absent", "--ask", "choices"),
)
EXPORT = ("export", "run", "model.onnx", "--trust")
BENCHMARK = (
    *("benchmark", "--data", "folder", "set", "--data-option", "blank=absent", "--encoder", SPEC),
    *("--methods", "zero-shot,probe-masked", "--known", "50", "--seeds", "2", "--draws", "10"),
    *("--out", "out", "--device", "cpu", "--settings", "settings"),
)
EVALUATE = (
    *("evaluate", "run", "--images", "test", "--labels", "test.csv", "--trust", "--device", "cpu"),
    *("--store", "features", "--csv", "categories.csv", "--report"),
)
COMPLETE = (
    *("complete", "run", "--images", "train", "--labels", "partial.csv", "--out", "filled.csv"),
    *("--provenance", "filled.parquet", "--trust", "--device", "cpu"),
)
ANSWERS = ("--answers", "answers.sqlite")
APPLY = ("review", "apply", "--labels", "partial.csv", *ANSWERS, "--out", "applied.csv")
REVIEWED = ("review", "export", *ANSWERS, "--out", "answers.jsonl")
REMOVE = ("store", "rm", "--all", "--yes")
# What differs from run to run: times, and what follows from them.
_TIMES = (
    "seconds",
    "seconds_left",
    "images_per_second",
    "trained",
    "date",
    "written",
    "card_sha256",
    "files",
)


@dataclass(frozen=True)
class Job:
    """A command with all that it needs.

    Attributes:
        name: for messages.
        command: what is killed.
        goes_on: what finishes it after a kill, tried in this order.
        prepare: writes what the command reads, with a server for commands that come first.
        result: the files that must be the same in the end, below the folder.
    """

    name: str
    command: tuple[str, ...]
    goes_on: tuple[tuple[str, ...], ...]
    prepare: "Callable[[Path, Server], None]"
    result: tuple[str, ...]


class Server:
    """The process that runs commands; see `server.py`."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.server"], text=True, env=environment,
            cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._answer()["ready"]

    def run(
        self, root: Path, command: Sequence[str], *, kill_at: int = 0, journal: Path | None = None
    ) -> int | str:
        """Run a command in a folder; its exit code, -9 after a kill, "hangs" after too long."""
        request = {
            "command": list(command), "root": str(root), "kill_at": kill_at,
            "journal": None if journal is None else str(journal),
            "output": str(root.with_suffix(".txt")),
            "environment": {"TRMML_CACHE": str(root / "cache"), "COLUMNS": "100"},
        }  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status: int | str = self._answer()["status"]
        return status

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        stream: IO[str] | None = self._process.stdout
        assert stream is not None
        answer: dict[str, Any] = json.loads(stream.readline())
        return answer


def _images(root: Path, server: Server) -> None:
    for seed, (name, count) in enumerate((("train", 24), ("test", 8))):
        write_table(root / f"{name}.csv", write_images(root / name, count, seed))


def _stopped_run(root: Path, server: Server) -> None:
    """A run that was killed when it had saved its state once."""
    _images(root, server)
    _age(root)
    whole = root.with_name(f"{root.name}-whole")
    shutil.copytree(root, whole)
    server.run(whole, FIT, journal=whole.with_suffix(".points"))
    points = whole.with_suffix(".points").read_text().splitlines()
    saved = [n for n, point in enumerate(points, start=1)
             if point.startswith("replace") and "state.safetensors" in point]  # fmt: skip
    assert server.run(root, FIT, kill_at=saved[0] + 1) == -9
    assert (root / "run" / "state.safetensors").is_file()


def _finished_run(root: Path, server: Server) -> None:
    _images(root, server)
    assert server.run(root, FIT) == 0, root.with_suffix(".txt").read_text()


def _reviewed_run(root: Path, server: Server) -> None:
    """A run, a table with blanks, and answers for some of them."""
    _finished_run(root, server)
    header, *lines = (root / "train.csv").read_text().splitlines()
    blanked = [f"{line.rpartition(',')[0]}," if n % 3 else line for n, line in enumerate(lines)]
    (root / "partial.csv").write_text("\n".join([header, *blanked]) + "\n")
    category = header.rpartition(",")[2]
    images = (line.partition(",")[0] for line in lines[1:6])
    rows = [Answer(new_id(), now(), "", image, "", category, "present", "unknown", 0.5, "typed",
                   "", 1, None) for image in images]  # fmt: skip
    with Answers(root / "answers.sqlite") as answers:
        answers.add(rows)


def _plain_set(root: Path, server: Server) -> None:
    (root / "set").mkdir()
    (root / "settings").mkdir()
    (root / "set" / "categories.txt").write_text("\n".join(COLOURS))
    training = "[partial.training]\nepochs = 1\nbatch_size = 8\n"
    (root / "settings" / "probe-masked.toml").write_text(training)
    for seed, (split, count) in enumerate((("train", 16), ("test", 6))):
        rows = write_images(root / "set" / "images" / split, count, seed)
        named = [
            ";".join(c for c, there in zip(COLOURS, row, strict=True) if there) for row in rows
        ]
        lines = [f"{split}/{n:03}.png,{names}" for n, names in enumerate(named)]
        (root / "set" / f"{split}.csv").write_text("\n".join(["image,labels", *lines]) + "\n")


_RUN = tuple(f"run/{name}" for name in (
    "model.safetensors", "model.json", "known.safetensors", "held_out.safetensors", "log.jsonl",
    "settings.json", "report.html", "results.json",
))  # fmt: skip
RESUME = (*FIT, "--resume")
JOBS = (
    Job("fit", FIT, (FIT, RESUME), _images, _RUN),
    Job("resume", RESUME, (RESUME,), _stopped_run, _RUN),
    Job("convert", CONVERT, (CONVERT,), _plain_set, ("out",)),
    Job("exchange", EXCHANGE, (EXCHANGE,), _plain_set, ("out",)),
    Job("store", EVALUATE, (EVALUATE,), _finished_run, ("categories.csv", "run/report.html")),
    Job("remove", REMOVE, (REMOVE,), _finished_run, ("cache/features",)),
    Job("export", EXPORT, (EXPORT,), _finished_run, ("model.onnx",)),
    Job("complete", COMPLETE, (COMPLETE,), _reviewed_run, ("filled.csv", "filled.parquet")),
    Job("apply", APPLY, (APPLY,), _reviewed_run, ("applied.csv",)),
    Job("answers", REVIEWED, (REVIEWED,), _reviewed_run, ("answers.jsonl",)),
    Job("benchmark", BENCHMARK, (BENCHMARK,), _plain_set, ("out/cells.jsonl", "out/grid.json")),
)


def prepared(job: Job, folder: Path, server: Server) -> Path:
    """A folder with all that a job needs, to be copied for each kill."""
    root = folder / job.name
    root.mkdir(parents=True)
    job.prepare(root, server)
    _age(root)
    return root


def _age(root: Path) -> None:
    """Make all files an hour old: what was just written is treated with more care."""
    for path in root.rglob("*"):
        os.utime(path, (path.stat().st_atime - 3600, path.stat().st_mtime - 3600))


def whole_run(job: Job, start: Path, server: Server) -> tuple[list[str], Mapping[str, Any]]:
    """The points that a job passes, and what it leaves behind when nobody kills it."""
    root = start.with_name(f"{start.name}-unkilled")
    shutil.copytree(start, root)
    journal = root.with_suffix(".points")
    status = server.run(root, job.command, journal=journal)
    if status != 0:
        raise RuntimeError(f"{job.name} ends with {status}: {root.with_suffix('.txt').read_text()}")
    return journal.read_text().splitlines(), content(root, job.result)


def faults_of_a_kill(
    job: Job, start: Path, server: Server, kill_at: int, expected: Mapping[str, Any]
) -> list[str]:
    """What is wrong after a job was killed at a point and finished by the next run."""
    root = start.with_name(f"{start.name}-{kill_at}")
    shutil.copytree(start, root)
    try:
        status = server.run(root, job.command, kill_at=kill_at)
        if status != -9:
            return [f"it was not killed, but ended with {status}"]
        faults = [f"half-written: {name}" for name in half_written(root)]
        _age(root)
        for command in job.goes_on:
            status = server.run(root, command)
            if status == 0:
                break
        if status != 0 and content(root, job.result) != expected:
            return [*faults, f"not finished ({status}): {_last_lines(root)}"]
        found = content(root, job.result)
        names = sorted(set(found) | set(expected))
        differing = [name for name in names if found.get(name) != expected.get(name)]
        faults += [f"another result: {name}" for name in differing]
        return faults + [f"left over: {name}" for name in left_over(root)]
    finally:
        shutil.rmtree(root)


def _last_lines(root: Path) -> str:
    return " ".join(root.with_suffix(".txt").read_text("utf-8").split())[-400:]


def content(root: Path, names: Sequence[str]) -> Mapping[str, Any]:
    """What the files hold, without times; None where one is missing."""
    found: dict[str, Any] = {}
    for name in names:
        path = root / name
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in inside:
            found[str(file.relative_to(root))] = _content(file) if file.is_file() else None
    return found


def _content(path: Path) -> Any:
    if path.suffix in (".json", ".jsonl"):
        lines = path.read_text("utf-8").splitlines() if path.suffix == ".jsonl" else None
        trees = [json.loads(line) for line in lines or [path.read_text("utf-8")]]
        return sorted(json.dumps(_without_times(tree), sort_keys=True) for tree in trees)
    if path.suffix == ".safetensors":  # the order of its metadata is left to chance
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name).tobytes() for name in file.keys()}
            return tensors, file.metadata()
    if path.suffix in (".html", ".onnx"):  # both tell times
        return "there" if path.stat().st_size else None
    return path.read_bytes()


def _without_times(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {n: _without_times(value) for n, value in tree.items() if n not in _TIMES}
    return [_without_times(value) for value in tree] if isinstance(tree, list) else tree


def left_over(root: Path) -> list[str]:
    """Temporary files that nobody will remove."""
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.suffix in (".part", ".tmp")
        or (path.name.startswith(".") and not path.name.endswith(".lock"))
    )


def half_written(root: Path) -> list[str]:
    """Files that are visible and not whole; the last line of a .jsonl may be cut off."""
    found = []
    for path in root.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.is_file() and not hidden and not _is_whole(path):
            found.append(str(path.relative_to(root)))
    return sorted(found)


def _is_whole(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        elif path.suffix == ".jsonl":
            for line in path.read_bytes().split(b"\n")[:-1]:
                json.loads(line)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                list(file.keys())
        elif path.suffix == ".html":
            return "</html>" in path.read_text("utf-8")
        elif path.suffix in (".csv", ".onnx", ".svg", ".md", ".toml"):
            return path.stat().st_size > 0
    except (ValueError, OSError, SafetensorError):
        return False
    return True
