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

-- name: fingerprint
-- Of what the two above read. By its number a table that was dropped and made again is another one: a restored
-- backup has the same columns. Only the system catalog is read, so no lock of an upgrade is waited for. Tables
-- of our own may come and go.
SELECT md5(coalesce(string_agg(
    concat_ws(' ', attribute.attrelid, class.relname, attribute.attnum, attribute.attname, attribute.atttypid,
              attribute.atttypmod, attribute.attnotnull, attribute.atthasdef, attribute.attgenerated),
    E'\n' ORDER BY attribute.attrelid, attribute.attnum), ''))
    || (SELECT count(*) FROM pg_index AS index JOIN pg_class AS class ON class.oid = index.indrelid
        WHERE class.relnamespace = to_regnamespace('public') AND index.indisunique
          AND NOT starts_with(class.relname, '_face_sync_'))
    || '/' || (SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND confrelid = to_regclass('public.asset'))
FROM pg_attribute AS attribute
JOIN pg_class AS class ON class.oid = attribute.attrelid
WHERE class.relnamespace = to_regnamespace('public')
  AND class.relkind IN ('r', 'p')
  AND attribute.attnum > 0
  AND NOT attribute.attisdropped
  AND NOT starts_with(class.relname, '_face_sync_')
