//! Documents against a refold of the journals, event by event, so that memory holds one document's state, however long its
//! past. Keyframes are held against the same fold on its way.

use super::{FaultKind, Progress, Report};
use crate::clock::Stamp;
use crate::error::Result;
use crate::id::{DatabaseName, DocId};
use crate::journal::Event;
use crate::json::{Object, Value};
use crate::project::{Conflict, Copied, Digest, Document, Fold, Folding, Keyframe, Place};
use crate::store::audit::Audit;
use crate::store::{DatabaseId, Head};
use crate::vector::Vector;
use std::collections::HashMap;
use std::iter::Peekable;
use std::vec::IntoIter;

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
    let mut checker = Checker { audit, id, db, report, digest: Digest::default(), present: 0 };
    let mut after: Option<DocId> = None;
    loop {
        let page = audit.documents(id, after.as_ref(), PAGE).await?;
        let upto = page.last().map(|last| last.doc.clone());
        checker.page(page, after.as_ref(), upto.as_ref(), progress).await?;
        match upto {
            None => break,
            upto => after = upto,
        }
    }
    let Checker { digest, present, .. } = checker;
    if digest != head.digest {
        report.fault(FaultKind::Head, db, format!("the head's digest is {} and the documents' {digest}", head.digest));
    }
    if present != head.documents {
        report.fault(FaultKind::Head, db, format!("the head counts {} documents and {present} are there", head.documents));
    }
    Ok(())
}

struct Checker<'a> {
    audit: &'a Audit,
    id: DatabaseId,
    db: &'a DatabaseName,
    report: &'a mut Report,
    digest: Digest,
    present: u64,
}

/// A document in the making, from its events alone.
struct Making {
    doc: DocId,
    folding: Folding,
    version: Vector,
    stamp: Stamp,
    /// Runs of increments do not tell it: it is folded again without.
    stuck: bool,
    keyframe: Option<Keyframe>,
}

impl Checker<'_> {
    async fn page(
        &mut self,
        page: Vec<Document>,
        after: Option<&DocId>,
        upto: Option<&DocId>,
        progress: &mut (dyn Progress + Send),
    ) -> Result<()> {
        let mut copies: HashMap<DocId, Vec<Copied>> = HashMap::new();
        for copy in self.audit.copies(self.id, after, upto).await? {
            copies.entry(copy.doc.clone()).or_default().push(copy);
        }
        let mut stored = page.into_iter().peekable();
        let mut events = self.audit.events_by_document(self.id, after, upto).await?;
        let mut making: Option<Making> = None;
        while let Some((event, _)) = events.next(self.db).await? {
            progress.step();
            if making.as_ref().is_none_or(|making| making.doc != event.doc) {
                if let Some(done) = making.take() {
                    self.compare(done, &mut stored).await?;
                }
                making = Some(self.begin(&event.doc, copies.get(&event.doc).map_or(&[], Vec::as_slice)).await?);
            }
            if let Some(making) = &mut making {
                self.take(making, &event).await?;
            }
        }
        if let Some(done) = making {
            self.compare(done, &mut stored).await?;
        }
        for left in stored {
            self.count(&left);
            self.report.fault(FaultKind::Document, self.db, format!("{} is among the documents and has no event", left.doc));
        }
        Ok(())
    }

    async fn begin(&self, doc: &DocId, copied: &[Copied]) -> Result<Making> {
        Ok(Making {
            doc: doc.clone(),
            folding: Folding::new(Fold::default(), copied, None),
            version: Vector::new(),
            stamp: Stamp::default(),
            stuck: false,
            keyframe: self.audit.keyframe(self.id, doc, None).await?,
        })
    }

    async fn take(&mut self, making: &mut Making, event: &Event) -> Result<()> {
        making.version.raise(&event.region, event.position);
        making.stamp = making.stamp.max(event.stamp);
        making.stuck |= making.stuck || !self.audit.take(self.id, &mut making.folding, event).await?;
        let here = Place::of(event);
        while let Some(keyframe) = making.keyframe.take_if(|keyframe| keyframe.place <= here) {
            let same = keyframe.place == here && !making.stuck && is_same(&keyframe, &making.folding.fold);
            if !same && !making.stuck {
                let what = format!(
                    "the keyframe of {} at {}:{} is not the fold up to there",
                    making.doc, keyframe.place.region, keyframe.place.position
                );
                self.report.fault(FaultKind::Document, self.db, what);
            }
            making.keyframe = self.audit.keyframe(self.id, &making.doc, Some(&keyframe.place)).await?;
        }
        Ok(())
    }

    fn count(&mut self, stored: &Document) {
        self.report.documents += 1;
        self.digest = self.digest.plus(stored.digest());
        self.present += u64::from(stored.body.is_some());
    }

    /// Compares a document with the one that is stored; those that were passed over have no events.
    async fn compare(&mut self, made: Making, stored: &mut Peekable<IntoIter<Document>>) -> Result<()> {
        while let Some(passed) = stored.next_if(|stored| stored.doc < made.doc) {
            self.count(&passed);
            self.report.fault(FaultKind::Document, self.db, format!("{} is among the documents and has no event", passed.doc));
        }
        let doc = made.doc.clone();
        let Some(stored) = stored.next_if(|stored| stored.doc == doc) else {
            self.report.fault(FaultKind::Document, self.db, format!("{doc} has events and is not among the documents"));
            return Ok(());
        };
        self.count(&stored);
        if made.version != stored.version || made.stamp != stored.stamp {
            self.report.fault(FaultKind::Version, self.db, format!("{doc} is at {} and its events at {}", stored.version, made.version));
        }
        let Some((body, conflicts)) = self.shown(made).await? else {
            self.report.fault(FaultKind::Document, self.db, format!("{doc} cannot be folded"));
            return Ok(());
        };
        let body = body.map(|body| Value::Object(body).canonical());
        if body.as_deref() != stored.body.as_deref() {
            self.report.fault(FaultKind::Document, self.db, format!("{doc} is not the fold of its events"));
        }
        if conflicts != stored.conflicts {
            let ids = |conflicts: &[Conflict]| conflicts.iter().map(Conflict::id).collect::<Vec<_>>().join(" ");
            let (is, ought) = (ids(&stored.conflicts), ids(&conflicts));
            self.report.fault(FaultKind::Document, self.db, format!("{doc} has the conflicts [{is}] and its events make [{ought}]"));
        }
        Ok(())
    }

    /// What a document shows; folded again without runs where those do not tell.
    async fn shown(&self, made: Making) -> Result<Option<(Option<Object>, Vec<Conflict>)>> {
        if !made.stuck
            && let Some(shown) = shown(&made.folding.fold)
        {
            return Ok(Some(shown));
        }
        let mut events = self.audit.events_of_document(self.id, &made.doc).await?;
        let mut all: Vec<Event> = Vec::new();
        while let Some((event, _)) = events.next(self.db).await? {
            all.push(event);
        }
        Ok(shown(&Fold::of(&all)))
    }
}

fn shown(fold: &Fold) -> Option<(Option<Object>, Vec<Conflict>)> {
    Some((fold.body().ok()?, fold.conflicts().ok()?))
}

/// Whether a keyframe shows what the fold does, and names the same last events.
fn is_same(keyframe: &Keyframe, fold: &Fold) -> bool {
    let Ok(kept) = keyframe.fold() else { return false };
    // Where runs do not tell, the fold is made again, and its keyframes are not looked at.
    let Some(expected) = shown(fold) else { return true };
    shown(&kept) == Some(expected) && kept.latest() == fold.latest() && keyframe.latest == *fold.latest()
}
