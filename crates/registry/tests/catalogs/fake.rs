//! A platform of the tests: a real HTTP server that can be stopped, and started again on the same port, and that can
//! answer nonsense, slowly, or nobody without the right token. What it speaks is in the other modules.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;

use crate::speakers::EurekaCache;
use crate::tls::Tls;

/// How the server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Well,
    Nonsense,
    Slow,
    /// Says that it cannot answer now.
    Failing,
    /// Breaks off in the middle of an answer.
    BreakingOff,
    /// Wants to be left alone for a second.
    Limiting,
}

/// An instance of a service of the test's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub address: String,
    pub port: u16,
    pub version: String,
}

/// What the platform knows.
#[derive(Debug, Default)]
pub struct World {
    pub services: BTreeMap<String, Vec<Instance>>,
    /// Counts changes.
    pub index: u64,
    /// The count at the last change of each service.
    pub changed: BTreeMap<String, u64>,
    /// The count at the last change of the set of services.
    pub set_changed: u64,
    /// Instances that came (or changed) and went, in their order.
    pub recent: Vec<((String, Instance), bool)>,
}

/// The server.
pub struct Fake {
    pub world: Mutex<World>,
    pub index: watch::Sender<u64>,
    pub mode: watch::Sender<Mode>,
    pub token: Mutex<String>,
    /// Names of services that changed.
    pub events: broadcast::Sender<String>,
    pub requests: AtomicU64,
    /// How often each path was asked for.
    pub asked: Mutex<BTreeMap<String, u64>>,
    pub address: SocketAddr,
    /// None for a server without.
    pub tls: Option<Tls>,
    pub eureka: EurekaCache,
}

/// Whether a request shows the token.
pub type Check = fn(&HeaderMap, &str) -> bool;

pub fn instance(address: &str, port: u16, version: &str) -> Instance {
    Instance { address: address.into(), port, version: version.into() }
}

impl Fake {
    pub async fn new() -> (Arc<Self>, TcpListener) {
        Self::with(None).await
    }

    pub async fn with(tls: Option<Tls>) -> (Arc<Self>, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self {
            world: Mutex::new(World { index: 1, ..World::default() }),
            index: watch::Sender::new(1),
            mode: watch::Sender::new(Mode::Well),
            token: Mutex::new("secret".into()),
            events: broadcast::Sender::new(4096),
            requests: AtomicU64::new(0),
            asked: Mutex::default(),
            address: listener.local_addr().unwrap(),
            tls,
            eureka: EurekaCache::default(),
        };
        (Arc::new(fake), listener)
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// How often a path was asked for.
    pub fn asked(&self, path: &str) -> u64 {
        self.asked.lock().unwrap().get(path).copied().unwrap_or_default()
    }

    /// Changes one service; without instances it goes.
    pub fn put(&self, service: &str, instances: Vec<Instance>) {
        self.change(|world| {
            let earlier = world.services.get(service).cloned().unwrap_or_default();
            let of_service = |one: &Instance| (service.to_owned(), one.clone());
            let gone = earlier.iter().filter(|one| instances.iter().all(|new| new.address != one.address));
            world.recent.extend(gone.map(|one| (of_service(one), false)));
            let new = instances.iter().filter(|one| !earlier.contains(one));
            world.recent.extend(new.map(|one| (of_service(one), true)));
            let known = if instances.is_empty() {
                world.services.remove(service).is_some()
            } else {
                world.services.insert(service.into(), instances).is_none()
            };
            if known {
                world.set_changed = world.index;
            }
            world.changed.insert(service.into(), world.index);
        });
        let _ = self.events.send(service.into());
    }

    fn change(&self, change: impl FnOnce(&mut World)) {
        let mut world = self.world.lock().unwrap();
        world.index += 1;
        change(&mut world);
        self.index.send_replace(world.index);
    }

    /// Forgets everything, as a server without a disk does when it starts anew.
    pub fn begin_anew(&self) {
        let mut world = self.world.lock().unwrap();
        *world = World { index: 1, ..World::default() };
        self.index.send_replace(1);
    }

    /// Waits as blocking queries do: until the index of what is asked for is later, or the time is over.
    pub async fn block(&self, query: &BTreeMap<String, String>, index: impl Fn(&World) -> u64) -> u64 {
        let mut changes = self.index.subscribe();
        let asked: u64 = query.get("index").map_or(0, |index| index.parse().unwrap());
        let wait = query.get("wait").map_or(Duration::ZERO, |wait| {
            Duration::from_millis(wait.strip_suffix("ms").expect("a time in ms").parse().unwrap())
        });
        let later = async {
            loop {
                let now = index(&self.world.lock().unwrap());
                // Consul waits for an index that is above the one it was asked with, whatever its own is.
                if asked == 0 || now > asked {
                    return;
                }
                changes.changed().await.unwrap();
            }
        };
        let _ = tokio::time::timeout(wait, later).await;
        self.behave().await;
        index(&self.world.lock().unwrap())
    }

    /// Does not go on while the server is to be slow.
    pub async fn behave(&self) {
        let mut mode = self.mode.subscribe();
        let _ = mode.wait_for(|mode| *mode != Mode::Slow).await;
    }

    /// Serves until what is returned is dropped, all connections with it.
    pub fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        router: Router<Arc<Self>>,
        check: Check,
    ) -> JoinSet<()> {
        let state = (Arc::clone(self), check);
        let router = router.with_state(Arc::clone(self)).layer(from_fn_with_state(state, guard));
        let mut server = JoinSet::new();
        let acceptor = self.tls.as_ref().map(Tls::acceptor);
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (router, acceptor) = (router.clone(), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        None => speak(stream, router).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                speak(stream, router).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    /// Listens again where it did before.
    pub async fn listen_again(&self) -> TcpListener {
        let bind = || async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(self.address)?;
            socket.listen(64)
        };
        for _ in 0..200 {
            match bind().await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
            }
        }
        panic!("the port of the fake is taken");
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let service = hyper_util::service::TowerToHyperService::new(router);
    let stream = hyper_util::rt::TokioIo::new(stream);
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await;
}

async fn guard(
    State((fake, check)): State<(Arc<Fake>, Check)>,
    Query(_): Query<BTreeMap<String, String>>,
    request: Request,
    next: Next,
) -> Response {
    fake.requests.fetch_add(1, Ordering::SeqCst);
    *fake.asked.lock().unwrap().entry(request.uri().path().to_owned()).or_default() += 1;
    fake.behave().await;
    let token = fake.token.lock().unwrap().clone();
    if !check(request.headers(), &token) {
        return (StatusCode::FORBIDDEN, "Permission denied").into_response();
    }
    let answer = next.run(request).await;
    let mode = *fake.mode.borrow();
    match mode {
        Mode::Well | Mode::Slow => answer,
        Mode::Nonsense => (StatusCode::OK, "<html>it works</html>").into_response(),
        Mode::Failing => (StatusCode::INTERNAL_SERVER_ERROR, "No cluster leader").into_response(),
        Mode::BreakingOff => {
            let parts = [Ok("{"), Err(std::io::Error::other("gone"))];
            (answer.status(), Body::from_stream(futures::stream::iter(parts))).into_response()
        }
        Mode::Limiting => {
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")], "slow down").into_response()
        }
    }
}
