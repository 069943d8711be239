"""Asks the listener of this machine whether it lives: exit code 0 if so. For the health check of the container image.

It is started every half minute, so it loads next to nothing; and it asks where HTTP_HOST and HTTP_PORT say that the
listener serves: one that serves on one address answers on no other.
"""

import http.client
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from listener import envfile

_PATH = "/healthz"
_TIMEOUT = 4.0  # seconds: less than the image's own limit
# To serve on all addresses is asked at this machine's own.
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound to them


def address(environ: Mapping[str, str], cwd: Path) -> tuple[str, int]:
    """Return the host and the port to ask. Raises ValueError, OSError, EnvFileError."""
    path, of_file = cwd / ".env", dict[str, str]()
    if path.is_file():
        of_file.update(envfile.parse(path.read_bytes().decode("utf-8"), environ).values)

    def value(name: str, default: str) -> str:
        return environ.get(name, "").strip() or of_file.get(name, "").strip() or default

    host = value("HTTP_HOST", "127.0.0.1").removeprefix("[").removesuffix("]")
    return _ANY.get(host, host), int(value("HTTP_PORT", "8080"))


def main() -> int:
    """Ask; returns the exit code."""
    try:
        host, port = address(os.environ, Path.cwd())
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
        connection.request("GET", _PATH)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError, envfile.EnvFileError) as failure:
        sys.stderr.write(f"the listener does not answer: {failure}\n")
        return 1
    sys.stdout.write(f"{_PATH} at {host} port {port} says {status}\n")
    return 0 if status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
