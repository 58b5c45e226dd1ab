SELECT pgq.create_queue('q') = 1;
SELECT pgq.register_consumer('q', 'c') = 1;
SELECT pgq.insert_event('q', 'kind', 'heron') > 0;
SELECT pgq.force_tick('q') IS NOT NULL;
SELECT pgq.ticker('q') IS NOT NULL;
SELECT pgq.next_batch('q', 'c') AS batch
\gset
SELECT count(*) = 1 AND bool_and(ev_data = 'heron') FROM pgq.get_batch_events(:batch);
SELECT pgq.finish_batch(:batch) = 1;
