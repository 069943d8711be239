"""Which test reaches which named query and which function: found by one run of the tests in a traced copy.

A mutant is judged by the tests that reach it and by no others. What a statement is composed of counts when the whole
is sent to the server; a function counts with all processes that a test starts.
"""

import ast
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mutants.tree import Tree

QUERIES = "sql/queries"
SYNC = "listener/sync"
# About nothing that a mutant of ours can change, or too long to be run for each.
_LEFT_OUT = (
    "tests/standin",
    "tests/test_demo.py",
    "tests/test_docker.py",
    "tests/test_mutants.py",
    "tests/test_packaging.py",
    "tests/test_verify.py",
    "tests/test_verify_extras.py",
    "tests/test_verify_people.py",
)
# Of each behaviour: as most things are, with person groups, and the oldest, whose columns have other names.
_OTHER_RELEASES = re.compile(r"\[(?!3\.0\.3|3\.2\.0|2\.0\.0|2\.7\.5)\d+\.\d+\.\d+")
_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)[ \t]*$", re.MULTILINE)
_HANGS = 4 * 3600.0


@dataclass(frozen=True, slots=True)
class Reach:
    """``tests`` of each query and function, the ``seconds`` that each test takes, and the ``files`` as they were."""

    tests: dict[str, list[str]]
    seconds: dict[str, float]
    files: dict[str, str]

    @classmethod
    def read(cls, file: Path) -> "Reach":
        """Read what a former run has found, if there was one."""
        return cls(**json.loads(file.read_text())) if file.exists() else cls({}, {}, {})

    def write(self, file: Path) -> None:
        """Keep it for the next run."""
        file.write_text(json.dumps({"tests": self.tests, "seconds": self.seconds, "files": self.files}, indent=1))

    @classmethod
    def of_run(cls, folder: Path, files: Mapping[str, str]) -> "Reach":
        """Read what a traced run of these files has noted."""
        seconds: dict[str, float] = defaultdict(float)
        unfit: set[str] = set()
        for test, _, outcome, took in _lines(folder / "outcomes"):
            seconds[test] += took
            if outcome != "passed":
                unfit.add(test)
        tests: dict[str, set[str]] = defaultdict(set)
        for test, name in _lines(folder / "hits"):
            if test in seconds and test not in unfit:
                tests[name].add(test)
        return cls({name: sorted(found) for name, found in sorted(tests.items())}, dict(seconds), dict(files))

    @property
    def rarities(self) -> Counter[str]:
        """How many things each test reaches: one that reaches few is about them."""
        return Counter(test for tests in self.tests.values() for test in tests)

    def stale(self, files: Mapping[str, str]) -> list[str]:
        """Return the files with tests that are new or other than they were."""
        return [file for file, digest in files.items() if self.files.get(file) != digest]

    def updated(self, newer: "Reach") -> "Reach":
        """Return this with what was found anew."""
        tests = {
            name: [test for test in found if test.partition("::")[0] not in newer.files]
            for name, found in self.tests.items()
        }
        for name, found in newer.tests.items():
            tests[name] = sorted({*tests.get(name, ()), *found})
        return Reach(dict(sorted(tests.items())), self.seconds | newer.seconds, self.files | newer.files)


def test_files(root: Path) -> dict[str, str]:
    """Return the files with tests that may judge, each with what tells whether it has changed."""
    paths = [path.relative_to(root).as_posix() for path in sorted((root / "tests").rglob("test_*.py"))]
    return {
        path: hashlib.sha256((root / path).read_bytes()).hexdigest() for path in paths if not path.startswith(_LEFT_OUT)
    }


def find(folder: Path, server: str, files: Mapping[str, str]) -> Reach:
    """Run the tests of these files in a traced copy."""
    tree = Tree.of_checkout(folder)
    trace(tree)
    environment = {"TEST_DATABASE_URL": server}
    listed = tree.test([*files, "-m", "not soak", "--collect-only"], environment, within=600)
    wanted = [
        line for line in listed.output.splitlines() if line.startswith("tests/") and not _OTHER_RELEASES.search(line)
    ]
    names = folder / "wanted"
    names.write_text("\n".join(wanted))
    if wanted:
        tree.test(["-p", "reached", f"@{names}"], environment, within=_HANGS)
    return Reach.of_run(folder / "reached", files)


def trace(tree: Tree) -> None:
    """Put a mark into each named query and each function of the copy."""
    source = Path(__file__).with_name("reached.py").read_text()
    (tree.folder / "reached.py").write_text(source)
    for file in sorted((tree.folder / QUERIES).glob("*.sql")):
        path = f"{QUERIES}/{file.name}"
        tree.write(path, _NAME.sub(rf"\g<0>\n/*reached {path}:\g<1>*/", tree.read(path)))
    for file in sorted((tree.folder / SYNC).glob("*.py")):
        path = f"{SYNC}/{file.name}"
        module = ast.parse(tree.read(path))
        for name, function in functions(module):
            where = 1 if ast.get_docstring(function) else 0
            function.body.insert(where, ast.parse(f"__import__('reached').hit({f'{path}:{name}'!r})").body[0])
        tree.write(path, ast.unparse(ast.fix_missing_locations(module)))


def functions(module: ast.Module) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Return the functions and methods of a module, each with its name; what is inside of one belongs to it."""
    found: list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]] = []
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append((node.name, node))
        elif isinstance(node, ast.ClassDef):
            found += [
                (f"{node.name}.{inner.name}", inner)
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
    return found


def _lines(file: Path) -> list[list[Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
