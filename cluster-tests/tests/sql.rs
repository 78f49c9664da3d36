//! SQL through sessions: what statements give, how they fail, what they do to each other.

use std::time::Duration;

use cluster_tests::sessions::{Client, Database, Taken, simulate};
use regroup::sql::session::Progress;

async fn table(client: &mut Client) {
    client.run("create table t (a int primary key, b text, c numeric(10,2) default 1.5)").await;
    client.run("insert into t values (1, 'one', 10), (2, 'two', 20), (3, null, null)").await;
}

#[test]
fn rows_go_in_and_come_out() {
    simulate(1, |database| async move {
        let mut client = database.client();
        table(&mut client).await;
        assert_eq!(client.rows("select * from t order by a desc").await, ["3|NULL|NULL", "2|two|20.00", "1|one|10.00"]);
        assert_eq!(client.rows("select b from t where a = 2").await, ["two"]);
        assert_eq!(client.rows("select a from t where a > 1 and a <= 3 order by a").await, ["2", "3"]);
        assert_eq!(client.rows("select count(*), sum(a), min(b), max(c), avg(a) from t").await, ["3|6|one|20.00|2.0000000000000000"]);
        assert_eq!(client.run("update t set b = b || '!' where a < 3").await, "UPDATE 2");
        assert_eq!(client.rows("delete from t where b like 'o%' returning a, b").await, ["1|one!"]);
        assert_eq!(client.rows("insert into t (a) values (9) returning *").await, ["9|NULL|1.50"]);
        assert_eq!(client.rows("select x.a, y.a from t x join t y on y.a > x.a order by 1, 2").await, ["2|3", "2|9", "3|9"]);
        assert_eq!(client.rows("select b, count(*) from t group by b order by b nulls first").await, ["NULL|2", "two!|1"]);
        assert_eq!(client.rows("select a from t where exists (select 1 from t u where u.a = t.a + 1)").await, ["2"]);
        assert_eq!(client.rows("select (select max(a) from t u where u.a < t.a) from t order by a").await, ["NULL", "2", "3"]);
    });
}

#[test]
fn a_key_serves_points_ranges_and_orders() {
    simulate(2, |database| async move {
        let mut client = database.client();
        client.run("create table k (a int, b int, c int, primary key (a, b))").await;
        client.run("create index k_c on k (c)").await;
        client.run("insert into k select g / 10, g % 10, 1000 - g from generate_series(0, 199) g").await;
        let plan = |rows: Vec<String>| rows.join("\n");
        for (sql, access, rows) in [
            ("select c from k where a = 3 and b = 4", "Index Scan using k_pkey on k (a =, b =)", vec!["966"]),
            ("select b from k where a = 3 and b > 7 order by b", "Index Scan using k_pkey on k (a =, b >)", vec!["8", "9"]),
            ("select c from k where c >= 998 order by c desc", "Index Scan Backward using k_c on k (c >=)", vec!["1000", "999", "998"]),
            ("select a, b from k order by a desc, b desc limit 1", "Seq Scan Backward on k", vec!["19|9"]),
            ("select c from k order by c limit 2", "Index Scan using k_c on k", vec!["801", "802"]),
            (
                "select b from k where a = 3 and b in (9, 7, 9, 77, null) order by b desc",
                "Index Scan Backward using k_pkey on k (a =, b IN)",
                vec!["9", "7"],
            ),
            (
                "select a, b from k where c = any ('{801,5,1000}'::int[]) order by c",
                "Index Scan using k_c on k (c IN)",
                vec!["19|9", "0|0"],
            ),
            ("select max(c) from k", "Index Scan Backward using k_c on k", vec!["1000"]),
            ("select min(c) from k where c > 900", "Index Scan using k_c on k (c >)", vec!["901"]),
            ("select max(b) from k where a = 4", "Index Scan Backward using k_pkey on k (a =)", vec!["9"]),
            (
                "select x.c, y.c from k x join k y on y.a = x.b and y.b = x.a where x.a = 2 and x.b = 5",
                "Lookup or Hash Join",
                vec!["975|948"],
            ),
            (
                "select x.c, y.b from k x left join k y on y.c = x.c + 500 and y.b < 5 where x.a = 2 and x.b = 5",
                "Lookup or Hash Left Join",
                vec!["975|NULL"],
            ),
        ] {
            let shown = plan(client.rows(&format!("explain {sql}")).await);
            assert!(shown.contains(access), "{sql}: {shown}");
            assert!(!shown.contains("Sort"), "{sql}: {shown}");
            assert_eq!(client.rows(sql).await, rows, "{sql}");
        }
        // Beyond the type's range, either way, and null: no row, no error.
        assert_eq!(client.rows("select count(*) from k where a = 3000000000").await, ["0"]);
        assert_eq!(client.rows("select count(*) from k where a < 3000000000").await, ["200"]);
        assert_eq!(client.rows("select count(*) from k where a > null").await, ["0"]);
        // A row that moves along the key that is being read is changed once.
        assert_eq!(client.run("update k set b = b + 100 where a = 3").await, "UPDATE 10");
        assert_eq!(client.rows("select min(b), max(b) from k where a = 3").await, ["100|109"]);
        assert_eq!(client.run("update k set c = c + 5000 where c > 0").await, "UPDATE 200");
        assert_eq!(client.rows("select min(c), max(c) from k").await, ["5801|6000"]);
    });
}

