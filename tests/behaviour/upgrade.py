"""Carries a database of 3.1 to the person model of 3.2, as Immich's upgrade does: in one transaction, ids stay.

Each user gets a cluster group, each person a person group with the person's own id, and faces name that group.
What else 3.2 changed has nothing to do with people, and is left out.
"""

from typing import Any, LiteralString

import psycopg
from psycopg import sql

from listener.sqlfiles import named_queries
from listener.standin.facts import Index, Table
from listener.standin.schema import load_facts, read_facts

_CLUSTER_GROUPS: LiteralString = """
CREATE TABLE cluster_group (
  id uuid NOT NULL DEFAULT uuid_generate_v4(),
  name character varying,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  CONSTRAINT cluster_group_pkey PRIMARY KEY (id)
);
CREATE INDEX "cluster_group_updateId_idx" ON cluster_group ("updateId");
CREATE TRIGGER "cluster_group_updatedAt" BEFORE UPDATE ON cluster_group FOR EACH ROW EXECUTE FUNCTION updated_at();

ALTER TABLE "user" ADD COLUMN "clusterGroupId" uuid;
UPDATE "user" SET "clusterGroupId" = uuid_generate_v4();
INSERT INTO cluster_group (id) SELECT "clusterGroupId" FROM "user";
ALTER TABLE "user"
  ALTER COLUMN "clusterGroupId" SET NOT NULL,
  ADD CONSTRAINT "user_clusterGroupId_fkey" FOREIGN KEY ("clusterGroupId")
    REFERENCES cluster_group (id) ON UPDATE CASCADE;
CREATE INDEX "user_clusterGroupId_idx" ON "user" ("clusterGroupId");
"""

_PERSON_GROUPS: LiteralString = """
CREATE TABLE person_group (
  id uuid NOT NULL DEFAULT uuid_generate_v4(),
  "clusterGroupId" uuid NOT NULL,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "createId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  "updateId" uuid NOT NULL DEFAULT immich_uuid_v7(),
  CONSTRAINT person_group_pkey PRIMARY KEY (id),
  CONSTRAINT "person_group_clusterGroupId_fkey" FOREIGN KEY ("clusterGroupId") REFERENCES cluster_group (id)
    ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE INDEX "person_group_clusterGroupId_idx" ON person_group ("clusterGroupId");
CREATE INDEX "person_group_createId_idx" ON person_group ("createId");
CREATE INDEX "person_group_updateId_idx" ON person_group ("updateId");
CREATE TRIGGER "person_group_updatedAt" BEFORE UPDATE ON person_group FOR EACH ROW EXECUTE FUNCTION updated_at();

CREATE TABLE person_group_audit (
  id uuid NOT NULL DEFAULT immich_uuid_v7(),
  "personGroupId" uuid NOT NULL,
  "clusterGroupId" uuid NOT NULL,
  "deletedAt" timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT person_group_audit_pkey PRIMARY KEY (id)
);
CREATE INDEX "person_group_audit_clusterGroupId_idx" ON person_group_audit ("clusterGroupId");
CREATE INDEX "person_group_audit_deletedAt_idx" ON person_group_audit ("deletedAt");
CREATE INDEX "person_group_audit_personGroupId_idx" ON person_group_audit ("personGroupId");

INSERT INTO person_group (id, "clusterGroupId")
SELECT person.id, "user"."clusterGroupId" FROM person JOIN "user" ON "user".id = person."ownerId";
"""

_PEOPLE: LiteralString = """
ALTER TABLE person ADD COLUMN "personGroupId" uuid;
UPDATE person SET "personGroupId" = id;
ALTER TABLE asset_face DROP CONSTRAINT "asset_face_personId_fkey";
ALTER TABLE person DROP COLUMN id;
ALTER TABLE person
  ALTER COLUMN "personGroupId" SET NOT NULL,
  ADD CONSTRAINT person_pkey PRIMARY KEY ("ownerId", "personGroupId"),
  ADD CONSTRAINT "person_personGroupId_fkey" FOREIGN KEY ("personGroupId") REFERENCES person_group (id)
    ON UPDATE CASCADE ON DELETE CASCADE;
DROP INDEX "person_ownerId_idx";
CREATE INDEX "person_personGroupId_idx" ON person ("personGroupId");

ALTER TABLE asset_face RENAME COLUMN "personId" TO "personGroupId";
UPDATE asset_face SET "personGroupId" = "personGroupId" WHERE "personGroupId" IS NOT NULL;
ALTER TABLE asset_face ADD CONSTRAINT "asset_face_personGroupId_fkey" FOREIGN KEY ("personGroupId")
  REFERENCES person_group (id) ON UPDATE CASCADE ON DELETE SET NULL;
ALTER INDEX "asset_face_assetId_personId_idx" RENAME TO "asset_face_assetId_personGroupId_idx";
ALTER INDEX "asset_face_personId_assetId_idx" RENAME TO "asset_face_personGroupId_assetId_idx";
ALTER INDEX "asset_face_personId_assetId_notDeleted_isVisible_idx"
  RENAME TO "asset_face_personGroupId_assetId_notDeleted_isVisible_idx";

ALTER TABLE person_audit ADD COLUMN "personGroupId" uuid;
UPDATE person_audit SET "personGroupId" = "personId";
ALTER TABLE person_audit ALTER COLUMN "personGroupId" SET NOT NULL, DROP COLUMN "personId";
CREATE INDEX "person_audit_personGroupId_idx" ON person_audit ("personGroupId");
DROP TRIGGER person_delete_audit ON person;
DROP FUNCTION person_delete_audit;
"""

_TRIGGERS: LiteralString = """
CREATE TRIGGER person_delete_audit AFTER DELETE ON person REFERENCING OLD TABLE AS old
  FOR EACH STATEMENT WHEN (pg_trigger_depth() <= 1) EXECUTE FUNCTION person_delete_audit();
CREATE TRIGGER person_group_delete_audit AFTER DELETE ON person_group REFERENCING OLD TABLE AS old
  FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION person_group_delete_audit();
"""

_CHANGED = ("cluster_group", "person_group", "person_group_audit", "person", "person_audit", "asset_face")


def to_person_groups(conninfo: str) -> None:
    """Carry a database of 3.1.0 to the people of 3.2.0, and make sure that the result is what 3.2.0 has."""
    with psycopg.connect(conninfo) as connection:
        change_people(connection)
    with psycopg.connect(conninfo) as connection:
        now, wanted = read_facts(connection).tables, load_facts("3.2.0").tables
        for table in _CHANGED:
            assert {column.name for column in now[table].columns} == {column.name for column in wanted[table].columns}
            assert now[table].primary_key == wanted[table].primary_key
            assert set(now[table].foreign_keys) == set(wanted[table].foreign_keys)
            # The others need extensions that this PostgreSQL may not have.
            assert _btrees(now[table]) == _btrees(wanted[table])


def change_people(connection: psycopg.Connection[Any]) -> None:
    """Change the people of 3.1.0 to those of 3.2.0, within the caller's transaction."""
    functions = named_queries("standin/functions.sql")
    key = sql.Identifier("personGroupId")
    for statements in (_CLUSTER_GROUPS, _PERSON_GROUPS, _PEOPLE):
        connection.execute(statements)
    for function in ("person_delete_audit", "person_group_delete_audit"):
        made: LiteralString = functions[function]
        connection.execute(sql.SQL(made).format(person_key=key, person_audit_key=key))
    connection.execute(_TRIGGERS)


def _btrees(table: Table) -> set[Index]:
    return {index for index in table.indexes if index.method == "btree"}
