CREATE TABLE item(id INTEGER PRIMARY KEY, kind INTEGER, name TEXT, price REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)
INSERT INTO item SELECT i, i * 7919 % 211, printf('item-%05d', i * 31 % 40009), (i * 17 % 1000) / 10.0 FROM n;
CREATE INDEX by_kind ON item(kind, price);
CREATE INDEX by_name ON item(name);
SELECT kind, count(*), round(sum(price), 2), min(name) FROM item GROUP BY kind ORDER BY 3 DESC LIMIT 20;
SELECT count(*) FROM item a JOIN item b ON a.kind = b.kind AND b.price = a.price WHERE a.id < 2000;
UPDATE item SET price = price * 1.5 WHERE name LIKE '%7_1%';
DELETE FROM item WHERE kind % 3 = 0;
SELECT count(*), round(avg(price), 4), max(name) FROM item;
