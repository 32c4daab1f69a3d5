"""The upload service of examples/server: a real server, asked over HTTP by good and bad clients."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from robustcodec.codec import Codec
from robustcodec.images import Picture, write_picture

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

ROOT = Path(__file__).parent.parent
SECONDS = 3
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def port(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server on this machine, of which nobody else knows."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    environment = {
        **os.environ,
        "ROBUSTCODEC_MODELS": str(tiny_path.parent),
        "MAX_SECONDS": str(SECONDS),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "uvicorn", "--app-dir", "examples/server", "app:app", "--port", str(number)]
    said = tmp_path_factory.mktemp("server") / "log"
    with said.open("wb") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(200):
            time.sleep(0.1)
            assert server.poll() is None, said.read_text()
            with suppress(OSError), socket.create_connection(("127.0.0.1", number)):
                break
        yield number
        assert server.poll() is None, said.read_text()
        assert "Traceback" not in said.read_text()
    finally:
        server.terminate()
        server.wait(20)


def post(port: int, body: bytes, query: str = "") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", f"/encode{query}", body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def pixels(make_sample: Callable[..., Pixels]) -> Pixels:
    return make_sample(80, 112, 3)


@pytest.fixture(scope="module")
def png(pixels: Pixels) -> bytes:
    return write_picture(Picture(pixels=pixels), "PNG")


def test_pictures_are_encoded(port: int, codec: Codec, png: bytes, pixels: Pixels) -> None:
    status, data = post(port, png)
    assert status == 200
    assert data == codec.encode(Picture(pixels=pixels)).data
    status, finer = post(port, png, "?quality=6")
    assert status == 200 and len(finer) > len(data)


def test_a_picture_that_costs_much_is_made_again(port: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    status, data = post(port, write_picture(Picture(pixels=noise), "PNG"), "?quality=6")
    assert status == 200
    assert 8 * len(data) <= 2 * 96 * 96


@pytest.mark.parametrize(
    ("body", "query", "status", "says"),
    [
        (b"", "", 415, "the file is empty"),
        (b"<svg/>", "", 415, "no picture in a known format"),
        (b"P6 60000 60000 255\n" + bytes(99), "", 413, "more than the limit"),
        (b"P6 40 40 255\n" + bytes(99), "", 415, "damaged"),
        (b"P6 3 3 255\n" + bytes(27), "?quality=75", 422, "less_than_equal"),
        (b"P6 3 3 255\n" + bytes(27), "?quality=nan", 422, "quality"),
    ],
)
def test_bad_uploads_are_refused_in_a_sentence(port: int, body: bytes, query: str, status: int, says: str) -> None:
    found, answer = post(port, body, query)
    assert found == status
    assert says in json.dumps(json.loads(answer))


def test_too_many_bytes_are_not_even_received(port: int) -> None:
    """Neither announced, nor sent in chunks without a word."""
    for headers in (b"Content-Length: 99999999999\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(b"POST /encode HTTP/1.1\r\nHost: here\r\n" + headers)
            with suppress(ConnectionError):
                for _ in range(25 * (b"chunked" in headers)):
                    connection.sendall(b"f4240\r\n" + bytes(1_000_000) + b"\r\n")
            with suppress(ConnectionResetError):
                assert connection.recv(99).startswith(b"HTTP/1.1 413")


def test_slow_clients_hold_nobody_up(port: int, png: bytes) -> None:
    """More clients than may wait send a byte and no more: others are told to come again, and later all is well."""
    clients = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(8)]
    try:
        for client in clients:
            client.sendall(b"POST /encode HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\nP")
        time.sleep(0.5)
        assert post(port, png)[0] == 503
        for client in clients:
            assert client.recv(99).startswith(b"HTTP/1.1 408")
    finally:
        for client in clients:
            client.close()
    assert post(port, png)[0] == 200


def test_clients_at_once(port: int, png: bytes) -> None:
    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda _: post(port, png), range(6)))
    assert {status for status, _ in answers} == {200}
    assert len({data for _, data in answers}) == 1
