"""An upload service that encodes what strangers send: POST a picture to /encode, and get a robustcodec file back.

    pip install robustcodec fastapi uvicorn
    uvicorn --app-dir examples/server app:app --workers 2
    curl --data-binary @photo.jpg http://127.0.0.1:8000/encode -o photo.rbc

Bounded are: bytes and seconds of an upload, pixels and memory before any work, the number of uploads that wait, and the
rate of the result, whatever the picture was made to do; what readers will see is measured before anything is sent. Each
process has one model, used by one thread at a time, so that the event loop stays free to refuse. Behind a proxy, let
that bound the number of connections.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response

import robustcodec
from robustcodec.container import read_header

MAX_BYTES = 20_000_000
MAX_SECONDS = float(os.environ.get("MAX_SECONDS", "30"))  # of an upload: nobody holds a place by dripping bytes
MAX_WAITING = 8  # uploads received or encoded at once, in each process
MAX_BPP = 2.0
SMALL = 1000  # bytes that any result may have
LIMITS = robustcodec.Limits(max_pixels=1 << 24, max_memory=2_000_000_000, max_metadata=100_000)
GUARD = robustcodec.Guard(  # what uploads are made to do to the model is measured, and bounded in time
    on_violation=robustcodec.OnViolation.FALLBACK,
    rungs=(robustcodec.Rung.STEP, robustcodec.Rung.CLASSICAL, robustcodec.Rung.LOSSLESS),
)


class Refused(Exception):
    """An upload that is turned away, with an HTTP status and a sentence for its sender."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model once for the process, before it accepts anything."""
    app.state.model = robustcodec.load(threads=1)
    app.state.waiting = 0
    with ThreadPoolExecutor(max_workers=1) as worker:
        app.state.worker = worker
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/encode")
async def encode(request: Request, quality: float = Query(4.0, ge=1, le=6)) -> Response:
    """Encode the picture that is the body of the request."""
    state = request.app.state
    if state.waiting >= MAX_WAITING:
        raise Refused(503, "too many pictures are waiting; come again in some seconds")
    state.waiting += 1
    try:
        try:
            async with asyncio.timeout(MAX_SECONDS):
                data = await receive(request)
        except TimeoutError:
            raise Refused(408, f"the upload took more than {MAX_SECONDS:g} seconds") from None
        loop = asyncio.get_running_loop()
        file = await loop.run_in_executor(state.worker, compress, state.model, data, quality)
    finally:
        state.waiting -= 1
    return Response(file, media_type="image/x-robustcodec")


async def receive(request: Request) -> bytes:
    """Read the body, and no more of it than is allowed."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > MAX_BYTES:
        raise Refused(413, f"the upload has more than {MAX_BYTES} bytes")
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise Refused(413, f"the upload has more than {MAX_BYTES} bytes")
    return b"".join(parts)


def compress(model: robustcodec.Model, data: bytes, quality: float) -> bytes:
    """Encode a picture file; what breaks the model's contract, or takes more than MAX_BPP, is made again."""
    file, _ = model.encode_guarded(data, quality, guard=GUARD, limits=LIMITS)
    header, _ = read_header(file, LIMITS)
    if 8 * len(file) > max(MAX_BPP * header.width * header.height, SMALL * 8):
        return model.encode(data, target=robustcodec.BitsPerPixel(MAX_BPP), limits=LIMITS)
    return file


@app.exception_handler(Refused)
async def refused(request: Request, error: Refused) -> JSONResponse:
    """Answer an upload that is turned away."""
    headers = {"connection": "close"} | ({"retry-after": "5"} if error.status == 503 else {})
    return JSONResponse({"error": str(error)}, error.status, headers)


@app.exception_handler(robustcodec.RobustcodecError)
async def failed(request: Request, error: robustcodec.RobustcodecError) -> JSONResponse:
    """Answer with the library's own sentence, and a status that says whose fault it is."""
    kinds = ((robustcodec.LimitExceeded, 413), (robustcodec.ImageError, 415), (robustcodec.TargetError, 422))
    status = next((status for kind, status in kinds if isinstance(error, kind)), 500)
    return JSONResponse({"error": str(error)}, status)
