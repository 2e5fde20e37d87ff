//! What upstreams see: names, protocols, the client's address and certificate.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::pki::{self, Authority, Client, Leaf, downstream};
use crate::support::{Running, cluster, listener, listener_with, upstream};
use crate::terminating;

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn to_cluster() -> Value {
    listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]))
}

fn http_options(mut options: Value) -> Value {
    options["@type"] = format!("type.googleapis.com/{HTTP_OPTIONS}").into();
    json!({HTTP_OPTIONS: options})
}

/// A TLS server that says in its answers which name and protocols the client named.
async fn echo_hello(leaf: &Leaf, protocols: &[&str]) -> SocketAddr {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = socket.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let session = stream.get_ref().1;
                let name = session.server_name().unwrap_or("-").to_owned();
                let protocol =
                    session.alpn_protocol().map_or("-".into(), String::from_utf8_lossy).into_owned();
                let answer = format!("{name} {protocol}");
                let service = hyper::service::service_fn(move |_| {
                    let answer = answer.clone();
                    async move {
                        let body = http_body_util::Full::new(bytes::Bytes::from(answer));
                        Ok::<_, std::convert::Infallible>(http::Response::new(body))
                    }
                });
                let executor = hyper_util::rt::TokioExecutor::new();
                let _ = hyper_util::server::conn::auto::Builder::new(executor)
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

#[tokio::test]
async fn names_and_protocols() {
    let authority = Authority::new("ca");
    let leaf = authority.leaf(&["shop", "a.example"]);
    let both = echo_hello(&leaf, &["h2", "http/1.1"]).await;
    let old = echo_hello(&leaf, &["http/1.1"]).await;
    let trusting = json!({"validation_context": {"trusted_ca": {"inline_string": authority.pem()}}});
    let auto = json!({"auto_config": {}});
    let auto_name = json!({"upstream_http_protocol_options": {"auto_sni": true, "auto_san_validation": true},
        "auto_config": {}});
    for (name, address, tls, options, expect) in [
        ("a name as configured", both, json!({"sni": "a.example"}), None, Some("a.example http/1.1")),
        ("no name", both, json!({}), None, Some("- http/1.1")),
        ("HTTP/2 by ALPN", both, json!({"sni": "a.example"}), Some(auto.clone()), Some("a.example h2")),
        ("HTTP/1.1 by ALPN", old, json!({"sni": "a.example"}), Some(auto), Some("a.example http/1.1")),
        ("the name of the request", both, json!({}), Some(auto_name), Some("shop h2")),
        (
            "the name is in the certificate",
            both,
            json!({"sni": "a.example", "auto_sni_san_validation": true}),
            None,
            Some("a.example http/1.1"),
        ),
        (
            "the name is not in the certificate",
            both,
            json!({"sni": "b.example", "auto_sni_san_validation": true}),
            None,
            None,
        ),
    ] {
        let mut tls = tls;
        tls["common_tls_context"] = trusting.clone();
        let mut up = cluster("c", &[address]);
        up["transport_socket"] = pki::upstream(tls);
        if let Some(options) = options {
            up["typed_extension_protocol_options"] = http_options(options);
        }
        let proxy = Running::start(to_cluster(), json!([up]));
        for _ in 0..3 {
            let answer = proxy.get("/", &[]).await;
            match expect {
                Some(expect) => assert_eq!((answer.status, answer.body.as_str()), (200, expect), "{name}"),
                None => assert_eq!(answer.status, 503, "{name}: {answer:?}"),
            }
        }
    }
    // Another request's name is another connection.
    let mut up = cluster("c", &[both]);
    up["transport_socket"] = pki::upstream(json!({}));
    up["typed_extension_protocol_options"] = http_options(
        json!({"upstream_http_protocol_options": {"auto_sni": true}, "explicit_http_config": {"http_protocol_options": {}}}),
    );
    let proxy = Running::start(to_cluster(), json!([up]));
    for host in ["one.example", "two.example", "one.example:8443"] {
        let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = crate::support::Answer::parse(&proxy.raw(&text).await);
        assert_eq!(answer.body, format!("{} http/1.1", host.split(':').next().unwrap()));
    }
}

#[tokio::test]
async fn sockets_by_the_hosts_metadata() {
    let authority = Authority::new("ca");
    let (plain, hidden) = (upstream("plain").await, upstream("hidden").await);
    let secure = terminating(
        json!({"common_tls_context": {"tls_certificates": [pki::certificate(&authority.leaf(&["a.example"]))]}}),
        json!([cluster("c", &[hidden.address])]),
    );
    let endpoint = |address: SocketAddr, mode: Option<&str>| {
        let mut endpoint = json!({"endpoint": {"address": {"socket_address": {
            "address": address.ip().to_string(), "port_value": address.port()}}}});
        if let Some(mode) = mode {
            endpoint["metadata"] =
                json!({"filter_metadata": {"envoy.transport_socket_match": {"tlsMode": mode}}});
        }
        endpoint
    };
    let mut up = cluster("c", &[]);
    up["load_assignment"]["endpoints"] = json!([{"lb_endpoints": [
        endpoint(secure.address, Some("istio")), endpoint(plain.address, None)]}]);
    up["transport_socket_matches"] = json!([
        {"name": "tls", "match": {"tlsMode": "istio"}, "transport_socket": pki::upstream(json!({"common_tls_context": {
            "validation_context": {"trusted_ca": {"inline_string": authority.pem()}}}}))},
        {"name": "plain", "match": {}, "transport_socket": {"name": "envoy.transport_sockets.raw_buffer"}}]);
    let proxy = Running::start(to_cluster(), json!([up]));
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..8 {
        let answer = proxy.get("/", &[]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        *seen.entry(answer.body).or_default() += 1;
    }
    assert_eq!(seen.keys().map(String::as_str).collect::<Vec<_>>(), ["hidden", "plain"]);
}

#[tokio::test]
async fn the_clients_address_and_certificate() {
    let authority = Authority::new("ca");
    // PROXY protocol.
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = socket.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.unwrap();
        line
    });
    let mut up = cluster("c", &[address]);
    up["transport_socket"] = json!({"name": "p", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        "transport_socket": {"name": "envoy.transport_sockets.raw_buffer"}}});
    let proxy = Running::start(to_cluster(), json!([up]));
    assert_eq!(proxy.get("/", &[]).await.status, 200);
    let line = server.await.unwrap();
    assert!(line.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "), "{line}");
    assert!(line.ends_with(&format!(" {}\r\n", proxy.address.port())), "{line}");
    // The client's certificate.
    let server = upstream("one").await;
    let start = |mode: &str, details: Value| {
        let mut main = listener_with(json!({
            "forward_client_cert_details": mode, "set_current_client_cert_details": details,
            "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": {"cluster": "c"}}]}]}}));
        main["filter_chains"][0]["transport_socket"] = downstream(json!({"common_tls_context": {
            "tls_certificates": [pki::certificate(&authority.leaf(&["a.example", "spiffe://td/server"]))],
            "validation_context": {"trusted_ca": {"inline_string": authority.pem()}}}}));
        Running::start(main, json!([cluster("c", &[server.address])]))
    };
    let leaf = authority.leaf(&["client.example", "spiffe://td/client"]);
    let hash = lateen_identity::certificate::hex(&lateen_identity::certificate::sha256(&leaf.der()));
    let own = format!("By=spiffe://td/server;Hash={hash}");
    let more = format!("{own};Subject=\"CN=client.example\";URI=spiffe://td/client;DNS=client.example");
    let details = json!({"subject": true, "uri": true, "dns": true});
    let with = Some(&leaf);
    for (name, mode, details, client, expect) in [
        ("sanitize", "SANITIZE", json!({}), with, None),
        ("forward only", "FORWARD_ONLY", json!({}), with, Some("By=x".to_owned())),
        ("forward only, no certificate", "FORWARD_ONLY", json!({}), None, None),
        ("append", "APPEND_FORWARD", json!({}), with, Some(format!("By=x,{own}"))),
        ("set", "SANITIZE_SET", json!({}), with, Some(own.clone())),
        ("set, with more", "SANITIZE_SET", details, with, Some(more)),
        ("set, no certificate", "SANITIZE_SET", json!({}), None, None),
        ("always", "ALWAYS_FORWARD_ONLY", json!({}), None, Some("By=x".to_owned())),
    ] {
        let proxy = start(mode, details);
        let client = Client::new(&["http/1.1"], client);
        let answer =
            client.get(proxy.address, "a.example", "X-Forwarded-Client-Cert: By=x\r\n").await.expect(name);
        // The upstream's answer is in lower case; so is the comparison.
        let seen = answer.header("seen-x-forwarded-client-cert").map(str::to_owned);
        assert_eq!(seen, expect.map(|expect| expect.to_ascii_lowercase()), "{name}");
    }
}

