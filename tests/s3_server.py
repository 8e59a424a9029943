"""An S3 API on this machine, in a process of its own, and the buckets of a test on it."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from pyarrow.fs import S3FileSystem


@contextmanager
def s3_server() -> Iterator[str]:
    """Its address, while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(address, server)
        yield address
    finally:
        server.kill()
        server.wait()


def _wait(address: str, server: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 60
    while True:
        try:
            urlopen(f"{address}/moto-api/", timeout=5).close()
            return
        except OSError:
            assert server.poll() is None and time.monotonic() < end, "the server did not start"
            time.sleep(0.05)


def environment(address: str) -> dict[str, str]:
    """What tells audiovae of the server, and keeps it from looking for Amazon's."""
    credentials = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "SECRET", "AWS_EC2_METADATA_DISABLED": "true"}
    return credentials | {"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}


def put(address: str, bucket: str, key: str, data: bytes) -> None:
    """Makes an object, or replaces it; and its bucket."""
    store = S3FileSystem(
        access_key="tests",
        secret_key="SECRET",
        region="us-east-1",
        endpoint_override=address,
        allow_bucket_creation=True,
    )
    store.create_dir(bucket, recursive=False)
    with store.open_output_stream(f"{bucket}/{key}") as file:
        file.write(data)


def upload(address: str, bucket: str, folder: Path) -> None:
    """All files of a folder, under the same names."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            put(address, bucket, path.relative_to(folder).as_posix(), path.read_bytes())


def refuse_from_now(address: str, wanted: bool) -> None:
    """Whether the server looks at credentials; it knows none."""
    body = b"0" if wanted else b"inf"
    urlopen(Request(f"{address}/moto-api/reset-auth", data=body, headers={"Content-Type": "text/plain"})).close()
