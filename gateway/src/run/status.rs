//! What `gateway status` shows, and the report at the end.

use chaff_abi::Reason;
use chaff_sys::clock::monotonic;
use serde_json::json;

use super::live::Live;
use crate::hints::Hints;
use crate::tunnel::TunnelSide;

impl Live {
    pub(super) fn status(&mut self) -> serde_json::Value {
        let reasons = self.reasons.read().unwrap_or(self.before);
        let meter: serde_json::Map<String, serde_json::Value> = Reason::ALL
            .iter()
            .map(|r| (r.name().to_owned(), json!(reasons[*r as usize])))
            .collect();
        let hooks: Vec<_> = self
            .hooks
            .iter()
            .map(|(name, hook)| json!({ "interface": name, "hook": format!("{hook:?}") }))
            .collect();
        let devices: Vec<_> = (0..=self.file.devices.len())
            .map(|i| self.engine.label(i).to_owned())
            .collect();
        let streams: serde_json::Map<String, serde_json::Value> = self
            .engine
            .streams()
            .map(|(s, i)| (s.to_string(), json!(self.engine.label(i))))
            .collect();
        let mut report = self.engine.report();
        report.seen = reasons[Reason::Seen as usize];
        report.metered = reasons[Reason::Flow as usize] + reasons[Reason::Ring as usize];
        report
            .ignored
            .insert("not_ip", reasons[Reason::NotIp as usize]);
        report
            .ignored
            .insert("malformed", reasons[Reason::Malformed as usize]);
        report
            .ignored
            .insert("lost", reasons[Reason::Lost as usize]);
        report.ignored.retain(|_, n| *n > 0);
        json!({
            "version": 1,
            "uptime_s": monotonic().since(self.started).as_secs_f64(),
            "paused": self.engine.is_paused(),
            "took_over": self.adopted,
            "mode": self.file.cover.mode,
            "hooks": hooks,
            "devices": devices,
            // In the order of `devices`.
            "device_totals": self.engine.totals().collect::<Vec<_>>(),
            "streams": streams,
            "open_flows": self.engine.open_flows(),
            "learnt_devices": self.engine.learnt()[0],
            "seen_devices": self.engine.learnt()[1],
            "direct_records": self.direct,
            "recorded_packets": self.recorded,
            // At the end of a run: packets whose flows were open in an earlier run that was killed.
            "unrecorded_packets": report.metered.saturating_sub(self.recorded),
            "drain_errors": self.feed.errors(),
            "hints": self.hints.as_ref().map(Hints::stats),
            "output_errors": self.exports.failed,
            "meter": meter,
            "seen_before_takeover": self.before[Reason::Seen as usize],
            "gateway": report,
            "telemetry": self.engine.releases().map(|r| json!({
                "plan": r.exporter().config().plan.to_string(),
                "published": r.exporter().published(),
            })),
            "tunnel": self.tunnel.as_ref().map(TunnelSide::report),
            "tunnel_up": self.tunnel.as_ref().map(TunnelSide::is_up),
            "injector": self.cover.as_ref().map(|c| {
                let h = c.injector.lateness();
                let us = |q| if h.is_empty() { 0.0 } else { h.value_at_quantile(q) as f64 / 1e3 };
                json!({
                    "sink": c.sink.to_string(),
                    "realtime": c.injector.is_realtime(),
                    "stats": c.injector.stats(),
                    "lateness_us": { "p50": us(0.5), "p99": us(0.99), "p999": us(0.999), "max": us(1.0) },
                })
            }),
        })
    }
}
