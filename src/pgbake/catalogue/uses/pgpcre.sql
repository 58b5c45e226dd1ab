SELECT 'heron 42' ~ pcre '(?<=heron )\d+';
SELECT pcre_match('(?i)HERON', 'a heron') AND NOT pcre_match('^heron$', 'a heron');
SELECT pcre_captured_substrings('(\w+)@(\w+)', 'me@here') = '{me,here}';
