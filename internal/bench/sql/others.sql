INSERT INTO customers (id, uuid, name, email, address, credit, created, notes)
SELECT i, encode(substr(sha256(int8send(-i)), 1, 16), 'hex')::uuid, initcap(w.word || ' ' || v.word), w.word || '.' || v.word || i || '@example.com',
       jsonb_build_object('street', initcap(v.word) || ' street ' || generator.h(i, 41) % 200, 'zip', lpad((generator.h(i, 42) % 100000)::text, 5, '0'), 'city', initcap(w.word), 'country', (ARRAY['DE','AT','CH','FR','NL'])[1 + generator.h(i, 43) % 5]),
       (generator.h(i, 44) % 1000000) / 100.0, timestamptz '2023-01-01 00:00:00Z' + i * interval '11 minutes',
       CASE WHEN generator.h(i, 45) % 4 = 0 THEN p.text END
FROM generate_series(1, generator.n('customers')) AS i
JOIN generator.words AS w ON w.id = 1 + generator.h(i, 46) % 3000
JOIN generator.words AS v ON v.id = 1 + generator.h(i, 47) % 3000
JOIN generator.pieces AS p ON p.id = 1 + generator.h(i, 48) % generator.n('pieces');

INSERT INTO products (id, sku, title, description, price, tags, attributes)
SELECT i, 'SKU-' || to_hex(generator.h(i, 51)), initcap(a.text), a.text || '; ' || b.text || '; ' || b.text || '.', 1 + (generator.h(i, 52) % 50000) / 100.0,
       string_to_array(b.text, ' '), jsonb_build_object('weight', generator.h(i, 53) % 9000, 'colour', (ARRAY['red','green','blue','black'])[1 + generator.h(i, 54) % 4], 'stock', generator.h(i, 55) % 300)
FROM generate_series(1, generator.n('products')) AS i
JOIN generator.pieces AS a ON a.id = 1 + generator.h(i, 56) % generator.n('pieces')
JOIN generator.pieces AS b ON b.id = 1 + generator.h(i, 57) % generator.n('pieces');

INSERT INTO orders (id, customer_id, status, placed, updated, total, shipping, note)
SELECT i, 1 + generator.h(i, 61) % generator.n('customers'), (enum_range(NULL::order_status))[1 + generator.h(i, 62) % 5],
       timestamptz '2024-01-01 00:00:00Z' + i * interval '53 seconds', timestamptz '2024-01-03 00:00:00Z' + i * interval '53 seconds' + (generator.h(i, 63) % 900000) * interval '1 second',
       (generator.h(i, 64) % 500000) / 100.0,
       json_build_object('carrier', (ARRAY['dhl','ups','post'])[1 + generator.h(i, 65) % 3], 'tracking', upper(to_hex(generator.h(i, 66))), 'express', generator.h(i, 67) % 9 = 0),
       CASE WHEN generator.h(i, 68) % 5 = 0 THEN p.text END
FROM generate_series(1, generator.n('orders')) AS i
JOIN generator.pieces AS p ON p.id = 1 + generator.h(i, 69) % generator.n('pieces');

INSERT INTO order_items (order_id, line, product_id, quantity, price, discount)
SELECT 1 + (i - 1) / 4, 1 + (i - 1) % 4, 1 + generator.h(i, 71) % generator.n('products'), 1 + generator.h(i, 72) % 5, 1 + (generator.h(i, 73) % 50000) / 100.0,
       CASE WHEN generator.h(i, 74) % 6 = 0 THEN (generator.h(i, 75) % 1000003) / 1000003.0::float8 END
FROM generate_series(1, 4 * generator.n('orders')) AS i;
