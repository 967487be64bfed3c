//! What an op means, given the body its author had seen. Pure.

use super::batch::Action;
use super::schema::Definition;
use crate::journal::effect::leaves;
use crate::journal::{Effect, Pointer};
use crate::json::{Object, Value};
use crate::problem::{Problem, ProblemKind};
use crate::project::leaf::{Rule, join_members, plus};
use std::collections::HashSet;

/// What an op's author had seen of the document.
#[derive(Clone, Copy)]
pub enum View<'a> {
    /// Part of it has not arrived here: nothing can be compared.
    Unknown,
    /// All of it is here: the fold of just those events.
    Known { body: Option<&'a Object>, deleted: bool },
}

/// Whether what an op means depends on the body its author had seen, and not only on whether that was deleted.
pub fn needs_body(action: &Action, defined: bool) -> bool {
    match action {
        Action::Put(_) => true,
        Action::Patch(value) => defined || !leaves(value).iter().any(|(_, leaf)| **leaf != Value::Null),
        _ => false,
    }
}

/// Decides the effect of an op. Under a definition, sets of counters and sets become what was meant by them, as far as
/// that fits the document as it is here.
pub fn decide(action: &Action, view: View<'_>, definition: Option<&Definition>, here: Option<&Object>) -> Effect {
    let as_it_is = matches!(action, Action::Set(..));
    let mut effect = match (action, view) {
        (Action::Set(pointer, value), _) => Effect { set: vec![(pointer.clone(), value.clone())], ..Effect::default() },
        (Action::Put(value), View::Known { body, .. }) => put(body, value),
        (Action::Put(value), View::Unknown) => {
            let mut effect = put(None, value);
            effect.drop.push(Pointer::root());
            effect
        }
        (Action::Patch(value), view) => {
            let mut effect = Effect::default();
            patch(&Pointer::root(), value.clone(), &mut effect);
            if effect.set.is_empty() && !matches!(view, View::Known { body: Some(_), .. } | View::Unknown) {
                effect.set.push((Pointer::root(), Value::Object(Object::new())));
            }
            effect
        }
        (Action::Increment(pointer, by), _) => Effect { increment: vec![(pointer.clone(), *by)], ..Effect::default() },
        (Action::Add(pointer, values), _) => Effect { add: vec![(pointer.clone(), values.clone())], ..Effect::default() },
        (Action::Remove(pointer, values), _) => Effect { remove: vec![(pointer.clone(), values.clone())], ..Effect::default() },
        (Action::Delete, _) => Effect::delete(),
    };
    if let (Some(definition), View::Known { body, .. }, false) = (definition, view, as_it_is) {
        mean(&mut effect, definition, body, here);
    }
    // Whoever writes onto what he saw deleted means none of what an unseen edit may have brought back.
    if let View::Known { deleted: true, .. } = view
        && effect.creates()
    {
        effect.drop = vec![Pointer::root()];
    }
    effect.sort();
    effect
}

/// Under the rules `counter` and `set` a set says by how much the value its author had seen is to change.
fn mean(effect: &mut Effect, definition: &Definition, seen: Option<&Object>, here: Option<&Object>) {
    for (pointer, value) in std::mem::take(&mut effect.set) {
        let seen = place(seen, &pointer);
        let here = place(here, &pointer);
        let changed = match (definition.rule(&pointer), seen, here) {
            (_, Place::Blocked, _) | (_, _, Place::Blocked) => None,
            (Rule::Counter, seen, here) => count(&value, seen, here).map(|by| effect.increment.extend(by.map(|by| (pointer.clone(), by)))),
            (Rule::Set, seen, here) => difference(&value, seen, here).map(|(add, remove)| {
                effect.add.extend(add.map(|add| (pointer.clone(), add)));
                effect.remove.extend(remove.map(|remove| (pointer.clone(), remove)));
            }),
            _ => None,
        };
        if changed.is_none() {
            effect.set.push((pointer, value));
        }
    }
}

