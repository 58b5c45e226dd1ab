-- create: pgnodemx
SELECT count(*) > 5 AND bool_or(key = 'MemTotal' AND val > 0) FROM proc_meminfo();
SELECT cgroup_mode() IS NOT NULL;
