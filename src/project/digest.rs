//! The digest: sum mod 2^256 of a hash over every document. Equal states have equal digests, in whatever order
//! they came about. It finds faults; it is no proof against forgery.

use crate::id::DocId;
use crate::journal::event::{from_hex, to_hex};
use crate::vector::Vector;
use sha2::{Digest as _, Sha256};
use std::fmt;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest([u64; 4]);

impl Digest {
    /// One document's part: its id, version, and canonical body (`None`: deleted or never there).
    pub fn of(doc: &DocId, version: &Vector, body: Option<&str>) -> Self {
        let mut hash = Sha256::new();
        hash.update(doc.as_str());
        hash.update([0]);
        hash.update(version.to_string());
        hash.update([0]);
        hash.update(body.unwrap_or(""));
        Self::from_bytes(hash.finalize().into())
    }

    pub fn plus(self, other: Self) -> Self {
        let mut carry = false;
        Self(std::array::from_fn(|at| {
            let (sum, over) = self.0[at].overflowing_add(other.0[at]);
            let (sum, again) = sum.overflowing_add(u64::from(carry));
            carry = over || again;
            sum
        }))
    }

    pub fn minus(self, other: Self) -> Self {
        let mut borrow = false;
        Self(std::array::from_fn(|at| {
            let (rest, under) = self.0[at].overflowing_sub(other.0[at]);
            let (rest, again) = rest.overflowing_sub(u64::from(borrow));
            borrow = under || again;
            rest
        }))
    }

    /// Big end first.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut out = [0; 32];
        for (at, limb) in self.0.iter().rev().enumerate() {
            out[at * 8..at * 8 + 8].copy_from_slice(&limb.to_be_bytes());
        }
        out
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(std::array::from_fn(|at| u64::from_be_bytes(std::array::from_fn(|byte| bytes[(3 - at) * 8 + byte]))))
    }

    pub fn parse(text: &str) -> Option<Self> {
        from_hex(text).map(Self::from_bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_added_can_be_taken_away_in_any_order(a: [u8; 32], b: [u8; 32]) {
            let (a, b) = (Digest::from_bytes(a), Digest::from_bytes(b));
            prop_assert_eq!(a.plus(b).minus(a), b);
            prop_assert_eq!(a.plus(b), b.plus(a));
            prop_assert_eq!(Digest::parse(&a.to_string()), Some(a));
        }
    }
}
