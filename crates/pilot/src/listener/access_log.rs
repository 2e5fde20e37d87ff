//! The access log, in Istio's format unless the mesh says otherwise.

use lateen_api::mesh::{AccessLogEncoding, MeshConfig};

use crate::proto::{accesslog, core, ext, to_any};

/// Istio's text format (its documentation, "Envoy Access Logs").
pub const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// The fields of the JSON form and their operators: the text format's, by Istio's names.
const JSON_FIELDS: [(&str, &str); 23] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// Where and how accesses are logged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct AccessLog {
    file: String,
    format: String,
    json: bool,
}

impl AccessLog {
    pub(super) fn new(mesh: &MeshConfig) -> Self {
        Self {
            file: mesh.access_log_file.clone(),
            format: mesh.access_log_format.clone(),
            json: mesh.access_log_encoding == AccessLogEncoding::Json,
        }
    }

    /// The messages for a listener or filter; none where the log is off.
    pub(super) fn messages(&self) -> Vec<accesslog::AccessLog> {
        use ext::access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat};
        if self.file.is_empty() {
            return Vec::new();
        }
        let config = FileAccessLog {
            path: self.file.clone(),
            access_log_format: Some(AccessLogFormat::LogFormat(core::SubstitutionFormatString {
                format: Some(self.format()),
                ..Default::default()
            })),
        };
        vec![accesslog::AccessLog {
            name: "envoy.access_loggers.file".to_owned(),
            config_type: Some(accesslog::access_log::ConfigType::TypedConfig(to_any(&config))),
            ..Default::default()
        }]
    }

    fn format(&self) -> core::substitution_format_string::Format {
        use core::substitution_format_string::Format;
        if !self.json {
            let format = if self.format.is_empty() { DEFAULT_FORMAT } else { &self.format };
            return Format::TextFormatSource(core::DataSource {
                specifier: Some(core::data_source::Specifier::InlineString(format.to_owned())),
                ..Default::default()
            });
        }
        let own = serde_json::from_str::<serde_json::Map<_, _>>(&self.format).ok();
        let fields = own.unwrap_or_else(|| {
            JSON_FIELDS.iter().map(|(field, operator)| ((*field).to_owned(), (*operator).into())).collect()
        });
        Format::JsonFormat(fields.into())
    }
}
