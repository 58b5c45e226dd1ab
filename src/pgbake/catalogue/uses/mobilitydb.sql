SELECT ST_X(valueAtTimestamp(tgeompoint '[Point(0 0)@2001-01-01, Point(2 2)@2001-01-03]', timestamptz '2001-01-02')) = 1;
SELECT length(tgeompoint '[Point(0 0)@2001-01-01, Point(3 4)@2001-01-03]') = 5;
