-- name: write
-- The minutes as they are now, of the daemon that counts them.
INSERT INTO cdc_pusher.minute AS m (emp, minute, daemon, delivered, failed, lag_p50_s, lag_p99_s)
SELECT emp, minute, daemon, delivered, failed, lag_p50_s, lag_p99_s
FROM jsonb_to_recordset(%(minutes)s) AS r (
    emp text, minute timestamptz, daemon text, delivered bigint, failed bigint, lag_p50_s double precision, lag_p99_s double precision
)
ON CONFLICT (emp, minute, daemon) DO UPDATE
SET delivered = excluded.delivered,
    failed = excluded.failed,
    lag_p50_s = excluded.lag_p50_s,
    lag_p99_s = excluded.lag_p99_s

-- name: forget
-- Minutes that nobody asks for any more.
DELETE FROM cdc_pusher.minute
WHERE minute < now() - make_interval(days => %(kept_days)s)
