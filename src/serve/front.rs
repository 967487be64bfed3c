//! What holds for every request, around the route that answers it.
//!
//!     connection → cross-origin rules → host, path → route → share of the memory → compressed → headers → connection
//!
//! One function rather than a layer for each: a layer is made anew for every request, with all that it surrounds.

use super::answer::{Held, SMALL_BYTES_MAX};
use super::problem::{Answer, refuse};
use super::request::check_host;
use super::routes::Context;
use crate::id::DatabaseName;
use crate::problem::{Problem, ProblemKind};
use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::response::Response;
use std::convert::Infallible;
use std::future::ready;
use tower::{Layer, ServiceExt, service_fn};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{Predicate, SizeAbove};
use tower_http::cors::CorsLayer;

pub struct Front {
    pub context: Context,
    pub routes: Router,
    /// What web pages of other origins may do; `None`: nothing.
    pub pages: Option<CorsLayer>,
}

/// What every request of it gets, as it stands: nobody's memory is taken for it, and so it is not compressed either.
#[derive(Clone)]
pub struct Shared;

/// Answers from this size on are compressed, where the client takes that, with so much memory meanwhile.
const PACKED_BYTES_MIN: u16 = 8 << 10;
const PACKER_BYTES: usize = 640 << 10;

impl Front {
    pub async fn answer(&self, request: Request) -> Response {
        let Some(pages) = &self.pages else { return self.behind_pages(request).await };
        let behind = service_fn(async |request| Ok::<_, Infallible>(self.behind_pages(request).await));
        let Ok(response) = pages.layer(behind).oneshot(request).await;
        response
    }

    async fn behind_pages(&self, request: Request) -> Response {
        let mut response = match self.route(request).await {
            Ok(response) => response,
            Err(refusal) => refuse(&self.context.gateway, refusal),
        };
        let unchanged = response.status() == StatusCode::NOT_MODIFIED;
        let headers = response.headers_mut();
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if unchanged {
            // It would say how long the document is, and that it is empty.
            headers.remove(header::CONTENT_LENGTH);
        }
        response
    }

    async fn route(&self, mut request: Request) -> Answer {
        if self.context.gateway.access.is_open() {
            check_host(request.version(), request.uri(), request.headers())?;
        }
        if percent_encoding::percent_decode_str(request.uri().path()).decode_utf8().is_err() {
            return Err(Problem::new(ProblemKind::Invalid, "the path is not UTF-8").into());
        }
        // What a GET would get, without its body.
        let bare = request.method() == Method::HEAD;
        if bare {
            *request.method_mut() = Method::GET;
        }
        let codings = request.headers().get_all(header::ACCEPT_ENCODING).iter().cloned();
        let codings: HeaderMap = codings.map(|coding| (header::ACCEPT_ENCODING, coding)).collect();
        let Ok(response) = self.routes.clone().oneshot(request).await;
        let response = self.hold(response, !codings.is_empty())?;
        let response = pack(response, codings).await;
        Ok(if bare { response.map(|_| Body::empty()) } else { response })
    }

    /// Answers take their share of the memory for answers until they are read.
    fn hold(&self, mut response: Response, packs: bool) -> Answer {
        let Some(size) = response.body().size_hint().exact().filter(|size| *size > SMALL_BYTES_MAX) else { return Ok(response) };
        if response.extensions().get::<Shared>().is_some() {
            return Ok(response);
        }
        let packer = if packs && size > u64::from(PACKED_BYTES_MIN) { PACKER_BYTES } else { 0 };
        let mut share = self.context.answers.share(response.extensions().get::<DatabaseName>());
        share.grow(usize::try_from(size).unwrap_or(usize::MAX).saturating_add(packer))?;
        response.extensions_mut().insert(Held::new(share));
        Ok(response)
    }
}

/// Compresses an answer that is worth it, by one of the codings its client takes.
async fn pack(response: Response, codings: HeaderMap) -> Response {
    if response.body().size_hint().exact().is_some_and(|size| size <= u64::from(PACKED_BYTES_MIN)) {
        return response;
    }
    let mut request = axum::http::Request::new(());
    *request.headers_mut() = codings;
    // The fastest also needs least: half a megabyte each rather than more than one.
    let layer = CompressionLayer::new().gzip(true).zstd(true).quality(CompressionLevel::Fastest);
    let layer = layer.compress_when(SizeAbove::new(PACKED_BYTES_MIN).and(may_transform));
    let mut made = Some(response);
    let made = service_fn(move |_| ready(Ok::<_, Infallible>(made.take().unwrap_or_default())));
    let Ok(packed) = layer.layer(made).oneshot(request).await;
    packed.map(Body::new)
}

/// Streams are not gathered up to be compressed.
fn may_transform(_: StatusCode, _: Version, headers: &HeaderMap, extensions: &Extensions) -> bool {
    if extensions.get::<Shared>().is_some() {
        return false;
    }
    let cache = headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok());
    !cache.is_some_and(|value| value.contains("no-transform"))
}
