//! Ports on the host, carried to endpoints in the node's namespace.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_netfilter::Protocol;
use rand::seq::SliceRandom;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{HostListeners, Service, Wanted};

/// How long one endpoint may take to accept. It is one veth away.
const CONNECT: Duration = Duration::from_secs(1);

/// How long a connection waits for an endpoint, as when a Pod is being replaced.
const PATIENCE: Duration = Duration::from_secs(4);

/// Between two looks at the endpoints.
const PAUSE: Duration = Duration::from_millis(50);

/// Between two attempts to listen on a port that somebody else has.
const BIND_AGAIN: Duration = Duration::from_secs(2);

/// Per direction and connection.
const BUFFER: usize = 64 * 1024;

type Endpoints = watch::Receiver<Vec<SocketAddr>>;

struct NodePort {
    endpoints: watch::Sender<Vec<SocketAddr>>,
    task: JoinHandle<()>,
}

impl Drop for NodePort {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens and closes node ports as Services come and go.
pub(super) async fn keep_in_step(
    host: Arc<dyn HostListeners>,
    address: IpAddr,
    mut wanted: watch::Receiver<Wanted>,
) {
    let mut open: BTreeMap<u16, NodePort> = BTreeMap::new();
    loop {
        let ports = ports(&wanted.borrow_and_update().services);
        open.retain(|port, _| ports.contains_key(port));
        for (port, (name, endpoints)) in ports {
            if let Some(there) = open.get(&port) {
                there.endpoints.send_if_modified(|held| {
                    let changed = *held != endpoints;
                    *held = endpoints;
                    changed
                });
                continue;
            }
            let (sender, receiver) = watch::channel(endpoints);
            let task = tokio::spawn(listen(host.clone(), SocketAddr::new(address, port), name, receiver));
            open.insert(port, NodePort { endpoints: sender, task });
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// Node ports with the Service's name and endpoints.
fn ports(services: &[Service]) -> BTreeMap<u16, (String, Vec<SocketAddr>)> {
    let mut ports = BTreeMap::new();
    for service in services {
        for port in service.ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
            if let Some(node_port) = port.node_port {
                ports.insert(node_port, (service.name.clone(), port.endpoints.clone()));
            }
        }
    }
    ports
}

async fn listen(host: Arc<dyn HostListeners>, address: SocketAddr, name: String, endpoints: Endpoints) {
    let mut complained = false;
    let listener = loop {
        let host = host.clone();
        let bound = tokio::task::spawn_blocking(move || host.bind(address)).await;
        match bound.map_err(io::Error::other).and_then(|bound| bound).and_then(into_listener) {
            Ok(listener) => break listener,
            Err(error) => {
                if !complained {
                    tracing::warn!(service = name, %error, "node port {address} cannot be opened; trying again");
                    complained = true;
                }
                tokio::time::sleep(BIND_AGAIN).await;
            }
        }
    };
    tracing::info!(service = name, "node port {address} is open");
    loop {
        match listener.accept().await {
            // A task of its own: it outlives the port.
            Ok((client, _)) => {
                tokio::spawn(carry(client, endpoints.clone()));
            }
            Err(error) => {
                tracing::warn!(service = name, %error, "node port {address}: accepting a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn into_listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Carries one connection to its end.
async fn carry(mut client: TcpStream, endpoints: Endpoints) {
    let mut server = match connect(&endpoints).await {
        Ok(server) => server,
        Err(error) => {
            tracing::debug!(%error, "a connection to a node port finds no endpoint");
            // Refused as late as it is, the client should see an error and not an empty answer.
            let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
            return;
        }
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    // An end of one direction is passed on and the other goes on.
    if let Err(error) =
        tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await
    {
        tracing::trace!(%error, "a connection through a node port broke");
        // Broken on one side, broken on the other: never a seemingly orderly end.
        let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
        let _ = socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO));
    }
}

/// A connection to one of the endpoints, in random order; all of them again, as they then are, until patience ends.
async fn connect(endpoints: &Endpoints) -> io::Result<TcpStream> {
    let start = Instant::now();
    let mut last = io::Error::other("no endpoint is ready");
    loop {
        let mut order = endpoints.borrow().clone();
        order.shuffle(&mut rand::rng());
        for endpoint in order {
            match timeout(CONNECT, TcpStream::connect(endpoint)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = io::Error::new(error.kind(), format!("{endpoint}: {error}")),
                Err(_) => {
                    last = io::Error::new(io::ErrorKind::TimedOut, format!("{endpoint} does not answer"))
                }
            }
        }
        if start.elapsed() > PATIENCE {
            return Err(last);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Port;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Binds any port and tells which; one at a time.
    struct AnyPort(std::sync::mpsc::Sender<SocketAddr>);

    impl HostListeners for AnyPort {
        fn bind(&self, address: SocketAddr) -> io::Result<std::net::TcpListener> {
            let listener = std::net::TcpListener::bind((address.ip(), 0))?;
            self.0.send(listener.local_addr()?).map_err(io::Error::other)?;
            Ok(listener)
        }
    }

    struct World {
        wanted: watch::Sender<Wanted>,
        bound: std::sync::mpsc::Receiver<SocketAddr>,
    }

    fn world() -> World {
        let (wanted, receiver) = watch::channel(Wanted::default());
        let (sender, bound) = std::sync::mpsc::channel();
        tokio::spawn(keep_in_step(Arc::new(AnyPort(sender)), IpAddr::from([127, 0, 0, 1]), receiver));
        World { wanted, bound }
    }

    impl World {
        fn set(&self, endpoints: &[SocketAddr]) {
            let port = Port {
                protocol: Protocol::Tcp,
                port: 80,
                node_port: Some(30_080),
                endpoints: endpoints.to_vec(),
            };
            let service = Service { name: "n/s".into(), cluster_addresses: vec![], ports: vec![port] };
            self.wanted.send_replace(Wanted { update: 0, services: Arc::new(vec![service]) });
        }

        async fn address(self) -> (SocketAddr, Self) {
            tokio::task::spawn_blocking(move || {
                (self.bound.recv_timeout(Duration::from_secs(5)).unwrap(), self)
            })
            .await
            .unwrap()
        }
    }

    /// Answers `name:` and what was sent, after the client has finished sending.
    async fn server(name: &'static str) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut text = String::new();
                    stream.read_to_string(&mut text).await.unwrap();
                    stream.write_all(format!("{name}:{text}").as_bytes()).await.unwrap();
                });
            }
        });
        (address, task)
    }

    async fn finish(mut stream: TcpStream) -> String {
        stream.write_all(b"question").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn connections_are_carried_with_half_closes() {
        let (one, _task) = server("one").await;
        let world = world();
        world.set(&[one]);
        let (address, _world) = world.address().await;
        assert_eq!(finish(TcpStream::connect(address).await.unwrap()).await, "one:question");
    }

    #[tokio::test]
    async fn an_endpoint_that_left_keeps_its_connections_and_gets_no_new_ones() {
        let (one, _one) = server("one").await;
        let (two, _two) = server("two").await;
        let world = world();
        world.set(&[one]);
        let (address, world) = world.address().await;
        let mut early = TcpStream::connect(address).await.unwrap();
        early.write_all(b"early ").await.unwrap();
        // Its own connection to `one` is made once a later one has been answered.
        assert_eq!(finish(TcpStream::connect(address).await.unwrap()).await, "one:question");
        world.set(&[two]);
        loop {
            if finish(TcpStream::connect(address).await.unwrap()).await == "two:question" {
                break;
            }
        }
        assert_eq!(finish(early).await, "one:early question");
    }

    #[tokio::test]
    async fn a_dead_endpoint_is_passed_over_and_a_missing_one_waited_for() {
        let dead = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let (one, _task) = server("one").await;
        let world = world();
        world.set(&[dead, one]);
        let (address, world) = world.address().await;
        for _ in 0..16 {
            assert_eq!(finish(TcpStream::connect(address).await.unwrap()).await, "one:question");
        }
        world.set(&[]);
        let waiting = tokio::spawn(async move { finish(TcpStream::connect(address).await.unwrap()).await });
        world.set(&[one]);
        assert_eq!(waiting.await.unwrap(), "one:question");
    }

    #[tokio::test]
    async fn a_port_is_closed_with_its_service() {
        let (one, _task) = server("one").await;
        let world = world();
        world.set(&[one]);
        let (address, world) = world.address().await;
        let open = TcpStream::connect(address).await.unwrap();
        assert_eq!(finish(open).await, "one:question");
        world.wanted.send_replace(Wanted::default());
        let closed = async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(5), closed).await.unwrap();
    }
}
