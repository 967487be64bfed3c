//! A journal by itself: positions, stamps, ids, bytes, batches; and the head's account of it.

use super::{FaultKind, Progress, Report};
use crate::clock::Stamp;
use crate::error::{Kind, Result};
use crate::id::DatabaseName;
use crate::journal::Event;
use crate::store::audit::Audit;
use crate::store::{DatabaseId, Head};
use crate::vector::Vector;

pub(super) async fn check(
    audit: &Audit,
    id: DatabaseId,
    db: &DatabaseName,
    head: &Head,
    report: &mut Report,
    progress: &mut (dyn Progress + Send),
) -> Result<()> {
    let mut vector = Vector::new();
    let mut latest = Stamp::default();
    for region in audit.regions(id).await? {
        let mut events = audit.journal(id, &region).await?;
        let mut last: Option<Event> = None;
        let mut unreadable = 0;
        loop {
            let (event, line) = match events.next(db).await {
                Ok(None) => break,
                Ok(Some(read)) => read,
                Err(error) if error.kind == Kind::Corrupt => {
                    let after = last.as_ref().map_or(0, |last| last.position);
                    report.fault(FaultKind::Bytes, db, format!("{region}, after position {after}: {}", error.chain()));
                    unreadable += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            report.events += 1;
            progress.step();
            if let Err(why) = Event::parse(&line) {
                report.fault(FaultKind::Bytes, db, format!("{region}:{}: {why}", event.position));
            }
            match std::mem::take(&mut unreadable) {
                0 => follows(db, last.as_ref(), &event, report),
                rows if last.as_ref().map_or(0, |last| last.position) + rows + 1 != event.position => {
                    report.fault(FaultKind::Gap, db, format!("{region}:{} stands after {rows} unreadable rows", event.position));
                }
                _ => {}
            }
            vector.raise(&region, event.position);
            latest = latest.max(event.stamp);
            last = Some(event);
        }
        if let Some(last) = last.filter(|last| !last.batch.may_stop_after()) {
            report.fault(
                FaultKind::Batch,
                db,
                format!("{region} ends at {} inside an atomic batch of {}", last.position, last.batch.count),
            );
        }
        for op in audit.repeated(id, &region).await? {
            report.fault(FaultKind::Repeat, db, format!("{region} holds the op {op} more than once"));
        }
    }
    if vector != head.vector {
        report.fault(
            FaultKind::Head,
            db,
            format!("the head's vector is {:?} and the journals' {:?}", head.vector.to_string(), vector.to_string()),
        );
    }
    if head.stamp < latest {
        report.fault(FaultKind::Head, db, format!("the head's stamp {} lies before an event's, {latest}", head.stamp));
    }
    Ok(())
}

/// What must hold between an event and the one before it.
fn follows(db: &DatabaseName, last: Option<&Event>, event: &Event, report: &mut Report) {
    let place = format!("{}:{}", event.region, event.position);
    let expected = last.map_or(1, |last| last.position + 1);
    if event.position != expected {
        report.fault(FaultKind::Gap, db, format!("{place} stands where position {expected} was expected"));
    }
    if last.is_some_and(|last| event.stamp <= last.stamp) {
        report.fault(FaultKind::Stamp, db, format!("{place} is stamped {}, not after the event before it", event.stamp));
    }
    let continues = last.is_some_and(|last| {
        last.batch.id == event.batch.id && last.batch.index + 1 == event.batch.index && last.batch.count == event.batch.count
    });
    let whole = last.is_none_or(|last| last.batch.index + 1 == last.batch.count);
    if !continues && (event.batch.index != 0 || !whole) {
        report.fault(FaultKind::Batch, db, format!("{place} does not continue the batch before it"));
    }
}
