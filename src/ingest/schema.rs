//! What a collection's definition means: the document `_collections/<name>`, whose body is `{"schema": …}`, a JSON
//! Schema (Draft 2020-12) that may name a merge rule for a property with `x-merge`.
//!
//! Owns reading a definition (which schemas are taken, and where another is refused), its rules, and the validation of a
//! body. Pure: the same body gives the same answer in every region.
//!
//! Guarantees: nothing is fetched, and validating ends. Patterns run on an engine without backtracking, and a schema
//! whose references could keep a value busy without end, or nest deeper than the stack goes, is refused when it is read.
//!
//! As the draft has it, `format` is an annotation, and so is what a keyword holds that nobody knows. A rule belongs to
//! the place where it stands; it does not travel along a `$ref`.
//! Not here: which definition applies to an op, and what becomes of its verdict (decide).

mod outline;

use self::outline::Outline;
use crate::id::{DocId, collection_is_valid};
use crate::journal::Pointer;
use crate::json::{Object, Value};
use crate::problem::{Problem, ProblemKind};
use crate::project::leaf::Rule;
use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ValidationError, Validator, draft202012};
use std::collections::HashMap;
use std::fmt::Display;

/// Where definitions are kept.
const COLLECTION: &str = "_collections";

/// Largest schema, bytes of canonical JSON, and its deepest nesting.
pub const SCHEMA_BYTES_MAX: usize = 256 << 10;
pub const SCHEMA_DEPTH_MAX: usize = 64;

/// What one pattern may take compiled, which also bounds the work per character.
const PATTERN_COMPILED_BYTES_MAX: usize = 256 << 10;

/// In a body with more values than this not all violations are listed: the list could outgrow the body by far.
const LISTED_VALUES_MAX: usize = 10_000;
/// What the validator says is cut here: it quotes the value.
const DETAIL_CHARS_MAX: usize = 300;

/// The collection that a document defines. Tidegate's own cannot be defined.
pub fn collection_defined_by(doc: &DocId) -> Option<&str> {
    let name = doc.key();
    (doc.collection() == COLLECTION && collection_is_valid(name) && !name.starts_with('_')).then_some(name)
}

/// The document that defines a document's collection.
pub fn definition_of(doc: &DocId) -> Option<DocId> {
    if doc.is_reserved() {
        return None;
    }
    DocId::new(&format!("{COLLECTION}/{}", doc.collection())).ok()
}

/// A collection's definition, read and compiled.
#[derive(Debug)]
pub struct Definition {
    /// Those that are not `last`.
    rules: HashMap<Pointer, Rule>,
    validator: Validator,
}

impl Definition {
    /// Reads a definition's body. The error names where (a pointer into the body) and what.
    pub fn read(body: &Object) -> Result<Self, Problem> {
        if let Some((other, _)) = body.iter().find(|(name, _)| *name != "schema") {
            return Err(refused(Pointer::root().child(other), "a definition has the member `schema` and no other"));
        }
        let at = Pointer::root().child("schema");
        let schema = match body.get("schema") {
            Some(schema @ Value::Object(_)) => schema,
            Some(other) => return Err(refused(at, format!("`schema` is an object, not {}", other.kind()))),
            None => return Err(refused(Pointer::root(), "a definition has the member `schema`")),
        };
        let (bytes, depth) = (schema.canonical().len(), depth(schema));
        if bytes > SCHEMA_BYTES_MAX {
            let detail = format!("the schema has {bytes} bytes as canonical JSON; {SCHEMA_BYTES_MAX} is the limit");
            return Err(refused(at, detail).over(SCHEMA_BYTES_MAX as u64, bytes as u64));
        }
        if depth > SCHEMA_DEPTH_MAX {
            let detail = format!("the schema is nested {depth} levels deep; {SCHEMA_DEPTH_MAX} is the limit");
            return Err(refused(at, detail).over(SCHEMA_DEPTH_MAX as u64, depth as u64));
        }
        // Before compiling: the compiler follows references too, and nothing holds it back.
        let rules = Outline::read(&at, schema)?.rules;
        Ok(Self { rules, validator: compile(&at, &plain(schema))? })
    }

