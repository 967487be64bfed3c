//! The table, as it is printed.

use super::*;

fn answer(status: Value) -> Answer {
    ("http://127.0.0.1:8080".into(), Ok(status))
}

fn busy() -> Value {
    json!({
        "region": "eu", "version": "0.1.0", "schema": 2, "health": "yellow", "access": "open",
        "clock": {"ahead_of_median_ms": 12, "alarm": false},
        "relay": {
            "nats": "connected",
            "peers": [
                {"region": "ap", "heard_ms_ago": 120, "clock_ahead_ms": -3, "clock_alarm": false, "retired": false},
                {"region": "us", "heard_ms_ago": 65000, "clock_ahead_ms": 70000, "clock_alarm": true, "retired": true}
            ],
            "faults": {"sending shop": "NATS is away", "stream": "no answer"}
        },
        "dbs": [
            {
                "db": "shop", "vector": {"ap": 12, "eu": 9}, "digest": "00", "documents": 10, "events": 21, "conflicts": 2,
                "queue": {"ops": 0, "bytes": 0}, "behind": {"ap": {"events": 0, "ms": 0}, "us": {"events": 3, "ms": 1200}},
                "compared": {"ap": {"ms_ago": 800, "equal": true}, "us": {"ms_ago": 10, "equal": true}}
            },
            {
                "db": "stock-eu", "vector": {"eu": 99999}, "digest": "00", "documents": 12345, "events": 99999, "conflicts": 0,
                "queue": {"ops": 12, "bytes": 3400}, "behind": {},
                "compared": {"ap": {"ms_ago": 900, "equal": true}, "us": {"ms_ago": 50, "equal": false}}
            }
        ]
    })
}

#[test]
fn columns_stand_under_each_other_and_faults_in_full_at_the_end() {
    let expected = "\
eu  yellow  version 0.1.0, schema 2  nats connected  clock +12 ms  http://127.0.0.1:8080
  peer          heard       clock           compared
  ap            120 ms ago  −3 ms           equal, 900 ms ago
  us (retired)  65.0 s ago  +70.0 s, alarm  different: stock-eu
  db        documents  events  conflicts  behind         queue
  shop             10      21          2  us −3 (1.2 s)  empty
  stock-eu      12345   99999          0  nothing        12 ops, 3.4 kB
  fault  sending shop: NATS is away
  fault  stream: no answer
";
    assert_eq!(render(&[answer(busy())], false), expected);
}

#[test]
fn colour_changes_no_width() {
    let coloured = render(&[answer(busy())], true);
    assert!(coloured.contains("\x1b[33myellow\x1b[0m  version") && coloured.contains("\x1b[31mdifferent: stock-eu\x1b[0m\n"));
    assert!(coloured.contains("\x1b[33mus −3 (1.2 s)\x1b[0m  empty"), "{coloured}");
    let bare = ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"].iter().fold(coloured, |text, code| text.replace(code, ""));
    assert_eq!(bare, render(&[answer(busy())], false));
}

#[test]
fn what_is_missing_is_shown_as_missing() {
    let expected = "–  –  version –, schema –  nats –  clock –  http://127.0.0.1:8080\n";
    for nothing in [json!({}), json!([]), json!("red"), Value::Null, json!({"relay": 1, "dbs": {}, "clock": []})] {
        assert_eq!(render(&[answer(nothing)], false), expected);
    }
    let some = json!({
        "region": "eu", "health": "green",
        "relay": {"peers": [{"region": "us"}, {}]},
        "dbs": [{"db": "shop", "compared": {"us": {"ms_ago": null}}, "behind": {"us": {"events": 3}}, "queue": {"ops": 1}}, {}]
    });
    let expected = "\
eu  green  version –, schema –  nats –  clock –  http://127.0.0.1:8080
  peer  heard  clock  compared
  us    –      –      never
  –     –      –      never
  db    documents  events  conflicts  behind  queue
  shop          –       –          –  us −3   1 ops
  –             –       –          –  –       –
";
    assert_eq!(render(&[answer(some)], false), expected);
}

#[test]
fn one_database_that_was_never_compared_is_named() {
    let status = json!({
        "relay": {"peers": [{"region": "us"}]},
        "dbs": [{"db": "a", "compared": {"us": {"ms_ago": 5000, "equal": true}}}, {"db": "b", "compared": {"us": {"ms_ago": null}}}]
    });
    assert!(render(&[answer(status)], false).contains("equal, 5.0 s ago; never: b\n"));
}

#[test]
fn hostile_texts_neither_move_the_cursor_nor_fill_the_screen() {
    let status = json!({
        "region": "e\u{1b}[31mu\u{7}\u{9b}2J", "health": "red\r\n\u{202e}", "version": "x".repeat(1000),
        "relay": {"nats": "a\nb\tc", "faults": {"on\u{1b}]0;title\u{7}e": format!("{}\u{2028}end", "y".repeat(1000))}}
    });
    for colour in [false, true] {
        let text = render(&[answer(status.clone()), ("http://x\u{1b}c".into(), Err(Why::away("no\u{8}pe")))], colour);
        let bare = ["\x1b[31m", "\x1b[0m"].iter().fold(text, |text, code| text.replace(code, ""));
        assert!(!bare.contains(|c: char| is_hidden(c) && c != '\n'), "{bare:?}");
        assert!(bare.starts_with("e[31mu2J  red    version xxx") && bare.contains("x…  nats a b c  "), "{bare}");
        assert!(bare.contains(&format!("on]0;titlee: {} end\n", "y".repeat(1000))), "faults are not cut: {bare}");
        assert!(bare.ends_with("\n\nhttp://xc  unreachable  nope\n"), "{bare}");
    }
    let lines = json_lines(&[answer(status.clone())]);
    assert!(!lines.trim_end().contains(is_hidden), "{lines:?}");
    assert_eq!(serde_json::from_str::<Value>(&lines).unwrap()["status"], status, "and nothing is lost of it");
}

#[test]
fn the_exit_code_names_the_worst() {
    let told = |health: &str| answer(json!({ "health": health }));
    let away = || ("http://x".to_owned(), Err(Why::away("away")));
    assert_eq!(exit(&[told("green"), told("yellow")]), 0);
    assert_eq!(exit(&[told("green"), away(), told("red")]), 8);
    assert_eq!(exit(&[told("green"), away()]), 5);
    assert_eq!(exit(&[answer(json!({}))]), 5, "no health is not a good one");
    assert_eq!(render(&[away()], true), "http://x  \x1b[31munreachable\x1b[0m  away\n");
    for (status, word) in [(401, "refused"), (403, "refused"), (503, "not ready"), (404, "no status")] {
        let answered = Why::answered(StatusCode::from_u16(status).unwrap(), "no");
        assert_eq!(render(&[("http://x".to_owned(), Err(answered))], false), format!("http://x  {word}  no\n"));
    }
}
