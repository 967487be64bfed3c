//! What an op means, decided once, at ingest.
//!
//!     {"add":{p:[…]}, "delete":true, "drop":[p], "increment":{p:n}, "remove":{p:[…]}, "set":{p:value}}
//!
//! only the parts it has; `{}` for an op that changes nothing. The fold applies them in the order
//! drop, set, increment, add, remove; `delete` stands alone.

use super::Pointer;
use crate::json::{DEPTH_MAX, Object, Value, write_number, write_string};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effect {
    pub drop: Vec<Pointer>,
    /// Leaves: anything but an object with members.
    pub set: Vec<(Pointer, Value)>,
    pub increment: Vec<(Pointer, f64)>,
    pub add: Vec<(Pointer, Vec<Value>)>,
    pub remove: Vec<(Pointer, Vec<Value>)>,
    pub delete: bool,
}

impl Effect {
    pub fn delete() -> Self {
        Self { delete: true, ..Self::default() }
    }

    /// Whether a document is there after it, if none was before.
    pub fn creates(&self) -> bool {
        !(self.set.is_empty() && self.increment.is_empty() && self.add.is_empty())
    }

    /// Puts every part into the order in which it is written.
    pub fn sort(&mut self) {
        self.drop.sort();
        self.set.sort_by(|a, b| a.0.cmp(&b.0));
        self.increment.sort_by(|a, b| a.0.cmp(&b.0));
        self.add.sort_by(|a, b| a.0.cmp(&b.0));
        self.remove.sort_by(|a, b| a.0.cmp(&b.0));
    }

    /// The canonical text.
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    /// Appends the canonical text.
    pub fn write(&self, out: &mut String) {
        out.push('{');
        let first = out.len();
        let open = |name: &str, out: &mut String| {
            if out.len() > first {
                out.push(',');
            }
            out.push('"');
            out.push_str(name);
            out.push_str("\":");
        };
        if !self.add.is_empty() {
            open("add", out);
            write_map(&self.add, out, |members, out| write_array(members, out));
        }
        if self.delete {
            open("delete", out);
            out.push_str("true");
        }
        if !self.drop.is_empty() {
            open("drop", out);
            let texts: Vec<Value> = self.drop.iter().map(|p| Value::text(p.as_str())).collect();
            write_array(&texts, out);
        }
        if !self.increment.is_empty() {
            open("increment", out);
            write_map(&self.increment, out, |by, out| write_number(*by, out));
        }
        if !self.remove.is_empty() {
            open("remove", out);
            write_map(&self.remove, out, |members, out| write_array(members, out));
        }
        if !self.set.is_empty() {
            open("set", out);
            write_map(&self.set, out, |value, out| value.write(out));
        }
        out.push('}');
    }

    /// Every pointer it touches.
    pub fn pointers(&self) -> Vec<Pointer> {
        let sets = self.set.iter().map(|(pointer, _)| pointer);
        let increments = self.increment.iter().map(|(pointer, _)| pointer);
        let members = self.add.iter().chain(&self.remove).map(|(pointer, _)| pointer);
        self.drop.iter().chain(sets).chain(increments).chain(members).cloned().collect()
    }

    /// Reads an effect; the error is a sentence for people.
    pub fn from_value(value: &Value) -> Result<Self, String> {
        let parts = value.as_object().ok_or("an effect is an object")?;
        let mut effect = Self::default();
        for (name, part) in parts.iter() {
            match name {
                "delete" => effect.delete = part.as_bool().filter(|delete| *delete).ok_or("`delete` is true or not there")?,
                "drop" => {
                    for pointer in part.as_array().ok_or("`drop` is an array of pointers")? {
                        effect.drop.push(read_pointer(pointer.as_str().ok_or("`drop` is an array of pointers")?)?);
                    }
                }
                "set" => effect.set = read_map(part, |value| Some(value.clone()))?,
                "increment" => effect.increment = read_map(part, Value::as_number)?,
                "add" => effect.add = read_map(part, |value| value.as_array().map(<[_]>::to_vec))?,
                "remove" => effect.remove = read_map(part, |value| value.as_array().map(<[_]>::to_vec))?,
                other => return Err(format!("an effect has no part {other:?}")),
            }
        }
        Ok(effect)
    }
}

