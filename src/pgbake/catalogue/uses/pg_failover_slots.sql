-- It is a library only: its worker waits on a primary for standbys.
-- create:
SELECT current_setting('pg_failover_slots.standby_slots_min_confirmed') = '-1';
SELECT current_setting('shared_preload_libraries') LIKE '%pg_failover_slots%';
