CREATE TABLE cdc_pusher.lease (
    name TEXT NOT NULL,
    holder TEXT,
    epoch BIGINT DEFAULT 0 NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    taken_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT lease_pkey PRIMARY KEY (name),
    CONSTRAINT lease_held_for_a_time CHECK (holder IS NULL OR (expires_at IS NOT NULL AND taken_at IS NOT NULL))
) WITH (fillfactor = 50);
COMMENT ON TABLE cdc_pusher.lease IS 'Which daemon captures, and which serves the lane of which EMP';
COMMENT ON COLUMN cdc_pusher.lease.name IS '''capture'', or ''lane'' and the EMP';
COMMENT ON COLUMN cdc_pusher.lease.holder IS 'The daemon that has it; NULL: it was given back';
COMMENT ON COLUMN cdc_pusher.lease.epoch IS 'Counts the holders; what is recorded under a lower one than the last is refused';
COMMENT ON COLUMN cdc_pusher.lease.expires_at IS 'From when on another daemon may take it, unless the holder renews it';
COMMENT ON COLUMN cdc_pusher.lease.taken_at IS 'When the holder took it';

CREATE TABLE cdc_pusher.daemon (
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    leases TEXT[] NOT NULL,
    wants TEXT[] NOT NULL,
    listens BOOLEAN DEFAULT false NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT daemon_pkey PRIMARY KEY (name)
) WITH (fillfactor = 50);
COMMENT ON TABLE cdc_pusher.daemon IS 'The daemons that run on this database, on whatever machine';
COMMENT ON COLUMN cdc_pusher.daemon.name IS 'Machine, process id and a number by chance';
COMMENT ON COLUMN cdc_pusher.daemon.version IS 'The version of the program';
COMMENT ON COLUMN cdc_pusher.daemon.leases IS 'The leases that it may take now: none when it is about to stop, and not those whose work fails here';
COMMENT ON COLUMN cdc_pusher.daemon.wants IS 'The leases that its configuration names';
COMMENT ON COLUMN cdc_pusher.daemon.listens IS 'Whether it hears NOTIFY; if not, it polls';
COMMENT ON COLUMN cdc_pusher.daemon.started_at IS 'When it started';
COMMENT ON COLUMN cdc_pusher.daemon.expires_at IS 'From when on it counts as dead, unless it speaks up again';

ALTER TABLE cdc_pusher.emp ADD COLUMN lane_epoch BIGINT DEFAULT 0 NOT NULL;
COMMENT ON COLUMN cdc_pusher.emp.lane_epoch IS 'Epoch of the lane that last wrote; one with a lower epoch has lost its lease and writes nothing';
ALTER TABLE cdc_pusher.capture ADD COLUMN epoch BIGINT DEFAULT 0 NOT NULL;
COMMENT ON COLUMN cdc_pusher.capture.epoch IS 'Epoch of the capture that last wrote; one with a lower epoch has lost its lease and writes nothing';
ALTER TABLE cdc_pusher.emp ADD COLUMN timeline TEXT;
COMMENT ON COLUMN cdc_pusher.emp.timeline IS 'Where the lane has recorded: system identifier, timeline, oid of the outbox; another place may have lost records';

COMMENT ON COLUMN cdc_pusher.attempt.host IS 'The daemon that sent it';

-- Vacuum shortens a table under a lock that the triggers would not wait for: what they could not record is a sweep.
ALTER TABLE cdc_pusher.change SET (
    vacuum_truncate = off,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 10000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 1000000,
    autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE cdc_pusher.outbox SET (
    fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE cdc_pusher.evse SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
ALTER TABLE cdc_pusher.emp SET (fillfactor = 50);
ALTER TABLE cdc_pusher.capture SET (fillfactor = 50);

-- Programs from this revision on work with this schema; a migration that takes something away raises it.
ALTER TABLE cdc_pusher.alembic_version ADD COLUMN oldest_program TEXT;
UPDATE cdc_pusher.alembic_version SET oldest_program = '0005';
COMMENT ON COLUMN cdc_pusher.alembic_version.oldest_program IS 'Programs whose newest revision is this one, or a later one, work with this schema';
