//! What this gateway can be asked, as OpenAPI 3.1, made from the registrations of its routes and from nothing else.
//!
//! A handler stands beside a function that describes it; the route hands both over together with what it needs. What follows
//! from those needs (security, its problems, the parameters in the path) is added here, so that no description can forget it.
//! The shapes of what is sent are in `openapi.schemas.json`; a test holds all of it against a running gateway.

use super::guard::Needs;
use crate::problem::ProblemKind;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// JSON Schemas by name, in the order in which to read them.
const SCHEMAS: &str = include_str!("openapi.schemas.json");

/// What a reader should know first.
const ABOUT: &str = include_str!("openapi.md");

/// Groups of operations, in the order in which to read them.
const GROUPS: [(&str, &str); 7] = [
    ("Databases", "Make them, find them."),
    ("Writing", "Batches of mutations, and a verdict for each."),
    ("Documents", "What is there now."),
    ("Changes", "What is new, as pages and as streams."),
    ("Conflicts", "What lost, and back with it."),
    ("Audit", "What happened, event by event."),
    ("Operation", "Health, status, metrics, and how to use this gateway."),
];

/// What may go wrong with a body that is read whole.
pub const BODY: &[ProblemKind] =
    &[ProblemKind::MediaType, ProblemKind::Encoding, ProblemKind::TooLarge, ProblemKind::Timeout, ProblemKind::Overloaded];

