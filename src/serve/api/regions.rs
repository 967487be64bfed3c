//! `POST /v1/regions/{region}/retire` and `…/accept`: what an operator says of a region.

use crate::clock::Stamp;
use crate::id::Region;
use crate::problem::{Problem, ProblemKind};
use crate::serve::openapi::{Content, Operation};
use crate::serve::problem::Refusal;
use crate::serve::request::{self, Query};
use crate::serve::routes::{Context, json};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;

/// What is accepted goes so far beyond what waits: the region goes on writing while its clock is being set right.
const BEYOND: i64 = 3_600_000;

/// The region is gone for good: its silence raises no alarm. Events of its that turn up are still applied.
pub async fn retire(State(context): State<Context>, Path(region): Path<String>, uri: Uri, headers: HeaderMap) -> Response {
    let answer = async {
        let region = named(&context, &region, &uri, &headers)?;
        context.gateway.store.retire(&region).await?;
        refresh(&context).await?;
        Ok(json(format!("{{\"region\":\"{region}\",\"retired\":true}}")))
    };
    context.finish(answer.await)
}

/// Takes what waits for being stamped too far in the future, and what follows it within the hour.
pub async fn accept(State(context): State<Context>, Path(region): Path<String>, uri: Uri, headers: HeaderMap) -> Response {
    let answer = async {
        let region = named(&context, &region, &uri, &headers)?;
        let waiting = context.gateway.relay.waiting(&region);
        let waiting = waiting.ok_or_else(|| {
            Problem::new(
                ProblemKind::NotFound,
                format!("nothing of {region} waits in this gateway for its stamps; GET /v1/status names what does"),
            )
        })?;
        let until = Stamp::at(waiting.millis().saturating_add(BEYOND));
        context.gateway.store.accept(&region, until).await?;
        refresh(&context).await?;
        Ok(json(format!("{{\"region\":\"{region}\",\"accepted_until\":\"{until}\"}}")))
    };
    context.finish(answer.await)
}

fn named(context: &Context, region: &str, uri: &Uri, headers: &HeaderMap) -> Result<Region, Refusal> {
    Query::of(uri).end()?;
    // A page of another site can post here only without saying so.
    request::require_json(headers, false)?;
    let region = Region::new(region).map_err(|why| Problem::new(ProblemKind::Invalid, why))?;
    if region != context.gateway.region && !context.gateway.relay.ever_heard().contains(&region) && !context.gateway.relay.knows(&region) {
        return Err(Problem::new(ProblemKind::NotFound, format!("no region {region} was ever heard of here")).into());
    }
    if region == context.gateway.region {
        return Err(Problem::new(ProblemKind::Invalid, format!("{region} is this gateway's own region; say it to another one")).into());
    }
    Ok(region)
}

/// Here it counts at once, in other processes of this region within seconds.
async fn refresh(context: &Context) -> Result<(), Refusal> {
    context.gateway.relay.note(context.gateway.store.regions().await?);
    Ok(())
}

pub fn describe_retire() -> Operation {
    Operation::post("retireRegion", "Operation", "Say that a region is gone for good")
        .about("Its silence raises no alarm any more, and nobody waits for it. Events of its that turn up are still applied.")
        .body("Nothing", serde_json::json!({}))
        .answers(200, "It counts as gone.", Content::Json("Retired"))
        .refuses(&[ProblemKind::Invalid, ProblemKind::MediaType, ProblemKind::NotFound, ProblemKind::Unavailable])
}

pub fn describe_accept() -> Operation {
    Operation::post("acceptRegion", "Operation", "Take what waits for its stamps")
        .about(
            "A journal whose stamps lie too far in the future waits. This takes what waits now and what follows it within the hour, \
             for a region whose clock is being set right.",
        )
        .body("Nothing", serde_json::json!({}))
        .answers(200, "Up to where its stamps are taken.", Content::Json("Accepted"))
        .refuses(&[ProblemKind::Invalid, ProblemKind::MediaType, ProblemKind::NotFound, ProblemKind::Unavailable])
}
