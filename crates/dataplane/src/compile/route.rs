//! `envoy.config.route.v3.RouteConfiguration` to [`RouteTable`].

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::route::v3 as proto;
use lateen_envoy::envoy::config::route::v3::{redirect_action, route_action};
use lateen_envoy::envoy::r#type::matcher::v3 as matcher;

use super::access_log::metadata_matcher;
use super::checked::unpack;
use super::common::cookie;
use super::common::{
    duration, headers, leftover, limit, mutations, pattern, query, runtime_fraction, substitution,
};
use super::filters::{Overrides, overrides, rate_limits};
use super::local_reply::{body, body_format};
use super::retry::retry;
use super::template::{rewrite, template};
use super::values::metadata;
use super::{hash_policy, matcher_tree, metadata, on_demand, refusals};
use crate::balance::Criteria;
use crate::circuit::RoutePriority;
use crate::error::{Context, Result};
use crate::filters::Slot;
use crate::route::{
    Action, ClusterSpecifier, DirectResponse, Domains, Forward, GrpcTimeout, HostRewrite, InternalRedirects,
    Mirror, PathMatcher, PathRewrite, Redirect, RequireTls, RetryPolicy, Route, RouteMatch, RouteTable,
    StateMatcher, VirtualCluster, VirtualHost, WeightedCluster,
};

/// Envoy's default for a route without a timeout.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// The life of streams, and what gRPC clients may say about it.
fn stream_duration(
    context: &Context<'_>,
    action: &mut proto::RouteAction,
) -> Result<(Option<Duration>, GrpcTimeout)> {
    let offset = duration(&context.field("grpc_timeout_offset"), action.grpc_timeout_offset.take())?;
    let old = duration(&context.field("max_grpc_timeout"), action.max_grpc_timeout.take())?
        .map(|max| GrpcTimeout::Route { max, offset: offset.unwrap_or_default() });
    let Some(mut value) = action.max_stream_duration.take() else {
        return Ok((None, old.unwrap_or_default()));
    };
    let context = context.field("max_stream_duration");
    let length = duration(&context.field("max_stream_duration"), value.max_stream_duration.take())?;
    let offset =
        duration(&context.field("grpc_timeout_header_offset"), value.grpc_timeout_header_offset.take())?;
    let grpc = duration(&context.field("grpc_timeout_header_max"), value.grpc_timeout_header_max.take())?
        .map(|max| GrpcTimeout::Stream { max, offset: offset.unwrap_or_default() });
    leftover(&context, &value);
    Ok((length, grpc.unwrap_or_default()))
}

/// Defaults that routes take from their virtual host and table.
#[derive(Clone)]
struct Inherited {
    buffer_limit: Option<u64>,
    /// The longest body of a direct response.
    direct_body: usize,
    retry: Option<Arc<RetryPolicy>>,
    mirrors: Vec<Mirror>,
    overrides: Overrides,
}

/// Compiles a route configuration.
pub(crate) fn route_table(context: &Context<'_>, mut table: proto::RouteConfiguration) -> Result<RouteTable> {
    let direct_body = refusals::direct_body(&table);
    let on_demand = on_demand::virtual_hosts(context, table.vhds.take())?;
    let mut domains = Domains::default();
    let table_mutations = Arc::new(mutations!(context, table)?);
    let table_overrides = overrides(context, take(&mut table.typed_per_filter_config))?;
    let mirrors =
        mirrors(&context.field("request_mirror_policies"), take(&mut table.request_mirror_policies))?;
    let mut virtual_hosts = Vec::with_capacity(table.virtual_hosts.len());
    for (index, mut host) in take(&mut table.virtual_hosts).into_iter().enumerate() {
        let context = context.field("virtual_hosts").index(index);
        for (at, domain) in take(&mut host.domains).iter().enumerate() {
            if !domains.insert(domain, index) {
                return Err(context.field("domains").index(at).error(format!(
                    "the domain `{domain}` is already served by another virtual host; remove one"
                )));
            }
        }
        let inherited = Inherited {
            buffer_limit: None,
            direct_body,
            retry: None,
            mirrors: mirrors.clone(),
            overrides: table_overrides.clone(),
        };
        virtual_hosts.push(Arc::new(virtual_host(&context, host, inherited)?));
    }
    let compiled = RouteTable {
        name: take(&mut table.name).into(),
        virtual_hosts,
        domains,
        ignore_port: take(&mut table.ignore_port_in_host_matching),
        mutations: table_mutations,
        nearest_wins: take(&mut table.most_specific_header_mutations_wins),
        internal_only_headers: take(&mut table.internal_only_headers)
            .into_iter()
            .map(|name| name.to_ascii_lowercase().into_bytes().into())
            .collect(),
        validate_clusters: table.validate_clusters.take(),
        on_demand,
    };
    // It counted above.
    table.max_direct_response_body_size_bytes = None;
    table.metadata = None;
    leftover(context, &table);
    Ok(compiled)
}

