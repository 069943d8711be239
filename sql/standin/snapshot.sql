-- Number and checksum of the rows of every system catalog: equal before and after means that nothing is left.

-- name: system_catalogs
-- Of this database only: shared ones tell of other databases. Statistics change by themselves.
SELECT relname::text
FROM pg_class
WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared
  AND relname NOT IN ('pg_statistic', 'pg_statistic_ext_data')

-- name: count_rows
-- Summed, so that the order of the rows does not matter.
SELECT {name}, count(*), sum(hashtextextended((t.*)::text, 0)) FROM {table} AS t

-- name: count_classes
-- Without what vacuum and analyze keep here. relhastriggers is among it: the first trigger of a table sets it,
-- and only a vacuum looks again.
SELECT {name}, count(*), sum(hashtextextended((
  to_jsonb(t) - '{{relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,relminmxid,relhastriggers}}'::text[]
)::text, 0))
FROM {table} AS t

-- name: count_namespaces
-- Without the schemas of temporary objects: PostgreSQL keeps an empty one for each session slot that had any.
SELECT {name}, count(*), sum(hashtextextended((t.*)::text, 0)) FROM {table} AS t
WHERE t.nspname !~ '^pg_(toast_)?temp_\d+$'
