"""Words by which a secret is known wherever it lies: each stands for one photo, or for one person's name.

``qp17q`` is in photo 17's file name and in the picture itself, so in all that is made of it; ``qd``, ``qt`` and ``qo``
are its description, tag and recognised text, 7.77… its place. ``qn5q`` is a name that a user gave to a person,
``qw5q`` what a user wrote about a copy of somebody else's photo.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

KINDS = {"p": "picture or file name", "d": "description", "t": "tag", "o": "text", "g": "place", "i": "id", "f": "crop"}
_WORD = re.compile(
    r"q([pdtonw])(\d+)q|(?<!\d)7\.77(\d{3})7(?!\d)|face ([0-9a-f-]{36}) of|\b([0-9a-f]{8}-[0-9a-f-]{27})\b"
)


@dataclass(frozen=True, slots=True)
class Word:
    """A word that was found: of which kind, and the number of a photo, name or remark, or the id of a face or asset."""

    kind: str
    number: int = 0
    id: str = ""


def word(kind: str, number: int) -> str:
    """Return a word for a file name or text."""
    return f"q{kind}{number}q"


def latitude(number: int) -> float:
    """Return the latitude of a photo of which no other photo was taken."""
    return float(f"7.77{number:03}7")


def words_in(text: str) -> Iterator[Word]:
    """Find all words in a text."""
    for found in _WORD.finditer(text):
        kind, number, place, face, id_ = found.groups()
        if kind:
            yield Word(kind, int(number))
        elif place:
            yield Word("g", int(place))
        elif face:
            yield Word("f", id=face)
        else:
            yield Word("i", id=id_)


def number_in(name: str) -> int | None:
    """Return the number of the photo whose file has this name."""
    return next((found.number for found in words_in(name) if found.kind == "p"), None)


def same(id_: object) -> str:
    """Return an id as the database's JSON has it."""
    return str(UUID(str(id_)))
