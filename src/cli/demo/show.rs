//! The script of the show: one task whose fields each say how they merge, what three writers make of it, and how all of
//! it is printed. Pure.

use crate::cli::status::{Cell, table};
use crate::clock::{Millis, format_time};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Everything printed under a step stands this far in.
pub(super) const INDENT: &str = "   ";

/// Conflicts that are shown; all are counted.
const CONFLICTS_MAX: usize = 20;

/// Three people rewrite this one, each in a region of their own.
pub(super) const TASK: &str = "tasks/release";

/// One region deletes this one while another edits it.
pub(super) const GONE: &str = "tasks/gone";

/// How long before now each region's writer made the edit: us last by the clock, though ap's arrives last.
const MINUTES_AGO: [Millis; 3] = [10, 1, 30];

/// A field of the task: its JSON type, its merge rule, what it first holds, what eu, us and ap write, and what that comes
/// to, where it does not hang on whose write is last.
pub(super) struct Field {
    name: &'static str,
    kind: &'static str,
    /// `last`, which is the default, is not written.
    rule: &'static str,
    first: Value,
    written: [Value; 3],
    comes_to: Option<Value>,
}

pub(super) fn fields() -> Vec<Field> {
    let field = |name, kind, rule, first, written, comes_to| Field { name, kind, rule, first, written, comes_to };
    let text = |name, rule, first: &str, written: [&str; 3], comes_to: Option<&str>| {
        field(name, "string", rule, json!(first), written.map(Value::from), comes_to.map(Value::from))
    };
    let number = |name, rule, first: u64, written: [u64; 3], comes_to: u64| {
        field(name, "number", rule, json!(first), written.map(Value::from), Some(json!(comes_to)))
    };
    vec![
        text("title", "ask", "Release", ["Release 1.0", "Ship it", "Launch day"], None),
        text("notes", "join", "draft", ["ask legal", "book press", "fix docs"], None),
        number("votes", "counter", 10, [12, 11, 15], 18),
        number("best", "max", 3, [5, 9, 4], 9),
        number("cheapest", "min", 500, [420, 450, 390], 390),
        field("tags", "array", "set", json!(["new"]), [json!(["new", "legal"]), json!(["new", "press"]), json!(["docs"])], None),
        text("due", "latest-edit", "2026-12-01", ["2026-12-05", "2026-12-10", "2026-12-03"], Some("2026-12-10")),
        text("owner", "last", "ann", ["bea", "carl", "dai"], None),
    ]
}

/// The collection's definition, a document like any other.
pub(super) fn schema(fields: &[Field]) -> Value {
    let property = |field: &Field| {
        let property = match field.rule {
            "last" => json!({"type": field.kind}),
            rule => json!({"type": field.kind, "x-merge": rule}),
        };
        (field.name.to_owned(), property)
    };
    let properties: Map<String, Value> = fields.iter().map(property).collect();
    json!({"schema": {"type": "object", "properties": properties}})
}

/// The task as everybody sees it before they are apart.
pub(super) fn first(fields: &[Field]) -> Value {
    Value::Object(fields.iter().map(|field| (field.name.to_owned(), field.first.clone())).collect())
}

pub(super) fn put(doc: &str, value: Value) -> Value {
    json!({"id": Uuid::now_v7(), "doc": doc, "type": "put", "value": value})
}

/// What the writer in the region of this number (eu, us, ap) does while apart, having seen the versions given.
pub(super) fn edits(fields: &[Field], number: usize, task: &Value, gone: &Value, now: Millis) -> Vec<Value> {
    let value: Map<String, Value> = fields.iter().map(|field| (field.name.to_owned(), field.written[number].clone())).collect();
    let at = format_time(now - MINUTES_AGO[number] * 60_000);
    let mut ops = vec![json!({"id": Uuid::now_v7(), "doc": TASK, "type": "patch", "value": value, "base": task, "at": at})];
    match number {
        0 => ops.push(json!({"id": Uuid::now_v7(), "doc": GONE, "type": "delete", "base": gone})),
        1 => ops.push(json!({"id": Uuid::now_v7(), "doc": GONE, "type": "patch", "value": {"owner": "carl"}, "base": gone})),
        _ => {}
    }
    ops
}

/// Each field: its rule, what it was, what each wrote, and what all of it came to.
pub(super) fn merged(fields: &[Field], body: &Value) -> String {
    let head = ["field", "rule", "was", "eu wrote", "us wrote", "ap wrote", "everyone now shows"];
    let mut rows = vec![Vec::from(head.map(Cell::from))];
    for field in fields {
        let mut row = vec![Cell::from(field.name), Cell::from(field.rule), Cell::from(plain(&field.first))];
        row.extend(field.written.iter().map(|value| Cell::from(plain(value))));
        row.push(Cell::from(plain(&body[field.name])));
        rows.push(row);
    }
    table(&rows, INDENT, false)
}

/// The fields that do not show what their rule promises.
pub(super) fn unkept(fields: &[Field], body: &Value) -> Vec<&'static str> {
    fields.iter().filter(|field| field.comes_to.as_ref().is_some_and(|value| body[field.name] != *value)).map(|field| field.name).collect()
}

