//! The short way: an op whose author had seen everything, on a document without conflicts, acts on the body alone.
//!
//! Why that is right: such an op ends every entry it touches, so what other entries had stood there no longer
//! matters, and what it adds stands last. Where it would be lost instead, the short way says so and changes nothing.

use super::leaf::{join_members, plus};
use crate::journal::{Effect, Pointer};
use crate::json::{Object, Value};
use std::borrow::Cow;
use std::collections::HashSet;

/// The op does not fit the body: only the whole fold can tell what becomes of it.
#[derive(Debug, PartialEq, Eq)]
pub struct NotSimple;

/// Applies an effect; `None` is a document that is deleted or never was there.
pub fn apply(body: &mut Option<Object>, effect: &Effect) -> Result<(), NotSimple> {
    if effect.delete {
        *body = None;
        return Ok(());
    }
    let Some(object) = body else {
        if effect.creates() {
            let mut object = Object::new();
            parts(&mut object, effect)?;
            *body = Some(object);
        }
        return Ok(());
    };
    if effect.increment.is_empty() && effect.add.is_empty() {
        return parts(object, effect);
    }
    // These may turn out not to fit when others of the same effect are already in.
    let mut after = object.clone();
    parts(&mut after, effect)?;
    *object = after;
    Ok(())
}

fn parts(body: &mut Object, effect: &Effect) -> Result<(), NotSimple> {
    // From the back, where members leave a sorted object without moving the rest.
    for pointer in effect.drop.iter().rev() {
        drop_at(body, pointer);
    }
    for (pointer, value) in &effect.set {
        set_at(body, pointer, value);
    }
    for (pointer, by) in &effect.increment {
        match leaf_at(body, pointer, || Value::Number(0.0))? {
            Value::Number(number) if (*number + by).is_finite() => *number = plus(*number, *by),
            _ => return Err(NotSimple),
        }
    }
    for (pointer, members) in &effect.add {
        match leaf_at(body, pointer, || Value::Array(Vec::new()))? {
            Value::Array(array) => join_members(array, members),
            _ => return Err(NotSimple),
        }
    }
    for (pointer, members) in &effect.remove {
        if effect.add.iter().any(|(added, _)| added == pointer) {
            return Err(NotSimple); // its own add is nothing it had seen
        }
        if let Some(Value::Array(array)) = get_mut(body, pointer) {
            let gone: HashSet<String> = members.iter().map(Value::canonical).collect();
            array.retain(|member| !gone.contains(&member.canonical()));
        }
    }
    Ok(())
}

/// The value at a pointer.
pub fn get<'a>(body: &'a Object, pointer: &Pointer) -> Option<&'a Value> {
    let mut names = pointer.names();
    let mut value = body.get(&names.next()?)?;
    for name in names {
        value = value.as_object()?.get(&name)?;
    }
    Some(value)
}

fn get_mut<'a>(body: &'a mut Object, pointer: &Pointer) -> Option<&'a mut Value> {
    let mut names = pointer.names();
    let mut value = body.get_mut(&names.next()?)?;
    for name in names {
        match value {
            Value::Object(inner) => value = inner.get_mut(&name)?,
            _ => return None,
        }
    }
    Some(value)
}

/// Removes what is at and below; objects left empty go with it.
fn drop_at(body: &mut Object, pointer: &Pointer) {
    fn drop(object: &mut Object, names: &[Cow<'_, str>]) {
        let Some((name, rest)) = names.split_first() else {
            *object = Object::new();
            return;
        };
        if rest.is_empty() {
            object.remove(name);
        } else if let Some(Value::Object(inner)) = object.get_mut(name) {
            let was_empty = inner.is_empty();
            drop(inner, rest);
            if inner.is_empty() && !was_empty {
                object.remove(name);
            }
        }
    }
    drop(body, &pointer.names().collect::<Vec<_>>());
}

/// Sets a leaf; leaves above go. `{}` only asks for an object.
fn set_at(body: &mut Object, pointer: &Pointer, value: &Value) {
    let mut names: Vec<_> = pointer.names().collect();
    let Some(last) = names.pop() else { return };
    let mut object = body;
    for name in names {
        let inner = object.entry(&name, || Value::Object(Object::new()));
        if !matches!(inner, Value::Object(_)) {
            *inner = Value::Object(Object::new());
        }
        let Value::Object(next) = inner else { unreachable!("made above") };
        object = next;
    }
    let asks = matches!(value, Value::Object(_));
    if !(asks && matches!(object.get(&last), Some(Value::Object(_)))) {
        object.insert(last.into_owned(), value.clone());
    }
}

/// The leaf that an increment or add goes to, made where there is none.
fn leaf_at<'a>(body: &'a mut Object, pointer: &Pointer, make: impl FnOnce() -> Value) -> Result<&'a mut Value, NotSimple> {
    let mut names: Vec<_> = pointer.names().collect();
    let last = names.pop().ok_or(NotSimple)?;
    let mut object = body;
    for name in names {
        match object.entry(&name, || Value::Object(Object::new())) {
            Value::Object(inner) => object = inner,
            _ => return Err(NotSimple),
        }
    }
    Ok(object.entry(&last, make))
}