#[test]
fn errors_are_postgresqls() {
    simulate(3, |database| async move {
        let mut client = database.client();
        table(&mut client).await;
        for (sql, code, message) in [
            ("insert into t values (1)", "23505", "duplicate key value violates unique constraint \"t_pkey\""),
            ("insert into t values (null)", "23502", "null value in column \"a\" of relation \"t\" violates not-null constraint"),
            ("select * from nope", "42P01", "relation \"nope\" does not exist"),
            ("select nope from t", "42703", "column \"nope\" does not exist"),
            ("select nope(1)", "42883", "function nope(integer) does not exist"),
            ("select a, count(*) from t", "42803", "column \"t.a\" must appear in the GROUP BY clause or be used in an aggregate function"),
            ("select 1/0", "22012", "division by zero"),
            ("select 'x'::int", "22P02", "invalid input syntax for type integer: \"x\""),
            ("selec 1", "42601", "syntax error at or near \"selec\""),
            ("create table t (a int)", "42P07", "relation \"t\" already exists"),
            ("rollback to s", "25P01", "ROLLBACK TO SAVEPOINT can only be used in transaction blocks"),
            ("select a from t where b", "42804", "argument of WHERE must be type boolean, not type text"),
            ("create table x (a int check (a > 0))", "0A000", "a CHECK constraint is not supported"),
            ("begin isolation level serializable", "0A000", "isolation level serializable is not supported"),
            ("set nope = 1", "42704", "unrecognized configuration parameter \"nope\""),
        ] {
            let error = client.error(sql).await;
            assert_eq!((error.code, error.message.as_str()), (code, message), "{sql}");
        }
        let error = client.error("insert into t values (1)").await;
        assert_eq!(error.detail.as_deref(), Some("Key (a)=(1) already exists."));
        assert_eq!(error.constraint.as_deref(), Some("t_pkey"));
        assert_eq!(client.error("select a, nope from t").await.position, Some(11));
        // What a failed statement had done is undone.
        client.error("insert into t values (7), (8), (1)").await;
        assert_eq!(client.rows("select count(*) from t").await, ["3"]);
    });
}

#[test]
fn a_block_fails_until_it_ends() {
    simulate(4, |database| async move {
        let mut client = database.client();
        table(&mut client).await;
        client.run("begin").await;
        client.run("insert into t values (10)").await;
        client.run("savepoint s").await;
        client.run("insert into t values (11)").await;
        client.error("select 1/0").await;
        assert_eq!(client.error("select 1").await.code, "25P02");
        client.run("rollback to s").await;
        assert_eq!(client.rows("select a from t where a > 9").await, ["10"]);
        assert_eq!(client.run("commit").await, "COMMIT");
        assert_eq!(client.rows("select a from t where a > 9").await, ["10"]);
        client.run("begin; insert into t values (12)").await;
        client.error("insert into t values (12)").await;
        assert_eq!(client.run("commit").await, "ROLLBACK");
        assert_eq!(client.rows("select count(*) from t where a = 12").await, ["0"]);
        // With the setting, only the statement is undone.
        client.run("set regroup.on_error_rollback = on; begin; insert into t values (13)").await;
        client.error("insert into t values (14), (13)").await;
        assert_eq!(client.run("commit").await, "COMMIT");
        assert_eq!(client.rows("select a from t where a > 12").await, ["13"]);
        // Statements of one query are one transaction.
        client.error("insert into t values (20); select 1/0").await;
        assert_eq!(client.rows("select count(*) from t where a = 20").await, ["0"]);
    });
}

