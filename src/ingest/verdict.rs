//! What became of each op.

use crate::id::{DatabaseName, Position, Region};
use crate::json::write_string;
use crate::problem::Problem;
use crate::token::Session;
use crate::vector::Vector;
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Kept now.
    Applied { id: Uuid, region: Region, position: Position, version: Vector, unseen: bool, conflicts: Vec<String> },
    /// Kept before, here or in another region.
    Duplicate { id: Uuid, region: Region, position: Position, version: Vector, unseen: bool },
    /// Not kept; the id is the text that was sent, if it was one.
    Rejected { id: Option<String>, problem: Problem },
    /// Not kept, since another op of its atomic batch was rejected.
    NotApplied { id: Uuid },
}

/// The answer to a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub verdicts: Vec<Verdict>,
    pub session: Session,
}

impl Outcome {
    /// The answer's JSON.
    pub fn json(&self, db: &DatabaseName) -> String {
        let mut out = String::with_capacity(64 + 160 * self.verdicts.len());
        out.push_str("{\"results\":[");
        for (at, verdict) in self.verdicts.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            verdict.write(&mut out);
        }
        out.push_str("],\"session\":\"");
        out.push_str(&self.session.encode(db));
        out.push_str("\"}");
        out
    }
}

impl Verdict {
    fn write(&self, out: &mut String) {
        use std::fmt::Write;
        match self {
            Self::Applied { id, region, position, version, unseen, conflicts } => {
                let _ = write!(
                    out,
                    "{{\"id\":\"{id}\",\"status\":\"applied\",\"region\":\"{region}\",\"position\":{position},\"version\":\"{version}\""
                );
                write_unseen(*unseen, out);
                if !conflicts.is_empty() {
                    out.push_str(",\"conflicts\":[");
                    for (at, pointer) in conflicts.iter().enumerate() {
                        if at > 0 {
                            out.push(',');
                        }
                        write_string(pointer, out);
                    }
                    out.push(']');
                }
            }
            Self::Duplicate { id, region, position, version, unseen } => {
                let _ = write!(
                    out,
                    "{{\"id\":\"{id}\",\"status\":\"duplicate\",\"region\":\"{region}\",\"position\":{position},\"version\":\"{version}\""
                );
                write_unseen(*unseen, out);
            }
            Self::Rejected { id, problem } => {
                out.push('{');
                if let Some(id) = id {
                    out.push_str("\"id\":");
                    write_string(id, out);
                    out.push(',');
                }
                out.push_str("\"status\":\"rejected\",\"problem\":");
                problem.write(out);
            }
            Self::NotApplied { id } => {
                let _ = write!(out, "{{\"id\":\"{id}\",\"status\":\"not-applied\"");
            }
        }
        out.push('}');
    }
}

fn write_unseen(unseen: bool, out: &mut String) {
    if unseen {
        out.push_str(",\"unseen\":true");
    }
}
