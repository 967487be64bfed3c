//! How a command reaches a gateway: its address, who asks, whom TLS trusts; and what an answer means that is no success.
//!
//! Nothing global is set up for TLS, and no redirect is followed: a token goes where it was meant to go and nowhere else. What
//! a gateway answers is bounded in length, and cleaned before it stands in an error.

use super::status::clean;
use crate::access::TOKEN_BYTES_MAX;
use crate::error::{Error, Kind, Result};
use crate::id::DatabaseName;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// How long an answer may take that is not waited for on purpose.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of an answer; a longer one is not read to its end.
const ANSWER_BYTES_MAX: usize = 128 << 20;

/// Characters shown of an answer that is no problem of a gateway's.
const SHOWN_CHARS_MAX: usize = 200;

/// The gateway of this machine, which is meant unless another is named.
const HERE: &str = "http://127.0.0.1:8080";

/// One gateway, and how to reach it.
#[derive(clap::Args)]
pub struct Remote {
    /// The gateway
    #[arg(long, env = "TIDEGATE_URL", value_name = "URL", default_value = HERE, global = true, help_heading = "Gateway")]
    url: String,
    #[command(flatten)]
    credentials: Credentials,
}

/// Who asks, and whom to trust; for a command that talks to several gateways.
#[derive(clap::Args)]
pub struct Credentials {
    /// The token that says who you are (`tidegate token` makes one); other users of this machine see what stands in a
    /// command, so rather set the variable or name a file
    #[arg(long, env = "TIDEGATE_TOKEN", hide_env_values = true, value_name = "JWT", global = true, help_heading = "Gateway")]
    token: Option<String>,
    /// A file that holds the token; it goes before --token
    #[arg(long, value_name = "FILE", global = true, help_heading = "Gateway")]
    token_file: Option<PathBuf>,
    /// Certificate authorities to trust besides this machine's own, PEM
    #[arg(long, env = "TIDEGATE_CA_FILE", value_name = "FILE", global = true, help_heading = "Gateway")]
    ca_file: Option<PathBuf>,
}

/// Where a gateway is, and how one gets in.
pub struct Route {
    pub host: String,
    pub port: u16,
    pub token: Option<String>,
    pub tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Remote {
    /// A client whose answers are waited for so long.
    pub fn client(&self, patience: Duration) -> Result<Client> {
        self.with(Some(patience))
    }

    /// A client for answers that have no end.
    pub fn listener(&self) -> Result<Client> {
        self.with(None)
    }

    /// The gateway's address, where it is not the one that is meant anyway.
    pub fn elsewhere(&self) -> Option<&str> {
        Some(self.url.as_str()).filter(|url| *url != HERE)
    }

    /// The way to it, for who opens connections of its own.
    pub fn route(&self) -> Result<Route> {
        let invalid = |why: &str| Error::new(Kind::Invalid, format!("the gateway's address {why}"));
        let url = base(&self.url)?.parse::<Url>().map_err(|_| invalid("is no URL"))?;
        let (host, port) = (url.host_str().unwrap_or_default().to_owned(), url.port_or_known_default().unwrap_or(80));
        if url.path() != "/" {
            return Err(invalid("ends with its host or its port here"));
        }
        let tls = if url.scheme() == "https" {
            let name = ServerName::try_from(host.clone()).map_err(|_| invalid("holds no name that a certificate could have"))?;
            Some((TlsConnector::from(Arc::new(tls(trusted(self.credentials.ca_file.as_deref())?)?)), name))
        } else {
            None
        };
        Ok(Route { host, port, token: self.credentials.token()?, tls })
    }

    fn with(&self, patience: Option<Duration>) -> Result<Client> {
        let url = base(&self.url)?;
        let http = self.credentials.http(std::slice::from_ref(&url), patience)?;
        Ok(Client::new(http, url))
    }
}

impl Credentials {
    /// A client for these gateways.
    pub fn http(&self, urls: &[String], patience: Option<Duration>) -> Result<reqwest::Client> {
        // The machine's own authorities take a moment to read, and plain HTTP needs none.
        let secure = urls.iter().any(|url| url.starts_with("https:"));
        let roots = if secure { trusted(self.ca_file.as_deref())? } else { RootCertStore::empty() };
        let mut builder = builder(tls(roots)?);
        if let Some(token) = self.token()? {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| Error::new(Kind::Invalid, "the token holds characters that no token has"))?;
            value.set_sensitive(true);
            builder = builder.default_headers(HeaderMap::from_iter([(AUTHORIZATION, value)]));
        }
        if let Some(patience) = patience {
            builder = builder.timeout(patience);
        }
        built(builder)
    }

