//! Transport sockets, TLS contexts and secrets to their runtime form.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::extensions::transport_sockets::proxy_protocol::v3 as proxy_protocol;
use lateen_envoy::envoy::extensions::transport_sockets::tls::v3 as proto;
use lateen_envoy::envoy::r#type::matcher::v3 as matcher;
use lateen_envoy::{Any, TypeUrl};
use proto::common_tls_context::ValidationContextType;
use proto::downstream_tls_context::SessionTicketKeysType;

use super::checked::unpack;
use super::common::{duration, leftover, string};
use super::refusals;
use crate::error::{Context, Result};
use crate::tls::{
    CertificateSource, Certificates, CommonTls, DataSource, DownstreamTls, DownstreamTransport, SanKind,
    SanMatcher, Secret, SecretReference, SecretSource, TicketKeys, TlsVersion, UpstreamTls,
    UpstreamTransport, ValidationConfig, ValidationSource,
};

/// How long a secret is waited for, unless said otherwise (`ConfigSource.initial_fetch_timeout`).
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);
/// BoringSSL's life of a session.
const SESSION_TIMEOUT: Duration = Duration::from_secs(7200);

/// The message in a transport socket, or none for one that is known by its name alone and adds nothing.
fn typed(context: &Context<'_>, socket: core::TransportSocket) -> Result<Option<Any>> {
    match socket.config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => Ok(Some(any)),
        None if socket.name.contains("raw_buffer") => Ok(None),
        None => Err(context
            .field("typed_config")
            .error(format!("the transport socket `{}` has no typed_config", socket.name))),
    }
}

fn is_plain(any: &Any) -> bool {
    any.type_url.ends_with(".raw_buffer.v3.RawBuffer")
}

/// The transport socket of a filter chain.
pub(crate) fn downstream_transport(
    context: &Context<'_>,
    socket: Option<core::TransportSocket>,
) -> Result<DownstreamTransport> {
    let Some(socket) = socket else { return Ok(DownstreamTransport::Plain) };
    let name = socket.name.clone();
    let any = match typed(context, socket)? {
        Some(any) if !is_plain(&any) => any,
        _ => return Ok(DownstreamTransport::Plain),
    };
    let context = context.field("typed_config");
    if any.type_url != proto::DownstreamTlsContext::TYPE_URL {
        return Err(context.error(format!(
            "the transport socket `{name}` ({}) is not supported for listeners; use envoy.transport_sockets.tls",
            any.type_url
        )));
    }
    let value: proto::DownstreamTlsContext = unpack(&context, &any)?;
    let mut tls = downstream_tls(&context, value)?;
    tls.source = any.value;
    Ok(DownstreamTransport::Tls(Arc::new(tls)))
}

/// The transport socket of a cluster.
pub(crate) fn upstream_transport(
    context: &Context<'_>,
    socket: Option<core::TransportSocket>,
) -> Result<UpstreamTransport> {
    let Some(socket) = socket else { return Ok(UpstreamTransport::Plain) };
    let name = socket.name.clone();
    let any = match typed(context, socket)? {
        Some(any) if !is_plain(&any) => any,
        _ => return Ok(UpstreamTransport::Plain),
    };
    let context = context.field("typed_config");
    if any.type_url == proto::UpstreamTlsContext::TYPE_URL {
        let value: proto::UpstreamTlsContext = unpack(&context, &any)?;
        let mut tls = upstream_tls(&context, value)?;
        tls.source = any.value;
        return Ok(UpstreamTransport::Tls(Arc::new(tls)));
    }
    if any.type_url == proxy_protocol::ProxyProtocolUpstreamTransport::TYPE_URL {
        let mut value: proxy_protocol::ProxyProtocolUpstreamTransport = unpack(&context, &any)?;
        let mut config = value.config.take().unwrap_or_default();
        let version =
            if take(&mut config.version) == core::proxy_protocol_config::Version::V2 as i32 { 2 } else { 1 };
        leftover(&context.field("config"), &config);
        let inner = upstream_transport(&context.field("transport_socket"), value.transport_socket.take())?;
        leftover(&context, &value);
        return Ok(UpstreamTransport::ProxyProtocol { version, inner: Arc::new(inner) });
    }
    Err(context.error(format!(
        "the transport socket `{name}` ({}) is not supported; use raw_buffer, tls or upstream_proxy_protocol",
        any.type_url
    )))
}

