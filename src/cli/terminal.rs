//! What a command says: text that a terminal shows and does not obey, and a pipe that nobody reads any more.

use super::status::is_hidden;
use crate::error::{Error, Kind, Result};
use serde_json::Value;
use std::io::{ErrorKind, Write};

/// Characters of a line that is shortened, before the terminal cuts it at its own width.
const LINE_CHARS_MAX: usize = 400;

/// Writes to standard output. `false`: nobody reads on, which is no fault and a reason to end.
pub fn print(text: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::because(Kind::Internal, "writing to standard output", error)),
    }
}

/// JSON with what a terminal would obey escaped: all of that stands inside strings, where it may be. Line ends stay.
pub fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => out.push(c),
            c if is_hidden(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// JSON as a person reads it, over several lines; what is no JSON stays as it is.
pub fn pretty(json: &str) -> String {
    let text = serde_json::from_str::<Value>(json).and_then(|value| serde_json::to_string_pretty(&value));
    escaped(&text.unwrap_or_else(|_| json.to_owned()))
}

/// A line that the terminal cuts at its right edge instead of going on below. How wide it is, it knows best.
pub fn one_line(text: &str) -> String {
    let mut line: String = text.chars().take(LINE_CHARS_MAX).collect();
    if text.chars().nth(LINE_CHARS_MAX).is_some() {
        line.push('…');
    }
    format!("\x1b[?7l{line}\x1b[?7h\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped_and_nothing_is_lost() {
        let hostile = serde_json::json!({"a\u{9b}2J": "x\u{1b}]0;t\u{7}\u{202e}é\u{7f}"});
        for text in [escaped(&hostile.to_string()), pretty(&hostile.to_string())] {
            assert!(!text.contains(|c: char| is_hidden(c) && c != '\n'), "{text:?}");
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), hostile);
        }
    }

    #[test]
    fn a_long_line_ends_with_a_sign() {
        assert_eq!(one_line("ab"), "\x1b[?7lab\x1b[?7h\n");
        assert!(one_line(&"x".repeat(1000)).ends_with("x…\x1b[?7h\n"));
    }
}
