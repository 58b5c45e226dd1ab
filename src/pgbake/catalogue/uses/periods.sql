CREATE TABLE price (item text, p int, "from" date, "to" date);
SELECT periods.add_period('price', 'validity', 'from', 'to');
SELECT periods.add_unique_key('price', '{item}', 'validity') IS NOT NULL;
INSERT INTO price VALUES ('tea', 1, '2024-01-01', '2025-01-01'), ('tea', 2, '2025-01-01', '2026-01-01');
CREATE FUNCTION refused() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN INSERT INTO price VALUES ('tea', 3, '2024-06-01', '2024-07-01'); RETURN false; EXCEPTION WHEN exclusion_violation THEN RETURN true; END $$;
SELECT refused();