fn virtual_host(
    context: &Context<'_>,
    mut host: proto::VirtualHost,
    mut inherited: Inherited,
) -> Result<VirtualHost> {
    inherited.overrides =
        inherited.overrides.nearer(overrides(context, take(&mut host.typed_per_filter_config))?);
    if let Some(policy) = host.retry_policy.take() {
        inherited.retry = Some(Arc::new(retry(&context.field("retry_policy"), policy)?));
    }
    inherited.buffer_limit =
        buffer_limit(host.request_body_buffer_limit.take(), host.per_request_buffer_limit_bytes.take(), None);
    let own = mirrors(&context.field("request_mirror_policies"), take(&mut host.request_mirror_policies))?;
    if !own.is_empty() {
        inherited.mirrors = own;
    }
    let mut routes = Vec::with_capacity(host.routes.len());
    for (index, each) in take(&mut host.routes).into_iter().enumerate() {
        routes.push(Arc::new(route(&context.field("routes").index(index), each, &inherited)?));
    }
    let tree = match host.matcher.take() {
        Some(matcher) => {
            let context = context.field("matcher");
            let one = |context: &Context<'_>, each| route(context, each, &inherited);
            Some(matcher_tree::tree(&context, matcher, &one)?)
        }
        None => None,
    };
    if tree.is_some() && !routes.is_empty() {
        return Err(context.field("matcher").error("this and routes exclude each other; keep one"));
    }
    let mutations = Arc::new(mutations!(context, host)?);
    let compiled = VirtualHost {
        name: take(&mut host.name).into(),
        routes,
        tree,
        metadata: super::common::metadata(host.metadata.take()),
        require_tls: match take(&mut host.require_tls) {
            0 => RequireTls::No,
            1 => RequireTls::External,
            _ => RequireTls::All,
        },
        include_attempt_count: take(&mut host.include_request_attempt_count),
        include_attempt_count_in_response: take(&mut host.include_attempt_count_in_response),
        mutations,
        rate_limits: rate_limits(&context.field("rate_limits"), take(&mut host.rate_limits))?,
        virtual_clusters: virtual_clusters(context, take(&mut host.virtual_clusters))?,
    };
    leftover(context, &host);
    Ok(compiled)
}

/// `virtual_clusters`, and after them the one that takes the rest.
fn virtual_clusters(
    context: &Context<'_>,
    values: Vec<proto::VirtualCluster>,
) -> Result<Vec<Arc<VirtualCluster>>> {
    let mut clusters = Vec::new();
    for (at, mut value) in values.into_iter().enumerate() {
        let context = context.field("virtual_clusters").index(at);
        if value.name.is_empty() {
            return Err(context.field("name").error("name the virtual cluster"));
        }
        if value.headers.is_empty() {
            return Err(context.field("headers").error("say which requests belong to it"));
        }
        let headers = headers(&context.field("headers"), take(&mut value.headers))?;
        let name = Some(take(&mut value.name).into());
        clusters.push(Arc::new(VirtualCluster { name, headers, slot: Slot::default() }));
        leftover(&context, &value);
    }
    if !clusters.is_empty() {
        let rest = VirtualCluster { name: None, headers: Vec::new(), slot: Slot::default() };
        clusters.push(Arc::new(rest));
    }
    Ok(clusters)
}

/// The newer field counts before the older one, and a nearer level before a farther one.
fn buffer_limit(newer: Option<u64>, older: Option<u32>, far: Option<u64>) -> Option<u64> {
    newer.or(older.map(u64::from)).or(far)
}

