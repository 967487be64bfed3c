//! Documents against a refold of the journals, document by document, so that memory holds one document's events.

use super::{FaultKind, Progress, Report};
use crate::error::Result;
use crate::id::{DatabaseName, DocId};
use crate::journal::Event;
use crate::json::Value;
use crate::project::fold::last_stamp;
use crate::project::{Conflict, Digest, Document, Fold};
use crate::store::audit::{Audit, Events};
use crate::store::{DatabaseId, Head};
use crate::vector::Vector;

/// Documents read at once.
const PAGE: i64 = 500;

pub(super) async fn check(
    audit: &Audit,
    id: DatabaseId,
    db: &DatabaseName,
    head: &Head,
    report: &mut Report,
    progress: &mut (dyn Progress + Send),
) -> Result<()> {
    let mut digest = Digest::default();
    let mut present = 0u64;
    let mut after: Option<DocId> = None;
    loop {
        let page = audit.documents(id, after.as_ref(), PAGE).await?;
        let upto = page.last().map(|last| last.doc.clone());
        let mut groups = Groups { events: audit.events_by_document(id, after.as_ref(), upto.as_ref()).await?, next: None };
        let mut group = groups.next(db, progress).await?;
        for stored in &page {
            report.documents += 1;
            digest = digest.plus(stored.digest());
            present += u64::from(stored.body.is_some());
            while let Some((doc, _)) = group.as_ref().filter(|(doc, _)| *doc < stored.doc) {
                report.fault(FaultKind::Document, db, format!("{doc} has events and is not among the documents"));
                group = groups.next(db, progress).await?;
            }
            match group.take_if(|(doc, _)| *doc == stored.doc) {
                Some((_, events)) => {
                    compare(db, stored, &events, report);
                    group = groups.next(db, progress).await?;
                }
                None => report.fault(FaultKind::Document, db, format!("{} is among the documents and has no event", stored.doc)),
            }
        }
        while let Some((doc, _)) = group {
            report.fault(FaultKind::Document, db, format!("{doc} has events and is not among the documents"));
            group = groups.next(db, progress).await?;
        }
        match upto {
            None => break,
            upto => after = upto,
        }
    }
    if digest != head.digest {
        report.fault(FaultKind::Head, db, format!("the head's digest is {} and the documents' {digest}", head.digest));
    }
    if present != head.documents {
        report.fault(FaultKind::Head, db, format!("the head counts {} documents and {present} are there", head.documents));
    }
    Ok(())
}

fn compare(db: &DatabaseName, stored: &Document, events: &[Event], report: &mut Report) {
    let doc = &stored.doc;
    let version: Vector = events.iter().map(|event| (event.region.clone(), event.position)).collect();
    if version != stored.version || last_stamp(events) != stored.stamp {
        report.fault(FaultKind::Version, db, format!("{doc} is at {} and its events at {version}", stored.version));
    }
    let fold = Fold::of(events);
    let (Ok(body), Ok(conflicts)) = (fold.body(), fold.conflicts()) else {
        report.fault(FaultKind::Document, db, format!("{doc} cannot be folded"));
        return;
    };
    let body = body.map(|body| Value::Object(body).canonical());
    if body.as_deref() != stored.body.as_deref() {
        report.fault(FaultKind::Document, db, format!("{doc} is not the fold of its events"));
    }
    if conflicts != stored.conflicts {
        let ids = |conflicts: &[Conflict]| conflicts.iter().map(Conflict::id).collect::<Vec<_>>().join(" ");
        let (is, ought) = (ids(&stored.conflicts), ids(&conflicts));
        report.fault(FaultKind::Document, db, format!("{doc} has the conflicts [{is}] and its events make [{ought}]"));
    }
}

/// Events gathered by document.
struct Groups {
    events: Events,
    next: Option<Event>,
}

impl Groups {
    async fn next(&mut self, db: &DatabaseName, progress: &mut (dyn Progress + Send)) -> Result<Option<(DocId, Vec<Event>)>> {
        let first = match self.next.take() {
            Some(first) => first,
            None => match self.events.next(db).await? {
                Some((first, _)) => first,
                None => return Ok(None),
            },
        };
        progress.step();
        let doc = first.doc.clone();
        let mut group = vec![first];
        while let Some((event, _)) = self.events.next(db).await? {
            if event.doc != doc {
                self.next = Some(event);
                break;
            }
            progress.step();
            group.push(event);
        }
        Ok(Some((doc, group)))
    }
}