/// A place no deeper than half of what is read: with a leaf as deep below it, a document is still one that is read.
fn read_pointer(text: &str) -> Result<Pointer, String> {
    let pointer = Pointer::parse(text)?;
    match pointer.depth() {
        depth if depth > DEPTH_MAX / 2 => Err(format!("a pointer of {depth} levels; {} are the most", DEPTH_MAX / 2)),
        _ => Ok(pointer),
    }
}

fn read_map<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<(Pointer, T)>, String> {
    let map = value.as_object().ok_or("a part of an effect is an object of pointers")?;
    map.iter()
        .map(|(pointer, value)| {
            if value.depth() > DEPTH_MAX / 2 {
                return Err(format!("a value nested {} deep; {} is the most", value.depth(), DEPTH_MAX / 2));
            }
            Ok((read_pointer(pointer)?, read(value).ok_or_else(|| format!("at {pointer:?} stands {}", value.kind()))?))
        })
        .collect()
}

/// Pointers sort by UTF-16 units in the text, though by bytes everywhere else.
fn write_map<T>(map: &[(Pointer, T)], out: &mut String, write: impl Fn(&T, &mut String)) {
    let mut order: Vec<usize> = (0..map.len()).collect();
    if !map.iter().all(|(pointer, _)| pointer.as_str().is_ascii()) {
        order.sort_by(|a, b| map[*a].0.as_str().encode_utf16().cmp(map[*b].0.as_str().encode_utf16()));
    } else if !map.is_sorted_by(|a, b| a.0 <= b.0) {
        order.sort_by(|a, b| map[*a].0.cmp(&map[*b].0));
    }
    out.push('{');
    for (nth, at) in order.into_iter().enumerate() {
        if nth > 0 {
            out.push(',');
        }
        write_string(map[at].0.as_str(), out);
        out.push(':');
        write(&map[at].1, out);
    }
    out.push('}');
}

fn write_array(members: &[Value], out: &mut String) {
    out.push('[');
    for (at, member) in members.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        member.write(out);
    }
    out.push(']');
}

/// The leaves of a value as `(pointer, leaf)`, in member order; an object with members is no leaf.
pub fn leaves(value: &Object) -> Vec<(Pointer, &Value)> {
    fn walk<'a>(at: &Pointer, object: &'a Object, out: &mut Vec<(Pointer, &'a Value)>) {
        for (name, value) in object.iter() {
            let here = at.child(name);
            match value {
                Value::Object(inner) if !inner.is_empty() => walk(&here, inner, out),
                leaf => out.push((here, leaf)),
            }
        }
    }
    let mut out = Vec::new();
    walk(&Pointer::root(), value, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::parse;

    #[test]
    fn an_effect_and_its_canonical_text_are_the_same_thing() {
        for text in [
            "{}",
            r#"{"delete":true}"#,
            r#"{"add":{"/t":["a",{"b":1}]},"drop":["","/x"],"increment":{"/n":-0.5},"remove":{"/t":[]},"set":{"/a/b":null,"/c":{}}}"#,
            "{\"set\":{\"/\u{1F600}\":1,\"/\u{e000}\":2}}",
        ] {
            let effect = Effect::from_value(&parse(text).unwrap()).unwrap();
            assert_eq!(effect.canonical(), text);
        }
        for bad in ["[]", r#"{"delete":false}"#, r#"{"drop":"/a"}"#, r#"{"set":{"a":1}}"#, r#"{"increment":{"/a":"1"}}"#, r#"{"put":{}}"#] {
            assert!(Effect::from_value(&parse(bad).unwrap()).is_err(), "{bad}");
        }
    }
}
