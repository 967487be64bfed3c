//! What can be said of a schema before it is compiled: its subschemas, which applies which, and its merge rules.
//!
//! Refuses what a definition may not hold, and what could keep a validation busy without end. Only keywords that hold
//! schemas are followed; everything else is data, and nothing can refer to it.

use super::{SCHEMA_BYTES_MAX, refused};
use crate::journal::Pointer;
use crate::json::{Object, Value};
use crate::problem::Problem;
use crate::project::leaf::Rule;
use std::collections::HashMap;

/// Patterns of one schema, and the longest.
pub const PATTERNS_MAX: usize = 100;
pub const PATTERN_BYTES_MAX: usize = 2000;

/// What the places of all its keywords may have as pointers, in all: each repeats the names above it.
const SPREAD_BYTES_MAX: usize = 16 * SCHEMA_BYTES_MAX;

/// Subschemas that one value and the values on a way down from it may meet, and how many of them inside each other.
const VISITS_MAX: u64 = 10_000;
const NESTED_MAX: u64 = 1024;
/// Deepest document that a gateway can be told to take (config: `limits.json_depth_max`).
const DOCUMENT_DEPTH_MAX: usize = 256;
/// `unevaluated…` asks again what its siblings said, and they in turn; this is more than that makes of it per level.
const UNEVALUATED_FACTOR: u64 = 3;

/// How a keyword holds schemas.
#[derive(Clone, Copy)]
pub(super) enum Holds {
    One,
    List,
    Map,
}

/// What a subschema is applied to, seen from the schema that holds it.
#[derive(Clone, Copy)]
pub(super) enum Reach {
    /// Nothing, unless something refers to it.
    Aside,
    /// The same value.
    Here,
    /// Any value right below.
    Below,
    /// One value right below, each of the keyword's schemas to another.
    Apart,
}

