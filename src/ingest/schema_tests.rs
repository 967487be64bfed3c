//! Which definitions are taken, where the others are refused, and which violations count.

use super::outline::{HOLDERS, Holds, PATTERN_BYTES_MAX, PATTERNS_MAX};
use super::*;

fn object(text: &str) -> Object {
    match crate::json::parse(text) {
        Ok(Value::Object(object)) => object,
        other => panic!("{other:?} in {text}"),
    }
}

fn define(schema: &str) -> Definition {
    Definition::read(&object(&format!("{{\"schema\":{schema}}}"))).unwrap_or_else(|problem| panic!("{problem:?} for {schema}"))
}

/// The pointer at which a definition's body is refused, or `taken`.
fn read_at(body: &str) -> String {
    let Err(problem) = Definition::read(&object(body)) else { return "taken".into() };
    assert_eq!(problem.kind, ProblemKind::Schema);
    assert!(problem.detail.chars().count() <= DETAIL_CHARS_MAX && !problem.detail.is_empty());
    problem.pointer.unwrap()
}

/// The same for a schema, without the `/schema` in front.
fn refused_at(schema: &str) -> String {
    let at = read_at(&format!("{{\"schema\":{schema}}}"));
    at.strip_prefix("/schema").unwrap_or(&at).to_owned()
}

fn at(pointer: &str) -> Pointer {
    Pointer::parse(pointer).unwrap()
}

/// The pointer of the violation that counts, or `ok`.
fn violated(definition: &Definition, body: &str, touched: &[&str]) -> String {
    let touched: Vec<Pointer> = touched.iter().map(|pointer| at(pointer)).collect();
    match definition.check(&object(body), &touched) {
        Ok(()) => "ok".into(),
        Err(problem) => problem.pointer.unwrap(),
    }
}

#[test]
fn a_definition_is_shared_between_threads() {
    fn shared<T: Send + Sync + std::fmt::Debug>() {}
    shared::<Definition>();
}

