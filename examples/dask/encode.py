"""Encode pictures wherever they lie, with a Dask cluster: one JSON line for each, in the order in which they are done.

    pip install 'robustcodec[dask]'                   # on every machine, and s3fs, gcsfs or adlfs for object stores
    dask scheduler                                    # on one machine
    dask worker tcp://HEAD:8786 --nworkers auto --nthreads 1        # on every machine
    python encode.py tcp://HEAD:8786 s3://photos s3://encoded > report.jsonl

"local" instead of the address takes this machine's processors. photos/a/b.jpg becomes encoded/a/b.jpg.rbc, whole or not
at all; what exists already is passed over, so that the same command goes on where it was interrupted. A picture that
cannot be encoded, or that kills its worker again and again, gets a line that says so.
"""

import json
import sys
from pathlib import PurePosixPath

import fsspec
from dask.distributed import Client, Worker, WorkerPlugin, as_completed, get_worker

import robustcodec
from robustcodec.files import PICTURE_FORMATS
from robustcodec.processors import usable_threads

QUALITY = 4
MAX_BYTES = 1 << 28
LIMITS = robustcodec.Limits(max_pixels=1 << 26, max_memory=3_000_000_000)


class LoadModel(WorkerPlugin):
    """Loads the model once for each worker process."""

    def setup(self, worker: Worker) -> None:
        """Run by Dask on every worker, before any task."""
        worker.robustcodec = robustcodec.load(threads=1)


def encode(source: str, target: str) -> dict[str, object]:
    """Encode one picture, on a worker; both are names with which fsspec finds a file anywhere."""
    row: dict[str, object] = {"input": source, "output": target}
    with fsspec.open(source) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        return row | {"error": f"the file has more than {MAX_BYTES} bytes"}
    try:
        coded = get_worker().robustcodec.encode(data, QUALITY, limits=LIMITS)
    except (robustcodec.RobustcodecError, MemoryError) as error:
        return row | {"error": str(error)}
    system, path = fsspec.url_to_fs(target)
    system.makedirs(system._parent(path), exist_ok=True)
    with system.transaction, system.open(path, "wb") as file:
        file.write(coded)
    return row | {"bytes": len(coded)}


def listed(folder: str) -> dict[str, str]:
    """Names of all files below a folder, from there, and in full."""
    system, root = fsspec.url_to_fs(folder)
    return {str(PurePosixPath(name).relative_to(root)): system.unstrip_protocol(name) for name in system.find(root)}


def main(address: str, source: str, target: str) -> int:
    """Encode the pictures below `source` that `target` does not have yet; 1 if some failed, else 0."""
    there = listed(target)
    todo = {
        path: f"{target.rstrip('/')}/{name}.rbc"
        for name, path in listed(source).items()
        if PurePosixPath(name).suffix.lower() in PICTURE_FORMATS and f"{name}.rbc" not in there
    }
    failed = 0
    local = {"n_workers": usable_threads(), "threads_per_worker": 1, "dashboard_address": None}
    with Client(**local) if address == "local" else Client(address) as client:
        client.register_plugin(LoadModel())
        tasks = client.map(encode, list(todo), list(todo.values()), pure=False, retries=2)
        inputs = dict(zip(tasks, todo, strict=True))
        for task, result in as_completed(tasks, with_results=True, raise_errors=False):
            row = result if task.status == "finished" else {"input": inputs[task], "error": str(result[1])}
            failed += "error" in row
            print(json.dumps(row), flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
