-- create:
CREATE SCHEMA partman;
CREATE EXTENSION pg_partman SCHEMA partman;
CREATE TABLE public.event (at timestamptz NOT NULL, word text) PARTITION BY RANGE (at);
\if `test :major -ge 17 && echo 1 || echo 0`
SELECT partman.create_parent('public.event', 'at', '1 day');
\else
SELECT partman.create_parent('public.event', 'at', 'native', 'daily');
\endif
INSERT INTO public.event VALUES (now(), 'heron');
SELECT count(*) >= 4 FROM partman.show_partitions('public.event');
SELECT tableoid::regclass::text LIKE 'event_p%' FROM public.event;
