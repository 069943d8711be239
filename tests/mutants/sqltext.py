"""Mutants of a named query: one condition dropped, one operator changed, one branch or join made another.

The text is cut into tokens and changed where it stands, and is otherwise kept as it is. A parser of SQL, such as
sqlglot's, would not do: our queries are composed of parts, which are no statements by themselves, with ``{names}`` and
``%(values)s`` in them, and what it gives back is another text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)
      |(?P<string>'(?:[^']|'')*')
      |(?P<name>"(?:[^"]|"")*"|%\(\w+\)s|\{+[^{}]*\}+|[A-Za-z_]\w*)
      |(?P<number>\d+(?:\.\d+)?)
      |(?P<operator><>|!=|<=|>=|@>|<@|\?[|&]?|!?~|\|\||->>|->|::|:=|[-+*/%<>=(),.;\[\]:])""",
    re.VERBOSE | re.DOTALL,
)
_BEFORE_CONDITION = frozenset({"WHERE", "ON", "HAVING", "WHEN"})
_AFTER_CONDITION = _BEFORE_CONDITION | {
    *("SELECT", "FROM", "USING", "SET", "JOIN", "LEFT", "CROSS", "GROUP", "ORDER", "LIMIT", "UNION", "RETURNING"),
    *("WINDOW", "OFFSET", "EXCEPT", "INTERSECT"),
    *("FOR", "DO", "AS", "THEN", "ELSE", "END", ",", ";"),
}
_NOTHING = {"AND": "true", "OR": "false"}
_COMMENT_LAST = re.compile(r"--[^\n]*\s*\Z")
_SHOWN = 120
_OPERATORS = {"=": "<>", "<>": "=", "<": "<=", "<=": "<", ">": ">=", ">=": ">"}
_WORDS = {"true": "false", "false": "true", "TRUE": "FALSE", "FALSE": "TRUE", "AND": "OR", "OR": "AND"}
_FUNCTIONS = {"min": "max", "max": "min", "bool_or": "bool_and", "bool_and": "bool_or"}


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a text: what stands from ``start`` to ``end`` becomes ``new``; ``what`` says it to people."""

    start: int
    end: int
    new: str
    what: str

    def applied(self, text: str) -> str:
        """Return the text with the change."""
        return text[: self.start] + self.new + text[self.end :]


@dataclass(frozen=True, slots=True)
class _Token:
    word: str
    start: int
    end: int
    depth: int


def changes(text: str) -> list[Change]:
    """Return every change of a query or of a part of one, each once."""
    tokens = _tokens(text)
    found = [
        *_dropped_conditions(text, tokens),
        *_changed_words(text, tokens),
        *_dropped_branches(text, tokens),
    ]
    alone = {change.applied(text): change for change in reversed(found)}
    return sorted(alone.values(), key=lambda change: (change.start, change.end, change.new))


def _tokens(text: str) -> list[_Token]:
    """Cut a text; CASE and END count as parentheses, and a parenthesis as a token of the level around it."""
    tokens, depth = [], 0
    for match in _TOKEN.finditer(text):
        word = match[0]
        if match.lastgroup == "comment":
            continue
        if word in {")", "]", "END"}:
            depth -= 1
        tokens.append(_Token(word, match.start(), match.end(), depth))
        if word in {"(", "[", "CASE"}:
            depth += 1
    return tokens


def shown(text: str) -> str:
    """Return a piece of a text as one line, not too long."""
    line = " ".join(re.sub(r"--[^\n]*", " ", text).split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."


# --- conditions -----------------------------------------------------------------------------------------------------


def _dropped_conditions(text: str, tokens: Sequence[_Token]) -> Iterator[Change]:
    for run, alone in _conditions(tokens):
        parts = _parts(run)
        if len(parts) == 1:
            # CASE x WHEN 'this' is no condition.
            if alone and not (len(run) == 1 and run[0].word[0] in "'0123456789"):
                start, end = run[0].start, run[-1].end
                if shown(text[start:end]).lower() != "true":
                    yield Change(start, end, "true", f"without: {shown(text[start:end])}")
            continue
        for number, (part, before) in enumerate(parts):
            after = parts[number + 1][1] if number + 1 < len(parts) else None
            what = f"without: {shown(text[part[0].start : part[-1].end])}"
            # The operator that binds more strongly goes with it.
            if before is not None and (before.word == "AND" or after is None or after.word == "OR"):
                # A comment at the end of a part would swallow what comes after it.
                nothing = (
                    f"{before.word} {_NOTHING[before.word]}" if _COMMENT_LAST.search(text, 0, before.start) else ""
                )
                yield Change(before.start, part[-1].end, nothing, what)
            else:
                assert after is not None
                yield Change(part[0].start, after.end, "", what)


def _conditions(tokens: Sequence[_Token]) -> Iterator[tuple[list[_Token], bool]]:
    """Yield the tokens of each condition, and whether it is all of a clause, which may be dropped whole."""
    begins = [(0, False)] if tokens else []
    for number, token in enumerate(tokens):
        following = tokens[number + 1].word if number + 1 < len(tokens) else ""
        if token.word in {"(", ",", "THEN", "ELSE", "SELECT"}:
            begins.append((number + 1, False))
        elif (
            token.word in _BEFORE_CONDITION
            and following not in {"CONFLICT", ""}
            and not (token.word == "ON" and number and tokens[number - 1].word == "DISTINCT")
        ):
            begins.append((number + 1, True))
    for begin, alone in begins:
        run = _run(tokens, begin)
        if run:
            yield run, alone


def _run(tokens: Sequence[_Token], begin: int) -> list[_Token]:
    if begin >= len(tokens):
        return []
    depth = tokens[begin].depth
    end = begin
    while end < len(tokens) and tokens[end].depth >= depth:
        token = tokens[end]
        ends = token.word in _AFTER_CONDITION and not _distinct_from(tokens, end)
        if token.depth == depth and (ends or token.word in {")", "]", "END"}):
            # What closes has the depth of what is around it: only CASE ... END of the same level goes on.
            if token.word not in {")", "]", "END"}:
                break
            if not _opened_within(tokens, begin, end):
                break
        if token.depth == depth and end > begin and _next_part(tokens[end - 1], token):
            break
        if token.depth == depth and token.word in {"INSERT", "UPDATE", "DELETE", "WITH", "VALUES"}:
            return []
        end += 1
    return list(tokens[begin:end])


def _next_part(before: _Token, token: _Token) -> bool:
    """Tell whether a ``{part}`` stands beside a condition, as more joins do, and is nothing of it."""
    ends = before.word[-1].isalnum() or before.word[-1] in ")]}\"'"
    return token.word[0] == "{" and ends and not before.word.isupper()


def _distinct_from(tokens: Sequence[_Token], number: int) -> bool:
    """Tell whether a FROM is that of ``IS DISTINCT FROM``."""
    return tokens[number].word == "FROM" and number > 0 and tokens[number - 1].word == "DISTINCT"


def _opened_within(tokens: Sequence[_Token], begin: int, end: int) -> bool:
    depth = tokens[end].depth
    return any(token.depth == depth and token.word in {"(", "[", "CASE"} for token in tokens[begin:end])


def _parts(run: Sequence[_Token]) -> list[tuple[list[_Token], _Token | None]]:
    """Cut a condition at its own AND and OR: each part with the operator before it."""
    depth = run[0].depth
    parts: list[tuple[list[_Token], _Token | None]] = []
    part: list[_Token] = []
    before: _Token | None = None
    for token in run:
        if token.depth == depth and token.word in {"AND", "OR"} and part:
            parts.append((part, before))
            part, before = [], token
        else:
            part.append(token)
    if part:
        parts.append((part, before))
    return parts


# --- operators and words --------------------------------------------------------------------------------------------


def _changed_words(text: str, tokens: Sequence[_Token]) -> Iterator[Change]:
    assigned = _assignments(tokens)
    for number, token in enumerate(tokens):
        before = tokens[number - 1].word if number else ""
        after = tokens[number + 1] if number + 1 < len(tokens) else token
        for old, new, start, end in _exchanged(token, before, after):
            if number not in assigned:
                what = f"{old} is {new}" if new else f"without {old}"
                text_new = new if (start, end) == (token.start, token.end) else _INSERTED.get(new, "")
                yield Change(start, end, text_new, f"{what}: {_around(text, tokens, number)}")


_INSERTED = {"NOT EXISTS": "NOT ", "IS NOT": " NOT"}


def _exchanged(token: _Token, before: str, after: _Token) -> Iterator[tuple[str, str, int, int]]:
    """Yield what a token becomes, for people, and which piece of the text that changes."""
    word, whole = token.word, (token.start, token.end)
    if word in _OPERATORS:
        yield word, _OPERATORS[word], *whole
    elif word in _WORDS or (word in _FUNCTIONS and after.word == "("):
        yield word, (_WORDS | _FUNCTIONS)[word], *whole
    elif word == "EXISTS" and before != "NOT":
        yield word, "NOT EXISTS", token.start, token.start
    elif word == "IS" and after.word in {"NULL", "DISTINCT"}:
        yield word, "IS NOT", token.end, token.end
    elif word == "NOT" and before == "IS":
        yield "IS NOT", "IS", token.start, after.start
    elif word == "NOT" or (word == "LEFT" and after.word == "JOIN"):
        yield word, "", token.start, after.start
    elif word == "DESC" or (word == "DISTINCT" and before == "SELECT" and after.word != "ON"):
        yield word, "", *whole


def _assignments(tokens: Sequence[_Token]) -> set[int]:
    """Return the places of ``=`` after SET: they compare nothing."""
    found: set[int] = set()
    for number, token in enumerate(tokens):
        if token.word != "SET":
            continue
        fresh = True
        for place in range(number + 1, len(tokens)):
            inner = tokens[place]
            if inner.depth < token.depth or (
                inner.depth == token.depth and inner.word in {"WHERE", "FROM", "RETURNING"}
            ):
                break
            if inner.depth == token.depth and inner.word == ",":
                fresh = True
            elif inner.depth == token.depth and inner.word == "=" and fresh:
                found.add(place)
                fresh = False
    return found


def _around(text: str, tokens: Sequence[_Token], number: int) -> str:
    """Return what stands around a token, up to the next word that opens or ends something."""
    stops = {"AND", "OR", "(", ")", ",", *_AFTER_CONDITION, "SELECT"}
    first, last = number, number
    if tokens[number].word not in stops - {"LEFT"}:
        while first > 0 and tokens[first - 1].word not in stops:
            first -= 1
    else:
        first = max(0, number - 3)
    while last + 1 < len(tokens) and last - number < 12:
        if last > number and tokens[last + 1].word in stops - {"("} and not _distinct_from(tokens, last + 1):
            break
        last += 1
    return shown(text[tokens[first].start : tokens[last].end])


# --- branches of a UNION --------------------------------------------------------------------------------------------


def _dropped_branches(text: str, tokens: Sequence[_Token]) -> Iterator[Change]:
    done: set[int] = set()
    for number, token in enumerate(tokens):
        if token.word != "UNION" or number in done:
            continue
        unions = [number]
        end = _scope_end(tokens, number)
        unions += [
            place
            for place in range(number + 1, end)
            if tokens[place].word == "UNION" and tokens[place].depth == token.depth
        ]
        done.update(unions)
        begin = _branch_begin(tokens, number)
        starts = [begin, *(place + (2 if tokens[place + 1].word == "ALL" else 1) for place in unions)]
        ends = [*unions, end]
        for place, (start, stop) in enumerate(zip(starts, ends, strict=True)):
            first, last = tokens[start].start, tokens[max(start, stop - 1)].end
            branch = text[first:last]
            what = f"without the branch: {shown(branch)}"
            if place:
                yield Change(tokens[unions[place - 1]].start, last, "", what)
            elif start < stop:
                # It names the columns of all.
                yield Change(first, last, f"SELECT * FROM ({branch}) AS branch WHERE false", what)  # noqa: S608 - no input


def _scope_end(tokens: Sequence[_Token], number: int) -> int:
    """Return the place after the last branch of this level's UNIONs."""
    depth = tokens[number].depth
    for place in range(number + 1, len(tokens)):
        token = tokens[place]
        if token.depth < depth or (token.depth == depth and token.word == "ORDER"):
            return place
    return len(tokens)


def _branch_begin(tokens: Sequence[_Token], number: int) -> int:
    """Return where the first branch begins: its SELECT, or the parenthesis around it."""
    depth = tokens[number].depth
    around = max((place for place in range(number) if tokens[place].depth < depth), default=-1)
    level = [place for place in range(around + 1, number) if tokens[place].depth == depth]
    selects = [place for place in level if tokens[place].word == "SELECT"]
    # A branch may also be a {part}, and a part may begin with UNION.
    return max(selects or [place for place in level if tokens[place].word == "("] or level[:1] or [number])
