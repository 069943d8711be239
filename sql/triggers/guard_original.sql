-- Keeps a source's original alive where a copy's path runs through a symlinked directory: Immich 2.4+ leaves
-- the file of an offline asset alone, so a copy that is in the trash or deleted is marked offline in the same
-- statement, and no longer when it is restored. For a BEFORE UPDATE row trigger on asset (guard_trigger.sql).
--
-- Installed together with notify_change, also where no trigger uses it: a schema of our own that gains an
-- object after a backup makes Immich's restore of that backup fail.
-- It knows no quiet: the original must stay whoever deletes. Errors and privileges: as in notify_change.
CREATE OR REPLACE FUNCTION _face_sync.guard_original() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
AS $guard_original$
BEGIN
  BEGIN
    IF NEW."deletedAt" IS NULL AND OLD."deletedAt" IS NULL THEN
      RETURN NEW;
    END IF;
    IF EXISTS (SELECT FROM public._face_sync_asset_map AS m WHERE m.target_asset_id = NEW.id) THEN
      NEW."isOffline" := NEW."deletedAt" IS NOT NULL;
    END IF;
  EXCEPTION WHEN OTHERS THEN
    BEGIN
      PERFORM nextval('public._face_sync_trigger_errors');
    EXCEPTION WHEN OTHERS THEN
      NULL;
    END;
  END;
  RETURN NEW;
END
$guard_original$
