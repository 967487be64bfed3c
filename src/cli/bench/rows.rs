//! The rows of the table: what each measures, against what, and what it should come to.

mod scale;

use super::ceiling::{self, Chunk};
use super::load::Measured;
use super::rig::{Gateway, Rig};
use super::say;
use super::table::{Goal, Line};
use crate::cli::stop_signal;
use crate::error::{Error, Kind, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All of them, in the order in which they are measured; those that grow a journal come last.
const ROWS: [&str; 14] = ["B1a", "B1b", "B2", "B3", "B12", "B4", "B5", "B6", "B7", "B9", "S", "B8", "B11", "B10"];

/// How much of everything.
#[derive(Clone, Copy)]
pub struct Sizes {
    repeats: usize,
    documents: u64,
    bulk: u64,
    singles: u64,
    one_by_one: u64,
    reads: u64,
    followed: u64,
    caught_up: u64,
    rebuilt: u64,
    grown: u64,
    subscribers: u64,
}

impl Sizes {
    pub fn new(small: bool) -> Self {
        let full = Self {
            repeats: 3,
            documents: 100_000,
            bulk: 200_000,
            singles: 30_000,
            one_by_one: 2_000,
            reads: 60_000,
            followed: 10_000,
            caught_up: 200_000,
            rebuilt: 1_000_000,
            grown: 5_000_000,
            subscribers: 10_000,
        };
        if !small {
            return full;
        }
        Self {
            repeats: 1,
            documents: 1_000,
            bulk: 2_000,
            singles: 600,
            one_by_one: 30,
            reads: 1_500,
            followed: 100,
            caught_up: 2_000,
            rebuilt: 10_000,
            grown: 20_000,
            subscribers: 100,
        }
    }
}

/// The rows that were asked for; all, where none was named.
pub fn chosen(only: &[String]) -> Result<Vec<&'static str>> {
    if let Some(unknown) = only.iter().find(|name| !ROWS.contains(&name.as_str())) {
        return Err(Error::new(Kind::Invalid, format!("there is no row {unknown}; there are {}", ROWS.join(", "))));
    }
    Ok(ROWS.into_iter().filter(|row| only.is_empty() || only.iter().any(|name| name == row)).collect())
}

