//! Discovery on demand: virtual hosts (VHDS) and clusters that are asked for by name when somebody calls for them.
//!
//! What was asked for once stays subscribed to, so that it is kept up to date, for as long as it is used. A name that the
//! control plane does not know stays subscribed to, too: it says so when that changes, and until then nobody waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_dataplane::ConfigError;
use lateen_dataplane::compile::compile_routes_in;
use lateen_dataplane::route::RouteTable;
use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use tokio::sync::mpsc;

use super::{ApplyError, Manager};
use crate::on_demand::{Call, Thing};
use crate::outside::Process;
use crate::refusals;
use crate::sources::Encoded;
use crate::state::ActiveListener;

/// What was asked for.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    /// Route tables that have virtual hosts on demand, as they came.
    tables: BTreeMap<String, Encoded<RouteConfiguration>>,
    /// Virtual hosts by table and name.
    hosts: BTreeMap<String, BTreeMap<String, Answer>>,
    /// Clusters that are not there: those who wait for an answer, and those who got one.
    clusters: BTreeMap<String, bool>,
}

/// What is known of a virtual host.
#[derive(Debug)]
enum Answer {
    /// Nothing yet.
    Awaited,
    /// There is none.
    Missing,
    /// It is this.
    There(Encoded<VirtualHost>),
}

/// The table in the name of a virtual host. Hosts have no slashes, names of tables may.
fn table_of(name: &str) -> Option<&str> {
    name.rsplit_once('/').map(|(table, _)| table)
}

fn thing(kind: &str, name: &str) -> Option<Thing> {
    match kind {
        VirtualHost::TYPE_URL => Some(Thing::VirtualHost(name.into())),
        Cluster::TYPE_URL => Some(Thing::Cluster(name.into())),
        _ => None,
    }
}

impl Demand {
    /// Names of virtual hosts of these tables.
    pub(super) fn virtual_hosts(&self, tables: &BTreeSet<String>) -> BTreeSet<String> {
        let of_tables = self.hosts.iter().filter(|(table, _)| tables.contains(*table));
        of_tables.flat_map(|(_, hosts)| hosts.keys().cloned()).collect()
    }

    /// Names of clusters.
    pub(super) fn clusters(&self) -> BTreeSet<String> {
        self.clusters.keys().cloned().collect()
    }

    /// A table as it came, without what was asked for since; nothing of tables without hosts on demand.
    pub(crate) fn table(&self, name: &str) -> Option<&Encoded<RouteConfiguration>> {
        self.tables.get(name)
    }

    /// A virtual host that is there.
    pub(crate) fn virtual_host(&self, name: &str) -> Option<&Encoded<VirtualHost>> {
        match self.hosts.get(table_of(name)?)?.get(name)? {
            Answer::There(host) => Some(host),
            _ => None,
        }
    }

    fn answer(&mut self, name: &str, answer: Answer) -> Option<Answer> {
        let table = table_of(name)?;
        self.hosts.entry(table.to_owned()).or_default().insert(name.to_owned(), answer)
    }
}

impl Manager {
    /// Listens for calls, where a listener may call for something.
    pub(super) fn listen_for_calls(&self, listener: &ActiveListener) {
        if !listener.config.calls_on_demand() {
            return;
        }
        let this = self.this();
        self.state.on_demand.open(|| {
            let (sender, mut calls) = mpsc::unbounded_channel();
            tokio::spawn(async move {
                let mut batch = Vec::new();
                while calls.recv_many(&mut batch, 1024).await > 0 {
                    let Some(manager) = this.upgrade() else { return };
                    manager.lock().called(batch.drain(..));
                }
            });
            sender
        });
    }

    /// Asks for what is called for; what is known already is answered at once.
    fn called(&mut self, calls: impl Iterator<Item = Call>) {
        let mut asks = false;
        for Call { thing, source } in calls {
            let known = match &thing {
                Thing::Cluster(name) => {
                    self.state.clusters.load().contains_key(name)
                        || self.demand.clusters.get(&**name) == Some(&true)
                }
                Thing::VirtualHost(name) => {
                    let hosts = table_of(name).and_then(|table| self.demand.hosts.get(table));
                    let answer = hosts.and_then(|hosts| hosts.get(&**name));
                    answer.is_some_and(|answer| !matches!(answer, Answer::Awaited))
                }
            };
            if known {
                let (Thing::Cluster(name) | Thing::VirtualHost(name)) = &thing;
                let kind = match &thing {
                    Thing::Cluster(_) => Cluster::TYPE_URL,
                    Thing::VirtualHost(_) => VirtualHost::TYPE_URL,
                };
                self.answered(kind, name);
                continue;
            }
            asks = true;
            match &thing {
                Thing::Cluster(name) => {
                    self.note_source(Cluster::TYPE_URL, name, &source);
                    self.demand.clusters.insert(name.to_string(), false);
                }
                Thing::VirtualHost(name) => {
                    self.note_source(VirtualHost::TYPE_URL, name, &source);
                    self.demand.answer(name, Answer::Awaited);
                }
            }
        }
        if asks {
            self.ask();
        }
    }

