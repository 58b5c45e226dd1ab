-- Of GVMd's own tables it reads one.
CREATE TABLE meta (name text, value text);
SELECT hosts_contains('10.0.0.0/30', '10.0.0.2') AND NOT hosts_contains('10.0.0.0/30', '10.0.1.2');
SELECT max_hosts('10.0.0.1-10.0.0.9', '') = 9;
SELECT regexp('heron', '^h.*n$') AND NOT regexp('ibis', '^h.*n$');
SELECT next_time_ical(E'BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:-//x//x//EN\nBEGIN:VEVENT\nUID:1\nDTSTAMP:20200101T000000Z\nDTSTART:20200101T000000Z\nDURATION:PT1H\nRRULE:FREQ=DAILY\nEND:VEVENT\nEND:VCALENDAR', extract(epoch FROM now())::bigint, 'UTC') BETWEEN extract(epoch FROM now()) AND extract(epoch FROM now()) + 86400;
