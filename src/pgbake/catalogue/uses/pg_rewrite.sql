CREATE TABLE event (id int, at date, PRIMARY KEY (id, at));
INSERT INTO event SELECT i, date '2024-01-01' + i % 60 FROM generate_series(1, 1000) i;
CREATE TABLE event_new (id bigint, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE event_january PARTITION OF event_new FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE event_later PARTITION OF event_new FOR VALUES FROM ('2024-02-01') TO ('2025-01-01');
\o /dev/null
SELECT rewrite_table('event', 'event_new', 'event_old');
\o
SELECT count(*) = 1000 AND count(DISTINCT tableoid) = 2 AND (SELECT count(*) FROM event_old) = 1000 FROM event;
