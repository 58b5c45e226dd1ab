SELECT oracle.add_months('2024-01-31'::date, 1)::date = '2024-02-29';
SELECT oracle.nvl(NULL::text, 'x') = 'x' AND oracle.instr('Tech on the net', 'e', 1, 2) = 11;
SELECT dbms_pipe.unique_session_name() LIKE 'PG$%';
SELECT oracle.substr('heron', -2) = 'on';
