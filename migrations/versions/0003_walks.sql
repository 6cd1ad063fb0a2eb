ALTER TABLE cdc_pusher.emp ADD COLUMN walk_no BIGINT DEFAULT 0 NOT NULL;
COMMENT ON COLUMN cdc_pusher.emp.walk_no IS 'Number of the walk: one that was ordered anew is another, wherever it stands';

-- Without a key its rows could not be deleted where a publication FOR ALL TABLES has them.
ALTER TABLE cdc_pusher.attempt_default REPLICA IDENTITY FULL;
