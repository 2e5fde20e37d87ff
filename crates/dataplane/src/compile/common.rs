//! What several kinds of resources have in common.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::config::route::v3 as route;
use lateen_envoy::envoy::r#type::matcher::v3 as matcher;
use lateen_envoy::envoy::r#type::v3 as types;
use lateen_envoy::google::protobuf;
use lateen_envoy::{TypeUrl, prost::Message};
use regex::bytes::Regex;

use crate::error::{Context, Result};
use crate::matcher::{CookieMatcher, HeaderMatcher, HeaderRule, QueryMatcher, StringMatcher, StringPattern};
use crate::metadata::{Metadata, Struct, Value};
use crate::route::{AppendAction, Fraction, HeaderMutations, HeaderValue};

/// Reports what is still set in a message from which everything that is obeyed was taken out.
pub(crate) fn leftover<M: Message + TypeUrl + Default + PartialEq>(context: &Context<'_>, message: &M) {
    if *message == M::default() {
        return;
    }
    lateen_envoy::fields::walk_set_fields(message, &mut |field| {
        context.field(&field.path).warn("this field is not supported and has no effect; remove it");
        lateen_envoy::fields::Descend::Skip
    });
}

pub(crate) fn duration(context: &Context<'_>, value: Option<protobuf::Duration>) -> Result<Option<Duration>> {
    value.map(|value| Duration::try_from(value).map_err(|error| context.error(error))).transpose()
}

/// A duration where zero means "none", and where absence means `default`.
pub(crate) fn limit(
    context: &Context<'_>,
    value: Option<protobuf::Duration>,
    default: Option<Duration>,
) -> Result<Option<Duration>> {
    Ok(match duration(context, value)? {
        None => default,
        Some(Duration::ZERO) => None,
        some => some,
    })
}

/// What is in a `DataSource`, wherever it is.
pub(crate) fn data(context: &Context<'_>, source: core::DataSource) -> Result<Bytes> {
    use core::data_source::Specifier;
    match source.specifier {
        Some(Specifier::InlineString(text)) => Ok(text.into()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        Some(Specifier::Filename(path)) => {
            context.outside().file(&path).map_err(|error| context.field("filename").error(error))
        }
        Some(Specifier::EnvironmentVariable(name)) => match context.outside().variable(&name) {
            Some(value) => Ok(value.into()),
            None => Err(context.field("environment_variable").error(format!("`{name}` is not set"))),
        },
        None => Ok(Bytes::new()),
    }
}

/// The same, as text.
pub(crate) fn data_text(context: &Context<'_>, source: core::DataSource) -> Result<String> {
    let bytes = data(context, source)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| context.error("this is not UTF-8"))
}

pub(crate) fn pattern(context: &Context<'_>, regex: &str) -> Result<Regex> {
    // Envoy matches the whole text.
    Regex::new(&format!("^(?:{regex})$")).map_err(|error| {
        context.error(format!("`{regex}` is not a regular expression (RE2 syntax): {error}"))
    })
}

/// A substitution: RE2's `\1` becomes `${1}`.
pub(crate) fn substitution(
    context: &Context<'_>,
    rewrite: matcher::RegexMatchAndSubstitute,
) -> Result<(Regex, Box<[u8]>)> {
    let regex = rewrite.pattern.map(|pattern| pattern.regex).unwrap_or_default();
    let compiled = Regex::new(&regex).map_err(|error| {
        context.field("pattern").error(format!("`{regex}` is not a regular expression (RE2 syntax): {error}"))
    })?;
    let mut out = String::new();
    let mut groups = 0;
    let mut rest = rewrite.substitution.chars();
    while let Some(character) = rest.next() {
        match character {
            '$' => out.push_str("$$"),
            '\\' => match rest.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    groups = groups.max(digit as usize - '0' as usize);
                    out.push_str(&format!("${{{digit}}}"));
                }
                Some('\\') => out.push('\\'),
                // RE2 stops where it does not understand a text; what comes before it counts.
                _ => {
                    context
                        .field("substitution")
                        .warn("after a backslash comes a digit or a backslash; what follows has no effect");
                    break;
                }
            },
            other => out.push(other),
        }
    }
    if groups >= compiled.captures_len() {
        // RE2 then leaves the text as it is.
        context.field("substitution").warn(format!("the pattern has no group {groups}: nothing is replaced"));
        return Ok((compiled, b"${0}".to_vec().into()));
    }
    Ok((compiled, out.into_bytes().into()))
}

