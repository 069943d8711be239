-- Keeps a source's original alive where a copy's path runs through a symlinked directory: Immich 2.4+ leaves
-- the file of an offline asset alone, so a copy that is in the trash or deleted is marked offline in the same
-- statement, and no longer when it is restored. For a BEFORE UPDATE row trigger on asset (guard_trigger.sql).
--
-- It fails closed. An asset is let go as it is only where it surely is no copy: the map does not know it, and it is
-- below no prefix that leads through a symlinked directory (a copy that no map knows yet, as after a restored backup or
-- where a scan was faster). Where one of the two cannot be read (a lock, a migration, a table that is gone), each
-- external asset that gets a "deletedAt" is marked offline, and the error is counted. For somebody's own external photo
-- that means: Immich shows it in the trash as before, with the mark of an offline one. The next scan of its library takes
-- the mark away, and so does a restore. Deleted for good before that, its row goes and its file stays; the next scan
-- imports the file again. A file too many, where one too few could be a source's only original.
--
-- It knows no quiet: the original must stay whoever deletes. Errors and privileges: as in notify_change. One lock is
-- waited for once in a statement, not once for each row, and for a moment only: Immich waits, too.
--
-- Installed together with notify_change, also where no trigger uses it: a schema of our own that gains an
-- object after a backup makes Immich's restore of that backup fail.
CREATE OR REPLACE FUNCTION _face_sync.guard_original() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $guard_original$
DECLARE
  -- Holds the moment of the statement in which our tables could not be read.
  blind CONSTANT text := 'face_sync.guard_blind';
  this_statement CONSTANT text := extract(epoch FROM statement_timestamp())::text;
  prefixes jsonb;
BEGIN
  BEGIN
    IF NEW."deletedAt" IS NULL THEN
      -- Restored. No scan's own work is undone: whoever is found missing gets a "deletedAt" in the same statement.
      IF OLD."deletedAt" IS NOT NULL THEN
        NEW."isOffline" := false;
      END IF;
      RETURN NEW;
    END IF;
    IF NEW."isOffline" THEN
      RETURN NEW;
    END IF;
    IF current_setting(blind, true) IS DISTINCT FROM this_statement THEN
      IF EXISTS (SELECT FROM public._face_sync_asset_map AS m WHERE m.target_asset_id = NEW.id) THEN
        NEW."isOffline" := true;
        RETURN NEW;
      END IF;
      IF NOT NEW."isExternal" THEN
        RETURN NEW;
      END IF;
      -- Noted at each start of the listener, and before the guard is installed.
      prefixes := (SELECT note.value FROM public._face_sync_meta AS note WHERE note.key = 'guarded prefixes')::jsonb;
      IF prefixes IS NOT NULL THEN
        NEW."isOffline" := EXISTS (
          SELECT FROM jsonb_array_elements_text(prefixes) AS guarded (prefix)
          WHERE starts_with(NEW."originalPath", guarded.prefix || '/')
        );
        RETURN NEW;
      END IF;
    END IF;
  EXCEPTION WHEN OTHERS THEN
    BEGIN
      PERFORM set_config(blind, this_statement, true);
      PERFORM nextval('public._face_sync_trigger_errors');
    EXCEPTION WHEN OTHERS THEN
      NULL;
    END;
  END;
  -- It cannot be known.
  BEGIN
    NEW."isOffline" := NEW."isOffline" OR NEW."isExternal";
  EXCEPTION WHEN OTHERS THEN
    NULL;
  END;
  RETURN NEW;
END
$guard_original$
