-- name: lock_emp
-- Order ourselves with capture and with other lanes of this EMP; what was recorded before is visible to the statements that follow.
SELECT paused_at, lane_epoch, now() AS now
FROM cdc_pusher.emp
WHERE name = %(emp)s
FOR NO KEY UPDATE

-- name: raise_epoch
-- From now on whoever serves the EMP under an earlier lease is refused.
UPDATE cdc_pusher.emp
SET lane_epoch = %(epoch)s
WHERE name = %(emp)s

-- name: expire
-- Claims whose daemon died or hung: what they sent may have arrived. A message that is not the last word waits to be captured again.
WITH expired AS (
    UPDATE cdc_pusher.outbox
    SET state = 'pending',
        doubtful = payload,
        attempts = attempts + 1,
        last_error = 'the claim ran out: the daemon died or hung while the request was in flight',
        uncertain_at = now(),
        sending_gen = NULL,
        lease_until = NULL,
        next_attempt_at = CASE WHEN desired_gen > sending_gen THEN NULL ELSE now() END
    WHERE emp = %(emp)s
      AND state = 'in_flight'
      AND lease_until < now()
    RETURNING station_id, next_attempt_at IS NULL AS superseded, priority
), noted AS (
    INSERT INTO cdc_pusher.change (station_id, emp, priority)
    SELECT DISTINCT station_id, %(emp)s, 0
    FROM expired
    WHERE superseded
    RETURNING station_id
)
SELECT count(*) AS expired, (SELECT count(*) FROM noted) AS superseded
FROM expired

-- name: forget
-- What nobody wants any more, once no request of it can be processed late.
DELETE FROM cdc_pusher.outbox
WHERE emp = %(emp)s
  AND state = 'pending'
  AND priority = %(never)s
  AND next_attempt_at <= now()
  AND uncertain_at + make_interval(secs => %(quiet_s)s) <= now()

-- name: promote
-- Of each class of messages that more urgent ones have kept waiting for some seconds, let the oldest two go first: nothing starves.
UPDATE cdc_pusher.outbox AS o
SET priority = 0
FROM (VALUES (1), (10), (11), (20), (21)) AS class (priority)
CROSS JOIN LATERAL (
    SELECT kind, key
    FROM cdc_pusher.outbox
    WHERE emp = %(emp)s
      AND state = 'pending'
      AND priority = class.priority
      AND next_attempt_at < now() - interval '5 s'
    ORDER BY next_attempt_at
    LIMIT 2
) AS oldest
WHERE o.emp = %(emp)s
  AND o.kind = oldest.kind
  AND o.key = oldest.key

-- name: note_breaker
-- Whether the EMP fails as a whole, for people to see.
UPDATE cdc_pusher.emp
SET breaker_reason = %(reason)s,
    breaker_open_since = CASE WHEN %(reason)s::text IS NOT NULL THEN coalesce(breaker_open_since, now()) END,
    breaker_probe_at = CASE WHEN %(reason)s::text IS NOT NULL THEN now() + make_interval(secs => %(probe_in_s)s) END
WHERE name = %(emp)s

-- name: note_error
-- What a request has failed with last, for people to see.
UPDATE cdc_pusher.emp
SET last_error = %(error)s,
    last_error_at = now()
WHERE name = %(emp)s

-- name: hasten
-- Messages that failed because the EMP did, which works again.
UPDATE cdc_pusher.outbox AS o
SET next_attempt_at = now()
FROM unnest(%(kinds)s::text[], %(keys)s::text[]) AS r (kind, key)
WHERE o.emp = %(emp)s
  AND o.kind = r.kind
  AND o.key = r.key
  AND o.state = 'pending'
  AND o.next_attempt_at > now()

