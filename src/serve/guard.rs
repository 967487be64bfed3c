//! Who may call what. Each route says what it needs; that is asked here, before its handler runs.
//!
//! What is forbidden is refused before anything is looked up, so nobody learns by it what exists.

use super::problem::{Refusal, refuse};
use super::request;
use super::routes::Context;
use crate::access::{Caller, Right};
use crate::id::DatabaseName;
use crate::problem::{Problem, ProblemKind};
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::StreamExt;
use std::time::Duration;

/// What a route needs of its caller, where keys are configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: health, and how to use this gateway.
    Nothing,
    /// A valid token; the handler shows what its rights allow.
    Caller,
    /// A right on `*`: what concerns the gateway as a whole.
    Everywhere(Right),
    /// A right on the database in the path.
    Database(Right),
}

/// The parameter that carries a token where a browser's EventSource cannot send a header.
const TOKEN_PARAMETER: &str = "access_token";

/// How much of a refused request's body is let in, and for how long.
const DRAIN_BYTES_MAX: usize = 64 << 10;
const DRAIN_TIME_MAX: Duration = Duration::from_millis(500);

/// Lets a request through with its [`Caller`] beside it, or refuses.
pub async fn guard(
    State((context, needs, feed)): State<(Context, Needs, bool)>,
    params: RawPathParams,
    mut request: Request,
    next: Next,
) -> Response {
    let found = identify(&context, request.headers(), request.uri(), feed);
    let caller = match (found, needs) {
        (Ok(caller), _) => Some(caller),
        (Err(_), Needs::Nothing) => None,
        (Err(problem), _) => return turn_away(&context, problem.into(), request).await,
    };
    let db = match caller.as_ref().map(|caller| check(caller, needs, &params)) {
        Some(Err(refusal)) => return turn_away(&context, refusal, request).await,
        Some(Ok(db)) => db,
        None => None,
    };
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    if feed {
        // Nothing behind this door sees the token, so nothing can log it.
        let bare = without_token(request.uri());
        *request.uri_mut() = bare;
    }
    let mut response = next.run(request).await;
    if let Some(db) = db {
        // Whose answer it is, for who keeps the memory of answers.
        response.extensions_mut().insert(db);
    }
    response
}

/// Refuses; a body that is on its way already is let in and forgotten, as far as it is short: on HTTP/2 some clients take an
/// answer before it for a broken stream.
async fn turn_away(context: &Context, refusal: Refusal, request: Request) -> Response {
    let mut rest = request.into_body().into_data_stream();
    let drain = async {
        let mut bytes = 0;
        while let Some(Ok(piece)) = rest.next().await {
            bytes += piece.len();
            if bytes > DRAIN_BYTES_MAX {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, drain).await;
    refuse(&context.gateway, refusal)
}

/// The database concerned, where it is one, and the caller may.
fn check(caller: &Caller, needs: Needs, params: &RawPathParams) -> Result<Option<DatabaseName>, Refusal> {
    let (allowed, db, right) = match needs {
        Needs::Nothing | Needs::Caller => return Ok(None),
        Needs::Everywhere(right) => (caller.may_everywhere(right), None, right),
        Needs::Database(right) => {
            let name = params.iter().find_map(|(name, value)| (name == "db").then_some(value)).unwrap_or("");
            let db = request::database_name(name)?;
            (caller.may(&db, right), Some(db), right)
        }
    };
    if allowed {
        return Ok(db);
    }
    let what = db.as_ref().map_or("*", DatabaseName::as_str);
    let detail = format!("this needs the right {} on {what}, and the token does not give it", right.as_str());
    Err(Problem::new(ProblemKind::Forbidden, detail).into())
}

/// Who asks: by the Authorization header, on feeds also by the parameter.
fn identify(context: &Context, headers: &HeaderMap, uri: &Uri, feed: bool) -> Result<Caller, Problem> {
    let access = &context.gateway.access;
    if access.is_open() {
        return Ok(Caller::anybody());
    }
    let missing = |detail: &str| Problem::new(ProblemKind::Unauthenticated, detail);
    let now = context.gateway.clock.now();
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    if let Some(value) = shown.next() {
        if shown.next().is_some() {
            return Err(missing("there are several Authorization headers"));
        }
        let value = value.to_str().map_err(|_| missing("the Authorization header is not text"))?;
        let token = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        return access.check(token.ok_or_else(|| missing("the Authorization header is `Bearer` and a token"))?, now);
    }
    let given = uri.query().filter(|_| feed).and_then(|query| {
        form_urlencoded::parse(query.as_bytes()).find_map(|(name, value)| (name == TOKEN_PARAMETER).then(|| value.into_owned()))
    });
    match given {
        Some(token) => access.check(&token, now),
        None => Err(missing("a token is needed: Authorization: Bearer <token>")),
    }
}

/// The same address without the token.
fn without_token(uri: &Uri) -> Uri {
    let Some(query) = uri.query() else { return uri.clone() };
    let named = |pair: &&str| form_urlencoded::parse(pair.as_bytes()).next().is_none_or(|(name, _)| name != TOKEN_PARAMETER);
    let kept: Vec<&str> = query.split('&').filter(named).collect();
    let path = if kept.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), kept.join("&")) };
    path.parse().unwrap_or_else(|_| Uri::from_static("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_the_address_is_taken_out_however_it_is_written() {
        for (given, left) in [
            ("/v1/dbs/a/changes?access_token=x", "/v1/dbs/a/changes"),
            ("/v1/dbs/a/changes?feed=sse&access_token=x&body=true", "/v1/dbs/a/changes?feed=sse&body=true"),
            ("/v1/dbs/a/changes?access%5ftoken=x&access_token=y&docs=a%26b", "/v1/dbs/a/changes?docs=a%26b"),
            ("/v1/dbs/a/changes?access%5ftoken=x", "/v1/dbs/a/changes"),
            ("/v1/dbs/a/changes?docs=access_token", "/v1/dbs/a/changes?docs=access_token"),
        ] {
            assert_eq!(without_token(&given.parse().unwrap()).to_string(), left);
        }
    }
}
