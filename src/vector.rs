//! Version vectors: what somebody has of every journal, `{region: position}`.

use crate::id::{Position, Region, parse_position};
use smallvec::SmallVec;
use std::fmt;

/// Most regions that a vector from outside names: what a forged token can cost is bounded by it.
pub const REGIONS_MAX: usize = 64;

/// For each region the last position had; regions without events are not listed. One region's takes no memory elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vector(SmallVec<[(Region, Position); 1]>);

impl Vector {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn get(&self, region: &Region) -> Position {
        self.find(region).map_or(0, |at| self.0[at].1)
    }

    /// Raises one component; never lowers it.
    pub fn raise(&mut self, region: &Region, position: Position) {
        if position == 0 {
            return;
        }
        match self.find(region) {
            Ok(at) => self.0[at].1 = self.0[at].1.max(position),
            Err(at) => self.0.insert(at, (region.clone(), position)),
        }
    }

    /// The least vector that covers both.
    pub fn join(&mut self, other: &Self) {
        for (region, position) in &other.0 {
            self.raise(region, *position);
        }
    }

    /// The greatest vector that both cover.
    pub fn meet(&self, other: &Self) -> Self {
        let both = self.0.iter().map(|(region, position)| (region.clone(), (*position).min(other.get(region))));
        Self(both.filter(|(_, position)| *position > 0).collect())
    }

    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(region, position)| self.get(region) >= *position)
    }

    /// Number of regions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Region, Position)> {
        self.0.iter().map(|(region, position)| (region, *position))
    }

    /// Number of events it counts.
    pub fn events(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, position)| sum.saturating_add(*position))
    }

    /// Events that `self` counts and `other` does not.
    pub fn beyond(&self, other: &Self) -> u64 {
        self.0.iter().fold(0, |sum, (region, position)| sum.saturating_add(position.saturating_sub(other.get(region))))
    }

    /// Reads what a client sent: as [`parse`](Self::parse), and no more than [`REGIONS_MAX`] regions.
    pub fn parse_bounded(text: &str) -> Result<Self, String> {
        let vector = Self::parse(text)?;
        if vector.0.len() > REGIONS_MAX {
            return Err(format!("a version names at most {REGIONS_MAX} regions"));
        }
        Ok(vector)
    }

    /// Reads the text form, `eu:12,us:40`; regions sorted, each once. Empty text is the empty vector.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut vector = Self::new();
        if text.is_empty() {
            return Ok(vector);
        }
        for part in text.split(',') {
            let parsed = part.split_once(':').and_then(|(region, position)| Some((Region::new(region).ok()?, parse_position(position)?)));
            let Some((region, position)) = parsed else {
                let shown: String = text.chars().take(80).collect();
                return Err(format!("a version is region:position pairs such as eu:12,us:40, not {shown:?}"));
            };
            if vector.0.last().is_some_and(|(last, _)| *last >= region) {
                return Err(format!("a version lists its regions sorted and each once; {region} stands out of order"));
            }
            vector.0.push((region, position));
        }
        Ok(vector)
    }

    fn find(&self, region: &Region) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(region))
    }
}

impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (region, position)) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            f.write_str(region.as_str())?;
            f.write_str(":")?;
            fmt::Display::fmt(position, f)?;
        }
        Ok(())
    }
}

impl FromIterator<(Region, Position)> for Vector {
    fn from_iter<I: IntoIterator<Item = (Region, Position)>>(parts: I) -> Self {
        let mut vector = Self::new();
        for (region, position) in parts {
            vector.raise(&region, position);
        }
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_vector_are_the_same_thing() {
        for text in ["", "eu:12", "ap:1,eu:12,us:40"] {
            assert_eq!(Vector::parse(text).unwrap().to_string(), text);
        }
        for bad in ["eu", "eu:", "eu:0", "us:1,eu:1", "eu:1,eu:2", "eu:1,", ",", "EU:1", "eu:1 ,us:2", "eu:-1"] {
            assert!(Vector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn join_is_least_above_and_meet_greatest_below() {
        let (a, b) = (Vector::parse("eu:3,us:9").unwrap(), Vector::parse("ap:2,eu:5").unwrap());
        let mut join = a.clone();
        join.join(&b);
        assert_eq!(join.to_string(), "ap:2,eu:5,us:9");
        assert_eq!(a.meet(&b).to_string(), "eu:3");
        assert!(join.covers(&a) && join.covers(&b) && !a.covers(&b));
        assert_eq!(join.beyond(&a), 4);
    }
}
