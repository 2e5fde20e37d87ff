use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(
    issuer: &Issuer<'_, KeyPair>,
    change: impl FnOnce(&mut CertificateParams),
) -> CertificateDer<'static> {
    let mut params = CertificateParams::new(vec!["*.example".into(), "10.0.0.1".into()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://td/ns/a/sa/b".try_into().unwrap()));
    params.subject_alt_names.push(SanType::Rfc822Name("a@example".try_into().unwrap()));
    params.serial_number = Some(SerialNumber::from(7));
    change(&mut params);
    params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
}

fn now() -> UnixTime {
    UnixTime::now()
}

fn trusting(authority: &Authority) -> Validation {
    Validation { trusted: Some(vec![authority.der().clone()]), ..Validation::default() }
}

fn check(validation: Validation, leaf: &CertificateDer<'_>) -> Result<(), Rejection> {
    let verifier = Verifier::new(validation, false).unwrap();
    verifier.verify(leaf, &[], now(), KeyUsage::client_auth(), None)
}

#[test]
fn chains_and_time() {
    let (ours, other) = (authority("ours"), authority("other"));
    let good = leaf(&ours, |_| {});
    let expired = leaf(&ours, |params| params.not_after = date_time_ymd(2020, 1, 1));
    let early = leaf(&ours, |params| params.not_before = date_time_ymd(2999, 1, 1));
    let chain = |reason| Err(Rejection::Chain { depth: 0, reason });
    let allow = |validation| Validation { allow_expired: true, ..validation };
    for (name, validation, certificate, expect) in [
        ("trusted", trusting(&ours), &good, Ok(())),
        ("nothing asked", Validation::default(), &good, Ok(())),
        ("another authority", trusting(&other), &good, chain("unable to get local issuer certificate")),
        ("expired", trusting(&ours), &expired, chain("certificate has expired")),
        ("too early", trusting(&ours), &early, chain("certificate is not yet valid")),
        ("expired, and allowed", allow(trusting(&ours)), &expired, Ok(())),
        ("too early, and allowed", allow(trusting(&ours)), &early, Ok(())),
        (
            "expired, allowed, of another authority",
            allow(trusting(&other)),
            &expired,
            chain("unable to get local issuer certificate"),
        ),
        ("untrusted, and accepted", Validation { accept_untrusted: true, ..trusting(&other) }, &good, Ok(())),
        (
            "trusted itself",
            Validation { trusted: Some(vec![good.clone()]), ..Validation::default() },
            &good,
            Ok(()),
        ),
    ] {
        assert_eq!(check(validation, certificate), expect, "{name}");
    }
}

#[test]
fn intermediates_and_their_number() {
    let root = authority("root");
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "middle");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let middle = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
    let certificate = leaf(&middle, |_| {});
    let verify = |max_depth, intermediates: &[CertificateDer<'_>]| {
        let verifier = Verifier::new(Validation { max_depth, ..trusting(&root) }, false).unwrap();
        verifier.verify(&certificate, intermediates, now(), KeyUsage::server_auth(), None)
    };
    let shown = [middle.der().clone()];
    assert_eq!(verify(None, &shown), Ok(()));
    assert_eq!(verify(Some(1), &shown), Ok(()));
    assert!(verify(Some(0), &shown).is_err());
    assert!(verify(None, &[]).is_err());
}

#[test]
fn names() {
    let ours = authority("ours");
    let certificate = leaf(&ours, |_| {});
    let exact = |kind, name: &str| SanMatcher { kind, rule: SanRule::Exact(name.to_owned()) };
    let with = |kind, test: fn(&str) -> bool| SanMatcher { kind, rule: SanRule::Matches(Box::new(test)) };
    for (name, matchers, expect) in [
        ("DNS through a wildcard", vec![exact(SanKind::Dns, "a.example")], true),
        ("DNS two labels below", vec![exact(SanKind::Dns, "a.b.example")], false),
        ("DNS by suffix", vec![with(SanKind::Dns, |name| name.ends_with(".example"))], true),
        ("URI", vec![exact(SanKind::Uri, "spiffe://td/ns/a/sa/b")], true),
        ("URI by prefix", vec![with(SanKind::Uri, |name| name.starts_with("spiffe://td/"))], true),
        ("URI is no prefix", vec![exact(SanKind::Uri, "spiffe://td/ns/a")], false),
        ("the kind counts", vec![exact(SanKind::Dns, "spiffe://td/ns/a/sa/b")], false),
        ("IP address", vec![exact(SanKind::Ip, "10.0.0.1")], true),
        ("mail", vec![exact(SanKind::Email, "a@example")], true),
        ("one of several", vec![exact(SanKind::Email, "b@example"), exact(SanKind::Ip, "10.0.0.1")], true),
        ("none of several", vec![exact(SanKind::Email, "b"), exact(SanKind::Ip, "10.0.0.2")], false),
    ] {
        let found = check(Validation { names: matchers, ..trusting(&ours) }, &certificate);
        assert_eq!(found.is_ok(), expect, "{name}");
        assert!(matches!(found, Ok(()) | Err(Rejection::Names { .. })), "{name}");
    }
}

