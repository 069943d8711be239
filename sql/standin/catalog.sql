-- Reads a database's catalog in the form of the schema facts.

-- name: enums
SELECT coalesce(jsonb_object_agg(enum.name, enum.labels), '{}') AS enums
FROM (
    SELECT t.typname AS name, jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) AS labels
    FROM pg_type AS t
    JOIN pg_enum AS e ON e.enumtypid = t.oid
    WHERE t.typnamespace = 'public'::regnamespace
    GROUP BY t.typname
) AS enum;

-- name: tables
-- One JSON object for all tables of the schema public. Names are sorted by bytes, as in the data files.
WITH rel AS (
    SELECT c.oid, c.relname
    FROM pg_class AS c
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
),
columns AS (
    SELECT a.attrelid AS oid, jsonb_agg(jsonb_build_object(
        'name', a.attname,
        'type', format_type(a.atttypid, a.atttypmod),
        'nullable', NOT a.attnotnull,
        'default', pg_get_expr(d.adbin, d.adrelid)
    ) ORDER BY a.attnum) AS list
    FROM pg_attribute AS a
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attnum > 0 AND NOT a.attisdropped
    GROUP BY a.attrelid
),
key AS (
    -- The columns of both sides of every constraint, by name and in the constraint's order.
    SELECT con.*,
        (
            SELECT jsonb_agg(a.attname ORDER BY k.ord)
            FROM unnest(con.conkey) WITH ORDINALITY AS k (num, ord)
            JOIN pg_attribute AS a ON a.attrelid = con.conrelid AND a.attnum = k.num
        ) AS own_columns,
        (
            SELECT jsonb_agg(a.attname ORDER BY k.ord)
            FROM unnest(con.confkey) WITH ORDINALITY AS k (num, ord)
            JOIN pg_attribute AS a ON a.attrelid = con.confrelid AND a.attnum = k.num
        ) AS their_columns
    FROM pg_constraint AS con
    JOIN rel ON rel.oid = con.conrelid
),
keys AS (
    SELECT key.conrelid AS oid,
        jsonb_agg(jsonb_build_object('name', key.conname, 'columns', key.own_columns))
            FILTER (WHERE key.contype = 'p') -> 0 AS primary_key,
        jsonb_agg(
            jsonb_build_object('name', key.conname, 'expression', pg_get_constraintdef(key.oid, true))
            ORDER BY key.conname COLLATE "C"
        ) FILTER (WHERE key.contype = 'c') AS checks,
        jsonb_agg(
            jsonb_build_object(
                'name', key.conname,
                'columns', key.own_columns,
                'references', jsonb_build_object('table', other.relname, 'columns', key.their_columns),
                'on_delete', actions.word ->> key.confdeltype::text,
                'on_update', actions.word ->> key.confupdtype::text
            )
            ORDER BY key.conname COLLATE "C"
        ) FILTER (WHERE key.contype = 'f') AS foreign_keys
    FROM key
    LEFT JOIN pg_class AS other ON other.oid = key.confrelid
    CROSS JOIN (
        SELECT '{"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}'::jsonb
    ) AS actions (word)
    GROUP BY key.conrelid
),
index_part AS (
    -- One row per index with its parts in order; the operator class is said only where it is not the default.
    SELECT i.indexrelid,
        jsonb_agg(
            CASE WHEN p.num = 0 THEN pg_get_indexdef(i.indexrelid, p.ord::int, true) ELSE a.attname::text END
            ORDER BY p.ord
        ) AS columns,
        jsonb_agg(CASE WHEN NOT o.opcdefault THEN o.opcname END ORDER BY p.ord) AS opclass,
        bool_and(o.opcdefault) AS all_default
    FROM pg_index AS i
    JOIN rel ON rel.oid = i.indrelid
    CROSS JOIN unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS p (num, class, ord)
    JOIN pg_opclass AS o ON o.oid = p.class
    LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = p.num
    GROUP BY i.indexrelid
),
indexes AS (
    SELECT i.indrelid AS oid,
        jsonb_agg(
            jsonb_build_object(
                'name', c.relname,
                'kind', CASE WHEN con.oid IS NULL THEN 'index' ELSE 'constraint' END,
                'columns', index_part.columns,
                'where', pg_get_expr(i.indpred, i.indrelid, true)
            )
            ORDER BY c.relname COLLATE "C"
        ) FILTER (WHERE i.indisunique) AS unique_list,
        jsonb_agg(
            jsonb_build_object(
                'name', c.relname,
                'method', am.amname,
                'columns', index_part.columns,
                'where', pg_get_expr(i.indpred, i.indrelid, true),
                'opclass', CASE WHEN index_part.all_default THEN '[]' ELSE index_part.opclass END
            )
            ORDER BY c.relname COLLATE "C"
        ) FILTER (WHERE NOT i.indisunique) AS plain_list
    FROM pg_index AS i
    JOIN index_part USING (indexrelid)
    JOIN pg_class AS c ON c.oid = i.indexrelid
    JOIN pg_am AS am ON am.oid = c.relam
    LEFT JOIN pg_constraint AS con ON con.conindid = i.indexrelid AND con.contype = 'u'
    WHERE NOT i.indisprimary
    GROUP BY i.indrelid
),
triggers AS (
    -- tgtype is a set of bits: 1 row, 2 before, 4 insert, 8 delete, 16 update, 32 truncate, 64 instead.
    SELECT t.tgrelid AS oid, jsonb_agg(jsonb_build_object(
        'name', t.tgname,
        'timing', CASE
            WHEN t.tgtype & 64 <> 0 THEN 'INSTEAD OF'
            WHEN t.tgtype & 2 <> 0 THEN 'BEFORE'
            ELSE 'AFTER'
        END,
        'events', to_jsonb(array_remove(ARRAY[
            CASE WHEN t.tgtype & 4 <> 0 THEN 'INSERT' END,
            CASE WHEN t.tgtype & 8 <> 0 THEN 'DELETE' END,
            CASE WHEN t.tgtype & 16 <> 0 THEN 'UPDATE' END,
            CASE WHEN t.tgtype & 32 <> 0 THEN 'TRUNCATE' END
        ], NULL)),
        'level', CASE WHEN t.tgtype & 1 <> 0 THEN 'ROW' ELSE 'STATEMENT' END,
        'transition_tables', CASE
            WHEN coalesce(t.tgoldtable, t.tgnewtable) IS NOT NULL
                THEN jsonb_build_object('old', t.tgoldtable, 'new', t.tgnewtable)
        END,
        'when', pg_get_expr(t.tgqual, t.tgrelid),
        'function', f.proname
    ) ORDER BY t.tgname COLLATE "C") AS list
    FROM pg_trigger AS t
    JOIN pg_proc AS f ON f.oid = t.tgfoid
    WHERE NOT t.tgisinternal
    GROUP BY t.tgrelid
)
SELECT coalesce(jsonb_object_agg(rel.relname, jsonb_build_object(
    'columns', coalesce(columns.list, '[]'),
    'primary_key', keys.primary_key,
    'checks', coalesce(keys.checks, '[]'),
    'foreign_keys', coalesce(keys.foreign_keys, '[]'),
    'unique', coalesce(indexes.unique_list, '[]'),
    'indexes', coalesce(indexes.plain_list, '[]'),
    'triggers', coalesce(triggers.list, '[]')
)), '{}') AS tables
FROM rel
LEFT JOIN columns USING (oid)
LEFT JOIN keys USING (oid)
LEFT JOIN indexes USING (oid)
LEFT JOIN triggers USING (oid);
