DROP SCHEMA generator CASCADE;

ALTER TABLE customers ADD PRIMARY KEY (id), ADD UNIQUE (uuid);
CREATE UNIQUE INDEX customers_email ON customers (lower(email));
ALTER TABLE products ADD PRIMARY KEY (id), ADD UNIQUE (sku);
CREATE INDEX products_attributes ON products USING gin (attributes);
ALTER TABLE orders ADD PRIMARY KEY (id), ADD FOREIGN KEY (customer_id) REFERENCES customers;
CREATE INDEX orders_customer ON orders (customer_id, placed);
CREATE INDEX orders_open ON orders (updated) WHERE status IN ('placed', 'paid');
ALTER TABLE order_items ADD PRIMARY KEY (order_id, line), ADD FOREIGN KEY (order_id) REFERENCES orders, ADD FOREIGN KEY (product_id) REFERENCES products;
CREATE INDEX order_items_product ON order_items (product_id);
ALTER TABLE documents ADD PRIMARY KEY (id), ADD FOREIGN KEY (customer_id) REFERENCES customers;
ALTER TABLE events ADD PRIMARY KEY (id), ADD FOREIGN KEY (customer_id) REFERENCES customers;
CREATE INDEX events_customer ON events (customer_id, happened);
CREATE INDEX events_session ON events (session);
CREATE INDEX events_errors ON events (happened) WHERE kind = 'error';

CREATE VIEW open_orders AS SELECT o.id, o.placed, c.name, o.total FROM orders AS o JOIN customers AS c ON c.id = o.customer_id WHERE o.status IN ('placed', 'paid');
CREATE MATERIALIZED VIEW sales AS SELECT product_id, count(*) AS lines, sum(quantity * price) AS total FROM order_items GROUP BY product_id;

SELECT setval(pg_get_serial_sequence(name, 'id'), maximum) FROM (
    SELECT 'customers' AS name, max(id) AS maximum FROM customers UNION ALL SELECT 'products', max(id) FROM products
    UNION ALL SELECT 'orders', max(id) FROM orders UNION ALL SELECT 'documents', max(id) FROM documents UNION ALL SELECT 'events', max(id) FROM events) AS s;
