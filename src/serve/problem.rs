//! Problems and failures as HTTP answers: the one place that turns a kind into a status.

use crate::error::{Error, Kind};
use crate::gateway::Gateway;
use crate::problem::{Problem, ProblemKind};
use crate::telemetry::ByProblem;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Why a request was not answered as asked.
pub enum Refusal {
    Problem(Problem),
    Failure(Error),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failure(error)
    }
}

pub type Answer = Result<Response, Refusal>;

impl Refusal {
    fn into_problem(self) -> Problem {
        let error = match self {
            Self::Problem(problem) => return problem,
            Self::Failure(error) => error,
        };
        match error.kind {
            Kind::Missing => Problem::new(ProblemKind::NotFound, error.doing),
            Kind::Invalid => Problem::new(ProblemKind::Invalid, error.doing),
            Kind::TooLarge => Problem::new(ProblemKind::TooLarge, error.doing),
            Kind::TooMany => Problem::new(ProblemKind::Overloaded, error.doing),
            Kind::Unavailable => Problem::new(ProblemKind::Unavailable, "the journal cannot be reached; nothing was kept, try again"),
            Kind::Recovering => Problem::new(ProblemKind::Unavailable, error.doing),
            Kind::Clock => Problem::new(ProblemKind::ClockHere, error.doing),
            Kind::Unknown => Problem::new(
                ProblemKind::Unavailable,
                "the reply of the journal was lost; send the same batch again to learn what was kept",
            ),
            Kind::Conflict | Kind::Corrupt | Kind::Internal => {
                tracing::error!(error = %error.chain(), "a request failed");
                Problem::new(ProblemKind::Internal, "the gateway's log says more")
            }
        }
    }
}

/// Answers with the refusal, and counts it.
pub fn refuse(gateway: &Gateway, refusal: Refusal) -> Response {
    let problem = refusal.into_problem();
    gateway.metrics.problems.get_or_create(&ByProblem { problem: problem.kind.row().0 }).inc();
    respond(&problem)
}

/// The answer by itself.
pub fn respond(problem: &Problem) -> Response {
    let mut body = String::new();
    problem.write(&mut body);
    let status = StatusCode::from_u16(problem.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))], body).into_response();
    if problem.kind.status() == 401 {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tidegate\""));
    }
    if matches!(problem.kind.status(), 429 | 503) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
