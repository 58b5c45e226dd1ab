INSERT INTO repmgr.nodes (node_id, node_name, type, conninfo, repluser, location, config_file) VALUES (1, 'one', 'primary', 'host=here', 'postgres', 'default', '/none');
SELECT repmgr.set_local_node_id(1) IS NOT NULL;
SELECT repmgr.get_local_node_id() = 1 AND NOT repmgr.repmgrd_is_running();
