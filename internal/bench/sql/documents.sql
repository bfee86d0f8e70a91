INSERT INTO documents (id, customer_id, name, created, body, content)
SELECT i, 1 + generator.h(i, 81) % generator.n('customers'), 'document ' || i || '.pdf', timestamptz '2024-01-01 00:00:00Z' + i * interval '31 minutes',
       (SELECT string_agg((SELECT p.text FROM generator.pieces AS p WHERE p.id = 1 + generator.h(i * 101 + s, 83) % generator.n('pieces')), E'.\n' ORDER BY s)
           FROM generate_series(1, 20 + generator.h(i, 82) % 80) AS s),
       (SELECT string_agg(sha512(int8send(i * 128 + s)), ''::bytea ORDER BY s) FROM generate_series(1, 20 + generator.h(i, 84) % 100) AS s)
FROM generate_series(1, generator.n('documents')) AS i;
