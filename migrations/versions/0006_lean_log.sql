-- Each constraint is prepared anew for every row that a trigger inserts, 3 µs; only our own triggers and commands write here.
ALTER TABLE cdc_pusher.change
    DROP CONSTRAINT change_resend_is_known,
    DROP CONSTRAINT change_a_watch_comes_with_its_row;
COMMENT ON TABLE cdc_pusher.change IS 'Stations to look at again. Triggers, full load, resync and sweep insert, capture consumes; without CHECK constraints, which would cost the CPO''s writers. Empty when all is captured.';
