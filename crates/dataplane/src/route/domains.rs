//! Envoy's order of domains: exact, then the longest `*.suffix`, then the longest `prefix.*`, then `*`.

use std::collections::HashMap;

type Table = HashMap<Box<[u8]>, usize, foldhash::fast::RandomState>;

/// Domains compiled to hash tables.
#[derive(Debug, Default)]
pub struct Domains {
    exact: Table,
    /// By length of the fixed part, longest first.
    suffixes: Vec<(usize, Table)>,
    prefixes: Vec<(usize, Table)>,
    default: Option<usize>,
}

impl Domains {
    /// Adds a domain; false if it is already there.
    pub fn insert(&mut self, domain: &str, index: usize) -> bool {
        let domain = domain.to_ascii_lowercase();
        if domain == "*" {
            let free = self.default.is_none();
            self.default.get_or_insert(index);
            return free;
        }
        let (tables, part) = if let Some(suffix) = domain.strip_prefix('*') {
            (&mut self.suffixes, suffix)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            (&mut self.prefixes, prefix)
        } else {
            return insert(&mut self.exact, &domain, index);
        };
        let at = match tables.binary_search_by(|(length, _)| part.len().cmp(length)) {
            Ok(at) => at,
            Err(at) => {
                tables.insert(at, (part.len(), Table::default()));
                at
            }
        };
        insert(&mut tables[at].1, part, index)
    }

    /// The index stored for a host.
    pub fn find(&self, host: &[u8]) -> Option<usize> {
        let lowered;
        let host = if host.iter().any(u8::is_ascii_uppercase) {
            lowered = host.to_ascii_lowercase();
            &lowered[..]
        } else {
            host
        };
        if let Some(index) = self.exact.get(host) {
            return Some(*index);
        }
        // The wildcard stands for at least one character.
        let suffix = self
            .suffixes
            .iter()
            .filter(|(length, _)| *length < host.len())
            .find_map(|(length, table)| table.get(&host[host.len() - length..]));
        let prefix = || {
            self.prefixes
                .iter()
                .filter(|(length, _)| *length < host.len())
                .find_map(|(length, table)| table.get(&host[..*length]))
        };
        suffix.or_else(prefix).copied().or(self.default)
    }
}

/// The first of equal domains stays.
fn insert(table: &mut Table, part: &str, index: usize) -> bool {
    let free = !table.contains_key(part.as_bytes());
    table.entry(part.as_bytes().into()).or_insert(index);
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoys_order() {
        let names = ["reviews", "*.example.com", "*.b.example.com", "reviews.*", "*", "a.example.com"];
        let mut domains = Domains::default();
        for (index, name) in names.iter().enumerate() {
            assert!(domains.insert(name, index), "{name}");
        }
        assert!(!domains.insert("REVIEWS", 9), "domains are the same whatever their case");
        for (host, expect) in [
            ("reviews", "reviews"),
            ("Reviews", "reviews"),
            ("a.example.com", "a.example.com"),
            ("x.example.com", "*.example.com"),
            ("x.b.example.com", "*.b.example.com"),
            (".example.com", "*"),
            ("reviews.default", "reviews.*"),
            ("other", "*"),
        ] {
            assert_eq!(domains.find(host.as_bytes()).map(|index| names[index]), Some(expect), "{host}");
        }
    }
}
