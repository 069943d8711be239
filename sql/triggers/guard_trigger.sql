-- The guard of originals, there only where a job leads through a symlinked directory.

-- name: guard
-- Before the row is written: Immich's job reads the row after the statement that deletes, and then finds it
-- offline. No WHEN and no column list, as in statement_triggers.sql.
CREATE OR REPLACE TRIGGER {trigger} BEFORE UPDATE ON {table}
FOR EACH ROW EXECUTE FUNCTION _face_sync.guard_original()
