//! How a server ends TLS (Istio's reference, "ServerTLSSettings").

use lateen_api::mesh_parts::{MeshTlsProtocol, TlsConfig};
use lateen_api::networking::{ServerTlsMode, ServerTlsSettings, TlsProtocol};

use super::secrets::{credential, credential_authority};
use crate::proto::{core, ext, to_any};
use crate::secrets::{ROOTS, WORKLOAD, from_agent, subjects};
use ext::transport_sockets::tls::v3 as tls;
use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};

/// What of the surroundings decides how TLS ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Means {
    /// Whether an agent beside the proxy serves secrets, files among them; without one the proxy reads files itself.
    pub(super) agent: bool,
    /// What the mesh says of TLS where a server does not.
    pub(super) defaults: Option<TlsConfig>,
}

pub(super) fn transport_socket(
    settings: &ServerTlsSettings,
    means: &Means,
    bytes: bool,
) -> core::TransportSocket {
    let message = context(settings, means, bytes);
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(to_any(&message))),
    }
}

fn context(settings: &ServerTlsSettings, means: &Means, bytes: bool) -> tls::DownstreamTlsContext {
    let mode = settings.mode;
    let demands = matches!(mode, ServerTlsMode::Mutual | ServerTlsMode::IstioMutual);
    let checks = demands || mode == ServerTlsMode::OptionalMutual;
    let alpn: &[&str] = if mode == ServerTlsMode::IstioMutual && bytes {
        &["istio-peer-exchange", "h2", "http/1.1"]
    } else {
        &["h2", "http/1.1"]
    };
    let mut common = tls::CommonTlsContext {
        alpn_protocols: alpn.iter().map(|protocol| (*protocol).to_owned()).collect(),
        ..Default::default()
    };
    if mode == ServerTlsMode::IstioMutual {
        common.tls_certificate_sds_secret_configs = vec![from_agent(WORKLOAD)];
        common.validation_context_type = Some(combined(validation(settings), from_agent(ROOTS)));
    } else {
        common.tls_params = parameters(settings, means.defaults.as_ref());
        if !settings.credential_name.is_empty() || !settings.credential_names.is_empty() {
            by_credential(settings, checks, &mut common);
        } else if means.agent {
            by_agents_files(settings, checks, &mut common);
        } else {
            by_files(settings, checks, &mut common);
        }
    }
    tls::DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(demands),
        ..Default::default()
    }
}

fn by_credential(settings: &ServerTlsSettings, checks: bool, common: &mut tls::CommonTlsContext) {
    let single = std::slice::from_ref(&settings.credential_name);
    let names =
        if settings.credential_names.is_empty() { single } else { settings.credential_names.as_slice() };
    common.tls_certificate_sds_secret_configs = names.iter().map(|name| credential(name)).collect();
    let authority = if settings.ca_cert_credential_name.is_empty() {
        names.first().map(String::as_str).unwrap_or_default()
    } else {
        settings.ca_cert_credential_name.as_str()
    };
    if checks {
        let secret = credential_authority(authority);
        common.validation_context_type = Some(combined(validation(settings), secret));
    } else if !settings.subject_alt_names.is_empty() {
        common.validation_context_type =
            Some(ValidationContextType::ValidationContext(tls::CertificateValidationContext {
                match_typed_subject_alt_names: subjects(&settings.subject_alt_names),
                ..Default::default()
            }));
    }
}

/// The pairs of certificate and key files.
fn pairs(settings: &ServerTlsSettings) -> Vec<(&str, &str)> {
    if settings.tls_certificates.is_empty() {
        return vec![(settings.server_certificate.as_str(), settings.private_key.as_str())];
    }
    let pairs = settings.tls_certificates.iter();
    pairs.map(|pair| (pair.server_certificate.as_str(), pair.private_key.as_str())).collect()
}

/// Files that the agent reads and watches: their names are the secrets' names, in Istio's form.
fn by_agents_files(settings: &ServerTlsSettings, checks: bool, common: &mut tls::CommonTlsContext) {
    common.tls_certificate_sds_secret_configs = pairs(settings)
        .into_iter()
        .map(|(certificate, key)| match certificate {
            "" => from_agent(WORKLOAD),
            _ => from_agent(&format!("file-cert:{certificate}~{key}")),
        })
        .collect();
    if checks {
        let secret = match settings.ca_certificates.as_str() {
            "" => from_agent(ROOTS),
            file => from_agent(&format!("file-root:{file}")),
        };
        common.validation_context_type = Some(combined(validation(settings), secret));
    }
}