fn downstream_tls(context: &Context<'_>, mut value: proto::DownstreamTlsContext) -> Result<DownstreamTls> {
    let common = value.common_tls_context.take().unwrap_or_default();
    let compiled = DownstreamTls {
        common: common_tls(&context.field("common_tls_context"), common, TlsVersion::Tls13)?,
        require_client_certificate: value.require_client_certificate.take().unwrap_or(false),
        tickets: match value.session_ticket_keys_type.take() {
            None | Some(SessionTicketKeysType::DisableStatelessSessionResumption(false)) => TicketKeys::Own,
            Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)) => TicketKeys::Disabled,
            Some(SessionTicketKeysType::SessionTicketKeys(keys)) => {
                TicketKeys::Configured(sources(&context.field("session_ticket_keys.keys"), keys.keys)?)
            }
            Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(reference)) => {
                TicketKeys::Discovered(secret_reference(
                    &context.field("session_ticket_keys_sds_secret_config"),
                    reference,
                )?)
            }
        },
        stateful_resumption: !take(&mut value.disable_stateful_session_resumption),
        session_timeout: duration(&context.field("session_timeout"), value.session_timeout.take())?
            .unwrap_or(SESSION_TIMEOUT),
        prefer_client_ciphers: take(&mut value.prefer_client_ciphers),
        source: Default::default(),
    };
    if let Certificates::Inline(certificates) = &compiled.common.certificates
        && certificates.is_empty()
    {
        return Err(context
            .field("common_tls_context")
            .error("a server needs a certificate: tls_certificates or tls_certificate_sds_secret_configs"));
    }
    // Without the whole scan the first certificate serves a name that none fits; with it, too.
    value.full_scan_certs_on_sni_mismatch = None;
    leftover(context, &value);
    Ok(compiled)
}

fn upstream_tls(context: &Context<'_>, mut value: proto::UpstreamTlsContext) -> Result<UpstreamTls> {
    let common = value.common_tls_context.take().unwrap_or_default();
    let name = take(&mut value.sni);
    let compiled = UpstreamTls {
        common: common_tls(&context.field("common_tls_context"), common, TlsVersion::Tls12)?,
        server_name: (!name.is_empty()).then(|| name.into()),
        host_as_server_name: take(&mut value.auto_host_sni),
        verify_server_name: take(&mut value.auto_sni_san_validation),
        max_sessions: value.max_session_keys.take().unwrap_or(1) as usize,
        source: Default::default(),
    };
    // Usages of keys are always looked at.
    value.enforce_rsa_key_usage = None;
    leftover(context, &value);
    Ok(compiled)
}

fn common_tls(
    context: &Context<'_>,
    mut value: proto::CommonTlsContext,
    newest: TlsVersion,
) -> Result<CommonTls> {
    let mut params = value.tls_params.take().unwrap_or_default();
    let params_context = context.field("tls_params");
    let (min_version, max_version) = versions(&params_context, &mut params, newest)?;
    let lower = |names: Vec<String>| names.into_iter().map(Into::into).collect::<Vec<Box<str>>>();
    let (ciphers, groups) = (lower(take(&mut params.cipher_suites)), lower(take(&mut params.ecdh_curves)));
    leftover(&params_context, &params);
    let mut protocols: Vec<Box<[u8]>> = Vec::new();
    for (at, protocol) in take(&mut value.alpn_protocols).into_iter().enumerate() {
        if protocol.is_empty() || protocol.len() > 255 {
            return Err(context.field("alpn_protocols").index(at).error("a protocol has 1 to 255 bytes"));
        }
        protocols.push(protocol.into_bytes().into());
    }
    let certificates = certificates(context, &mut value)?;
    let validation = match value.validation_context_type.take() {
        None => ValidationConfig::default(),
        Some(ValidationContextType::ValidationContext(inner)) => ValidationConfig {
            context: Some(validation(&context.field("validation_context"), inner)?),
            secret: None,
        },
        Some(ValidationContextType::ValidationContextSdsSecretConfig(reference)) => ValidationConfig {
            context: None,
            secret: Some(secret_reference(
                &context.field("validation_context_sds_secret_config"),
                reference,
            )?),
        },
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined_validation(&context.field("combined_validation_context"), combined)?
        }
        Some(_) => {
            return Err(context.error(
                "certificate providers are not supported; write validation_context, or name a secret",
            ));
        }
    };
    if value.custom_handshaker.is_some() || value.custom_tls_certificate_selector.is_some() {
        return Err(context.error("custom handshakers and certificate selectors are not supported"));
    }
    leftover(context, &value);
    Ok(CommonTls { min_version, max_version, ciphers, groups, protocols, certificates, validation })
}