    /// The rules in force for the leaves that an effect sets, as canonical JSON `{pointer: rule}`; `None` where all are
    /// the default.
    pub fn rules<'a>(&self, set: impl Iterator<Item = &'a Pointer>) -> Option<String> {
        let rule = |pointer: &Pointer| Some((pointer.to_string(), Value::text(self.rules.get(pointer)?.as_str())));
        let rules: Object = set.filter_map(rule).collect();
        (!rules.is_empty()).then(|| Value::Object(rules).canonical())
    }

    pub fn rule(&self, pointer: &Pointer) -> Rule {
        self.rules.get(pointer).copied().unwrap_or_default()
    }

    /// Validates a body after an op. Only violations at, above or below one of `touched` count: what merging made
    /// invalid elsewhere does not block anybody. Of several the one with the smallest pointer is named; in a large body
    /// the first that the validator meets.
    pub fn check(&self, body: &Object, touched: &[Pointer]) -> Result<(), Problem> {
        let value = plain_object(body);
        let Err(first) = self.validator.validate(&value) else { return Ok(()) };
        let mut places: Vec<&str> = touched.iter().map(Pointer::as_str).collect();
        places.sort_unstable();
        let counts = |error: &ValidationError<'_>| touches(&places, error.instance_path().as_str());
        let named = if count(&value) > LISTED_VALUES_MAX && counts(&first) {
            Some(first)
        } else {
            let violations = self.validator.iter_errors(&value).filter(counts);
            violations.min_by(|a, b| a.instance_path().as_str().cmp(b.instance_path().as_str()))
        };
        named.map_or(Ok(()), |error| Err(refused(error.instance_path(), said(&error))))
    }
}

fn refused(at: impl Display, detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::Schema, detail).at(at.to_string())
}

fn compile(at: &Pointer, schema: &serde_json::Value) -> Result<Validator, Problem> {
    let limit = PATTERN_COMPILED_BYTES_MAX;
    let patterns = PatternOptions::regex().size_limit(limit).dfa_size_limit(limit);
    draft202012::options().offline().with_pattern_options(patterns).build(schema).map_err(|error| {
        let detail = match error.kind() {
            ValidationErrorKind::Format { format } if format == "regex" => {
                "a pattern is a regular expression, without look-around and back-references, that stays small when compiled".to_owned()
            }
            _ => said(&error),
        };
        refused(format_args!("{at}{}", error.instance_path()), detail)
    })
}

/// What the validator says. It begins with the value, so of a long one it only says that it is one.
fn said(error: &ValidationError<'_>) -> String {
    let text = error.to_string();
    if text.chars().nth(DETAIL_CHARS_MAX).is_none() {
        return text;
    }
    error.masked_with("the value").to_string().chars().take(DETAIL_CHARS_MAX).collect()
}

/// Whether a pointer stands at, above or below one of these, which are sorted.
fn touches(places: &[&str], at: &str) -> bool {
    let mut above = at.match_indices('/').map(|(end, _)| &at[..end]);
    let inside = format!("{at}/");
    let next = places.partition_point(|place| *place < inside.as_str());
    places.binary_search(&at).is_ok()
        || above.any(|place| places.binary_search(&place).is_ok())
        || places.get(next).is_some_and(|place| place.starts_with(inside.as_str()))
}

/// A value as the validator wants it. What a double holds exactly and is whole becomes an integer.
fn plain(value: &Value) -> serde_json::Value {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(bool) => serde_json::Value::from(*bool),
        Value::Number(number) if number.fract() == 0.0 && number.abs() <= EXACT_MAX => serde_json::Value::from(*number as i64),
        Value::Number(number) => serde_json::Value::from(*number),
        Value::Text(text) => serde_json::Value::from(text.as_str()),
        Value::Array(members) => serde_json::Value::Array(members.iter().map(plain).collect()),
        Value::Object(object) => plain_object(object),
    }
}

fn plain_object(object: &Object) -> serde_json::Value {
    serde_json::Value::Object(object.iter().map(|(name, value)| (name.to_owned(), plain(value))).collect())
}

fn count(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(members) => 1 + members.iter().map(count).sum::<usize>(),
        serde_json::Value::Object(object) => 1 + object.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(members) => 1 + members.iter().map(depth).max().unwrap_or(0),
        Value::Object(object) => 1 + object.iter().map(|(_, value)| depth(value)).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
