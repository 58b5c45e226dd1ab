SELECT get_backend_priority(pg_backend_pid()) AS before
\gset
SELECT set_backend_priority(pg_backend_pid(), 19);
SELECT get_backend_priority(pg_backend_pid()) = 19;
