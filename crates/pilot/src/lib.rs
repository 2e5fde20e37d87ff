//! What every proxy is told, as pure functions from a [`Snapshot`](lateen_model::Snapshot) to xDS resources; and
//! sidecar injection, a pure function on JSON.
//!
//! Proxies that see the same world form a [`Class`]. Planning turns a snapshot and a class into keys; a key holds shared
//! pointers to the very values its resource is made from, and generating sees nothing else, so equal keys give equal
//! bytes and the key is the whole cache key. The [`Engine`] keeps what each class holds, plans again only what a change
//! touches, and names the resources that came out different. Translation is a folder per feature: [`cluster`],
//! [`endpoint`], [`listener`], [`route`].
//!
//! **What a server must keep to**, so that no route names a cluster that the proxy has not got: in one push, send
//! additions in the order clusters, endpoints, listeners, routes, each once the one before is acknowledged; take away in
//! the opposite order, so a removed cluster goes only after the routes without it are acknowledged.

pub mod class;
pub mod cluster;
mod concern;
mod delegate;
mod dynamic;
mod encoded;
pub mod endpoint;
mod engine;
mod gateway;
mod group;
mod inbound;
mod index;
pub mod injection;
pub mod listener;
mod mutual_tls;
pub mod name_table;
mod node;
pub mod on_demand;
mod patch;
mod policy;
mod preference;
mod proto;
mod proxyless;
mod reclassify;
mod references;
pub mod route;
mod rules;
mod scope;
mod secrets;
mod shared;
mod unhandled;
mod view;
mod visibility;
mod world;

pub use class::{Class, Role};
pub use encoded::Encoded;
pub use engine::{Applied, ClassChange, Engine};
pub use gateway::{Inputs as GatewayInputs, Selected as SelectedGateway};
pub use inbound::{Families, InboundPort, MutualTls, Undeclared};
pub use node::{NodeError, ProxyNode};
pub use patch::SelectedFilter;
pub use preference::Place;
pub use reclassify::Reclassify;
pub use references::References;
pub use unhandled::unhandled;
pub use view::{Changed, View};
