//! What an op means, given the body its author had seen. Pure.

use super::batch::Action;
use crate::journal::effect::leaves;
use crate::journal::{Effect, Pointer};
use crate::json::{Object, Value};
use crate::problem::{Problem, ProblemKind};
use crate::project::body;

/// What an op's author had seen of the document.
pub enum View {
    /// Part of it has not arrived here: nothing can be compared.
    Unknown,
    /// All of it is here: the fold of just those events.
    Known { body: Option<Object>, deleted: bool },
}

/// Decides the effect of an op.
pub fn decide(action: Action, view: &View) -> Effect {
    let mut effect = match (action, view) {
        (Action::Put(value), View::Known { body, .. }) => put(body.as_ref(), &value),
        (Action::Put(value), View::Unknown) => {
            let mut effect = put(None, &value);
            effect.drop.push(Pointer::root());
            effect
        }
        (Action::Patch(value), view) => {
            let mut effect = Effect::default();
            patch(&Pointer::root(), value, &mut effect);
            if effect.set.is_empty() && !matches!(view, View::Known { body: Some(_), .. } | View::Unknown) {
                effect.set.push((Pointer::root(), Value::Object(Object::new())));
            }
            effect
        }
        (Action::Increment(pointer, by), _) => Effect { increment: vec![(pointer, by)], ..Effect::default() },
        (Action::Add(pointer, values), _) => Effect { add: vec![(pointer, values)], ..Effect::default() },
        (Action::Remove(pointer, values), _) => Effect { remove: vec![(pointer, values)], ..Effect::default() },
        (Action::Delete, _) => Effect::delete(),
    };
    // Whoever writes onto what he saw deleted means none of what an unseen edit may have brought back.
    if let View::Known { deleted: true, .. } = view
        && effect.creates()
    {
        effect.drop = vec![Pointer::root()];
    }
    effect.sort();
    effect
}

/// The leaves that differ are set, those that are gone dropped, nothing else is touched.
fn put(seen: Option<&Object>, value: &Object) -> Effect {
    let mut effect = Effect::default();
    let empty = Object::new();
    let old = seen.unwrap_or(&empty);
    let new = leaves(value);
    if seen.is_none() && new.is_empty() {
        effect.set.push((Pointer::root(), Value::Object(Object::new())));
    }
    for (pointer, _) in leaves(old) {
        match covering(value, &pointer) {
            Cover::Stays => {}
            Cover::Gone => effect.drop.push(pointer),
            // `{}` only asks for an object: what was below it goes with a drop there.
            Cover::Emptied(above) if effect.drop.last() != Some(&above) => effect.drop.push(above),
            Cover::Emptied(_) => {}
        }
    }
    for (pointer, leaf) in new {
        if body::get(old, &pointer) != Some(leaf) {
            effect.set.push((pointer, leaf.clone()));
        }
    }
    effect
}

/// What becomes of an old leaf in a new value.
enum Cover {
    /// Something stands there, below it, or, as a value of its own, above it: a set says the rest.
    Stays,
    Gone,
    /// An empty object stands above it.
    Emptied(Pointer),
}

fn covering(value: &Object, pointer: &Pointer) -> Cover {
    let mut object = value;
    let mut here = Pointer::root();
    let mut names = pointer.names().peekable();
    while let Some(name) = names.next() {
        here = here.child(&name);
        match object.get(&name) {
            None => return Cover::Gone,
            Some(_) if names.peek().is_none() => return Cover::Stays,
            Some(Value::Object(inner)) if inner.is_empty() => return Cover::Emptied(here),
            Some(Value::Object(inner)) => object = inner,
            Some(_) => return Cover::Stays,
        }
    }
    Cover::Stays
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

/// Whether an op makes sense on the document as it is here.
pub fn check(action: &Action, here: Option<&Object>) -> Result<(), Problem> {
    let (pointer, wanted) = match action {
        Action::Increment(pointer, _) => (pointer, "a number"),
        Action::Add(pointer, _) | Action::Remove(pointer, _) => (pointer, "an array"),
        _ => return Ok(()),
    };
    let Some(mut object) = here else { return Ok(()) };
    let mut place = Pointer::root();
    let names: Vec<String> = pointer.names().collect();
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
