//! What was measured, for people and for programs.

use serde_json::{Value, json};
use std::fmt::Write;

/// What a ratio should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// There is none: the figure tells how things are.
    Told,
}

impl Goal {
    pub fn met(self, ratio: f64) -> Option<bool> {
        match self {
            Self::AtLeast(goal) => Some(ratio >= goal),
            Self::AtMost(goal) => Some(ratio <= goal),
            Self::Told => None,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtLeast(goal) => format!("≥ {goal}{unit}"),
            Self::AtMost(goal) => format!("≤ {goal}{unit}"),
            Self::Told => "–".into(),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Line {
    pub row: &'static str,
    pub what: String,
    pub figure: f64,
    pub unit: &'static str,
    /// What the figure is held against; without one the goal is the figure's own.
    pub ceiling: Option<f64>,
    pub goal: Goal,
}

impl Line {
    /// What is compared to the goal.
    fn ratio(&self) -> f64 {
        self.ceiling.map_or(self.figure, |ceiling| self.figure / ceiling)
    }

    fn goal_unit(&self) -> String {
        if self.ceiling.is_some() { String::new() } else { format!(" {}", self.unit) }
    }
}

/// As a row of the table.
impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ceiling = self.ceiling.map_or_else(|| "–".into(), |ceiling| format!("{} {}", number(ceiling), self.unit));
        let ratio = self.ceiling.map_or_else(|| "–".into(), |_| format!("{:.2}", self.ratio()));
        let met = self.goal.met(self.ratio()).map_or("–", |met| if met { "yes" } else { "no" });
        let (figure, goal) = (number(self.figure), self.goal.text(&self.goal_unit()));
        write!(f, "| {} | {} | {figure} {} | {ceiling} | {ratio} | {goal} | {met} |", self.row, self.what, self.unit)
    }
}

/// As Markdown, so that it reads the same in a terminal and in a document.
pub fn text(lines: &[Line]) -> String {
    let mut out = String::from("| # | what | figure | ceiling | ratio | goal | met |\n|---|---|--:|--:|--:|--:|---|\n");
    for line in lines {
        let _ = writeln!(out, "{line}");
    }
    out
}

pub fn json(lines: &[Line]) -> String {
    let lines: Vec<Value> = lines
        .iter()
        .map(|line| {
            json!({
                "row": line.row, "what": line.what, "figure": line.figure, "unit": line.unit, "ceiling": line.ceiling,
                "ratio": line.ceiling.map(|_| line.ratio()), "goal": line.goal.text(&line.goal_unit()),
                "met": line.goal.met(line.ratio()),
            })
        })
        .collect();
    format!("{:#}\n", Value::from(lines))
}

/// Three digits that matter, and thousands set apart.
fn number(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whether_its_goal_is_met() {
        let line = |figure, ceiling, goal| Line { row: "B0", what: "things".into(), figure, unit: "ms", ceiling, goal };
        let lines = [
            line(25_000.0, Some(50_000.0), Goal::AtLeast(0.7)),
            line(2.5, Some(1.0), Goal::AtMost(3.0)),
            line(140.0, None, Goal::AtMost(150.0)),
        ];
        let shown = text(&lines);
        let shown: Vec<&str> = shown.lines().skip(2).collect();
        assert_eq!(
            shown,
            [
                "| B0 | things | 25,000 ms | 50,000 ms | 0.50 | ≥ 0.7 | no |",
                "| B0 | things | 2.50 ms | 1.00 ms | 2.50 | ≤ 3 | yes |",
                "| B0 | things | 140 ms | – | – | ≤ 150 ms | yes |",
            ]
        );
        assert!(json(&lines).contains("\"ratio\": 0.5"));
    }
}
