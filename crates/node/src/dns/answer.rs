//! From a question to the answer that the zone has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::records::{Records, address_data};
use super::{CLUSTER_DOMAIN, TTL};

/// Links of a chain of names that we follow.
const CHAIN: usize = 8;

/// What is to be done with a query.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Send this.
    Answer(Message),
    /// The name is not ours: ask the host's resolvers.
    Forward,
    /// A Service is another name outside the zone: ask for that one and add what comes.
    Continue(Message, Name),
}

/// Answers what the zone can answer.
pub(super) fn answer(records: &Records, query: &Message) -> Outcome {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_queries(query.queries.iter().cloned());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(1232).set_version(0);
        response.set_edns(edns);
    }
    let refuse = |mut response: Message, code| {
        response.metadata.response_code = code;
        Outcome::Answer(response)
    };
    if query.metadata.op_code != OpCode::Query || query.metadata.message_type != MessageType::Query {
        return refuse(response, ResponseCode::NotImp);
    }
    let [question] = query.queries.as_slice() else { return refuse(response, ResponseCode::FormErr) };
    if question.query_class() != DNSClass::IN {
        return refuse(response, ResponseCode::Refused);
    }
    let mut name = question.name().clone();
    for _ in 0..CHAIN {
        let text = lower(&name);
        let ours = in_zone(&text);
        let Some(data) = lookup(records, &text) else {
            if ours {
                return negative(response, ResponseCode::NXDomain);
            }
            return match response.answers.is_empty() {
                true => Outcome::Forward,
                false => Outcome::Continue(response, name),
            };
        };
        response.metadata.authoritative = true;
        let wanted = question.query_type();
        if let Some(target) = data.iter().find_map(|data| match data {
            RData::CNAME(target) if wanted != RecordType::CNAME => Some(target.0.clone()),
            _ => None,
        }) {
            response.add_answer(Record::from_rdata(name, TTL, RData::CNAME(CNAME(target.clone()))));
            name = target;
            continue;
        }
        add_matching(&mut response, &name, &data, wanted);
        if wanted == RecordType::SRV {
            add_targets(&mut response, records);
        }
        return match response.answers.is_empty() {
            true => negative(response, ResponseCode::NoError),
            false => Outcome::Answer(response),
        };
    }
    response.answers.clear();
    refuse(response, ResponseCode::ServFail)
}

fn in_zone(name: &str) -> bool {
    name == CLUSTER_DOMAIN || name.strip_suffix(CLUSTER_DOMAIN).is_some_and(|rest| rest.ends_with('.'))
}

/// Lower case, no final dot.
fn lower(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.len() > 1 && text.ends_with('.') {
        text.pop();
    }
    text
}

fn lookup(records: &Records, name: &str) -> Option<Vec<RData>> {
    if let Some(data) = records.get(name) {
        return Some(data.to_vec());
    }
    pod_address(name).map(|address| vec![address_data(address)])
}

/// `10-244-0-7.NAMESPACE.pod.cluster.local` is the address it spells.
fn pod_address(name: &str) -> Option<IpAddr> {
    let rest = name.strip_suffix(CLUSTER_DOMAIN)?.strip_suffix(".pod.")?;
    let (host, namespace) = rest.split_once('.')?;
    if namespace.is_empty() || namespace.contains('.') {
        return None;
    }
    let v4 = host.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| host.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

fn add_matching(response: &mut Message, name: &Name, data: &[RData], wanted: RecordType) {
    let mut matching: Vec<&RData> =
        data.iter().filter(|data| wanted == RecordType::ANY || data.record_type() == wanted).collect();
    // Many clients take the first address: each gets another.
    if matching.len() > 1 {
        let turn = rand::random_range(0..matching.len());
        matching.rotate_left(turn);
    }
    for data in matching {
        response.add_answer(Record::from_rdata(name.clone(), TTL, data.clone()));
    }
}

/// The addresses of SRV targets, which clients ask for next.
fn add_targets(response: &mut Message, records: &Records) {
    let targets: Vec<Name> = response
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv.target.clone()),
            _ => None,
        })
        .collect();
    for target in targets {
        for data in lookup(records, &lower(&target)).unwrap_or_default() {
            if matches!(data.record_type(), RecordType::A | RecordType::AAAA) {
                response.add_additional(Record::from_rdata(target.clone(), TTL, data));
            }
        }
    }
}

/// No such name, or no such data: with the record that says how long to believe it (RFC 2308).
fn negative(mut response: Message, code: ResponseCode) -> Outcome {
    response.metadata.authoritative = true;
    response.metadata.response_code = code;
    let name = |text: &str| Name::from_ascii(text).unwrap_or_default();
    let zone = name(&format!("{CLUSTER_DOMAIN}."));
    let (server, person) =
        (name(&format!("ns.dns.{CLUSTER_DOMAIN}.")), name(&format!("hostmaster.{CLUSTER_DOMAIN}.")));
    let start = RData::SOA(SOA::new(server, person, 1, 7200, 1800, 86400, TTL));
    response.add_authority(Record::from_rdata(zone, TTL, start));
    Outcome::Answer(response)
}

#[cfg(test)]
mod tests {
    use super::super::{Endpoint, Service, ServiceKind, ServicePort};
    use super::*;
    use hickory_proto::op::Query;

