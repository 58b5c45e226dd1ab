-- A formation of its own; nodes would need other servers.
SELECT count(*) = 1 FROM pgautofailover.formation WHERE formationid = 'default';
SELECT (pgautofailover.create_formation('other', 'pgsql', 'postgres', true, 0)).formation_id = 'other';
SELECT count(*) = 2 FROM pgautofailover.formation;
