//! Interfaces, addresses and routes, by netlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use futures::TryStreamExt;
use netlink_packet_route::link::{InfoData, InfoVeth};
use netlink_packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{NetworkConfiguration, sysctl};

/// The Pod's end of its pair.
const POD_INTERFACE: &str = "eth0";

/// The network could not be set up as it should.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct NetworkError {
    step: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

fn failed<E>(step: impl Into<String>) -> impl FnOnce(E) -> NetworkError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    |source| NetworkError { step: step.into(), source: source.into() }
}

/// The node's network namespace, set up. Belongs to the namespace of the thread that called [`Network::set_up`].
#[derive(Debug, Clone)]
pub struct Network {
    configuration: NetworkConfiguration,
    handle: Handle,
    loopback: u32,
}

impl Network {
    /// Sets up the namespace of this process: `lo`, addresses, forwarding. May be called again.
    pub async fn set_up(configuration: NetworkConfiguration) -> Result<Self, NetworkError> {
        for (name, value) in sysctl::NODE {
            sysctl::set(name, value).map_err(failed("settings of the node's network namespace"))?;
        }
        let handle = connect().map_err(failed("netlink socket"))?;
        let loopback = bring_up(&handle, "lo").await?;
        for address in configuration.node_addresses() {
            add_address(&handle, loopback, address).await?;
        }
        let network = configuration.service_network;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(network.network(), network.prefix_len())
            .output_interface(loopback)
            .pref_source(configuration.node_address)
            .scope(RouteScope::Link)
            .build();
        add_route(&handle, route, &format!("route of {network}")).await?;
        Ok(Self { configuration, handle, loopback })
    }

    /// What this was set up from.
    pub fn configuration(&self) -> &NetworkConfiguration {
        &self.configuration
    }

    /// Connects the network namespace of a Pod (a descriptor of `/proc/PID/ns/net`) and gives it `address`. Whatever
    /// had that address before is disconnected.
    pub async fn attach(&self, address: Ipv4Addr, namespace: OwnedFd) -> Result<(), NetworkError> {
        self.detach(address).await?;
        let name = interface_name(address);
        let step = |what: &str| format!("{what} of Pod {address}");
        self.add_pair(&name, address, namespace.as_fd()).await.map_err(failed(step("veth pair")))?;
        let index = find(&self.handle, &name).await?;
        add_neighbour(&self.handle, index, address, pod_mac(address)).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .output_interface(index)
            .pref_source(self.configuration.node_address)
            .scope(RouteScope::Link)
            .build();
        add_route(&self.handle, route, &step("route")).await?;
        let next_hop = self.configuration.next_hop;
        inside(namespace, move || set_up_pod(address, next_hop)).await.map_err(failed(step("namespace")))?
    }

    /// Removes a Pod's pair where it exists: its network ends at once, both ends go.
    pub async fn detach(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        let name = interface_name(address);
        let Ok(index) = find(&self.handle, &name).await else { return Ok(()) };
        match self.handle.link().del(index).execute().await {
            // With its namespace the other end has ended, and this one with it.
            Err(rtnetlink::Error::NetlinkError(error)) if gone(&error.to_io()) => Ok(()),
            other => other.map_err(failed(format!("removal of interface {name}"))),
        }
    }

    /// The number of the loopback interface.
    pub fn loopback(&self) -> u32 {
        self.loopback
    }

    async fn add_pair(
        &self,
        name: &str,
        address: Ipv4Addr,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), rtnetlink::Error> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(POD_INTERFACE)
            .address(pod_mac(address).to_vec())
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        let link = LinkVeth::new(name, POD_INTERFACE)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(node_mac(address).to_vec())
            .up()
            .build();
        self.handle.link().add(link).execute().await
    }
}

/// Runs inside the Pod's namespace.
async fn set_up_pod(address: Ipv4Addr, next_hop: Ipv4Addr) -> Result<(), NetworkError> {
    let handle = connect().map_err(failed("netlink socket"))?;
    bring_up(&handle, "lo").await?;
    let index = bring_up(&handle, POD_INTERFACE).await?;
    add_address(&handle, index, address.into()).await?;
    add_neighbour(&handle, index, next_hop, node_mac(address)).await?;
    let direct = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(next_hop, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    add_route(&handle, direct, "route of the next hop").await?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(next_hop)
        .output_interface(index)
        .pref_source(address)
        .build();
    add_route(&handle, default, "default route").await
}

/// Runs `work` on a thread of its own that has entered `namespace`: a thread cannot be trusted to come back.
async fn inside<F, R, T>(namespace: OwnedFd, work: F) -> io::Result<T>
where
    F: FnOnce() -> R + Send + 'static,
    R: Future<Output = T>,
    T: Send + 'static,
{
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("pod-network".to_owned()).spawn(move || {
        let result = nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)
            .map_err(io::Error::from)
            .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build())
            .map(|runtime| runtime.block_on(work()));
        let _ = sender.send(result);
    })?;
    receiver.await.map_err(|_| io::Error::other("the thread that sets up the Pod's network ended early"))?
}

/// A netlink connection in the namespace of this thread; the runtime drives it.
fn connect() -> io::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn find(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    let found = handle.link().get().match_name(name).execute().try_next().await;
    match found.map_err(failed(format!("interface {name}")))? {
        Some(link) => Ok(link.header.index),
        None => Err(failed(format!("interface {name}"))("there is none")),
    }
}

async fn bring_up(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    let index = find(handle, name).await?;
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await.map_err(failed(format!("bringing interface {name} up")))?;
    Ok(index)
}

async fn add_address(handle: &Handle, index: u32, address: IpAddr) -> Result<(), NetworkError> {
    let length = if address.is_ipv4() { 32 } else { 128 };
    let request = handle.address().add(index, address, length).replace();
    request.execute().await.map_err(failed(format!("address {address}")))
}

async fn add_route(handle: &Handle, route: RouteMessage, step: &str) -> Result<(), NetworkError> {
    handle.route().add(route).replace().execute().await.map_err(failed(step))
}

async fn add_neighbour(
    handle: &Handle,
    index: u32,
    address: Ipv4Addr,
    mac: [u8; 6],
) -> Result<(), NetworkError> {
    let request = handle.neighbours().add(index, address.into()).link_layer_address(&mac).replace();
    request.execute().await.map_err(failed(format!("neighbour {address}")))
}

/// The node's end of a Pod's pair is named after the Pod's address.
fn interface_name(address: Ipv4Addr) -> String {
    format!("pod{:08x}", u32::from(address))
}

/// Locally administered, and unique as the address is.
fn pod_mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x50, a, b, c, d]
}

fn node_mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x4e, a, b, c, d]
}

fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::ENODEV | nix::libc::ENOENT))
}
