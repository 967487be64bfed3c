//! The strict parser. It takes RFC 8259 JSON and refuses what would not survive being kept: duplicate names,
//! numbers a double does not hold, `\u0000`, lone surrogates, nesting beyond a limit.
//!
//! A text that is JSON but holds such a thing is read to its end, so that the caller can tell "not JSON at all"
//! from "JSON that we refuse", and name the place by its pointer (RFC 6901).

use super::{DEPTH_MAX, Object, Value, write_number};

/// Why a text was refused, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    /// RFC 6901 pointer of the value concerned; empty for the whole text.
    pub pointer: String,
    /// A sentence part for people: what was seen.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Not JSON.
    Syntax,
    /// A name stands twice in one object.
    Duplicate,
    /// A number that a double does not hold.
    Number,
    /// `\u0000` or a lone surrogate.
    Text,
    /// Nested deeper than the limit.
    Depth,
}

/// Parses a text from a source that was checked before; nesting up to [`DEPTH_MAX`].
pub fn parse(text: &str) -> Result<Value, Fault> {
    parse_within(text, DEPTH_MAX)
}

/// Parses a whole text; nesting deeper than `depth_max` (at most [`DEPTH_MAX`]) is a [`FaultKind::Depth`].
pub fn parse_within(text: &str, depth_max: usize) -> Result<Value, Fault> {
    let mut parser = Parser { text, at: 0, depth: 0, depth_max: depth_max.min(DEPTH_MAX), path: Vec::new(), fault: None };
    parser.space();
    let parsed = parser.value().and_then(|value| {
        parser.space();
        if parser.at < text.len() { Err(parser.expected("the end")) } else { Ok(value) }
    });
    match (parsed, parser.fault) {
        (Err(Stop(detail)), _) => Err(Fault { kind: FaultKind::Syntax, pointer: String::new(), detail }),
        (Ok(_), Some(fault)) => Err(fault),
        (Ok(value), None) => Ok(value),
    }
}

/// Syntax ends the parse; everything else is noted in `fault` and reading goes on.
struct Stop(String);

enum Step {
    Name(String),
    Index(usize),
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    depth_max: usize,
    path: Vec<Step>,
    fault: Option<Fault>,
}

