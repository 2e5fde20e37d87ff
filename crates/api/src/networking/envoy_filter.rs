//! EnvoyFilter: patches to the generated configuration.

use std::collections::BTreeMap;

use crate::JsonObject;
use crate::meta::{resource, versions};
use crate::selection::{PolicyTargetReference, WorkloadSelector};

message! {
    /// Patches the generated proxy configuration. With care: it depends on what is generated.
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "(has(self.workloadSelector) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
        "message": "set either workloadSelector or targetRefs, not both",
    }]))]
    pub struct EnvoyFilter {
        /// Workloads; without it, all of the namespace.
        pub workload_selector: Option<WorkloadSelector>,
        /// Objects that it is attached to.
        #[schemars(length(max = 16))]
        pub target_refs: Vec<PolicyTargetReference>,
        /// Patches, applied in order.
        pub config_patches: Vec<EnvoyConfigObjectPatch>,
        /// Order among filters; negative ones come first.
        pub priority: i32,
    }

    /// A patch.
    pub struct EnvoyConfigObjectPatch {
        /// Which part of the configuration.
        pub apply_to: EnvoyFilterApplyTo,
        /// Which objects of that part.
        pub r#match: Option<EnvoyConfigObjectMatch>,
        /// What is changed.
        pub patch: Option<EnvoyFilterPatch>,
    }

    /// Which objects a patch is for.
    #[schemars(
        transform = crate::schema::one_of_patch_match,
        extend("x-kubernetes-validations" = [{
            "rule": "has(self.context) ? ((self.context == \"WAYPOINT\") ? has(self.waypoint) : !has(self.waypoint)) : !has(self.waypoint)",
            "message": "a waypoint match and context WAYPOINT go together",
        }])
    )]
    pub struct EnvoyConfigObjectMatch {
        /// Which kind of proxy or direction.
        pub context: PatchContext,
        /// Which proxies.
        pub proxy: Option<ProxyMatch>,
        /// Which listeners.
        pub listener: Option<ListenerMatch>,
        /// Which routes.
        pub route_configuration: Option<RouteConfigurationMatch>,
        /// Which clusters.
        pub cluster: Option<ClusterMatch>,
        /// Which parts of a waypoint.
        pub waypoint: Option<WaypointMatch>,
    }

    /// Which proxies.
    pub struct ProxyMatch {
        /// Regular expression on the proxy's version.
        pub proxy_version: String,
        /// Metadata that the proxy must have.
        pub metadata: BTreeMap<String, String>,
    }

    /// Which clusters.
    pub struct ClusterMatch {
        /// Port of the service.
        pub port_number: u32,
        /// Host of the service.
        pub service: String,
        /// Subset.
        pub subset: String,
        /// Whole name of the cluster.
        pub name: String,
    }

    /// Which routes.
    pub struct RouteConfigurationMatch {
        /// Port.
        pub port_number: u32,
        /// Name of a gateway's port.
        pub port_name: String,
        /// Gateway as `namespace/name`.
        pub gateway: String,
        /// Virtual host in it.
        pub vhost: Option<VirtualHostMatch>,
        /// Whole name of the route configuration.
        pub name: String,
    }

    /// Which virtual hosts.
    pub struct VirtualHostMatch {
        /// Name, `host:port`.
        pub name: String,
        /// One of its domains.
        pub domain_name: String,
        /// Route in it.
        pub route: Option<RouteMatch>,
    }

    /// Which routes of a virtual host.
    pub struct RouteMatch {
        /// Name of the route.
        pub name: String,
        /// What the route does.
        pub action: RouteMatchAction,
    }

    /// Which listeners.
    pub struct ListenerMatch {
        /// Port.
        pub port_number: u32,
        /// Not used.
        pub port_name: String,
        /// Filter chain in it.
        pub filter_chain: Option<FilterChainMatch>,
        /// Listener filter in it.
        pub listener_filter: String,
        /// Whole name of the listener.
        pub name: String,
    }

    /// Which filter chains.
    pub struct FilterChainMatch {
        /// Name.
        pub name: String,
        /// Server name that it is for.
        pub sni: String,
        /// Transport protocol that it is for, `raw_buffer` or `tls`.
        pub transport_protocol: String,
        /// Application protocols that it is for, comma-separated.
        pub application_protocols: String,
        /// Network filter in it.
        pub filter: Option<FilterMatch>,
        /// Destination port that it is for.
        pub destination_port: u32,
        /// Transport socket in it.
        pub transport_socket: String,
    }

    /// Which network filters.
    pub struct FilterMatch {
        /// Name.
        pub name: String,
        /// HTTP filter in it.
        pub sub_filter: Option<SubFilterMatch>,
    }

    /// Which HTTP filters.
    pub struct SubFilterMatch {
        /// Name.
        pub name: String,
    }

    /// Which parts of a waypoint.
    pub struct WaypointMatch {
        /// Port of the service.
        #[schemars(schema_with = "crate::schema::port")]
        pub port_number: u32,
        /// Filter in it.
        pub filter: Option<FilterMatch>,
        /// Route in it.
        pub route: Option<WaypointRouteMatch>,
    }

    /// Which routes of a waypoint.
    pub struct WaypointRouteMatch {
        /// Name.
        pub name: String,
    }

    /// What is changed.
    pub struct EnvoyFilterPatch {
        /// How.
        pub operation: PatchOperation,
        /// The configuration to merge or to put in, as Envoy's JSON.
        pub value: Option<JsonObject>,
        /// Where a filter goes among the others.
        pub filter_class: FilterClass,
    }
}

enumeration! {
    /// Which part of the configuration a patch is for.
    pub enum EnvoyFilterApplyTo {
        #[default]
        Invalid,
        Listener,
        FilterChain,
        NetworkFilter,
        HttpFilter,
        RouteConfiguration,
        VirtualHost,
        HttpRoute,
        Cluster,
        ExtensionConfig,
        Bootstrap,
        ListenerFilter,
    }

    /// Which kind of proxy or direction a patch is for.
    pub enum PatchContext { #[default] Any, SidecarInbound, SidecarOutbound, Gateway, Waypoint }

    /// What a route does.
    pub enum RouteMatchAction { #[default] Any, Route, Redirect, DirectResponse }

    /// How a patch changes what it matches.
    pub enum PatchOperation {
        #[default]
        Invalid,
        Merge,
        Add,
        Remove,
        InsertBefore,
        InsertAfter,
        InsertFirst,
        Replace,
        MergeAndReplaceList,
    }

    /// Where a filter goes: before authentication, authorization or statistics, or just where it is put.
    pub enum FilterClass { #[default] Unspecified, Authn, Authz, Stats }
}

resource!(
    EnvoyFilter, "networking.istio.io", versions!("v1alpha3"), "envoyfilters", "envoyfilter",
    short: [], category: "networking-istio-io", spec_required: false,
    columns: []
);