    fn token(&self) -> Result<Option<String>> {
        let text = match &self.token_file {
            None => self.token.clone().unwrap_or_default(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Error::because(Kind::Invalid, format!("reading the token in {}", path.display()), error))?,
        };
        let token = text.trim();
        let token = token.strip_prefix("Bearer ").unwrap_or(token).trim();
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Error::new(Kind::Invalid, format!("the token is longer than {TOKEN_BYTES_MAX} bytes")));
        }
        if token.is_empty() && self.token_file.is_some() {
            return Err(Error::new(Kind::Invalid, "the file of the token is empty"));
        }
        Ok((!token.is_empty()).then(|| token.to_owned()))
    }
}

/// A client without a token for plain HTTP on this machine; TLS trusts nobody.
pub fn plain(patience: Duration) -> Result<reqwest::Client> {
    built(builder(tls(RootCertStore::empty())?).no_proxy().timeout(patience))
}

/// What every client has.
pub fn builder(tls: ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
}

pub fn built(builder: reqwest::ClientBuilder) -> Result<reqwest::Client> {
    builder.build().map_err(|error| Error::because(Kind::Internal, "making an HTTP client", error))
}

/// TLS that trusts these authorities and nobody else; our own provider, nothing global.
pub fn tls(roots: RootCertStore) -> Result<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::because(Kind::Internal, "setting TLS up", error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// This machine's authorities, and those of the file.
fn trusted(ca_file: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let fail = |error: String| Error::because(Kind::Invalid, format!("reading the authorities in {}", path.display()), error);
        let mut found = false;
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fail(error.to_string()))? {
            let certificate = certificate.map_err(|error| fail(error.to_string()))?;
            roots.add(certificate).map_err(|error| fail(error.to_string()))?;
            found = true;
        }
        if !found {
            return Err(fail("it holds no certificate".into()));
        }
    }
    if roots.is_empty() {
        return Err(Error::new(Kind::Missing, "this machine names no certificate authorities; name one with --ca-file"));
    }
    Ok(roots)
}

/// Checks a gateway's address, and takes the slash from its end. It is shown in messages, so nothing secret may stand in it.
pub fn base(text: &str) -> Result<String> {
    let invalid = |why: &str| Err(Error::new(Kind::Invalid, format!("the gateway's address {why}")));
    let Ok(url) = text.parse::<Url>() else { return invalid("is like http://127.0.0.1:8080 or https://gateway.example") };
    if !url.username().is_empty() || url.password().is_some() {
        return invalid("holds a user or a password; who you are is said by --token");
    }
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return invalid("begins with http:// or https://");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return invalid("ends with its host, its port or a path, without ? and #");
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// A database's name out of the arguments.
pub fn database(text: &str) -> Result<DatabaseName> {
    DatabaseName::new(text).map_err(|why| Error::new(Kind::Invalid, why))
}

/// A word as a shell takes it, cleaned.
pub fn quoted(text: &str) -> String {
    let text = clean(text);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Pairs as a query, with its `?`.
pub fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    if query.is_empty() { query } else { format!("?{query}") }
}

/// One gateway.
pub struct Client {
    http: reqwest::Client,
    pub url: String,
}

impl Client {
    pub fn new(http: reqwest::Client, url: String) -> Self {
        Self { http, url }
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.url))
    }

    pub fn put(&self, path: &str) -> RequestBuilder {
        self.http.put(format!("{}{path}", self.url))
    }

    pub fn post(&self, path: &str, body: String) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.url)).header(CONTENT_TYPE, "application/json").body(body)
    }

    /// The text of an answer that is a success.
    pub async fn ask(&self, request: RequestBuilder) -> Result<String> {
        let answer = request.send().await.map_err(|error| unreachable(&self.url, error))?;
        let status = answer.status();
        let text = read(&self.url, answer).await?;
        if status.is_success() { Ok(text) } else { Err(refusal(&self.url, status, &text)) }
    }

    /// The same, read as JSON.
    pub async fn ask_json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let text = self.ask(request).await?;
        self.understand(&text)
    }

    /// Reads what this gateway said.
    pub fn understand<'a, T: Deserialize<'a>>(&self, text: &'a str) -> Result<T> {
        let doing = || format!("{} answered something else than this program knows", self.url);
        serde_json::from_str(text).map_err(|error| Error::because(Kind::Internal, doing(), error))
    }
}

