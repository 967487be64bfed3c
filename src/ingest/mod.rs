//! A batch becomes events: read and check it (`batch`), hold it against its sender's rights (`authorize`), decide what each op means and what becomes of it (`decide`,
//! pure), keep it (`commit`, the one transaction, for our own events and for other regions').

mod ahead;
pub mod authorize;
pub mod batch;
pub mod cache;
pub mod commit;
pub mod decide;
pub mod definitions;
pub mod effect;
pub mod group;
pub mod past;
pub mod schema;
pub mod verdict;

pub use batch::Checked;
pub use commit::Appender;
pub use verdict::{Outcome, Verdict};

/// Limits of what one batch may be and hold.
#[derive(Clone, Debug)]
pub struct Limits {
    pub ops_max: usize,
    /// A document as an op writes it, bytes of canonical JSON.
    pub document_bytes_max: usize,
    pub json_depth_max: usize,
    /// A token further ahead of the clock than this is refused, milliseconds.
    pub clock_ahead_max: i64,
}
