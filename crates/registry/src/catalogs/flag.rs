//! `--registry PROVIDER=ADDRESS[,FIELD=VALUE...]`: the same as an entry of `lateen.registries`.

use lateen_api::registries::{RegistryConfig, RegistryProvider};
use serde_json::{Map, Value};

/// Why a flag is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FlagError(String);

/// Fields of the flag that are not of that name in the configuration: `FLAG` and where it belongs.
const NESTED: [(&str, &str, &str); 7] = [
    ("ca-certificates", "tls", "caCertificates"),
    ("client-certificate", "tls", "clientCertificate"),
    ("private-key", "tls", "privateKey"),
    ("server-name", "tls", "serverName"),
    ("token-file", "credentials", "tokenFile"),
    ("user", "credentials", "user"),
    ("password-file", "credentials", "passwordFile"),
];

/// Lists of the configuration; repeating the field adds to them.
const LISTS: [&str; 3] = ["addresses", "datacenters", "namespaces"];

/// Reads a flag: `consul=http://127.0.0.1:8500,token-file=/run/token,namespace=shop`. Fields are those of the
/// configuration, in words with hyphens; `address`, `datacenter` and `namespaces` may be repeated.
pub fn parse_flag(text: &str) -> Result<RegistryConfig, FlagError> {
    let error = |message: String| FlagError(format!("--registry {text}: {message}"));
    let (provider, rest) = text
        .split_once('=')
        .ok_or_else(|| error("write PROVIDER=ADDRESS, as in consul=http://127.0.0.1:8500".to_owned()))?;
    let provider =
        RegistryProvider::ALL.into_iter().find(|known| known.as_str() == provider).ok_or_else(|| {
            let names: Vec<&str> = RegistryProvider::ALL.iter().map(|known| known.as_str()).collect();
            error(format!("{provider:?} is no provider; the providers are {}", names.join(", ")))
        })?;
    let mut object = Map::new();
    object.insert("provider".to_owned(), serde_json::to_value(provider).unwrap_or_default());
    for (index, part) in rest.split(',').enumerate() {
        let (name, value) = match part.split_once('=') {
            _ if index == 0 => ("address", part),
            Some(pair) => pair,
            None => return Err(error(format!("{part:?} is not FIELD=VALUE"))),
        };
        insert(&mut object, name, value);
    }
    let config: RegistryConfig =
        serde_json::from_value(Value::Object(object.clone())).map_err(|reason| error(reason.to_string()))?;
    // What reading leaves out was not known.
    let known = serde_json::to_value(&config).unwrap_or_default();
    let unknown = object.iter().find(|(name, value)| {
        let lost = known.get(*name).is_none_or(|kept| {
            kept.as_object().zip(value.as_object()).is_some_and(|(kept, given)| kept.len() < given.len())
        });
        lost && !is_empty(value)
    });
    match unknown {
        Some((name, _)) => Err(error(format!("there is no field {name:?}"))),
        None => Ok(config),
    }
}

fn insert(object: &mut Map<String, Value>, name: &str, value: &str) {
    if let Some((_, outer, inner)) = NESTED.iter().find(|(flag, ..)| *flag == name) {
        let place = object.entry((*outer).to_owned()).or_insert_with(|| Value::Object(Map::new()));
        place[*inner] = value.into();
        return;
    }
    let name = match name {
        "address" => "addresses".to_owned(),
        "datacenter" => "datacenters".to_owned(),
        name => camel_case(name),
    };
    if LISTS.contains(&name.as_str()) {
        let place = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = place {
            list.push(value.into());
        }
        return;
    }
    let value = match name.as_str() {
        "servicePort" | "connections" => {
            value.parse::<u32>().map(Value::from).unwrap_or_else(|_| value.into())
        }
        "onlyPassing" => value.parse::<bool>().map(Value::from).unwrap_or_else(|_| value.into()),
        "consistency" => value.to_ascii_uppercase().into(),
        _ => value.into(),
    };
    object.insert(name, value);
}

fn is_empty(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(false))
        || value.as_str().is_some_and(str::is_empty)
        || value.as_u64() == Some(0)
        || value == "DEFAULT"
}

fn camel_case(words: &str) -> String {
    let mut name = String::new();
    for (index, word) in words.split('-').enumerate() {
        let mut letters = word.chars();
        match letters.next() {
            Some(first) if index > 0 => {
                name.push(first.to_ascii_uppercase());
                name.push_str(letters.as_str());
            }
            _ => name.push_str(word),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_api::registries::RegistryCredentials;

    #[test]
    fn flags() {
        let config = parse_flag(
            "consul=http://a:8500,address=http://b:8500,name=east,service-port=8080,only-passing=true,\
             token-file=/run/token,datacenter=dc1,datacenter=dc2,timeout=3s,consistency=stale",
        )
        .unwrap();
        let expected = RegistryConfig {
            provider: RegistryProvider::Consul,
            addresses: vec!["http://a:8500".into(), "http://b:8500".into()],
            name: "east".into(),
            service_port: 8080,
            only_passing: true,
            datacenters: vec!["dc1".into(), "dc2".into()],
            timeout: Some(lateen_api::Duration::from_secs(3)),
            consistency: lateen_api::registries::RegistryConsistency::Stale,
            credentials: Some(RegistryCredentials {
                token_file: "/run/token".into(),
                ..RegistryCredentials::default()
            }),
            ..RegistryConfig::default()
        };
        assert_eq!(config, expected);
        assert_eq!(parse_flag("files=/etc/services").unwrap().addresses, ["/etc/services"]);
        for (name, flag, expected) in [
            ("no provider", "zookeeper=http://a:8500", "the providers are consul"),
            ("no address", "consul", "PROVIDER=ADDRESS"),
            ("unknown field", "consul=http://a,tokens=x", "there is no field \"tokens\""),
            ("no value", "consul=http://a,token-file", "is not FIELD=VALUE"),
            ("no number", "consul=http://a,service-port=x", "u32"),
        ] {
            let error = parse_flag(flag).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
    }
}