/// An answer's text, bounded.
pub async fn read(url: &str, mut answer: Response) -> Result<String> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| unreachable(url, error))? {
        if body.len() + part.len() > ANSWER_BYTES_MAX {
            return Err(Error::new(Kind::TooLarge, format!("the answer of {url} is longer than {ANSWER_BYTES_MAX} bytes")));
        }
        body.extend_from_slice(&part);
    }
    String::from_utf8(body).map_err(|_| Error::new(Kind::Internal, format!("the answer of {url} is not UTF-8")))
}

/// What a gateway says is wrong, as RFC 9457 has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    pub r#type: String,
    title: String,
    detail: String,
    pointer: Option<String>,
    version: Option<String>,
}

impl Problem {
    /// In a line for people, cleaned.
    pub fn explain(&self) -> String {
        let mut text = match (self.detail.as_str(), self.title.as_str()) {
            ("", "") => "it did not say why".to_owned(),
            ("", title) => title.to_owned(),
            (detail, _) => detail.to_owned(),
        };
        if let Some(pointer) = self.pointer.as_ref().filter(|pointer| !pointer.is_empty()) {
            text.push_str(&format!(" (at {pointer})"));
        }
        if let Some(version) = self.version.as_ref().filter(|version| !text.contains(version.as_str())) {
            text.push_str(&format!("; its version is {version}"));
        }
        clean(&as_command(text))
    }
}

/// Advice for who speaks HTTP, said to who speaks commands.
fn as_command(text: String) -> String {
    let found = text.split_once("PUT /v1/dbs/").and_then(|(before, rest)| Some((before, rest.split_once(" makes it")?)));
    match found {
        Some((before, (name, after))) if DatabaseName::new(name).is_ok() => format!("{before}`tidegate put {name}` makes it{after}"),
        _ => text,
    }
}

/// What an answer means that is no success, and what to do next.
pub fn refusal(url: &str, status: StatusCode, body: &str) -> Error {
    let kind = match status.as_u16() {
        404 | 410 => Kind::Missing,
        409 | 412 => Kind::Conflict,
        413 => Kind::TooLarge,
        429 => Kind::TooMany,
        408 | 502..=504 => Kind::Unavailable,
        300..=499 => Kind::Invalid,
        _ => Kind::Internal,
    };
    let problem: Problem = serde_json::from_str(body).unwrap_or_default();
    if problem.r#type.is_empty() {
        let shown: String = clean(body).chars().take(SHOWN_CHARS_MAX).collect();
        return Error::new(kind, format!("{url} answered {status}, not as a gateway does: {shown}"));
    }
    let why = problem.explain();
    let next = match problem.r#type.as_str() {
        "/problems/unauthenticated" => {
            "; say who you are with --token-file, --token or TIDEGATE_TOKEN (`tidegate token` makes a token where the key is)"
        }
        "/problems/forbidden" => "; ask for a token that gives this right",
        "/problems/unavailable" | "/problems/overloaded" if !why.contains("again") => "; try again in a moment",
        _ => "",
    };
    Error::new(kind, format!("{why}{next} ({url} answered {})", status.as_u16()))
}

/// As the system says it.
const REFUSED: &str = "Connection refused";

/// How it is said that there is nobody, so that nothing was sent.
pub const NOBODY: &str = "nobody listens at";

