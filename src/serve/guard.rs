//! Who may call what. Each route says what it needs; that is asked here, before its handler runs.
//!
//! What is forbidden is refused before anything is looked up, so nobody learns by it what exists.

use super::problem::{Refusal, refuse};
use super::request;
use super::routes::Context;
use crate::access::{Caller, Right};
use crate::problem::{Problem, ProblemKind};
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

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
        (Err(problem), _) => return refuse(&context.gateway, problem.into()),
    };
    if let Some(caller) = caller {
        if let Err(refusal) = check(&caller, needs, &params) {
            return refuse(&context.gateway, refusal);
        }
        request.extensions_mut().insert(caller);
    }
    if feed {
        // Nothing behind this door sees the token, so nothing can log it.
        let bare = without_token(request.uri());
        *request.uri_mut() = bare;
    }
    next.run(request).await
}

fn check(caller: &Caller, needs: Needs, params: &RawPathParams) -> Result<(), Refusal> {
    let (allowed, what, right) = match needs {
        Needs::Nothing | Needs::Caller => return Ok(()),
        Needs::Everywhere(right) => (caller.may_everywhere(right), "*".to_owned(), right),
        Needs::Database(right) => {
            let name = params.iter().find_map(|(name, value)| (name == "db").then_some(value)).unwrap_or("");
            let db = request::database_name(name)?;
            (caller.may(&db, right), db.to_string(), right)
        }
    };
    if allowed {
        return Ok(());
    }
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
    if let Some(value) = headers.get(header::AUTHORIZATION) {
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
    let Some(query) = uri.query().filter(|query| query.contains(TOKEN_PARAMETER)) else { return uri.clone() };
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
            ("/v1/dbs/a/changes?docs=access_token", "/v1/dbs/a/changes?docs=access_token"),
        ] {
            assert_eq!(without_token(&given.parse().unwrap()).to_string(), left);
        }
    }
}
