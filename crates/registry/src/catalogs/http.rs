//! Asking a platform over HTTP: several servers, TLS, credentials that may change, limits of time and size.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use lateen_api::registries::{RegistryConfig, RegistryCredentials, RegistryTls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;

use crate::{Failure, Reason};

/// More than any catalog answers.
const LARGEST: usize = 256 << 20;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How often files are looked at.
const RELOAD: Duration = Duration::from_secs(1);

type Inner = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// How the token is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenForm {
    /// In a header of its own.
    Header(&'static str),
    /// `Authorization: token=TOKEN`, as Marathon wants it.
    Assignment,
}

/// A client of one platform.
pub struct Client {
    servers: Vec<String>,
    current: AtomicUsize,
    timeout: Duration,
    tls: Option<RegistryTls>,
    credentials: RegistryCredentials,
    form: TokenForm,
    inner: Mutex<Loaded>,
}

struct Loaded {
    client: Option<Inner>,
    /// The files that the client was made from.
    files: Vec<String>,
    looked: Option<Instant>,
}

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// Path and query, below the server's address.
    pub path: String,
    /// Headers besides the usual.
    pub headers: HeaderMap,
    /// How long the server may wait before it answers.
    pub wait: Duration,
    /// What is sent with `POST`; `GET` without.
    pub form: Option<String>,
}

/// What is answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// An answer that comes in lines, as server-sent events do.
pub struct Lines {
    body: Incoming,
    pending: Vec<u8>,
}

// === impl Ask ===

impl Ask {
    /// Asks for this path.
    pub fn get(path: impl Into<String>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// With this header.
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

// === impl Answer ===

impl Answer {
    /// The answer, if it is a good one; else what the status says.
    pub fn good(self) -> Result<Self, Failure> {
        let text = || String::from_utf8_lossy(&self.body[..self.body.len().min(200)]).trim().to_owned();
        let failure =
            |reason| Err(Failure::new(reason, format!("the server answers {}: {}", self.status, text())));
        match self.status {
            status if status.is_success() => Ok(self),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => failure(Reason::Denied),
            StatusCode::TOO_MANY_REQUESTS => failure(Reason::Limited(self.pause())),
            status if status.is_server_error() => failure(Reason::Unavailable),
            _ => failure(Reason::Malformed),
        }
    }

    /// The body, read as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        self.parse().map_err(|message| Failure::new(Reason::Malformed, message))
    }

    /// As [`Self::json`], with nothing but the message.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, String> {
        let mut reader = serde_json::Deserializer::from_slice(&self.body);
        serde_path_to_error::deserialize(&mut reader)
            .map_err(|error| format!("the answer makes no sense at {}: {}", error.path(), error.inner()))
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// How long a server that was asked too often wants to be left alone.
    fn pause(&self) -> Duration {
        let seconds = |text: &str| text.parse::<u64>().ok();
        let after = self.header(RETRY_AFTER.as_str()).and_then(seconds);
        let reset = self.header("x-ratelimit-reset").and_then(seconds).map(|reset| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            // Some send the time of day, some a number of seconds.
            if reset > 1_000_000_000 { reset.saturating_sub(now.as_secs()) } else { reset }
        });
        Duration::from_secs(after.or(reset).unwrap_or(5).min(600))
    }
}

// === impl Lines ===

impl Lines {
    /// The next line; none at the end.
    pub async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if self.pending.len() > LARGEST {
                return Err(Failure::new(Reason::Malformed, "an event has no end"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.pending.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => {
                    return Err(Failure::new(
                        Reason::Unavailable,
                        format!("the stream of events broke: {error}"),
                    ));
                }
                None => return Ok(None),
            }
        }
    }
}

// === impl Client ===

impl Client {
    /// A client as the configuration says.
    pub fn new(config: &RegistryConfig, form: TokenForm) -> Self {
        Self::at(config.addresses.clone(), config, form)
    }

