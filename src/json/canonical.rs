//! The canonical text of a value (RFC 8785): no white space, members sorted, numbers as ECMAScript prints them.

use super::Value;

pub(super) fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(*number, out),
        Value::Text(text) => write_string(text, out),
        Value::Array(members) => {
            out.push('[');
            for (at, member) in members.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(member, out);
            }
            out.push(']');
        }
        Value::Object(object) => {
            out.push('{');
            for (at, (name, member)) in object.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_string(name, out);
                out.push(':');
                write(member, out);
            }
            out.push('}');
        }
    }
}

/// Appends a finite double as ECMAScript's `Number.prototype.toString` prints it.
pub fn write_number(number: f64, out: &mut String) {
    debug_assert!(number.is_finite());
    // Integers that print without an exponent are nearly all numbers there are: the short way for them.
    if number.fract() == 0.0 && number.abs() < 1e15 {
        use std::fmt::Write;
        let _ = write!(out, "{}", number as i64);
    } else {
        out.push_str(ryu_js::Buffer::new().format_finite(number));
    }
}

/// Appends a string with its quotes; only what JSON demands is escaped.
pub fn write_string(text: &str, out: &mut String) {
    out.reserve(text.len() + 2);
    out.push('"');
    // Nearly all text needs no escapes; in steps without a branch for each byte, that is seen many bytes at a time.
    let clean = |step: &&[u8]| !step.iter().fold(false, |dirty, byte| dirty | (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\'));
    let clean = text.as_bytes().chunks(32).take_while(clean).map(<[u8]>::len).sum();
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate().skip(clean) {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x09 => "\\t",
            0x0a => "\\n",
            0x0c => "\\f",
            0x0d => "\\r",
            0..=0x1f => "",
            _ => continue,
        };
        out.push_str(&text[from..at]);
        from = at + 1;
        if escape.is_empty() {
            use std::fmt::Write;
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.push_str(escape);
        }
    }
    out.push_str(&text[from..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn numbers_print_as_ecmascript_prints_them() {
        for (text, expect) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("1.0", "1"),
            ("1e3", "1000"),
            ("0.1", "0.1"),
            ("1e21", "1e+21"),
            ("1e20", "100000000000000000000"),
            ("1e-7", "1e-7"),
            ("0.000001", "0.000001"),
            ("4.50", "4.5"),
            ("2e-3", "0.002"),
            ("333333333.33333329", "333333333.3333333"),
            ("9007199254740992", "9007199254740992"),
            ("-123456789012345680000", "-123456789012345680000"),
        ] {
            assert_eq!(parse(text).unwrap().canonical(), expect, "{text}");
        }
    }

    #[test]
    fn strings_escape_only_what_json_demands() {
        assert_eq!(parse(r#""\u0001\b\t\n\f\r\"\\\/é\u20ac""#).unwrap().canonical(), "\"\\u0001\\b\\t\\n\\f\\r\\\"\\\\/é€\"");
    }
}
