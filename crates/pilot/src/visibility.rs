//! Who may see an object: `exportTo`, and what counts where it says nothing.

use lateen_model::Namespace;

/// How an object is seen from a namespace. Where several apply to one host, the nearer comes first (Istio prefers what
/// a client's own namespace keeps to itself).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reach {
    /// Kept to the client's own namespace.
    Own,
    /// Exported to the client's namespace by name.
    Named,
    /// Exported to all.
    Public,
}

/// How an object of `owner` is seen by clients of `client`; `None` where it is not. `defaults` count where `export_to`
/// is empty (`MeshConfig.defaultVirtualServiceExportTo` and its like).
pub(crate) fn reach(
    export_to: &[String],
    defaults: &[String],
    owner: &Namespace,
    client: &Namespace,
) -> Option<Reach> {
    let entries = if export_to.is_empty() { defaults } else { export_to };
    if entries.is_empty() || entries.iter().any(|entry| entry == "*") {
        return Some(Reach::Public);
    }
    if owner == client && entries.iter().any(|entry| entry == "." || *owner == *entry.as_str()) {
        return Some(Reach::Own);
    }
    entries.iter().any(|entry| *client == *entry.as_str()).then_some(Reach::Named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reaches() {
        for (name, entries, defaults, client, expected) in [
            ("nothing said", vec![], vec![], "b", Some(Reach::Public)),
            ("all by default", vec![], vec!["*"], "b", Some(Reach::Public)),
            ("own by default", vec![], vec!["."], "a", Some(Reach::Own)),
            ("own by default, elsewhere", vec![], vec!["."], "b", None),
            ("all said", vec!["*"], vec!["."], "b", Some(Reach::Public)),
            ("named", vec!["b", "c"], vec!["."], "c", Some(Reach::Named)),
            ("own by name", vec!["a"], vec![], "a", Some(Reach::Own)),
            ("nobody", vec!["~"], vec![], "a", None),
        ] {
            let strings = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<_>>();
            let seen = reach(&strings(entries), &strings(defaults), &"a".into(), &client.into());
            assert_eq!(seen, expected, "{name}");
        }
    }
}