/// What stands at a pointer.
#[derive(Clone, Copy)]
enum Place<'a> {
    Nothing,
    Value(&'a Value),
    /// Nothing can: a leaf above it is no object.
    Blocked,
}

fn place<'a>(body: Option<&'a Object>, pointer: &Pointer) -> Place<'a> {
    let Some(mut object) = body else { return Place::Nothing };
    let mut names = pointer.names().peekable();
    while let Some(name) = names.next() {
        match object.get(&name) {
            None => return Place::Nothing,
            Some(value) if names.peek().is_none() => return Place::Value(value),
            Some(Value::Object(inner)) => object = inner,
            Some(_) => return Place::Blocked,
        }
    }
    Place::Blocked
}

/// By how much; `Some(None)`: by nothing. `None`: it is no difference of numbers, or not exactly one.
fn count(value: &Value, seen: Place<'_>, here: Place<'_>) -> Option<Option<f64>> {
    let number = |place: Place<'_>| match place {
        Place::Nothing => Some(0.0),
        Place::Value(value) => value.as_number(),
        Place::Blocked => None,
    };
    let (wanted, before, now) = (value.as_number()?, number(seen)?, number(here)?);
    let by = plus(wanted, -before);
    if plus(before, by).to_bits() != wanted.to_bits() || !(now + by).is_finite() {
        return None;
    }
    // Where nothing was seen even 0 makes the leaf.
    Some((by != 0.0 || matches!(seen, Place::Nothing)).then_some(by))
}

/// Members to add and to remove.
type Difference = (Option<Vec<Value>>, Option<Vec<Value>>);

fn difference(value: &Value, seen: Place<'_>, here: Place<'_>) -> Option<Difference> {
    let members = |place: Place<'_>| match place {
        Place::Nothing => Some(Vec::new()),
        Place::Value(value) => value.as_array().map(<[Value]>::to_vec),
        Place::Blocked => None,
    };
    let (wanted, before) = (value.as_array()?, members(seen)?);
    members(here)?;
    let texts = |members: &[Value]| members.iter().map(Value::canonical).collect::<HashSet<String>>();
    let (new, old) = (texts(wanted), texts(&before));
    let mut after: Vec<Value> = before.iter().filter(|member| new.contains(&member.canonical())).cloned().collect();
    let add: Vec<Value> = wanted.iter().filter(|member| !old.contains(&member.canonical())).cloned().collect();
    let mut gone = old.clone();
    let remove: Vec<Value> =
        before.iter().filter(|member| !new.contains(&member.canonical()) && gone.remove(&member.canonical())).cloned().collect();
    join_members(&mut after, &add);
    if after != wanted {
        return None; // another order, or members that stand twice
    }
    let makes = !add.is_empty() || matches!(seen, Place::Nothing);
    Some((makes.then_some(add), (!remove.is_empty()).then_some(remove)))
}

/// The leaves that differ are set, those that are gone dropped, nothing else is touched.
fn put(seen: Option<&Object>, value: &Object) -> Effect {
    let mut effect = Effect::default();
    if seen.is_none() && value.is_empty() {
        effect.set.push((Pointer::root(), Value::Object(Object::new())));
    }
    differ(&Pointer::root(), seen, value, &mut effect);
    effect
}

fn differ(at: &Pointer, old: Option<&Object>, new: &Object, effect: &mut Effect) {
    for (name, before) in old.into_iter().flat_map(Object::iter) {
        match (before, new.get(name)) {
            (Value::Object(before), None) if !before.is_empty() => differ(&at.child(name), Some(before), &Object::new(), effect),
            (_, None) => effect.drop.push(at.child(name)),
            // `{}` only asks for an object: what was below it goes with a drop there.
            (Value::Object(before), Some(Value::Object(after))) if after.is_empty() && !before.is_empty() => {
                effect.drop.push(at.child(name))
            }
            // Something stands there, or below it, or is a value of its own: a set says the rest.
            _ => {}
        }
    }
    for (name, after) in new.iter() {
        match (old.and_then(|old| old.get(name)), after) {
            (before, Value::Object(after)) if !after.is_empty() => {
                differ(&at.child(name), before.and_then(Value::as_object), after, effect)
            }
            (before, leaf) if before != Some(leaf) => effect.set.push((at.child(name), leaf.clone())),
            _ => {}
        }
    }
}

