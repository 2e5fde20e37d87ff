//! The pure half of the proxy: xDS protobuf becomes validated runtime configuration, and the matchers that choose filter chain, route and endpoint.
