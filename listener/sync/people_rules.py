"""The rules of people's and faces' rows; see `listener.sync.rules`."""

from dataclasses import replace
from typing import LiteralString

from psycopg import sql

from listener.database import query
from listener.immich.catalog import Catalog
from listener.sync.rules import Rule

# What a user says of a person: up to Immich 3.1 the mirror has it from its source, unless its user chose otherwise.
SAID = ("name", "birthDate", "isHidden", "color")

_BASE_PERSON = "(SELECT map.target_person_id FROM public._face_sync_face_map AS map WHERE map.target_face_id = mine.id)"


def said(catalog: Catalog) -> list[str]:
    """Return the columns of person in which a user says something that a mirror takes over."""
    return [column for column in SAID if catalog.has("person", column)]


def person_rule(catalog: Catalog) -> Rule:
    """Return the rule of person, for the model that this Immich has."""
    groups = catalog.person_groups
    id_ = sql.Identifier("personGroupId" if groups else "id")
    rule = Rule(
        key=("id",),
        values={
            "id": "people.target_id",
            "ownerId": "%(target_user)s",
            "thumbnailPath": "people.thumbnail",
            "faceAssetId": "featured.face_id",
            "isFavorite": "false",
            "updateId": "pg_temp.ahead()",
        },
        own=frozenset({"isFavorite", "createdAt", "updateId"}),
    )

    def unless_chosen(column: str, value: LiteralString) -> sql.Composed:
        return query("people", "unless_chosen").format(
            column=sql.Identifier(column), name=sql.Literal(column), value=sql.SQL(value), person_id=id_
        )

    if not groups:
        mend = {column: unless_chosen(column, f'excluded."{column}"') for column in SAID if column in said(catalog)}
        return replace(rule, mend=mend)
    return replace(
        rule,
        key=("ownerId", "personGroupId"),
        # Who joins or leaves a cluster group keeps what they said of a person.
        values={
            **rule.values,
            "personGroupId": "people.target_id",
            "name": "coalesce(nullif(former.name, ''), source.name)",
            "birthDate": 'coalesce(former."birthDate", source."birthDate")',
            "isFavorite": 'coalesce(former."isFavorite", false)',
            "isHidden": 'coalesce(former."isHidden", source."isHidden")',
            "color": "coalesce(former.color, source.color)",
        },
        # Each user's own from 3.2 on; only what is still empty is filled in, as Immich does when it shares a person.
        own=rule.own | {"isHidden", "color"},
        mend={
            "name": unless_chosen("name", "CASE WHEN mine.name = '' THEN excluded.name ELSE mine.name END"),
            "birthDate": unless_chosen("birthDate", 'coalesce(mine."birthDate", excluded."birthDate")'),
        },
    )


def face_rule(catalog: Catalog) -> Rule:
    """Return the rule of asset_face, for the model that this Immich has."""
    groups = catalog.person_groups
    person: LiteralString = "personGroupId" if groups else "personId"
    values: dict[str, LiteralString] = {
        "id": "source.new_id",
        "assetId": "source.new_asset",
        person: "source.new_person",
        "deletedAt": "NULL",
        "updateId": "pg_temp.ahead()",
    }
    if groups:
        # In one cluster group the source's face stands for both: an equal embedding would vote twice.
        values["sourceType"] = """(CASE WHEN source.in_one_group THEN 'manual'
                                        ELSE source."sourceType"::text END)::sourcetype"""
    return Rule(
        key=("id",),
        values=values,
        # A face that its user deleted on the copy stays deleted.
        own=frozenset({"deletedAt", "updateId"}),
        mend={
            person: f"""CASE WHEN mine."{person}" IS NULL OR mine."{person}" IS NOT DISTINCT FROM {_BASE_PERSON}
                 THEN excluded."{person}" ELSE mine."{person}" END""",
            # Faces that the target's own crop hides (2.5+).
            "isVisible": """CASE WHEN mine."assetId" = ANY(%(own_edits)s::uuid[]) THEN mine."isVisible"
                                 ELSE excluded."isVisible" END""",
        },
    )