/// Both sides of each conflict.
pub(super) fn conflicts(conflicts: &[Value]) -> String {
    let mut rows = vec![Vec::from(["document", "field", "rule", "shown", "lost"].map(Cell::from))];
    for conflict in conflicts.iter().take(CONFLICTS_MAX) {
        let field = match conflict["pointer"].as_str() {
            None | Some("") => "(all of it)",
            Some(pointer) => pointer,
        };
        let open = if conflict["open"] == Value::Bool(true) { ", open" } else { "" };
        rows.push(vec![
            Cell::from(plain(&conflict["doc"])),
            Cell::from(field),
            Cell::from(format!("{}{open}", plain(&conflict["rule"]))),
            Cell::from(side(&conflict["shown"])),
            Cell::from(side(&conflict["lost"])),
        ]);
    }
    let mut out = table(&rows, INDENT, false);
    if conflicts.len() > CONFLICTS_MAX {
        out.push_str(&format!("{INDENT}… and {} more\n", conflicts.len() - CONFLICTS_MAX));
    }
    out
}

/// What one side of a conflict wrote, and where.
fn side(side: &Value) -> String {
    let what = match (side.get("value"), &side["effect"]) {
        (Some(value), _) => plain(value),
        (None, Value::Null) => return "–".to_owned(),
        (None, effect) if effect["delete"] == Value::Bool(true) => "deleted".to_owned(),
        (None, effect) => effect.to_string(),
    };
    match side["region"].as_str() {
        Some(region) => format!("{what} ({region})"),
        None => what,
    }
}

/// The conflict that is restored: over the task's title, which asks for somebody to decide.
pub(super) fn to_restore(conflicts: &[Value]) -> Option<&Value> {
    conflicts.iter().find(|conflict| conflict["doc"] == TASK && conflict["pointer"] == "/title")
}

/// What each region holds: its name, documents, events and digest.
pub(super) fn holdings(names: &[&str], heads: &[Value], conflicts: usize) -> String {
    let mut head = vec![Cell::from("region")];
    head.extend(["documents", "events", "conflicts"].map(|name| Cell::from(name).right()));
    head.push(Cell::from("digest"));
    let mut rows = vec![head];
    for (name, head) in names.iter().zip(heads) {
        rows.push(vec![
            Cell::from(*name),
            Cell::from(plain(&head["documents"])).right(),
            Cell::from(plain(&head["events"])).right(),
            Cell::from(conflicts.to_string()).right(),
            Cell::from(plain(&head["digest"])),
        ]);
    }
    table(&rows, INDENT, false)
}

/// A value for people: no quotes, no brackets.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.replace("\n---\n", " / "),
        Value::Array(members) => members.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_names_every_rule_but_the_default() {
        let schema = schema(&fields());
        let properties = &schema["schema"]["properties"];
        assert_eq!(properties["title"], json!({"type": "string", "x-merge": "ask"}));
        assert_eq!(properties["tags"], json!({"type": "array", "x-merge": "set"}));
        assert_eq!(properties["owner"], json!({"type": "string"}));
    }

    #[test]
    fn each_writer_says_what_it_had_seen_and_writes_every_field() {
        let edits = |number| edits(&fields(), number, &json!("eu:2"), &json!("eu:3"), 1_800_000_000_000);
        let (eu, us, ap) = (edits(0), edits(1), edits(2));
        assert_eq!((eu.len(), us.len(), ap.len()), (2, 2, 1));
        assert_eq!((&eu[0]["base"], &eu[1]["type"], &us[1]["base"]), (&json!("eu:2"), &json!("delete"), &json!("eu:3")));
        assert_eq!(ap[0]["value"].as_object().map(Map::len), Some(8));
        assert!(us[0]["at"].as_str() > eu[0]["at"].as_str() && eu[0]["at"].as_str() > ap[0]["at"].as_str());
    }

    #[test]
    fn what_a_rule_promises_is_compared_as_numbers_are_sent() {
        let kept = json!({"votes": 18, "best": 9, "cheapest": 390, "due": "2026-12-10", "title": "anything"});
        assert!(unkept(&fields(), &kept).is_empty());
        assert_eq!(unkept(&fields(), &json!({"votes": 12, "best": 9, "cheapest": 390})), ["votes", "due"]);
    }

    #[test]
    fn both_sides_of_a_conflict_are_told() {
        let list = [
            json!({"doc": GONE, "pointer": "", "rule": "delete", "open": false, "shown": null, "lost": {"region": "eu", "effect": {"delete": true}}}),
            json!({"doc": TASK, "pointer": "/title", "rule": "ask", "open": true,
                "shown": {"region": "ap", "value": "Launch day"}, "lost": {"region": "us", "value": "Ship it"}}),
        ];
        let expected = "   document       field        rule       shown            lost
   tasks/gone     (all of it)  delete     –                deleted (eu)
   tasks/release  /title       ask, open  Launch day (ap)  Ship it (us)
";
        assert_eq!(conflicts(&list), expected);
        assert_eq!(to_restore(&list), Some(&list[1]));
    }
}
