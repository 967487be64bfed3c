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
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Documents are parted by the first bytes of their ids' hashes; at this depth they are named one by one.
const DEPTH: usize = 2;

/// Buckets looked into at each depth, and documents that are named.
const BUCKETS_MAX: usize = 8;
const NAMED_MAX: usize = 20;

/// Documents read at once.
const PAGE: Bound = Bound { rows: 500, bytes: 8 << 20 };

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
    let (mut view, _) = relay.gateway.store.view(database.id).await?;
    let mut sums: BTreeMap<u8, Digest> = BTreeMap::new();
    let mut bucket = Bucket::default();
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
    relay.gateway.relay.looked(&database.name);
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
        let differs = |(doc, (version, digest)): (&String, &(String, String))| match theirs.docs.get(doc) {
            Some((their_version, their_digest)) => version == their_version && digest != their_digest,
            None => false,
        };
        found.extend(mine.docs.iter().filter(|entry| differs(*entry)).map(|(doc, _)| doc.clone()));
    }
    found.truncate(NAMED_MAX);
    Ok(found)
}

async fn both(relay: &Relay, database: &Database, peer: &Region, prefix: &[u8]) -> Result<(Bucket, Bucket)> {
    let question = Question { db: database.name.to_string(), prefix: to_hex(prefix) };
    let question = serde_json::to_vec(&question).map_err(|error| Error::because(Kind::Internal, "writing a question", error))?;
    let answer = ask::ask(relay, relay.subjects.compare(peer), question, ANSWER_BYTES_MAX).await?;
    let theirs = serde_json::from_slice(&answer).map_err(|error| Error::because(Kind::Corrupt, "reading a bucket", error))?;
    Ok((read(relay, database, prefix).await?, theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_named_by_at_most_two_bytes() {
        assert_eq!(from_hex(""), Some(vec![]));
        assert_eq!(from_hex("00ff"), Some(vec![0, 255]));
        for bad in ["0", "00ff00", "zz", "é"] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
    }
}
