-- Version 5: our layout. Versions 1 to 4 are those of an older kind of sidecar, whose tables are adopted with
-- all their rows; a fresh database gets the same layout. It looks at what is there rather than at the version
-- recorded, since version 3 dropped a table and constraint names differ between installations.
-- No foreign keys to Immich's tables, no functions, no enums: Immich's upgrades and its schema check must not
-- notice us. Everything is in public, so that Immich's own restore brings it back.

CREATE TABLE IF NOT EXISTS public._face_sync_meta (
  key text PRIMARY KEY,
  value text NOT NULL
);

-- Which asset is the copy of which. A row here whose copy is gone means that somebody deleted the copy.
CREATE TABLE IF NOT EXISTS public._face_sync_asset_map (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  source_asset_id uuid NOT NULL,
  target_asset_id uuid NOT NULL UNIQUE,
  source_user_id uuid NOT NULL,
  target_user_id uuid NOT NULL,
  synced_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (source_asset_id, target_user_id)
);

-- Copies that are begun: files of them may be there, rows not yet. Written before the first file, so that a
-- crash orphans nothing. The prefix tells which job began it.
CREATE TABLE IF NOT EXISTS public._face_sync_intent (
  source_asset_id uuid NOT NULL,
  target_asset_id uuid NOT NULL,
  source_user_id uuid NOT NULL,
  target_user_id uuid NOT NULL,
  target_path_prefix text NOT NULL,
  PRIMARY KEY (source_asset_id, target_user_id)
);

-- Which person is the mirror of which, up to Immich 3.1 and across cluster groups.
CREATE TABLE IF NOT EXISTS public._face_sync_person_map (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  source_person_id uuid NOT NULL,
  target_person_id uuid NOT NULL,
  source_user_id uuid NOT NULL,
  target_user_id uuid NOT NULL,
  UNIQUE (source_person_id, target_user_id)
);
-- The target user merged the mirror into a person of theirs, who stands for the source's person now.
ALTER TABLE public._face_sync_person_map ADD COLUMN IF NOT EXISTS adopted boolean NOT NULL DEFAULT false;

-- Assets that are left out on purpose, with the reason.
CREATE TABLE IF NOT EXISTS public._face_sync_skipped (
  source_asset_id uuid NOT NULL,
  target_user_id uuid NOT NULL,
  reason text,
  skipped_at timestamptz DEFAULT now(),
  PRIMARY KEY (source_asset_id, target_user_id)
);
-- The target user's own photo that the source would double: when it changes or goes, the source is looked at.
ALTER TABLE public._face_sync_skipped ADD COLUMN IF NOT EXISTS other_asset_id uuid;
CREATE INDEX IF NOT EXISTS _face_sync_skipped_other_asset_id_idx
  ON public._face_sync_skipped (other_asset_id) WHERE other_asset_id IS NOT NULL;

-- Source and target users of all jobs; the trigger function is silent for everybody else.
CREATE TABLE IF NOT EXISTS public._face_sync_watch (
  user_id uuid PRIMARY KEY
);

-- Which face is the copy of which; target_person_id is what we wrote last, so that the target user's own
-- choice of a person can be told from ours.
CREATE TABLE IF NOT EXISTS public._face_sync_face_map (
  source_face_id uuid NOT NULL,
  target_face_id uuid NOT NULL UNIQUE,
  target_asset_id uuid NOT NULL,
  target_user_id uuid NOT NULL,
  target_person_id uuid,
  PRIMARY KEY (source_face_id, target_user_id)
);
CREATE INDEX IF NOT EXISTS _face_sync_face_map_target_asset_id_idx
  ON public._face_sync_face_map (target_asset_id);
CREATE INDEX IF NOT EXISTS _face_sync_face_map_target_person_id_idx
  ON public._face_sync_face_map (target_person_id);

-- What we wrote last into columns that the target user may change too (Immich 2.4+ lets users lock them), and
-- the edits we copied: what differs from it is the target user's own.
CREATE TABLE IF NOT EXISTS public._face_sync_base (
  target_asset_id uuid PRIMARY KEY,
  exif jsonb NOT NULL DEFAULT '{}',
  edits jsonb NOT NULL DEFAULT '[]'
);

-- Which stack is the mirror of which.
CREATE TABLE IF NOT EXISTS public._face_sync_stack_map (
  source_stack_id uuid NOT NULL,
  target_stack_id uuid NOT NULL UNIQUE,
  target_user_id uuid NOT NULL,
  PRIMARY KEY (source_stack_id, target_user_id)
);

-- Tags that we gave to copies; the target user's own are not here.
CREATE TABLE IF NOT EXISTS public._face_sync_tag_map (
  target_asset_id uuid NOT NULL,
  value text NOT NULL,
  PRIMARY KEY (target_asset_id, value)
);

-- Copies that we put into an album once: one that its user takes out stays out.
CREATE TABLE IF NOT EXISTS public._face_sync_album_map (
  target_asset_id uuid NOT NULL,
  album_id uuid NOT NULL,
  PRIMARY KEY (target_asset_id, album_id)
);

