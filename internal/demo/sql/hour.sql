-- An ordinary hour in a workspace. Variables: customers, events.
BEGIN;
UPDATE app.tickets SET state = 'solved', took = interval '3 days 04:05:06' WHERE state = 'open' AND customer_id % 40 = 1;
UPDATE billing.invoices SET net = net + 5 WHERE number % 200 = 0;
INSERT INTO billing.invoices (customer_id, issued, net) SELECT i, '2026-06-09', 19.90 FROM generate_series(1, 20) AS i;
INSERT INTO app.events SELECT :events + i, timestamptz '2026-06-09 20:00Z' + i * interval '1 second', 1 + i % 9, 'login', NULL FROM generate_series(1, :events / 100) AS i;
UPDATE app.customers SET contacted = now() WHERE id % 100 = 3;
DELETE FROM app.sessions WHERE customer_id < 10;
COMMIT;
REFRESH MATERIALIZED VIEW billing.revenue;
REFRESH MATERIALIZED VIEW billing.revenue_total;
