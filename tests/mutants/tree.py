"""A copy of the checkout in which files may be changed, with a Python of its own that imports from there.

The checkout itself is never touched. Tests start the listener as a process, with nothing in its environment: so the
copy has a virtual environment whose path begins with the copy, and goes on with the packages of the one we run in.
"""

import os
import shutil
import signal
import subprocess
import sysconfig
import time
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "dist", "build")
# A fixture that takes this long by itself hangs.
_GRACE = 60.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run of tests ended. ``code``: None where it was ended by us, since it took too long."""

    code: int | None
    output: str


@dataclass
class Tree:
    """The copy, in a folder that belongs to it alone."""

    folder: Path
    _stamp: int = field(default=0)

    @classmethod
    def of_checkout(cls, folder: Path) -> "Tree":
        """Copy the checkout as it is now, whatever is committed."""
        shutil.copytree(ROOT, folder, ignore=_LEFT_OUT)
        made = cls(folder)
        venv.create(made.folder / ".venv", symlinks=True)
        version = sysconfig.get_python_version()
        packages = made.folder / ".venv" / "lib" / f"python{version}" / "site-packages"
        (packages / "mutants.pth").write_text(f"{made.folder}\n{sysconfig.get_path('purelib')}\n")
        return made

    def read(self, path: str) -> str:
        """Return the text of a file."""
        return (self.folder / path).read_text(encoding="utf-8")

    def write(self, path: str, text: str) -> None:
        """Change a file. No compiled form of it is taken for the new one, whose size and second may be the same."""
        file = self.folder / path
        file.write_text(text, encoding="utf-8")
        self._stamp += 1
        os.utime(file, (time.time(), file.stat().st_mtime + 2 * self._stamp))

    def test(self, words: Sequence[str], environment: Mapping[str, str], *, within: float) -> Ended:
        """Run pytest in the copy, at most so many seconds."""
        popen = subprocess.Popen(
            [self.folder / ".venv" / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "TEST_SEED": "0", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = popen.communicate(timeout=within + _GRACE)
        except subprocess.TimeoutExpired:
            _end(popen)
            return Ended(None, popen.communicate()[0])
        except BaseException:
            _end(popen)
            raise
        return Ended(popen.returncode, output)


def _end(popen: "subprocess.Popen[str]") -> None:
    """End the tests and whatever they started in their session."""
    os.killpg(popen.pid, signal.SIGKILL)