#[test]
fn settings_follow_the_transaction() {
    simulate(5, |database| async move {
        let mut client = database.client();
        client.run("begin; set extra_float_digits = 0; rollback").await;
        assert_eq!(client.rows("show extra_float_digits").await, ["1"]);
        client.run("begin; set local extra_float_digits = 0").await;
        assert_eq!(client.rows("show extra_float_digits").await, ["0"]);
        client.run("commit").await;
        assert_eq!(client.rows("show extra_float_digits").await, ["1"]);
        client.run("set application_name = 'x'").await;
        assert_eq!(client.session.take_parameters(), [("application_name", "x".to_string())]);
        client.run("begin isolation level repeatable read read only").await;
        assert_eq!(client.rows("show transaction_isolation").await, ["repeatable read"]);
        assert_eq!(client.error("create table t (a int)").await.code, "25006");
        client.run("rollback").await;
        assert_eq!(client.rows("show transaction_isolation").await, ["read committed"]);
    });
}

#[test]
fn prepared_statements_follow_the_catalog() {
    simulate(6, |database| async move {
        let (mut client, mut other) = (database.client(), database.client());
        table(&mut client).await;
        let select = client.prepare("select b from t where a = $1").await.expect("it can be bound");
        assert_eq!(select.params(), [23]);
        for _ in 0..2 {
            assert_eq!(client.execute(&select, &[Some("2")]).await.expect("rows").0, ["two"]);
            assert_eq!(client.execute(&select, &[None]).await.expect("rows").0, [""; 0]);
        }
        other.run("create index t_b on t (b)").await;
        assert_eq!(client.execute(&select, &[Some("1")]).await.expect("rows").0, ["one"]);
        let all = client.prepare("select * from t where a = $1").await.expect("it can be bound");
        other.run("drop table t; create table t (a int primary key)").await;
        assert_eq!(client.execute(&select, &[Some("1")]).await.expect_err("b is gone").code, "42703");
        assert_eq!(client.execute(&all, &[Some("1")]).await.expect_err("other columns").code, "0A000");
        assert_eq!(client.execute(&all, &[Some("x")]).await.expect_err("no number").code, "22P02");
        client.run("prepare p (int) as select $1 + 1").await;
        assert_eq!(client.rows("execute p (41)").await, ["42"]);
        client.run("deallocate p").await;
        assert_eq!(client.session.take_deallocated(), ["p"]);
    });
}

#[test]
fn on_conflict_finds_the_row() {
    simulate(7, |database| async move {
        let mut client = database.client();
        table(&mut client).await;
        client.run("create unique index t_b on t (b)").await;
        assert_eq!(client.run("insert into t values (1), (4) on conflict do nothing").await, "INSERT 0 1");
        let sql = "insert into t as n (a, b) values (1, 'x') on conflict (a) do update set b = excluded.b || n.b returning a, b";
        assert_eq!(client.rows(sql).await, ["1|xone"]);
        let sql = "insert into t values (50, 'two', 7) on conflict (b) do update set c = excluded.c where t.c > 5 returning a, c";
        assert_eq!(client.rows(sql).await, ["2|7.00"]);
        let sql = "insert into t values (60), (60) on conflict (a) do update set b = 'z'";
        assert_eq!(client.error(sql).await.code, "21000");
        assert_eq!(client.error("insert into t values (61) on conflict (c) do nothing").await.code, "42P10");
        assert_eq!(client.error("insert into t values (1, 'two') on conflict (a) do update set b = excluded.b").await.code, "23505");
    });
}

#[test]
fn sequences_give_each_number_once() {
    simulate(8, |database| async move {
        let (mut client, mut other) = (database.client(), database.client());
        client.run("begin; create table s (id serial primary key, v int); insert into s (v) values (1), (2)").await;
        assert_eq!(client.rows("select id from s").await, ["1", "2"]);
        client.run("commit").await;
        client.run("begin; insert into s (v) values (3); rollback").await;
        assert_eq!(client.rows("insert into s (v) values (4) returning id").await, ["4"]);
        assert_eq!(other.rows("insert into s (v) values (5) returning id").await, ["5"]);
        assert_eq!(client.rows("select currval('s_id_seq')").await, ["4"]);
        assert_eq!(client.rows("select setval('s_id_seq', 100)").await, ["100"]);
        assert_eq!(other.rows("select nextval('s_id_seq')").await, ["101"]);
        client.run("truncate s restart identity").await;
        assert_eq!(client.rows("insert into s default values returning id, v").await, ["1|NULL"]);
        client.run("drop table s").await;
        assert_eq!(client.error("select nextval('s_id_seq')").await.code, "42P01");
    });
}

