SET credcheck.password_min_length = 20;
DO $$ BEGIN CREATE ROLE use_credcheck PASSWORD 'short'; EXCEPTION WHEN OTHERS THEN NULL; END $$;
SELECT count(*) = 0 FROM pg_roles WHERE rolname = 'use_credcheck';
CREATE ROLE use_credcheck PASSWORD 'longer than twenty characters';
SELECT count(*) = 1 FROM pg_roles WHERE rolname = 'use_credcheck';
