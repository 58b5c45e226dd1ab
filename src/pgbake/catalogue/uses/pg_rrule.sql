SELECT get_freq('FREQ=WEEKLY;INTERVAL=2;COUNT=3'::rrule) = 'WEEKLY';
SELECT count(*) = 3 AND max(d) = '2026-01-29' FROM unnest(get_occurrences('FREQ=WEEKLY;INTERVAL=2;COUNT=3'::rrule, '2026-01-01'::timestamp)) d;
