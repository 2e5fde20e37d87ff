//! Gateway: servers and their TLS.

use std::collections::HashMap;

use lateen_api::networking::{Gateway, Port, Server, ServerTlsMode, ServerTlsSettings, TlsProtocol};

use super::Context;
use super::names::{self, is_dns_label};
use crate::Verdict;

pub(super) fn judge(gateway: &Gateway, context: &Context<'_>, verdict: &mut Verdict) {
    if !context.name.is_empty() && !is_dns_label(context.name) {
        let message = format!("{:?} is not a Gateway's name", context.name);
        verdict.error("metadata.name", message, "letters, digits and hyphens");
    }
    names::selector_labels("spec.selector", &gateway.selector, verdict);
    if gateway.servers.is_empty() {
        verdict.error("spec.servers", "is empty", "add a server");
    }
    let mut ports: HashMap<&str, u32> = HashMap::new();
    for (index, one) in gateway.servers.iter().enumerate() {
        let path = format!("spec.servers[{index}]");
        server(&path, one, verdict);
        if let Some(other) = ports.insert(&one.port.name, one.port.number)
            && !one.port.name.is_empty()
        {
            let _ = other;
            verdict.error(
                format!("{path}.port.name"),
                format!("{:?} is used twice", one.port.name),
                "each server's port has a name of its own",
            );
        }
        let same = |earlier: &Server| !one.name.is_empty() && earlier.name == one.name;
        if gateway.servers[..index].iter().any(same) {
            verdict.warn(format!("{path}.name"), format!("{:?} is used twice", one.name), "rename one");
        }
        let tls_conflict = |earlier: &Server| {
            earlier.port.number == one.port.number
                && earlier.bind == one.bind
                && is_http(&earlier.port.protocol) != is_http(&one.port.protocol)
                && is_tls(&earlier.port.protocol) == is_tls(&one.port.protocol)
        };
        if gateway.servers[..index].iter().any(tls_conflict) {
            verdict.warn(
                format!("{path}.port.protocol"),
                "another server uses the same port with another protocol",
                "",
            );
        }
    }
}

fn is_http(protocol: &str) -> bool {
    let protocol = protocol.to_ascii_uppercase();
    matches!(protocol.as_str(), "HTTP" | "HTTP2" | "HTTP_PROXY" | "GRPC" | "GRPC-WEB")
}

fn is_tls(protocol: &str) -> bool {
    matches!(protocol.to_ascii_uppercase().as_str(), "HTTPS" | "TLS")
}

pub(super) fn server(path: &str, server: &Server, verdict: &mut Verdict) {
    if server.hosts.is_empty() {
        verdict.error(format!("{path}.hosts"), "is empty", "write \"*\" for all hosts");
    }
    for (index, host) in server.hosts.iter().enumerate() {
        gateway_host(&format!("{path}.hosts[{index}]"), host, verdict);
    }
    server_port(&format!("{path}.port"), &server.port, &server.bind, verdict);
    if let Some(socket) = server.bind.strip_prefix("unix://") {
        names::unix_socket(&format!("{path}.bind"), socket, verdict);
        if server.port.number != 0 {
            verdict.error(format!("{path}.port.number"), "a Unix socket has no port", "write 0");
        }
    } else if !server.bind.is_empty() && server.bind.parse::<std::net::IpAddr>().is_err() {
        verdict.error(
            format!("{path}.bind"),
            format!("{:?} is not an address", server.bind),
            "write an IP address or unix:// and a path",
        );
    }
    if let Some(tls) = &server.tls {
        if tls.https_redirect && !is_http(&server.port.protocol) {
            verdict.warn(
                format!("{path}.tls.httpsRedirect"),
                "tls.httpsRedirect should only be used with http servers",
                "put it on the HTTP server",
            );
        }
        server_tls(&format!("{path}.tls"), tls, verdict);
        let files = [&tls.ca_certificates, &tls.private_key, &tls.server_certificate];
        let ends = !matches!(tls.mode, ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough);
        let http = is_http(&server.port.protocol);
        if !is_tls(&server.port.protocol) && (!http || ends || files.into_iter().any(|file| !file.is_empty()))
        {
            verdict.error(
                format!("{path}.tls"),
                format!("protocol {} has no TLS", server.port.protocol),
                "use HTTPS or TLS; only httpsRedirect goes with HTTP",
            );
        } else if http && *tls != redirect_only(tls) {
            verdict.warn(
                format!("{path}.tls"),
                format!("has no effect on protocol {}, but for httpsRedirect", server.port.protocol),
                "leave the rest out",
            );
        }
    } else if is_tls(&server.port.protocol) {
        verdict.error(
            format!("{path}.tls"),
            format!("is missing for protocol {}", server.port.protocol),
            "set mode and credentialName",
        );
    }
}