-- What the target user had done with a copy that is gone for now, to be given back with it.
CREATE TABLE IF NOT EXISTS public._face_sync_kept (
  source_asset_id uuid NOT NULL,
  target_user_id uuid NOT NULL,
  target_asset_id uuid NOT NULL,
  is_favorite boolean NOT NULL,
  visibility text NOT NULL,
  album_ids uuid[] NOT NULL,
  stack_id uuid,
  was_cover boolean NOT NULL DEFAULT false,
  kept_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (source_asset_id, target_user_id)
);

-- Assets that could not be copied, with the reason; retried with back-off.
CREATE TABLE IF NOT EXISTS public._face_sync_failure (
  job text NOT NULL,
  source_asset_id uuid NOT NULL,
  reason text NOT NULL,
  attempts integer NOT NULL DEFAULT 1,
  first_at timestamptz NOT NULL DEFAULT now(),
  last_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (job, source_asset_id)
);

-- The state in which a photo or a person was when nothing was left to do for them (sweep.sql). A cache: without
-- these rows the next sweep looks at everything.
CREATE TABLE IF NOT EXISTS public._face_sync_seen (
  job bigint NOT NULL,
  key uuid NOT NULL,
  state bigint NOT NULL,
  PRIMARY KEY (job, key)
);

-- Errors caught inside the trigger function. A sequence, because it counts outside of transactions and
-- without locks.
CREATE SEQUENCE IF NOT EXISTS public._face_sync_trigger_errors;

DO $adopt$
DECLARE
  doomed record;
BEGIN
  -- Version 1 allowed one copy per source asset. The unique key may be a constraint or a bare index.
  FOR doomed IN
    SELECT ix.indexrelid::regclass AS index_name, con.conname
    FROM pg_index AS ix
    LEFT JOIN pg_constraint AS con ON con.conindid = ix.indexrelid AND con.contype = 'u'
    WHERE ix.indrelid = 'public._face_sync_asset_map'::regclass
      AND ix.indisunique AND NOT ix.indisprimary
      AND ix.indnkeyatts = 1
      AND ix.indkey[0] = (
        SELECT attnum FROM pg_attribute
        WHERE attrelid = ix.indrelid AND attname = 'source_asset_id'
      )
  LOOP
    IF doomed.conname IS NOT NULL THEN
      EXECUTE format('ALTER TABLE public._face_sync_asset_map DROP CONSTRAINT %I', doomed.conname);
    ELSE
      EXECUTE format('DROP INDEX %s', doomed.index_name);
    END IF;
  END LOOP;

  IF NOT EXISTS (
    SELECT FROM pg_index AS ix
    WHERE ix.indrelid = 'public._face_sync_asset_map'::regclass AND ix.indisunique
      AND pg_get_indexdef(ix.indexrelid) LIKE '%(source_asset_id, target_user_id)'
  ) THEN
    ALTER TABLE public._face_sync_asset_map ADD UNIQUE (source_asset_id, target_user_id);
  END IF;

  -- Version 1 had one target user. A skipped asset gets the one that its owner's photos were copied to, else
  -- the one that most photos were copied to; with no copy at all to tell by, the row is kept under the nil
  -- id, which is nobody's.
  IF NOT EXISTS (
    SELECT FROM pg_attribute
    WHERE attrelid = 'public._face_sync_skipped'::regclass AND attname = 'target_user_id' AND NOT attisdropped
  ) THEN
    ALTER TABLE public._face_sync_skipped ADD COLUMN target_user_id uuid;
    IF to_regclass('public.asset') IS NOT NULL THEN
      UPDATE public._face_sync_skipped AS s
      SET target_user_id = (
        SELECT m.target_user_id FROM public._face_sync_asset_map AS m
        WHERE m.source_user_id = a."ownerId"
        GROUP BY m.target_user_id ORDER BY count(*) DESC, m.target_user_id LIMIT 1
      )
      FROM public.asset AS a
      WHERE a.id = s.source_asset_id;
    END IF;
    UPDATE public._face_sync_skipped
    SET target_user_id = coalesce(
      (
        SELECT m.target_user_id FROM public._face_sync_asset_map AS m
        GROUP BY m.target_user_id ORDER BY count(*) DESC, m.target_user_id LIMIT 1
      ),
      '00000000-0000-0000-0000-000000000000'
    )
    WHERE target_user_id IS NULL;
    FOR doomed IN
      SELECT conname FROM pg_constraint
      WHERE conrelid = 'public._face_sync_skipped'::regclass AND contype IN ('p', 'u')
    LOOP
      EXECUTE format('ALTER TABLE public._face_sync_skipped DROP CONSTRAINT %I', doomed.conname);
    END LOOP;
    ALTER TABLE public._face_sync_skipped ADD PRIMARY KEY (source_asset_id, target_user_id);
  END IF;

  IF NOT EXISTS (
    SELECT FROM pg_index AS ix
    WHERE ix.indrelid = 'public._face_sync_person_map'::regclass
      AND pg_get_indexdef(ix.indexrelid) LIKE '%(target_person_id)'
  ) THEN
    CREATE INDEX _face_sync_person_map_target_person_id_idx
      ON public._face_sync_person_map (target_person_id);
  END IF;
END
$adopt$;