pub(crate) fn string(context: &Context<'_>, value: matcher::StringMatcher) -> Result<StringMatcher> {
    use matcher::string_matcher::MatchPattern as Proto;
    let bytes = |text: String| -> Box<[u8]> {
        if value.ignore_case {
            text.to_ascii_lowercase().into_bytes().into()
        } else {
            text.into_bytes().into()
        }
    };
    let mut ignore_case = value.ignore_case;
    let pattern = match value.match_pattern {
        Some(Proto::Exact(text)) => StringPattern::Exact(bytes(text)),
        Some(Proto::Prefix(text)) => StringPattern::Prefix(bytes(text)),
        Some(Proto::Suffix(text)) => StringPattern::Suffix(bytes(text)),
        Some(Proto::Contains(text)) => StringPattern::Contains(bytes(text)),
        Some(Proto::SafeRegex(regex)) => {
            ignore_case = false;
            StringPattern::Regex(pattern(&context.field("safe_regex"), &regex.regex)?)
        }
        Some(Proto::Custom(_)) => {
            return Err(context.field("custom").error("custom string matchers are not supported"));
        }
        None => return Err(context.error("say what to match: exact, prefix, suffix, contains or safe_regex")),
    };
    Ok(StringMatcher { pattern, ignore_case })
}

pub(crate) fn header(context: &Context<'_>, value: route::HeaderMatcher) -> Result<HeaderMatcher> {
    use route::header_matcher::HeaderMatchSpecifier as Proto;
    if value.name.is_empty() {
        return Err(context.field("name").error("name the header"));
    }
    let plain = |pattern| HeaderRule::Value(StringMatcher { pattern, ignore_case: false });
    let rule = match value.header_match_specifier {
        None => HeaderRule::Present(true),
        Some(Proto::PresentMatch(present)) => HeaderRule::Present(present),
        Some(Proto::ExactMatch(text)) => plain(StringPattern::Exact(text.into_bytes().into())),
        Some(Proto::PrefixMatch(text)) => plain(StringPattern::Prefix(text.into_bytes().into())),
        Some(Proto::SuffixMatch(text)) => plain(StringPattern::Suffix(text.into_bytes().into())),
        Some(Proto::ContainsMatch(text)) => plain(StringPattern::Contains(text.into_bytes().into())),
        Some(Proto::SafeRegexMatch(regex)) => {
            plain(StringPattern::Regex(pattern(&context.field("safe_regex_match"), &regex.regex)?))
        }
        Some(Proto::StringMatch(matcher)) => {
            HeaderRule::Value(string(&context.field("string_match"), matcher)?)
        }
        Some(Proto::RangeMatch(range)) => HeaderRule::Range(range.start, range.end),
    };
    Ok(HeaderMatcher {
        name: value.name.to_ascii_lowercase().into_bytes().into(),
        rule,
        invert: value.invert_match,
        missing_as_empty: value.treat_missing_header_as_empty,
    })
}

pub(crate) fn headers(
    context: &Context<'_>,
    values: Vec<route::HeaderMatcher>,
) -> Result<Vec<HeaderMatcher>> {
    values.into_iter().enumerate().map(|(at, value)| header(&context.index(at), value)).collect()
}

pub(crate) fn query(context: &Context<'_>, value: route::QueryParameterMatcher) -> Result<QueryMatcher> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as Proto;
    let (matcher, absent) = match value.query_parameter_match_specifier {
        Some(Proto::StringMatch(matcher)) => (Some(string(&context.field("string_match"), matcher)?), false),
        Some(Proto::PresentMatch(present)) => (None, !present),
        None => (None, false),
    };
    Ok(QueryMatcher { name: value.name.into_bytes().into(), value: matcher, absent })
}

pub(crate) fn cookie(context: &Context<'_>, value: route::CookieMatcher) -> Result<CookieMatcher> {
    let context = context.field("string_match");
    let matcher = value.string_match.ok_or_else(|| context.error("say what the value must be"))?;
    Ok(CookieMatcher {
        name: value.name.into_bytes().into(),
        value: string(&context, matcher)?,
        invert: value.invert_match,
    })
}