/// Null drops the field; anything else that is no object with members is set.
fn patch(at: &Pointer, value: Object, effect: &mut Effect) {
    for (name, value) in value {
        let here = at.child(&name);
        match value {
            Value::Null => effect.drop.push(here),
            Value::Object(inner) if !inner.is_empty() => patch(&here, inner, effect),
            leaf => effect.set.push((here, leaf)),
        }
    }
}

/// Whether it depends on the document here whether an op makes sense.
pub fn is_checked(action: &Action) -> bool {
    matches!(action, Action::Increment(..) | Action::Add(..) | Action::Remove(..))
}

/// Whether an op makes sense on the document as it is here.
pub fn check(action: &Action, here: Option<&Object>) -> Result<(), Problem> {
    let (pointer, wanted) = match action {
        Action::Increment(pointer, _) => (pointer, "a number"),
        Action::Add(pointer, _) | Action::Remove(pointer, _) => (pointer, "an array"),
        _ => return Ok(()),
    };
    let Some(mut object) = here else { return Ok(()) };
    let mut place = Pointer::root();
    let names: Vec<_> = pointer.names().collect();
    for (at, name) in names.iter().enumerate() {
        place = place.child(name);
        let value = match object.get(name) {
            None => return Ok(()),
            Some(value) => value,
        };
        let last = at + 1 == names.len();
        match value {
            Value::Object(inner) if !last => object = inner,
            Value::Number(number) if last && wanted == "a number" => {
                let Action::Increment(_, by) = action else { return Ok(()) };
                if !(number + by).is_finite() {
                    return Err(Problem::new(ProblemKind::Number, "the sum is beyond what a double holds").at("/by"));
                }
            }
            Value::Array(_) if last && wanted == "an array" => {}
            other => {
                let detail = format!("at {place} of the document stands {}, and this op needs {wanted}", other.kind());
                let detail =
                    if last { detail } else { format!("at {place} of the document stands {}, not an object to go into", other.kind()) };
                return Err(Problem::new(ProblemKind::Type, detail).at("/path"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::parse;
    use crate::project::body::apply;

    #[test]
    fn a_put_leaves_what_was_put_whatever_was_there_and_touches_only_what_differs() {
        let bodies: Vec<Object> = [
            "{}",
            r#"{"a":1}"#,
            r#"{"a":2,"b":[1,{"c":2}]}"#,
            r#"{"a":{}}"#,
            r#"{"a":{"b":{}}}"#,
            r#"{"a":{"b":1}}"#,
            r#"{"a":{"b":1,"c":{"d":null}}}"#,
            r#"{"a":{"b":{"c":1},"x":2},"z":"text"}"#,
            r#"{"a":[],"a/b":{"~":1},"":{"":0}}"#,
            r#"{"a":null}"#,
            r#"{"a":{"c":{"d":{"e":1}}}}"#,
        ]
        .iter()
        .map(|text| parse(text).unwrap().as_object().unwrap().clone())
        .collect();
        for new in &bodies {
            let mut body = None;
            apply(&mut body, &put(None, new)).unwrap();
            assert_eq!(body.as_ref(), Some(new));
            for old in &bodies {
                let effect = put(Some(old), new);
                let mut body = Some(old.clone());
                apply(&mut body, &effect).unwrap();
                assert_eq!(body.as_ref(), Some(new), "{old:?} → {effect:?}");
                assert_eq!(effect == Effect::default(), old == new);
                let kept = leaves(old).into_iter().filter(|leaf| leaves(new).contains(leaf));
                for (pointer, _) in kept {
                    let touched = effect.pointers().into_iter().any(|at| at == pointer || at.is_above(&pointer));
                    assert!(!touched, "{old:?} → {new:?} touches {pointer}");
                }
            }
        }
    }
}
