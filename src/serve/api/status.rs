//! `GET /v1/status`: what an operator asks first.

use crate::relay::feed::write_vector;
use crate::serve::request::Query;
use crate::serve::routes::{Context, json};
use crate::store::migrate;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

pub async fn read(State(context): State<Context>, uri: Uri) -> Response {
    let answer = async {
        Query::of(&uri).end()?;
        let gateway = &context.gateway;
        let mut out = format!(
            "{{\"region\":\"{}\",\"version\":\"{}\",\"schema\":{},\"access\":\"open on loopback: no keys are configured\",\"relay\":",
            gateway.region,
            env!("CARGO_PKG_VERSION"),
            migrate::wanted()
        );
        gateway.relay.write(&gateway.config, &mut out);
        out.push_str(",\"dbs\":[");
        for (at, (_, name, head)) in gateway.store.databases().await?.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            out.push_str(&format!("{{\"db\":\"{name}\",\"vector\":"));
            write_vector(&head.vector, &mut out);
            out.push_str(&format!(",\"digest\":\"{}\",\"documents\":{},\"events\":{}", head.digest, head.documents, head.vector.events()));
            if let Some(database) = gateway.database(name).await? {
                let queue = database.appender.queue();
                out.push_str(&format!(",\"queue\":{{\"ops\":{},\"bytes\":{}}},\"behind\":", queue.ops(), queue.bytes()));
                gateway.relay.write_behind(name, head, &mut out);
            }
            out.push('}');
        }
        out.push_str("]}");
        Ok(json(out))
    };
    context.finish(answer.await)
}
