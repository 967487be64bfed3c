//! Documents folded from events. Pure: no clock, no store, no network.
//!
//! `fold` is the definition of what a document is; `body` is its short way for an author who had seen everything;
//! `document` decides which of the two an event takes; `keyframe` is where a fold goes on instead of beginning anew. All
//! ways give the same bytes; a property test holds them together.

pub mod body;
pub mod conflict;
pub mod counts;
pub mod digest;
pub mod document;
pub mod fold;
pub mod folding;
pub mod keyframe;
pub mod leaf;
pub mod op;
pub mod state;

pub use conflict::Conflict;
pub use digest::Digest;
pub use document::{Document, Folded};
pub use fold::Fold;
pub use folding::{Copied, Folding};
pub use keyframe::{Keyframe, Place};
