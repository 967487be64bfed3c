//! What one leaf shows, computed from what stands there, never from an earlier value.

use super::counts::{Counts, Stuck};
use super::op::Op;
use crate::clock::{Millis, Stamp};
use crate::json::Value;
use std::collections::HashSet;
use std::sync::Arc;

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

/// What stands at one leaf, each kind in T order.
#[derive(Clone, Debug, Default)]
pub struct Leaf {
    pub sets: Vec<Set>,
    pub counts: Counts,
    pub adds: Vec<Add>,
}

#[derive(Clone, Debug)]
pub struct Set {
    pub op: Arc<Op>,
    pub value: Value,
    pub rule: Rule,
    /// Never later than the stamp, and the stamp where the client said nothing.
    pub edited_at: Millis,
    /// Members taken out of it, as canonical texts.
    pub taken: HashSet<String>,
}

#[derive(Clone, Debug)]
pub struct Add {
    pub op: Arc<Op>,
    pub members: Vec<Value>,
    /// Members taken out of it, as canonical texts.
    pub taken: HashSet<String>,
}

impl Set {
    pub fn new(op: Arc<Op>, value: Value, rule: Rule, edited_at: Option<Millis>, stamp: Stamp) -> Self {
        let edited_at = edited_at.unwrap_or(Millis::MAX).min(stamp.millis());
        Self { op, value, rule, edited_at, taken: HashSet::new() }
    }

    /// A set of `{}`: it only asks for an object.
    pub fn is_empty_object(&self) -> bool {
        is_empty_object(&self.value)
    }
}

pub fn is_empty_object(value: &Value) -> bool {
    matches!(value, Value::Object(object) if object.is_empty())
}

/// What a leaf shows, and what of it nobody is shown.
#[derive(Debug)]
pub struct Shown {
    pub value: Value,
    /// The rule that picked; `last` where nothing was to pick.
    pub rule: Rule,
    /// Whose value it is: the op of the set that was picked, else of the last that counts or adds.
    pub by: Option<Arc<Op>>,
    /// Sets that were not picked.
    pub unpicked: Vec<Arc<Op>>,
    /// Increments and adds that the value does not take.
    pub unfit: Vec<Arc<Op>>,
}

/// What kind of value a leaf shows, which is quicker to tell than the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Number,
    Array,
    Object,
    Other,
}

impl Leaf {
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.counts.is_empty() && self.adds.is_empty()
    }

    /// One set and nothing else, as most are: it is shown.
    pub fn is_single(&self) -> bool {
        self.sets.len() == 1 && self.counts.is_empty() && self.adds.is_empty()
    }

    /// The last op in T that stands here.
    pub fn last(&self) -> Option<&Arc<Op>> {
        let last = [self.sets.last().map(|set| &set.op), self.counts.last(), self.adds.last().map(|add| &add.op)];
        last.into_iter().flatten().max_by(|a, b| a.place().cmp(&b.place()))
    }

    /// `None` where nothing stands.
    pub fn form(&self) -> Option<Form> {
        Some(match pick(&self.sets) {
            Some(Picked::Joined(_)) => Form::Other,
            Some(Picked::One(at)) => match self.sets[at].value {
                Value::Number(_) => Form::Number,
                Value::Array(_) => Form::Array,
                Value::Object(_) => Form::Object,
                _ => Form::Other,
            },
            None if !self.counts.is_empty() => Form::Number,
            None if !self.adds.is_empty() => Form::Array,
            None => return None,
        })
    }

    /// The number that increments are added to; `None` where they are not.
    pub fn base(&self) -> Option<f64> {
        match pick(&self.sets) {
            Some(Picked::One(at)) => self.sets[at].value.as_number(),
            Some(Picked::Joined(_)) => None,
            None => Some(0.0),
        }
    }

    /// `None` where nothing stands.
    pub fn show(&self) -> Result<Option<Shown>, Stuck> {
        let rule = self.sets.last().map_or(Rule::Last, |last| last.rule);
        let mut shown = Shown { value: Value::Null, rule, by: self.last().cloned(), unpicked: Vec::new(), unfit: Vec::new() };
        shown.value = match pick(&self.sets) {
            Some(Picked::Joined(text)) => Value::Text(text),
            Some(Picked::One(at)) => {
                let picked = &self.sets[at];
                shown.by = Some(picked.op.clone());
                shown.unpicked = self.sets.iter().filter(|set| set.value != picked.value).map(|set| set.op.clone()).collect();
                without_taken(&picked.value, &picked.taken)
            }
            None if !self.counts.is_empty() => Value::Number(0.0),
            None if !self.adds.is_empty() => Value::Array(Vec::new()),
            None => return Ok(None),
        };
        match &mut shown.value {
            Value::Number(number) => (*number, shown.unfit) = self.counts.add_to(*number)?,
            _ => shown.unfit = self.counts.each()?,
        }
        match &mut shown.value {
            Value::Array(array) => join_adds(array, &self.adds),
            _ => shown.unfit.extend(self.adds.iter().map(|add| add.op.clone())),
        }
        Ok(Some(shown))
    }
}

/// Sum of two numbers; zero has one sign only, as in the canonical text.
pub fn plus(number: f64, by: f64) -> f64 {
    let sum = number + by;
    if sum == 0.0 { 0.0 } else { sum }
}

/// Appends the members of adds, in T order, that are not there yet and were not taken out.
fn join_adds(array: &mut Vec<Value>, adds: &[Add]) {
    let mut there: HashSet<String> = array.iter().map(Value::canonical).collect();
    for add in adds {
        join_new(array, &mut there, &add.members, &add.taken);
    }
}

/// Appends members that are not there yet.
pub fn join_members(array: &mut Vec<Value>, members: &[Value]) {
    let mut there: HashSet<String> = array.iter().map(Value::canonical).collect();
    join_new(array, &mut there, members, &HashSet::new());
}

fn join_new(array: &mut Vec<Value>, there: &mut HashSet<String>, members: &[Value], taken: &HashSet<String>) {
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

fn pick(sets: &[Set]) -> Option<Picked> {
    let last = sets.len().checked_sub(1)?;
    let numbers = || sets.iter().map(|set| set.value.as_number()).collect::<Option<Vec<f64>>>();
    let best = |better: fn(f64, f64) -> bool, keys: Option<Vec<f64>>| {
        let keys = keys?;
        let mut best = 0;
        for at in 1..keys.len() {
            // Of equals the last in T is shown.
            if !better(keys[best], keys[at]) {
                best = at;
            }
        }
        Some(best)
    };
    let one = match sets[last].rule {
        Rule::Last | Rule::Ask | Rule::Counter | Rule::Set => last,
        Rule::Min => best(|kept, new| kept < new, numbers()).unwrap_or(last),
        Rule::Max => best(|kept, new| kept > new, numbers()).unwrap_or(last),
        Rule::LatestEdit => {
            let times = sets.iter().map(|set| set.edited_at as f64).collect();
            best(|kept, new| kept > new, Some(times)).unwrap_or(last)
        }
        Rule::Join => {
            let mut texts: Vec<&str> = Vec::new();
            for set in sets {
                match set.value.as_str() {
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

fn without_taken(value: &Value, taken: &HashSet<String>) -> Value {
    match value {
        Value::Array(members) if !taken.is_empty() => {
            Value::Array(members.iter().filter(|member| !taken.contains(&member.canonical())).cloned().collect())
        }
        other => other.clone(),
    }
}