impl Parser<'_> {
    fn value(&mut self) -> Result<Value, Stop> {
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(self.expected("a value")),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, Stop>) -> Result<Value, Stop> {
        if self.depth == self.depth_max {
            self.note(FaultKind::Depth, format!("nested deeper than {} levels", self.depth_max));
            return self.skip_nested();
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    /// Passes over what is nested too deep without recursing, so depth costs no stack.
    fn skip_nested(&mut self) -> Result<Value, Stop> {
        let mut open = Vec::new();
        loop {
            self.space();
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    self.at += 1;
                    open.push(bracket);
                    self.space();
                    match (bracket, self.peek()) {
                        (b'{', Some(b'}')) | (b'[', Some(b']')) => {}
                        (b'{', _) => {
                            self.name()?;
                            continue;
                        }
                        _ => continue,
                    }
                }
                _ => {
                    self.value()?;
                }
            }
            loop {
                self.space();
                match (open.last(), self.peek()) {
                    (Some(b'{'), Some(b'}')) | (Some(b'['), Some(b']')) => {
                        self.at += 1;
                        open.pop();
                        if open.is_empty() {
                            return Ok(Value::Null);
                        }
                    }
                    (Some(bracket), Some(b',')) => {
                        let object = *bracket == b'{';
                        self.at += 1;
                        self.space();
                        if object {
                            self.name()?;
                        }
                        break;
                    }
                    _ => return Err(self.expected("',' or a closing bracket")),
                }
            }
        }
    }

    /// A member's name and its colon.
    fn name(&mut self) -> Result<String, Stop> {
        if self.peek() != Some(b'"') {
            return Err(self.expected("a member name"));
        }
        let name = self.string()?;
        self.space();
        self.expect(b':', "':'")?;
        self.space();
        Ok(name)
    }

    fn object(&mut self) -> Result<Value, Stop> {
        self.at += 1;
        let mut members = Vec::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(Object::new()));
        }
        loop {
            let name = self.name()?;
            self.path.push(Step::Name(name));
            let value = self.value()?;
            let Some(Step::Name(name)) = self.path.pop() else { unreachable!("pushed above") };
            members.push((name, value));
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.expected("',' or '}'")),
            }
            self.space();
        }
        self.at += 1;
        Ok(Value::Object(Object::from_unsorted(members).unwrap_or_else(|(object, name)| {
            let name: String = name.chars().take(80).collect();
            self.note(FaultKind::Duplicate, format!("the member {name:?} stands twice in one object"));
            object
        })))
    }

    fn array(&mut self) -> Result<Value, Stop> {
        self.at += 1;
        let mut members = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(members));
        }
        loop {
            self.path.push(Step::Index(members.len()));
            members.push(self.value()?);
            self.path.pop();
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.expected("',' or ']'")),
            }
            self.space();
        }
        self.at += 1;
        Ok(Value::Array(members))
    }

    fn number(&mut self) -> Result<Value, Stop> {
        let from = self.at;
        self.eat(b'-');
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.expected("a digit")),
        }
        let mut integer = true;
        if self.eat(b'.') {
            integer = false;
            self.some_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            integer = false;
            self.at += 1;
            if !self.eat(b'+') {
                self.eat(b'-');
            }
            self.some_digits()?;
        }
        let text = &self.text[from..self.at];
        let number: f64 = text.parse().map_err(|_| self.expected("a number"))?;
        if !survives(text, number, integer) {
            let shown: String = text.chars().take(40).collect();
            self.note(FaultKind::Number, format!("the number {shown} does not fit a double without loss; send it as a string"));
        }
        Ok(Value::Number(if number == 0.0 { 0.0 } else { number }))
    }

    fn string(&mut self) -> Result<String, Stop> {
        self.at += 1;
        let mut out = String::new();
        let mut from = self.at;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    out.push_str(&self.text[from..self.at]);
                    self.at += 1;
                    self.escape(&mut out)?;
                    from = self.at;
                }
                Some(0..=0x1f) => return Err(self.expected("no raw control character in a string")),
                Some(_) => self.at += 1,
                None => return Err(self.expected("the closing quote")),
            }
        }
        out.push_str(&self.text[from..self.at]);
        self.at += 1;
        if out.contains('\0') {
            self.note(FaultKind::Text, "the character U+0000 cannot be kept".into());
        }
        Ok(out)
    }

    fn escape(&mut self, out: &mut String) -> Result<(), Stop> {
        let escape = self.peek();
        self.at += 1;
        out.push(match escape {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(out),
            _ => {
                self.at -= 1;
                return Err(self.expected("an escape"));
            }
        });
        Ok(())
    }

    fn unicode(&mut self, out: &mut String) -> Result<(), Stop> {
        let unit = self.hex()?;
        let mut code = u32::from(unit);
        if (0xd800..0xdc00).contains(&unit) && self.text[self.at..].starts_with("\\u") {
            let back = self.at;
            self.at += 2;
            let low = self.hex()?;
            if (0xdc00..0xe000).contains(&low) {
                code = 0x10000 + ((code - 0xd800) << 10) + (u32::from(low) - 0xdc00);
            } else {
                self.at = back;
            }
        }
        match char::from_u32(code) {
            Some(char) => out.push(char),
            None => self.note(FaultKind::Text, format!("\\u{unit:04x} is half a surrogate pair")),
        }
        Ok(())
    }

    fn hex(&mut self) -> Result<u16, Stop> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).filter(|d| d.iter().all(u8::is_ascii_hexdigit));
        let unit = digits.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u16::from_str_radix(d, 16).ok());
        let unit = unit.ok_or_else(|| self.expected("four hex digits"))?;
        self.at += 4;
        Ok(unit)
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Stop> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.expected("a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Result<(), Stop> {
        let from = self.at;
        self.digits();
        if self.at == from { Err(self.expected("a digit")) } else { Ok(()) }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, what: &str) -> Result<(), Stop> {
        if self.eat(byte) { Ok(()) } else { Err(self.expected(what)) }
    }

    fn expected(&self, what: &str) -> Stop {
        let seen = match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(char) => format!("{char:?}"),
            None => "the end".into(),
        };
        Stop(format!("expected {what} at byte {}, saw {seen}", self.at))
    }

    /// Keeps the first fault; later ones would only repeat that the value is refused.
    fn note(&mut self, kind: FaultKind, detail: String) {
        if self.fault.is_none() {
            let mut pointer = String::new();
            for step in &self.path {
                pointer.push('/');
                match step {
                    Step::Name(name) => pointer.push_str(&name.replace('~', "~0").replace('/', "~1")),
                    Step::Index(index) => pointer.push_str(&index.to_string()),
                }
            }
            self.fault = Some(Fault { kind, pointer, detail });
        }
    }
}

