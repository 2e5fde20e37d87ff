//! TLS to endpoints, by rule or by itself, and the PROXY protocol around it: `tls`, `proxyProtocol`, automatic mutual TLS.

use lateen_api::networking::{ClientTlsMode, ClientTlsSettings, ProxyProtocol, ProxyProtocolVersion};
use serde_json::json;

use super::draft::Draft;
use super::outbound::{Mutual, OutboundKey};
use crate::proto::{self, cluster, core, ext, to_any};
use crate::{Role, secrets};
use ext::transport_sockets::tls::v3 as tls;

/// Whom a cluster talks to, as far as TLS depends on it.
pub(super) struct Peer<'a> {
    pub(super) key: &'a OutboundKey,
    /// The server name by which gateways of other networks know the cluster.
    pub(super) server_name: String,
    /// Whether the rule is for some workloads only: then it may name a Secret.
    pub(super) selected: bool,
}

pub(super) fn apply(draft: &mut Draft, settings: Option<&ClientTlsSettings>, peer: &Peer<'_>) {
    let Some(settings) = settings else { return automatic(draft, peer) };
    let context = match settings.mode {
        ClientTlsMode::Disable => return,
        ClientTlsMode::IstioMutual => {
            if !peer.key.client.certificates {
                return;
            }
            let names = if settings.subject_alt_names.is_empty() {
                &peer.key.accounts[..]
            } else {
                &settings.subject_alt_names
            };
            let server = if settings.sni.is_empty() { &peer.server_name } else { &settings.sni };
            mutual(draft, names, server)
        }
        ClientTlsMode::Simple | ClientTlsMode::Mutual => match originated(draft, settings, peer) {
            Some(context) => context,
            None => return,
        },
    };
    draft.message.transport_socket = Some(secrets::upstream_socket(&context));
}

/// Mutual TLS towards endpoints that take it, plain text to others.
fn automatic(draft: &mut Draft, peer: &Peer<'_>) {
    if peer.key.mutual == Mutual::No {
        return;
    }
    let socket = secrets::upstream_socket(&mutual(draft, &peer.key.accounts, &peer.server_name));
    if peer.key.mutual == Mutual::Always {
        draft.message.transport_socket = Some(socket);
        return;
    }
    let matching = |name: &str, wanted: serde_json::Value, socket| cluster::cluster::TransportSocketMatch {
        name: name.to_owned(),
        r#match: Some(match wanted {
            serde_json::Value::Object(fields) => fields.into(),
            _ => proto::protobuf::Struct::default(),
        }),
        transport_socket: Some(socket),
    };
    draft.message.transport_socket_matches = vec![
        matching("tlsMode-istio", json!({"tlsMode": "istio"}), socket),
        matching("tlsMode-disabled", json!({}), secrets::plain_socket()),
    ];
}

fn common() -> tls::CommonTlsContext {
    tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv12 as i32,
            tls_maximum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13 as i32,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The workload's own certificate, and the names that the other side must have one of.
fn mutual(draft: &mut Draft, names: &[String], server_name: &str) -> tls::UpstreamTlsContext {
    let mut context = common();
    context.alpn_protocols =
        if draft.is_http2() { vec!["istio".to_owned(), "h2".to_owned()] } else { vec!["istio".to_owned()] };
    context.tls_certificate_sds_secret_configs = vec![secrets::from_agent(secrets::WORKLOAD)];
    context.validation_context_type = Some(combined(names, "", secrets::from_agent(secrets::ROOTS)));
    tls::UpstreamTlsContext {
        common_tls_context: Some(context),
        sni: server_name.to_owned(),
        ..Default::default()
    }
}

fn combined(
    names: &[String],
    revoked: &str,
    roots: tls::SdsSecretConfig,
) -> tls::common_tls_context::ValidationContextType {
    tls::common_tls_context::ValidationContextType::CombinedValidationContext(
        tls::common_tls_context::CombinedCertificateValidationContext {
            default_validation_context: Some(validation(names, revoked)),
            validation_context_sds_secret_config: Some(roots),
            ..Default::default()
        },
    )
}

fn validation(names: &[String], revoked: &str) -> tls::CertificateValidationContext {
    tls::CertificateValidationContext {
        match_typed_subject_alt_names: secrets::subjects(names),
        crl: (!revoked.is_empty()).then(|| file(revoked)),
        ..Default::default()
    }
}

fn file(path: &str) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::Filename(path.to_owned())),
        ..Default::default()
    }
}