/// Why there is no answer, and what to look at.
pub fn unreachable(url: &str, error: reqwest::Error) -> Error {
    let timeout = error.is_timeout();
    let error = error.without_url();
    let causes = Error::because(Kind::Unavailable, "", error).chain();
    let causes = clean(causes.trim_start_matches(": "));
    if causes.contains(REFUSED) {
        return Error::new(Kind::Unavailable, format!("{NOBODY} {url} (connection refused); another gateway: --url or TIDEGATE_URL"));
    }
    let hint = if causes.contains("certificate expired") {
        "its certificate has expired"
    } else if causes.contains("not valid yet") {
        "its certificate is not valid yet; is this machine's clock right?"
    } else if causes.contains("not valid for name") {
        "its certificate is for another name than this address"
    } else if causes.contains("certificate") {
        "its certificate is not trusted here: name the authority that signed it with --ca-file"
    } else if causes.contains("corrupt message") {
        "it does not speak TLS: is it http:// instead of https://?"
    } else if timeout {
        "it did not answer in time"
    } else {
        "is a gateway running there, and does nothing stand between?"
    };
    Error::because(Kind::Unavailable, format!("reaching {url}; {hint}"), causes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_gateways_and_holds_no_secret() {
        for (given, taken) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:8080/", "http://[::1]:8080"),
            ("https://a.example/b/", "https://a.example/b"),
        ] {
            assert_eq!(base(given).unwrap(), taken);
        }
        for bad in ["", "localhost", "localhost:8080", "ftp://a", "http://a?b", "http://a/#b"] {
            assert!(base(bad).is_err(), "{bad}");
        }
        let error = base("http://me:hunter2@a").unwrap_err().chain();
        assert!(error.contains("--token") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_refusal_says_why_and_what_next_and_obeys_nobody() {
        let told = |status: u16, body: &str| {
            let error = refusal("http://x", StatusCode::from_u16(status).unwrap(), body);
            (error.kind, error.chain())
        };
        let (kind, text) = told(401, r#"{"type":"/problems/unauthenticated","title":"t","detail":"the token has expired"}"#);
        assert!(kind == Kind::Invalid && text.starts_with("the token has expired; say who you are with --token"), "{text}");
        let (kind, text) = told(404, r#"{"type":"/problems/not-found","title":"t","detail":"there is\u001b[2J no database"}"#);
        assert!(kind == Kind::Missing && text == "there is[2J no database (http://x answered 404)", "{text}");
        let (kind, text) = told(503, "<html>\n<body>\u{7}");
        assert!(kind == Kind::Unavailable && text.ends_with("not as a gateway does: <html> <body>"), "{text}");
        assert_eq!(told(302, "").0, Kind::Invalid, "redirects are not followed");
        assert_eq!(told(500, "{}").0, Kind::Internal);
        let missing = r#"{"type":"/problems/not-found","detail":"there is no database shop; PUT /v1/dbs/shop makes it"}"#;
        let text = told(404, missing).1;
        assert!(text.starts_with("there is no database shop; `tidegate put shop` makes it (http"), "{text}");
        let unsafe_name = r#"{"type":"/problems/not-found","detail":"PUT /v1/dbs/$(reboot) makes it"}"#;
        assert!(!told(404, unsafe_name).1.contains("tidegate put"));
        let away = r#"{"type":"/problems/unavailable","detail":"nothing was kept, try again"}"#;
        assert_eq!(told(503, away).1, "nothing was kept, try again (http://x answered 503)");
        let busy = r#"{"type":"/problems/overloaded","detail":"too much at once"}"#;
        assert!(told(429, busy).1.contains("; try again in a moment"));
    }

    #[test]
    fn a_word_reaches_a_shell_as_it_is() {
        assert_eq!(quoted("todos/milk"), "todos/milk");
        assert_eq!(quoted("a/b c"), "'a/b c'");
        assert_eq!(quoted("a/it's $x"), "'a/it'\\''s $x'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_token_is_taken_from_its_file_first_and_trimmed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "Bearer abc\n").unwrap();
        let mut credentials = Credentials { token: Some("xyz".into()), token_file: Some(file.clone()), ca_file: None };
        assert_eq!(credentials.token().unwrap().as_deref(), Some("abc"));
        std::fs::write(&file, "\n").unwrap();
        assert!(credentials.token().is_err());
        credentials.token_file = None;
        assert_eq!(credentials.token().unwrap().as_deref(), Some("xyz"));
        credentials.token = Some(String::new());
        assert_eq!(credentials.token().unwrap(), None, "an empty variable is none");
    }

    #[test]
    fn a_query_is_escaped() {
        assert_eq!(query([]), "");
        assert_eq!(query([("docs", "a/b c"), ("since", "x")]), "?docs=a%2Fb+c&since=x");
    }
}
