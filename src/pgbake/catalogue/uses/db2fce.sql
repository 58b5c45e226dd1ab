SELECT ibmreqd = 'X' FROM sysibm.sysdummy1;
SELECT db2.locate('ron', 'heron') = 3 AND db2.lcase('HERON') = 'heron' AND db2.days(date '0001-01-02') = 2;
