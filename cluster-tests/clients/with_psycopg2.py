"""psycopg2, unmodified: parameters put into the text, with-blocks, COPY from a file, errors by class, many clients."""

import datetime
import decimal
import io
import os
import threading

import psycopg2
import psycopg2.extras
from psycopg2 import errors

dsn = f"host=127.0.0.1 port={os.environ['PGPORT']} user=regroup dbname=regroup"
connection = psycopg2.connect(dsn)
assert connection.server_version // 10000 == 15, connection.server_version

with connection, connection.cursor() as cursor:
    cursor.execute("DROP TABLE IF EXISTS accounts2")
    cursor.execute("CREATE TABLE accounts2 (id int PRIMARY KEY, name text, amount numeric(10,2), day date, raw bytea)")
    cursor.execute(
        "INSERT INTO accounts2 VALUES (%s, %s, %s, %s, %s)",
        (1, "it's \\ %", decimal.Decimal("1.50"), datetime.date(2024, 2, 29), psycopg2.Binary(b"\x00\xff")),
    )
    psycopg2.extras.execute_values(cursor, "INSERT INTO accounts2 (id, amount) VALUES %s", [(n, n) for n in range(2, 500)])

with connection, connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
    cursor.execute("SELECT * FROM accounts2 WHERE id = %(id)s", {"id": 1})
    found = cursor.fetchone()
    found["raw"] = bytes(found["raw"])
    assert found == {
        "id": 1,
        "name": "it's \\ %",
        "amount": decimal.Decimal("1.50"),
        "day": datetime.date(2024, 2, 29),
        "raw": b"\x00\xff",
    }, found

try:
    with connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO accounts2 (id) VALUES (1000)")
        cursor.execute("SELECT nothing FROM accounts2")
    raise AssertionError("a column that isn't there")
except errors.UndefinedColumn as error:
    assert error.pgcode == "42703", error.pgcode

with connection, connection.cursor() as cursor:
    cursor.execute("SELECT count(*) FROM accounts2 WHERE id = 1000")
    assert cursor.fetchone() == (0,)
    cursor.copy_expert("COPY accounts2 (id, name) FROM STDIN", io.StringIO("2000\ttwo thousand\n2001\t\\N\n"))
    cursor.execute("SELECT name FROM accounts2 WHERE id >= 2000 ORDER BY id")
    assert cursor.fetchall() == [("two thousand",), (None,)]

connection.set_session(isolation_level="REPEATABLE READ", autocommit=False)
with connection, connection.cursor() as cursor:
    cursor.execute("SHOW transaction_isolation")
    assert cursor.fetchone() == ("repeatable read",)
connection.close()


def work(failures):
    try:
        own = psycopg2.connect(dsn)
        for _ in range(50):
            with own, own.cursor() as cursor:
                cursor.execute("UPDATE accounts2 SET amount = amount + 1 WHERE id = 2")
        own.close()
    except Exception as error:  # Told by the main thread.
        failures.append(error)


failures = []
threads = [threading.Thread(target=work, args=(failures,)) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures
check = psycopg2.connect(dsn)
check.autocommit = True
with check.cursor() as cursor:
    cursor.execute("SELECT amount FROM accounts2 WHERE id = 2")
    assert cursor.fetchone() == (decimal.Decimal("402.00"),)
check.close()
print("psycopg2", psycopg2.__version__, "ok")
