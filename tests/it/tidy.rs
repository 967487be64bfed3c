//! The house rules that a reader of the code relies on.

use std::path::{Path, PathBuf};

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            out.push(path);
        }
    }
}

/// Every source file, by its path under `src`.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    let read = |path: PathBuf| (path.strip_prefix(&root).unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(path).unwrap());
    paths.into_iter().map(read).collect()
}

#[test]
fn what_knows_the_outside_stays_where_it_belongs() {
    for (file, text) in files() {
        for (word, homes) in [
            ("axum::", &["serve/"][..]),
            ("async_nats::", &["relay/nats.rs"]),
            ("tokio_postgres::", &["store/", "cli/dev/postgres.rs", "cli/bench/ceiling.rs"]),
            ("SystemTime::now", &["clock.rs"]),
            ("use crate::serve", &["serve/", "cli/"]),
            ("use crate::cli", &["cli/"]),
        ] {
            assert!(!text.contains(word) || homes.iter().any(|home| file.starts_with(home)), "{word} in src/{file}");
        }
    }
}

#[test]
fn the_pure_core_has_no_effects_and_stages_do_not_call_back_up() {
    for (file, text) in files() {
        let pure = [
            "json",
            "journal/",
            "project/",
            "ingest/decide.rs",
            "ingest/effect.rs",
            "ingest/batch.rs",
            "ingest/definitions.rs",
            "ingest/schema",
            "planted.rs",
            "relay/wire.rs",
            "relay/subject.rs",
        ];
        if pure.iter().any(|home| file.starts_with(home)) {
            assert!(!text.contains("async fn"), "async in src/{file}");
        }
        let below: &[&str] = match file.split('/').next().unwrap() {
            "json" | "journal" => &["ingest", "project", "relay", "store"],
            "project" => &["ingest", "relay", "store"],
            "ingest" => &["relay"],
            _ => &[],
        };
        for stage in below {
            assert!(!text.contains(&format!("use crate::{stage}")), "src/{file} calls up to {stage}");
        }
    }
}

#[test]
fn every_file_says_what_it_is_and_keeps_its_size() {
    for (file, text) in files() {
        assert!(text.starts_with("//!"), "src/{file} does not open with what it owns");
        let lines = text.lines().count();
        assert!(lines <= 650, "src/{file} has {lines} lines: redesign it");
    }
}
