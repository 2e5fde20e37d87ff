//! Mutual TLS as workloads of the mesh take it: with the certificate that the agent beside the proxy keeps.

use lateen_api::networking::{ServerTlsMode, ServerTlsSettings};

use crate::proto::{core, ext, matcher, to_any};
use crate::secrets;
use ext::transport_sockets::tls::v3 as tls;
use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};

/// ALPNs of peers whose proxy found HTTP (Istio's, so that applications' own stay apart).
pub(super) const HTTP: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// ALPNs of peers whose proxy forwards bytes.
pub(super) const BYTES: [&str; 2] = ["istio-peer-exchange", "istio"];
/// ALPNs of any peer of the mesh.
pub(super) const ALL: [&str; 5] =
    ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

/// Demands a certificate of one of these trust domains. `bytes` says that no HTTP is read afterwards.
pub(super) fn transport_socket(trust_domains: &[String], bytes: bool) -> core::TransportSocket {
    let alpn: &[&str] = if bytes { &["istio-peer-exchange", "h2", "http/1.1"] } else { &["h2", "http/1.1"] };
    let message = tls::DownstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_params: Some(tls::TlsParameters {
                tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv12 as i32,
                ..Default::default()
            }),
            tls_certificate_sds_secret_configs: vec![secrets::from_agent(secrets::WORKLOAD)],
            alpn_protocols: alpn.iter().map(|protocol| (*protocol).to_owned()).collect(),
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(
                CombinedCertificateValidationContext {
                    default_validation_context: Some(tls::CertificateValidationContext {
                        match_typed_subject_alt_names: trust_domains.iter().map(identity).collect(),
                        ..Default::default()
                    }),
                    validation_context_sds_secret_config: Some(secrets::from_agent(secrets::ROOTS)),
                    ..Default::default()
                },
            )),
            ..Default::default()
        }),
        require_client_certificate: Some(true),
        ..Default::default()
    };
    socket(&message)
}

/// Ends TLS as a `Sidecar` describes it. Files are named to the agent, which serves and watches them; without one the
/// proxy reads them itself.
pub(super) fn server(settings: &ServerTlsSettings, agent: bool) -> core::TransportSocket {
    let demands = settings.mode == ServerTlsMode::Mutual;
    let mut common = tls::CommonTlsContext {
        alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
        ..Default::default()
    };
    let mut validation = tls::CertificateValidationContext {
        match_typed_subject_alt_names: secrets::subjects(&settings.subject_alt_names),
        verify_certificate_spki: settings.verify_certificate_spki.clone(),
        verify_certificate_hash: settings.verify_certificate_hash.clone(),
        ..Default::default()
    };
    let (certificate, key) = (&settings.server_certificate, &settings.private_key);
    if agent {
        common.tls_certificate_sds_secret_configs =
            vec![secrets::from_agent(&format!("file-cert:{certificate}~{key}"))];
        if demands {
            let roots = secrets::from_agent(&format!("file-root:{}", settings.ca_certificates));
            common.validation_context_type = Some(ValidationContextType::CombinedValidationContext(
                CombinedCertificateValidationContext {
                    default_validation_context: Some(validation),
                    validation_context_sds_secret_config: Some(roots),
                    ..Default::default()
                },
            ));
        }
    } else {
        common.tls_certificates = vec![tls::TlsCertificate {
            certificate_chain: Some(file(certificate)),
            private_key: Some(file(key)),
            ..Default::default()
        }];
        if demands {
            validation.trusted_ca = Some(file(&settings.ca_certificates));
            common.validation_context_type = Some(ValidationContextType::ValidationContext(validation));
        }
    }
    socket(&tls::DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(demands),
        ..Default::default()
    })
}

fn file(path: &str) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::Filename(path.to_owned())),
        ..Default::default()
    }
}

fn socket(message: &tls::DownstreamTlsContext) -> core::TransportSocket {
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(to_any(message))),
    }
}

/// Any identity of a trust domain.
fn identity(trust_domain: &String) -> tls::SubjectAltNameMatcher {
    tls::SubjectAltNameMatcher {
        san_type: tls::subject_alt_name_matcher::SanType::Uri as i32,
        matcher: Some(matcher::StringMatcher {
            match_pattern: Some(matcher::string_matcher::MatchPattern::Prefix(format!(
                "spiffe://{trust_domain}/"
            ))),
            ..Default::default()
        }),
        ..Default::default()
    }
}
