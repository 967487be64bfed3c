//! Collections' definitions, compiled once each.

use super::schema::Definition;
use crate::id::DocId;
use crate::json::Object;
use crate::project::Folded;
use crate::project::document::Wanting;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Definitions kept; beyond that they are read anew.
const KEPT_MAX: usize = 1000;

#[derive(Default)]
pub struct Definitions {
    read: Mutex<HashMap<DocId, Read>>,
}

/// The body that was read, and what it means: a body that is the same means the same.
type Read = (Object, Option<Arc<Definition>>);

impl Definitions {
    /// What a definition's document means as it is now; `None` where it is not there, or is none: two that were each
    /// valid may have merged into one that is not, and then the collection is as if it had none until it is written again.
    pub fn get(&self, folded: &mut Folded) -> Result<Option<Arc<Definition>>, Wanting> {
        let doc = folded.doc().clone();
        let Some(body) = folded.body()? else { return Ok(None) };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, definition)) = read.get(&doc)
            && known == body
        {
            return Ok(definition.clone());
        }
        if read.len() >= KEPT_MAX {
            read.clear();
        }
        let definition = Definition::read(body).ok().map(Arc::new);
        read.insert(doc, (body.clone(), definition.clone()));
        Ok(definition)
    }
}
