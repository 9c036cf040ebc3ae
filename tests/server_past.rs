//! Snapshots that clients keep, and the feed of what commits changed.

use isolith_testkit::server::{Server, Value, script};

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

#[test]
fn snapshots_are_kept_for_every_connection() {
    let server = Server::start(BINARY, &[]);
    let (mut one, mut other) = (server.connect(), server.connect());
    script(
        &mut one,
        "SET a 1 => +OK\nSNAPSHOT OPEN => :1\nSET a 2 => +OK\nSNAPSHOT OPEN => :2\nDEL a => :1",
    );
    script(
        &mut other,
        r#"
        BEGIN SNAPSHOT 1 => -ERR the past is READ ONLY: AT and SNAPSHOT go with it
        BEGIN READ ONLY SNAPSHOT 3 => -ERR no such snapshot
        BEGIN READ ONLY SNAPSHOT 1 => +OK
        GET a => "1"
        SET a 3 => -READONLY this transaction was begun as READ ONLY; ROLLBACK and begin another
        COMMIT => +OK
        BEGIN READ ONLY SNAPSHOT 2 => +OK
        GET a => "2"
        RANGE - + => ["a", "2"]
        ROLLBACK => +OK
        GET a => nil
        SNAPSHOT CLOSE 1 1 7 => :1
        SNAPSHOT CLOSE x => -ERR value is not an integer or out of range
        BEGIN READ ONLY SNAPSHOT 1 => -ERR no such snapshot
        CLIENT TRANSACTION READ ONLY SNAPSHOT 2 => -ERR AGE, AT and SNAPSHOT are for BEGIN: they belong to one transaction
        "#,
    );
    let list = other.line("SNAPSHOT LIST").elements();
    assert_eq!(list.len(), 1);
    assert!(list[0].to_string().contains("\"id\", :2"), "{}", list[0]);
}

fn position(reply: Value) -> (i64, Vec<Value>) {
    let mut parts = reply.elements().into_iter();
    match (parts.next(), parts.next()) {
        (Some(Value::Integer(at)), Some(Value::Array(commits))) => (at, commits),
        other => panic!("{other:?}"),
    }
}

/// What a commit changed, without its timestamp.
fn changed(commit: &Value) -> String {
    match commit {
        Value::Array(parts) => parts[1].to_string(),
        other => panic!("{other}"),
    }
}

#[test]
fn changes_come_in_their_order_and_once() {
    let server = Server::start(BINARY, &[]);
    let mut client = server.connect();
    let (begin, none) = position(client.line("CHANGES FROM NOW"));
    assert!(none.is_empty());
    script(
        &mut client,
        "SET a 1 => +OK\nMULTI => +OK\nSET b 2 PXAT 33177117420000 => +QUEUED\nDEL a => +QUEUED\nEXEC => [+OK, :1]\n\
         MERGE n add-i64 5 => +OK\nDELRANGE a c => +OK\nSELECT 3 => +OK\nSET c 3 => +OK",
    );
    let (end, commits) = position(client.line(&format!("CHANGES FROM {begin}")));
    let told: Vec<String> = commits.iter().map(changed).collect();
    assert_eq!(told[0], r#"[["put", "db0", "a", "1", nil]]"#);
    assert!(told[1].contains(r#"["put", "db0", "b", "2", :33177117420000]"#), "{}", told[1]);
    assert!(told[1].contains(r#"["delete", "db0", "a"]"#), "{}", told[1]);
    assert!(told[2].contains(r#""merge", "db0", "n", "add-i64""#), "{}", told[2]);
    assert_eq!(told[3], r#"[["delete-range", "db0", "[a", "(c"]]"#);
    assert_eq!(told[4], r#"[["put", "db3", "c", "3", nil]]"#);
    assert_eq!(told.len(), 5);
    // In pieces, on a connection of its own, the same.
    let mut reader = server.connect();
    let (mut at, mut again) = (begin, Vec::new());
    loop {
        let (next, commits) = position(reader.line(&format!("CHANGES FROM {at} COUNT 2")));
        if commits.is_empty() {
            assert_eq!(next, at);
            break;
        }
        again.extend(commits.iter().map(changed));
        at = next;
    }
    assert_eq!((again, at), (told, end));
    script(
        &mut client,
        r#"
        CHANGES SINCE 1 => -ERR syntax error
        CHANGES FROM x => -ERR value is not an integer or out of range
        "#,
    );
}