#[test]
fn the_name_of_the_connection() {
    let ours = authority("ours");
    let certificate = leaf(&ours, |_| {});
    let verifier =
        Verifier::new(Validation { name_from_connection: true, ..trusting(&ours) }, false).unwrap();
    for (name, expect) in [("a.example", true), ("example", false), ("10.0.0.1", true), ("10.0.0.2", false)] {
        let server = ServerName::try_from(name).unwrap();
        let found = verifier.verify(&certificate, &[], now(), KeyUsage::server_auth(), Some(&server));
        assert_eq!(found.is_ok(), expect, "{name}");
        assert!(matches!(found, Ok(()) | Err(Rejection::NameOfConnection { .. })), "{name}");
    }
}

#[test]
fn reasons_survive_the_tls_library() {
    let chain = |reason| Rejection::Chain { depth: 0, reason };
    for (reason, expect) in [
        (chain("certificate has expired"), chain("certificate has expired")),
        (chain("CRL has expired"), chain("CRL has expired")),
        (chain(SELF_SIGNED), chain("unable to get local issuer certificate")),
        (Rejection::Pins, Rejection::Pins),
    ] {
        assert_eq!(Rejection::of(&rustls::Error::from(reason)), Some(expect));
    }
    let names = Rejection::Names { found: vec!["a".into(), "spiffe://td/b".into()] };
    assert_eq!(names.to_string(), "verify cert failed: SAN matcher, certificate SANs are [a, spiffe://td/b]");
    assert_eq!(Rejection::of(&rustls::Error::DecryptError), None);
}

#[test]
fn pins() {
    let certificate = leaf(&authority("ours"), |_| {});
    let key = public_key_sha256(&certificate).unwrap();
    let hash = sha256(&certificate);
    for (name, public_keys, certificates, expect) in [
        ("key", vec![key], vec![], Ok(())),
        ("certificate", vec![], vec![hash], Ok(())),
        ("either is enough", vec![[0; 32]], vec![hash], Ok(())),
        ("another key", vec![[0; 32]], vec![], Err(Rejection::Pins)),
        ("another certificate", vec![], vec![[0; 32]], Err(Rejection::Pins)),
    ] {
        let validation = Validation { public_keys, certificates, ..Validation::default() };
        assert_eq!(check(validation, &certificate), expect, "{name}");
    }
}

#[test]
fn revocation() {
    let ours = authority("ours");
    let list = |serial: u64| {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2999, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2021, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&ours).unwrap().der().clone()
    };
    let certificate = leaf(&ours, |_| {});
    let with = |lists| Validation { revoked: lists, ..trusting(&ours) };
    assert_eq!(check(with(vec![list(8)]), &certificate), Ok(()));
    assert_eq!(
        check(with(vec![list(7)]), &certificate),
        Err(Rejection::Chain { depth: 0, reason: "certificate revoked" })
    );
}

#[test]
fn spiffe_trust_domains() {
    let (ours, other) = (authority("ours"), authority("other"));
    let certificate = leaf(&ours, |_| {});
    let domains = |domain: &str, authority: &Authority| Validation {
        trust_domains: Some([(domain.to_owned(), vec![authority.der().clone()])].into()),
        ..Validation::default()
    };
    for (name, validation, expect) in [
        ("its domain", domains("td", &ours), true),
        ("its domain, another authority", domains("td", &other), false),
        ("another domain", domains("other", &ours), false),
    ] {
        assert_eq!(check(validation, &certificate).is_ok(), expect, "{name}");
    }
}

#[test]
fn who_has_to_show_a_certificate() {
    let ours = authority("ours");
    let name = || vec![SanMatcher { kind: SanKind::Dns, rule: SanRule::Exact("a".into()) }];
    for (text, validation, required, expect) in [
        ("trusted authorities", trusting(&ours), false, false),
        ("required", trusting(&ours), true, true),
        ("names", Validation { names: name(), ..trusting(&ours) }, false, true),
        (
            "names, untrusted",
            Validation { names: name(), accept_untrusted: true, ..trusting(&ours) },
            false,
            false,
        ),
    ] {
        assert_eq!(Verifier::new(validation, required).unwrap().client_auth_mandatory(), expect, "{text}");
    }
}
