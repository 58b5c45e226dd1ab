SELECT count(*) >= 1 FROM powa_servers;
SELECT powa_take_snapshot() = 0;
SELECT count(*) >= 1 FROM powa_databases;
