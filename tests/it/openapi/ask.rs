//! A request as a value, so that recipes can vary it, and its answer.

use crate::support::PATIENCE;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::header::HeaderMap;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Clone)]
pub enum Sent {
    Whole(Vec<u8>),
    /// It begins so and never ends.
    Endless(Vec<u8>),
}

#[derive(Clone)]
pub struct Ask {
    pub method: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: BTreeMap<String, String>,
    pub body: Option<Sent>,
    /// A stream is read until it says this.
    pub until: Option<&'static str>,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Ask {
    pub fn new(method: &str, path: &str) -> Self {
        let (method, path) = (method.to_owned(), path.to_owned());
        Self { method, path, query: Vec::new(), headers: BTreeMap::new(), body: None, until: None }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.into(), value.into()));
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    pub fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub fn without_token(mut self) -> Self {
        self.headers.remove("authorization");
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.text(&body.to_string())
    }

    pub fn text(self, body: &str) -> Self {
        self.sent(Sent::Whole(body.as_bytes().to_vec()))
    }

    pub fn sent(mut self, body: Sent) -> Self {
        self.body = Some(body);
        self.headers.entry("content-type".into()).or_insert("application/json".into());
        self
    }

    pub fn until(mut self, marker: &'static str) -> Self {
        self.until = Some(marker);
        self
    }

    pub fn shown(&self) -> String {
        format!("{} {}{}", self.method, self.path, self.search())
    }

    fn search(&self) -> String {
        if self.query.is_empty() {
            return String::new();
        }
        let mut text = form_urlencoded::Serializer::new(String::new());
        text.extend_pairs(&self.query);
        format!("?{}", text.finish())
    }

    /// Sends it; the answer's head, and the body still to be read.
    pub async fn open(&self, http: &reqwest::Client, url: &str) -> reqwest::Response {
        let mut request = http.request(self.method.parse().unwrap(), format!("{url}{}{}", self.path, self.search()));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = match self.body.clone() {
            None => request,
            Some(Sent::Whole(bytes)) => request.body(bytes),
            Some(Sent::Endless(bytes)) => {
                let begin = stream::once(async { Ok::<_, std::io::Error>(Bytes::from(bytes)) });
                request.body(reqwest::Body::wrap_stream(begin.chain(stream::pending())))
            }
        };
        let sent = tokio::time::timeout(PATIENCE, request.send()).await;
        sent.unwrap_or_else(|_| panic!("{}: no answer", self.shown())).unwrap_or_else(|error| panic!("{}: {error:?}", self.shown()))
    }

    pub async fn send(&self, http: &reqwest::Client, url: &str) -> Answer {
        let mut response = self.open(http, url).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut bytes = Vec::new();
        let enough = |bytes: &[u8]| self.until.is_some_and(|marker| String::from_utf8_lossy(bytes).contains(marker));
        while !enough(&bytes) {
            let part = tokio::time::timeout(PATIENCE, response.chunk()).await;
            match part.unwrap_or_else(|_| panic!("{}: it fell silent after {:?}", self.shown(), String::from_utf8_lossy(&bytes))) {
                Ok(Some(part)) => bytes.extend_from_slice(&part),
                Ok(None) => break,
                Err(error) => panic!("{}: {error:?}", self.shown()),
            }
        }
        Answer { status, headers, text: String::from_utf8(bytes).unwrap() }
    }
}

impl Answer {
    /// The media type without its parameters.
    pub fn media(&self) -> String {
        let kind = self.headers.get("content-type").map(|kind| kind.to_str().unwrap()).unwrap_or("");
        kind.split(';').next().unwrap().trim().to_owned()
    }

    /// What kind of answer it is: the problem's type, else the media type.
    pub fn form(&self) -> String {
        match self.media().as_str() {
            "application/problem+json" => self.json()["type"].as_str().unwrap().to_owned(),
            media => media.to_owned(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The whole lines, without those that only keep the connection.
    pub fn lines(&self) -> Vec<Value> {
        let whole = self.text.rfind('\n').map_or("", |end| &self.text[..end]);
        whole.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The whole events, their data read.
    pub fn events(&self) -> Vec<Value> {
        let whole = self.text.rfind("\n\n").map_or("", |end| &self.text[..end]);
        let read = |event: &str| {
            let mut members = serde_json::Map::new();
            for line in event.lines() {
                let (name, value) = line.split_once(": ").unwrap();
                let value = if name == "data" { serde_json::from_str(value).unwrap() } else { Value::from(value) };
                assert!(members.insert(name.into(), value).is_none(), "{name} stands twice in {event}");
            }
            Value::Object(members)
        };
        whole.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with("retry: ")).map(read).collect()
    }
}