    /// What it is called for is there, or there is none: whoever waits goes on.
    pub(super) fn answered(&mut self, kind: &str, name: &str) {
        if kind == Cluster::TYPE_URL
            && let Some(answered) = self.demand.clusters.get_mut(name)
        {
            *answered = true;
        }
        let asked_and_missing = match kind {
            Cluster::TYPE_URL => {
                self.demand.clusters.contains_key(name) && !self.state.clusters.load().contains_key(name)
            }
            _ => self.demand.virtual_host(name).is_none(),
        };
        if let Some(thing) = thing(kind, name) {
            self.state.on_demand.answered(&thing, asked_and_missing);
        }
    }

    /// A resource does not exist, or was refused and nothing of its name serves.
    pub(crate) fn not_there(&mut self, kind: &str, name: &str) {
        if kind == VirtualHost::TYPE_URL {
            let was_there = self.demand.virtual_host(name).is_some();
            self.demand.answer(name, Answer::Missing);
            if was_there && let Err(error) = self.rebuild(name) {
                tracing::error!("{error}");
            }
        }
        self.answered(kind, name);
    }

    /// A resource was refused; what was there before serves on.
    pub(crate) fn refused(&mut self, kind: &str, name: &str) {
        let serves = match kind {
            VirtualHost::TYPE_URL => self.demand.virtual_host(name).is_some(),
            _ => true,
        };
        match serves {
            true => self.answered(kind, name),
            false => self.not_there(kind, name),
        }
    }

    /// Adds or replaces a virtual host of a table.
    pub fn apply_virtual_host(&mut self, name: &str, message: VirtualHost) -> Result<(), ApplyError> {
        if table_of(name).is_none() {
            return Err(ApplyError::Config(ConfigError {
                resource: format!("VirtualHost {name}"),
                path: "(name)".to_owned(),
                message: "the name is ROUTE-CONFIGURATION/HOST".to_owned(),
            }));
        }
        let before = self.demand.answer(name, Answer::There(Encoded::new(&message)));
        if let Err(error) = self.rebuild(name) {
            self.demand.answer(name, before.unwrap_or(Answer::Missing));
            return Err(error);
        }
        self.answered(VirtualHost::TYPE_URL, name);
        Ok(())
    }

    /// Compiles the table of a virtual host anew.
    fn rebuild(&mut self, host: &str) -> Result<(), ApplyError> {
        let Some(table) = table_of(host).and_then(|table| self.demand.tables.get(table)) else {
            return Ok(());
        };
        let message = table.decode();
        self.publish_routes(message)
    }

    /// Compiles a table, with the virtual hosts that were asked for, and publishes it.
    pub(super) fn publish_routes(&mut self, frame: RouteConfiguration) -> Result<(), ApplyError> {
        let name = frame.name.clone();
        let asked = frame.vhds.is_some().then(|| Encoded::new(&frame));
        let mut message = frame;
        if asked.is_some() {
            let hosts = self.demand.hosts.get(&name).into_iter().flatten();
            message.virtual_hosts.extend(hosts.filter_map(|(_, answer)| match answer {
                Answer::There(host) => Some(host.decode()),
                _ => None,
            }));
        }
        let mut source = Encoded::new(&message);
        if let Some(present) = self.sources.routes.get(&name) {
            source.origin = present.origin.clone();
        }
        let compiled = compile_routes_in(self.state.runtime.resolve(message), &Process)?;
        self.note(compiled.warnings);
        let table: Arc<RouteTable> = Arc::new(compiled.value);
        refusals::table_clusters(&table, &|name| self.sources.clusters.contains_key(name))?;
        self.sources.routes.insert(name.clone(), source);
        self.state.route_slot(&table.name).store(Some(table));
        match asked {
            Some(frame) => drop(self.demand.tables.insert(name, frame)),
            None => {
                self.demand.tables.remove(&name);
                if self.demand.hosts.remove(&name).is_some() {
                    self.state.on_demand.forget_table(&name);
                }
            }
        }
        Ok(())
    }

    /// Forgets the virtual hosts of tables that nobody wants any more.
    pub(crate) fn forget_tables(&mut self) {
        let wanted = self.wanted_routes();
        self.demand.tables.retain(|table, _| wanted.contains(table));
        let on_demand = &self.state.on_demand;
        self.demand.hosts.retain(|table, _| {
            let stays = wanted.contains(table);
            if !stays {
                on_demand.forget_table(table);
            }
            stays
        });
    }
}
