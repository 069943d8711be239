-- How phones come to see what we write, and what we delete.

-- name: begun
-- The least updateId that a row of this transaction can have, by what its rows are known afterwards, and how many
-- milliseconds ahead an update is stamped now. Before that it is told how far ahead all of them are to be.
WITH told AS MATERIALIZED (SELECT set_config('face_sync.ahead', %(ahead)s::text, true)),
     now AS MATERIALIZED (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms FROM told),
     stamp AS MATERIALIZED (SELECT translate(immich_uuid_v7()::text, '-', '') AS hex FROM now)
SELECT (lpad(to_hex(now.ms), 12, '0') || repeat('0', 20))::uuid, pg_current_xact_id()::xid::text,
       ('x' || substr(stamp.hex, 1, 12))::bit(48)::bigint - now.ms
FROM now, stamp

-- name: stamp
-- Rows that were committed when a phone may have passed them: any UPDATE stamps a row anew.
UPDATE {table} SET "updateId" = DEFAULT WHERE "updateId" >= %(since)s AND xmin = %(transaction)s::text::xid

-- name: announce
-- Deletions of ours that a phone may have passed: another audit row with a later id was there before them. Written
-- once more, unless what was deleted has come back.
INSERT INTO {audit} ({columns})
SELECT {values}
FROM {audit} AS gone
WHERE gone.id >= %(since)s
  AND gone.xmin::text = ANY(%(transactions)s)
  AND {passed}
  AND NOT EXISTS ({again})
RETURNING xmin::text

-- name: passed_by_the_user
EXISTS (SELECT FROM {audit} AS other
        WHERE other.id > gone.id AND other.{whose} = gone.{whose} AND NOT other.xmin::text = ANY(%(transactions)s))

-- name: passed_by_anybody
-- Whose photos were concerned is not said, and they may be gone. A deletion that is told twice does no harm. The last
-- one of others is looked for once: a batch may delete thousands.
gone.id < (SELECT other.id FROM {audit} AS other
           WHERE other.id >= %(since)s AND NOT other.xmin::text = ANY(%(transactions)s) ORDER BY other.id DESC LIMIT 1)

-- name: again
SELECT FROM {table} AS row WHERE row.{key} = {name}

-- name: person_again
SELECT FROM {table} AS row WHERE row.{key} = {name} AND row."ownerId" = gone."ownerId"
