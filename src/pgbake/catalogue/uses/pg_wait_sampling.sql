SELECT pg_sleep(0.3) IS NOT NULL;
SELECT count(*) >= 1 FROM pg_wait_sampling_history WHERE event = 'PgSleep' OR event_type = 'Activity';
SELECT count(*) >= 1 FROM pg_wait_sampling_profile;