pub(super) type Row = (&'static str, Holds, Reach);

/// The keywords that hold schemas. Everything else in a schema is data.
pub(super) const HOLDERS: &[Row] = &[
    ("$defs", Holds::Map, Reach::Aside),
    ("definitions", Holds::Map, Reach::Aside),
    ("contentSchema", Holds::One, Reach::Aside),
    ("allOf", Holds::List, Reach::Here),
    ("anyOf", Holds::List, Reach::Here),
    ("oneOf", Holds::List, Reach::Here),
    ("not", Holds::One, Reach::Here),
    ("if", Holds::One, Reach::Here),
    ("then", Holds::One, Reach::Here),
    ("else", Holds::One, Reach::Here),
    ("dependentSchemas", Holds::Map, Reach::Here),
    ("dependencies", Holds::Map, Reach::Here),
    ("properties", Holds::Map, Reach::Apart),
    ("prefixItems", Holds::List, Reach::Apart),
    ("patternProperties", Holds::Map, Reach::Below),
    ("additionalProperties", Holds::One, Reach::Below),
    ("unevaluatedProperties", Holds::One, Reach::Below),
    ("propertyNames", Holds::One, Reach::Below),
    ("items", Holds::One, Reach::Below),
    ("unevaluatedItems", Holds::One, Reach::Below),
    ("contains", Holds::One, Reach::Below),
];

/// A schema's subschemas, which applies which, and its rules. What is malformed is passed over here: the meta-schema
/// refuses it.
#[derive(Default)]
pub(super) struct Outline {
    /// The root is the first.
    nodes: Vec<Node>,
    places: HashMap<Pointer, usize>,
    anchors: HashMap<String, usize>,
    references: Vec<(usize, Pointer, String)>,
    /// Those that are not `last`.
    pub(super) rules: HashMap<Pointer, Rule>,
    patterns: usize,
    spread: usize,
}

struct Node {
    at: Pointer,
    edges: Vec<(Reach, usize)>,
    unevaluated: bool,
}

impl Outline {
    /// Reads a schema that stands at a place of a definition's body.
    pub(super) fn read(at: &Pointer, schema: &Value) -> Result<Self, Problem> {
        let mut outline = Self::default();
        outline.subschema(at.clone(), schema, Some(Pointer::root()))?;
        outline.resolve(at)?;
        outline.bound(at)?;
        Ok(outline)
    }

    /// Walks a subschema. `leaf` is the place in a document that it describes, where only `properties` led to it.
    fn subschema(&mut self, at: Pointer, schema: &Value, leaf: Option<Pointer>) -> Result<Option<usize>, Problem> {
        if !matches!(schema, Value::Object(_) | Value::Bool(_)) {
            return Ok(None);
        }
        self.spend(&at)?;
        let node = self.nodes.len();
        self.places.insert(at.clone(), node);
        self.nodes.push(Node { at, edges: Vec::new(), unevaluated: false });
        if let Value::Object(schema) = schema {
            for (keyword, value) in schema.iter() {
                self.keyword(node, schema, leaf.as_ref(), keyword, value)?;
            }
        }
        Ok(Some(node))
    }

    fn keyword(&mut self, node: usize, schema: &Object, leaf: Option<&Pointer>, keyword: &str, value: &Value) -> Result<(), Problem> {
        let at = self.nodes[node].at.child(keyword);
        self.spend(&at)?;
        match (keyword, value) {
            ("x-merge", _) => self.merge(&at, schema, leaf, value),
            ("$id", _) => Err(refused(at, "a definition stands alone: `$id` would give it, or a part of it, another address")),
            ("$schema", Value::Text(draft)) if node == 0 && is_draft(draft) => Ok(()),
            ("$schema", _) => Err(refused(
                at,
                "a definition is JSON Schema, Draft 2020-12: https://json-schema.org/draft/2020-12/schema, at the root or nowhere",
            )),
            ("$ref" | "$dynamicRef", Value::Text(target)) => {
                if !target.starts_with('#') {
                    return Err(refused(at, "a definition refers only to itself: `#…`"));
                }
                self.references.push((node, at, target.clone()));
                Ok(())
            }
            ("$anchor" | "$dynamicAnchor", Value::Text(name)) => match self.anchors.insert(name.clone(), node) {
                Some(other) if other != node => Err(refused(at, "two subschemas have this name")),
                _ => Ok(()),
            },
            ("pattern", Value::Text(pattern)) => self.pattern(&at, pattern),
            ("const" | "enum" | "default" | "examples" | "dependentRequired", _) => Ok(()),
            _ => match HOLDERS.iter().find(|row| row.0 == keyword) {
                Some(row) => self.held(node, &at, row, leaf, value),
                None if holds_rule(value) => Err(refused(at, "there is an `x-merge` in it, and this keyword holds no schemas")),
                None => Ok(()),
            },
        }
    }

    /// Walks the schemas that a keyword holds.
    fn held(&mut self, node: usize, at: &Pointer, row: &Row, leaf: Option<&Pointer>, value: &Value) -> Result<(), Problem> {
        let (keyword, holds, reach) = *row;
        let schemas: Vec<(Option<String>, &Value)> = match (holds, value) {
            (Holds::One, _) => vec![(None, value)],
            (Holds::List, Value::Array(list)) => list.iter().enumerate().map(|(nth, one)| (Some(nth.to_string()), one)).collect(),
            (Holds::Map, Value::Object(map)) => map.iter().map(|(name, one)| (Some(name.to_owned()), one)).collect(),
            _ => Vec::new(),
        };
        let leaf = leaf.filter(|_| keyword == "properties");
        for (name, schema) in schemas {
            let name = name.as_deref();
            let here = name.map_or_else(|| at.clone(), |name| at.child(name));
            if keyword == "patternProperties" {
                self.pattern(&here, name.unwrap_or_default())?;
            }
            let leaf = leaf.zip(name).map(|(leaf, name)| leaf.child(name));
            if let Some(child) = self.subschema(here, schema, leaf)? {
                self.nodes[node].edges.push((reach, child));
            }
        }
        self.nodes[node].unevaluated |= keyword.starts_with("unevaluated");
        Ok(())
    }

    fn merge(&mut self, at: &Pointer, schema: &Object, leaf: Option<&Pointer>, value: &Value) -> Result<(), Problem> {
        let Some(leaf) = leaf.filter(|leaf| !leaf.is_root()) else {
            return Err(refused(at, "a merge rule is for a property: from the root only `properties` may lead to it"));
        };
        let Some(rule) = value.as_str().and_then(Rule::parse) else {
            let names: Vec<&str> = Rule::ALL.into_iter().map(Rule::as_str).collect();
            return Err(refused(at, format!("a merge rule is one of {}", names.join(", "))));
        };
        fits(rule, schema).map_err(|detail| refused(at, detail))?;
        if rule != Rule::Last {
            self.rules.insert(leaf.clone(), rule);
        }
        Ok(())
    }

    fn pattern(&mut self, at: &Pointer, pattern: &str) -> Result<(), Problem> {
        self.patterns += 1;
        if self.patterns > PATTERNS_MAX {
            return Err(refused(at, format!("a schema has at most {PATTERNS_MAX} patterns")));
        }
        if pattern.len() > PATTERN_BYTES_MAX {
            let detail = format!("the pattern has {} bytes; {PATTERN_BYTES_MAX} is the limit", pattern.len());
            return Err(refused(at, detail).over(PATTERN_BYTES_MAX as u64, pattern.len() as u64));
        }
        Ok(())
    }

    fn spend(&mut self, at: &Pointer) -> Result<(), Problem> {
        self.spread += at.as_str().len();
        if self.spread > SPREAD_BYTES_MAX {
            let detail = format!("the places of its keywords have more than {SPREAD_BYTES_MAX} bytes: nest less, or use shorter names");
            return Err(refused(self.nodes.first().map_or("", |root| root.at.as_str()), detail));
        }
        Ok(())
    }

    /// Turns references into edges.
    fn resolve(&mut self, root: &Pointer) -> Result<(), Problem> {
        for (node, at, target) in std::mem::take(&mut self.references) {
            let Some(target) = self.target(root, &target) else { return Err(refused(at, "it leads to no subschema")) };
            self.nodes[node].edges.push((Reach::Here, target));
        }
        Ok(())
    }

    /// Only what was walked can be referred to: elsewhere is data, and nobody has looked at what it would mean.
    fn target(&self, root: &Pointer, reference: &str) -> Option<usize> {
        let fragment = percent_encoding::percent_decode_str(reference.strip_prefix('#')?).decode_utf8().ok()?;
        if fragment.is_empty() || fragment.starts_with('/') {
            self.places.get(&Pointer::parse(&format!("{root}{fragment}")).ok()?).copied()
        } else {
            self.anchors.get(fragment.as_ref()).copied()
        }
    }

    /// Refuses what could keep a document busy without end. References make a small schema mean a large one, so what
    /// counts is the schema with each of them written out, as far down as a document goes.
    fn bound(&self, root: &Pointer) -> Result<(), Problem> {
        let order = self.order()?;
        let mut below = vec![Cost::default(); self.nodes.len()];
        for _ in 0..=DOCUMENT_DEPTH_MAX {
            let mut here = below.clone();
            for &node in &order {
                here[node] = self.cost(node, &here, &below);
            }
            if here[0].visits > VISITS_MAX || here[0].nested > NESTED_MAX {
                let detail = format!(
                    "with its references written out the schema is too large: a value, and those below it on one way down, would \
                     meet more than {VISITS_MAX} subschemas, or {NESTED_MAX} inside each other"
                );
                return Err(refused(root, detail));
            }
            if here == below {
                break;
            }
            below = here;
        }
        Ok(())
    }

    /// What a subschema costs, given the costs of those it applies to the same value, and to values below.
    fn cost(&self, node: usize, here: &[Cost], below: &[Cost]) -> Cost {
        let Node { edges, unevaluated, .. } = &self.nodes[node];
        let again = if *unevaluated { UNEVALUATED_FACTOR } else { 1 };
        let (mut visits, mut apart, mut nested) = (1u64, 0u64, 0u64);
        for &(reach, child) in edges {
            let cost = match reach {
                Reach::Aside => continue,
                Reach::Here => here[child],
                Reach::Below | Reach::Apart => below[child],
            };
            nested = nested.max(cost.nested);
            match reach {
                Reach::Apart => apart = apart.max(cost.visits),
                Reach::Here => visits = visits.saturating_add(cost.visits.saturating_mul(again)),
                Reach::Aside | Reach::Below => visits = visits.saturating_add(cost.visits),
            }
        }
        Cost { visits: visits.saturating_add(apart), nested: nested + 1 }
    }

    /// All subschemas, each after those it applies to the same value.
    fn order(&self) -> Result<Vec<usize>, Problem> {
        let mut states = vec![State::New; self.nodes.len()];
        let mut order = Vec::with_capacity(self.nodes.len());
        for node in 0..self.nodes.len() {
            self.visit(node, NESTED_MAX, &mut states, &mut order)?;
        }
        Ok(order)
    }

    fn visit(&self, node: usize, levels: u64, states: &mut [State], order: &mut Vec<usize>) -> Result<(), Problem> {
        match states[node] {
            State::Done => return Ok(()),
            State::Open => return Err(refused(&self.nodes[node].at, "it applies itself to the same value again, which never ends")),
            State::New => states[node] = State::Open,
        }
        let Some(levels) = levels.checked_sub(1) else {
            return Err(refused(&self.nodes[node].at, format!("more than {NESTED_MAX} subschemas inside each other lead here")));
        };
        for &(reach, child) in &self.nodes[node].edges {
            if matches!(reach, Reach::Here) {
                self.visit(child, levels, states, order)?;
            }
        }
        states[node] = State::Done;
        order.push(node);
        Ok(())
    }
}

/// Subschemas that are applied to a value and to those below it on the costliest way down; and how many of them at most
/// inside each other, which is what takes stack.
#[derive(Clone, Copy, Default, PartialEq)]
struct Cost {
    visits: u64,
    nested: u64,
}

#[derive(Clone, Copy)]
enum State {
    New,
    Open,
    Done,
}

fn is_draft(uri: &str) -> bool {
    uri.strip_suffix('#').unwrap_or(uri) == "https://json-schema.org/draft/2020-12/schema"
}

/// A rule where nobody reads it would be a rule lost in silence.
fn holds_rule(value: &Value) -> bool {
    match value {
        Value::Object(object) => object.iter().any(|(name, value)| name == "x-merge" || holds_rule(value)),
        Value::Array(members) => members.iter().any(holds_rule),
        _ => false,
    }
}

/// Whether a rule can merge what its property may be; the error says why not.
fn fits(rule: Rule, schema: &Object) -> Result<(), String> {
    let name = rule.as_str();
    if schema.get("properties").is_some() {
        return Err(format!("`{name}` is for a leaf, and this property has `properties`"));
    }
    // `min`, `max` and `join` fall back to `last` where not all fit; the other two have no such way out.
    let (wanted, null): (&[&str], bool) = match rule {
        Rule::Last | Rule::Ask | Rule::LatestEdit => return Ok(()),
        Rule::Min | Rule::Max => (&["number", "integer"], true),
        Rule::Join => (&["string"], true),
        Rule::Counter => (&["number", "integer"], false),
        Rule::Set => (&["array"], false),
    };
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::Text(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let wants = wanted.join(" or ");
    if types.is_empty() {
        return Err(format!("give the property a type: `{name}` merges {wants}"));
    }
    let other = types.iter().find(|one| !(wanted.contains(one) || null && **one == "null"));
    match other.or(types.first().filter(|_| types.iter().all(|one| *one == "null"))) {
        Some(other) => Err(format!("`{name}` merges {wants}, not {other}")),
        None => Ok(()),
    }
}