pub(crate) fn percent(value: &types::FractionalPercent) -> Fraction {
    let denominator = match value.denominator {
        1 => 10_000,
        2 => 1_000_000,
        _ => 100,
    };
    Fraction { numerator: value.numerator, denominator }
}

/// Metadata without protobuf; none where there is nothing in it.
pub(crate) fn metadata(value: Option<core::Metadata>) -> Option<std::sync::Arc<Metadata>> {
    let mut out = Metadata::default();
    for (filter, fields) in value?.filter_metadata {
        out.merge(&filter, structure(fields));
    }
    (!out.is_empty()).then(|| out.into())
}

/// A struct without protobuf.
pub fn structure(value: protobuf::Struct) -> Struct {
    value.fields.into_iter().map(|(name, value)| (name, plain_value(value))).collect()
}

fn plain_value(value: protobuf::Value) -> Value {
    use protobuf::value::Kind;
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(flag),
        Some(Kind::NumberValue(number)) => Value::Number(number),
        Some(Kind::StringValue(text)) => Value::String(text.into()),
        Some(Kind::ListValue(list)) => Value::List(list.values.into_iter().map(plain_value).collect()),
        Some(Kind::StructValue(fields)) => Value::Struct(structure(fields)),
    }
}

pub(crate) fn runtime_fraction(value: Option<core::RuntimeFractionalPercent>) -> Option<Fraction> {
    // There is no runtime layer, so the default value always counts.
    value.map(|value| value.default_value.as_ref().map_or(Fraction::ALL, percent))
}

pub(crate) fn added(context: &Context<'_>, values: Vec<core::HeaderValueOption>) -> Result<Vec<HeaderValue>> {
    let mut out = Vec::with_capacity(values.len());
    for (at, option) in values.into_iter().enumerate() {
        let context = context.index(at);
        let header = option.header.unwrap_or_default();
        super::refusals::route_header(&context.field("header.key"), &header.key)?;
        if header.key.is_empty() || header.key.bytes().any(|byte| byte <= b' ' || byte == 127) {
            return Err(context.field("header.key").error(format!("`{}` is not a header name", header.key)));
        }
        let value = if header.raw_value.is_empty() {
            context.field("header.value").format(&header.value)?
        } else {
            context
                .field("header.raw_value")
                .format(&String::from_utf8_lossy(&header.raw_value).replace('%', "%%"))?
        };
        #[allow(deprecated)]
        let action = match (option.append, option.append_action) {
            (Some(false), _) | (_, 2) => AppendAction::Overwrite,
            (_, 1) => AppendAction::AddIfAbsent,
            (_, 3) => AppendAction::OverwriteIfExists,
            _ => AppendAction::Append,
        };
        out.push(HeaderValue {
            name: header.key.to_ascii_lowercase().into_bytes().into(),
            value,
            action,
            keep_empty: option.keep_empty_value,
        });
    }
    Ok(out)
}

/// Takes the four fields of header changes out of any message that has them.
macro_rules! mutations {
    ($context:expr, $message:expr) => {
        crate::compile::common::route_mutations(
            $context,
            std::mem::take(&mut $message.request_headers_to_add),
            std::mem::take(&mut $message.request_headers_to_remove),
            std::mem::take(&mut $message.response_headers_to_add),
            std::mem::take(&mut $message.response_headers_to_remove),
        )
    };
}
pub(crate) use mutations;

/// Changes of a level of the route configuration, which may not take away what says where a request goes.
pub(crate) fn route_mutations(
    context: &Context<'_>,
    request_add: Vec<core::HeaderValueOption>,
    request_remove: Vec<String>,
    response_add: Vec<core::HeaderValueOption>,
    response_remove: Vec<String>,
) -> Result<HeaderMutations> {
    super::refusals::removable(&context.field("request_headers_to_remove"), &request_remove)?;
    super::refusals::removable(&context.field("response_headers_to_remove"), &response_remove)?;
    header_mutations(context, request_add, request_remove, response_add, response_remove)
}

