-- Changes one row of a hundred of every large table, chosen by a hash: so they lie all over the tables.
UPDATE events SET seen = seen + 1, amount = coalesce(amount, 0) + 1 WHERE (hashint8extended(id, 91) & 9223372036854775807) % 100 = 0;
UPDATE orders SET updated = updated + interval '1 hour', status = 'shipped' WHERE (hashint8extended(id, 92) & 9223372036854775807) % 100 = 0;
UPDATE order_items SET quantity = quantity + 1 WHERE (hashint8extended(order_id * 4 + line, 93) & 9223372036854775807) % 100 = 0;
UPDATE customers SET credit = credit + 1 WHERE (hashint8extended(id, 94) & 9223372036854775807) % 100 = 0;
UPDATE documents SET name = 'new ' || name WHERE (hashint8extended(id, 95) & 9223372036854775807) % 100 = 0;
