//! What one leaf shows, computed from what stands there, never from an earlier value.

use crate::clock::{Millis, Stamp};
use crate::json::Value;
use std::collections::HashSet;

/// How standing sets of one leaf that had not seen each other merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    #[default]
    Last,
    Ask,
    Min,
    Max,
    LatestEdit,
    Join,
    /// Acts at ingest; sets that remain merge as `last`.
    Counter,
    /// Acts at ingest; sets that remain merge as `last`.
    Set,
}

impl Rule {
    pub const ALL: [Self; 8] = [Self::Last, Self::Ask, Self::Min, Self::Max, Self::LatestEdit, Self::Join, Self::Counter, Self::Set];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Ask => "ask",
            Self::Min => "min",
            Self::Max => "max",
            Self::LatestEdit => "latest-edit",
            Self::Join => "join",
            Self::Counter => "counter",
            Self::Set => "set",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.as_str() == text)
    }
}

/// What joined texts are joined by.
pub const JOINT: &str = "\n---\n";

/// Something that stands at a leaf.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which op of the fold it is of; ops are numbered in T order.
    pub op: usize,
    pub what: What,
    /// Members taken out of it, as canonical texts.
    pub taken: HashSet<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Set { value: Value, rule: Rule, edited_at: Millis },
    Increment(f64),
    Add(Vec<Value>),
}

impl What {
    /// A set; `edited_at` is never later than the stamp, and is the stamp where the client said nothing.
    pub fn set(value: Value, rule: Rule, edited_at: Option<Millis>, stamp: Stamp) -> Self {
        let edited_at = edited_at.unwrap_or(Millis::MAX).min(stamp.millis());
        Self::Set { value, rule, edited_at }
    }

    /// A set of `{}`: it only asks for an object.
    pub fn is_empty_object(&self) -> bool {
        matches!(self, Self::Set { value: Value::Object(object), .. } if object.is_empty())
    }
}

/// What a leaf shows, and which of its entries nobody is shown.
#[derive(Debug)]
pub struct Shown {
    pub value: Value,
    /// The rule that picked; `last` where nothing was to pick.
    pub rule: Rule,
    /// Places in the leaf's entries: these are conflicts.
    pub hidden: Vec<usize>,
}

/// Computes a leaf from its entries, which stand in T order. `None` where nothing stands.
pub fn show(entries: &[Entry]) -> Option<Shown> {
    let sets: Vec<usize> = (0..entries.len()).filter(|at| matches!(entries[*at].what, What::Set { .. })).collect();
    let rule = sets.last().map_or(Rule::Last, |last| rule_of(&entries[*last]));
    let mut hidden = Vec::new();
    let mut value = match (pick(entries, &sets, rule), entries.first()) {
        (Some(Picked::Joined(text)), _) => Value::Text(text),
        (Some(Picked::One(at)), _) => {
            let shown = set_value(&entries[at]);
            hidden.extend(sets.iter().copied().filter(|other| set_value(&entries[*other]) != shown));
            without_taken(shown, &entries[at].taken)
        }
        (None, None) => return None,
        (None, Some(_)) if entries.iter().any(|entry| matches!(entry.what, What::Increment(_))) => Value::Number(0.0),
        (None, Some(_)) => Value::Array(Vec::new()),
    };
    for (at, entry) in entries.iter().enumerate() {
        match (&entry.what, &mut value) {
            (What::Set { .. }, _) => {}
            (What::Increment(by), Value::Number(number)) if (*number + by).is_finite() => *number = plus(*number, *by),
            (What::Add(members), Value::Array(array)) => join_members(array, members, &entry.taken),
            _ => hidden.push(at),
        }
    }
    Some(Shown { value, rule, hidden })
}

/// Sum of two numbers; zero has one sign only, as in the canonical text.
pub fn plus(number: f64, by: f64) -> f64 {
    let sum = number + by;
    if sum == 0.0 { 0.0 } else { sum }
}

/// Appends members that are not there yet and were not taken out.
pub fn join_members(array: &mut Vec<Value>, members: &[Value], taken: &HashSet<String>) {
    let mut there: HashSet<String> = array.iter().map(Value::canonical).collect();
    for member in members {
        let text = member.canonical();
        if !taken.contains(&text) && there.insert(text) {
            array.push(member.clone());
        }
    }
}

enum Picked {
    One(usize),
    Joined(String),
}

fn pick(entries: &[Entry], sets: &[usize], rule: Rule) -> Option<Picked> {
    let last = *sets.last()?;
    let numbers = || sets.iter().map(|at| set_value(&entries[*at]).as_number()).collect::<Option<Vec<f64>>>();
    let best = |better: fn(f64, f64) -> bool, keys: Option<Vec<f64>>| {
        let keys = keys?;
        let mut best = 0;
        for at in 1..keys.len() {
            // Of equals the last in T is shown.
            if !better(keys[best], keys[at]) {
                best = at;
            }
        }
        Some(sets[best])
    };
    let one = match rule {
        Rule::Last | Rule::Ask | Rule::Counter | Rule::Set => last,
        Rule::Min => best(|kept, new| kept < new, numbers()).unwrap_or(last),
        Rule::Max => best(|kept, new| kept > new, numbers()).unwrap_or(last),
        Rule::LatestEdit => {
            let times = sets.iter().map(|at| edited_at(&entries[*at]) as f64).collect();
            best(|kept, new| kept > new, Some(times)).unwrap_or(last)
        }
        Rule::Join => {
            let mut texts: Vec<&str> = Vec::new();
            for at in sets {
                match set_value(&entries[*at]).as_str() {
                    Some(text) if texts.contains(&text) => {}
                    Some(text) => texts.push(text),
                    None => return Some(Picked::One(last)),
                }
            }
            return Some(Picked::Joined(texts.join(JOINT)));
        }
    };
    Some(Picked::One(one))
}

fn set_value(entry: &Entry) -> &Value {
    match &entry.what {
        What::Set { value, .. } => value,
        _ => &Value::Null,
    }
}

fn rule_of(entry: &Entry) -> Rule {
    match entry.what {
        What::Set { rule, .. } => rule,
        _ => Rule::Last,
    }
}

fn edited_at(entry: &Entry) -> Millis {
    match entry.what {
        What::Set { edited_at, .. } => edited_at,
        _ => 0,
    }
}

fn without_taken(value: &Value, taken: &HashSet<String>) -> Value {
    match value {
        Value::Array(members) if !taken.is_empty() => {
            Value::Array(members.iter().filter(|member| !taken.contains(&member.canonical())).cloned().collect())
        }
        other => other.clone(),
    }
}
