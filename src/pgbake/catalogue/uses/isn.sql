-- of: contrib
CREATE TABLE books (isbn isbn PRIMARY KEY, ean ean13);
INSERT INTO books VALUES ('978-0-393-04002-9', '978-0-393-04002-9');
SELECT isbn = '0-393-04002-X' FROM books;
