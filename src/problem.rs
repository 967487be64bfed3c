//! Problems: what is told to a client, as RFC 9457 has it. The same object answers a request and stands inside a
//! rejected op's verdict.

use crate::json::{Fault, FaultKind, write_string};

/// Every kind of problem. `/problems/<name>` is stable; a client may match on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    Json,
    Invalid,
    Duplicate,
    Number,
    Text,
    Depth,
    Token,
    Clock,
    Behind,
    NotFound,
    Deleted,
    Method,
    Host,
    TooLarge,
    TooMany,
    Encoding,
    MediaType,
    Timeout,
    Overloaded,
    Unavailable,
    Internal,
    OpIdReused,
    Precondition,
    Type,
    DocumentTooLarge,
    Reserved,
    Schema,
    /// This region's own clock is wrong.
    ClockHere,
    Unauthenticated,
    Forbidden,
}

impl ProblemKind {
    /// Name, title and HTTP status, in one table.
    pub fn row(self) -> (&'static str, &'static str, u16) {
        match self {
            Self::Json => ("json", "The body is not JSON", 400),
            Self::Invalid => ("invalid", "Something in the request is not as it must be", 400),
            Self::Duplicate => ("duplicate-member", "A member stands twice in one object", 400),
            Self::Number => ("number", "A number would not survive being kept", 400),
            Self::Text => ("text", "A string would not survive being kept", 400),
            Self::Depth => ("depth", "Nested too deep", 400),
            Self::Token => ("token", "The token cannot be used here", 400),
            Self::Clock => ("clock", "The token lies too far in the future", 400),
            Self::Behind => ("behind", "This region has not yet received what the token covers", 503),
            Self::NotFound => ("not-found", "There is no such thing", 404),
            Self::Deleted => ("deleted", "The document is deleted", 410),
            Self::Method => ("method", "The method is not for this address", 405),
            Self::Host => ("host", "The Host header does not name this machine's loopback", 403),
            Self::TooLarge => ("too-large", "Larger than the limit", 413),
            Self::TooMany => ("too-many", "More than the limit", 413),
            Self::Encoding => ("encoding", "The Content-Encoding is not understood", 415),
            Self::MediaType => ("media-type", "The Content-Type is not application/json", 415),
            Self::Timeout => ("timeout", "The request took too long to arrive", 408),
            Self::Overloaded => ("overloaded", "Too much is waiting already", 429),
            Self::Unavailable => ("unavailable", "The journal cannot be reached", 503),
            Self::Internal => ("internal", "A fault of the gateway", 500),
            Self::OpIdReused => ("op-id-reused", "The op id belongs to another op", 409),
            Self::Precondition => ("precondition", "The document is not at the version asked for", 412),
            Self::Type => ("type", "The op does not fit what stands there", 409),
            Self::DocumentTooLarge => ("document-too-large", "The document would be larger than the limit", 413),
            Self::Reserved => ("reserved", "Collections with a leading _ are not for writing", 403),
            Self::Schema => ("schema", "The document would not be as its collection's schema has it", 422),
            Self::ClockHere => ("clock", "This region's clock is too far from the others'", 503),
            Self::Unauthenticated => ("unauthenticated", "A valid token is needed", 401),
            Self::Forbidden => ("forbidden", "The token does not allow this", 403),
        }
    }

    pub fn status(self) -> u16 {
        self.row().2
    }
}

/// Characters of a parser's reason that are repeated.
const REASON_CHARS_MAX: usize = 300;

#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub kind: ProblemKind,
    /// What exactly was wrong, for people.
    pub detail: String,
    /// Where, inside the op or the body.
    pub pointer: Option<String>,
    /// The limit that was passed, and what was seen.
    pub limit: Option<(u64, u64)>,
    /// The version of the document concerned.
    pub version: Option<String>,
}

impl Problem {
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), pointer: None, limit: None, version: None }
    }

    /// What a parser says of a client's text, cut: it may repeat what was sent, however long.
    pub fn reason(error: &impl std::fmt::Display) -> String {
        let mut text = error.to_string();
        if let Some((end, _)) = text.char_indices().nth(REASON_CHARS_MAX) {
            text.truncate(end);
            text.push('…');
        }
        text
    }

    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    pub fn over(mut self, limit: u64, seen: u64) -> Self {
        self.limit = Some((limit, seen));
        self
    }

    pub fn version(mut self, version: String) -> Self {
        self.version = Some(version);
        self
    }

    /// Appends the JSON object.
    pub fn write(&self, out: &mut String) {
        let (name, title, status) = self.kind.row();
        out.push_str(&format!("{{\"type\":\"/problems/{name}\",\"title\":\"{title}\",\"status\":{status},\"detail\":"));
        write_string(&self.detail, out);
        if let Some(pointer) = &self.pointer {
            out.push_str(",\"pointer\":");
            write_string(pointer, out);
        }
        if let Some((limit, seen)) = self.limit {
            out.push_str(&format!(",\"limit\":{limit},\"seen\":{seen}"));
        }
        if let Some(version) = &self.version {
            out.push_str(&format!(",\"version\":\"{version}\""));
        }
        out.push('}');
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let kind = match fault.kind {
            FaultKind::Syntax => ProblemKind::Json,
            FaultKind::Duplicate => ProblemKind::Duplicate,
            FaultKind::Number => ProblemKind::Number,
            FaultKind::Text => ProblemKind::Text,
            FaultKind::Depth => ProblemKind::Depth,
        };
        Self::new(kind, fault.detail).at(fault.pointer)
    }
}
