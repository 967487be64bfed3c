//! What the door takes, and what it says of the rest.

use super::*;

fn read(body: &str) -> Result<Checked, Problem> {
    let db = DatabaseName::new("shop").unwrap();
    let limits = Limits { ops_max: 3, document_bytes_max: 1000, json_depth_max: 8, clock_ahead_max: 3_600_000 };
    let (clock, random) = (Clock::manual(1_000_000), Random::system());
    Reader { db: &db, limits: &limits, clock: &clock, random: &random, stamp: Stamp::default() }.read(body.as_bytes())
}

const ID: &str = "01970f5e-0000-7000-8000-000000000000";

/// The verdict on one op: its problem's kind and pointer, or `ok`.
fn verdict(op: &str) -> String {
    let batch = read(&format!("{{\"ops\":[{op}]}}")).unwrap();
    match &batch.ops[0] {
        Ok(_) => "ok".into(),
        Err(refused) => format!("{} {}", refused.problem.kind.row().0, refused.problem.pointer.as_deref().unwrap_or("-")),
    }
}

#[test]
fn every_kind_of_op_is_read() {
    for rest in [
        r#""type":"put","value":{"a":1}"#,
        r#""type":"patch","value":{"a":null},"base":"eu:3,us:1","at":"2026-11-21T08:00:00+01:00""#,
        r#""type":"increment","path":"/a/b","by":-1.5"#,
        r#""type":"add","path":"/tags","values":["x"]"#,
        r#""type":"remove","path":"/tags","values":[]"#,
        r#""type":"delete","if":"absent""#,
        r#""type":"delete","if":"eu:9","client":"01970f5e-0000-7000-8000-000000000001""#,
    ] {
        assert_eq!(verdict(&format!(r#"{{"id":"{ID}","doc":"todos/milk",{rest}}}"#)), "ok", "{rest}");
    }
}

#[test]
fn what_is_wrong_in_an_op_is_its_own_verdict() {
    let deep = format!(r#"{{"id":"{ID}","doc":"a/b","type":"put","value":{}1{}}}"#, "{\"a\":".repeat(9), "}".repeat(9));
    for (op, expect) in [
        ("7", "invalid "),
        ("{}", "invalid /id"),
        (r#"{"id":"x"}"#, "invalid /id"),
        (r#"{"id":"01970f5e00007000800000000000000a","doc":"a/b","type":"delete"}"#, "invalid /id"),
        (&format!(r#"{{"id":"{ID}","doc":"a","type":"delete"}}"#), "invalid /doc"),
        (&format!(r#"{{"id":"{ID}","doc":7,"type":"delete"}}"#), "invalid /doc"),
        (&format!(r#"{{"id":"{ID}","doc":"_x/a","type":"delete"}}"#), "reserved /doc"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"destroy"}}"#), "invalid /type"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"put"}}"#), "invalid /value"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"put","value":[1]}}"#), "invalid /value"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"put","value":null}}"#), "invalid /value"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"put","value":{{}},"path":"/a"}}"#), "invalid /path"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"put","value":{{}},"vaule":1}}"#), "invalid /vaule"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"increment","path":"","by":1}}"#), "invalid /path"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"increment","path":"a","by":1}}"#), "invalid /path"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"increment","path":"/a","by":"1"}}"#), "invalid /by"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"increment","path":"/a","by":1e999}}"#), "number /by"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"add","path":"/a","values":{{}}}}"#), "invalid /values"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"delete","base":"eu:x"}}"#), "invalid /base"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"delete","if":"never"}}"#), "invalid /if"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"delete","at":"soon"}}"#), "invalid /at"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"delete","client":"me"}}"#), "invalid /client"),
        (&format!(r#"{{"id":"{ID}","id":"{ID}","doc":"a/b","type":"delete"}}"#), "duplicate-member "),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"put","value":{{"a":1,"a":2}}}}"#), "duplicate-member /value"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"put","value":{{"n":9007199254740993}}}}"#), "number /value/n"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"put","value":{{"t":"\u0000"}}}}"#), "text /value/t"),
        (&format!(r#"{{"id":"{ID}","doc":"a/b","type":"put","value":{{"t":"\ud800"}}}}"#), "text /value/t"),
        (&deep, "depth /value/a/a/a/a/a/a/a"),
    ] {
        assert_eq!(verdict(op), expect, "{op}");
    }
}

#[test]
fn a_batch_that_is_unreadable_is_refused_whole() {
    let token = |text: &str| Session::decode(text, &DatabaseName::new("shop").unwrap()).is_ok();
    assert!(!token("x"));
    for (body, kind) in [
        ("", "json"),
        ("[]", "invalid"),
        ("{\"ops\":[", "json"),
        ("{\"ops\":[}]}", "json"),
        ("{}", "invalid"),
        ("{\"ops\":7}", "invalid"),
        ("{\"ops\":[],\"ops\":[]}", "invalid"),
        ("{\"ops\":[],\"oops\":[]}", "invalid"),
        ("{\"ops\":[1,2,3,4]}", "too-many"),
        ("{\"ops\":[],\"client\":\"me\"}", "invalid"),
        ("{\"ops\":[],\"at\":\"soon\"}", "invalid"),
        ("{\"ops\":[],\"atomic\":1}", "invalid"),
        ("{\"ops\":[],\"wait_ms\":30001}", "invalid"),
        ("{\"ops\":[],\"session\":\"x\"}", "token"),
        ("{\"ops\":[],\"cursor\":\"x\"}", "token"),
    ] {
        assert_eq!(read(body).unwrap_err().kind.row().0, kind, "{body}");
    }
}

#[test]
fn a_cursor_counts_only_where_it_says_what_was_read() {
    let shop = DatabaseName::new("shop").unwrap();
    let whole = Cursor { vector: Vector::parse("eu:3").unwrap(), stamp: Stamp::at(5), ..Cursor::default() };
    let filtered = Cursor { filtered: true, ..whole.clone() };
    let ahead = Cursor { stamp: Stamp::at(1_000_000 + 3_600_001), ..whole.clone() };
    let with = |cursor: &Cursor, client: &str| {
        read(&format!(
            "{{\"ops\":[{{\"id\":\"{ID}\",\"doc\":\"a/b\",\"type\":\"delete\"}}],\"cursor\":\"{}\"{client}}}",
            cursor.encode(&shop)
        ))
    };
    assert_eq!(with(&filtered, "").unwrap_err().kind, ProblemKind::Token);
    assert_eq!(with(&ahead, "").unwrap_err().kind, ProblemKind::Clock);
    let refused = with(&whole, "").unwrap().ops.remove(0).unwrap_err();
    assert_eq!(refused.problem.pointer.as_deref(), Some("/client"));
    assert!(with(&whole, &format!(",\"client\":\"{ID}\"")).unwrap().ops[0].is_ok());
}

#[test]
fn sent_tells_a_retry_from_a_reused_id() {
    let sent = |rest: &str| read(&format!(r#"{{"ops":[{{"id":"{ID}","doc":"a/b",{rest}}}]}}"#)).unwrap().ops[0].as_ref().unwrap().sent;
    let first = sent(r#""type":"put","value":{"a":1,"b":2.0}"#);
    assert_eq!(
        first,
        sent(r#""value":{"b":2,"a":1e0},"type":"put","at":"2026-11-21T08:00:00Z","base":"eu:1""#),
        "the same op, written otherwise"
    );
    assert_ne!(first, sent(r#""type":"patch","value":{"a":1,"b":2}"#));
    assert_ne!(first, sent(r#""type":"put","value":{"a":1,"b":3}"#));
}
