//! Digests compared with other regions'. Equal vectors with unequal digests are a fault: which documents differ is found
//! by sums over ever smaller buckets of documents, so that nothing like all of them is sent.

use super::Relay;
use super::ask;
use super::status::Fault;
use crate::error::{Error, Kind, Result};
use crate::gateway::Database;
use crate::id::{DatabaseName, DocId, Region};
use crate::journal::event::to_hex;
use crate::project::Digest;
use crate::store::Bound;
use crate::vector::Vector;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Documents are parted by the first bytes of their ids' hashes; at this depth they are named one by one.
const DEPTH: usize = 2;

/// Buckets looked into at each depth, and documents that are named.
const BUCKETS_MAX: usize = 8;
const NAMED_MAX: usize = 20;

/// Documents read at once.
const PAGE: Bound = Bound { rows: 500, bytes: 8 << 20 };

/// A peer may have to read all of its documents to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The largest answer: 65,536th parts of a large database, with room.
const ANSWER_BYTES_MAX: usize = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Question {
    db: String,
    /// The bucket, hex.
    prefix: String,
}

/// What a bucket holds: sums of smaller ones, or documents with their versions and digests.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Bucket {
    /// What its region held when it was read.
    vector: String,
    sums: BTreeMap<u8, String>,
    docs: BTreeMap<String, (String, String)>,
}

/// Answers questions for this region.
pub async fn answer(relay: Arc<Relay>) {
    let subject = relay.subjects.compare(&relay.gateway.region);
    ask::serve(relay, subject, reply).await;
}

async fn reply(relay: Arc<Relay>, asked: Bytes) -> Result<Vec<u8>> {
    let wrong = |what: String| Error::new(Kind::Invalid, what);
    let asked: Question = serde_json::from_slice(&asked).map_err(|error| wrong(error.to_string()))?;
    let db = DatabaseName::new(&asked.db).map_err(wrong)?;
    let prefix = from_hex(&asked.prefix).ok_or_else(|| wrong("a bucket is a few bytes of hex".into()))?;
    let bucket = match relay.gateway.database(&db).await? {
        Some(database) => read(&relay, &database, &prefix).await?,
        None => Bucket::default(),
    };
    serde_json::to_vec(&bucket).map_err(|error| Error::because(Kind::Internal, "writing a bucket", error))
}

/// One or two bytes, or none.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.len().is_multiple_of(2) && text.len() <= 2 * DEPTH && text.is_ascii();
    digits.then(|| (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect())?
}

async fn read(relay: &Relay, database: &Database, prefix: &[u8]) -> Result<Bucket> {
    let (mut view, head) = relay.gateway.store.view(database.id).await?;
    let mut sums: BTreeMap<u8, Digest> = BTreeMap::new();
    let mut bucket = Bucket { vector: head.vector.to_string(), ..Bucket::default() };
    let mut after: Option<DocId> = None;
    loop {
        let page = view.bucket(prefix, after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.doc.clone());
        for document in &page {
            if prefix.len() < DEPTH {
                let hash = Sha256::digest(document.doc.as_str());
                let sum = sums.entry(hash[prefix.len()]).or_default();
                *sum = sum.plus(document.digest());
            } else {
                let entry = (document.version.to_string(), document.digest().to_string());
                bucket.docs.insert(document.doc.to_string(), entry);
            }
        }
    }
    view.close().await;
    bucket.sums = sums.into_iter().map(|(part, sum)| (part, sum.to_string())).collect();
    Ok(bucket)
}

/// Finds out which documents differ from a peer's, and says so in the status.
pub async fn run(relay: Arc<Relay>, database: Arc<Database>, peer: Region) {
    let about = about(&database.name, &peer);
    let what = match differing(&relay, &database, &peer).await {
        Ok(docs) if docs.is_empty() => {
            "equal vectors and unequal digests; which documents differ was not found: they have changed since".into()
        }
        Ok(docs) => format!("documents differ at equal versions: {}", docs.join(", ")),
        Err(error) => format!("equal vectors and unequal digests; which documents differ could not be asked: {}", error.chain()),
    };
    tracing::error!(db = %database.name, %peer, what, "this region and its peer hold different documents");
    relay.gateway.relay.fault(about, Some(Fault::red(what)));
}

