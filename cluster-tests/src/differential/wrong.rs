//! Statements that must fail, one reason each; with a few that PostgreSQL takes though they look wrong.

use regroup::base::Random;

use super::schema::Table;
use super::sql::Sql;

/// One of the errors around a table; needs no rows in it.
fn around(random: &mut Random, table: &Table) -> String {
    let name = &table.name;
    let column = &random.pick(&table.columns).name;
    let first = &table.columns[0];
    let wide = vec!["NULL"; table.columns.len() + 1].join(", ");
    match random.below(24) {
        0 => format!("SELECT {column} FROM {name} WHERE nonesuch = 1"),
        1 => format!("SELECT nonesuch FROM {name}"),
        2 => format!("INSERT INTO {name} (nonesuch) VALUES (1)"),
        3 => format!("INSERT INTO {name} VALUES ({wide})"),
        4 => format!("INSERT INTO {name} ({0}, {0}) VALUES (NULL, NULL)", first.name),
        5 => format!("UPDATE {name} SET nonesuch = 1"),
        6 => format!("UPDATE {name} SET {0} = NULL, {0} = NULL", first.name),
        7 => format!("SELECT {column}, count(*) FROM {name}"),
        8 => format!("SELECT count(*) FROM {name} WHERE count(*) > 1"),
        9 => format!("SELECT * FROM {name} ORDER BY 99"),
        10 => format!("SELECT * FROM {name} LIMIT -1"),
        11 => format!("CREATE TABLE {name} (a int)"),
        12 => format!("CREATE INDEX ON {name} (nonesuch)"),
        13 => format!("SELECT a.{column} FROM {name} a, {name} b WHERE {column} IS NULL"),
        14 => format!("SELECT * FROM {name} WHERE {name}x.{column} IS NULL"),
        15 => format!("INSERT INTO {name} ({column}) VALUES (1, 2)"),
        16 if table.key.is_empty() => format!("ALTER TABLE {name} ADD PRIMARY KEY (nonesuch)"),
        17 => format!("DROP INDEX {name}"),
        18 => format!("SELECT * FROM {name} a JOIN {name} a ON true"),
        19 => format!("INSERT INTO {name} DEFAULT VALUES ON CONFLICT (nonesuch) DO NOTHING"),
        20 => format!("SELECT * FROM {name} WHERE 1"),
        21 => format!("SELECT min({column}, {column}) FROM {name}"),
        22 => format!("SELECT {column} FROM {name} GROUP BY 99"),
        _ => format!("DELETE FROM {name} WHERE nonesuch IS NULL"),
    }
}

const ALONE: [&str; 62] = [
    "SELEC 1",
    "SELECT (1",
    "SELECT 1 +",
    "SELECT 'open",
    "INSERT INTO",
    "CREATE TABLE broken (a int,)",
    "SELECT * FROM nonesuch",
    "DROP TABLE nonesuch",
    "DROP INDEX nonesuch",
    "INSERT INTO nonesuch VALUES (1)",
    "TRUNCATE nonesuch",
    "CREATE INDEX ON nonesuch (a)",
    "ALTER TABLE nonesuch ADD PRIMARY KEY (a)",
    "SELECT nonesuch(1)",
    "SELECT 1 / 0",
    "SELECT 1 % 0",
    "SELECT 1.5 / 0",
    "SELECT 1::float8 / 0",
    "SELECT 2147483647 + 1",
    "SELECT 32767::int2 + 1::int2",
    "SELECT 9223372036854775807 + 1",
    "SELECT -(-9223372036854775808)::bigint",
    "SELECT 100000::int2",
    "SELECT 99999999999::int4",
    "SELECT 1e400::float8",
    "SELECT 'x'::int4",
    "SELECT ''::int4",
    "SELECT '1.5'::int4",
    "SELECT 'x'::float8",
    "SELECT 'x'::numeric",
    "SELECT 'maybe'::bool",
    "SELECT '99999999999'::int4",
    "SELECT '70000'::int2",
    "SELECT 12345::numeric(4,0)",
    "SELECT 'x'::uuid",
    "SELECT '2024-13-01'::date",
    "SELECT '2024-02-30'::date",
    "SELECT 'x'::date",
    "SELECT '2024-01-01 25:00:00'::timestamp",
    "SELECT 'x'::timestamptz",
    "SELECT '\\xabc'::bytea",
    "SELECT '\\xzz'::bytea",
    "SELECT true + true",
    "SELECT true > 1",
    "SELECT 1 = 'x'",
    "SELECT NOT 1",
    "SELECT 1 AND true",
    "SELECT 'a' LIKE 1",
    "SELECT 1::nonesuch",
    "SELECT 1::uuid",
    "SELECT true::date",
    "SELECT $1",
    "CREATE TABLE broken (a nonesuch)",
    "CREATE TABLE broken (a int, a int)",
    "CREATE TABLE broken (a int PRIMARY KEY, b int PRIMARY KEY)",
    "CREATE TABLE broken (a int, PRIMARY KEY (b))",
    "CREATE TABLE broken (a varchar(0))",
    "CREATE TABLE broken (a int DEFAULT 'x')",
    "SELECT sum('x'::text)",
    "SELECT CASE WHEN 1 THEN 2 END",
    "SHOW nonesuch",
    "SET nonesuch = 1",
];

