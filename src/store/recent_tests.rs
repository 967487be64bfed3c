//! The ring of the last commits: what of it a reader gets, when it breaks, and that it is bounded.

use super::*;
use crate::clock::Stamp;
use crate::journal::{Event, Kind};
use crate::store::Commit;
use uuid::Uuid;

fn eu() -> Region {
    Region::new("eu").unwrap()
}

fn db() -> DatabaseName {
    DatabaseName::new("shop").unwrap()
}

fn head(position: Position) -> Head {
    Head { vector: Vector::from_iter([(eu(), position)]), stamp: Stamp::at(position as i64), ..Head::default() }
}

/// Puts of one document each, from a position on.
fn advance(first: Position, docs: &[&str], bytes: usize) -> Arc<Advance> {
    let event = |(at, doc): (usize, &&str)| Event {
        region: eu(),
        position: first + at as u64,
        stamp: Stamp::at((first + at as u64) as i64),
        id: Uuid::from_u128(u128::from(first) + at as u128),
        doc: DocId::new(doc).unwrap(),
        kind: Kind::Put,
        client: Uuid::nil(),
        actor: None,
        batch: Batch { id: Uuid::nil(), index: at as u32, count: docs.len() as u32, atomic: false },
        seen: Vector::default(),
        own: Vector::default(),
        edited_at: None,
        rules: None,
        salt: [0; 16],
        effect: Arc::default(),
        sent: [0; 32],
    };
    let events: Vec<Event> = docs.iter().enumerate().map(event).collect();
    let document = |event: &Event| Document {
        doc: event.doc.clone(),
        version: Vector::from_iter([(eu(), event.position)]),
        stamp: event.stamp,
        body: Some("x".repeat(bytes).into()),
        conflicts: Vec::new(),
        keyframe_in: 0,
    };
    let documents = events.iter().map(document).collect();
    let commit = Commit { head: head(first + docs.len() as u64 - 1), events, documents, ..Commit::default() };
    Arc::new(Advance::new(head(first - 1), commit))
}

fn after(recent: &Recent, position: Position, events: usize) -> Option<(Position, Position)> {
    let tail = recent.after(&head(position).vector, events)?;
    Some((tail.head().vector.get(&eu()), tail.last.vector.get(&eu())))
}

#[test]
fn a_tail_begins_in_the_commit_that_its_reader_stands_in_and_has_as_many_as_he_wants() {
    let recent = Recent::new(Arc::default());
    assert_eq!(after(&recent, 0, 10), None);
    recent.push(advance(11, &["a/1", "a/2"], 1));
    recent.push(advance(13, &["a/2"], 1));
    recent.push(advance(14, &["a/3", "a/1"], 1));
    assert_eq!(after(&recent, 9, 10), None, "what came before is not here");
    assert_eq!(after(&recent, 10, 10), Some((15, 15)));
    assert_eq!(after(&recent, 10, 2), Some((12, 15)), "whole commits, as many as hold so many events");
    assert_eq!(after(&recent, 11, 3), Some((13, 15)));
    assert_eq!(after(&recent, 14, 1), Some((15, 15)));
    assert_eq!(after(&recent, 15, 1), None);
    assert_eq!(after(&recent, 16, 1), None, "who is ahead of what is known here");
    // A document is shown as it is at the view's own head.
    let doc = [DocId::new("a/1").unwrap(), DocId::new("a/9").unwrap()];
    let version = |events| recent.after(&head(10).vector, events).unwrap().documents(&doc, true)[0].version.get(&eu());
    assert_eq!((version(2), version(4)), (11, 15));
    let positions = |after, events| {
        let lines = recent.lines(&db(), &eu(), after, Bound { rows: events, bytes: usize::MAX })?;
        Some(lines.iter().map(|(position, ..)| *position).collect::<Vec<_>>())
    };
    assert_eq!(positions(9, 10), None);
    assert_eq!(positions(10, 2), Some(vec![11, 12]));
    assert_eq!(positions(11, 3), Some(vec![12, 13]), "a run that begins inside a commit goes on with the next, and may be shorter");
    assert_eq!(positions(15, 10), None);
    let small = recent.lines(&db(), &eu(), 10, Bound { rows: 10, bytes: 1 }).unwrap();
    assert_eq!(small.len(), 1, "up to the line that passes the bound");
}

#[test]
fn what_another_gateway_wrote_between_breaks_the_ring() {
    let recent = Recent::new(Arc::default());
    recent.push(advance(1, &["a/1"], 1));
    recent.push(advance(3, &["a/1"], 1));
    assert_eq!(after(&recent, 0, 10), None);
    assert_eq!(after(&recent, 2, 10), Some((3, 3)));
    // The one below is told of late: it was on its way at the same time.
    recent.push(advance(5, &["a/2"], 1));
    recent.push(advance(4, &["a/1"], 1));
    assert_eq!((after(&recent, 3, 10), after(&recent, 4, 10)), (None, Some((5, 5))));
}

#[tokio::test(start_paused = true)]
async fn it_is_bounded_over_all_databases_and_forgets_after_a_moment() {
    let kept: Arc<Kept> = Arc::default();
    let (one, other) = (Recent::new(kept.clone()), Recent::new(kept.clone()));
    for at in 1..=40 {
        one.push(advance(at, &["a/1"], 1 << 20));
    }
    assert!(kept.0.load(Ordering::Relaxed) <= BYTES_MAX);
    assert_eq!(after(&one, 39, 1), Some((40, 40)), "the last one is here");
    assert_eq!(after(&one, 5, 1), None, "and the first is not");
    other.push(advance(1, &["a/1"], 2 << 20));
    assert_eq!(after(&other, 0, 1), None, "nobody else's is let go of for it");
    tokio::time::advance(KEPT_FOR * 2).await;
    one.expire();
    assert_eq!(kept.0.load(Ordering::Relaxed), 0);
    other.push(advance(1, &["a/1"], 2 << 20));
    assert_eq!(after(&other, 0, 1), Some((1, 1)));
    other.push(advance(2, &["a/1"], 2 * BYTES_MAX));
    assert_eq!((after(&other, 0, 1), after(&other, 1, 1)), (None, None), "what is larger than all is not kept");
}
