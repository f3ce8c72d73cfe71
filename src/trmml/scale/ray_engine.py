"""Ray's actors do the parts: each loads the run once, and writes whole files to the same folder."""

import io
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from trmml.errors import MissingExtraError
from trmml.scale.job import Job
from trmml.scale.part import why_failed
from trmml.scale.run import Loading
from trmml.storage.sessions import cores

# Processors that Ray Data keeps for itself: with none to spare, a job would wait for ever.
SPARE = 2


def drive(
    job: Job,
    out: Path,
    loading: Loading,
    counted: Callable[[int], None],
    address: str | None,
    workers: int,
    parts: Iterable[pl.DataFrame],
) -> Iterator[tuple[pl.DataFrame, str | None]]:
    """Parts as Ray finishes them, each with why it failed, or None.

    Args:
        job: what is computed.
        out: absolute folder of the job, which all machines reach under this name, as the run.
        loading: of the run; on "cuda" each worker has a card.
        counted: called with the images of each part.
        address: of a cluster; None starts Ray on this machine.
        workers: actors.
        parts: rows of the manifest.

    Raises:
        MissingExtraError: Ray is not installed.
        OSError: the disk is full.
    """
    if not (todo := list(parts)):
        return
    try:
        import ray.data
    except ImportError:
        raise MissingExtraError("the engine ray", "ray") from None
    _start(ray, address, workers)
    items = [{"number": n, "rows": _packed(rows)} for n, rows in enumerate(todo)]
    done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Worker,
        fn_constructor_kwargs={"job": job, "out": out, "loading": loading},
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1 if address else _threads(workers),  # Ray gives a worker so many threads
        num_gpus=1 if loading.device.startswith("cuda") else 0,
    )
    for row in done.iter_rows():
        if row["errno"]:
            raise OSError(int(row["errno"]), str(row["error"]), str(row["file"]))
        rows = todo[int(row["number"])]
        why = row["error"] or None
        counted(0 if why else len(rows))
        yield rows, why


def _start(ray: Any, address: str | None, workers: int) -> None:
    """Join a cluster, or start Ray here with room for its own workers; it says only errors."""
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not ray.is_initialized():
        own = {} if address else {"num_cpus": _threads(workers) * workers + SPARE}
        ray.init(
            address or "local",  # else it would join whatever runs here, or RAY_ADDRESS names
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **own,
        )
    ray.data.DataContext.get_current().enable_progress_bars = False


def _threads(workers: int) -> int:
    """Processors of this machine for each worker."""
    return max(1, cores() // workers)


class _Worker:
    """An actor with a run."""

    def __init__(self, job: Job, out: Path, loading: Loading) -> None:
        self._job, self._out, self._loading = job, out, loading
        self._scorer = loading.scorer(job.what, job.precision, job.by)

    def __call__(self, items: dict[str, Any]) -> dict[str, Any]:
        """Do parts; an error comes back in words, for Ray would wrap an exception in its own.

        A full disk comes back with its number and the file, and ends the job on the driver.
        """
        done: dict[str, list[Any]] = {"error": [], "errno": [], "file": []}
        for packed in items["rows"]:
            rows, number, file = pl.read_ipc(io.BytesIO(packed)), 0, ""
            try:
                why = why_failed(self._job, self._out, rows, self._scorer, self._loading.storage)
            except OSError as error:
                why, number = error.strerror, error.errno or 0
                file = str(error.filename or self._out)
            for name, value in (("error", why or ""), ("errno", number), ("file", file)):
                done[name].append(value)
        return {"number": items["number"], **done}


def _packed(rows: pl.DataFrame) -> bytes:
    """Rows of a manifest as bytes."""
    file = io.BytesIO()
    rows.write_ipc(file)
    return file.getvalue()
