CREATE FUNCTION concat_sh(text, text) RETURNS text LANGUAGE plsh AS $$
#!/bin/sh
echo "$1-$2"
$$;
SELECT concat_sh('he', 'ron') = 'he-ron';