    fn zone() -> Records {
        let service = |name: &str, kind: ServiceKind, port: &str| Service {
            namespace: "books".into(),
            name: name.into(),
            kind,
            ports: vec![ServicePort { name: port.into(), protocol: "TCP".into(), port: 9080 }],
        };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let endpoint = |text: &str, hostname: Option<&str>| Endpoint {
            address: address(text),
            hostname: hostname.map(str::to_owned),
        };
        Records::new(&[
            service(
                "reviews",
                ServiceKind::ClusterIp(vec![address("10.96.3.4"), address("fd96::4")]),
                "http",
            ),
            service(
                "ratings",
                ServiceKind::Headless(vec![
                    endpoint("10.244.0.5", Some("first")),
                    endpoint("10.244.0.6", None),
                ]),
                "http",
            ),
            service("alias", ServiceKind::ExternalName("reviews.books.svc.cluster.local".into()), ""),
            service("away", ServiceKind::ExternalName("www.example.com".into()), ""),
            service("round", ServiceKind::ExternalName("round.books.svc.cluster.local".into()), ""),
            service("nobody", ServiceKind::Headless(vec![]), "http"),
        ])
    }

    fn ask(name: &str, kind: RecordType) -> (String, Vec<String>, Message) {
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        match answer(&zone(), &query) {
            Outcome::Answer(message) => {
                let mut data: Vec<_> = message.answers.iter().map(|record| record.data.to_string()).collect();
                data.sort();
                (format!("{:?}", message.metadata.response_code), data, message)
            }
            Outcome::Forward => ("forward".into(), vec![], query),
            Outcome::Continue(_, name) => (format!("continue {name}"), vec![], query),
        }
    }

    #[test]
    fn answers() {
        use RecordType::{A, AAAA, CNAME, MX, PTR, SRV};
        let check = |name: &str, kind: RecordType, code: &str, expected: &[&str]| {
            let (found, data, _) = ask(name, kind);
            assert_eq!(
                (found.as_str(), data),
                (code, expected.iter().map(|text| (*text).to_owned()).collect()),
                "{name}"
            );
        };
        check("reviews.books.svc.cluster.local.", A, "NoError", &["10.96.3.4"]);
        check("Reviews.Books.SVC.cluster.local.", AAAA, "NoError", &["fd96::4"]);
        check("reviews.books.svc.cluster.local.", MX, "NoError", &[]);
        check("reviews.shop.svc.cluster.local.", A, "NXDomain", &[]);
        check("reviews.svc.cluster.local.", A, "NXDomain", &[]);
        check("books.svc.cluster.local.", A, "NoError", &[]);
        check("www.example.com.svc.cluster.local.", A, "NXDomain", &[]);
        check("ratings.books.svc.cluster.local.", A, "NoError", &["10.244.0.5", "10.244.0.6"]);
        check("first.ratings.books.svc.cluster.local.", A, "NoError", &["10.244.0.5"]);
        check("10-244-0-6.ratings.books.svc.cluster.local.", A, "NoError", &["10.244.0.6"]);
        check("nobody.books.svc.cluster.local.", A, "NoError", &[]);
        check(
            "_http._tcp.reviews.books.svc.cluster.local.",
            SRV,
            "NoError",
            &["0 100 9080 reviews.books.svc.cluster.local."],
        );
        check(
            "_http._tcp.ratings.books.svc.cluster.local.",
            SRV,
            "NoError",
            &[
                "0 100 9080 10-244-0-6.ratings.books.svc.cluster.local.",
                "0 100 9080 first.ratings.books.svc.cluster.local.",
            ],
        );
        check("4.3.96.10.in-addr.arpa.", PTR, "NoError", &["reviews.books.svc.cluster.local."]);
        check("5.0.244.10.in-addr.arpa.", PTR, "NoError", &["first.ratings.books.svc.cluster.local."]);
        check("9.9.9.9.in-addr.arpa.", PTR, "forward", &[]);
        check(
            "alias.books.svc.cluster.local.",
            A,
            "NoError",
            &["10.96.3.4", "reviews.books.svc.cluster.local."],
        );
        check("away.books.svc.cluster.local.", CNAME, "NoError", &["www.example.com."]);
        check("away.books.svc.cluster.local.", A, "continue www.example.com.", &[]);
        check("round.books.svc.cluster.local.", A, "ServFail", &[]);
        check("10-1-2-3.books.pod.cluster.local.", A, "NoError", &["10.1.2.3"]);
        check("x-1-2-3.books.pod.cluster.local.", A, "NXDomain", &[]);
        check("example.com.", A, "forward", &[]);
        check("notcluster.local.", A, "forward", &[]);
    }

    #[test]
    fn answers_carry_what_resolvers_look_at() {
        let (_, _, message) = ask("reviews.shop.svc.cluster.local.", RecordType::A);
        assert!(message.metadata.authoritative && message.metadata.recursion_available);
        assert_eq!(message.metadata.id, 7);
        assert_eq!(message.authorities[0].data.record_type(), RecordType::SOA);
        let (_, _, message) = ask("_http._tcp.ratings.books.svc.cluster.local.", RecordType::SRV);
        assert_eq!(message.additionals.len(), 2, "the targets' addresses come along");
    }
}
