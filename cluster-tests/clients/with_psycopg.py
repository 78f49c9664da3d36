"""psycopg 3, unmodified: parameters of every type as text and binary, prepared statements, pipelines, COPY, errors, transactions."""

import datetime
import decimal
import os
import threading
import uuid

import psycopg
from psycopg import errors

dsn = f"host=127.0.0.1 port={os.environ['PGPORT']} user=regroup dbname=regroup"

with psycopg.connect(dsn, autocommit=True) as connection:
    assert connection.info.server_version // 10000 == 15, connection.info.server_version
    connection.execute("DROP TABLE IF EXISTS things")
    connection.execute(
        "CREATE TABLE things (id int PRIMARY KEY, small int2, big int8, real float8, amount numeric(12,3), yes bool,"
        " words text, code varchar(10), raw bytea, at timestamp, tz timestamptz, day date, uid uuid)"
    )

row = (
    1,
    -5,
    1 << 60,
    1.25,
    decimal.Decimal("12345.678"),
    True,
    "text with 'quotes' and \u00fcml\u00e4ut",
    "code",
    b"\x00\x01\xff",
    datetime.datetime(2024, 2, 29, 12, 34, 56, 789000),
    datetime.datetime(2024, 2, 29, 12, 34, 56, tzinfo=datetime.timezone.utc),
    datetime.date(2024, 2, 29),
    uuid.UUID("12345678-1234-5678-1234-567812345678"),
)
holes = ", ".join(["%s"] * len(row))
formats = ", ".join(["%b"] * len(row))

with psycopg.connect(dsn) as connection:
    connection.execute(f"INSERT INTO things VALUES ({holes})", row)
    connection.execute(f"INSERT INTO things VALUES ({formats})", (2, *row[1:]))
    connection.execute(f"INSERT INTO things VALUES ({holes})", (3, *[None] * (len(row) - 1)))
    connection.commit()
    for binary in (False, True):
        cursor = connection.cursor(binary=binary)
        cursor.execute("SELECT * FROM things WHERE id = %s", (1,))
        assert cursor.fetchone() == row, (binary, row)
        cursor.execute("SELECT * FROM things WHERE id = 2")
        assert cursor.fetchone() == (2, *row[1:]), binary
        cursor.execute("SELECT * FROM things WHERE id = 3")
        assert cursor.fetchone() == (3, *[None] * (len(row) - 1)), binary
    # The sixth execution is of a prepared statement.
    for number in range(10):
        assert connection.execute("SELECT id FROM things WHERE id = %s", (number % 3 + 1,)).fetchone() == (number % 3 + 1,)
    connection.commit()

    # An error ends the transaction, a savepoint saves it.
    try:
        connection.execute("INSERT INTO things (id) VALUES (1)")
        raise AssertionError("a duplicate key")
    except errors.UniqueViolation as error:
        assert error.sqlstate == "23505", error.sqlstate
        assert error.diag.constraint_name == "things_pkey", error.diag.constraint_name
    try:
        connection.execute("SELECT 1")
        raise AssertionError("a statement in a failed transaction")
    except errors.InFailedSqlTransaction:
        connection.rollback()
    with connection.transaction():
        connection.execute("INSERT INTO things (id) VALUES (4)")
        try:
            with connection.transaction():
                connection.execute("INSERT INTO things (id) VALUES (4)")
        except errors.UniqueViolation:
            pass
        connection.execute("INSERT INTO things (id) VALUES (5)")
    assert connection.execute("SELECT count(*) FROM things").fetchone() == (5,)
    connection.commit()

    # Many at once: a pipeline, with an error in it.
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO things (id, words) VALUES (%s, %s)", [(number, str(number)) for number in range(100, 200)])
        cursor.executemany("UPDATE things SET words = %s WHERE id = %s RETURNING id", [("x", 100), ("y", 101)], returning=True)
        assert cursor.fetchone() == (100,)
    connection.commit()
    try:
        with connection.pipeline():
            connection.execute("INSERT INTO things (id) VALUES (300)")
            connection.execute("INSERT INTO things (id) VALUES (300)")
            connection.execute("INSERT INTO things (id) VALUES (301)")
        raise AssertionError("an error in a pipeline")
    except errors.UniqueViolation:
        connection.rollback()
    assert connection.execute("SELECT count(*) FROM things WHERE id >= 300").fetchone() == (0,)

    # COPY, whole and given up.
    with connection.cursor() as cursor:
        with cursor.copy("COPY things (id, words) FROM STDIN") as copy:
            for number in range(1000, 3000):
                copy.write_row((number, "copied\t" + str(number)))
        assert cursor.rowcount == 2000, cursor.rowcount
    connection.commit()
    try:
        with connection.cursor().copy("COPY things (id) FROM STDIN") as copy:
            copy.write("5000\n")
            copy.write("not a number\n")
            for number in range(100000):
                copy.write("6000\n")
        raise AssertionError("a line that can't be read")
    except errors.InvalidTextRepresentation:
        connection.rollback()
    assert connection.execute("SELECT count(*), max(words) FROM things WHERE id >= 1000").fetchone() == (2000, "copied\t2999")
    connection.commit()

    # Rows one by one.
    seen = sum(1 for _ in connection.cursor().stream("SELECT * FROM things"))
    assert seen == 2105, seen
    connection.commit()

    # A statement that waits is cancelled from another thread; the session goes on.
    with psycopg.connect(dsn) as holder:
        holder.execute("UPDATE things SET words = 'held' WHERE id = 1")
        timer = threading.Timer(0.5, connection.cancel)
        timer.start()
        try:
            connection.execute("UPDATE things SET words = 'mine' WHERE id = 1")
            raise AssertionError("a statement that was cancelled")
        except errors.QueryCanceled:
            connection.rollback()
        timer.join()
        holder.rollback()
    assert connection.execute("SELECT 1").fetchone() == (1,)
    connection.rollback()

    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    before = connection.execute("SELECT count(*) FROM things").fetchone()
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("DELETE FROM things WHERE id = 2999")
        other.execute("UPDATE things SET words = 'theirs' WHERE id = 1")
    assert connection.execute("SELECT count(*) FROM things").fetchone() == before
    try:
        connection.execute("UPDATE things SET words = 'ours' WHERE id = 1")
        raise AssertionError("a row that was changed since the snapshot")
    except errors.SerializationFailure:
        connection.rollback()

print("psycopg", psycopg.__version__, "ok")
