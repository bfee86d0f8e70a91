INSERT INTO events (id, customer_id, session, kind, happened, amount, payload, message, signature)
SELECT i, 1 + generator.h(i / 9, 10) % generator.n('customers'),
       encode(substr(sha256(int8send(i / 9)), 1, 16), 'hex')::uuid,
       (ARRAY['page_view','page_view','page_view','search','search','login','logout','add_to_cart','checkout','payment','error','export'])[1 + generator.h(i, 11) % 12],
       timestamptz '2024-01-01 00:00:00Z' + i * interval '7.351 seconds' + (generator.h(i, 12) % 4000000) * interval '1 microsecond',
       CASE WHEN generator.h(i, 13) % 3 = 0 THEN (generator.h(i, 14) % 10000000) / 100.0 END,
       jsonb_build_object(
           'ip', format('10.%s.%s.%s', generator.h(i / 9, 15) % 256, generator.h(i / 9, 16) % 256, generator.h(i / 9, 17) % 256),
           'agent', (ARRAY['Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0','Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0.0.0',
                'Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15','okhttp/4.12.0'])[1 + generator.h(i / 9, 18) % 4],
           'path', '/' || replace(c.text, ' ', '/'), 'ms', generator.h(i, 19) % 4000, 'ok', generator.h(i, 20) % 50 <> 0,
           'request', to_hex(generator.h(i, 21)), 'score', (generator.h(i, 22) % 1000000) / 1000000.0,
           'ids', jsonb_build_array(generator.h(i, 23) % 100000, generator.h(i, 24) % 100000)),
       a.text || '. ' || b.text || '.',
       CASE WHEN generator.h(i, 25) % 2 = 0 THEN sha256(int8send(i)) END
FROM generate_series(1, generator.n('events')) AS i
JOIN generator.pieces AS a ON a.id = 1 + generator.h(i, 26) % generator.n('pieces')
JOIN generator.pieces AS b ON b.id = 1 + generator.h(i, 27) % generator.n('pieces')
JOIN generator.pieces AS c ON c.id = 1 + generator.h(i, 28) % generator.n('pieces');