fn route(context: &Context<'_>, mut route: proto::Route, inherited: &Inherited) -> Result<Route> {
    let mut inherited = inherited.clone();
    inherited.buffer_limit = buffer_limit(
        route.request_body_buffer_limit.take(),
        route.per_request_buffer_limit_bytes.take(),
        inherited.buffer_limit,
    );
    let inherited = &inherited;
    let mut path_template = None;
    let condition =
        route.r#match.take().ok_or_else(|| context.error("a route needs a `match`, such as prefix: /"))?;
    let matcher = route_match(&context.field("match"), condition)?;
    // A template of the path tells its rewrite where the names are.
    if let (Some(proto::route::Action::Route(action)), PathMatcher::Regex(regex)) =
        (&mut route.action, &matcher.path)
        && let Some(policy) = action.path_rewrite_policy.take()
    {
        let text = rewrite(&context.field("route.path_rewrite_policy"), policy)?;
        path_template = Some(PathRewrite::Regex(regex.clone(), text));
    }
    let own = overrides(context, take(&mut route.typed_per_filter_config))?;
    let overrides = inherited.overrides.clone().nearer(own);
    let action = match route.action.take() {
        Some(proto::route::Action::Route(action)) => {
            let mut forward = forward(&context.field("route"), action, inherited, &overrides)?;
            forward.path = path_template.or(forward.path);
            Action::Forward(Box::new(forward))
        }
        Some(proto::route::Action::Redirect(action)) => {
            Action::Redirect(redirect(&context.field("redirect"), action)?)
        }
        Some(proto::route::Action::DirectResponse(action)) => {
            Action::Direct(direct(&context.field("direct_response"), action, inherited.direct_body)?)
        }
        Some(proto::route::Action::NonForwardingAction(_)) => Action::NonForwarding,
        Some(proto::route::Action::FilterAction(_)) => {
            return Err(context.field("filter_action").error("filter actions are not supported"));
        }
        None => return Err(context.error("a route needs an action: route, redirect or direct_response")),
    };
    let mutations = Arc::new(mutations!(context, route)?);
    let compiled = Route {
        name: take(&mut route.name).into(),
        matcher,
        action,
        mutations,
        metadata: Arc::new(route.metadata.take().map(metadata).unwrap_or_default()),
        filters: overrides.into_list(),
    };
    leftover(context, &route);
    Ok(compiled)
}

fn route_match(context: &Context<'_>, mut value: proto::RouteMatch) -> Result<RouteMatch> {
    use proto::route_match::PathSpecifier;
    let case_sensitive = value.case_sensitive.take().unwrap_or(true);
    let path = match value.path_specifier.take() {
        Some(PathSpecifier::Prefix(prefix)) => PathMatcher::Prefix(prefix.into_bytes().into()),
        Some(PathSpecifier::Path(path)) => PathMatcher::Exact(path.into_bytes().into()),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            if prefix.ends_with('/') || !prefix.starts_with('/') {
                return Err(context
                    .field("path_separated_prefix")
                    .error("it begins with a slash and does not end with one"));
            }
            PathMatcher::SeparatedPrefix(prefix.into_bytes().into())
        }
        Some(PathSpecifier::SafeRegex(regex)) => {
            PathMatcher::Regex(pattern(&context.field("safe_regex"), &regex.regex)?)
        }
        Some(PathSpecifier::ConnectMatcher(_)) => PathMatcher::Connect,
        Some(PathSpecifier::PathMatchPolicy(policy)) => {
            PathMatcher::Regex(template(&context.field("path_match_policy"), policy)?)
        }
        None => return Err(context.error("say how the path must look, such as prefix: /")),
    };
    let mut query_parameters = Vec::new();
    for (at, parameter) in take(&mut value.query_parameters).into_iter().enumerate() {
        query_parameters.push(query(&context.field("query_parameters").index(at), parameter)?);
    }
    let mut cookies = Vec::new();
    for (at, each) in take(&mut value.cookies).into_iter().enumerate() {
        cookies.push(cookie(&context.field("cookies").index(at), each)?);
    }
    let compiled = RouteMatch {
        path,
        case_sensitive,
        headers: headers(&context.field("headers"), take(&mut value.headers))?,
        query: query_parameters,
        cookies,
        grpc: value.grpc.take().is_some(),
        tls: value.tls_context.take().and_then(|tls| tls.presented),
        fraction: runtime_fraction(value.runtime_fraction.take()),
        metadata: take(&mut value.dynamic_metadata)
            .into_iter()
            .enumerate()
            .map(|(at, matcher)| metadata_matcher(&context.field("dynamic_metadata").index(at), matcher))
            .collect::<Result<_>>()?,
        filter_state: take(&mut value.filter_state)
            .into_iter()
            .enumerate()
            .map(|(at, matcher)| state_matcher(&context.field("filter_state").index(at), matcher))
            .collect::<Result<_>>()?,
    };
    leftover(context, &value);
    Ok(compiled)
}