#[test]
fn a_body_is_a_schema_and_nothing_else() {
    for (body, at) in [
        (r#"{"schema":{}}"#, "taken"),
        ("{}", ""),
        (r#"{"schema":true}"#, "/schema"),
        (r#"{"schema":[]}"#, "/schema"),
        (r#"{"schema":{},"a/b":1}"#, "/a~1b"),
    ] {
        assert_eq!(read_at(body), at, "{body}");
    }
}

#[test]
fn schemas_of_the_draft_are_taken() {
    for schema in [
        r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","properties":{"done":{"type":"boolean"}}}"#,
        r##"{"$defs":{"a b":{"$anchor":"ab"},"any":true},"properties":{"x":{"$ref":"#/$defs/a%20b"},"y":{"$ref":"#ab"},"z":{"$ref":"#/$defs/any"}}}"##,
        r##"{"$defs":{"n":{"properties":{"l":{"$ref":"#/$defs/n"},"r":{"$ref":"#/$defs/n"}}}},"properties":{"tree":{"$ref":"#/$defs/n"}}}"##,
        r##"{"properties":{"next":{"$ref":"#"}},"unevaluatedProperties":false}"##,
        r#"{"const":{"x-merge":"?","$id":"x"},"default":{"$ref":"http://x/y"},"enum":[{"x-merge":1}],"examples":[{"$schema":"?"}]}"#,
        r#"{"dependentRequired":{"x-merge":["a"]},"properties":{"x-merge":{"type":"number","x-merge":"max"},"$id":{},"$ref":{}}}"#,
        r#"{"properties":{"p":{"type":"string","pattern":"^[a-z]{1,20}-\\d+$","format":"anything"}},"x-form":{"order":["a"]}}"#,
    ] {
        assert_eq!(refused_at(schema), "taken", "{schema}");
    }
}

#[test]
fn what_is_no_schema_of_the_draft_is_refused_at_its_place() {
    for (schema, at) in [
        (r#"{"type":"strin"}"#, "/type"),
        (r#"{"required":"a"}"#, "/required"),
        (r#"{"items":[{}]}"#, "/items"),
        (r#"{"properties":{"a":{"minLength":-1}}}"#, "/properties/a/minLength"),
        (r#"{"$schema":"http://json-schema.org/draft-07/schema#"}"#, "/$schema"),
        (r#"{"not":{"$schema":"https://json-schema.org/draft/2020-12/schema"}}"#, "/not/$schema"),
        (r#"{"$id":"https://example.com/a"}"#, "/$id"),
        (r#"{"$defs":{"a":{"$id":"b"}}}"#, "/$defs/a/$id"),
        (r#"{"$ref":"https://json-schema.org/draft/2020-12/schema"}"#, "/$ref"),
        (r#"{"$ref":""}"#, "/$ref"),
        (r##"{"items":{"$dynamicRef":"other#a"}}"##, "/items/$dynamicRef"),
        (r##"{"allOf":[{"$ref":"#/$defs/none"}]}"##, "/allOf/0/$ref"),
        (r##"{"const":{"type":"string"},"properties":{"a":{"$ref":"#/const"}}}"##, "/properties/a/$ref"),
        (r#"{"$defs":{"a":{"$anchor":"x"},"b":{"$dynamicAnchor":"x"}}}"#, "/$defs/b/$dynamicAnchor"),
    ] {
        assert_eq!(refused_at(schema), at, "{schema}");
    }
}

#[test]
fn a_rule_stands_on_a_property_and_nowhere_else() {
    for (schema, at) in [
        (r#"{"x-merge":"last"}"#, "/x-merge"),
        (r#"{"allOf":[{"properties":{"a":{"x-merge":"last"}}}]}"#, "/allOf/0/properties/a/x-merge"),
        (r#"{"$defs":{"a":{"x-merge":"last"}}}"#, "/$defs/a/x-merge"),
        (r#"{"patternProperties":{"^a":{"x-merge":"last"}}}"#, "/patternProperties/^a/x-merge"),
        (r#"{"properties":{"a":{"items":{"properties":{"b":{"x-merge":"last"}}}}}}"#, "/properties/a/items/properties/b/x-merge"),
        (r#"{"x-form":[{"x-merge":"last"}]}"#, "/x-form"),
        (r#"{"propertys":{"a":{"x-merge":"last"}}}"#, "/propertys"),
    ] {
        assert_eq!(refused_at(schema), at, "{schema}");
    }
    for (keyword, ..) in HOLDERS.iter().filter(|row| matches!(row.1, Holds::One)) {
        assert_eq!(refused_at(&format!(r#"{{"{keyword}":{{"x-merge":"last"}}}}"#)), format!("/{keyword}/x-merge"));
    }
}

#[test]
fn a_rule_goes_with_what_it_can_merge() {
    for (property, fits) in [
        (r#""x-merge":"last""#, true),
        (r#""x-merge":"ask","type":["string","null"]"#, true),
        (r#""x-merge":"latest-edit","type":"object""#, true),
        (r#""x-merge":"counter","type":"integer""#, true),
        (r#""x-merge":"counter","type":["integer","number"]"#, true),
        (r#""x-merge":"min","type":["number","null"]"#, true),
        (r#""x-merge":"join","type":["string","null"]"#, true),
        (r#""x-merge":"set","type":"array""#, true),
        (r#""x-merge":"newest""#, false),
        (r#""x-merge":3"#, false),
        (r#""x-merge":"counter""#, false),
        (r##""x-merge":"join","$ref":"#/$defs/text""##, false),
        (r#""x-merge":"counter","type":["number","null"]"#, false),
        (r#""x-merge":"max","type":["number","string"]"#, false),
        (r#""x-merge":"min","type":"null""#, false),
        (r#""x-merge":"max","type":"object""#, false),
        (r#""x-merge":"join","type":"number""#, false),
        (r#""x-merge":"set","type":["array","null"]"#, false),
        (r#""x-merge":"set","type":"string""#, false),
        (r#""x-merge":"ask","properties":{}"#, false),
    ] {
        let at = refused_at(&format!(r#"{{"properties":{{"a":{{{}}}}}}}"#, property));
        assert_eq!(at, if fits { "taken" } else { "/properties/a/x-merge" }, "{property}");
    }
}

#[test]
fn rules_are_named_for_the_leaves_that_have_one() {
    let definition = define(
        r#"{"properties":{"a":{"properties":{"b/c":{"type":"integer","x-merge":"counter"},"t":{"x-merge":"last"}}},
            "n":{"type":["number","null"],"x-merge":"min"},"tags":{"type":"array","x-merge":"set"}}}"#,
    );
    let rules = |set: &[&str]| definition.rules(set.iter().map(|pointer| at(pointer)).collect::<Vec<_>>().iter());
    assert_eq!(rules(&["/tags", "/other", "/a/t", "/a/b~1c"]).as_deref(), Some(r#"{"/a/b~1c":"counter","/tags":"set"}"#));
    assert_eq!(rules(&["/a", "/a/t", "/tags/0", "/n/x"]), None);
    assert_eq!((definition.rule(&at("/n")), definition.rule(&at("/a/t"))), (Rule::Min, Rule::Last));
}

#[test]
fn a_violation_counts_at_above_and_below_what_is_touched() {
    let definition = define(
        r#"{"required":["title"],"properties":{"title":{"type":"string"},"tags":{"items":{"type":"string"}},"a/b~":{"type":"null"},
            "o":{"required":["x"],"properties":{"n":{"type":"integer","minimum":0}}}}}"#,
    );
    for (body, touched, at) in [
        (r#"{"title":"a","o":{"n":3.0,"x":1},"tags":[]}"#, &[""][..], "ok"),
        (r#"{"title":1}"#, &["/title"], "/title"),
        (r#"{"title":1}"#, &["/other", "/titles"], "ok"),
        ("{}", &["/other/deep"], ""),
        (r#"{"title":"a","o":{"n":-1,"x":1}}"#, &["/o/n"], "/o/n"),
        (r#"{"title":"a","o":{"n":2.5,"x":1}}"#, &["/title", "/o"], "/o/n"),
        (r#"{"title":"a","o":{"n":-1,"x":1}}"#, &["/o/x", "/title"], "ok"),
        (r#"{"title":"a","o":{}}"#, &["/o/n"], "/o"),
        (r#"{"title":"a","o":{}}"#, &["/title"], "ok"),
        (r#"{"title":"a","tags":["x",1]}"#, &["/tags"], "/tags/1"),
        (r#"{"title":"a","a/b~":1}"#, &["/a~1b~0"], "/a~1b~0"),
        (r#"{"title":1,"tags":[1],"o":{"n":-1}}"#, &[""], "/o"),
        (r#"{"title":1,"tags":[1],"o":{"n":-1}}"#, &["/title", "/tags"], "/tags/0"),
        (r#"{"title":1}"#, &[], "ok"),
    ] {
        assert_eq!(violated(&definition, body, touched), at, "{body} {touched:?}");
    }
    let large = format!("{{\"title\":1,\"tags\":[1{}]}}", ",1".repeat(2 * LISTED_VALUES_MAX));
    assert_eq!(violated(&definition, &large, &["/tags"]), "/tags/0");
    assert_eq!(violated(&definition, &large, &["/o"]), "ok");
}

#[test]
fn the_sorted_search_agrees_with_the_pointers() {
    let places = ["", "/", "/a", "/a/b", "/a/b/c", "/a b", "/a-", "/ab", "/b/a"];
    for bits in 0u32..1 << places.len() {
        let mut some: Vec<&str> = (0..places.len()).filter(|nth| bits & (1 << nth) != 0).map(|nth| places[nth]).collect();
        some.sort_unstable();
        for place in places {
            assert_eq!(touches(&some, place), some.iter().any(|one| at(one).touches(&at(place))), "{some:?} {place}");
        }
    }
}

#[test]
fn a_message_does_not_repeat_a_long_value() {
    let definition = define(r#"{"properties":{"a":{"maxLength":5}}}"#);
    let body = object(&format!(r#"{{"a":"{}"}}"#, "é".repeat(10_000)));
    let problem = definition.check(&body, &[Pointer::root()]).unwrap_err();
    assert_eq!(problem.detail, "the value is longer than 5 characters");
}

#[test]
fn a_hostile_schema_is_refused_when_it_is_read() {
    let link = |nth: usize| format!(r##""a{nth}":{{"allOf":[{{"$ref":"#/$defs/a{0}"}},{{"$ref":"#/$defs/a{0}"}}]}}"##, nth + 1);
    let bomb = format!(r##"{{"$defs":{{{},"a40":{{}}}},"$ref":"#/$defs/a0"}}"##, (0..40).map(link).collect::<Vec<_>>().join(","));
    let either = r##"{"anyOf":[{"properties":{"a":{"$ref":"#"}}},{"properties":{"a":{"$ref":"#"}}}]}"##;
    let again = r##"{"$defs":{"a":{"allOf":[{"$ref":"#/$defs/b"}]},"b":{"not":{"$ref":"#/$defs/a"}}}}"##;
    let deep = format!("{}{{}}{}", r#"{"not":"#.repeat(SCHEMA_DEPTH_MAX), "}".repeat(SCHEMA_DEPTH_MAX));
    let asked = r#"{"unevaluatedProperties":false,"anyOf":["#.repeat(16) + "{}" + &"]}".repeat(16);
    let wide = (0..100).map(|nth| format!(r#""a{nth}":{{}}"#)).collect::<Vec<_>>().join(",");
    let spread = format!(r#"{{"properties":{{"{}":{{"properties":{{{wide}}}}}}}}}"#, "x".repeat(60_000));
    let patterns = format!(r#"{{"allOf":[{{}}{}]}}"#, r#",{"pattern":"a"}"#.repeat(PATTERNS_MAX + 1));
    let last = format!("/allOf/{}/pattern", PATTERNS_MAX + 1);
    for (what, schema, at) in [
        ("references that multiply", bomb.as_str(), ""),
        ("recursion that multiplies", either, ""),
        ("a loop at one value", r##"{"$ref":"#"}"##, ""),
        ("a longer loop", again, "/$defs/a"),
        ("deep nesting", &deep, ""),
        ("unevaluated in unevaluated", &asked, ""),
        ("long names above many", &spread, ""),
        ("much text", &format!(r#"{{"title":"{}"}}"#, "x".repeat(SCHEMA_BYTES_MAX)), ""),
        ("many patterns", &patterns, &last),
        ("a long pattern", &format!(r#"{{"pattern":"{}"}}"#, "a".repeat(PATTERN_BYTES_MAX + 1)), "/pattern"),
        ("a pattern that grows", r#"{"not":{"pattern":"a{1000}{1000}"}}"#, "/not/pattern"),
        ("look-around", r#"{"pattern":"(?=a)b"}"#, "/pattern"),
        ("a back-reference", r#"{"pattern":"(a)\\1"}"#, "/pattern"),
        ("no pattern at all", r#"{"pattern":"("}"#, "/pattern"),
        ("look-around in a name", r#"{"patternProperties":{"(?<=a)b":{}}}"#, "/patternProperties/(?<=a)b"),
    ] {
        assert_eq!(refused_at(schema), at, "{what}");
    }
}

#[test]
fn validating_ends_whatever_the_document() {
    let greedy = define(r#"{"properties":{"a":{"pattern":"^(a+)+$"}}}"#);
    assert_eq!(violated(&greedy, &format!(r#"{{"a":"{}!"}}"#, "a".repeat(50_000)), &["/a"]), "/a");
    let list = define(r##"{"properties":{"next":{"$ref":"#"},"n":{"type":"integer"}}}"##);
    let deep = format!("{}{}{}", r#"{"next":"#.repeat(250), r#"{"n":"x"}"#, "}".repeat(250));
    assert_eq!(violated(&list, &deep, &["/next"]), format!("{}/n", "/next".repeat(250)));
}

#[test]
fn a_collection_is_defined_by_the_document_of_its_name() {
    let doc = |text: &str| DocId::new(text).unwrap();
    for (id, collection) in [
        ("_collections/todos", Some("todos")),
        ("_collections/_peers", None),
        ("_collections/a/b", None),
        ("_collections/a b", None),
        ("_other/todos", None),
        ("todos/milk", None),
    ] {
        assert_eq!(collection_defined_by(&doc(id)), collection, "{id}");
    }
    assert_eq!(definition_of(&doc("todos/milk")), Some(doc("_collections/todos")));
    assert_eq!(definition_of(&doc("_collections/todos")), None);
}
