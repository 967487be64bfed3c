//! The benchmark itself: every row can be measured. How fast anything is, no test says.

use crate::support::PATIENCE;
use serde_json::Value;
use tokio::process::Command;

async fn bench(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = command.arg("bench").args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE * 4, output).await.expect("it ends").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn every_row_is_measured_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("figures.json");
    let (code, table, said) = bench(&["--small", "--json", file.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{said}");
    let rows: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["row"].as_str().unwrap()).collect();
    let once = ["B1a", "B1b", "B2", "B3", "B3", "B4", "B5", "B5", "B6", "B6", "B7", "B8", "B9", "B9", "B10", "B11", "B12"];
    assert_eq!(names, [&once[..], &["S"; 6]].concat());
    for row in &rows {
        assert!(row["figure"].as_f64().unwrap() >= 0.0, "{row}");
        assert!(row["ceiling"].as_f64().is_none_or(|ceiling| ceiling > 0.0), "{row}");
        assert!(table.contains(row["what"].as_str().unwrap()), "{table}");
    }
}

#[tokio::test]
async fn a_row_that_is_none_is_named() {
    let (code, _, said) = bench(&["--only", "B1a,B99"]).await;
    assert_eq!(code, 2);
    assert!(said.contains("there is no row B99; there are B1a, B1b"), "{said}");
}
