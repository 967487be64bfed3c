//! JSON as Tidegate keeps it: one value, one text.
//!
//! Owns the value tree, the strict parser and the canonical form (RFC 8785). Everything that is hashed,
//! compared or stored goes through here, once, at the door; after that the bytes are never reinterpreted.
//!
//! Guarantees: `parse(canonical(v)) == v` and `canonical(parse(t)) == t` for every canonical `t`.
//! Not here: what a value means (journal, project), nor the HTTP envelope (ingest::batch).

mod canonical;
mod parse;

pub use canonical::{write_number, write_string};
pub use parse::{Fault, FaultKind, parse, parse_within};

use std::cmp::Ordering;

/// Deepest nesting that is read from a source we trust to have been checked before (journals, peers).
pub const DEPTH_MAX: usize = 512;

/// A JSON value. Numbers are IEEE doubles; object members are sorted as RFC 8785 sorts them (UTF-16
/// code units), so equality of values is equality of canonical texts (`-0` is read as `0`).
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    Array(Vec<Value>),
    Object(Object),
}

/// The members of a JSON object, sorted by name, each name once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(Vec<(String, Value)>);

impl Object {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.find(name).ok().map(|at| &self.0[at].1)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.find(name).ok().map(|at| &mut self.0[at].1)
    }

    pub fn remove(&mut self, name: &str) -> Option<Value> {
        self.find(name).ok().map(|at| self.0.remove(at).1)
    }

    /// Sets a member, replacing one of the same name.
    pub fn insert(&mut self, name: impl Into<String>, value: Value) {
        let name = name.into();
        match self.find(&name) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (name, value)),
        }
    }

    /// The member's value, made by `make` where there is none.
    pub fn entry(&mut self, name: &str, make: impl FnOnce() -> Value) -> &mut Value {
        let at = match self.find(name) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, (name.to_owned(), make()));
                at
            }
        };
        &mut self.0[at].1
    }

    /// Builds from members in any order; the name that stands twice is the error.
    fn from_unsorted(mut members: Vec<(String, Value)>) -> Result<Self, (Self, String)> {
        if !members.is_sorted_by(|a, b| order(&a.0, &b.0) == Ordering::Less) {
            members.sort_by(|a, b| order(&a.0, &b.0));
            if let Some(at) = members.windows(2).position(|w| w[0].0 == w[1].0) {
                let name = members[at].0.clone();
                members.dedup_by(|a, b| a.0 == b.0);
                return Err((Self(members), name));
            }
        }
        Ok(Self(members))
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|member| order(&member.0, name))
    }
}

impl IntoIterator for Object {
    type Item = (String, Value);
    type IntoIter = std::vec::IntoIter<(String, Value)>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(String, Value)> for Object {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(members: I) -> Self {
        Self::from_unsorted(members.into_iter().collect()).unwrap_or_else(|(object, _)| object)
    }
}

impl Value {
    /// How deep it is nested; 0 for what holds nothing.
    pub fn depth(&self) -> usize {
        match self {
            Self::Array(members) => 1 + members.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(members) => 1 + members.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// The canonical text (RFC 8785).
    pub fn canonical(&self) -> String {
        // A document's body, most often.
        let mut out = String::with_capacity(if matches!(self, Self::Object(_)) { 256 } else { 0 });
        canonical::write(self, &mut out);
        out
    }

    /// Appends the canonical text.
    pub fn write(&self, out: &mut String) {
        canonical::write(self, out);
    }

    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// A number that is a whole, not negative, and within what a double counts exactly.
    pub fn as_u64(&self) -> Option<u64> {
        let number = self.as_number()?;
        (number >= 0.0 && number.fract() == 0.0 && number <= 9_007_199_254_740_992.0).then_some(number as u64)
    }

    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(members) => Some(members),
            _ => None,
        }
    }

    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// What kind of value this is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// The order of member names in RFC 8785: by UTF-16 code units. Bytes order alike except where a
/// character beyond the basic plane meets one from U+E000 on.
fn order(a: &str, b: &str) -> Ordering {
    if a.is_ascii() || b.is_ascii() {
        return a.as_bytes().cmp(b.as_bytes());
    }
    a.encode_utf16().cmp(b.encode_utf16())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            prop_oneof![any::<f64>(), (-1000i32..1000).prop_map(f64::from), any::<i64>().prop_map(|n| n as f64)]
                .prop_filter("finite", |n| n.is_finite())
                .prop_map(|n| Value::Number(if n == 0.0 { 0.0 } else { n })),
            "[a-z\\u{e000}\\u{1F600}\"\\\\\n\u{7f}é]{0,6}".prop_map(Value::Text),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec(("[a-c\\u{e000}\\u{1F600}]{0,3}", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn canonical_text_reads_back_as_the_same_value_and_the_same_bytes(v in value()) {
            let text = v.canonical();
            let again = parse(&text).unwrap();
            prop_assert_eq!(&again, &v);
            prop_assert_eq!(again.canonical(), text);
        }

        #[test]
        fn the_parser_takes_and_refuses_what_an_independent_one_does(text in "[\\[\\]{}:,\"0-9eE.+\\-a-fnrtlus\\\\ ]{0,24}") {
            let ours = parse(&text);
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            match (ours, theirs) {
                (Ok(a), Ok(b)) => prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&a.canonical()).unwrap().as_f64(), b.as_f64()),
                (Err(fault), Ok(_)) => prop_assert_ne!(fault.kind, FaultKind::Syntax),
                (Ok(_), Err(error)) => prop_assert!(false, "{error}"),
                (Err(_), Err(_)) => {}
            }
        }
    }

    #[test]
    fn members_sort_by_utf16_units_not_by_bytes() {
        assert_eq!(parse("{\"\u{e000}\":1,\"\u{1F600}\":2}").unwrap().canonical(), "{\"\u{1F600}\":2,\"\u{e000}\":1}");
    }
}
