//! Channels to services of the control plane, through the transport that their cluster is configured with.

use std::sync::Arc;

use lateen_dataplane::cluster::Host;
use lateen_dataplane::listener::Address;
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::Channel;

use crate::manager::Manager;
use crate::tls::Transport;

/// A channel to a cluster of the bootstrap. It goes to the cluster's first host.
pub fn to_cluster(manager: &Manager, name: &str) -> Result<Channel, String> {
    let source = manager
        .sources
        .clusters
        .get(name)
        .ok_or_else(|| format!("the cluster `{name}` is not among static_resources.clusters"))?;
    let compiled =
        lateen_dataplane::compile::compile_cluster(source.decode()).map_err(|error| error.to_string())?;
    let (config, assignment) = compiled.value;
    let endpoint = assignment
        .and_then(|assignment| assignment.endpoints.into_iter().next())
        .ok_or_else(|| format!("the cluster `{name}` has no endpoint"))?;
    let handle = manager.state().make_cluster(config).map_err(|error| error.to_string())?;
    let place = handle.config.transport.index(&endpoint);
    let host = Host::new(endpoint.address, &endpoint.hostname).through(place);
    match (&handle.transports[place], &host.address) {
        (Transport::Plain, Address::Pipe(path)) => Ok(lateen_xds::transport::unix_channel(path)),
        (Transport::Plain, Address::Socket(..) | Address::Name(..)) => {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", host.address))
                .map_err(|error| error.to_string())?;
            Ok(lateen_xds::transport::keep_alive(endpoint).connect_lazy())
        }
        (Transport::Tls(context), Address::Pipe(_) | Address::Socket(..) | Address::Name(..)) => {
            let (context, host) = (Arc::clone(context), Arc::new(host));
            Ok(lateen_xds::transport::channel_through(move || {
                let (context, host) = (Arc::clone(&context), Arc::clone(&host));
                async move {
                    match &host.address {
                        Address::Pipe(path) => {
                            let stream = UnixStream::connect(path).await?;
                            Ok(Box::new(context.dial(stream, &host).await?)
                                as Box<dyn lateen_xds::transport::Io>)
                        }
                        address => {
                            let stream = TcpStream::connect(address.to_string()).await?;
                            Ok(Box::new(context.dial(stream, &host).await?)
                                as Box<dyn lateen_xds::transport::Io>)
                        }
                    }
                }
            }))
        }
        _ => Err(format!(
            "the cluster `{name}` cannot be reached for discovery: its address or transport is of another kind"
        )),
    }
}
