-- The three triggers of one table. Transition tables allow one event per trigger.
-- No column list, no WHEN and no column anywhere: Immich's upgrades drop and rename columns, and PostgreSQL
-- refuses to drop one that a trigger's definition names.
-- Both kinds of rows are called changed_rows where there is one kind only, so that the function has one text.

-- name: insert
-- New rows: assets of an upload or scan, and each step of their processing.
CREATE OR REPLACE TRIGGER {trigger} AFTER INSERT ON {table}
REFERENCING NEW TABLE AS changed_rows
FOR EACH STATEMENT EXECUTE FUNCTION _face_sync.notify_change()

-- name: update
-- Old rows too: an UPDATE that changes nothing but Immich's own stamps is no news.
CREATE OR REPLACE TRIGGER {trigger} AFTER UPDATE ON {table}
REFERENCING OLD TABLE AS old_rows NEW TABLE AS changed_rows
FOR EACH STATEMENT EXECUTE FUNCTION _face_sync.notify_change()

-- name: delete
-- Deleted assets, faces, people and files; a sweep alone would leave the copy standing for minutes.
CREATE OR REPLACE TRIGGER {trigger} AFTER DELETE ON {table}
REFERENCING OLD TABLE AS changed_rows
FOR EACH STATEMENT EXECUTE FUNCTION _face_sync.notify_change()

-- name: where_there_is
-- For SQL that is run by hand, on whichever release: tables that came with a later one.
DO $where_there_is$
BEGIN
  IF to_regclass({table}) IS NOT NULL THEN
    EXECUTE {statement};
  END IF;
END
$where_there_is$;
