SELECT 'heron 42' ~ pcre '(?<=heron )\d+';
SELECT pcre_match('(?i)HER', 'a heron') = 'her' AND pcre_match('^heron$', 'a heron') IS NULL;
SELECT pcre_captured_substrings('(\w+)@(\w+)', 'me@here') = '{me,here}';
