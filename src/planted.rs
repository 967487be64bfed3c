//! Faults that a test plants, to show that the simulation finds such ones. A release build has none.

/// A fault of the kind that has been made before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An op id that is known is taken for a new one.
    SkipDuplicateCheck,
    /// A run that begins beyond what is here is applied all the same.
    ForgetGap,
    /// Whatever arrives last is folded last.
    OrderByArrival,
    /// A copy takes effect again.
    FoldCopyTwice,
}

/// The fault that is planted, if any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted(Option<Fault>);

impl Planted {
    pub fn one(fault: Fault) -> Self {
        Self(Some(fault))
    }

    pub fn has(self, fault: Fault) -> bool {
        cfg!(debug_assertions) && self.0 == Some(fault)
    }
}
