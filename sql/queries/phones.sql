-- How phones come to see what we write, and what we delete.

-- name: begun
-- The least updateId that a row of this transaction can have, and by what its rows are known afterwards.
SELECT (lpad(to_hex(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid,
       pg_current_xact_id()::xid::text

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