fn versions(
    context: &Context<'_>,
    params: &mut proto::TlsParameters,
    newest: TlsVersion,
) -> Result<(TlsVersion, TlsVersion)> {
    use proto::tls_parameters::TlsProtocol::{TlSv13, TlsAuto};
    let (min, max) =
        (take(&mut params.tls_minimum_protocol_version), take(&mut params.tls_maximum_protocol_version));
    if min != TlsAuto as i32 && min < 3 {
        context
            .field("tls_minimum_protocol_version")
            .warn("versions before 1.2 are not safe and not spoken; 1.2 is the oldest");
    }
    let oldest = if min == TlSv13 as i32 { TlsVersion::Tls13 } else { TlsVersion::Tls12 };
    let newest = match max {
        0 => newest.max(oldest),
        1 | 2 => {
            return Err(context
                .field("tls_maximum_protocol_version")
                .error("versions before 1.2 are not safe and not spoken; allow 1.2 or 1.3"));
        }
        3 => TlsVersion::Tls12,
        _ => TlsVersion::Tls13,
    };
    if oldest > newest {
        return Err(context.field("tls_minimum_protocol_version").error("it is above the maximum"));
    }
    Ok((oldest, newest))
}

fn certificates(context: &Context<'_>, value: &mut proto::CommonTlsContext) -> Result<Certificates> {
    let inline = take(&mut value.tls_certificates);
    let discovered = take(&mut value.tls_certificate_sds_secret_configs);
    if value.tls_certificate_provider_instance.is_some() {
        return Err(context
            .field("tls_certificate_provider_instance")
            .error("certificate providers are not supported; write tls_certificates, or name a secret"));
    }
    if !discovered.is_empty() {
        if !inline.is_empty() {
            return Err(context.field("tls_certificates").error("write either certificates or secrets"));
        }
        let context = context.field("tls_certificate_sds_secret_configs");
        let reference = |(at, reference)| secret_reference(&context.index(at), reference);
        return Ok(Certificates::Discovered(
            discovered.into_iter().enumerate().map(reference).collect::<Result<_>>()?,
        ));
    }
    let context = context.field("tls_certificates");
    let certificate = |(at, value)| certificate(&context.index(at), value);
    Ok(Certificates::Inline(inline.into_iter().enumerate().map(certificate).collect::<Result<_>>()?))
}

fn certificate(context: &Context<'_>, mut value: proto::TlsCertificate) -> Result<CertificateSource> {
    for (field, set) in [
        ("pkcs12", value.pkcs12.is_some()),
        ("private_key_provider", value.private_key_provider.is_some()),
        ("password", value.password.is_some()),
    ] {
        if set {
            return Err(context.field(field).error(
                "this is not supported; write certificate_chain and private_key as PEM without password",
            ));
        }
    }
    let needed = |name: &str, source: Option<core::DataSource>| {
        let context = context.field(name);
        source.map_or_else(|| Err(context.error("it is missing")), |source| data_source(&context, source))
    };
    let compiled = CertificateSource {
        chain: needed("certificate_chain", value.certificate_chain.take())?,
        key: needed("private_key", value.private_key.take())?,
        staple: match value.ocsp_staple.take() {
            Some(staple) => Some(data_source(&context.field("ocsp_staple"), staple)?),
            None => None,
        },
        watched: value.watched_directory.take().map(|directory| directory.path.into()),
    };
    leftover(context, &value);
    Ok(compiled)
}

fn data_source(context: &Context<'_>, value: core::DataSource) -> Result<DataSource> {
    use core::data_source::Specifier;
    Ok(match value.specifier {
        Some(Specifier::Filename(path)) => DataSource::File(path.into()),
        Some(Specifier::InlineBytes(bytes)) => DataSource::Inline(bytes),
        Some(Specifier::InlineString(text)) => DataSource::Inline(text.into_bytes().into()),
        Some(Specifier::EnvironmentVariable(name)) => DataSource::Environment(name),
        None => {
            return Err(
                context.error("say where: filename, inline_string, inline_bytes or environment_variable")
            );
        }
    })
}

fn sources(context: &Context<'_>, values: Vec<core::DataSource>) -> Result<Vec<DataSource>> {
    values.into_iter().enumerate().map(|(at, value)| data_source(&context.index(at), value)).collect()
}