    /// As [`Self::new`], of other servers.
    pub fn at(addresses: Vec<String>, config: &RegistryConfig, form: TokenForm) -> Self {
        Self {
            servers: addresses.iter().map(|address| address.trim_end_matches('/').to_owned()).collect(),
            current: AtomicUsize::new(0),
            timeout: config.timeout.map_or(Duration::from_secs(30), |timeout| timeout.get()),
            tls: config.tls.clone(),
            credentials: config.credentials.clone().unwrap_or_default(),
            form,
            inner: Mutex::new(Loaded { client: None, files: Vec::new(), looked: None }),
        }
    }

    /// Asks the server that answered last, then each of the others, and returns the first answer.
    pub async fn ask(&self, ask: &Ask) -> Result<Answer, Failure> {
        let (mut first, count) = (None, self.servers.len());
        for _ in 0..count.max(1) {
            let current = self.current.load(Ordering::Relaxed) % count.max(1);
            let failure = match self.ask_one(current, ask).await {
                Ok(answer) if !answer.status.is_server_error() => return Ok(answer),
                Ok(answer) => match answer.good() {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let next = (current + 1) % count.max(1);
            // Another request may have gone on already.
            let _ = self.current.compare_exchange(current, next, Ordering::Relaxed, Ordering::Relaxed);
            first.get_or_insert(failure);
        }
        Err(first.unwrap_or_else(|| Failure::new(Reason::Misconfigured, "no address is configured")))
    }

    /// Opens a stream of lines.
    pub async fn lines(&self, ask: &Ask) -> Result<Lines, Failure> {
        let current = self.current.load(Ordering::Relaxed) % self.servers.len().max(1);
        let response = self.limited(Duration::ZERO, self.send(current, ask)).await?;
        if !response.status().is_success() {
            let (parts, body) = response.into_parts();
            let body = self.limited(Duration::ZERO, collect(body)).await?;
            return match (Answer { status: parts.status, headers: parts.headers, body }).good() {
                Ok(_) => Err(Failure::new(Reason::Malformed, "no stream of events")),
                Err(failure) => Err(failure),
            };
        }
        Ok(Lines { body: response.into_body(), pending: Vec::new() })
    }

    async fn ask_one(&self, server: usize, ask: &Ask) -> Result<Answer, Failure> {
        self.limited(ask.wait, async {
            let (parts, body) = self.send(server, ask).await?.into_parts();
            let body = collect(body).await?;
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        })
        .await
    }

    async fn limited<T>(
        &self,
        wait: Duration,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let limit = self.timeout + wait;
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            Err(Failure::new(Reason::Timeout, format!("the server did not answer within {limit:?}")))
        })
    }

    async fn send(&self, server: usize, ask: &Ask) -> Result<http::Response<Incoming>, Failure> {
        let address = self.servers.get(server).map(String::as_str).unwrap_or_default();
        let method = if ask.form.is_some() { Method::POST } else { Method::GET };
        let mut request = http::Request::builder().method(method).uri(format!("{address}{}", ask.path));
        if let Some(headers) = request.headers_mut() {
            headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
            self.authenticate(headers)?;
            headers.extend(ask.headers.clone());
            if ask.form.is_some() {
                let form = HeaderValue::from_static("application/x-www-form-urlencoded");
                headers.insert(http::header::CONTENT_TYPE, form);
            }
        }
        let body = Full::new(Bytes::from(ask.form.clone().unwrap_or_default()));
        let request = request.body(body).map_err(|error| {
            Failure::new(Reason::Misconfigured, format!("{address}{} is no address: {error}", ask.path))
        })?;
        let response = self.client()?.request(request).await;
        response.map_err(|error| {
            Failure::new(Reason::Unavailable, format!("{address} cannot be reached: {}", causes(&error)))
        })
    }

