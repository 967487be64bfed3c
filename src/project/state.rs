//! A fold's state as text, so that it can be kept (a keyframe) and gone on with.

use super::conflict::Reason;
use super::counts::{Count, Counts, Mark, Run};
use super::fold::{Fold, Lost};
use super::leaf::{Add, Leaf, Rule, Set};
use super::op::{Last, Latest, Op, Spot};
use crate::clock::{Millis, Stamp};
use crate::id::{Position, Region, parse_position};
use crate::journal::Pointer;
use crate::json::{self, Object, Value};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// The state as canonical JSON.
pub fn write(fold: &Fold) -> String {
    let leaves = fold.leaves.iter().map(|(pointer, leaf)| (pointer.to_string(), leaf_value(leaf)));
    let lost = fold.lost.iter().map(|lost| {
        let reason = Value::text(lost.reason.as_str());
        object([("op", op_value(&lost.op)), ("pointer", Value::text(lost.pointer.as_str())), ("reason", reason)])
    });
    let state = [
        ("there", Value::Bool(fold.there)),
        ("deleted_once", Value::Bool(fold.deleted_once)),
        ("leaves", Value::Object(leaves.collect())),
        ("tombstone", Value::Array(fold.tombstone.iter().map(op_value).collect())),
        ("lost", Value::Array(lost.collect())),
        ("latest", Value::text(write_latest(&fold.latest))),
    ];
    object(state).canonical()
}

/// Reads a state; the error is a sentence for people.
pub fn read(text: &str) -> Result<Fold, String> {
    json::parse(text).ok().as_ref().and_then(fold).ok_or_else(|| "a keyframe's state is unreadable".into())
}

/// The last events of each journal as text, `eu:12:<client>:9:<other client>`, regions parted by commas.
pub fn write_latest(latest: &Latest) -> String {
    let parts = latest.0.iter().map(|(region, last)| format!("{region}:{}", last_text(last)));
    parts.collect::<Vec<_>>().join(",")
}

pub fn read_latest(text: &str) -> Option<Latest> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    let latest = parts.map(|part| {
        let (region, last) = part.split_once(':')?;
        Some((Region::new(region).ok()?, read_last(last)?))
    });
    latest.collect::<Option<_>>().map(Latest)
}

fn last_text(last: &Last) -> String {
    let other = last.other.map(|(position, client)| format!(":{position}:{client}")).unwrap_or_default();
    format!("{}:{}{other}", last.position, last.client)
}

fn read_last(text: &str) -> Option<Last> {
    let mut parts = text.split(':');
    let (position, client) = (parse_position(parts.next()?)?, Uuid::parse_str(parts.next()?).ok()?);
    let other = match parts.next() {
        None => None,
        Some(position) => Some((parse_position(position)?, Uuid::parse_str(parts.next()?).ok()?)),
    };
    Some(Last { position, client, other })
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn op_value(op: &Arc<Op>) -> Value {
    let mut text = format!("{:x}", op.stamp.to_i64());
    for spot in std::iter::once(&op.first).chain(&op.copies) {
        text.push_str(&format!(" {}:{}:{}", spot.region, spot.position, spot.client));
    }
    Value::Text(text)
}

fn op(value: &Value) -> Option<Arc<Op>> {
    let mut parts = value.as_str()?.split(' ');
    let stamp = Stamp::from_i64(i64::from_str_radix(parts.next()?, 16).ok()?);
    let mut spots = parts.map(|part| {
        let mut parts = part.split(':');
        let (region, position, client) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Spot { region: Region::new(region).ok()?, position: parse_position(position)?, client: Uuid::parse_str(client).ok()? })
    });
    let first = spots.next()??;
    Some(Arc::new(Op { stamp, first, copies: spots.collect::<Option<_>>()? }))
}

fn leaf_value(leaf: &Leaf) -> Value {
    let mut members = Object::new();
    let mut list = |name: &str, values: Vec<Value>| {
        if !values.is_empty() {
            members.insert(name, Value::Array(values));
        }
    };
    list("sets", leaf.sets.iter().map(set_value).collect());
    list("counts", leaf.counts.0.iter().map(count_value).collect());
    list("adds", leaf.adds.iter().map(add_value).collect());
    Value::Object(members)
}

fn set_value(set: &Set) -> Value {
    object([
        ("op", op_value(&set.op)),
        ("value", set.value.clone()),
        ("rule", Value::text(set.rule.as_str())),
        ("edited_at", Value::Number(set.edited_at as f64)),
        ("taken", taken_value(&set.taken)),
    ])
}

fn add_value(add: &Add) -> Value {
    object([("op", op_value(&add.op)), ("members", Value::Array(add.members.clone())), ("taken", taken_value(&add.taken))])
}

