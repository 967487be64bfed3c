//! Clients: they write through whatever gateway they reach, remember what they saw and wrote, and send again what they
//! heard nothing of, or what they did hear of, here or in another region.

use super::seed::Rng;
use super::world::{Answer, NOW, World};
use std::sync::Arc;
use std::time::Duration;
use tidegate::clock::{Millis, format_time};
use tidegate::ingest::{Outcome, Verdict};
use tidegate::random::Random;
use tidegate::relay::feed::{self, Filter};
use tidegate::token::Cursor;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

/// A document that is only ever incremented, at `/n`, by whole numbers.
pub const COUNTER: &str = "n/all";

const DOCS: [&str; 4] = ["c/1", "c/2", "c/3", "d/1"];

const PATHS: [&str; 5] = ["/a", "/a/b", "/n", "/s", "/t~1x"];

const SCHEMAS: [&str; 5] = [
    r#"{"properties":{"n":{"type":"number","x-merge":"counter"},"s":{"type":"array","x-merge":"set"},"a":{"x-merge":"ask"}}}"#,
    r#"{"properties":{"n":{"type":["number","null"],"x-merge":"max"},"a":{"x-merge":"latest-edit"},"s":{"type":"string","x-merge":"join"}}}"#,
    r#"{"properties":{"n":{"type":"number","x-merge":"min"},"a":{"properties":{"b":{"x-merge":"ask"}}},"t/x":{"x-merge":"ask"}}}"#,
    r#"{"required":["n"]}"#,
    r#"{}"#,
];

/// A batch as it is sent, as often as it is, with the ids and documents of its ops.
#[derive(Clone)]
pub struct Sending {
    pub text: String,
    pub ops: Vec<(Uuid, String)>,
}

pub struct Client {
    world: Arc<World>,
    name: String,
    rng: Rng,
    random: Random,
    id: Uuid,
    /// The region it mostly writes to.
    home: usize,
    session: Option<String>,
    cursor: Option<Cursor>,
    /// Versions it saw, by document.
    versions: Vec<(String, String)>,
    sent: Vec<Sending>,
}

/// Random bits for what is drawn at a gateway's door, by name.
fn random(seed: u64, name: &str) -> Random {
    let mut rng = Rng::named(seed, &format!("{name}'s batches"));
    Random::from_fn(move || rng.bytes())
}

impl Client {
    pub fn new(world: Arc<World>, number: u64) -> Self {
        let name = format!("client {number}");
        let mut rng = Rng::named(world.seed, &name);
        Self {
            random: random(world.seed, &name),
            id: rng.uuid(),
            home: rng.index(world.sites.len()),
            session: None,
            cursor: None,
            versions: Vec::new(),
            sent: Vec::new(),
            world,
            name,
            rng,
        }
    }

    pub async fn run(mut self, until: Instant) {
        while Instant::now() < until {
            sleep(Duration::from_millis(self.rng.between(20, 900))).await;
            if self.rng.percent(10) {
                self.read().await;
                continue;
            }
            let known = (!self.sent.is_empty() && self.rng.percent(12)).then(|| self.rng.pick(&self.sent).clone());
            let sending = known.unwrap_or_else(|| self.compose());
            self.send(&sending).await;
        }
    }

