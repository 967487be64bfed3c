//! A file per endpoint.

pub mod changes;
pub mod conflicts;
pub mod databases;
pub mod docs;
pub mod documents;
pub mod history;
pub mod journal;
pub mod ops;
pub mod regions;
pub mod status;
mod subscription;