fn taken_value(taken: &HashSet<String>) -> Value {
    let mut texts: Vec<&String> = taken.iter().collect();
    texts.sort();
    Value::Array(texts.into_iter().map(Value::text).collect())
}

fn count_value(count: &Count) -> Value {
    match count {
        Count::One(op, by) => object([("op", op_value(op)), ("by", Value::Number(*by))]),
        Count::Run(run) => {
            let spans =
                run.spans.iter().map(|(region, (first, last))| (region.to_string(), Value::Text(format!("{first}:{}", last_text(last)))));
            let mut members = Object::new();
            members.insert("spans", Value::Object(spans.collect()));
            if let Some(clients) = &run.clients {
                members.insert("clients", Value::Array(clients.iter().map(|client| Value::Text(client.to_string())).collect()));
            }
            members.insert("count", Value::Number(run.count as f64));
            members.insert("mark", Value::Text(format!("{:x}", run.mark.0)));
            members.insert("from", Value::Number(run.from));
            members.insert("to", Value::Number(run.to));
            if let Some((sum, sizes)) = run.exact {
                members.insert("exact", Value::Array(vec![Value::Number(sum), Value::Number(sizes)]));
            }
            members.insert("first", op_value(&run.first));
            members.insert("last", op_value(&run.last));
            Value::Object(members)
        }
    }
}

fn fold(value: &Value) -> Option<Fold> {
    let members = value.as_object()?;
    let mut fold = Fold::default();
    fold.there = members.get("there")?.as_bool()?;
    fold.deleted_once = members.get("deleted_once")?.as_bool()?;
    fold.latest = read_latest(members.get("latest")?.as_str()?)?;
    fold.tombstone = members.get("tombstone")?.as_array()?.iter().map(op).collect::<Option<_>>()?;
    for (pointer, value) in members.get("leaves")?.as_object()?.iter() {
        fold.leaves.insert(Pointer::parse(pointer).ok()?, leaf(value)?);
    }
    for value in members.get("lost")?.as_array()? {
        let lost = value.as_object()?;
        let reason = Reason::parse(lost.get("reason")?.as_str()?)?;
        fold.lost.push(Lost { op: op(lost.get("op")?)?, pointer: Pointer::parse(lost.get("pointer")?.as_str()?).ok()?, reason });
    }
    Some(fold)
}

fn leaf(value: &Value) -> Option<Leaf> {
    let members = value.as_object()?;
    let list = |name: &str| members.get(name).and_then(Value::as_array).unwrap_or_default();
    Some(Leaf {
        sets: list("sets").iter().map(set).collect::<Option<_>>()?,
        counts: Counts(list("counts").iter().map(count).collect::<Option<_>>()?),
        adds: list("adds").iter().map(add).collect::<Option<_>>()?,
    })
}

fn set(value: &Value) -> Option<Set> {
    let members = value.as_object()?;
    Some(Set {
        op: op(members.get("op")?)?,
        value: members.get("value")?.clone(),
        rule: Rule::parse(members.get("rule")?.as_str()?)?,
        edited_at: members.get("edited_at")?.as_number()? as Millis,
        taken: taken(members.get("taken")?)?,
    })
}

fn add(value: &Value) -> Option<Add> {
    let members = value.as_object()?;
    Some(Add { op: op(members.get("op")?)?, members: members.get("members")?.as_array()?.to_vec(), taken: taken(members.get("taken")?)? })
}

fn taken(value: &Value) -> Option<HashSet<String>> {
    value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

fn count(value: &Value) -> Option<Count> {
    let members = value.as_object()?;
    let Some(spans) = members.get("spans") else {
        return Some(Count::One(op(members.get("op")?)?, members.get("by")?.as_number()?));
    };
    let mut read: BTreeMap<Region, (Position, Last)> = BTreeMap::new();
    for (region, span) in spans.as_object()?.iter() {
        let (first, last) = span.as_str()?.split_once(':')?;
        read.insert(Region::new(region).ok()?, (parse_position(first)?, read_last(last)?));
    }
    let clients = match members.get("clients") {
        None => None,
        Some(clients) => Some(clients.as_array()?.iter().map(|client| Uuid::parse_str(client.as_str()?).ok()).collect::<Option<_>>()?),
    };
    let exact = match members.get("exact").and_then(Value::as_array) {
        None => None,
        Some([sum, sizes]) => Some((sum.as_number()?, sizes.as_number()?)),
        Some(_) => return None,
    };
    Some(Count::Run(Run {
        spans: read,
        clients,
        count: members.get("count")?.as_u64()?,
        mark: Mark(u64::from_str_radix(members.get("mark")?.as_str()?, 16).ok()?),
        from: members.get("from")?.as_number()?,
        to: members.get("to")?.as_number()?,
        exact,
        first: op(members.get("first")?)?,
        last: op(members.get("last")?)?,
    }))
}
