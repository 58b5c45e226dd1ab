SELECT pglogical.create_node('use_ticker', 'dbname=' || current_database()) > 0;
SELECT pglogical_ticker.deploy_ticker_tables() IS NOT NULL;
SELECT pglogical_ticker.add_ticker_tables_to_replication() IS NOT NULL;
SELECT pglogical_ticker.tick() IS NOT NULL;
SELECT count(*) >= 3 FROM pg_tables WHERE schemaname = 'pglogical_ticker';
