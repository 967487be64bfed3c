//! When a certificate begins and ends: the one thing of X.509 that `tidegate doctor` reads. Pure.
//!
//! RFC 5280: `Certificate ::= { TBSCertificate { [0] version?, serial, signature, issuer, Validity { notBefore, notAfter }, … } … }`,
//! in DER: a tag, a length, the contents. Whether the certificate is a good one is for TLS to say.

use crate::clock::{Millis, parse_time};

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When it begins and when it ends; `None`: it cannot be told.
pub fn validity(der: &[u8]) -> Option<(Millis, Millis)> {
    let (certificate, _) = expect(der, SEQUENCE)?;
    let (mut rest, _) = expect(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (validity, _) = expect(rest, SEQUENCE)?;
    let (begins, after) = moment(validity)?;
    let (ends, _) = moment(after)?;
    Some((begins, ends))
}

/// A time, and what follows.
fn moment(der: &[u8]) -> Option<(Millis, &[u8])> {
    let (tag, text, rest) = element(der)?;
    Some((time(tag, std::str::from_utf8(text).ok()?)?, rest))
}

fn expect(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, contents, rest) = element(der)?;
    (tag == wanted).then_some((contents, rest))
}

/// The tag, the contents, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let bytes = usize::from(first & 0x7f);
        if !(1..=4).contains(&bytes) || rest.len() < bytes {
            return None;
        }
        let (digits, after) = rest.split_at(bytes);
        length = digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit));
        rest = after;
    }
    let (contents, after) = rest.split_at_checked(length)?;
    Some((tag, contents, after))
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`.
fn time(tag: u8, text: &str) -> Option<Millis> {
    let text = match tag {
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let digits = text.strip_suffix('Z').filter(|digits| digits.len() == 14 && digits.bytes().all(|b| b.is_ascii_digit()))?;
    let part = |from: usize, to: usize| &digits[from..to];
    parse_time(&format!("{}-{}-{}T{}:{}:{}Z", part(0, 4), part(4, 6), part(6, 8), part(8, 10), part(10, 12), part(12, 14)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        match u8::try_from(contents.len()) {
            Ok(short @ ..0x80) => out.push(short),
            _ => out.extend([0x82, (contents.len() >> 8) as u8, contents.len() as u8]),
        }
        out.extend(contents);
        out
    }

    fn certificate(after: &[u8], issuer: usize) -> Vec<u8> {
        let validity = der(SEQUENCE, &[der(UTC_TIME, b"260101000000Z"), after.to_vec()].concat());
        let (version, issuer) = (der(VERSION, &[2, 1, 2]), der(SEQUENCE, &vec![5; issuer]));
        let body = [version, der(2, &[1]), der(SEQUENCE, &[]), issuer, validity, der(SEQUENCE, &[])].concat();
        der(SEQUENCE, &[der(SEQUENCE, &body), der(3, &[0])].concat())
    }

    #[test]
    fn the_end_is_found_behind_parts_of_any_length() {
        let lasts = parse_time("2026-01-01T00:00:00Z").zip(parse_time("2027-03-04T05:06:07Z"));
        assert!(lasts.is_some());
        for issuer in [0, 100, 300] {
            assert_eq!(validity(&certificate(&der(UTC_TIME, b"270304050607Z"), issuer)), lasts);
            assert_eq!(validity(&certificate(&der(GENERALIZED_TIME, b"20270304050607Z"), issuer)), lasts);
        }
    }

    #[test]
    fn whatever_is_cut_or_is_something_else_has_no_end() {
        let whole = certificate(&der(UTC_TIME, b"270304050607Z"), 20);
        for at in 0..whole.len() {
            let _ = validity(&whole[..at]);
            let mut other = whole.clone();
            other[at] ^= 0x80;
            let _ = validity(&other);
        }
        for bad in [&b""[..], b"0", b"0\x80", b"0\x85\x01\x01\x01\x01\x01", b"-----BEGIN"] {
            assert_eq!(validity(bad), None);
        }
        assert_eq!(validity(&certificate(&der(UTC_TIME, b"2703040506Z"), 0)), None);
    }
}