fn secret_reference(context: &Context<'_>, value: proto::SdsSecretConfig) -> Result<SecretReference> {
    use core::config_source::ConfigSourceSpecifier;
    if value.name.is_empty() {
        return Err(context.field("name").error("name the secret"));
    }
    let mut timeout = Some(FETCH_TIMEOUT);
    let context = context.field("sds_config");
    let source = match value.sds_config {
        None => SecretSource::Static,
        Some(config) => {
            refusals::config_source(&context, &config)?;
            if config.initial_fetch_timeout.is_some() {
                timeout = duration(&context.field("initial_fetch_timeout"), config.initial_fetch_timeout)?
                    .filter(|timeout| !timeout.is_zero());
            }
            match config.config_source_specifier {
                Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => SecretSource::Ads,
                Some(ConfigSourceSpecifier::Path(path)) => SecretSource::Path(path.into()),
                Some(ConfigSourceSpecifier::PathConfigSource(path)) => SecretSource::Path(path.path.into()),
                Some(ConfigSourceSpecifier::ApiConfigSource(service)) => secret_service(&context, service)?,
                None => {
                    return Err(context.error("say where from: ads, path_config_source or api_config_source"));
                }
            }
        }
    };
    Ok(SecretReference { name: value.name.into(), source, initial_fetch_timeout: timeout })
}

fn secret_service(context: &Context<'_>, service: core::ApiConfigSource) -> Result<SecretSource> {
    use core::api_config_source::ApiType;
    use core::grpc_service::TargetSpecifier;
    let delta =
        matches!(ApiType::try_from(service.api_type), Ok(ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc));
    let cluster = service.grpc_services.into_iter().find_map(|service| match service.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(grpc)) => Some(grpc.cluster_name),
        _ => None,
    });
    match cluster {
        Some(cluster) => Ok(SecretSource::Service { cluster: cluster.into(), delta }),
        None => Err(context.field("api_config_source.grpc_services").error("name a cluster in envoy_grpc")),
    }
}

fn combined_validation(
    context: &Context<'_>,
    mut value: proto::common_tls_context::CombinedCertificateValidationContext,
) -> Result<ValidationConfig> {
    let inner = value.default_validation_context.take().unwrap_or_default();
    let compiled = ValidationConfig {
        context: Some(validation(&context.field("default_validation_context"), inner)?),
        secret: match value.validation_context_sds_secret_config.take() {
            Some(reference) => {
                Some(secret_reference(&context.field("validation_context_sds_secret_config"), reference)?)
            }
            None => None,
        },
    };
    leftover(context, &value);
    Ok(compiled)
}

fn validation(
    context: &Context<'_>,
    mut value: proto::CertificateValidationContext,
) -> Result<ValidationSource> {
    let source = |name: &str, value: Option<core::DataSource>| {
        value.map(|value| data_source(&context.field(name), value)).transpose()
    };
    if value.ca_certificate_provider_instance.is_some() {
        return Err(context
            .field("ca_certificate_provider_instance")
            .error("certificate providers are not supported; write trusted_ca"));
    }
    if value.require_signed_certificate_timestamp.take() == Some(true) {
        return Err(context
            .field("require_signed_certificate_timestamp")
            .error("signed certificate timestamps are not supported"));
    }
    let mut names = Vec::new();
    for (at, name) in take(&mut value.match_typed_subject_alt_names).into_iter().enumerate() {
        names.push(san_matcher(&context.field("match_typed_subject_alt_names").index(at), name)?);
    }
    for (at, name) in take(&mut value.match_subject_alt_names).into_iter().enumerate() {
        let context = context.field("match_subject_alt_names").index(at);
        for kind in [SanKind::Dns, SanKind::Uri, SanKind::Ip, SanKind::Email] {
            names.push(SanMatcher { kind, matcher: string(&context, name.clone())? });
        }
    }
    let compiled = ValidationSource {
        trusted: source("trusted_ca", value.trusted_ca.take())?,
        system_roots: value.system_root_certs.take().is_some(),
        trust_domains: match value.custom_validator_config.take() {
            Some(config) => spiffe(&context.field("custom_validator_config"), config)?,
            None => Vec::new(),
        },
        watched: value.watched_directory.take().map(|directory| directory.path.into()),
        names,
        public_keys: pins(
            &context.field("verify_certificate_spki"),
            &take(&mut value.verify_certificate_spki),
            base64_digest,
        )?,
        certificates: pins(
            &context.field("verify_certificate_hash"),
            &take(&mut value.verify_certificate_hash),
            hex_digest,
        )?,
        revoked: source("crl", value.crl.take())?,
        revoked_leaf_only: take(&mut value.only_verify_leaf_cert_crl),
        max_depth: value.max_verify_depth.take(),
        accept_untrusted: take(&mut value.trust_chain_verification) == 1,
        allow_expired: take(&mut value.allow_expired_certificate),
        hide_authorities: take(&mut value.suppress_client_ca_list),
    };
    let asks_names = !compiled.names.is_empty() || !compiled.public_keys.is_empty();
    if compiled.trusted.is_none()
        && !compiled.system_roots
        && compiled.trust_domains.is_empty()
        && !compiled.names.is_empty()
    {
        context
            .field("match_typed_subject_alt_names")
            .warn("names without trusted_ca say nothing: anyone may write them into a certificate");
    }
    if compiled.allow_expired && compiled.trusted.is_none() && !asks_names {
        context.field("allow_expired_certificate").warn("without trusted_ca nothing is verified at all");
    }
    leftover(context, &value);
    Ok(compiled)
}

