//! How platforms fare, as metrics named `lateen_registry_*`.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::status::{Board, PlatformStatus};

/// Reads the state of all platforms when it is asked for metrics.
#[derive(Debug)]
pub(crate) struct PlatformMetrics(pub(crate) Board);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlatformLabels {
    platform: String,
    provider: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    platform: String,
    reason: &'static str,
}

type Read = fn(&PlatformStatus) -> i64;

const GAUGES: [(&str, &str, Read); 6] = [
    ("lateen_registry_connected", "Whether the platform answers (1) or not (0)", |one| {
        one.connected_since.is_some().into()
    }),
    ("lateen_registry_synced", "Whether the platform was listed once (1) or not yet (0)", |one| {
        one.synced.into()
    }),
    (
        "lateen_registry_stale",
        "Whether the last known state stands since the platform does not answer (1) or not (0)",
        |one| one.stale.into(),
    ),
    ("lateen_registry_services", "Services that the platform told of", |one| {
        one.services.try_into().unwrap_or(i64::MAX)
    }),
    ("lateen_registry_endpoints", "Endpoints that the platform told of", |one| {
        one.endpoints.try_into().unwrap_or(i64::MAX)
    }),
    (
        "lateen_registry_last_success_timestamp_seconds",
        "When the platform was heard of last, 0 for never",
        |one| one.last_success.unwrap_or_default().try_into().unwrap_or(i64::MAX),
    ),
];

impl Collector for PlatformMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let statuses = self.0.statuses();
        for (name, help, read) in GAUGES {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for status in &statuses {
                let labels = PlatformLabels { platform: status.name.to_string(), provider: status.provider };
                ConstGauge::new(read(status)).encode(metric.encode_family(&labels)?)?;
            }
        }
        let mut metric = encoder.encode_descriptor(
            "lateen_registry_errors",
            "How often asking the platform failed, by reason",
            None,
            MetricType::Counter,
        )?;
        for (platform, reason, count) in self.0.errors() {
            let labels = ErrorLabels { platform: platform.to_string(), reason };
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
