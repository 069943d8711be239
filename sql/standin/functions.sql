-- Functions of the stand-in for Immich's database: our own words for what the facts say they do.
-- Column names that differ between releases stand as placeholders in braces.

-- name: uuid_generate_v4
-- Stands in for the one of uuid-ossp, an extension that the embedded PostgreSQL lacks.
CREATE FUNCTION uuid_generate_v4() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN gen_random_uuid();

-- name: immich_uuid_v7
-- A version 7 UUID: 48 bits of milliseconds, so that ids made later sort later, the rest random. The last
-- 19 digits of a version 4 UUID are its random part after the version digit, with the variant in its place.
CREATE FUNCTION immich_uuid_v7(at timestamptz DEFAULT clock_timestamp()) RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN (
    lpad(to_hex(trunc(extract(epoch FROM at) * 1000)::bigint), 12, '0')
    || '7'
    || right(replace(gen_random_uuid()::text, '-', ''), 19)
)::uuid;

-- name: f_unaccent
-- Stands in for the extension unaccent: takes letters apart and drops the combining marks. Immutable,
-- because indexes are built on it.
CREATE FUNCTION f_unaccent(word text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
RETURN regexp_replace(normalize(word, NFD), '[\u0300-\u036f]', '', 'g');

-- name: ll_to_earth_public
-- A point on the globe from degrees. Only where the extension earthdistance is there, for its type `earth`.
CREATE FUNCTION ll_to_earth_public(latitude double precision, longitude double precision) RETURNS earth
LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT
RETURN cube(ARRAY[
    earth() * cosd(latitude) * cosd(longitude),
    earth() * cosd(latitude) * sind(longitude),
    earth() * sind(latitude)
]);

-- name: updated_at
-- Every UPDATE of a row gets a fresh stamp and a fresh id, whatever values the statement gave.
CREATE FUNCTION updated_at() RETURNS trigger LANGUAGE plpgsql AS $body$
DECLARE
    stamp constant timestamptz := clock_timestamp();
BEGIN
    NEW."updatedAt" := stamp;
    NEW."updateId" := immich_uuid_v7(stamp);
    RETURN NEW;
END
$body$;

-- name: user_delete_audit
CREATE FUNCTION user_delete_audit() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO user_audit ("userId")
    SELECT gone.id FROM old AS gone;
    RETURN NULL;
END
$body$;

-- name: asset_delete_audit
CREATE FUNCTION asset_delete_audit() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO asset_audit ("assetId", "ownerId")
    SELECT gone.id, gone."ownerId" FROM old AS gone;
    RETURN NULL;
END
$body$;

-- name: asset_face_audit
CREATE FUNCTION asset_face_audit() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO asset_face_audit ("assetFaceId", "assetId")
    SELECT gone.id, gone."assetId" FROM old AS gone;
    RETURN NULL;
END
$body$;

-- name: asset_metadata_audit
CREATE FUNCTION asset_metadata_audit() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO asset_metadata_audit ("assetId", "key")
    SELECT gone."assetId", gone."key" FROM old AS gone;
    RETURN NULL;
END
$body$;

-- name: asset_ocr_delete_audit
CREATE FUNCTION asset_ocr_delete_audit() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO asset_ocr_audit ("assetId")
    SELECT gone."assetId" FROM old AS gone;
    RETURN NULL;
END
$body$;

-- name: asset_edit_audit
CREATE FUNCTION asset_edit_audit() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO asset_edit_audit ("editId", "assetId")
    SELECT gone.id, gone."assetId" FROM old AS gone;
    RETURN NULL;
END
$body$;

-- name: asset_edit_insert
-- Assets that are marked already are left alone, or each further edit would stamp them as changed.
CREATE FUNCTION asset_edit_insert() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    UPDATE asset SET "isEdited" = true
    WHERE NOT asset."isEdited"
        AND asset.id IN (SELECT made."assetId" FROM inserted_edit AS made);
    RETURN NULL;
END
$body$;

-- name: asset_edit_delete
CREATE FUNCTION asset_edit_delete() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    UPDATE asset SET "isEdited" = false
    WHERE asset."isEdited"
        AND asset.id IN (SELECT gone."assetId" FROM deleted_edit AS gone)
        AND NOT EXISTS (SELECT FROM asset_edit AS still WHERE still."assetId" = asset.id);
    RETURN NULL;
END
$body$;

-- name: stack_delete_audit
CREATE FUNCTION stack_delete_audit() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO stack_audit ("stackId", "userId")
    SELECT gone.id, gone."ownerId" FROM old AS gone;
    RETURN NULL;
END
$body$;

-- name: album_delete_audit
-- Up to 2.7.5, where an album has its owner in a column of its own.
CREATE FUNCTION album_delete_audit() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO album_audit ("albumId", "userId")
    SELECT gone.id, gone."ownerId" FROM old AS gone;
    RETURN NULL;
END
$body$;

-- name: album_asset_delete_audit
-- An album that is going itself takes its audit rows with it, so none is written for it.
CREATE FUNCTION album_asset_delete_audit() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO album_asset_audit ("albumId", "assetId")
    SELECT gone.{album_id}, gone.{asset_id} FROM old AS gone
    WHERE EXISTS (SELECT FROM album WHERE album.id = gone.{album_id});
    RETURN NULL;
END
$body$;

-- name: album_user_after_insert
-- The members of an album are part of what its clients show. A new album comes with its owner in the same
-- statement and needs no second stamp (3.0.0 on; before that no membership has the role owner).
CREATE FUNCTION album_user_after_insert() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF NOT EXISTS (SELECT FROM inserted_rows AS made WHERE made.role = 'owner') THEN
        UPDATE album SET "updatedAt" = clock_timestamp(), "updateId" = immich_uuid_v7()
        WHERE album.id IN (SELECT made.{album_id} FROM inserted_rows AS made);
    END IF;
    RETURN NULL;
END
$body$;

-- name: album_user_delete_audit
-- Depth 1 is a client's statement, or the cascade of one; deeper is a delete inside another trigger function.
CREATE FUNCTION album_user_delete_audit() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO album_audit ("albumId", "userId")
    SELECT gone.{album_id}, gone.{user_id} FROM old AS gone;
    IF pg_trigger_depth() = 1 THEN
        INSERT INTO album_user_audit ("albumId", "userId")
        SELECT gone.{album_id}, gone.{user_id} FROM old AS gone;
    END IF;
    RETURN NULL;
END
$body$;

-- name: album_user_delete
-- From 3.2.0: an album without an owner goes.
CREATE FUNCTION album_user_delete() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    DELETE FROM album
    WHERE album.id = OLD."albumId"
        AND NOT EXISTS (
            SELECT FROM album_user AS still WHERE still."albumId" = album.id AND still.role = 'owner'
        );
    RETURN NULL;
END
$body$;

-- name: memory_asset_delete_audit
-- As for albums: a memory that is going itself takes its audit rows with it.
CREATE FUNCTION memory_asset_delete_audit() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO memory_asset_audit ("memoryId", "assetId")
    SELECT gone."memoriesId", gone.{asset_id} FROM old AS gone
    WHERE EXISTS (SELECT FROM memory WHERE memory.id = gone."memoriesId");
    RETURN NULL;
END
$body$;

-- name: person_delete_audit
CREATE FUNCTION person_delete_audit() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO person_audit ({person_audit_key}, "ownerId")
    SELECT gone.{person_key}, gone."ownerId" FROM old AS gone;
    RETURN NULL;
END
$body$;

-- name: person_group_delete_audit
CREATE FUNCTION person_group_delete_audit() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO person_group_audit ("personGroupId", "clusterGroupId")
    SELECT gone.id, gone."clusterGroupId" FROM old AS gone;
    RETURN NULL;
END
$body$;

-- name: person_delete_shares
-- From 3.3.0: who deletes a person has no more use for what others shared of it.
CREATE FUNCTION person_delete_shares() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    DELETE FROM person_user USING deleted_rows AS gone
    WHERE person_user."personGroupId" = gone."personGroupId"
        AND person_user."sharedWithId" = gone."ownerId";
    RETURN NULL;
END
$body$;

-- name: person_user_after_insert
-- From 3.3.0: the receiver of a share has a person row of its own, with the sharer's name and birth date
-- where the receiver gave none. One row per receiver and group, or two sharers would hit the same row twice.
CREATE FUNCTION person_user_after_insert() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO person ("ownerId", "personGroupId", name, "birthDate")
    SELECT DISTINCT ON (made."sharedWithId", made."personGroupId")
        made."sharedWithId", made."personGroupId", sharer.name, sharer."birthDate"
    FROM inserted_rows AS made
    JOIN person AS sharer
        ON sharer."ownerId" = made."sharedById" AND sharer."personGroupId" = made."personGroupId"
    ORDER BY made."sharedWithId", made."personGroupId", made."sharedById"
    ON CONFLICT ("ownerId", "personGroupId") DO UPDATE
    SET name = CASE WHEN person.name = '' THEN excluded.name ELSE person.name END,
        "birthDate" = coalesce(person."birthDate", excluded."birthDate")
    WHERE person.name = '' OR person."birthDate" IS NULL;
    RETURN NULL;
END
$body$;