-- name: claim
-- Take due messages for the length of a lease, but for those that a request of ours without a claim may still be under way for. A status
-- waits while its station is about to let go of the EVSE; a station waits until no status of an EVSE that it lets go is in flight, and until
-- the EVSEs that it carries have left other stations at the EMP. (Sub-selects instead of joins: whatever the planner believes, each row is
-- found by its key.) What is claimed while an earlier request may still be processed keeps `uncertain_at`: that has to be sent once more.
WITH due AS (
    SELECT found.*
    FROM unnest(%(priorities)s::smallint[], %(since)s::timestamptz[]) WITH ORDINALITY AS p (priority, since, turn)
    CROSS JOIN LATERAL (
        SELECT o.emp, o.kind, o.key, o.next_attempt_at
        FROM cdc_pusher.outbox AS o
        CROSS JOIN LATERAL (
            SELECT CASE WHEN o.kind = 'station' AND NOT (o.payload ->> 'deleted')::boolean
                THEN ARRAY(SELECT jsonb_path_query(o.payload, '$.connectors[*].id') #>> '{}')
                ELSE '{}'
            END AS evses
        ) AS carried
        WHERE o.emp = %(emp)s
          AND o.state = 'pending'
          AND o.priority = p.priority
          AND o.next_attempt_at BETWEEN p.since AND now()
          AND NOT o.key = ANY (%(not_yet)s)
          AND CASE o.kind
              WHEN 'status' THEN NOT EXISTS (
                  SELECT
                  FROM cdc_pusher.evse AS e
                  WHERE e.emp = o.emp
                    AND e.evse_id = o.key
                    AND e.at_emp <> 'no'
                    AND (
                        SELECT s.state IN ('pending', 'in_flight')
                            AND ((s.payload ->> 'deleted')::boolean
                                OR NOT s.payload -> 'connectors' @> jsonb_build_array(jsonb_build_object('id', o.key)))
                        FROM cdc_pusher.outbox AS s
                        WHERE s.emp = e.emp
                          AND s.kind = 'station'
                          AND s.key = e.station_id
                    )
              )
              ELSE NOT EXISTS (
                  SELECT
                  FROM cdc_pusher.evse AS e
                  WHERE e.emp = o.emp
                    AND e.station_id = o.key
                    AND e.at_emp <> 'no'
                    AND e.evse_id <> ALL (carried.evses)
                    AND (
                        SELECT s.state = 'in_flight'
                        FROM cdc_pusher.outbox AS s
                        WHERE s.emp = e.emp
                          AND s.kind = 'status'
                          AND s.key = e.evse_id
                    )
              ) AND NOT EXISTS (
                  SELECT
                  FROM cdc_pusher.evse AS e
                  WHERE e.emp = o.emp
                    AND e.evse_id = ANY (carried.evses)
                    AND e.station_id <> o.key
                    AND e.at_emp <> 'no'
              )
          END
        ORDER BY o.next_attempt_at
        LIMIT %(limit)s
    ) AS found
    ORDER BY p.turn
    LIMIT %(limit)s
)
UPDATE cdc_pusher.outbox AS o
SET state = 'in_flight',
    sending_gen = o.desired_gen,
    reason = NULL,
    next_attempt_at = NULL,
    lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    uncertain_at = CASE WHEN o.uncertain_at + make_interval(secs => %(quiet_s)s) > now() THEN o.uncertain_at END
FROM due
WHERE o.emp = due.emp
  AND o.kind = due.kind
  AND o.key = due.key
RETURNING
    o.kind, o.key, o.station_id, o.payload::text, o.sending_gen, o.lease_until, due.next_attempt_at AS due_at, o.attempts, o.last_result_code,
    o.doubtful IS NOT NULL AS uncertain, o.priority, o.changed_at, o.failing_since, o.strikes

-- name: expose_evses
-- Stations are about to be sent: from now on the EMP may have these EVSEs in them.
INSERT INTO cdc_pusher.evse AS e (emp, evse_id, station_id, listed, at_emp)
SELECT %(emp)s, evse_id, station_id, false, 'maybe'
FROM unnest(%(evse)s::text[], %(station)s::text[]) AS r (evse_id, station_id)
ON CONFLICT (emp, evse_id, station_id) DO UPDATE
SET at_emp = 'maybe'
WHERE e.at_emp = 'no'

-- name: doubt_evses
-- Stations are about to be sent without these EVSEs, or deleted: from now on the EMP may have lost them, and their statuses wait.
UPDATE cdc_pusher.evse AS e
SET at_emp = 'maybe'
WHERE e.emp = %(emp)s
  AND e.station_id = ANY (%(stations)s)
  AND e.at_emp = 'yes'
  AND (e.evse_id, e.station_id) NOT IN (SELECT evse_id, station_id FROM unnest(%(evse)s::text[], %(station)s::text[]) AS c (evse_id, station_id))

-- name: record
-- The answers to claimed messages. What was sent while an earlier request could still be processed (`uncertain_at`, as the claim has left it)
-- is sent once more when that is over, however late it is answered. One that is not in flight any more under this claim came too late and
-- counts for nothing: the message is sent again. A message that is no longer the last word (superseded) is captured again; after a failure
-- it keeps its back-off. (coalesce keeps the planner from the index of what is in flight, which it takes for empty, and which a long
-- transaction elsewhere fills with what has died.) The audit trail has them all.
WITH answer AS MATERIALIZED (
    SELECT *
    FROM jsonb_to_recordset(%(answers)s) AS r (
        kind text, key text, sending_gen bigint, lease_until timestamptz, outcome text, reason text, delay_s double precision,
        counts integer, strikes integer, uncertain boolean, late boolean, http_status smallint, result_code integer, error text,
        sent_at timestamptz, duration_ms integer
    )
), audited AS (
    INSERT INTO cdc_pusher.attempt (sent_at, emp, kind, key, gen, duration_ms, outcome, http_status, result_code, error, host)
    SELECT sent_at, %(emp)s, kind, key, sending_gen, duration_ms, outcome, http_status, result_code, error, %(daemon)s
    FROM answer
    WHERE sent_at IS NOT NULL
)
UPDATE cdc_pusher.outbox AS o
SET state = CASE
        WHEN a.outcome = 'accepted' AND o.desired_gen = o.sending_gen AND q.until IS NULL THEN 'delivered'
        WHEN a.outcome = 'rejected' AND o.desired_gen = o.sending_gen THEN 'rejected'
        ELSE 'pending'
    END,
    acknowledged = CASE WHEN a.outcome = 'accepted' THEN o.payload ELSE o.acknowledged END,
    delivered_gen = CASE WHEN a.outcome = 'accepted' THEN o.sending_gen ELSE o.delivered_gen END,
    delivered_at = CASE WHEN a.outcome = 'accepted' THEN clock_timestamp() ELSE o.delivered_at END,
    changed_at = CASE
        WHEN a.outcome <> 'accepted' THEN o.changed_at
        WHEN o.desired_gen = o.sending_gen AND q.until IS NULL THEN NULL
        ELSE clock_timestamp()
    END,
    desired_gen = CASE WHEN a.outcome = 'accepted' AND q.until IS NOT NULL THEN o.desired_gen + 1 ELSE o.desired_gen END,
    resend_gen = CASE
        WHEN a.outcome = 'accepted' AND q.until IS NOT NULL THEN o.desired_gen + 1
        WHEN a.outcome = 'station_missing' THEN o.desired_gen
        ELSE o.resend_gen
    END,
    uncertain_at = CASE
        WHEN a.late THEN clock_timestamp()
        WHEN a.outcome = 'accepted' AND q.until IS NULL THEN NULL
        ELSE o.uncertain_at
    END,
    failing_since = CASE
        WHEN a.outcome = 'accepted' THEN NULL
        WHEN a.counts > 0 THEN coalesce(o.failing_since, clock_timestamp())
        ELSE o.failing_since
    END,
    doubtful = CASE
        WHEN a.outcome = 'accepted' THEN NULL
        WHEN a.outcome = 'rejected' AND a.result_code IS NOT NULL AND o.payload = o.doubtful THEN NULL
        WHEN a.uncertain THEN o.payload
        ELSE o.doubtful
    END,
    attempts = CASE
        WHEN a.outcome = 'accepted' THEN 0
        WHEN a.outcome = 'station_missing' AND o.last_result_code IS DISTINCT FROM a.result_code THEN a.counts
        ELSE o.attempts + a.counts
    END,
    strikes = CASE WHEN a.outcome = 'accepted' THEN 0 ELSE o.strikes + a.strikes END,
    reason = CASE
        WHEN a.outcome = 'accepted' AND q.until IS NOT NULL THEN 'sent once more soon: an earlier request may still be processed'
        ELSE a.reason
    END,
    next_attempt_at = CASE
        WHEN a.outcome = 'retry' THEN clock_timestamp() + make_interval(secs => a.delay_s)
        WHEN a.outcome = 'accepted' AND o.desired_gen = o.sending_gen THEN q.until
    END,
    sending_gen = NULL,
    lease_until = NULL,
    last_http_status = a.http_status,
    last_result_code = a.result_code,
    last_error = a.error
FROM answer AS a
JOIN cdc_pusher.outbox AS was
    ON was.emp = %(emp)s
   AND was.kind = a.kind
   AND was.key = a.key
CROSS JOIN LATERAL (
    SELECT CASE WHEN was.uncertain_at IS NOT NULL THEN greatest(was.uncertain_at + make_interval(secs => %(quiet_s)s), now()) END AS until
) AS q
WHERE o.emp = was.emp
  AND o.kind = was.kind
  AND o.key = was.key
  AND coalesce(o.state, '') = 'in_flight'
  AND o.sending_gen = a.sending_gen
  AND o.lease_until = a.lease_until
RETURNING
    o.kind, o.key, o.station_id, o.doubtful IS NOT NULL AS uncertain, was.desired_gen > a.sending_gen AS superseded, a.outcome,
    extract(epoch FROM clock_timestamp() - was.changed_at)::double precision AS lag_s

-- name: settle_evses
-- Stations were accepted: what they carried is at the EMP now, what they no longer carry is not. (IN is looked up by hashing; a join of what
-- the planner takes for a few rows would go through all of them for each.)
WITH carried AS MATERIALIZED (
    SELECT evse_id, station_id
    FROM unnest(%(evse)s::text[], %(station)s::text[]) AS r (evse_id, station_id)
), left_behind AS (
    DELETE FROM cdc_pusher.evse
    WHERE emp = %(emp)s
      AND station_id = ANY (%(stations)s)
      AND NOT listed
      AND (evse_id, station_id) NOT IN (SELECT evse_id, station_id FROM carried)
    RETURNING evse_id
), changed AS (
    UPDATE cdc_pusher.evse
    SET at_emp = CASE WHEN (evse_id, station_id) IN (SELECT evse_id, station_id FROM carried) THEN 'yes' ELSE 'no' END
    WHERE emp = %(emp)s
      AND station_id = ANY (%(stations)s)
      AND CASE WHEN (evse_id, station_id) IN (SELECT evse_id, station_id FROM carried) THEN at_emp <> 'yes' ELSE listed AND at_emp <> 'no' END
    RETURNING evse_id, at_emp
)
UPDATE cdc_pusher.outbox AS s
SET next_attempt_at = NULL,
    reason = 'waits until the EMP has accepted its station'
WHERE s.emp = %(emp)s
  AND s.kind = 'status'
  AND s.state = 'pending'
  AND s.next_attempt_at IS NOT NULL
  AND s.priority <> %(never)s
  AND s.key = ANY (ARRAY(SELECT evse_id FROM left_behind UNION ALL SELECT evse_id FROM changed WHERE at_emp = 'no'))

-- name: withdraw_evses
-- Stations were refused for sure: what only the refused message carried (still 'maybe' after `restore_evses`) is not at the EMP.
WITH dropped AS (
    DELETE FROM cdc_pusher.evse
    WHERE emp = %(emp)s
      AND station_id = ANY (%(stations)s)
      AND at_emp = 'maybe'
      AND NOT listed
)
UPDATE cdc_pusher.evse
SET at_emp = 'no'
WHERE emp = %(emp)s
  AND station_id = ANY (%(stations)s)
  AND at_emp = 'maybe'
  AND listed

-- name: restore_evses
-- Stations were refused for sure, deletions among them: the EMP has the EVSEs that it acknowledged last.
UPDATE cdc_pusher.evse AS e
SET at_emp = 'yes'
FROM cdc_pusher.outbox AS o
WHERE e.emp = %(emp)s
  AND e.station_id = ANY (%(stations)s)
  AND e.at_emp = 'maybe'
  AND o.emp = e.emp
  AND o.kind = 'station'
  AND o.key = e.station_id
  AND NOT (o.acknowledged ->> 'deleted')::boolean
  AND o.acknowledged -> 'connectors' @> jsonb_build_array(jsonb_build_object('id', e.evse_id))

-- name: release_statuses
-- The EMP has accepted the stations of these EVSEs: their current statuses follow, whether the EMP had them before or not.
UPDATE cdc_pusher.outbox
SET state = CASE WHEN state IN ('in_flight', 'held') THEN state ELSE 'pending' END,
    desired_gen = desired_gen + 1,
    resend_gen = desired_gen + 1,
    reason = CASE state WHEN 'held' THEN reason END,
    attempts = CASE state WHEN 'rejected' THEN 0 ELSE attempts END,
    strikes = CASE state WHEN 'rejected' THEN 0 ELSE strikes END,
    failing_since = CASE WHEN state <> 'rejected' THEN failing_since END,
    next_attempt_at = CASE WHEN state IN ('in_flight', 'held') THEN NULL ELSE now() END,
    changed_at = coalesce(changed_at, clock_timestamp())
WHERE emp = %(emp)s
  AND kind = 'status'
  AND key = ANY (%(evses)s)
  AND priority <> %(never)s

-- name: send_stations_again
-- The EMP said that it does not know an EVSE that it had accepted: whether it has its station is in doubt, so that is sent again, and its
-- statuses wait for that. A station that is not sent as it is (held, rejected) is to be sent even if it becomes again what the EMP accepted.
WITH lost AS (
    UPDATE cdc_pusher.evse AS e
    SET at_emp = 'maybe'
    FROM cdc_pusher.evse AS said
    WHERE said.emp = %(emp)s
      AND said.evse_id = ANY (%(evses)s)
      AND said.at_emp = 'yes'
      AND e.emp = said.emp
      AND e.station_id = said.station_id
      AND e.at_emp = 'yes'
    RETURNING e.station_id
)
UPDATE cdc_pusher.outbox AS o
SET state = CASE o.state WHEN 'delivered' THEN 'pending' ELSE o.state END,
    desired_gen = o.desired_gen + 1,
    resend_gen = o.desired_gen + 1,
    reason = CASE o.state WHEN 'delivered' THEN 'the EMP does not know an EVSE of it any more' ELSE o.reason END,
    next_attempt_at = CASE o.state WHEN 'delivered' THEN now() ELSE o.next_attempt_at END,
    changed_at = coalesce(o.changed_at, clock_timestamp())
WHERE o.emp = %(emp)s
  AND o.kind = 'station'
  AND o.key IN (SELECT station_id FROM lost)

-- name: look_again
-- Stations whose newest reading could not be acted on while a request was in flight.
INSERT INTO cdc_pusher.change (station_id, emp, priority)
SELECT DISTINCT station_id, %(emp)s, 0
FROM unnest(%(stations)s::text[]) AS r (station_id)

-- name: release_claims
-- Claims that were not sent after all go back as they were.
UPDATE cdc_pusher.outbox AS o
SET state = 'pending',
    sending_gen = NULL,
    lease_until = NULL,
    next_attempt_at = CASE WHEN o.desired_gen > o.sending_gen THEN NULL ELSE now() END
FROM jsonb_to_recordset(%(claims)s) AS r (kind text, key text, sending_gen bigint, lease_until timestamptz)
WHERE o.emp = %(emp)s
  AND o.kind = r.kind
  AND o.key = r.key
  AND coalesce(o.state, '') = 'in_flight'
  AND o.sending_gen = r.sending_gen
  AND o.lease_until = r.lease_until
RETURNING o.kind, o.key, o.station_id, o.desired_gen > r.sending_gen AS superseded, o.doubtful IS NOT NULL AS uncertain
