-- name: columns
-- Everything there is to copy, in table order; generated and dropped columns cannot be written.
SELECT class.relname, attribute.attname, format_type(attribute.atttypid, attribute.atttypmod),
       attribute.attnotnull AND NOT attribute.atthasdef
FROM pg_attribute AS attribute
JOIN pg_class AS class ON class.oid = attribute.attrelid
WHERE class.relnamespace = 'public'::regnamespace
  AND class.relkind IN ('r', 'p')
  AND attribute.attnum > 0
  AND NOT attribute.attisdropped
  AND attribute.attgenerated = ''
ORDER BY class.relname, attribute.attnum

-- name: tables_hanging_on_asset
-- A table that an unknown release added for assets: a copy without its rows may be incomplete.
SELECT DISTINCT con.conrelid::regclass::name
FROM pg_constraint AS con
WHERE con.contype = 'f'
  AND con.confrelid = 'public.asset'::regclass
  AND con.conrelid <> con.confrelid
