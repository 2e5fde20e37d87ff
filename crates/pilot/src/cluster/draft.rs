//! A cluster in the making.

use lateen_envoy::TypeUrl;

use crate::proto::{cluster, core, ext, to_any};

pub(super) type Options = ext::upstreams::http::v3::HttpProtocolOptions;
type Upstream = ext::upstreams::http::v3::http_protocol_options::UpstreamProtocolOptions;
type Explicit = ext::upstreams::http::v3::http_protocol_options::ExplicitHttpConfig;

/// The message, and beside it the options that are packed into it at the end.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) message: cluster::Cluster,
    options: Option<Options>,
}

impl Draft {
    pub(super) fn new(message: cluster::Cluster) -> Self {
        Self { message, options: None }
    }

    pub(super) fn options(&mut self) -> &mut Options {
        self.options.get_or_insert_default()
    }

    pub(super) fn common_lb(&mut self) -> &mut cluster::cluster::CommonLbConfig {
        self.message.common_lb_config.get_or_insert_default()
    }

    /// Requests go upstream as HTTP/2.
    pub(super) fn speak_http2(&mut self) {
        use ext::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
        self.options().upstream_protocol_options = Some(Upstream::ExplicitHttpConfig(Explicit {
            protocol_config: Some(
                ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default()),
            ),
        }));
    }

    /// Requests go upstream as the client sent them.
    pub(super) fn speak_as_client(&mut self) {
        use ext::upstreams::http::v3::http_protocol_options::UseDownstreamHttpConfig;
        self.options().upstream_protocol_options =
            Some(Upstream::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(core::Http1ProtocolOptions::default()),
                http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
                ..Default::default()
            }));
    }

    /// The options of HTTP/2, where it is spoken.
    pub(super) fn http2(&mut self) -> Option<&mut core::Http2ProtocolOptions> {
        use ext::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
        match self.options.as_mut()?.upstream_protocol_options.as_mut()? {
            Upstream::ExplicitHttpConfig(explicit) => match explicit.protocol_config.as_mut()? {
                ProtocolConfig::Http2ProtocolOptions(options) => Some(options),
                _ => None,
            },
            Upstream::UseDownstreamProtocolConfig(both) => both.http2_protocol_options.as_mut(),
            Upstream::AutoConfig(_) => None,
        }
    }

    /// Whether all requests go upstream as HTTP/2.
    pub(super) fn is_http2(&mut self) -> bool {
        let explicit = self.options.as_ref().is_some_and(|options| {
            matches!(options.upstream_protocol_options, Some(Upstream::ExplicitHttpConfig(_)))
        });
        explicit && self.http2().is_some()
    }

    pub(super) fn finish(mut self) -> cluster::Cluster {
        if let Some(mut options) = self.options {
            // Envoy wants the version to be said.
            options.upstream_protocol_options.get_or_insert_with(|| {
                use ext::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
                Upstream::ExplicitHttpConfig(Explicit {
                    protocol_config: Some(ProtocolConfig::HttpProtocolOptions(Default::default())),
                })
            });
            // The key is the message's own name.
            let name = Options::TYPE_URL.trim_start_matches("type.googleapis.com/").to_owned();
            self.message.typed_extension_protocol_options.insert(name, to_any(&options));
        }
        self.message
    }
}
