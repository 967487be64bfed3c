//! Findings, and how they are shown. Pure.

use crate::cli::status::clean;
use serde_json::{Value, json as object};

/// Columns of a check's name.
const NAME_CHARS: usize = 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Fine,
    /// Somebody should look at it; a gateway works all the same.
    Look,
    /// A gateway would not start, or not keep what it promises.
    Wrong,
}

impl Level {
    fn row(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Fine => ("✓", "fine", "32"),
            Self::Look => ("!", "look", "33"),
            Self::Wrong => ("✗", "wrong", "31"),
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub check: &'static str,
    pub level: Level,
    pub found: String,
    /// What to do; empty: nothing.
    pub todo: String,
}

impl Finding {
    pub fn fine(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Fine, found: found.into(), todo: String::new() }
    }

    pub fn look(check: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { check, level: Level::Look, found: found.into(), todo: todo.into() }
    }

    pub fn wrong(check: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { check, level: Level::Wrong, found: found.into(), todo: todo.into() }
    }
}

/// 1 where anything is wrong.
pub fn exit(findings: &[Finding]) -> u8 {
    u8::from(findings.iter().any(|finding| finding.level == Level::Wrong))
}

/// A line each, what to do below it, and a sum.
pub fn text(findings: &[Finding], colour: bool) -> String {
    let mut out = String::new();
    for finding in findings {
        let (sign, _, code) = finding.level.row();
        let sign = if colour { format!("\x1b[{code}m{sign}\x1b[0m") } else { sign.to_owned() };
        out.push_str(&format!("{sign} {:<NAME_CHARS$} {}\n", finding.check, clean(&finding.found)));
        if !finding.todo.is_empty() {
            out.push_str(&format!("  {:<NAME_CHARS$} → {}\n", "", clean(&finding.todo)));
        }
    }
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    out.push_str(&match (count(Level::Wrong), count(Level::Look)) {
        (0, 0) => "\nall is as it should be\n".to_owned(),
        (wrong, look) => format!("\n{wrong} wrong, {look} to be looked at\n"),
    });
    out
}

/// The same for programs.
pub fn json(findings: &[Finding]) -> String {
    let check = |finding: &Finding| {
        let todo = if finding.todo.is_empty() { Value::Null } else { clean(&finding.todo).into() };
        object!({"check": finding.check, "level": finding.level.row().1, "found": clean(&finding.found), "do": todo})
    };
    let checks: Vec<Value> = findings.iter().map(check).collect();
    format!("{}\n", object!({"ok": exit(findings) == 0, "checks": checks}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_under_each_other_and_say_what_to_do() {
        let (fine, look) = (Finding::fine("postgres", "16.4\u{1b}[2J"), Finding::look("nats", "old", "upgrade"));
        let findings = [fine, look, Finding::wrong("role", "no", "")];
        let expected = "\
✓ postgres       16.4[2J
! nats           old
                 → upgrade
✗ role           no

1 wrong, 1 to be looked at
";
        assert_eq!(text(&findings, false), expected);
        assert!(text(&findings, true).starts_with("\x1b[32m✓\x1b[0m postgres"));
        assert_eq!(exit(&findings), 1);
        assert_eq!(exit(&findings[..2]), 0);
        assert!(text(&findings[..1], false).ends_with("\nall is as it should be\n"));
        let told: Value = serde_json::from_str(&json(&findings)).unwrap();
        assert_eq!(told["checks"][1], object!({"check": "nats", "level": "look", "found": "old", "do": "upgrade"}));
        assert_eq!((&told["ok"], &told["checks"][0]["do"]), (&Value::Bool(false), &Value::Null));
    }
}
