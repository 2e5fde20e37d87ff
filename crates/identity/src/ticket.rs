//! Session tickets (RFC 5077, RFC 8446 4.6.1): sealed with keys of our own or with configured ones.
//!
//! A ticketer belongs to one TLS context. A ticket of another context cannot be opened, so a session is never resumed
//! where its certificates would not have been accepted.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use rustls::server::ProducesTickets;
use rustls::ticketer::TicketRotator;

use crate::tls::TlsError;

const NAME: usize = 16;
const TAG: usize = 16;

struct Key {
    name: [u8; NAME],
    key: LessSafeKey,
}

/// Seals with the first key and opens with all of them
/// (`envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys`).
pub struct Ticketer {
    keys: Vec<Key>,
    lifetime: u32,
}

impl std::fmt::Debug for Ticketer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Ticketer")
    }
}

impl Ticketer {
    /// With keys of 80 bytes each, as Envoy has them; `context` is what sessions are tied to besides.
    pub fn with_keys(keys: &[Vec<u8>], context: &[u8], lifetime: u32) -> Result<Arc<Self>, TlsError> {
        let keys = keys.iter().map(|key| derive(key, context)).collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(Self { keys, lifetime }))
    }

    fn random() -> Result<Self, TlsError> {
        let mut secret = vec![0; 80];
        random(&mut secret)?;
        Ok(Self { keys: vec![derive(&secret, &[])?], lifetime: 0 })
    }
}

/// Keys that nobody knows, made anew so often that no session is resumed later than `lifetime` seconds after it
/// began.
#[derive(Debug)]
pub struct Rotating {
    tickets: TicketRotator,
    lifetime: u32,
}

impl Rotating {
    /// The first key is made at once.
    pub fn new(lifetime: u32) -> Result<Arc<Self>, TlsError> {
        // The key before the present one opens tickets, too.
        let tickets = TicketRotator::new((lifetime / 2).max(1), || {
            let ticketer = Ticketer::random().map_err(|_| rustls::crypto::GetRandomFailed)?;
            Ok(Box::new(ticketer))
        })?;
        Ok(Arc::new(Self { tickets, lifetime }))
    }
}

impl ProducesTickets for Rotating {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.lifetime
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.tickets.encrypt(plain)
    }

    fn decrypt(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        self.tickets.decrypt(sealed)
    }
}

fn random(out: &mut [u8]) -> Result<(), TlsError> {
    aws_lc_rs::rand::fill(out).map_err(|_| TlsError::Random)
}

fn derive(secret: &[u8], context: &[u8]) -> Result<Key, TlsError> {
    let wrong = |reason: &str| TlsError::Pem { what: "the session ticket key", reason: reason.to_owned() };
    if secret.len() != 80 {
        return Err(wrong("it has to have 80 bytes"));
    }
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &secret[..NAME]);
    let extracted = salt.extract(&secret[NAME..]);
    let info = [context];
    let expanded = extracted.expand(&info, &AES_256_GCM).map_err(|_| wrong("it cannot be used"))?;
    let mut name = [0; NAME];
    name.copy_from_slice(&secret[..NAME]);
    Ok(Key { name, key: LessSafeKey::new(UnboundKey::from(expanded)) })
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        !self.keys.is_empty()
    }

    fn lifetime(&self) -> u32 {
        self.lifetime
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        // Configured keys are shared by processes, so no counter keeps nonces apart.
        let mut nonce = [0; NONCE_LEN];
        random(&mut nonce).ok()?;
        let mut out = Vec::with_capacity(NAME + NONCE_LEN + plain.len() + TAG);
        out.extend_from_slice(&key.name);
        out.extend_from_slice(&nonce);
        let mut sealed = plain.to_vec();
        key.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(key.name), &mut sealed)
            .ok()?;
        out.extend_from_slice(&sealed);
        Some(out)
    }

    fn decrypt(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = sealed.split_at_checked(NAME)?;
        let (nonce, rest) = rest.split_at_checked(NONCE_LEN)?;
        let nonce: [u8; NONCE_LEN] = nonce.try_into().ok()?;
        let key = self.keys.iter().find(|key| key.name == name)?;
        let mut plain = rest.to_vec();
        let length = key
            .key
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(key.name), &mut plain)
            .ok()?
            .len();
        plain.truncate(length);
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_context_decide_who_opens() {
        let (one, two) = (vec![1; 80], vec![2; 80]);
        let make = |keys: &[Vec<u8>], context: &[u8]| Ticketer::with_keys(keys, context, 60).unwrap();
        let ticket = make(std::slice::from_ref(&one), b"a").encrypt(b"session").unwrap();
        for (name, ticketer, expect) in [
            ("the same key", make(std::slice::from_ref(&one), b"a"), true),
            ("an older key", make(&[two.clone(), one.clone()], b"a"), true),
            ("another key", make(&[two], b"a"), false),
            ("another context", make(&[one], b"b"), false),
            ("a key of its own", Arc::new(Ticketer::random().unwrap()), false),
        ] {
            assert_eq!(ticketer.decrypt(&ticket).as_deref(), expect.then_some(&b"session"[..]), "{name}");
        }
        assert!(Ticketer::with_keys(&[vec![1; 48]], b"", 60).is_err());
        let rotating = Rotating::new(60).unwrap();
        assert_eq!(rotating.decrypt(b"short"), None);
        assert_eq!(
            rotating.decrypt(&rotating.encrypt(b"session").unwrap()).as_deref(),
            Some(&b"session"[..])
        );
        assert_eq!(rotating.decrypt(&ticket), None);
    }
}
