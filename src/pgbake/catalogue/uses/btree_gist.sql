-- of: contrib
CREATE TABLE rooms (room int, during tsrange, EXCLUDE USING gist (room WITH =, during WITH &&));
INSERT INTO rooms VALUES (1, '[2026-01-01,2026-01-02)'), (2, '[2026-01-01,2026-01-02)');
SELECT count(*) = 1 FROM rooms WHERE room = 1;
