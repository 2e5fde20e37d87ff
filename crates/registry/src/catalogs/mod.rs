//! Catalogs: platforms that know services as names with instances, and files.
//!
//! An adapter writes a [`Source`](driver::Source): how it asks, what the answers mean ([`service::CatalogService`]), and
//! nothing else. The [driver](driver::Catalog) turns it into a platform: it tells the mesh what differs, keeps the last
//! known state while the source fails, and asks again with growing pauses.

pub mod blocking;
mod cloud_foundry;
mod consul;
pub mod driver;
mod eureka;
mod files;
mod flag;
pub mod http;
mod marathon;
mod nomad;
pub mod service;
pub(crate) mod wanted;

use lateen_api::registries::{RegistryConfig, RegistryProvider};

use self::driver::{Catalog, Pace};
use crate::Platform;

pub use self::flag::{FlagError, parse_flag};

/// The platform that a configuration, which was found valid, asks for; none for one without a provider.
pub fn platform(config: &RegistryConfig, pace: Pace) -> Option<Box<dyn Platform>> {
    let name = config.platform_name();
    Some(match config.provider {
        RegistryProvider::Unspecified => return None,
        RegistryProvider::Consul => Box::new(Catalog::new(name, consul::source(config), pace)),
        RegistryProvider::Eureka => Box::new(Catalog::new(name, eureka::Eureka::new(config), pace)),
        RegistryProvider::Nomad => Box::new(Catalog::new(name, nomad::source(config), pace)),
        RegistryProvider::Marathon => Box::new(Catalog::new(name, marathon::Marathon::new(config), pace)),
        RegistryProvider::CloudFoundry => {
            Box::new(Catalog::new(name, cloud_foundry::CloudFoundry::new(config), pace))
        }
        RegistryProvider::Files => Box::new(Catalog::new(name, files::Files::new(config), pace)),
    })
}