fn redirect_only(tls: &ServerTlsSettings) -> ServerTlsSettings {
    ServerTlsSettings { https_redirect: tls.https_redirect, ..ServerTlsSettings::default() }
}

fn gateway_host(path: &str, host: &str, verdict: &mut Verdict) {
    let name = match host.split_once('/') {
        Some((namespace, name)) => {
            if !matches!(namespace, "*" | ".") && !is_dns_label(namespace) {
                verdict.error(
                    path,
                    format!("{namespace:?} is not a namespace"),
                    "write *, . or a namespace before the /",
                );
            }
            name
        }
        None => host,
    };
    if name.parse::<std::net::IpAddr>().is_err() {
        names::wildcard_host(path, name, verdict);
        if names::is_partial_wildcard(name) {
            verdict.error(
                path,
                format!("{name:?} has a wildcard inside of a label"),
                "write *. and a domain",
            );
        }
        if name != "*" && !name.contains('.') {
            verdict.error(
                path,
                format!("{name:?} is a short name"),
                "a gateway's hosts are whole names, such as reviews.example.com",
            );
        }
    }
}

pub(super) fn server_port(path: &str, port: &Port, bind: &str, verdict: &mut Verdict) {
    names::protocol(&format!("{path}.protocol"), &port.protocol, verdict);
    if matches!(port.protocol.to_ascii_uppercase().as_str(), "UDP") {
        verdict.warn(format!("{path}.protocol"), "gateways do not serve UDP", "");
    }
    if !(port.number == 0 && bind.starts_with("unix://")) {
        names::port(&format!("{path}.number"), port.number, verdict);
    }
    if port.name.is_empty() {
        verdict.error(format!("{path}.name"), "the port name is missing", "such as http");
    }
    if port.target_port != 0 {
        verdict.error(format!("{path}.targetPort"), "has no effect in a Gateway", "leave it out");
    }
}

pub(super) fn server_tls(path: &str, tls: &ServerTlsSettings, verdict: &mut Verdict) {
    if tls.mode == ServerTlsMode::IstioMutual {
        for (name, file) in certificate_sources(tls) {
            if !file.is_empty() {
                verdict.error(
                    format!("{path}.{name}"),
                    "is not for ISTIO_MUTUAL",
                    "the mesh has its own certificates; leave it out",
                );
            }
        }
        if !tls.credential_names.is_empty() || !tls.tls_certificates.is_empty() {
            verdict.error(
                path,
                "certificates are not for ISTIO_MUTUAL",
                "the mesh has its own; leave them out",
            );
        }
    }
    certificates(path, tls, verdict);
    let (least, most) = (tls.min_protocol_version, tls.max_protocol_version);
    if most != TlsProtocol::TlsAuto && least > most {
        verdict.warn(format!("{path}.minProtocolVersion"), "is newer than maxProtocolVersion", "");
    }
    let old = |version| matches!(version, TlsProtocol::TlsV1_0 | TlsProtocol::TlsV1_1);
    if old(least) && tls.cipher_suites.is_empty() {
        verdict.warn(
            format!("{path}.minProtocolVersion"),
            "no cipher suite that is on by default goes with it",
            "list cipherSuites",
        );
    }
    for (index, suite) in tls.cipher_suites.iter().enumerate() {
        let place = format!("{path}.cipherSuites[{index}]");
        // An operation on the list, as OpenSSL has them, or all.
        let is_operation = suite == "ALL" || !suite.starts_with(|first: char| first.is_ascii_alphanumeric());
        if !is_operation && !CIPHERS.contains(&suite.as_str()) {
            verdict.warn(&place, format!("{suite:?} is not known and is left out"), "use OpenSSL's names");
        }
        if tls.cipher_suites[..index].contains(suite) {
            verdict.warn(place, format!("{suite:?} is listed twice"), "");
        }
    }
    for (index, hash) in tls.verify_certificate_hash.iter().enumerate() {
        let hex: String = hash.chars().filter(|c| *c != ':').collect();
        if hex.len() != 64 || !hex.chars().all(|c| c.is_ascii_hexdigit()) {
            verdict.error(
                format!("{path}.verifyCertificateHash[{index}]"),
                "is not a SHA-256 in hex",
                "64 hex digits",
            );
        }
    }
    for (index, hash) in tls.verify_certificate_spki.iter().enumerate() {
        let valid = hash.len() == 44 && hash.ends_with('=') && !hash[..43].contains('=');
        if !valid {
            verdict.error(
                format!("{path}.verifyCertificateSpki[{index}]"),
                "is not a SHA-256 in base64",
                "44 characters",
            );
        }
    }
}