fn state_matcher(context: &Context<'_>, value: matcher::FilterStateMatcher) -> Result<StateMatcher> {
    use matcher::filter_state_matcher::Matcher;
    match value.matcher {
        Some(Matcher::StringMatch(matcher)) => Ok(StateMatcher {
            key: value.key.into(),
            value: super::common::string(&context.field("string_match"), matcher)?,
        }),
        // A condition that is not understood must not be taken for one that holds.
        Some(Matcher::AddressMatch(_)) => Err(context
            .field("address_match")
            .error("this is not supported; values are text: write string_match")),
        None => Err(context.error("say what the value has to be: string_match")),
    }
}

fn forward(
    context: &Context<'_>,
    mut action: proto::RouteAction,
    inherited: &Inherited,
    overrides: &Overrides,
) -> Result<Forward> {
    refusals::action(context, &action)?;
    let own_match = metadata::metadata_match(action.metadata_match.take());
    let cluster = match action.cluster_specifier.take() {
        Some(route_action::ClusterSpecifier::Cluster(name)) => ClusterSpecifier::Named(name.into()),
        Some(route_action::ClusterSpecifier::ClusterHeader(name)) => {
            ClusterSpecifier::Header(name.to_ascii_lowercase().into_bytes().into())
        }
        Some(route_action::ClusterSpecifier::WeightedClusters(clusters)) => {
            weighted(&context.field("weighted_clusters"), clusters, overrides, own_match.as_ref())?
        }
        _ => return Err(context.error("say where to: cluster, weighted_clusters or cluster_header")),
    };
    let prefix_rewrite = take(&mut action.prefix_rewrite);
    let path = match action.regex_rewrite.take() {
        Some(rewrite) => {
            let (regex, text) = substitution(&context.field("regex_rewrite"), rewrite)?;
            Some(PathRewrite::Regex(regex, text))
        }
        None if prefix_rewrite.is_empty() => None,
        None => Some(PathRewrite::Prefix(prefix_rewrite.into_bytes().into())),
    };
    let host = match action.host_rewrite_specifier.take() {
        Some(route_action::HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            Some(HostRewrite::Literal(host.into_bytes().into()))
        }
        Some(route_action::HostRewriteSpecifier::AutoHostRewrite(on)) => on.then_some(HostRewrite::Automatic),
        Some(route_action::HostRewriteSpecifier::HostRewriteHeader(name)) => {
            Some(HostRewrite::Header(name.to_ascii_lowercase().into_bytes().into()))
        }
        Some(route_action::HostRewriteSpecifier::HostRewritePathRegex(rewrite)) => {
            let (regex, text) = substitution(&context.field("host_rewrite_path_regex"), rewrite)?;
            Some(HostRewrite::PathRegex(regex, text))
        }
        Some(_) => return Err(context.error("this kind of host rewrite is not supported")),
        None => None,
    };
    let retry = match action.retry_policy.take() {
        Some(policy) => Some(Arc::new(retry(&context.field("retry_policy"), policy)?)),
        None => inherited.retry.clone(),
    };
    let own_mirrors =
        mirrors(&context.field("request_mirror_policies"), take(&mut action.request_mirror_policies))?;
    // In Envoy, `timeout` has no effect beside `max_stream_duration`.
    let limits_stream = action.max_stream_duration.is_some();
    let timeout = limit(&context.field("timeout"), action.timeout.take(), Some(DEFAULT_TIMEOUT))?;
    let (max_stream_duration, grpc_timeout) = stream_duration(context, &mut action)?;
    let compiled = Forward {
        cluster,
        cluster_not_found: match take(&mut action.cluster_not_found_response_code) {
            1 => 404,
            2 => 500,
            _ => 503,
        },
        path,
        host,
        append_forwarded_host: take(&mut action.append_x_forwarded_host),
        timeout: timeout.filter(|_| !limits_stream),
        idle_timeout: duration(&context.field("idle_timeout"), action.idle_timeout.take())?,
        max_stream_duration,
        grpc_timeout,
        buffer_limit: inherited.buffer_limit,
        internal_redirects: action
            .internal_redirect_policy
            .take()
            .map(|policy| internal_redirects(&context.field("internal_redirect_policy"), policy))
            .transpose()?
            .map(Arc::new),
        retry,
        mirrors: if own_mirrors.is_empty() { inherited.mirrors.clone() } else { own_mirrors },
        hash: hash_policy::hashes(&context.field("hash_policy"), take(&mut action.hash_policy))?,
        priority: if take(&mut action.priority) == 1 { RoutePriority::High } else { RoutePriority::Default },
        metadata_match: own_match.map(Arc::new),
        rate_limits: rate_limits(&context.field("rate_limits"), take(&mut action.rate_limits))?,
        connect_terminated: super::upgrade::connect_terminated(context, &mut action),
        upgrades: super::upgrade::upgrades(context, &mut action),
    };
    leftover(context, &action);
    Ok(compiled)
}

