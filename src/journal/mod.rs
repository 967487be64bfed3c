//! The append-only truth: what an event is, and the one line of text it stands for.
//!
//! Knows only the ground. Where events are kept is the store's; what they amount to is `project`'s.

pub mod effect;
pub mod event;
pub mod pointer;

pub use effect::Effect;
pub use event::{Batch, Event, Kind};
pub use pointer::Pointer;