#[test]
fn copy_reads_and_writes_lines() {
    simulate(9, |database| async move {
        let mut client = database.client();
        client.run("create table c (a int primary key, b text, d int default 7)").await;
        let text = "1\tone\\ttab\n2\t\\N\n3\tback\\\\slash\r\n\\.\nignored";
        for piece in [1, 7, 1000] {
            client.run("truncate c").await;
            assert_eq!(client.copy_in("copy c (a, b) from stdin with (freeze on)", text.as_bytes(), piece).await.expect("rows"), "COPY 3");
        }
        assert_eq!(client.rows("select * from c order by a").await, ["1|one\ttab|7", "2|NULL|7", "3|back\\slash|7"]);
        assert_eq!(client.copy_out("copy c to stdout").await, "1\tone\\ttab\t7\n2\t\\N\t7\n3\tback\\\\slash\t7\n");
        let csv = "a,b\n10,\"x,\"\"y\"\"\nz\"\n11,\n";
        client.copy_in("copy c (a, b) from stdin csv header", csv.as_bytes(), 3).await.expect("rows");
        assert_eq!(client.rows("select b from c where a >= 10 order by a").await, ["x,\"y\"\nz", "NULL"]);
        assert_eq!(client.copy_out("copy (select a, b from c where a > 9 order by a) to stdout (format csv, header)").await, csv);
        for (data, code) in [("20", "22P04"), ("20\ta\tb\n", "22P04"), ("x\ty\n", "22P02"), ("1\ty\n", "23505")] {
            let error = client.copy_in("copy c (a, b) from stdin", data.as_bytes(), 100).await.expect_err(data);
            assert_eq!(error.code, code, "{data}");
        }
        assert_eq!(client.rows("select count(*) from c").await, ["5"]);
    });
}

/// Lets what was started go on until it waits.
async fn pause(database: &Database) {
    database.seams.sleep(Duration::from_millis(20)).await;
}

#[test]
fn an_update_looks_again_at_a_row_that_changed() {
    simulate(10, |database| async move {
        let (mut one, mut two) = (database.client(), database.client());
        table(&mut one).await;
        one.run("begin; update t set c = c + 1, b = 'moved' where a = 1").await;
        let waiting = two.query("update t set c = c * 2 where b in ('one', 'moved', 'two') returning a, c");
        let first = async {
            pause(&database).await;
            one.run("commit").await
        };
        let (found, _) = tokio::join!(waiting, first);
        assert_eq!(found.expect("it waits, then goes on").0, ["1|22.00", "2|40.00"]);
        one.run("begin; update t set b = 'away' where a = 2").await;
        let waiting = two.query("delete from t where b = 'two'");
        let first = async {
            pause(&database).await;
            one.run("commit").await
        };
        let (found, _) = tokio::join!(waiting, first);
        assert_eq!(found.expect("nothing fits any more").1, "DELETE 0");
        // Repeatable read: the first updater wins.
        two.run("begin isolation level repeatable read").await;
        two.rows("select * from t").await;
        one.run("update t set c = 0 where a = 1").await;
        assert_eq!(two.error("update t set c = 5 where a = 1").await.code, "40001");
        two.run("rollback").await;
    });
}

#[test]
fn statements_are_stopped() {
    simulate(11, |database| async move {
        let (mut one, mut two) = (database.client(), database.client());
        table(&mut one).await;
        one.run("begin; select * from t where a = 1 for update").await;
        assert_eq!(two.error("select * from t where a = 1 for update nowait").await.code, "55P03");
        two.run("set statement_timeout = '50ms'").await;
        let error = two.error("update t set b = 'x' where a = 1").await;
        assert_eq!((error.code, error.message.as_str()), ("57014", "canceling statement due to statement timeout"));
        two.run("reset statement_timeout").await;
        two.run("set lock_timeout = '50ms'").await;
        for waits in ["update t set b = 'x' where a = 1", "drop table t", "begin; lock table t"] {
            let error = two.error(waits).await;
            assert_eq!((error.code, error.message.as_str()), ("55P03", "canceling statement due to lock timeout"), "{waits}");
            two.run("rollback").await;
        }
        two.run("reset lock_timeout").await;
        assert_eq!(two.rows("select a from t for update skip locked").await, ["2", "3"]);
        let canceller = two.session.canceller();
        let waiting = two.query("update t set b = 'x' where a = 1");
        let cancel = async {
            pause(&database).await;
            canceller.cancel();
        };
        let (outcome, ()) = tokio::join!(waiting, cancel);
        let error = outcome.expect_err("it was cancelled");
        assert_eq!((error.code, error.message.as_str()), ("57014", "canceling statement due to user request"));
        assert_eq!(two.rows("select 1").await, ["1"], "a cancel doesn't outlast its statement");
        assert_eq!(two.error("select pg_sleep(1000), count(*) from generate_series(1, 1000000) g order by nope").await.code, "42703");
        one.run("commit").await;
        two.run("update t set b = 'x' where a = 1").await;
    });
}