    /// Sends a batch until there is an answer, for so long as it has patience; sometimes once more, as if the answer had
    /// been lost.
    async fn send(&mut self, sending: &Sending) {
        for attempt in 0..self.rng.between(1, 5) {
            if attempt > 0 {
                self.world.book().story.retries += 1;
            }
            let away = self.rng.percent(30);
            let at = if attempt > 0 || away { self.rng.index(self.world.sites.len()) } else { self.home };
            let answered = self.try_at(at, sending).await;
            if answered && self.rng.percent(85) {
                return;
            }
            let pause = if answered { self.rng.between(1, 20) } else { self.rng.between(20, 500) };
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Whether there was an answer.
    async fn try_at(&mut self, at: usize, sending: &Sending) -> bool {
        let Some(gateway) = self.world.gateway(at, &mut self.rng) else { return false };
        let (limit, region) = (Duration::from_millis(self.rng.between(100, 3000)), gateway.region.clone());
        let heard = match timeout(limit, self.world.write(&gateway, &self.random, &sending.text)).await {
            Ok(Answer::Told(outcome)) => {
                self.world.judge(at, sending, &outcome);
                self.learn(sending, &outcome);
                outcome.verdicts.iter().map(tell).collect::<Vec<_>>().join(" ")
            }
            Ok(Answer::Refused(kind)) => {
                // A token that lies too far ahead of that region's clock.
                (self.session, self.cursor) = (None, None);
                format!("refused: {}", kind.row().0)
            }
            Ok(Answer::Failed(why)) => {
                self.world.say(format!("{} to {region}: {why}", self.name));
                return false;
            }
            Err(_) => {
                self.world.say(format!("{} to {region}: no answer", self.name));
                return false;
            }
        };
        self.world.say(format!("{} to {region}: {heard}", self.name));
        true
    }

    fn learn(&mut self, sending: &Sending, outcome: &Outcome) {
        for ((_, doc), verdict) in sending.ops.iter().zip(&outcome.verdicts) {
            // A version that holds what was not seen is no base.
            if let Verdict::Applied { version, unseen: false, .. } | Verdict::Duplicate { version, unseen: false, .. } = verdict {
                self.versions.push((doc.clone(), version.to_string()));
            }
        }
        if self.rng.percent(80) {
            self.session = Some(outcome.session.encode(&self.world.db));
        }
    }

    /// Reads a page of changes, since what it read last or from the beginning.
    async fn read(&mut self) {
        let at = self.rng.index(self.world.sites.len());
        let Some(gateway) = self.world.gateway(at, &mut self.rng) else { return };
        let Ok(Some(database)) = gateway.database(&self.world.db).await else { return };
        let again = self.rng.percent(70);
        let since = self.cursor.clone().filter(|_| again);
        let extent = feed::Extent { rows: 1000, bytes: feed::PAGE_BYTES };
        let page = feed::page(&*gateway.store, database.id, since.as_ref(), &Filter::default(), extent, true).await;
        let Ok(page) = page else { return };
        self.world.judge_cursor(at, &page.cursor);
        self.world.say(format!("{} reads {} rows in {}, up to {}", self.name, page.rows.len(), gateway.region, page.cursor.vector));
        for row in &page.rows {
            self.versions.push((row.doc.to_string(), row.version.to_string()));
        }
        self.cursor = Some(page.cursor);
    }

    fn compose(&mut self) -> Sending {
        let (mut ops, mut texts) = (Vec::new(), Vec::new());
        for _ in 0..self.rng.between(1, 4) {
            let (id, doc, text) = self.op();
            ops.push((id, doc));
            texts.push(text);
        }
        let mut tokens = String::new();
        if let Some(session) = self.session.as_ref().filter(|_| self.rng.percent(60)) {
            tokens.push_str(&format!(r#","session":"{session}""#));
        }
        if let Some(cursor) = self.cursor.as_ref().filter(|_| self.rng.percent(15)) {
            tokens.push_str(&format!(r#","cursor":"{}""#, cursor.encode(&self.world.db)));
        }
        let atomic = self.rng.percent(20);
        let text = format!(r#"{{"client":"{}","atomic":{atomic},"ops":[{}]{tokens}}}"#, self.id, texts.join(","));
        self.world.book().story.batches += 1;
        self.sent.push(Sending { text, ops });
        self.sent[self.sent.len() - 1].clone()
    }

    /// Id, document and text of an op.
    fn op(&mut self) -> (Uuid, String, String) {
        let id = self.rng.uuid();
        if self.rng.percent(35) {
            let by = self.rng.between(1, 10);
            self.world.book().ledger.count(id, by);
            return (id, COUNTER.into(), increment(id, by));
        }
        if self.rng.percent(4) {
            let schema = *self.rng.pick(&SCHEMAS);
            let text = format!(r#"{{"id":"{id}","doc":"_collections/c","type":"put","value":{{"schema":{schema}}}}}"#);
            return (id, "_collections/c".into(), text);
        }
        let doc = (*self.rng.pick(&DOCS)).to_owned();
        let (change, mut rest) = (self.change(), String::new());
        let known: Vec<&String> = self.versions.iter().filter(|(of, _)| *of == doc).map(|(_, version)| version).collect();
        if !known.is_empty() && self.rng.percent(25) {
            rest.push_str(&format!(r#","base":"{}""#, self.rng.pick(&known)));
        }
        if !known.is_empty() && self.rng.percent(3) {
            rest.push_str(&format!(r#","if":"{}""#, self.rng.pick(&known)));
        } else if self.rng.percent(2) {
            rest.push_str(r#","if":"absent""#);
        }
        let text = format!(r#"{{"id":"{id}","doc":"{doc}",{change}{rest}}}"#);
        (id, doc, text)
    }

    /// What an op does, of every kind.
    fn change(&mut self) -> String {
        let (path, n) = (*self.rng.pick(&PATHS), self.rng.below(5));
        match self.rng.below(14) {
            0 => format!(r#""type":"put","value":{{"a":{n},"n":{n}}}"#),
            1 => r#""type":"put","value":{}"#.into(),
            2 => format!(r#""type":"put","value":{{"a":{{"b":[{n}]}},"s":"x"}}"#),
            3 => format!(r#""type":"put","value":{{"n":2{n},"s":["x",{n}],"a":"q"}}"#),
            4 => format!(r#""type":"patch","value":{{"s":"z{n}"}}"#),
            5 => r#""type":"patch","value":{"s":null,"a":{"b":{}}}"#.into(),
            6 => r#""type":"patch","value":{}"#.into(),
            7 => {
                let at = format_time(NOW + self.rng.below(60_000) as Millis);
                format!(r#""type":"patch","at":"{at}","value":{{"s":["x","y",{n}],"n":1{n}}}"#)
            }
            8 | 9 => format!(r#""type":"increment","path":"{path}","by":{n}.5"#),
            10 => format!(r#""type":"increment","path":"{path}","by":0.1"#),
            11 => format!(r#""type":"add","path":"{path}","values":["x",{n},"x"]"#),
            12 => format!(r#""type":"remove","path":"{path}","values":["x",{n}]"#),
            _ => r#""type":"delete""#.into(),
        }
    }
}

fn increment(id: Uuid, by: u64) -> String {
    format!(r#"{{"id":"{id}","doc":"{COUNTER}","type":"increment","path":"/n","by":{by}}}"#)
}

/// A verdict in a few letters.
fn tell(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Applied { region, position, .. } => format!("+{region}:{position}"),
        Verdict::Duplicate { region, position, .. } => format!("={region}:{position}"),
        Verdict::Rejected { problem, .. } => format!("-{}", problem.kind.row().0),
        Verdict::NotApplied { .. } => "-".into(),
    }
}

/// Tries of a write that must go through, and the pause between two: what was said late may still be believed a moment.
const PROBES: u64 = 10;
const PROBE_PAUSE: Duration = Duration::from_millis(500);

/// Every process takes a write.
pub async fn probe(world: &World) -> Result<(), String> {
    let mut rng = Rng::named(world.seed, "probe");
    let random = random(world.seed, "probe");
    for at in 0..world.sites.len() {
        for gateway in world.gateways(at) {
            let id = rng.uuid();
            world.book().ledger.count(id, 1);
            let sending = Sending { text: format!(r#"{{"ops":[{}]}}"#, increment(id, 1)), ops: vec![(id, COUNTER.into())] };
            let mut heard = "nothing".to_owned();
            for _ in 0..PROBES {
                match timeout(Duration::from_secs(10), world.write(&gateway, &random, &sending.text)).await {
                    Ok(Answer::Told(outcome)) => {
                        world.judge(at, &sending, &outcome);
                        heard = outcome.verdicts.iter().map(tell).collect();
                        break;
                    }
                    Ok(Answer::Refused(kind)) => heard = kind.row().0.into(),
                    Ok(Answer::Failed(why)) => heard = why,
                    Err(_) => {}
                }
                sleep(PROBE_PAUSE).await;
            }
            if !heard.starts_with(['+', '=']) {
                return Err(format!("a process of {} takes no write, though all is healed: {heard}", gateway.region));
            }
        }
    }
    Ok(())
}