fn san_matcher(context: &Context<'_>, value: proto::SubjectAltNameMatcher) -> Result<SanMatcher> {
    use proto::subject_alt_name_matcher::SanType;
    let kind = match SanType::try_from(value.san_type) {
        Ok(SanType::Email) => SanKind::Email,
        Ok(SanType::Dns) => SanKind::Dns,
        Ok(SanType::Uri) => SanKind::Uri,
        Ok(SanType::IpAddress) => SanKind::Ip,
        Ok(SanType::OtherName) if !value.oid.is_empty() => SanKind::Other(value.oid.into()),
        Ok(SanType::OtherName) => return Err(context.field("oid").error("an OTHER_NAME needs an oid")),
        _ => return Err(context.field("san_type").error("write DNS, URI, IP_ADDRESS, EMAIL or OTHER_NAME")),
    };
    let matcher: matcher::StringMatcher =
        value.matcher.ok_or_else(|| context.field("matcher").error("say what to match"))?;
    Ok(SanMatcher { kind, matcher: string(&context.field("matcher"), matcher)? })
}

fn spiffe(context: &Context<'_>, config: core::TypedExtensionConfig) -> Result<Vec<(Box<str>, DataSource)>> {
    let any = config.typed_config.unwrap_or_default();
    if any.type_url != proto::SpiffeCertValidatorConfig::TYPE_URL {
        return Err(context.error(format!(
            "the validator `{}` ({}) is not supported; use envoy.tls.cert_validator.spiffe",
            config.name, any.type_url
        )));
    }
    let mut value: proto::SpiffeCertValidatorConfig = unpack(&context.field("typed_config"), &any)?;
    let context = context.field("typed_config");
    let mut domains = Vec::new();
    for (at, domain) in take(&mut value.trust_domains).into_iter().enumerate() {
        let context = context.field("trust_domains").index(at);
        let bundle = domain
            .trust_bundle
            .ok_or_else(|| context.field("trust_bundle").error("the trusted certificates are missing"))?;
        domains.push((domain.name.into(), data_source(&context.field("trust_bundle"), bundle)?));
    }
    if domains.is_empty() {
        return Err(context.field("trust_domains").error("name a trust domain"));
    }
    leftover(&context, &value);
    Ok(domains)
}

fn pins(
    context: &Context<'_>,
    texts: &[String],
    parse: fn(&str) -> Option<[u8; 32]>,
) -> Result<Vec<[u8; 32]>> {
    let pin = |(at, text): (usize, &String)| {
        parse(text).ok_or_else(|| context.index(at).error(format!("`{text}` is not a SHA-256 digest")))
    };
    texts.iter().enumerate().map(pin).collect()
}

fn hex_digest(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != b':')
        .map(|digit| (digit as char).to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

fn base64_digest(text: &str) -> Option<[u8; 32]> {
    let text = text.strip_suffix('=')?;
    let mut bits = 0u32;
    let (mut have, mut out) = (0, Vec::with_capacity(33));
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    out.try_into().ok()
}

/// A secret.
pub(crate) fn secret(context: &Context<'_>, value: proto::Secret) -> Result<(Arc<str>, Secret)> {
    use proto::secret::Type;
    let compiled = match value.r#type {
        Some(Type::TlsCertificate(inner)) => {
            Secret::Certificate(certificate(&context.field("tls_certificate"), inner)?)
        }
        Some(Type::ValidationContext(inner)) => {
            Secret::Validation(validation(&context.field("validation_context"), inner)?)
        }
        Some(Type::SessionTicketKeys(keys)) => {
            Secret::TicketKeys(sources(&context.field("session_ticket_keys.keys"), keys.keys)?)
        }
        Some(Type::GenericSecret(_)) => Secret::Generic,
        None => return Err(context.error("it holds nothing: write tls_certificate or validation_context")),
    };
    Ok((value.name.into(), compiled))
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
