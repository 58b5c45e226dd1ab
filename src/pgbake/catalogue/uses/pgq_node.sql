SELECT (pgq_node.register_location('use', 'root', 'dbname=use', false)).ret_code = 200;
SELECT (pgq_node.create_node('use', 'root', 'root', 'worker', NULL, NULL, NULL)).ret_code = 200;
SELECT node_type = 'root' AND node_name = 'root' FROM pgq_node.get_node_info('use');
