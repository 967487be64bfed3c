//! The documents are held against the program: settings, metrics and links are what they say.
//!
//! `docs/configuration.md` is made from the default file; `WRITE_DOCS=1 cargo test --test it docs::` writes it
//! anew. What is only prose is not held by anything here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tidegate::config;
use tidegate::telemetry::{ByPeer, ByProblem, ByRelay, ByVerdict, Metrics};

const HEADING: &str = "# Settings

<!-- Made from src/config.default.toml; WRITE_DOCS=1 cargo test --test it docs:: writes it anew. -->

Every setting, as `tidegate serve --defaults` prints it.";

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// What the default file says of one setting.
struct Setting {
    table: String,
    name: String,
    default: String,
    means: String,
}

impl Setting {
    fn full(&self) -> String {
        if self.table.is_empty() { self.name.clone() } else { format!("{}.{}", self.table, self.name) }
    }

    /// The kind of value, with its unit where the name tells it.
    fn kind(&self) -> String {
        let words: Vec<&str> = self.name.split('_').collect();
        let unit = [("ms", "milliseconds"), ("hours", "hours"), ("bytes", "bytes")].into_iter().find(|(word, _)| words.contains(word));
        match self.default.chars().next() {
            Some('"') => "text".into(),
            Some('[') => "list of texts".into(),
            Some('t' | 'f') => "true or false".into(),
            _ => unit.map_or("number".into(), |(_, unit)| format!("number, {unit}")),
        }
    }

    fn row(&self) -> String {
        let default = if self.default == "\"\"" { "empty".into() } else { format!("`{}`", self.default) };
        let environment = format!("TIDEGATE_{}", self.full().replace('.', "_").to_uppercase());
        let means = self.means.replace('|', "\\|");
        format!("| `{}` | `{environment}` | {} | {default} | {means} |\n", self.full(), self.kind())
    }
}

/// The paragraphs the file opens with, and its settings in order.
fn settings() -> (Vec<String>, Vec<Setting>) {
    let (opening, rest) = config::DEFAULT.split_once("\n\n").expect("a paragraph about the whole file comes first");
    let lines: Vec<&str> = opening.lines().map(|line| line.trim_start_matches('#').trim()).collect();
    // The first paragraph is about the file itself.
    let paragraphs = lines.split(|line| line.is_empty()).skip(1).map(|lines| lines.join(" ")).collect();
    let (mut table, mut comment, mut settings) = (String::new(), Vec::new(), Vec::new());
    for line in rest.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
        } else if let Some(name) = line.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            table = name.to_owned();
        } else if let Some((name, default)) = line.split_once(" = ") {
            let means = std::mem::take(&mut comment).join(" ");
            settings.push(Setting { table: table.clone(), name: name.to_owned(), default: default.to_owned(), means });
        } else {
            assert!(line.is_empty(), "a line that is no comment, table or setting: {line}");
        }
    }
    (paragraphs, settings)
}

fn configuration() -> String {
    let (paragraphs, settings) = settings();
    let mut out = format!("{HEADING}\n");
    for paragraph in paragraphs {
        out.push_str(&format!("\n{paragraph}\n"));
    }
    let mut table = None;
    for setting in &settings {
        if table != Some(&setting.table) {
            table = Some(&setting.table);
            let title = if setting.table.is_empty() { "At the top" } else { setting.table.as_str() };
            out.push_str(&format!("\n## {title}\n\n| setting | environment | kind | default | what it means |\n|---|---|---|---|---|\n"));
        }
        out.push_str(&setting.row());
    }
    out
}

#[test]
fn the_list_of_settings_is_the_default_file() {
    let expected = configuration();
    let file = path("docs/configuration.md");
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(&file, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "docs/configuration.md is not what the default file says; run with WRITE_DOCS=1");
}

/// The text of a registry in which every family has a member: one without is not shown at all.
fn exposition() -> String {
    let metrics = Metrics::default();
    let by = ByPeer { peer: "us".into() };
    drop(metrics.ops.get_or_create(&ByVerdict { verdict: "applied" }));
    drop(metrics.problems.get_or_create(&ByProblem { problem: "overloaded" }));
    drop(metrics.relay.get_or_create(&ByRelay { what: "fetched" }));
    drop(metrics.convergence.get_or_create(&by));
    for family in [&metrics.silent_millis, &metrics.ahead_millis, &metrics.compared_millis, &metrics.behind_events, &metrics.behind_millis]
    {
        drop(family.get_or_create(&by));
    }
    metrics.text()
}

/// Every metric: its name as a query has it, and its kind.
fn registered() -> Vec<(String, String)> {
    let text = exposition();
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let metrics: Vec<(String, String)> =
        kinds.map(|(name, kind)| (if kind == "counter" { format!("{name}_total") } else { name.to_owned() }, kind.to_owned())).collect();
    let registrations = include_str!("../../src/telemetry.rs").matches("registry.register(").count();
    assert_eq!(metrics.len(), registrations, "a family of metrics without members is not shown: give it one in `exposition`");
    metrics
}

/// Every word of a text that is a metric's name.
fn named(text: &str) -> BTreeSet<&str> {
    let starts = text.match_indices("tidegate_").map(|(at, _)| at);
    starts
        .map(|at| {
            let rest = &text[at..];
            rest.split_once(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')).map_or(rest, |(name, _)| name)
        })
        .collect()
}

#[test]
fn dashboard_alarms_and_manual_name_metrics_that_there_are() {
    let registered = registered();
    let mut there: BTreeSet<String> = registered.iter().map(|(name, _)| name.clone()).collect();
    for (name, _) in registered.iter().filter(|(_, kind)| kind == "histogram") {
        there.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
    }
    for file in ["docs/grafana.json", "docs/prometheus-rules.yml", "docs/metrics.md"] {
        let text = read(file);
        let names = named(&text);
        assert!(!names.is_empty(), "{file} names no metric");
        for name in names {
            assert!(there.contains(name), "{file} names {name}, which is not registered");
        }
    }
    serde_json::from_str::<serde_json::Value>(&read("docs/grafana.json")).unwrap();
}

#[test]
fn every_metric_is_described() {
    let manual = read("docs/metrics.md");
    let described = named(&manual);
    for (name, _) in registered() {
        assert!(described.contains(name.as_str()), "docs/metrics.md does not describe {name}");
    }
}

/// The targets of a document's links to files of this repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|target| !target.starts_with('#') && !target.contains("://") && !target.starts_with("mailto:"))
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(path("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(path));
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "md")) {
        for link in links(&std::fs::read_to_string(file).unwrap()) {
            let target = file.parent().unwrap().join(link.split('#').next().unwrap_or_default());
            assert!(target.exists(), "{} links to {link}, which is not there", file.display());
        }
    }
}
