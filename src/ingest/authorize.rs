//! What a checked batch may do in its caller's name. Pure.

use super::batch::{Checked, Refused};
use super::schema::collection_defined_by;
use crate::access::{Caller, Right};
use crate::id::DatabaseName;
use crate::problem::{Problem, ProblemKind};

/// Signs the batch with who sends it, and refuses the ops in it that the sender's right to write does not cover:
/// definitions of collections bind everybody, so they are for the database's admins.
pub fn authorize(batch: &mut Checked, caller: &Caller, db: &DatabaseName) {
    batch.actor = caller.actor().map(str::to_owned);
    if caller.may(db, Right::Admin) {
        return;
    }
    for op in &mut batch.ops {
        let Ok(known) = op else { continue };
        if collection_defined_by(&known.doc).is_some() {
            let problem =
                Problem::new(ProblemKind::Forbidden, format!("{} defines a collection; the right admin on {db} is needed", known.doc));
            *op = Err(Refused { id: Some(known.id.to_string()), problem: problem.at("/doc") });
        }
    }
}
