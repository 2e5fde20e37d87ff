use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::metadata::{Struct, Value};
use crate::stream_info::{
    CertificateInfo, ConnectionInfo, HeadSize, Protocol, ResponseFlags, Timing, TlsInfo,
};

fn text(value: &str) -> Value {
    Value::String(value.into())
}

fn info() -> StreamInfo {
    let mut info = StreamInfo {
        start_time: Duration::from_millis(1_763_634_672_045),
        protocol: Some(Protocol::Http11),
        upstream_protocol: Some(Protocol::Http2),
        response_code: 200,
        response_code_details: Some("via upstream"),
        upstream_transport_failure: Some("connection refused".to_owned()),
        duration: Some(Duration::from_micros(12_900)),
        request_duration: Some(Duration::from_micros(1500)),
        response_duration: Some(Duration::from_millis(10)),
        bytes_received: 5,
        bytes_sent: 2,
        upstream_host: Some("10.0.0.1:80".into()),
        upstream_host_name: Some("host.example:81".into()),
        upstream_cluster: Some("outbound|80||a".into()),
        upstream_stat_name: Some("a_alias".into()),
        upstream_connection_id: Some(7),
        downstream_local_address: "10.1.2.3:9080".parse().ok(),
        downstream_remote_address: "10.9.8.7:5000".parse().ok(),
        downstream_direct_address: "[::1]:6000".parse().ok(),
        server_name: Some("sni.example".into()),
        route_name: Some("default".into()),
        virtual_cluster: Some("vc".into()),
        attempts: 2,
        downstream_head: HeadSize { bytes: 102, line: 17, fields: 5 },
        timing: Timing { upstream_send_begin: Some(Duration::from_micros(300)), ..Timing::default() },
        local_reply_body: "no".into(),
        random: 0x1234_5678_9abc_def0,
        ..StreamInfo::default()
    };
    info.flags.set(ResponseFlags::RETRY_LIMIT);
    info.flags.set(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
    let inner: Struct = [("inner", text("x"))].into_iter().collect();
    let fields: Struct = [
        ("key", text("value")),
        ("number", Value::Number(5.0)),
        ("list", Value::List(vec![Value::Number(1.5), text("a\"b")])),
        ("object", Value::Struct(inner)),
        ("flag", Value::Bool(true)),
    ]
    .into_iter()
    .collect();
    info.metadata.merge("com.test", fields.clone());
    let mut cluster = crate::metadata::Metadata::default();
    cluster.merge("com.test", fields);
    info.cluster_metadata = Some(Arc::new(cluster));
    info.filter_state.set("state", "of filter");
    let peer = CertificateInfo {
        subject: "CN=a".into(),
        uris: vec!["spiffe://td/ns/n/sa/a".into(), "other:b".into()],
        not_before: Duration::from_secs(1_763_634_672),
        ..CertificateInfo::default()
    };
    let tls = TlsInfo {
        version: "TLSv1.3",
        cipher: "TLS_AES_128_GCM_SHA256".into(),
        peer: Some(peer.into()),
        ..TlsInfo::default()
    };
    info.connection = Some(Arc::new(ConnectionInfo {
        id: 3,
        filter_chain: Some("chain".into()),
        tls: Some(Arc::new(tls)),
        ..ConnectionInfo::default()
    }));
    info
}

fn with_source<R>(run: impl FnOnce(&Source<'_>) -> R) -> R {
    let mut request = RequestHead::new("GET", "reviews", "/a?b=1&c=x%20y");
    request.headers.append("user-agent", "curl");
    request.headers.append("x-request-id", "id-1");
    request.headers.append("x-envoy-original-path", "/before?q");
    request.headers.append("content-type", "application/grpc");
    let mut response = ResponseHead::new(200);
    response.headers.append("server", "x");
    let mut trailers = Headers::new();
    trailers.append("grpc-status", "5");
    let info = info();
    run(&Source {
        info: &info,
        request: Some(&request),
        response: Some(&response),
        trailers: Some(&trailers),
        hostname: "pod",
    })
}

fn render(format: &str) -> String {
    let mut out = Vec::new();
    with_source(|source| Format::compile(format).unwrap().write(source, &mut out));
    String::from_utf8(out).unwrap()
}

#[test]
fn operators() {
    for (format, expect) in [
        ("plain 100%%", "plain 100%"),
        ("%REQ(:METHOD)% %REQ(X-NOPE?:PATH)% %PROTOCOL%", "GET /a?b=1&c=x%20y HTTP/1.1"),
        ("%REQ(nope)%|%REQ(user-agent):2%|%REQ(HOST)%|%REQ(:SCHEME)%", "-|cu|reviews|http"),
        ("%RESP(SERVER)% %RESP(:STATUS)% %RESP(a?:status)% %TRAILER(grpc-status)%", "x 200 200 5"),
        ("%UPSTREAM_PROTOCOL%", "HTTP/2"),
        (
            "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%",
            "200 URX,UF UpstreamRetryLimitExceeded,UpstreamConnectionFailure",
        ),
        ("%RESPONSE_CODE_DETAILS% %RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", "via_upstream via upstream"),
        ("%CONNECTION_TERMINATION_DETAILS% %UPSTREAM_TRANSPORT_FAILURE_REASON%", "- connection_refused"),
        ("%DOWNSTREAM_TRANSPORT_FAILURE_REASON%", "-"),
        ("%BYTES_RECEIVED% %BYTES_SENT% %BYTES_RETRANSMITTED% %PACKETS_RETRANSMITTED%", "5 2 0 0"),
        ("%DURATION% %REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "12 1 10 2"),
        ("%REQUEST_TX_DURATION% %ROUNDTRIP_DURATION% %DOWNSTREAM_HANDSHAKE_DURATION%", "- - -"),
        ("%COMMON_DURATION(DS_RX_BEG:DS_TX_END:ms)% %COMMON_DURATION(DS_RX_BEG:US_TX_BEG:us)%", "12 300"),
        ("%COMMON_DURATION(US_TX_BEG:US_RX_BEG:ns)% %COMMON_DURATION(US_CX_BEG:US_CX_END)%", "9700000 -"),
        ("%START_TIME%", "2025-11-20T10:31:12.045Z"),
        ("%START_TIME(%Y/%m/%d %H.%3f)%", "2025/11/20 10.045"),
        ("%EMIT_TIME(%s.%3f)%", "1763634672.057"),
        (
            "%UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%",
            "10.0.0.1:80 10.0.0.1:80 10.0.0.1 80",
        ),
        ("%UPSTREAM_HOST_NAME% %UPSTREAM_HOST_NAME_WITHOUT_PORT%", "host.example:81 host.example"),
        ("%UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW%", "a_alias outbound|80||a"),
        ("%UPSTREAM_LOCAL_ADDRESS% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %UPSTREAM_CONNECTION_ID%", "- 2 7"),
        (
            "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%",
            "10.1.2.3:9080 10.1.2.3 9080",
        ),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT%",
            "10.9.8.7:5000 10.9.8.7 5000",
        ),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)%", "10.9.0.0/16"),
        (
            "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_DIRECT_REMOTE_PORT%",
            "[::1]:6000 ::1 6000",
        ),
        ("%DOWNSTREAM_DIRECT_LOCAL_ADDRESS%", "10.1.2.3:9080"),
        ("%REQUESTED_SERVER_NAME% %REQUESTED_SERVER_NAME(SNI_FIRST:ORIG)%", "sni.example sni.example"),
        ("%ROUTE_NAME% %VIRTUAL_CLUSTER_NAME% %FILTER_CHAIN_NAME% %HOSTNAME%", "default vc chain pod"),
        (
            "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%",
            "NotFound NOT_FOUND 5 5",
        ),
        ("%DYNAMIC_METADATA(com.test:key)% %CLUSTER_METADATA(com.test:object:inner)%", "value x"),
        (
            "%DYNAMIC_METADATA(com.test:list)% %METADATA(CLUSTER:com.test:number)% %METADATA(DYNAMIC:com.test:flag)%",
            "[1.5,\"a\\\"b\"] 5 true",
        ),
        ("%DYNAMIC_METADATA(com.test:key):3% %UPSTREAM_METADATA(com.test)% %METADATA(ROUTE:a)%", "val - -"),
        (
            "%FILTER_STATE(state)% %FILTER_STATE(state:PLAIN):2% %FILTER_STATE(no)% %UPSTREAM_FILTER_STATE(a)%",
            "of filter of - -",
        ),
        ("%STREAM_ID% %CONNECTION_ID% %TRACE_ID% %SPAN_ID%", "id-1 3 - -"),
        ("%LOCAL_REPLY_BODY% [%CUSTOM_FLAGS%] %ACCESS_LOG_TYPE%", "no [] DownstreamEnd"),
        ("%ENVIRONMENT(LATEEN_IS_NOT_SET)%", "-"),
        ("%QUERY_PARAM(b)% %QUERY_PARAM(c)% %QUERY_PARAM(d)% %QUERY_PARAMS%", "1 x y - b=1&c=x%20y"),
        (
            "%PATH% %PATH(NQ)% %PATH(WQ:PATH)% %PATH(NQ:PATH):1% %PATH(NQ:ORIG)%",
            "/before?q /before /a?b=1&c=x%20y / /before",
        ),
        ("%REQ_WITHOUT_QUERY(:PATH)%", "/a"),
        ("%DOWNSTREAM_WIRE_BYTES_RECEIVED% %DOWNSTREAM_HEADER_BYTES_RECEIVED%", "107 78"),
        (
            "%RESPONSE_HEADERS_BYTES% %RESPONSE_TRAILERS_BYTES% %DOWNSTREAM_HEADER_BYTES_SENT% %DOWNSTREAM_WIRE_BYTES_SENT%",
            "17 12 11 32",
        ),
        (
            "%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER% %DOWNSTREAM_TLS_SESSION_ID%",
            "TLSv1.3 TLS_AES_128_GCM_SHA256 -",
        ),
        (
            "%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_PEER_ISSUER% %DOWNSTREAM_LOCAL_URI_SAN%",
            "spiffe://td/ns/n/sa/a,other:b CN=a - -",
        ),
        (
            "%DOWNSTREAM_PEER_CERT_V_START% %DOWNSTREAM_PEER_CERT_V_START(%s)%",
            "2025-11-20T10:31:12.000Z 1763634672",
        ),
        ("%UPSTREAM_TLS_VERSION% %UPSTREAM_PEER_URI_SAN% %TLS_JA3_FINGERPRINT%", "- - -"),
        ("%UPSTREAM_HOSTS_ATTEMPTED%", "-"),
    ] {
        assert_eq!(render(format), expect, "{format}");
    }
    assert!(Format::compile(ISTIO_DEFAULT).is_ok() && Format::compile(ENVOY_DEFAULT).is_ok());
}

#[test]
fn unique_ids_are_uuids() {
    let id = render("%UNIQUE_ID%");
    let lengths: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
    assert_eq!(&id[14..15], "4");
}

#[test]
fn refuses_what_envoy_refuses() {
    for (format, expect) in [
        ("%NO_SUCH%", "Not supported field in StreamInfo: NO_SUCH"),
        ("%CEL(request.path)%", "CEL"),
        ("%REQ%", "REQ requires parameters"),
        ("%REQ()%", "REQ requires parameters"),
        ("%REQ(a", "no closing"),
        ("100%", "no closing"),
        ("%REQ(a):x%", "maximum length"),
        ("%REQ(a)b%", "follows the parenthesis"),
        ("%DURATION(X)%", "DURATION does not take any parameters or length"),
        ("%DURATION:3%", "DURATION does not take any parameters or length"),
        ("%PROTOCOL(x)%", "PROTOCOL does not take any parameters or length"),
        ("%START_TIME:5%", "START_TIME does not allow length to be specified."),
        ("%GRPC_STATUS(X)%", "GrpcStatusFormatter"),
        ("%METADATA(X:a)%", "not supported type of metadata"),
        ("%PATH(X)%", "Invalid PATH option"),
        ("%COMMON_DURATION(A:B)%", "no time `A`"),
        ("%DOWNSTREAM_NO_SUCH%", "Not supported field in StreamInfo: DOWNSTREAM_NO_SUCH"),
        ("%lower%", "not an operator"),
    ] {
        let error = Format::compile(format).unwrap_err();
        assert!(error.contains(expect), "{format}: {error}");
    }
}

#[test]
fn json_keeps_types() {
    let text = |format: &str| JsonFormat::text(Format::compile(format).unwrap());
    let object = |fields: Vec<(&str, JsonFormat)>| {
        JsonFormat::object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    };
    let format = object(vec![
        ("z\"", text("%PROTOCOL%")),
        ("code", text("%RESPONSE_CODE%")),
        ("mixed", text("%DURATION% ms for %REQ(nope)%")),
        ("missing", text("%REQ(nope)%")),
        ("metadata", text("%DYNAMIC_METADATA(com.test:object)%")),
        ("text of metadata", text("%DYNAMIC_METADATA(com.test:key)%")),
        ("literal", text("100%%\n")),
        ("number", JsonFormat::Literal("1.5".into())),
        ("list", JsonFormat::List(vec![text("%BYTES_SENT%"), text("%REQ(nope)%")])),
        ("nested", object(vec![("a", text("%REQ(nope)%"))])),
    ]);
    let written = |omit_empty| {
        let mut out = Vec::new();
        with_source(|source| format.write(source, omit_empty, &mut out));
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        written(false),
        concat!(
            r#"{"code":200,"list":[2,null],"literal":"100%\n","metadata":{"inner":"x"},"missing":null,"#,
            r#""mixed":"12 ms for -","nested":{"a":null},"number":1.5,"text of metadata":"value","z\"":"HTTP/1.1"}"#
        )
    );
    assert_eq!(
        written(true),
        concat!(
            r#"{"code":200,"list":[2,null],"literal":"100%\n","metadata":{"inner":"x"},"#,
            r#""mixed":"12 ms for ","nested":{},"number":1.5,"text of metadata":"value","z\"":"HTTP/1.1"}"#
        )
    );
}