fn internal_redirects(
    context: &Context<'_>,
    mut policy: proto::InternalRedirectPolicy,
) -> Result<InternalRedirects> {
    use lateen_envoy::envoy::extensions::internal_redirect as predicates;
    use predicates::allow_listed_routes::v3::AllowListedRoutesConfig;
    use predicates::previous_routes::v3::PreviousRoutesConfig;
    use predicates::safe_cross_scheme::v3::SafeCrossSchemeConfig;
    let mut compiled = InternalRedirects {
        max: policy.max_internal_redirects.take().unwrap_or(1),
        statuses: take(&mut policy.redirect_response_codes)
            .into_iter()
            .filter_map(|status| u16::try_from(status).ok())
            .filter(|status| matches!(status, 301 | 302 | 303 | 307 | 308))
            .collect(),
        cross_scheme: take(&mut policy.allow_cross_scheme_redirect),
        copy: take(&mut policy.response_headers_to_copy)
            .into_iter()
            .map(|name| name.to_ascii_lowercase().into_bytes().into())
            .collect(),
        ..InternalRedirects::default()
    };
    if compiled.statuses.is_empty() {
        compiled.statuses.push(302);
    }
    for (at, predicate) in take(&mut policy.predicates).into_iter().enumerate() {
        let context = context.field("predicates").index(at);
        let any = predicate.typed_config.unwrap_or_default();
        if any.type_url == PreviousRoutesConfig::TYPE_URL {
            compiled.no_route_twice = true;
        } else if any.type_url == SafeCrossSchemeConfig::TYPE_URL {
            compiled.safe_cross_scheme = true;
        } else if any.type_url == AllowListedRoutesConfig::TYPE_URL {
            let allowed: AllowListedRoutesConfig = unpack(&context, &any)?;
            compiled.allowed_routes = Some(allowed.allowed_route_names.into_iter().map(Into::into).collect());
        } else {
            // A predicate that is not understood must not be taken for one that agrees.
            return Err(context.error(format!("the predicate `{}` is not supported", any.type_url)));
        }
    }
    leftover(context, &policy);
    Ok(compiled)
}