/// What the fault is about.
pub fn about(db: &DatabaseName, peer: &Region) -> String {
    format!("documents of {db} and {peer}'s")
}

/// Ids of documents whose digests differ at one version; a version that differs is only news on its way.
async fn differing(relay: &Relay, database: &Database, peer: &Region) -> Result<Vec<String>> {
    let mut buckets: Vec<Vec<u8>> = vec![Vec::new()];
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for prefix in &buckets {
            let (mine, theirs) = both(relay, database, peer, prefix).await?;
            let parts = (0..=u8::MAX).filter(|part| mine.sums.get(part) != theirs.sums.get(part));
            next.extend(parts.map(|part| [prefix.as_slice(), &[part]].concat()));
        }
        next.truncate(BUCKETS_MAX);
        buckets = next;
    }
    let mut found = Vec::new();
    for prefix in &buckets {
        let (mine, theirs) = both(relay, database, peer, prefix).await?;
        found.extend(mine.differs_from(&theirs));
        found.extend(theirs.lacking_in(&mine));
    }
    found.truncate(NAMED_MAX);
    Ok(found)
}

impl Bucket {
    /// Documents of one version and two contents, and those that the other should hold and does not.
    fn differs_from(&self, other: &Self) -> Vec<String> {
        let differs = |doc: &String, (version, digest): &(String, String)| match other.docs.get(doc) {
            Some((their_version, their_digest)) => version == their_version && digest != their_digest,
            None => other.covers(version),
        };
        self.docs.iter().filter(|(doc, entry)| differs(doc, entry)).map(|(doc, _)| doc.clone()).collect()
    }

    /// Documents here that the other should hold and does not.
    fn lacking_in(&self, other: &Self) -> Vec<String> {
        let lacking = |doc: &String, version: &str| !other.docs.contains_key(doc) && other.covers(version);
        self.docs.iter().filter(|(doc, (version, _))| lacking(doc, version)).map(|(doc, _)| doc.clone()).collect()
    }

    fn covers(&self, version: &str) -> bool {
        match (Vector::parse(&self.vector), Vector::parse(version)) {
            (Ok(held), Ok(version)) => held.covers(&version),
            _ => false,
        }
    }
}

async fn both(relay: &Relay, database: &Database, peer: &Region, prefix: &[u8]) -> Result<(Bucket, Bucket)> {
    let question = Question { db: database.name.to_string(), prefix: to_hex(prefix) };
    let question = serde_json::to_vec(&question).map_err(|error| Error::because(Kind::Internal, "writing a question", error))?;
    let answer = ask::ask(relay, relay.subjects.compare(peer), question, ANSWER_BYTES_MAX, PATIENCE.max(relay.patience())).await?;
    let theirs = serde_json::from_slice(&answer).map_err(|error| Error::because(Kind::Corrupt, "reading a bucket", error))?;
    Ok((read(relay, database, prefix).await?, theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_on_its_way_is_no_difference() {
        let bucket = |vector: &str, docs: &[(&str, &str, &str)]| Bucket {
            vector: vector.into(),
            docs: docs.iter().map(|(doc, version, digest)| ((*doc).into(), ((*version).into(), (*digest).into()))).collect(),
            ..Bucket::default()
        };
        let mine = bucket("eu:5", &[("a/1", "eu:1", "x"), ("a/2", "eu:2", "y"), ("a/3", "eu:3", "z"), ("a/4", "eu:5", "w")]);
        let theirs = bucket("eu:4", &[("a/1", "eu:1", "other"), ("a/2", "eu:1", "y")]);
        assert_eq!(mine.differs_from(&theirs), ["a/1", "a/3"], "another content, and one that is missing; not what is newer");
        assert_eq!(mine.lacking_in(&theirs), ["a/3"]);
    }

    #[test]
    fn buckets_are_named_by_at_most_two_bytes() {
        assert_eq!(from_hex(""), Some(vec![]));
        assert_eq!(from_hex("00ff"), Some(vec![0, 255]));
        for bad in ["0", "00ff00", "zz", "é"] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
    }
}