/// Whether the double says what the text said. Decimals are approximations and always do, unless they
/// overflow or vanish; an integer must be held exactly, or be the very digits its double prints as.
fn survives(text: &str, number: f64, integer: bool) -> bool {
    if !number.is_finite() {
        return false;
    }
    // A whole number stays one however it is written: 5.00 is judged as 5.
    if let Some((whole, decimals)) = text.split_once('.')
        && decimals.bytes().all(|b| b == b'0')
    {
        return survives(whole, number, true);
    }
    if !integer {
        let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
        return number != 0.0 || !mantissa.bytes().any(|b| b.is_ascii_digit() && b != b'0');
    }
    if text.len() <= 15 {
        return true;
    }
    if let Ok(exact) = text.parse::<i128>()
        && number.abs() < 1e38
        && number as i128 == exact
    {
        return true;
    }
    let mut printed = String::new();
    write_number(number, &mut printed);
    printed == text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> (FaultKind, String) {
        let fault = parse_within(text, 4).expect_err(text);
        (fault.kind, fault.pointer)
    }

    #[test]
    fn what_would_not_survive_is_refused_with_its_place() {
        use FaultKind::*;
        for (text, kind, pointer) in [
            (r#"{"a":1,"b":{"c":1,"c":2}}"#, Duplicate, "/b"),
            (r#"{"a":[9007199254740993]}"#, Number, "/a/0"),
            ("100000000000000000000000000000000000000001", Number, ""),
            ("1e400", Number, ""),
            ("-1e999", Number, ""),
            ("1e-999", Number, ""),
            (r#"{"x/y~":"\u0000"}"#, Text, "/x~1y~0"),
            (r#"["\ud800"]"#, Text, "/0"),
            (r#"["\udc00\ud800"]"#, Text, "/0"),
            (r#"["\ud800\u0041"]"#, Text, "/0"),
            ("[[[[[]]]]]", Depth, "/0/0/0/0"),
        ] {
            assert_eq!(fault(text), (kind, pointer.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_told_apart_from_what_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "01",
            "1.",
            ".5",
            "+1",
            "NaN",
            "'a'",
            "\"a",
            "\"\n\"",
            "[1] 2",
            "tru",
            "\"\\x\"",
            "\"\\u12\"",
            "{1:2}",
            "[[[[[}]]]]",
            "[[[[[1,]]]]]",
            "[[[[{\"a\":}]]]]",
            "-",
            "1e",
            "\u{feff}1",
        ] {
            assert_eq!(fault(text).0, FaultKind::Syntax, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded_without_using_the_stack() {
        let deep = "[".repeat(2_000_000) + &"]".repeat(2_000_000);
        assert_eq!(fault(&deep).0, FaultKind::Depth);
        assert_eq!(fault(&"{\"a\":".repeat(2_000_000)).0, FaultKind::Syntax);
        assert_eq!(fault("[[[[{\"a\":[1,{}],\"b\":{}},[]]]]]").0, FaultKind::Depth);
    }

    #[test]
    fn integers_that_a_double_holds_are_taken() {
        for text in ["9007199254740992", "1152921504606846976", "123456789012345680000", "1e300", "0.1000000000000000055511151231257827"] {
            assert!(parse(text).is_ok(), "{text}");
        }
        assert_eq!(parse("\"\\ud83d\\ude00\"").unwrap(), Value::text("😀"));
    }
}
