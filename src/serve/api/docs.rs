//! `GET /openapi.json` and `GET /docs`: how to use this gateway, for programs and for people.

use crate::serve::front::Shared;
use crate::serve::openapi::{Content, Operation};
use axum::Extension;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};

/// The page, whole: it asks this gateway for `openapi.json` and nobody for anything else.
const PAGE: &str = include_str!("../openapi_page.html");

/// The OpenAPI document's text, made once.
#[derive(Clone)]
pub struct Text(Bytes);

impl Text {
    pub fn new(text: String) -> Self {
        Self(text.into())
    }
}

pub async fn document(Extension(Text(text)): Extension<Text>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], Extension(Shared), text).into_response()
}

pub async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy()),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    ];
    (headers, Extension(Shared), PAGE).into_response()
}

/// The page's own script and style run, by their hashes, and nothing else does: a token is typed in here.
fn policy() -> HeaderValue {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        hash_of("script"),
        hash_of("style")
    );
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// The hash of what stands in the page's one element of this name.
fn hash_of(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let inside = PAGE.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map_or("", |(inside, _)| inside);
    format!("sha256-{}", STANDARD.encode(Sha256::digest(inside)))
}

pub fn describe_document() -> Operation {
    Operation::get("readOpenApi", "Operation", "This document").answers(200, "OpenAPI 3.1.", Content::Json("OpenApi"))
}

pub fn describe_page() -> Operation {
    Operation::get("readDocs", "Operation", "This document as a page for people")
        .about("It needs nothing but this gateway. A token that is typed in stays in the page and is gone with it.")
        .answers(200, "The page.", Content::Text("text/html"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_and_one_style_and_asks_nobody_else() {
        for element in ["script", "style"] {
            assert_eq!((PAGE.matches(&format!("<{element}")).count(), PAGE.matches(&format!("<{element}>")).count()), (1, 1), "{element}");
        }
        for word in ["http://", "https://", "innerHTML", "style=\"", "onclick", "eval("] {
            assert!(!PAGE.contains(word), "{word}");
        }
        assert_eq!(policy().to_str().unwrap().matches("sha256-").count(), 2);
    }
}