    fn authenticate(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        let credentials = &self.credentials;
        let (name, value) = if !credentials.token_file.is_empty() {
            let token = read(&credentials.token_file)?;
            match self.form {
                TokenForm::Header(name) => (HeaderName::from_static(name), token),
                TokenForm::Assignment => (AUTHORIZATION, format!("token={token}")),
            }
        } else if !credentials.user.is_empty() {
            let pair = format!("{}:{}", credentials.user, read(&credentials.password_file)?);
            let pair = base64::engine::general_purpose::STANDARD.encode(pair);
            (AUTHORIZATION, format!("Basic {pair}"))
        } else {
            return Ok(());
        };
        let mut value = HeaderValue::from_str(&value).map_err(|_| {
            Failure::new(
                Reason::Misconfigured,
                "the token or password has characters that headers cannot have",
            )
        })?;
        value.set_sensitive(true);
        headers.insert(name, value);
        Ok(())
    }

    /// The client of the present files.
    fn client(&self) -> Result<Inner, Failure> {
        let mut loaded = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &loaded.client
            && loaded.looked.is_some_and(|looked| looked.elapsed() < RELOAD)
        {
            return Ok(client.clone());
        }
        let files = self.tls_files()?;
        let client = match loaded.client.take() {
            Some(client) if loaded.files == files => client,
            _ => self.connect(&files)?,
        };
        *loaded = Loaded { client: Some(client.clone()), files, looked: Some(Instant::now()) };
        Ok(client)
    }

    /// Trusted certificates, our certificate, its key; empty where not configured.
    fn tls_files(&self) -> Result<Vec<String>, Failure> {
        let Some(tls) = &self.tls else { return Ok(vec![String::new(); 3]) };
        let paths = [&tls.ca_certificates, &tls.client_certificate, &tls.private_key];
        paths.into_iter().map(|path| if path.is_empty() { Ok(String::new()) } else { read(path) }).collect()
    }

    fn connect(&self, files: &[String]) -> Result<Inner, Failure> {
        let config = client_config(files).map_err(|error| Failure::new(Reason::Misconfigured, error))?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT));
        http.set_keepalive(Some(Duration::from_secs(30)));
        let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
        let name = self.tls.as_ref().map(|tls| tls.server_name.clone()).filter(|name| !name.is_empty());
        let connector = match name {
            Some(name) => {
                let name = ServerName::try_from(name).map_err(|error| {
                    Failure::new(Reason::Misconfigured, format!("tls.serverName: {error}"))
                })?;
                let resolver = hyper_rustls::FixedServerNameResolver::new(name);
                builder.with_server_name_resolver(resolver).enable_http1().wrap_connector(http)
            }
            None => builder.enable_http1().wrap_connector(http),
        };
        Ok(legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .build(connector))
    }
}

async fn collect(body: Incoming) -> Result<Bytes, Failure> {
    let body = Limited::new(body, LARGEST).collect().await;
    body.map(|body| body.to_bytes())
        .map_err(|error| Failure::new(Reason::Unavailable, format!("the answer broke off: {error}")))
}

/// A file's content, without the line end that editors add.
fn read(path: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|error| Failure::new(Reason::Misconfigured, format!("{path}: {error}")))
}

fn client_config(files: &[String]) -> Result<ClientConfig, String> {
    let [authorities, certificate, key] = files else { return Err("three files".to_owned()) };
    install_provider();
    let mut roots = RootCertStore::empty();
    if authorities.is_empty() {
        let native = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(native.certs);
    } else {
        for one in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
            let one = one.map_err(|error| format!("tls.caCertificates: {error}"))?;
            roots.add(one).map_err(|error| format!("tls.caCertificates: {error}"))?;
        }
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    if certificate.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
    let chain = chain.map_err(|error| format!("tls.clientCertificate: {error}"))?;
    let key =
        PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| format!("tls.privateKey: {error}"))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| format!("tls.clientCertificate: {error}"))
}

/// Makes aws-lc-rs the process's TLS provider; calling it again changes nothing.
fn install_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// An error with what caused it: the outer one alone says only "client error (Connect)".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