pub(crate) fn header_mutations(
    context: &Context<'_>,
    request_add: Vec<core::HeaderValueOption>,
    request_remove: Vec<String>,
    response_add: Vec<core::HeaderValueOption>,
    response_remove: Vec<String>,
) -> Result<HeaderMutations> {
    let names = |names: Vec<String>| {
        names
            .into_iter()
            .map(|name| name.to_ascii_lowercase().into_bytes().into())
            .collect::<Vec<Box<[u8]>>>()
    };
    Ok(HeaderMutations {
        request_add: added(&context.field("request_headers_to_add"), request_add)?,
        request_remove: names(request_remove),
        response_add: added(&context.field("response_headers_to_add"), response_add)?,
        response_remove: names(response_remove),
    })
}

pub(crate) fn cidr(context: &Context<'_>, value: &core::CidrRange) -> Result<IpNet> {
    let address: IpAddr = value.address_prefix.parse().map_err(|_| {
        context.field("address_prefix").error(format!("`{}` is not an IP address", value.address_prefix))
    })?;
    let length = value.prefix_len.unwrap_or(0);
    let network = u8::try_from(length).ok().and_then(|length| IpNet::new(address, length).ok());
    network
        .map(|network| network.trunc())
        .ok_or_else(|| context.field("prefix_len").error(format!("{length} is too long for {address}")))
}

pub(crate) fn cidrs(context: &Context<'_>, values: &[core::CidrRange]) -> Result<Vec<IpNet>> {
    values.iter().enumerate().map(|(at, value)| cidr(&context.index(at), value)).collect()
}

/// A socket address with a literal IP address.
pub fn socket_address(context: &Context<'_>, value: &core::SocketAddress) -> Result<SocketAddr> {
    let address: IpAddr = value
        .address
        .parse()
        .map_err(|_| context.field("address").error(format!("`{}` is not an IP address", value.address)))?;
    match value.port_specifier {
        Some(core::socket_address::PortSpecifier::PortValue(port)) => match u16::try_from(port) {
            Ok(port) => Ok(SocketAddr::new(address, port)),
            Err(_) => Err(context.field("port_value").error(format!("{port} is not a port"))),
        },
        Some(core::socket_address::PortSpecifier::NamedPort(_)) => {
            Err(context.field("named_port").error("named ports are not supported; write port_value"))
        }
        None => Err(context.error("port_value is missing")),
    }
}

/// An option for a socket: level, name, value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SocketOption {
    /// `SOL_SOCKET`, ...
    pub level: i32,
    /// `SO_MARK`, ...
    pub name: i32,
    /// An integer or bytes, as handed to the kernel.
    pub value: Vec<u8>,
    /// When it is set.
    pub state: SocketState,
}

/// When in a socket's life an option is set (`envoy.config.core.v3.SocketOption.SocketState`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum SocketState {
    /// Before it is bound.
    #[default]
    Before,
    /// When it is bound.
    Bound,
    /// When it listens.
    Listening,
}

/// How upstream sockets are made (`envoy.config.core.v3.BindConfig`). Part of the key of every pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Bind {
    /// The address to bind to.
    pub source: Option<SocketAddr>,
    /// Options set before that.
    pub options: Vec<SocketOption>,
}

pub(crate) fn socket_options(options: Vec<core::SocketOption>) -> Vec<SocketOption> {
    options
        .into_iter()
        .filter_map(|option| {
            let value = match option.value? {
                core::socket_option::Value::IntValue(number) => (number as i32).to_ne_bytes().to_vec(),
                core::socket_option::Value::BufValue(bytes) => bytes.to_vec(),
            };
            let state = match option.state {
                1 => SocketState::Bound,
                2 => SocketState::Listening,
                _ => SocketState::Before,
            };
            Some(SocketOption { level: option.level as i32, name: option.name as i32, value, state })
        })
        .collect()
}

/// Compiles a bind configuration.
pub fn bind(context: &Context<'_>, mut value: core::BindConfig) -> Result<Bind> {
    let source = match value.source_address.take() {
        Some(mut address) => {
            // A bind address without a port takes any.
            address.port_specifier.get_or_insert(core::socket_address::PortSpecifier::PortValue(0));
            Some(socket_address(&context.field("source_address"), &address)?)
        }
        None => None,
    };
    let options = socket_options(std::mem::take(&mut value.socket_options));
    leftover(context, &value);
    Ok(Bind { source, options })
}
