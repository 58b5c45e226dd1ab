SELECT pg_track_settings_snapshot();
SELECT count(*) > 200 FROM pg_track_settings(clock_timestamp()::timestamptz) ;
SELECT count(*) = 1 FROM pg_track_settings_log('work_mem');