/// What an answer carries.
#[derive(Clone, Copy)]
pub enum Content {
    Nothing,
    /// JSON as this schema has it.
    Json(&'static str),
    /// Text of this media type.
    Text(&'static str),
    /// A line of JSON each, as this schema has it.
    Lines(&'static str),
    /// Server-sent events, as this schema has them.
    Events(&'static str),
}

#[derive(Default)]
struct Answer {
    text: String,
    contents: Vec<Content>,
    headers: Vec<(&'static str, &'static str)>,
}

/// One operation, as its handler's file describes it.
pub struct Operation {
    method: &'static str,
    id: &'static str,
    group: &'static str,
    summary: &'static str,
    about: Option<&'static str>,
    token_optional: bool,
    makes_database: bool,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: BTreeMap<u16, Answer>,
    problems: BTreeMap<u16, Vec<ProblemKind>>,
}

impl Operation {
    /// `id` is what generated clients call it, `group` one of those above.
    pub fn get(id: &'static str, group: &'static str, summary: &'static str) -> Self {
        Self::new("get", id, group, summary)
    }

    pub fn put(id: &'static str, group: &'static str, summary: &'static str) -> Self {
        Self::new("put", id, group, summary)
    }

    pub fn post(id: &'static str, group: &'static str, summary: &'static str) -> Self {
        Self::new("post", id, group, summary)
    }

    fn new(method: &'static str, id: &'static str, group: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            id,
            group,
            summary,
            about: None,
            token_optional: false,
            makes_database: false,
            parameters: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
            problems: BTreeMap::new(),
        }
    }

    pub fn about(mut self, text: &'static str) -> Self {
        self.about = Some(text);
        self
    }

    pub fn query(mut self, name: &str, schema: Value, text: &str) -> Self {
        self.parameters.push(json!({"name": name, "in": "query", "schema": schema, "description": text}));
        self
    }

    pub fn header(mut self, name: &str, schema: Value, text: &str) -> Self {
        self.parameters.push(json!({"name": name, "in": "header", "schema": schema, "description": text}));
        self
    }

    /// It takes a session and may wait for it.
    pub fn session(self) -> Self {
        let session = reference("Session");
        let wait = json!({"type": "integer", "minimum": 0, "maximum": 30_000, "default": 0});
        self.query("session", session, "What the caller wrote: a region that has not got it yet answers 503 `behind`.")
            .query("wait_ms", wait, "How long a region that is behind may wait before it answers.")
            .refuses(&[ProblemKind::Token, ProblemKind::Clock, ProblemKind::Behind])
    }

    /// It gives pages of at most so many.
    pub fn limit(self, most: u64) -> Self {
        let schema = json!({"type": "integer", "minimum": 0, "default": 100});
        self.query("limit", schema, &format!("How many at most; above {most} it is lowered, never refused."))
    }

    /// It takes a JSON body.
    pub fn body(self, schema: &'static str, example: Value) -> Self {
        self.takes(schema, example, true)
    }

    /// It takes a JSON body, or none.
    pub fn optional_body(self, schema: &'static str, example: Value) -> Self {
        self.takes(schema, example, false)
    }

    fn takes(mut self, schema: &str, example: Value, required: bool) -> Self {
        self.body = Some(json!({
            "required": required,
            "content": {"application/json": {"schema": reference(schema), "example": example}}
        }));
        self
    }

    /// An answer that is no problem; said more than once, a status has several forms.
    pub fn answers(mut self, status: u16, text: &'static str, content: Content) -> Self {
        let answer = self.answers.entry(status).or_default();
        if !answer.text.is_empty() {
            answer.text.push(' ');
        }
        answer.text.push_str(text);
        answer.contents.push(content);
        self
    }

    /// A header of an answer.
    pub fn answer_header(mut self, status: u16, name: &'static str, text: &'static str) -> Self {
        self.answers.entry(status).or_default().headers.push((name, text));
        self
    }

    /// Problems that it answers with.
    pub fn refuses(mut self, kinds: &[ProblemKind]) -> Self {
        for kind in kinds {
            let known = self.problems.entry(kind.status()).or_default();
            if !known.contains(kind) {
                known.push(*kind);
            }
        }
        self
    }

    /// A token tells more, and nobody needs one.
    pub fn token_optional(mut self) -> Self {
        self.token_optional = true;
        self
    }

    /// It makes the database that its path names.
    pub fn makes_database(mut self) -> Self {
        self.makes_database = true;
        self
    }

    /// What follows from what the route needs; and, where no keys are configured, any route may be called by a wrong name.
    fn needing(self, needs: Needs) -> Self {
        let (makes_database, mut kinds) = (self.makes_database, Vec::new());
        if needs != Needs::Nothing {
            kinds.push(ProblemKind::Unauthenticated);
        }
        if matches!(needs, Needs::Everywhere(_) | Needs::Database(_)) {
            kinds.push(ProblemKind::Forbidden);
        }
        if matches!(needs, Needs::Database(_)) {
            kinds.push(ProblemKind::Invalid);
            if !makes_database {
                kinds.push(ProblemKind::NotFound);
            }
        }
        kinds.push(ProblemKind::Host);
        self.refuses(&kinds)
    }

    fn responses(&self) -> BTreeMap<String, Value> {
        let statuses: BTreeSet<u16> = self.answers.keys().chain(self.problems.keys()).copied().collect();
        statuses.into_iter().map(|status| (status.to_string(), self.response(status))).collect()
    }

    fn response(&self, status: u16) -> Value {
        let (mut texts, mut content, mut headers) = (Vec::new(), Map::new(), Map::new());
        if let Some(answer) = self.answers.get(&status) {
            if !answer.text.is_empty() {
                texts.push(answer.text.clone());
            }
            content.extend(answer.contents.iter().filter_map(|form| form.describe()));
            headers.extend(answer.headers.iter().map(|(name, text)| ((*name).to_owned(), answer_header("string", text))));
        }
        if let Some(kinds) = self.problems.get(&status) {
            texts.extend(kinds.iter().map(|kind| format!("`{}`: {}.", kind.row().0, kind.row().1)));
            let types: Vec<String> = kinds.iter().map(|kind| format!("/problems/{}", kind.row().0)).collect();
            let schema = json!({"allOf": [reference("Problem"), {"properties": {"type": {"enum": types}}}]});
            content.insert("application/problem+json".into(), json!({ "schema": schema }));
        }
        match status {
            401 => drop(headers.insert("WWW-Authenticate".into(), answer_header("string", "Bearer."))),
            429 | 503 => drop(headers.insert("Retry-After".into(), answer_header("integer", "Seconds to wait before trying again."))),
            _ => {}
        }
        let mut response = Map::new();
        response.insert("description".into(), texts.join(" ").into());
        for (name, members) in [("headers", headers), ("content", content)] {
            if !members.is_empty() {
                response.insert(name.into(), members.into());
            }
        }
        response.into()
    }
}

impl Content {
    fn describe(self) -> Option<(String, Value)> {
        // What 3.1 cannot say of a stream, the shape of one item, stands in `x-item-schema`.
        let items = |name| json!({"schema": {"type": "string"}, "x-item-schema": reference(name)});
        let (media, value) = match self {
            Self::Nothing => return None,
            Self::Json(name) => ("application/json", json!({ "schema": reference(name) })),
            Self::Text(media) => (media, json!({"schema": {"type": "string"}})),
            Self::Lines(name) => ("application/x-ndjson", items(name)),
            Self::Events(name) => ("text/event-stream", items(name)),
        };
        Some((media.to_owned(), value))
    }
}

/// A schema by its name.
pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn answer_header(kind: &str, text: &str) -> Value {
    json!({"description": text, "schema": {"type": kind}})
}

/// All operations of a gateway.
#[derive(Default)]
pub struct Document {
    paths: Members<Members<Described>>,
}

impl Document {
    /// Takes in one route. `feed`: it takes the token as a parameter too.
    pub fn add(&mut self, path: &str, needs: Needs, feed: bool, operation: Operation) {
        let mut parameters = path_parameters(path);
        let operation = operation.needing(needs);
        parameters.extend(operation.parameters.iter().cloned());
        let described = Described {
            tags: [operation.group],
            summary: operation.summary,
            description: operation.about,
            operation_id: operation.id,
            needs: match needs {
                Needs::Nothing => "nothing".into(),
                Needs::Caller => "a token".into(),
                Needs::Everywhere(right) => format!("{} on *", right.as_str()),
                Needs::Database(right) => format!("{} on {{db}}", right.as_str()),
            },
            security: security(needs, feed, operation.token_optional),
            parameters,
            responses: operation.responses(),
            request_body: operation.body,
        };
        let (path, method) = (path.replace("{*", "{"), operation.method.to_owned());
        match self.paths.0.iter_mut().find(|(known, _)| *known == path) {
            Some((_, item)) => item.0.push((method, described)),
            None => self.paths.0.push((path, Members(vec![(method, described)]))),
        }
    }

    /// The document's text.
    pub fn json(&self) -> String {
        let tags = GROUPS.iter().map(|(name, text)| json!({"name": name, "description": text})).collect();
        let whole = Whole {
            openapi: "3.1.0",
            info: json!({
                "title": "Tidegate",
                "version": env!("CARGO_PKG_VERSION"),
                "summary": env!("CARGO_PKG_DESCRIPTION"),
                "description": ABOUT,
                "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
            }),
            servers: json!([{"url": "/"}]),
            tags,
            paths: &self.paths,
            components: Components {
                // A test reads them.
                schemas: serde_json::from_str(SCHEMAS).unwrap_or(RawValue::NULL),
                security_schemes: json!({
                    "bearer": {
                        "type": "http",
                        "scheme": "bearer",
                        "bearerFormat": "JWT",
                        "description": "A JWT that names this gateway as its audience. Its claim `dbs` is an object of `read`, `write` or \
                                        `admin` by database, `*` for all that are not named; `sub` is kept with what is written."
                    },
                    "accessToken": {
                        "type": "apiKey",
                        "in": "query",
                        "name": "access_token",
                        "description": "The same token, for a browser's EventSource, which sends no headers. On feeds only; never logged."
                    }
                }),
            },
        };
        // Writing what is text already cannot fail.
        serde_json::to_string_pretty(&whole).unwrap_or_default()
    }
}

/// Any one of these will do; an empty one stands for no token at all.
fn security(needs: Needs, feed: bool, token_optional: bool) -> Vec<Value> {
    let mut ways = match (needs, token_optional) {
        (Needs::Nothing, false) => return Vec::new(),
        (Needs::Nothing, true) => vec![json!({})],
        _ => Vec::new(),
    };
    ways.push(json!({"bearer": []}));
    if feed {
        ways.push(json!({"accessToken": []}));
    }
    ways
}

/// Members of an object in the order they were given.
struct Members<T>(Vec<(String, T)>);

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for Members<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[derive(Serialize)]
struct Whole<'a> {
    openapi: &'static str,
    info: Value,
    servers: Value,
    tags: Vec<Value>,
    paths: &'a Members<Members<Described>>,
    components: Components<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Components<'a> {
    schemas: &'a RawValue,
    security_schemes: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    tags: [&'static str; 1],
    summary: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'static str>,
    operation_id: &'static str,
    #[serde(rename = "x-needs")]
    needs: String,
    security: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parameters: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_body: Option<Value>,
    responses: BTreeMap<String, Value>,
}

/// The parameters that a path names.
fn path_parameters(path: &str) -> Vec<Value> {
    let named = path.split('/').filter_map(|part| part.split_once('{')?.1.split_once('}').map(|(name, _)| name.trim_start_matches('*')));
    let describe = |name: &str| {
        let (schema, text) = match name {
            "db" => ("DatabaseName", "The database."),
            "region" => ("RegionName", "The region."),
            _ => {
                ("DocId", "The document. Its `/` may stand raw or as `%2F`; of an id with an empty, `.` or `..` segment all must be `%2F`.")
            }
        };
        json!({"name": name, "in": "path", "required": true, "schema": reference(schema), "description": text})
    };
    named.map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Right;

    #[test]
    fn what_a_route_needs_is_in_its_description() {
        let mut document = Document::default();
        let operation = Operation::get("readIt", "Documents", "Read it.").session().answers(200, "It.", Content::Json("Document"));
        document.add("/v1/dbs/{db}/it/{*doc}", Needs::Database(Right::Read), true, operation);
        document.add("/livez", Needs::Nothing, false, Operation::get("live", "Operation", "Alive."));
        let whole: Value = serde_json::from_str(&document.json()).unwrap();
        assert!(whole["components"]["schemas"].as_object().unwrap().len() > 50);
        let described = &whole["paths"]["/v1/dbs/{db}/it/{doc}"]["get"];
        let kinds = |status: &str| {
            let problem = &described["responses"][status]["content"]["application/problem+json"]["schema"];
            problem["allOf"][1]["properties"]["type"]["enum"].clone()
        };
        assert_eq!(kinds("401"), json!(["/problems/unauthenticated"]));
        assert_eq!(kinds("403"), json!(["/problems/forbidden", "/problems/host"]));
        assert_eq!(kinds("400"), json!(["/problems/token", "/problems/clock", "/problems/invalid"]));
        assert_eq!(described["security"], json!([{"bearer": []}, {"accessToken": []}]));
        assert_eq!((&described["parameters"][0]["name"], &described["parameters"][1]["name"]), (&json!("db"), &json!("doc")));
        assert_eq!(described["x-needs"], "read on {db}");
        assert_eq!(whole["paths"]["/livez"]["get"]["security"], json!([]));
    }
}
