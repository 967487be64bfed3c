//! Conflicts: what somebody wrote that nobody has ended and nobody is shown.

use super::leaf::Rule;
use super::op::Op;
use crate::id::{Position, Region, parse_position};
use crate::journal::Pointer;
use crate::json::{Object, Value};

/// Why an entry is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Another set is shown, by this rule.
    Rule(Rule),
    /// A leaf and what lies below it cannot both be.
    Path,
    /// Another type is shown.
    Type,
    /// A delete met edits it had not seen.
    Delete,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rule(rule) => rule.as_str(),
            Self::Path => "path",
            Self::Type => "type",
            Self::Delete => "delete",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "path" => Some(Self::Path),
            "type" => Some(Self::Type),
            "delete" => Some(Self::Delete),
            rule => Rule::parse(rule).map(Self::Rule),
        }
    }

    /// Whether somebody is asked to decide.
    pub fn is_open(self) -> bool {
        self == Self::Rule(Rule::Ask)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub region: Region,
    pub position: Position,
    pub pointer: Pointer,
    pub reason: Reason,
    /// The event whose value is shown instead; none where the document is deleted or nothing stands there.
    pub shown: Option<(Region, Position)>,
}

impl Conflict {
    pub(super) fn new(op: &Op, pointer: &Pointer, reason: Reason, shown: Option<&std::sync::Arc<Op>>) -> Self {
        Self {
            region: op.first.region.clone(),
            position: op.first.position,
            pointer: pointer.clone(),
            reason,
            shown: shown.map(|op| (op.first.region.clone(), op.first.position)),
        }
    }

    /// Its event and pointer: `us:4/title`, `eu:12` for the whole document.
    pub fn id(&self) -> String {
        format!("{}:{}{}", self.region, self.position, self.pointer)
    }

    /// What is kept of it.
    pub fn to_value(&self) -> Value {
        let mut members = Object::new();
        members.insert("id", Value::text(self.id()));
        members.insert("rule", Value::text(self.reason.as_str()));
        if let Some((region, position)) = &self.shown {
            members.insert("shown", Value::text(format!("{region}:{position}")));
        }
        Value::Object(members)
    }

    pub fn from_value(value: &Value) -> Option<Self> {
        let members = value.as_object()?;
        let id = members.get("id")?.as_str()?;
        let cut = id.find('/').unwrap_or(id.len());
        let (region, position) = read_event(&id[..cut])?;
        let shown = match members.get("shown") {
            None => None,
            Some(shown) => Some(read_event(shown.as_str()?)?),
        };
        let reason = Reason::parse(members.get("rule")?.as_str()?)?;
        Some(Self { region, position, pointer: Pointer::parse(&id[cut..]).ok()?, reason, shown })
    }
}

/// Reads `eu:12`.
pub fn read_event(text: &str) -> Option<(Region, Position)> {
    let (region, position) = text.split_once(':')?;
    Some((Region::new(region).ok()?, parse_position(position)?))
}
