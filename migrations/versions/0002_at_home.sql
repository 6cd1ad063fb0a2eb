ALTER TABLE cdc_pusher.change ADD COLUMN watch TEXT;
ALTER TABLE cdc_pusher.change ADD COLUMN source_row JSONB;
ALTER TABLE cdc_pusher.change ADD CONSTRAINT change_a_watch_comes_with_its_row CHECK ((watch IS NULL) = (source_row IS NULL) AND (watch IS NULL OR station_id IS NULL));
COMMENT ON COLUMN cdc_pusher.change.station_id IS 'The station to look at again; NULL: see watch, or any station may have changed (TRUNCATE)';
COMMENT ON COLUMN cdc_pusher.change.watch IS 'The watch whose sub-select says which stations source_row concerns; NULL: station_id says it';
COMMENT ON COLUMN cdc_pusher.change.source_row IS 'The changed row of the CPO''s table: the columns that the watch''s sub-select may name';

ALTER TABLE cdc_pusher.emp ALTER COLUMN walk_again DROP NOT NULL;
ALTER TABLE cdc_pusher.emp ALTER COLUMN walk_again DROP DEFAULT;
ALTER TABLE cdc_pusher.emp RENAME COLUMN walk_again TO walk_next;
ALTER TABLE cdc_pusher.emp ALTER COLUMN walk_next TYPE TEXT USING CASE WHEN walk_next AND walk IS NOT NULL THEN 'sweep' END;
ALTER TABLE cdc_pusher.emp ADD COLUMN walk_pace DOUBLE PRECISION;
ALTER TABLE cdc_pusher.emp ADD COLUMN walk_due_at TIMESTAMP WITH TIME ZONE;
ALTER TABLE cdc_pusher.emp ADD COLUMN sweep_started_at TIMESTAMP WITH TIME ZONE;
ALTER TABLE cdc_pusher.emp ADD COLUMN sweep_completed_at TIMESTAMP WITH TIME ZONE;
ALTER TABLE cdc_pusher.emp ADD COLUMN healed BIGINT DEFAULT 0 NOT NULL;
ALTER TABLE cdc_pusher.emp ADD COLUMN healed_at TIMESTAMP WITH TIME ZONE;
ALTER TABLE cdc_pusher.emp ADD CONSTRAINT emp_walk_next_is_known CHECK (walk_next IN ('resync', 'sweep'));
ALTER TABLE cdc_pusher.emp ADD CONSTRAINT emp_only_a_sweep_has_a_pace CHECK (walk_pace IS NULL OR walk = 'sweep');
ALTER TABLE cdc_pusher.emp ADD CONSTRAINT emp_a_next_walk_follows_one CHECK (walk IS NOT NULL OR walk_next IS NULL);
COMMENT ON COLUMN cdc_pusher.emp.walk_next IS 'The walk to begin when this one ends; NULL: none';
COMMENT ON COLUMN cdc_pusher.emp.walk_pace IS 'Stations a second that the walk keeps to; NULL: as fast as it goes';
COMMENT ON COLUMN cdc_pusher.emp.walk_due_at IS 'When the next page of a walk that keeps to a pace is to be put into the change log';
COMMENT ON COLUMN cdc_pusher.emp.sweep_started_at IS 'When the last sweep began';
COMMENT ON COLUMN cdc_pusher.emp.sweep_completed_at IS 'When the last sweep was through';
COMMENT ON COLUMN cdc_pusher.emp.healed IS 'Stations, counted since the beginning, that a sweep found changed although no trigger had told of it';
COMMENT ON COLUMN cdc_pusher.emp.healed_at IS 'When a sweep last found such a station';

ALTER TABLE cdc_pusher.cpo ADD CONSTRAINT cpo_confirmed_with_an_identifier CHECK (confirmed_at IS NULL OR cpo_id IS NOT NULL);
COMMENT ON TABLE cdc_pusher.cpo IS 'Per EMP the CPOs that occur in the stations or the configuration; the EMP has to know one before its first station is sent.';
COMMENT ON COLUMN cdc_pusher.cpo.cpo_id IS 'The identifier told to the EMP (cpo-id); NULL: the configuration has none';
COMMENT ON COLUMN cdc_pusher.cpo.confirmed_at IS 'Since when the EMP is known to know this CPO; NULL: its stations are held';

CREATE TABLE cdc_pusher.granted (
    role TEXT NOT NULL,
    kind TEXT NOT NULL,
    object TEXT NOT NULL,
    object_id OID NOT NULL,
    CONSTRAINT granted_pkey PRIMARY KEY (role, kind, object),
    CONSTRAINT granted_kind_is_known CHECK (kind IN ('TABLE', 'SCHEMA'))
);
COMMENT ON TABLE cdc_pusher.granted IS 'Rights on the CPO''s things that cdc-pusher migrate has given; cdc-pusher uninstall takes back these and no others.';
COMMENT ON COLUMN cdc_pusher.granted.role IS 'The role that was given the right';
COMMENT ON COLUMN cdc_pusher.granted.kind IS '''TABLE'' or ''SCHEMA''';
COMMENT ON COLUMN cdc_pusher.granted.object IS 'The table (SELECT) or schema (USAGE) of the CPO, quoted, as it was called then';
COMMENT ON COLUMN cdc_pusher.granted.object_id IS 'The same by its oid, whatever it is called now';

-- The daemon's role need not own our tables: what only their owner may do, these do for it.
ALTER FUNCTION cdc_pusher.maintain_attempts SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
REVOKE ALL ON FUNCTION cdc_pusher.maintain_attempts FROM PUBLIC;

CREATE FUNCTION cdc_pusher.refresh_statistics() RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    ANALYZE cdc_pusher.outbox, cdc_pusher.evse;
END
$$;
COMMENT ON FUNCTION cdc_pusher.refresh_statistics IS 'Tells the planner how large outbox and evse have become: in a full load autovacuum comes too late';
REVOKE ALL ON FUNCTION cdc_pusher.refresh_statistics FROM PUBLIC;

CREATE OR REPLACE VIEW cdc_pusher.emp_progress AS
SELECT
    e.name AS emp,
    e.full_load_started_at,
    e.full_load_completed_at,
    e.walk,
    e.walk_stations,
    e.paused_at,
    o.*,
    e.sweep_started_at,
    e.sweep_completed_at,
    e.healed,
    e.healed_at
FROM cdc_pusher.emp AS e
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE kind = 'station') AS stations,
        count(*) FILTER (WHERE kind = 'station' AND state = 'delivered') AS stations_delivered,
        count(*) FILTER (WHERE kind = 'status') AS statuses,
        count(*) FILTER (WHERE kind = 'status' AND state = 'delivered') AS statuses_delivered,
        count(*) FILTER (WHERE state IN ('pending', 'in_flight')) AS on_their_way,
        count(*) FILTER (WHERE state = 'held') AS held,
        count(*) FILTER (WHERE state = 'rejected') AS rejected
    FROM cdc_pusher.outbox
    WHERE emp = e.name
) AS o;