/// Files that the proxy reads itself, again whenever their folder changes.
fn by_files(settings: &ServerTlsSettings, checks: bool, common: &mut tls::CommonTlsContext) {
    let pairs = pairs(settings).into_iter().filter(|(certificate, _)| !certificate.is_empty());
    common.tls_certificates = pairs
        .map(|(certificate, key)| tls::TlsCertificate {
            certificate_chain: Some(file(certificate)),
            private_key: Some(file(key)),
            ..Default::default()
        })
        .collect();
    if checks {
        let mut context = validation(settings);
        context.trusted_ca = Some(file(&settings.ca_certificates));
        common.validation_context_type = Some(ValidationContextType::ValidationContext(context));
    }
}

fn file(path: &str) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::Filename(path.to_owned())),
        ..Default::default()
    }
}

fn combined(own: tls::CertificateValidationContext, secret: tls::SdsSecretConfig) -> ValidationContextType {
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(own),
        validation_context_sds_secret_config: Some(secret),
        ..Default::default()
    })
}

/// What the server says of client certificates, besides who signed them.
fn validation(settings: &ServerTlsSettings) -> tls::CertificateValidationContext {
    tls::CertificateValidationContext {
        match_typed_subject_alt_names: subjects(&settings.subject_alt_names),
        verify_certificate_spki: settings.verify_certificate_spki.clone(),
        verify_certificate_hash: settings.verify_certificate_hash.clone(),
        crl: (!settings.ca_crl.is_empty()).then(|| file(&settings.ca_crl)),
        ..Default::default()
    }
}

fn parameters(settings: &ServerTlsSettings, defaults: Option<&TlsConfig>) -> Option<tls::TlsParameters> {
    let mut parameters = tls::TlsParameters::default();
    if let Some(defaults) = defaults {
        parameters.tls_minimum_protocol_version = version(match defaults.min_protocol_version {
            MeshTlsProtocol::TlsAuto => TlsProtocol::TlsAuto,
            MeshTlsProtocol::TlsV12 => TlsProtocol::TlsV1_2,
            MeshTlsProtocol::TlsV13 => TlsProtocol::TlsV1_3,
        });
        parameters.cipher_suites = known_suites(&defaults.cipher_suites);
        parameters.ecdh_curves.clone_from(&defaults.ecdh_curves);
    }
    if settings.min_protocol_version != TlsProtocol::TlsAuto {
        parameters.tls_minimum_protocol_version = version(settings.min_protocol_version);
    }
    if settings.max_protocol_version != TlsProtocol::TlsAuto {
        parameters.tls_maximum_protocol_version = version(settings.max_protocol_version);
    }
    let suites = known_suites(&settings.cipher_suites);
    if !suites.is_empty() {
        parameters.cipher_suites = suites;
    }
    if !settings.ecdh_curves.is_empty() {
        parameters.ecdh_curves.clone_from(&settings.ecdh_curves);
    }
    (parameters != tls::TlsParameters::default()).then_some(parameters)
}

fn version(version: TlsProtocol) -> i32 {
    use tls::tls_parameters::TlsProtocol as Envoy;
    (match version {
        TlsProtocol::TlsAuto => Envoy::TlsAuto,
        TlsProtocol::TlsV1_0 => Envoy::TlSv10,
        TlsProtocol::TlsV1_1 => Envoy::TlSv11,
        TlsProtocol::TlsV1_2 => Envoy::TlSv12,
        TlsProtocol::TlsV1_3 => Envoy::TlSv13,
    }) as i32
}

/// The suites that proxies know: an unknown one would cost the whole listener (Istio's reference, "cipherSuites").
fn known_suites(suites: &[String]) -> Vec<String> {
    const KNOWN: [&str; 16] = [
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "AES256-GCM-SHA384",
        "AES128-GCM-SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-RSA-AES128-SHA",
        "AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA",
        "ECDHE-RSA-AES256-SHA",
        "AES256-SHA",
        "ECDHE-PSK-AES128-CBC-SHA",
        "DES-CBC3-SHA",
    ];
    let mut found: Vec<String> = Vec::new();
    for suite in suites {
        let known = KNOWN.contains(&suite.as_str());
        if known && !found.contains(suite) {
            found.push(suite.clone());
        }
    }
    found
}
