//! An app, as the gateway sees it.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use uuid::Uuid;

#[derive(Clone)]
pub struct Client {
    pub http: reqwest::Client,
    pub url: String,
    pub db: String,
}

/// A fresh op id.
pub fn id() -> String {
    Uuid::now_v7().to_string()
}

pub fn put(doc: &str, value: Value) -> Value {
    json!({"id": id(), "doc": doc, "type": "put", "value": value})
}

pub fn patch(doc: &str, value: Value) -> Value {
    json!({"id": id(), "doc": doc, "type": "patch", "value": value})
}

pub fn increment(doc: &str, path: &str, by: f64) -> Value {
    json!({"id": id(), "doc": doc, "type": "increment", "path": path, "by": by})
}

pub fn add(doc: &str, path: &str, values: Value) -> Value {
    json!({"id": id(), "doc": doc, "type": "add", "path": path, "values": values})
}

pub fn remove(doc: &str, path: &str, values: Value) -> Value {
    json!({"id": id(), "doc": doc, "type": "remove", "path": path, "values": values})
}

pub fn delete(doc: &str) -> Value {
    json!({"id": id(), "doc": doc, "type": "delete"})
}

/// The same op with one member more.
pub fn with(mut op: Value, name: &str, value: Value) -> Value {
    op[name] = value;
    op
}

/// The header that shows a token.
pub fn bearer(token: &str) -> reqwest::header::HeaderMap {
    [(reqwest::header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())].into_iter().collect()
}

/// What every client of the tests begins with; TLS trusts nobody.
pub fn http() -> reqwest::ClientBuilder {
    tidegate::cli::remote::builder(tidegate::cli::remote::tls(tokio_rustls::rustls::RootCertStore::empty()).unwrap())
}

impl Client {
    pub fn new(url: &str, db: &str) -> Self {
        Self { http: http().build().unwrap(), url: url.into(), db: db.into() }
    }

    /// The same, by somebody with a token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { http: http().default_headers(bearer(token)).build().unwrap(), ..self.clone() }
    }

    pub fn path(&self, rest: &str) -> String {
        format!("{}/v1/dbs/{}{rest}", self.url, self.db)
    }

    pub async fn create(&self, db: &str) {
        let answer = self.http.put(format!("{}/v1/dbs/{db}", self.url)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }

    /// Posts a body as it is; status and answer.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let sent = self.http.post(self.path(path)).header("content-type", "application/json").body(body).send().await.unwrap();
        let status = sent.status().as_u16();
        (status, serde_json::from_str(&sent.text().await.unwrap()).unwrap_or(Value::Null))
    }

    /// Posts a batch that must be answered.
    pub async fn batch(&self, batch: Value) -> Value {
        let (status, answer) = self.post("/ops", batch.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Posts ops that must all be applied; the answer.
    pub async fn write(&self, ops: Vec<Value>) -> Value {
        let answer = self.batch(json!({ "ops": ops })).await;
        for result in answer["results"].as_array().unwrap() {
            assert_eq!(result["status"], "applied", "{answer}");
        }
        answer
    }

    /// One op's verdict.
    pub async fn op(&self, op: Value) -> Value {
        self.batch(json!({ "ops": [op] })).await["results"][0].clone()
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.http.get(self.path(path)).send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// A document's body, null where it is not there.
    pub async fn body(&self, doc: &str) -> Value {
        match self.get(&format!("/docs/{doc}")).await {
            (200, document) => document["body"].clone(),
            (404 | 410, _) => Value::Null,
            other => panic!("{other:?}"),
        }
    }

    pub async fn try_database(&self) -> Option<Value> {
        let answer = self.http.get(self.path("")).send().await.ok()?;
        serde_json::from_str(&answer.text().await.ok()?).ok()
    }

    pub async fn vector(&self) -> BTreeMap<String, u64> {
        let database = self.try_database().await.unwrap_or(Value::Null);
        serde_json::from_value(database["vector"].clone()).unwrap_or_default()
    }

    /// A whole journal, page by page.
    pub async fn journal(&self, region: &str, limit: usize) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        loop {
            let (status, page) = self.get(&format!("/journal/{region}?limit={limit}&after={}", lines.len())).await;
            assert_eq!(status, 200, "{page}");
            let page = match page {
                Value::String(text) => text,
                one => one.to_string(), // a single line is a JSON value by itself
            };
            let before = lines.len();
            lines.extend(page.lines().map(str::to_owned));
            if lines.len() == before {
                return lines;
            }
        }
    }

    /// Reads the change feed page by page to its end: the last row of each document, and the cursor.
    pub async fn changes(&self, since: Option<&str>, rest: &str) -> (BTreeMap<String, Value>, String) {
        let mut rows = BTreeMap::new();
        let mut cursor = since.map(str::to_owned);
        loop {
            let since = cursor.as_ref().map(|cursor| format!("&since={cursor}")).unwrap_or_default();
            let (status, page) = self.get(&format!("/changes?body=true{since}{rest}")).await;
            assert_eq!(status, 200, "{page}");
            for row in page["changes"].as_array().unwrap() {
                rows.insert(row["doc"].as_str().unwrap().to_owned(), row.clone());
            }
            let next = page["cursor"].as_str().unwrap().to_owned();
            if page["pending"] == 0 {
                return (rows, next);
            }
            assert_ne!(Some(&next), cursor.as_ref(), "a page that leaves rows moves on: {page}");
            cursor = Some(next);
        }
    }
}