#[test]
fn memory_of_a_statement_is_limited() {
    simulate(12, |database| async move {
        let mut client = database.client();
        for sql in [
            "select g from generate_series(1, 100000) g order by -g",
            "select g, count(*) from generate_series(1, 100000) g group by g",
            "select distinct g from generate_series(1, 100000) g",
        ] {
            assert_eq!(client.error(sql).await.code, "53200", "{sql}");
        }
        assert_eq!(client.rows("select g from generate_series(1, 100000) g order by -g limit 2").await, ["100000", "99999"]);
        assert_eq!(client.rows("select count(*), max(g) from generate_series(1, 100000) g").await, ["100000|100000"]);
    });
}

#[test]
fn definitions_roll_back() {
    simulate(13, |database| async move {
        let (mut one, mut two) = (database.client(), database.client());
        table(&mut one).await;
        one.run("begin; create table n (x int); insert into n values (1); create index n_x on n (x); drop table t").await;
        assert_eq!(one.rows("select x from n where x = 1").await, ["1"]);
        assert_eq!(one.error("select * from t").await.code, "42P01");
        one.run("rollback").await;
        assert_eq!(two.rows("select count(*) from t").await, ["3"]);
        assert_eq!(two.error("select * from n").await.code, "42P01");
        two.run("create table n (x int, y int); insert into n values (1, 1), (2, 2), (2, 3)").await;
        assert_eq!(two.error("alter table n add primary key (x)").await.code, "23505");
        two.run("alter table n add primary key (y)").await;
        assert_eq!(two.error("insert into n values (5, 3)").await.code, "23505");
        two.run("create index concurrently n_x on n (x); reindex table n; vacuum n; analyze").await;
        assert_eq!(two.rows("select y from n where x = 2 order by y").await, ["2", "3"]);
    });
}

#[test]
fn deep_statements_are_refused_long_ones_are_not() {
    simulate(14, |database| async move {
        let mut client = database.client();
        table(&mut client).await;
        let chain = |word: &str, count: usize| vec!["a = 2"; count].join(word);
        assert_eq!(client.rows(&format!("select count(*) from t where {}", chain(" or ", 4000))).await, ["1"]);
        assert_eq!(client.rows(&format!("select count(*) from t where {}", chain(" and ", 4000))).await, ["1"]);
        for sql in [
            format!("select count(*) from t where {}", chain(" or ", 6000)),
            format!("select {}", vec!["1"; 1000].join(" + ")),
            vec!["select 1"; 1000].join(" union all "),
            format!("select {}1{}", "(".repeat(1000), ")".repeat(1000)),
        ] {
            assert_eq!(client.error(&sql).await.code, "54001", "{}", &sql[..40]);
        }
        assert_eq!(client.rows("select 1").await, ["1"]);
    });
}

#[test]
fn portals_give_rows_bit_by_bit() {
    simulate(15, |database| async move {
        let mut client = database.client();
        client.run("create table p (a int)").await;
        client.run("insert into p select g from generate_series(1, 250) g").await;
        let statement = client.prepare("select a from p order by a").await.expect("it can be bound");
        let mut portal = client.session.portal(&statement, &[], &[], &[]).expect("a portal");
        let mut taken = Taken::default();
        for expected in [100, 200] {
            let progress = client.session.execute(&mut portal, 100, &mut taken).await.expect("rows");
            assert!(matches!(progress, Progress::Suspended));
            assert_eq!(taken.rows.len(), expected);
        }
        let Progress::Complete(tag) = client.session.execute(&mut portal, 0, &mut taken).await.expect("rows") else { panic!("the end") };
        assert_eq!((tag.as_str(), taken.rows.len()), ("SELECT 50", 250));
        let Progress::Complete(tag) = client.session.execute(&mut portal, 0, &mut taken).await.expect("nothing") else { panic!("the end") };
        assert_eq!(tag, "SELECT 0");
        client.session.sync().await.expect("it ends");
    });
}
