"""Mutants of a Python module: operators, constants and loops by cosmic-ray, and what that has not.

cosmic-ray's own runner is not used: it changes the files of the checkout in place, and it has one command of tests for
a whole module, where a survivor in the reconciler would cost the whole suite. Nor would mutmut do: it runs the tests in
forks of one process, and ours start the listener as a process. So the mutants are cosmic-ray's, and what judges them
is the same as for the queries. What it has not: a statement that is left out, an entry of a dictionary that is left out
(our rules are such), and the SQL in strings, which is changed as a named query is.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator

from tests.mutants import sqltext
from tests.mutants.sqltext import Change, shown

# One other operator for each: two of them would be killed by the same test.
_OPERATORS = (
    *(
        f"core/ReplaceComparisonOperator_{pair}"
        for pair in ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Is_IsNot", "IsNot_Is")
    ),
    "core/ReplaceBinaryOperator_Add_Sub",
    "core/ReplaceBinaryOperator_Sub_Add",
    "core/ReplaceUnaryOperator_Delete_Not",
    "core/AddNot",
    "core/ReplaceTrueWithFalse",
    "core/ReplaceFalseWithTrue",
    "core/ReplaceAndWithOr",
    "core/ReplaceOrWithAnd",
    "core/ReplaceBreakWithContinue",
    "core/ReplaceContinueWithBreak",
    "core/NumberReplacer",
    "core/ZeroIterationForLoop",
)
_SQL = re.compile(r"\b(CASE|EXISTS|SELECT|IS NULL|IS NOT|IS DISTINCT|AND|NOT|OR)\b|^\W*(true|false|TRUE|FALSE)\W*$| = ")
_LOG = re.compile(r"\s*_?(log|once)\.")


def changes(text: str) -> list[Change]:
    """Return every change of a module, each once; none that Python would not read."""
    found = [*_cosmic(text), *left_out(text), *sql_in_strings(text)]
    alone = {change.applied(text): change for change in reversed(found)}
    return sorted(
        (change for changed, change in alone.items() if _reads(changed)),
        key=lambda change: (change.start, change.end, change.new),
    )


def _reads(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


class _Places:
    """From the lines and columns of a text to its characters."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = text.splitlines(keepends=True)
        self.starts = [0, 0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def of(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)

    def _at(self, line: int, column: int) -> int:
        return self.starts[line] + len(self.lines[line - 1].encode()[:column].decode())


# --- cosmic-ray -----------------------------------------------------------------------------------------------------


def _cosmic(text: str) -> Iterator[Change]:
    # Not among the packages of every developer: installed by `make mutants`.
    from cosmic_ray.ast import ast_nodes, get_ast  # noqa: PLC0415
    from cosmic_ray.mutating import mutate_code  # noqa: PLC0415
    from cosmic_ray.plugins import get_operator  # noqa: PLC0415

    places = _Places(text)
    operators = [get_operator(name)() for name in _OPERATORS]
    # One piece after the other: it parses what it is given once for each mutant.
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        begin, end = places.of(node)
        piece = text[begin:end] + "\n"
        inner, tree = _Places(piece), list(ast_nodes(get_ast(piece)))
        for operator in operators:
            found = [place for node in tree for place in operator.mutation_positions(node)]
            for occurrence, ((line, column), (last, after)) in enumerate(found):
                start, stop = inner.starts[line] + column, inner.starts[last] + after
                changed = mutate_code(piece, operator, occurrence)
                if changed is None or _LOG.match(inner.lines[line - 1]):
                    continue
                old, new = piece[start:stop], changed[start : stop + len(changed) - len(piece)]
                # The removal of a "not" is a mutant of its own.
                if not new.strip().startswith("not not "):
                    what = f"{old} is {new.strip()}" if new.strip() else f"without {old}"
                    yield Change(begin + start, begin + stop, new, shown(f"{what}: {inner.lines[line - 1].strip()}"))


# --- what is left out -----------------------------------------------------------------------------------------------


def left_out(text: str) -> Iterator[Change]:
    """Yield what leaves something out: a statement, what an ``except`` catches, an entry of a dictionary."""
    places = _Places(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Return | ast.Raise | ast.AugAssign | ast.Expr):
            start, end = places.of(node)
            harmless = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.Yield)
            if not harmless and not _LOG.match(text[start:end]):
                yield Change(start, end, "pass", f"without: {shown(text[start:end])}")
        elif isinstance(node, ast.ExceptHandler) and node.type is not None:
            # cosmic-ray knows none with a dot in its name.
            start, end = places.of(node.type)
            yield Change(start, end, "()", f"without: except {shown(text[start:end])}")
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                end = places.of(value)[1]
                start = places.of(key)[0] if key else places.of(value)[0] - len("**")
                comma = re.match(r"\s*,?", text[end:])
                yield Change(start, end + (comma.end() if comma else 0), "", f"without: {shown(text[start:end])}")


# --- SQL in strings --------------------------------------------------------------------------------------------------


def sql_in_strings(text: str) -> Iterator[Change]:
    """Yield the changes of SQL in the strings of a module."""
    starts = _Places(text).starts
    former = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in {tokenize.NL, tokenize.COMMENT}:
            continue
        # A string that begins a line of code is a docstring.
        documents = former in {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
        former = token.type
        if token.type != tokenize.STRING or documents or not _SQL.search(token.string):
            continue
        opening = re.match(r"[a-zA-Z]*('''|\"\"\"|'|\")", token.string)
        assert opening is not None
        begin = starts[token.start[0]] + token.start[1] + opening.end()
        inner = token.string[opening.end() : -len(opening[1])]
        for change in sqltext.changes(inner):
            yield Change(begin + change.start, begin + change.end, change.new, change.what)
