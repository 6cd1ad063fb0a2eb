ALTER TABLE cdc_pusher.outbox ADD COLUMN failing_since TIMESTAMP WITH TIME ZONE;
ALTER TABLE cdc_pusher.outbox ADD COLUMN strikes INTEGER DEFAULT 0 NOT NULL;
ALTER TABLE cdc_pusher.outbox ADD COLUMN uncertain_at TIMESTAMP WITH TIME ZONE;
COMMENT ON COLUMN cdc_pusher.outbox.failing_since IS 'When the first of the attempts failed; a message that fails for too long is rejected';
COMMENT ON COLUMN cdc_pusher.outbox.strikes IS 'Failed attempts while the EMP took other messages; with too many of them it is rejected';
COMMENT ON COLUMN cdc_pusher.outbox.uncertain_at IS 'When a request was last sent that may still be processed late; what is accepted soon after is sent once more';

ALTER TABLE cdc_pusher.emp ADD COLUMN breaker_reason TEXT;
ALTER TABLE cdc_pusher.emp ADD COLUMN breaker_open_since TIMESTAMP WITH TIME ZONE;
ALTER TABLE cdc_pusher.emp ADD COLUMN breaker_probe_at TIMESTAMP WITH TIME ZONE;
ALTER TABLE cdc_pusher.emp ADD CONSTRAINT emp_an_open_breaker_has_its_reason CHECK ((breaker_reason IS NULL) = (breaker_open_since IS NULL) AND (breaker_reason IS NULL) = (breaker_probe_at IS NULL));
COMMENT ON COLUMN cdc_pusher.emp.breaker_reason IS 'Why nothing but probes is sent: the EMP fails as a whole; NULL: it works';
COMMENT ON COLUMN cdc_pusher.emp.breaker_open_since IS 'Since when nothing but probes is sent';
COMMENT ON COLUMN cdc_pusher.emp.breaker_probe_at IS 'When the next probe is due';

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
    e.healed_at,
    e.breaker_reason,
    e.breaker_open_since,
    e.breaker_probe_at
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
