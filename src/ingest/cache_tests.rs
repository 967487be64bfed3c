//! What is recalled is what was committed last, or nothing.

use super::*;
use crate::clock::Stamp;
use crate::id::Region;
use crate::store::Commit;
use crate::vector::Vector;

fn head(position: u64) -> Head {
    Head { vector: Vector::from_iter([(Region::new("eu").unwrap(), position)]), stamp: Stamp::at(position as i64), ..Head::default() }
}

fn doc(n: usize) -> DocId {
    DocId::new(&format!("a/{n}")).unwrap()
}

fn document(n: usize, body: &str) -> Document {
    Document { doc: doc(n), version: Vector::new(), stamp: Stamp::at(1), body: Some(body.into()), conflicts: Vec::new(), keyframe_in: 1 }
}

fn advance(from: u64, documents: Vec<Document>) -> Advance {
    Advance::new(head(from), Commit { head: head(from + 1), documents, ..Commit::default() })
}

/// What stands in memory: `None`, the document is missing here; `Some(None)`, there is none.
fn recalled(cache: &Cache, n: usize) -> Option<Option<Document>> {
    let recalled = cache.recall(&[doc(n)])?;
    recalled.missing.is_empty().then(|| recalled.documents.first().cloned())
}

#[test]
fn what_is_read_and_what_is_written_is_recalled_at_the_head_it_belongs_to() {
    let cache = Cache::new(Arc::new(Room::new(1 << 20)));
    assert!(cache.recall(&[doc(1)]).is_none());
    cache.advance(&advance(1, vec![document(1, "{}")]));
    assert!(cache.recall(&[doc(1)]).is_none(), "nobody knows what else there is at that head");
    cache.learn(&Loaded { head: head(2), known: Vec::new(), documents: vec![document(1, "{}")] }, &[doc(1), doc(2)]);
    assert_eq!(recalled(&cache, 1), Some(Some(document(1, "{}"))));
    assert_eq!(recalled(&cache, 2), Some(None));
    assert_eq!(recalled(&cache, 3), None);
    cache.advance(&advance(2, vec![document(2, "{\"a\":1}")]));
    assert_eq!(cache.recall(&[]).unwrap().head, head(3));
    assert_eq!(recalled(&cache, 2), Some(Some(document(2, "{\"a\":1}"))));
    // Read before the last commit, or after one that is not known of here.
    for other in [2, 9] {
        cache.learn(&Loaded { head: head(other), known: Vec::new(), documents: vec![document(2, "{}")] }, &[doc(2), doc(3)]);
        assert_eq!(recalled(&cache, 2), Some(Some(document(2, "{\"a\":1}"))));
        assert_eq!(recalled(&cache, 3), None);
    }
    cache.advance(&advance(7, vec![document(2, "{}")]));
    assert!(cache.recall(&[doc(2)]).is_none(), "another gateway wrote between");
}

#[test]
fn what_nobody_knows_of_is_taken_for_new_after_many_looks_that_found_nothing() {
    let cache = Cache::new(Arc::new(Room::new(1 << 20)));
    let look = |documents: Vec<Document>, n| cache.learn(&Loaded { documents, ..Loaded::default() }, &[doc(n), doc(n + 1000)]);
    for n in 0..NEW_MIN {
        assert!(!cache.expects_new(1));
        look(Vec::new(), n);
    }
    assert!(cache.expects_new(1) && cache.expects_new(NEW_MAX));
    assert!(!cache.expects_new(0) && !cache.expects_new(NEW_MAX + 1));
    look(vec![document(7, "{}")], 7);
    assert!(!cache.expects_new(1));
}

#[test]
fn what_is_asked_for_stays_and_the_rest_goes_where_room_is_short() {
    let room = Arc::new(Room::new(40 * DOCUMENT_BYTES));
    let cache = Cache::new(room.clone());
    let fill = |cache: &Cache| {
        cache.learn(&Loaded::default(), &[]);
        for n in 0..1000 {
            cache.learn(&Loaded { documents: vec![document(n, "{}")], ..Loaded::default() }, &[doc(n)]);
            assert!(recalled(cache, 0).is_some(), "asked for all the time, gone after {n}");
        }
        (0..1000).filter(|n| cache.kept().as_mut().unwrap().find(&doc(*n)).is_some()).count()
    };
    let alone = fill(&cache);
    assert!((15..=41).contains(&alone), "{alone}");
    let neighbour = Cache::new(room.clone());
    let shared = fill(&neighbour);
    assert!((7..=21).contains(&shared), "{shared}");
    neighbour.forget();
    assert_eq!(room.databases.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_database_to_which_nothing_is_written_keeps_nothing() {
    let cache = Cache::new(Arc::new(Room::new(1 << 20)));
    cache.learn(&Loaded { documents: vec![document(1, "{}")], ..Loaded::default() }, &[doc(1)]);
    tokio::time::advance(KEPT_FOR / 2).await;
    cache.expire();
    assert!(recalled(&cache, 1).is_some());
    tokio::time::advance(KEPT_FOR * 2).await;
    cache.expire();
    assert!(cache.recall(&[doc(1)]).is_none());
    assert_eq!(cache.room.databases.load(Ordering::Relaxed), 0);
}