/// Wrong ones that are about transactions: alone in their place they warn, or fail with a class of their own.
const TRANSACTIONAL: [&str; 4] =
    ["ROLLBACK TO SAVEPOINT nonesuch", "RELEASE SAVEPOINT nonesuch", "SET TRANSACTION ISOLATION LEVEL nonesuch", "SAVEPOINT"];

/// A wrong statement.
pub fn statement(random: &mut Random, table: Option<&Table>) -> String {
    match (random.below(10), table) {
        (0..=4, Some(table)) => around(random, table),
        (5, _) => random.pick(&TRANSACTIONAL).to_string(),
        _ => random.pick(&ALONE).to_string(),
    }
}

/// The extended protocol misused, or used as few do: statements with parameters that don't fit them.
pub fn misused(random: &mut Random) -> Sql {
    // Statement, declared types, parameters: format and value.
    type Case = (&'static str, &'static [u32], &'static [(i16, Option<&'static [u8]>)]);
    const CASES: [Case; 20] = [
        ("SELECT $1::int4", &[], &[(0, Some(b"x"))]),
        ("SELECT $1::int4", &[], &[(0, Some(b" 7 "))]),
        ("SELECT $1::int4", &[], &[(1, Some(b"abc"))]),
        ("SELECT $1::int4", &[], &[(1, Some(b"abcde"))]),
        ("SELECT $1::int4", &[], &[(1, None)]),
        ("SELECT $1::int4", &[], &[(0, Some(b"1")), (0, Some(b"2"))]),
        ("SELECT $1::int4 + $2::int4", &[], &[(0, Some(b"1"))]),
        ("SELECT $1::int4", &[], &[]),
        ("SELECT $1", &[], &[(0, Some(b"a"))]),
        ("SELECT $1 AS a, $1 AS b", &[25], &[(1, Some(b"a"))]),
        ("SELECT $2::int4", &[], &[(0, Some(b"1")), (0, Some(b"2"))]),
        ("SELECT $1::text", &[], &[(0, Some(b"\xff\xfe"))]),
        ("SELECT $1::text", &[], &[(0, Some(b"a\0b"))]),
        ("SELECT $1::bool", &[], &[(1, Some(b"\x02"))]),
        ("SELECT $1::uuid", &[], &[(1, Some(b"short"))]),
        ("SELECT $1::int4", &[], &[(7, Some(b"1"))]),
        ("SELECT 1; SELECT 2", &[], &[]),
        ("SELECT $1::int2", &[20], &[(1, Some(&[0, 0, 0, 0, 0, 1, 0, 0]))]),
        ("SELECT $1 + 1", &[], &[(0, Some(b"41"))]),
        ("SELECT $1::date", &[], &[(0, Some(b"2024-02-30"))]),
    ];
    let (text, types, parameters) = *random.pick(&CASES);
    let parameters: Vec<_> = parameters.iter().map(|(format, value)| (*format, value.map(<[u8]>::to_vec))).collect();
    Sql { text: text.into(), parameterised: true, types: types.to_vec(), parameters }
}