#[tokio::test]
async fn bytes_through_tls_both_ways() {
    let authority = Authority::new("ca");
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = socket.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    let tcp = |cluster: &str| {
        json!({"name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "t", "cluster": cluster}})
    };
    let listen = |socket: Value| {
        let mut chain = json!({"filters": [tcp("c")]});
        if !socket.is_null() {
            chain["transport_socket"] = socket;
        }
        json!({"name": "main", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}, "filter_chains": [chain]})
    };
    let tls = json!({"common_tls_context": {"tls_certificates": [pki::certificate(&authority.leaf(&["a.example"]))]}});
    let inner = Running::start(listen(downstream(tls.clone())), json!([cluster("c", &[address])]));
    let mut up = cluster("c", &[inner.address]);
    up["transport_socket"] = pki::upstream(json!({"sni": "a.example", "common_tls_context": {
        "validation_context": {"trusted_ca": {"inline_string": authority.pem()}}}}));
    let outer = Running::start(listen(downstream(tls)), json!([up]));
    let stream = Client::new(&[], None).connect(outer.address, "a.example").await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let text: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    let sent = text.clone();
    let sender = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    let received =
        tokio::time::timeout(std::time::Duration::from_secs(60), read.read_to_end(&mut back)).await;
    received.expect("in time").unwrap();
    sender.await.unwrap();
    assert!(back == text, "{} of {} bytes", back.len(), text.len());
}

#[tokio::test]
async fn chains_and_certificates_by_name() {
    let authority = Authority::new("ca");
    let (one, two) = (upstream("one").await, upstream("two").await);
    let leaves =
        [authority.leaf(&["a.example"]), authority.leaf(&["*.b.example"]), authority.leaf(&["c.example"])];
    let route = |cluster: &str| listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]));
    let chain = |cluster: &str, names: &[&str], leaves: &[&Leaf]| {
        let mut chain = route(cluster)["filter_chains"][0].clone();
        let certificates: Vec<Value> = leaves.iter().copied().map(pki::certificate).collect();
        chain["filter_chain_match"] = json!({"server_names": names});
        chain["transport_socket"] =
            downstream(json!({"common_tls_context": {"tls_certificates": certificates}}));
        chain
    };
    let mut main = route("one");
    // No tls_inspector is configured: conditions on names bring it.
    main["filter_chains"] = json!([
        chain("one", &["a.example", "*.b.example"], &[&leaves[0], &leaves[1]]),
        chain("two", &["c.example"], &[&leaves[2]])
    ]);
    let proxy = Running::start(main, json!([cluster("one", &[one.address]), cluster("two", &[two.address])]));
    for (name, body, leaf) in [
        ("a.example", "one", &leaves[0]),
        ("x.b.example", "one", &leaves[1]),
        ("c.example", "two", &leaves[2]),
    ] {
        let client = Client::new(&[], None);
        let mut stream = client.connect(proxy.address, name).await.expect(name);
        assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], leaf.der(), "{name}");
        assert_eq!(pki::request(&mut stream, "").await.body, body, "{name}");
    }
    assert!(
        Client::new(&[], None).connect(proxy.address, "d.example").await.is_err(),
        "no chain is for this name"
    );
    // A ClientHello in pieces.
    let pieces = pki::Pieces::new(proxy.address).await;
    assert!(Client::new(&[], None).connect_over(pieces, "c.example").await.is_ok());
}
