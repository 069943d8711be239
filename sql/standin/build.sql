-- Statements of the builder of Immich's schema that are no table, index or trigger of Immich's.

-- name: available_extensions
-- What the stand-in can use of what Immich asks for. The order matters: earthdistance needs cube.
SELECT name FROM pg_available_extensions
WHERE name IN ('vector', 'pg_trgm', 'cube', 'earthdistance')
ORDER BY name;

-- name: create_extension
CREATE EXTENSION IF NOT EXISTS {extension} SCHEMA public;

-- name: out_of_scope_tables
-- Tables that the facts leave out and that keys or trigger functions of the others refer to: an id each.
CREATE TABLE memory (id uuid PRIMARY KEY DEFAULT uuid_generate_v4());
CREATE TABLE shared_link (id uuid PRIMARY KEY DEFAULT uuid_generate_v4());

-- name: migration_table
-- Where Immich's migration library notes what it has applied.
CREATE TABLE kysely_migrations (
    name varchar(255) PRIMARY KEY,
    "timestamp" varchar(255) NOT NULL
);

-- name: note_migrations
INSERT INTO kysely_migrations (name, "timestamp")
SELECT name, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
FROM unnest(%(names)s::text[]) AS name;

-- name: note_release
-- A server writes its release here at its first start.
INSERT INTO version_history (version) VALUES (%(release)s);