/// Where the certificates of a server come from, by field.
fn certificate_sources(tls: &ServerTlsSettings) -> [(&'static str, &String); 5] {
    [
        ("serverCertificate", &tls.server_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
        ("credentialName", &tls.credential_name),
        ("caCrl", &tls.ca_crl),
    ]
}

fn mode_name(mode: ServerTlsMode) -> &'static str {
    match mode {
        ServerTlsMode::Simple => "SIMPLE",
        ServerTlsMode::OptionalMutual => "OPTIONAL_MUTUAL",
        _ => "MUTUAL",
    }
}

fn certificates(path: &str, tls: &ServerTlsSettings, verdict: &mut Verdict) {
    let terminates =
        matches!(tls.mode, ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
    if matches!(tls.mode, ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough) {
        for (name, file) in certificate_sources(tls) {
            if !file.is_empty() {
                verdict.warn(
                    format!("{path}.{name}"),
                    "has no effect where TLS is passed through",
                    "leave it out",
                );
            }
        }
        if !tls.subject_alt_names.is_empty() {
            verdict.warn(
                format!("{path}.subjectAltNames"),
                "has no effect where TLS is passed through",
                "leave it out",
            );
        }
    }
    let sources = [
        (!tls.credential_name.is_empty(), "credentialName"),
        (!tls.credential_names.is_empty(), "credentialNames"),
        (!tls.tls_certificates.is_empty(), "tlsCertificates"),
    ];
    let given: Vec<&str> = sources.iter().filter(|(given, _)| *given).map(|(_, name)| *name).collect();
    if given.len() > 1 {
        verdict.error(path, format!("{} are set together", given.join(" and ")), "leave one of them");
    }
    let files = !tls.server_certificate.is_empty() && !tls.private_key.is_empty();
    if terminates && files && given.iter().any(|name| *name != "tlsCertificates") {
        verdict.error(
            path,
            format!("{} and certificate files are set together", given.join(" and ")),
            "leave one of them",
        );
    }
    // One for each kind of key.
    if terminates && (tls.tls_certificates.len() > 2 || tls.credential_names.len() > 2) {
        let message = format!("{} TLS can support up to 2 server certificates", mode_name(tls.mode));
        verdict.warn(path, message, "leave an RSA and an ECDSA certificate");
    }
    let checks_clients = matches!(tls.mode, ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
    if !tls.ca_crl.is_empty() && tls.mode == ServerTlsMode::Simple && tls.credential_name.is_empty() {
        verdict.error(
            format!("{path}.caCrl"),
            "is not for SIMPLE: clients show no certificate",
            "use MUTUAL",
        );
    }
    if !terminates || !tls.credential_name.is_empty() || !tls.credential_names.is_empty() {
        return;
    }
    if !tls.tls_certificates.is_empty() {
        if !tls.server_certificate.is_empty()
            || !tls.private_key.is_empty()
            || !tls.ca_certificates.is_empty() && !checks_clients
        {
            verdict.error(path, "tlsCertificates and single files are set together", "leave one of them");
        }
        for (index, certificate) in tls.tls_certificates.iter().enumerate() {
            let path = format!("{path}.tlsCertificates[{index}]");
            if certificate.server_certificate.is_empty() || certificate.private_key.is_empty() {
                verdict.error(path, "is not complete", "set serverCertificate and privateKey");
            }
        }
    } else {
        for (name, file) in [("serverCertificate", &tls.server_certificate), ("privateKey", &tls.private_key)]
        {
            if file.is_empty() {
                verdict.error(
                    format!("{path}.{name}"),
                    "is needed to end TLS here",
                    "name the file, or set credentialName",
                );
            }
        }
    }
    let trusted = !tls.ca_certificates.is_empty() || !tls.ca_cert_credential_name.is_empty();
    if checks_clients && !trusted && tls.tls_certificates.iter().all(|one| one.ca_certificates.is_empty()) {
        verdict.error(
            format!("{path}.caCertificates"),
            "is needed to check clients",
            "name the file, or set credentialName",
        );
    }
}

/// BoringSSL's suites for TLS 1.2, by OpenSSL's names.
const CIPHERS: &[&str] = &[
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-PSK-AES128-CBC-SHA",
    "ECDHE-PSK-AES256-CBC-SHA",
    "ECDHE-PSK-CHACHA20-POLY1305",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "PSK-AES128-CBC-SHA",
    "PSK-AES256-CBC-SHA",
    "DES-CBC3-SHA",
];