/// Measures them.
pub async fn measure(rows: &[&'static str], sizes: Sizes) -> Result<Vec<Line>> {
    say("starting Postgres and NATS …");
    let rig = Rig::start().await?;
    say(&rig.versions());
    let measured = tokio::select! {
        measured = Bench::measure(&rig, rows, sizes) => measured,
        _ = stop_signal() => Err(Error::new(Kind::Conflict, "stopped before everything was measured")),
    };
    rig.stop().await;
    say("");
    let mut lines = measured?;
    lines.sort_by_key(|line| line.row.trim_start_matches('B').trim_end_matches(char::is_alphabetic).parse::<u32>().unwrap_or(u32::MAX));
    Ok(lines)
}

struct Bench<'a> {
    rig: &'a Rig,
    sizes: Sizes,
    /// The gateway that most rows share, and what it kept, for the ceilings.
    main: Gateway,
    chunks: Arc<Vec<Chunk>>,
    /// The ceilings' own database: the same schema, nothing else.
    beside: String,
    /// Databases made so far: each use gets one of its own.
    used: u32,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

impl<'a> Bench<'a> {
    async fn measure(rig: &'a Rig, rows: &[&'static str], sizes: Sizes) -> Result<Vec<Line>> {
        let main = rig.gateway("eu", "bench").await?;
        let beside = rig.database("ceiling").await?;
        let mut bench = Self { rig, sizes, main, chunks: Arc::default(), beside, used: 0 };
        let made = bench.made(rows).await;
        bench.main.stop().await;
        made
    }

    async fn made(&mut self, rows: &[&'static str]) -> Result<Vec<Line>> {
        say("filling: every document once …");
        let Sizes { documents, bulk, .. } = self.sizes;
        self.write(&format!("--db shop --ops {documents} --documents {documents} --order each")).await?;
        self.write(&format!("--db model --ops {bulk} --documents {documents}")).await?;
        self.chunks = ceiling::chunks(&self.main.owner, "model", bulk).await?;
        let mut lines = Vec::new();
        let mut grown = None;
        for row in rows {
            let told = lines.len();
            say(&format!("{row} …"));
            match *row {
                "B1a" => lines.push(self.bulk("B1a", "ops/s into one database, 1,000 a batch, 8 connections", 1, 0.7).await?),
                "B1b" => lines.push(self.bulk("B1b", "the same over four databases", 4, 0.6).await?),
                "B2" => lines.push(self.singles().await?),
                "B3" => lines.extend(self.one_by_one().await?),
                "B12" => lines.push(self.neighbour().await?),
                "B4" => lines.push(self.reads().await?),
                "B5" => lines.extend(self.snapshot().await?),
                "B6" => lines.extend(self.follow().await?),
                "B7" => lines.push(self.catch_up().await?),
                "B9" => lines.extend(self.memory().await?),
                "S" => lines.extend(self.scale().await?),
                _ => {
                    if grown.is_none() {
                        grown = Some(self.grow().await?);
                    }
                    let Some(gateway) = &grown else { continue };
                    lines.push(match *row {
                        "B8" => self.rebuild(gateway).await?,
                        "B11" => self.disk(gateway).await?,
                        _ => self.grown(gateway).await?,
                    });
                }
            }
            lines[told..].iter().for_each(|line| say(line.to_string().as_str()));
        }
        if let Some(gateway) = grown {
            gateway.stop().await;
        }
        Ok(lines)
    }

    async fn write(&self, arguments: &str) -> Result<Measured> {
        self.rig.load(&self.main, "write", arguments).await
    }

    fn fresh(&mut self) -> String {
        self.used += 1;
        format!("used{}", self.used)
    }

    /// So many fresh databases.
    fn fresh_several(&mut self, count: usize) -> String {
        (0..count).map(|_| self.fresh()).collect::<Vec<_>>().join(",")
    }

    /// The gateway's figure and the ceiling's in turn, so that what else the machine does meets both; the medians.
    async fn bulk(&mut self, row: &'static str, what: &str, databases: usize, goal: f64) -> Result<Line> {
        let Sizes { repeats, documents, bulk, .. } = self.sizes;
        let (mut figures, mut ceilings) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            let names = self.fresh_several(databases);
            self.rig.settle("bench_eu").await?;
            figures.push(self.write(&format!("--db {names} --ops {bulk} --documents {documents}")).await?.per_second());
            self.rig.settle("bench_eu").await?;
            ceilings.push(ceiling::write(&self.beside, &self.chunks, if databases > 1 { 2 } else { 1 }).await?.per_second());
        }
        let (figure, ceiling) = (median(figures), Some(median(ceilings)));
        Ok(Line { row, what: what.into(), figure, unit: "ops/s", ceiling, goal: Goal::AtLeast(goal) })
    }

    async fn singles(&mut self) -> Result<Line> {
        let Sizes { repeats, documents, singles, .. } = self.sizes;
        let (mut figures, mut ceilings) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            let db = self.fresh();
            let load = format!("--db {db} --ops {singles} --batch 1 --connections 64 --documents {documents}");
            self.rig.settle("bench_eu").await?;
            figures.push(self.write(&load).await?.per_second());
            ceilings.push(ceiling::write_singly(&self.beside, &self.chunks, 64, singles).await?.per_second());
        }
        let what = "ops/s, 1 a request, 64 connections".into();
        Ok(Line { row: "B2", what, figure: median(figures), unit: "ops/s", ceiling: Some(median(ceilings)), goal: Goal::AtLeast(1.0) })
    }

    async fn one_by_one(&mut self) -> Result<[Line; 2]> {
        let Sizes { repeats, documents, one_by_one, .. } = self.sizes;
        let (mut figures, mut ceilings) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            let db = self.fresh();
            self.rig.settle("bench_eu").await?;
            figures.push(self.write(&format!("--db {db} --ops {one_by_one} --batch 1 --connections 1 --documents {documents}")).await?);
            ceilings.push(ceiling::write_singly(&self.beside, &self.chunks, 1, one_by_one).await?);
        }
        let line = |what: &str, read: fn(&Measured) -> f64| Line {
            row: "B3",
            what: what.into(),
            figure: median(figures.iter().map(read).collect()),
            unit: "ms",
            ceiling: Some(median(ceilings.iter().map(read).collect())),
            goal: Goal::AtMost(3.0),
        };
        Ok([
            line("latency of 1 op a request, 1 connection, p50", |measured| measured.p50_ms),
            line("the same, p99", |measured| measured.p99_ms),
        ])
    }

    async fn reads(&mut self) -> Result<Line> {
        let Sizes { repeats, documents, reads, .. } = self.sizes;
        let docs: Arc<Vec<String>> = Arc::new((0..documents).map(super::load::doc).collect());
        let (mut figures, mut ceilings) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            let load = format!("--db shop --reads {reads} --connections 64 --documents {documents}");
            self.rig.settle("bench_eu").await?;
            figures.push(self.rig.load(&self.main, "read", &load).await?.per_second());
            ceilings.push(ceiling::read(&self.main.owner, "shop", &docs, 64, reads).await?.per_second());
        }
        let what = "document reads/s, 64 connections".into();
        Ok(Line { row: "B4", what, figure: median(figures), unit: "reads/s", ceiling: Some(median(ceilings)), goal: Goal::AtLeast(0.8) })
    }

    async fn snapshot(&mut self) -> Result<[Line; 2]> {
        let copy =
            "select doc, version, stamp, body, conflicts from documents where database = (select id from databases where name = 'shop')";
        let (mut streams, mut pages, mut ceilings) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.sizes.repeats {
            self.rig.settle("bench_eu").await?;
            for (how, figures) in [("", &mut streams), ("--pages", &mut pages)] {
                let read = self.rig.load(&self.main, "snapshot", &format!("--db shop {how}")).await?;
                self.whole(read.count, self.sizes.documents, "the snapshot's rows")?;
                figures.push(read.per_second());
            }
            let copied = ceiling::copy(&self.main.owner, copy).await?;
            self.whole(copied.count, self.sizes.documents, "the copied rows")?;
            ceilings.push(copied.per_second());
        }
        let what = format!("snapshot of {} documents with bodies, as a stream, rows/s", self.sizes.documents);
        let ceiling = Some(median(ceilings));
        let line = |what, figures, goal| Line { row: "B5", what, figure: median(figures), unit: "rows/s", ceiling, goal };
        Ok([line(what, streams, Goal::AtLeast(0.5)), line("the same, page after page".into(), pages, Goal::Told)])
    }

    /// A figure counts only where all of it was there.
    fn whole(&self, seen: u64, wanted: u64, what: &str) -> Result<()> {
        if seen == wanted {
            return Ok(());
        }
        Err(Error::new(Kind::Internal, format!("{what} are {seen}, not {wanted}")))
    }

    async fn follow(&mut self) -> Result<[Line; 2]> {
        let (url, _) = self.rig.nats();
        let (mut http, mut nats) = (Vec::new(), Vec::new());
        for _ in 0..self.sizes.repeats {
            let (db, ops) = (self.fresh(), self.sizes.followed);
            let load = format!("--db {db} --ops {ops} --rate 1000 --connections 16 --nats {url} --nats-prefix bench");
            self.rig.settle("bench_eu").await?;
            let followed = self.rig.load(&self.main, "follow", &load).await?;
            http.push(followed.p99_ms);
            nats.push(followed.nats_p99_ms.unwrap_or(f64::INFINITY));
        }
        let line = |what: &str, figures: Vec<f64>| Line {
            row: "B6",
            what: format!("from the reply to {what} subscriber, at 1,000 ops/s, p99"),
            figure: median(figures),
            unit: "ms",
            ceiling: None,
            goal: Goal::AtMost(5.0),
        };
        Ok([line("an SSE", http), line("a NATS", nats)])
    }

    async fn catch_up(&mut self) -> Result<Line> {
        let Sizes { repeats, documents, caught_up, .. } = self.sizes;
        let (mut figures, mut ceilings) = (Vec::new(), Vec::new());
        let there = self.rig.gateway("eu", "far").await?;
        self.rig.load(&there, "write", &format!("--db shop --ops {caught_up} --documents {documents}")).await?;
        for at in 0..repeats {
            self.rig.settle("far_eu").await?;
            let started = Instant::now();
            let here = self.rig.gateway(&format!("us{at}"), "far").await?;
            let have =
                "select coalesce(max(substring(vector from 'eu:([0-9]+)')::int8), 0) from heads h join databases d on d.id = h.database
                 where d.name = 'shop'";
            while ceiling::number(&here.owner, have).await? < caught_up as f64 {
                if started.elapsed() > Duration::from_secs(600) {
                    return Err(Error::new(Kind::Unavailable, "the empty region did not catch up within ten minutes"));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            figures.push(caught_up as f64 / started.elapsed().as_secs_f64());
            here.stop().await;
            ceilings.push(ceiling::write(&self.beside, &self.chunks, 1).await?.per_second());
        }
        there.stop().await;
        let what = format!("an empty region catching up with {caught_up} events, from its start");
        Ok(Line { row: "B7", what, figure: median(figures), unit: "events/s", ceiling: Some(median(ceilings)), goal: Goal::AtLeast(0.6) })
    }

    async fn memory(&mut self) -> Result<[Line; 2]> {
        let Sizes { documents, bulk, subscribers, .. } = self.sizes;
        let busy = self.rig.gateway("eu", "memory").await?;
        self.rig.load(&busy, "write", &format!("--db shop --ops {bulk} --documents {documents}")).await?;
        let under_load = busy.memory_peak()?;
        busy.stop().await;
        let idle = self.rig.gateway("eu", "crowd").await?;
        let crowd = self.rig.crowd(&idle, &format!("--db shop --subscribers {subscribers}")).await?;
        let with_crowd = idle.memory()?;
        crowd.end().await?;
        idle.stop().await;
        let line = |what: String, figure, goal| Line { row: "B9", what, figure, unit: "MiB", ceiling: None, goal: Goal::AtMost(goal) };
        Ok([
            line("most memory of the gateway under B1a".into(), under_load, 150.0),
            line(format!("its memory with {subscribers} idle SSE subscribers"), with_crowd, 400.0),
        ])
    }

    /// A region with a long journal.
    async fn grow(&mut self) -> Result<Gateway> {
        let Sizes { documents, rebuilt, .. } = self.sizes;
        let gateway = self.rig.gateway("eu", "long").await?;
        self.rig.load(&gateway, "write", &format!("--db shop --ops {rebuilt} --documents {documents}")).await?;
        Ok(gateway)
    }

    async fn rebuild(&mut self, gateway: &Gateway) -> Result<Line> {
        let (mut figures, mut ceilings) = (Vec::new(), Vec::new());
        let events = self.sizes.rebuilt as f64;
        for _ in 0..self.sizes.repeats {
            self.rig.settle("long_eu").await?;
            let started = Instant::now();
            let rebuild = ["rebuild", "documents", "--url", &gateway.owner].map(str::to_owned);
            self.rig.run(&rebuild).await?;
            figures.push(events / started.elapsed().as_secs_f64());
            ceilings.push(ceiling::copy(&gateway.owner, "select * from events").await?.per_second());
        }
        let what = format!("rebuild of documents from {events} events");
        Ok(Line { row: "B8", what, figure: median(figures), unit: "events/s", ceiling: Some(median(ceilings)), goal: Goal::AtLeast(0.3) })
    }

    async fn disk(&mut self, gateway: &Gateway) -> Result<Line> {
        let Sizes { documents, bulk, .. } = self.sizes;
        let db = self.fresh();
        let sent = self.write(&format!("--db {db} --ops {bulk} --documents {documents}")).await?.op_bytes;
        let bytes = ceiling::number(&gateway.owner, "select pg_total_relation_size('events')").await?;
        let events = ceiling::number(&gateway.owner, "select count(*) from events").await?;
        let what = "disk an event takes with its indexes, against the op as sent".into();
        Ok(Line { row: "B11", what, figure: bytes / events, unit: "bytes", ceiling: Some(sent), goal: Goal::AtMost(2.5) })
    }

    async fn grown(&mut self, gateway: &Gateway) -> Result<Line> {
        let Sizes { repeats, documents, bulk, rebuilt, grown, .. } = self.sizes;
        let more = grown.saturating_sub(rebuilt);
        self.rig.load(gateway, "write", &format!("--db shop --ops {more} --documents {documents}")).await?;
        let (mut figures, mut ceilings) = (Vec::new(), Vec::new());
        for at in 0..repeats {
            self.rig.settle("long_eu").await?;
            let load = format!("--db shop --ops {bulk} --documents {documents}");
            figures.push(self.rig.load(gateway, "write", &load).await?.per_second());
            // Empty, but for the documents: both write what is there.
            let empty = self.rig.gateway("eu", &format!("empty{at}")).await?;
            self.rig.load(&empty, "write", &format!("--db shop --ops {documents} --documents {documents} --order each")).await?;
            self.rig.settle("long_eu").await?;
            ceilings.push(self.rig.load(&empty, "write", &load).await?.per_second());
            empty.stop().await;
        }
        let what = format!("B1a with {grown} events stored, against the same on an empty database");
        Ok(Line { row: "B10", what, figure: median(figures), unit: "ops/s", ceiling: Some(median(ceilings)), goal: Goal::AtLeast(0.9) })
    }

    async fn neighbour(&mut self) -> Result<Line> {
        let Sizes { repeats, documents, bulk, one_by_one, .. } = self.sizes;
        let (mut figures, mut ceilings) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            let (quiet, busy) = (self.fresh(), self.fresh());
            let single = format!("--db {quiet} --ops {one_by_one} --batch 1 --connections 1 --documents {documents}");
            self.rig.settle("bench_eu").await?;
            ceilings.push(self.write(&single).await?.p99_ms);
            // As long as the flood lasts, and no longer: its batches are many times what the quiet one writes meanwhile.
            let flood = format!("--db {busy} --ops {} --documents {documents}", bulk * 4);
            let flood = self.write(&flood);
            let single = self.write(&single);
            let (mut flood, mut single) = (std::pin::pin!(flood), std::pin::pin!(single));
            let quiet = tokio::select! {
                single = &mut single => single?,
                flooded = &mut flood => {
                    flooded?;
                    single.await?
                }
            };
            figures.push(quiet.p99_ms);
        }
        let what = "p99 of single writes to a quiet database beside a flood on another, against its own alone".into();
        Ok(Line { row: "B12", what, figure: median(figures), unit: "ms", ceiling: Some(median(ceilings)), goal: Goal::AtMost(3.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_name() {
        assert_eq!(chosen(&[]).unwrap().len(), ROWS.len());
        assert_eq!(chosen(&["B3".into(), "B1a".into()]).unwrap(), ["B1a", "B3"]);
        assert!(chosen(&["B99".into()]).unwrap_err().chain().contains("there is no row B99; there are B1a"));
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
