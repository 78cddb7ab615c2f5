//! Turns the configuration file into the engine's settings.

use chaff_abi::Nanos;
use chaff_cover::{Budget, HEADERS_V4, HEADERS_V6, Limits, Mode, SchedulerConfig};
use chaff_engine::{AlertConfig, Config, Source};
use chaff_flow::TableConfig;

use crate::config::{Activity, Cover, File};

/// Limits and budget of one device's cover.
pub fn scheduler(c: &Cover) -> SchedulerConfig {
    SchedulerConfig {
        limits: Limits {
            min_payload: c.min_payload,
            max_payload: c.max_payload,
            max_packets_per_slot: c.max_packets_per_slot,
        },
        mode: match c.activity {
            Activity::Always => Mode::Always,
            Activity::Active => Mode::ACTIVE,
        },
        budget: Some(Budget {
            bytes_per_second: c.rate.0,
            // A dummy of the largest size must fit, or none of these would ever pass.
            burst_bytes: c
                .burst
                .0
                .max(c.rate.0)
                .max(u64::from(c.max_payload) + u64::from(HEADERS_V6)),
        }),
        ..SchedulerConfig::default()
    }
}

/// The engine's settings for a live gateway.
///
/// # Errors
/// A device's address cannot be read.
pub fn engine(file: &File) -> anyhow::Result<Config> {
    let c = &file.cover;
    Ok(Config {
        devices: file.engine_devices()?,
        source: Source::Kernel,
        slot: c.slot.0,
        flow: TableConfig {
            idle_timeout: file.flows.idle_timeout.0,
            active_timeout: file.flows.active_timeout.0,
            max_flows: file.flows.max_flows as usize,
            dissect: if file.flows.hints {
                file.flows.hint_packets.into()
            } else {
                0
            },
            processes: file.flows.processes,
            drain_grace: Nanos::from_secs(5).max(file.flows.drain.0 + Nanos::from_secs(1)),
            ..TableConfig::default()
        },
        cover: scheduler(c),
        downlink: c.downlink,
        header_bytes: if c.sink.is_some_and(|s| s.is_ipv6()) {
            HEADERS_V6
        } else {
            HEADERS_V4
        },
        alerts: file.alerts.enabled.then(|| AlertConfig {
            learn: file.alerts.learn.0,
            threshold: file.alerts.threshold,
            rate_factor: file.alerts.rate_factor,
            repeat: file.alerts.repeat.0,
            hourly: file.alerts.hourly,
            ..AlertConfig::default()
        }),
        slot_events: !file.export.slots.as_os_str().is_empty(),
        ..Config::default()
    })
}