/// TLS that the user asks for, with certificates of the user's own.
fn originated(
    draft: &mut Draft,
    settings: &ClientTlsSettings,
    peer: &Peer<'_>,
) -> Option<tls::UpstreamTlsContext> {
    let client = &peer.key.client;
    let named = !settings.credential_name.is_empty();
    // A Secret is not for every sidecar that sees the rule, unless the rule says for which it is.
    if named && client.role == Role::Sidecar && !peer.selected {
        return None;
    }
    let skips = settings.insecure_skip_verify == Some(true);
    let mutual = settings.mode == ClientTlsMode::Mutual;
    let names = if settings.subject_alt_names.is_empty() && peer.key.accounts_are_names {
        &peer.key.accounts[..]
    } else {
        &settings.subject_alt_names
    };
    let mut context = common();
    if named {
        if mutual {
            context.tls_certificate_sds_secret_configs = vec![secrets::credential(&settings.credential_name)];
        }
        if !skips {
            let roots = secrets::credential(&format!("{}-cacert", settings.credential_name));
            context.validation_context_type = Some(combined(names, &settings.ca_crl, roots));
        }
    } else if client.certificates {
        agent_files(&mut context, settings, names, skips)?;
    } else {
        files(&mut context, settings, names, skips)?;
    }
    if draft.is_http2() {
        context.alpn_protocols = vec!["h2".to_owned()];
    }
    automatic_names(draft, settings, skips, context.validation_context_type.is_some());
    if let (Some(defaults), Some(params)) = (&peer.key.mesh.tls_defaults, &mut context.tls_params) {
        params.ecdh_curves.clone_from(&defaults.ecdh_curves);
        params.cipher_suites.clone_from(&defaults.cipher_suites);
    }
    Some(tls::UpstreamTlsContext {
        common_tls_context: Some(context),
        sni: settings.sni.clone(),
        ..Default::default()
    })
}

/// Files that the agent reads and serves, so that new ones are taken up; without roots of the user's own, the system's.
fn agent_files(
    context: &mut tls::CommonTlsContext,
    settings: &ClientTlsSettings,
    names: &[String],
    skips: bool,
) -> Option<()> {
    if settings.mode == ClientTlsMode::Mutual {
        let (certificate, key) = own_files(settings)?;
        let secret = secrets::from_agent(&format!("file-cert:{certificate}~{key}"));
        context.tls_certificate_sds_secret_configs = vec![secret];
    }
    if !skips {
        let roots = if settings.ca_certificates.is_empty() { "system" } else { &settings.ca_certificates };
        let roots = secrets::from_agent(&format!("file-root:{roots}"));
        context.validation_context_type = Some(combined(names, &settings.ca_crl, roots));
    }
    Some(())
}

/// Files that the proxy reads by itself.
fn files(
    context: &mut tls::CommonTlsContext,
    settings: &ClientTlsSettings,
    names: &[String],
    skips: bool,
) -> Option<()> {
    if settings.mode == ClientTlsMode::Mutual {
        let (certificate, key) = own_files(settings)?;
        context.tls_certificates.push(tls::TlsCertificate {
            certificate_chain: Some(file(certificate)),
            private_key: Some(file(key)),
            ..Default::default()
        });
    }
    if !skips && !settings.ca_certificates.is_empty() {
        let mut checked = validation(names, &settings.ca_crl);
        checked.trusted_ca = Some(file(&settings.ca_certificates));
        context.validation_context_type =
            Some(tls::common_tls_context::ValidationContextType::ValidationContext(checked));
    }
    Some(())
}

fn own_files(settings: &ClientTlsSettings) -> Option<(&str, &str)> {
    let complete = !settings.client_certificate.is_empty() && !settings.private_key.is_empty();
    complete.then_some((&settings.client_certificate, &settings.private_key))
}

/// Without a server name of the rule, requests ask for the host they are for, and its certificate must be for that host.
fn automatic_names(draft: &mut Draft, settings: &ClientTlsSettings, skips: bool, verifies: bool) {
    if !settings.sni.is_empty() {
        return;
    }
    let checks = settings.subject_alt_names.is_empty() && !skips && verifies;
    let options = draft.options().upstream_http_protocol_options.get_or_insert_default();
    options.auto_sni = true;
    options.auto_san_validation = checks;
}

/// Puts the PROXY protocol's header before whatever is sent.
pub(super) fn proxy_protocol(draft: &mut Draft, settings: Option<&ProxyProtocol>) {
    let Some(settings) = settings else { return };
    let version = match settings.version {
        ProxyProtocolVersion::V1 => core::proxy_protocol_config::Version::V1,
        ProxyProtocolVersion::V2 => core::proxy_protocol_config::Version::V2,
    };
    let wrapped = |socket: core::TransportSocket| {
        let transport = ext::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport {
            config: Some(core::ProxyProtocolConfig { version: version as i32, ..Default::default() }),
            transport_socket: Some(socket),
            ..Default::default()
        };
        core::TransportSocket {
            name: "envoy.transport_sockets.upstream_proxy_protocol".to_owned(),
            config_type: Some(core::transport_socket::ConfigType::TypedConfig(to_any(&transport))),
        }
    };
    if draft.message.transport_socket_matches.is_empty() {
        let present = draft.message.transport_socket.take().unwrap_or_else(secrets::plain_socket);
        draft.message.transport_socket = Some(wrapped(present));
    }
    for matching in &mut draft.message.transport_socket_matches {
        matching.transport_socket = matching.transport_socket.take().map(wrapped);
    }
}
