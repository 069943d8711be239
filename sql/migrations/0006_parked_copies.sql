-- Version 6: copies that go for a while are parked, and everything that goes leaves a mark with its paths
-- (docs/decisions/0017). Also what tells a user's own choice from what we wrote, for visibility and stacks.

-- source_path: of the source's original when the copy was last written; where it differs, the source was moved, else it
-- is the settings that changed. library_id: in which library the copy was last seen; where that one is gone, its
-- user has not deleted the copy. parked: how its user had it (visibility, status, cover …), NULL while it is there.
ALTER TABLE public._face_sync_asset_map
  ADD COLUMN IF NOT EXISTS source_path text,
  ADD COLUMN IF NOT EXISTS library_id uuid,
  ADD COLUMN IF NOT EXISTS parked jsonb;
-- Few are parked, and some looks ask for those alone.
CREATE INDEX IF NOT EXISTS _face_sync_asset_map_parked_idx
  ON public._face_sync_asset_map (target_user_id) WHERE parked IS NOT NULL;

-- What may still have to be removed beside the files that are named by the copy's id: links and XMP files.
ALTER TABLE public._face_sync_intent ADD COLUMN IF NOT EXISTS paths text[] NOT NULL DEFAULT '{}';

-- What the target user typed into a copy that is gone, for the day that it comes back. visibility: NULL where they
-- had not chosen it.
ALTER TABLE public._face_sync_kept
  ADD COLUMN IF NOT EXISTS exif jsonb NOT NULL DEFAULT '{}',
  ADD COLUMN IF NOT EXISTS dates jsonb NOT NULL DEFAULT '{}',
  ADD COLUMN IF NOT EXISTS tags text[] NOT NULL DEFAULT '{}',
  ALTER COLUMN visibility DROP NOT NULL;

-- What we wrote last: where the copy has something else, its user has chosen it.
ALTER TABLE public._face_sync_base
  ADD COLUMN IF NOT EXISTS visibility text,
  ADD COLUMN IF NOT EXISTS stack_id uuid;

-- The cover that we gave a mirrored stack last.
ALTER TABLE public._face_sync_stack_map ADD COLUMN IF NOT EXISTS cover_id uuid;

-- For what we wrote last into a mirrored person.
ALTER TABLE public._face_sync_person_map ADD COLUMN IF NOT EXISTS written jsonb NOT NULL DEFAULT '{}';
-- Whose thumbnail shows a photo that goes?
CREATE INDEX IF NOT EXISTS _face_sync_person_map_photo_idx ON public._face_sync_person_map ((written ->> 'photo'));
