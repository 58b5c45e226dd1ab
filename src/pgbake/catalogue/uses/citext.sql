-- of: contrib
CREATE TABLE words (word citext PRIMARY KEY);
INSERT INTO words VALUES ('Ada'), ('Grace');
SELECT word = 'ADA' FROM words WHERE word = 'ada';
SELECT count(*) = 1 FROM words WHERE word ~ '^gr';
