SELECT lev('heron', 'heron') = 1 AND lev('heron', 'hero') = 0.8;
SELECT jaccard('a heron here', 'a heron there') BETWEEN 0.4 AND 0.6 AND jarowinkler('MARTHA', 'MARHTA') BETWEEN 0.96 AND 0.97;