fn weighted(
    context: &Context<'_>,
    mut value: proto::WeightedCluster,
    inherited: &Overrides,
    route_match: Option<&Criteria>,
) -> Result<ClusterSpecifier> {
    refusals::weighted(context, &value)?;
    let mut clusters = Vec::new();
    let mut total = 0u64;
    for (at, mut each) in take(&mut value.clusters).into_iter().enumerate() {
        let context = context.field("clusters").index(at);
        let weight = u64::from(each.weight.take().unwrap_or(0));
        total += weight;
        let mutations = mutations!(&context, each)?;
        let metadata_match = metadata::metadata_match(each.metadata_match.take())
            .map(|own| Arc::new(route_match.map_or_else(|| own.clone(), |base| own.over(base))));
        let host_rewrite = each.host_rewrite_specifier.take().map(|rewrite| match rewrite {
            proto::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host) => {
                host.into_bytes().into()
            }
        });
        let own = overrides(&context, take(&mut each.typed_per_filter_config))?;
        let filters = inherited.clone().nearer(own).into_list();
        clusters.push(WeightedCluster {
            name: take(&mut each.name).into(),
            header: (!each.cluster_header.is_empty())
                .then(|| take(&mut each.cluster_header).to_ascii_lowercase().into_bytes().into()),
            weight,
            mutations,
            host_rewrite,
            filters,
            metadata_match,
        });
        leftover(&context, &each);
    }
    if total == 0 {
        return Err(context.error("the weights add up to 0; give at least one cluster a weight"));
    }
    #[allow(deprecated)]
    {
        value.total_weight = None;
    }
    // Weights that the runtime has were put in place before.
    value.runtime_key_prefix.clear();
    let random_header = match value.random_value_specifier.take() {
        Some(proto::weighted_cluster::RandomValueSpecifier::HeaderName(name)) if !name.is_empty() => {
            Some(name.to_ascii_lowercase().into_bytes().into())
        }
        Some(proto::weighted_cluster::RandomValueSpecifier::UseHashPolicy(true)) => {
            context.field("use_hash_policy").warn("the choice is random; remove it");
            None
        }
        _ => None,
    };
    leftover(context, &value);
    Ok(ClusterSpecifier::Weighted { clusters, total, random_header })
}

fn mirrors(context: &Context<'_>, values: Vec<route_action::RequestMirrorPolicy>) -> Result<Vec<Mirror>> {
    let mut out = Vec::new();
    for (at, mut value) in values.into_iter().enumerate() {
        let context = context.index(at);
        let (cluster, header) = (take(&mut value.cluster), take(&mut value.cluster_header));
        if cluster.is_empty() && header.is_empty() {
            return Err(context.field("cluster").error("name the cluster that gets the copy"));
        }
        let host = take(&mut value.host_rewrite_literal);
        out.push(Mirror {
            cluster: cluster.into(),
            header: (!header.is_empty()).then(|| header.to_ascii_lowercase().into_bytes().into()),
            host: (!host.is_empty()).then(|| host.into_bytes().into()),
            fraction: runtime_fraction(value.runtime_fraction.take()).unwrap_or(crate::route::Fraction::ALL),
            shadow_suffix: !take(&mut value.disable_shadow_host_suffix_append),
        });
        leftover(&context, &value);
    }
    Ok(out)
}

fn redirect(context: &Context<'_>, mut action: proto::RedirectAction) -> Result<Redirect> {
    let scheme = match action.scheme_rewrite_specifier.take() {
        Some(redirect_action::SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        Some(redirect_action::SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.into()),
        _ => None,
    };
    let (path, rewrite) = match action.path_rewrite_specifier.take() {
        Some(redirect_action::PathRewriteSpecifier::PathRedirect(path)) => {
            (Some(path.into_bytes().into()), None)
        }
        Some(redirect_action::PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            (None, Some(PathRewrite::Prefix(prefix.into_bytes().into())))
        }
        Some(redirect_action::PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            let (regex, text) = substitution(&context.field("regex_rewrite"), rewrite)?;
            (None, Some(PathRewrite::Regex(regex, text)))
        }
        Some(_) => return Err(context.error("this kind of path rewrite is not supported")),
        None => (None, None),
    };
    let host = take(&mut action.host_redirect);
    let port = take(&mut action.port_redirect);
    let compiled = Redirect {
        scheme,
        host: (!host.is_empty()).then(|| host.into()),
        port: u16::try_from(port).ok().filter(|port| *port != 0),
        path,
        rewrite,
        status: match take(&mut action.response_code) {
            1 => 302,
            2 => 303,
            3 => 307,
            4 => 308,
            _ => 301,
        },
        strip_query: take(&mut action.strip_query),
    };
    leftover(context, &action);
    Ok(compiled)
}

fn direct(
    context: &Context<'_>,
    action: proto::DirectResponseAction,
    longest: usize,
) -> Result<DirectResponse> {
    let status =
        u16::try_from(action.status).ok().filter(|status| (200..600).contains(status)).ok_or_else(|| {
            context.field("status").error(format!("{} is not a final HTTP status", action.status))
        })?;
    let body = body(&context.field("body"), action.body)?.unwrap_or_default();
    refusals::direct_response(&context.field("body"), &body, longest)?;
    let format = action.body_format.map(|format| body_format(&context.field("body_format"), format));
    Ok(DirectResponse { status, body, format: format.transpose()? })
}
