//! Web pages: which origins may call, and what they may send and see (CORS).

use crate::config::LOOPBACK_ORIGINS;
use crate::serve::request::is_loopback_host;
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use std::time::Duration;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may remember the answer to its preflight request.
const REMEMBERED: Duration = Duration::from_secs(600);

/// `None` where no page may call: then no header is sent, and browsers refuse by themselves.
pub fn layer(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let origins = origins.to_vec();
    let allowed = move |origin: &HeaderValue, _: &_| origin.to_str().is_ok_and(|origin| is_allowed(&origins, origin));
    Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::predicate(allowed))
            .allow_methods([Method::GET, Method::POST, Method::PUT])
            .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, header::IF_NONE_MATCH, HeaderName::from_static("last-event-id")])
            .expose_headers([header::ETAG, header::RETRY_AFTER])
            .max_age(REMEMBERED),
    )
}

fn is_allowed(origins: &[String], origin: &str) -> bool {
    origins.iter().any(|allowed| match allowed.as_str() {
        "*" => true,
        LOOPBACK_ORIGINS => is_loopback(origin),
        exact => exact == origin,
    })
}

fn is_loopback(origin: &str) -> bool {
    let uri = origin.parse::<Uri>();
    uri.is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(is_loopback_host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_origins_that_are_named_may_call() {
        let origins = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let named = origins(&["https://app.example", "loopback"]);
        for good in ["https://app.example", "http://localhost:3000", "http://127.0.0.1", "https://[::1]:8443", "http://app.localhost:1"] {
            assert!(is_allowed(&named, good), "{good}");
        }
        for bad in [
            "http://app.example",
            "https://app.example:444",
            "https://app.example.evil",
            "null",
            "",
            "http://localhost.evil",
            "file://localhost",
        ] {
            assert!(!is_allowed(&named, bad), "{bad}");
        }
        assert!(is_allowed(&origins(&["*"]), "https://anywhere.example"));
    }
}
