SELECT substr(uuid_generate_v7()::text, 15, 1) = '7' AND uuid_generate_v7() <> uuid_generate_v7();
SELECT abs(extract(epoch FROM uuid_v7_to_timestamptz(uuid_generate_v7()) - clock_timestamp())) < 5;
SELECT uuid_v7_to_timestamptz(uuid_timestamptz_to_v7('2024-02-29 12:00:00+00')) = '2024-02-29 12:00:00+00';
