CREATE TABLE cdc_pusher.minute (
    emp TEXT NOT NULL,
    minute TIMESTAMP WITH TIME ZONE NOT NULL,
    daemon TEXT NOT NULL,
    delivered BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    lag_p50_s DOUBLE PRECISION,
    lag_p99_s DOUBLE PRECISION,
    CONSTRAINT minute_pkey PRIMARY KEY (emp, minute, daemon)
);
COMMENT ON TABLE cdc_pusher.minute IS 'What each EMP was sent, minute by minute, of the last seven days; minutes without a request have no row.';
COMMENT ON COLUMN cdc_pusher.minute.emp IS 'The EMP';
COMMENT ON COLUMN cdc_pusher.minute.minute IS 'When the minute began';
COMMENT ON COLUMN cdc_pusher.minute.daemon IS 'The daemon that sent it';
COMMENT ON COLUMN cdc_pusher.minute.delivered IS 'Messages that the EMP accepted';
COMMENT ON COLUMN cdc_pusher.minute.failed IS 'Requests that came to nothing';
COMMENT ON COLUMN cdc_pusher.minute.lag_p50_s IS 'From the change to the record of its acceptance: the median, seconds, by the buckets of the metric; NULL: none was accepted';
COMMENT ON COLUMN cdc_pusher.minute.lag_p99_s IS 'The same: the 99th percentile';

ALTER TABLE cdc_pusher.emp ADD COLUMN last_error TEXT;
ALTER TABLE cdc_pusher.emp ADD COLUMN last_error_at TIMESTAMP WITH TIME ZONE;
ALTER TABLE cdc_pusher.emp ADD CONSTRAINT emp_an_error_has_its_time CHECK ((last_error IS NULL) = (last_error_at IS NULL));
COMMENT ON COLUMN cdc_pusher.emp.last_error IS 'What a request to the EMP last failed with; noted once a second at most';
COMMENT ON COLUMN cdc_pusher.emp.last_error_at IS 'When that was';

-- Stations are looked for by any word of their name or place, and by how it begins.
CREATE INDEX outbox_words ON cdc_pusher.outbox USING gin (
    to_tsvector(
        'simple',
        translate(
            coalesce(payload ->> 'name', '') || ' ' || coalesce(payload -> 'address' ->> 'street', '')
                || ' ' || coalesce(payload -> 'address' ->> 'city', ''),
            './-:@+&_*#~,;',
            '             '
        )
    )
) WITH (gin_pending_list_limit = 256) WHERE kind = 'station';
