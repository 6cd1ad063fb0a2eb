-- name: expected_stations
-- What an EMP should hold of each station, told by the CPO's tables alone: the oracle of the demo, written without the encoder.
SELECT
    s.id,
    jsonb_strip_nulls(jsonb_build_object(
        'id', s.id,
        'name', s.name,
        'description', s.description,
        'latitude', s.latitude,
        'longitude', s.longitude,
        'address', jsonb_build_object(
            'street', s.street,
            'street-number', s.street_number,
            'city', s.city,
            'zip', s.zip,
            'country', s.country
        ),
        'contact', jsonb_build_object('phone', s.phone, 'fax', s.fax, 'web', s.web, 'email', s.email),
        'cpo-id', %(cpos)s::jsonb -> s.cpo,
        'is-open-24', s.is_open_24,
        'connectors', (
            SELECT jsonb_agg(jsonb_build_object('id', c.evse_id, 'name', c.type, 'speed', c.speed_kw))
            FROM public.connector AS c
            WHERE c.station_id = s.id
        ),
        'open-hour-notes', s.open_hour_notes,
        'notes', s.notes,
        'is-reservable', s.is_reservable,
        'floor-level', s.floor_level,
        'is-free-charge', s.is_free_charge,
        'total-parking', s.total_parking,
        'is-green-power-available', s.is_green_power_available,
        'is-plugin-charge', s.is_plugin_charge,
        'is-roofed', s.is_roofed,
        'is-private', s.is_private,
        'deleted', false
    )) AS station
FROM public.station AS s

-- name: expected_statuses
-- The one status of each EVSE: that of the connector which says most about whether a driver can charge.
SELECT DISTINCT ON (evse_id) station_id, evse_id, status
FROM public.connector
ORDER BY evse_id, array_position(ARRAY['Occupied', 'Reserved', 'Available', 'Unknown', 'Offline'], status)

-- name: evses
-- The EVSEs that traffic goes to.
SELECT DISTINCT evse_id
FROM public.connector
ORDER BY evse_id

-- name: lock_evse
-- The connectors of one EVSE, so that no other traffic changes them meanwhile.
SELECT id, status
FROM public.connector
WHERE evse_id = %(evse_id)s
ORDER BY id
FOR UPDATE

-- name: change_status
-- A driver plugs in, or leaves.
UPDATE public.connector
SET status = %(status)s,
    updated_at = now()
WHERE id = %(id)s

-- name: burst
-- A back end that comes up again reports two of five connectors at once; locked in order, since drivers may be at some of them.
WITH reported AS MATERIALIZED (
    SELECT id
    FROM public.connector
    WHERE id %% 5 < 2
    ORDER BY id
    FOR UPDATE
)
UPDATE public.connector AS c
SET status = (ARRAY['Available', 'Occupied', 'Offline'])[1 + (c.id + %(round)s)::integer %% 3],
    updated_at = now()
FROM reported
WHERE c.id = reported.id

-- name: edit_station
-- The operator renames a station and gives it another phone.
UPDATE public.station
SET name = name || ' (P2)',
    phone = '+800 1234 5678',
    updated_at = now()
WHERE id = %(id)s

-- name: lock_connectors
-- The connectors of one station, in the order in which drivers lock them, so that taking them down cannot deadlock.
SELECT id
FROM public.connector
WHERE station_id = %(id)s
ORDER BY id
FOR UPDATE

-- name: delete_station
-- A station is taken down, with its connectors.
DELETE FROM public.station
WHERE id = %(id)s

-- name: outstanding
-- What the daemon has still to do: all of it, and of that the requests under way.
SELECT
    (SELECT count(*) FROM cdc_pusher.emp WHERE walk IS NOT NULL)
        + (SELECT count(*) FROM cdc_pusher.change)
        + (SELECT count(*) FROM cdc_pusher.outbox WHERE state IN ('pending', 'in_flight')) AS everything,
    (SELECT count(*) FROM cdc_pusher.outbox WHERE state = 'in_flight') AS in_flight
