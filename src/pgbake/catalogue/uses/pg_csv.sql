CREATE TABLE bird (id int, name text);
INSERT INTO bird VALUES (1, 'heron'), (2, 'ibis, "sacred"');
SELECT csv_agg(b) = E'id,name\n1,heron\n2,"ibis, ""sacred"""' FROM bird b;
SELECT csv_agg(b, csv_options(delimiter := ';', header := false)) LIKE '1;heron%' FROM bird b;
