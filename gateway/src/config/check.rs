//! What must hold between the keys, and the range of each.

use anyhow::bail;
use chaff_abi::Nanos;

use super::{ENVELOPE, File, Mode, devices};
use crate::units::Duration;

impl File {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let c = &self.cover;
        within(
            "cover.max_packets_per_slot",
            c.max_packets_per_slot,
            1,
            10_000,
        )?;
        within("cover.min_payload", c.min_payload, 24, 1_452)?;
        within("cover.max_payload", c.max_payload, c.min_payload, 1_452)?;
        within("cover.mark", c.mark, 1, u32::MAX)?;
        within("flows.max_flows", self.flows.max_flows, 1_024, 1_000_000)?;
        let d = |s: &str| s.parse::<Duration>().unwrap_or(Duration(Nanos::ZERO));
        within("cover.slot", c.slot, d("10ms"), d("10s"))?;
        within("cover.spin", c.spin, d("0us"), d("1ms"))?;
        within(
            "flows.idle_timeout",
            self.flows.idle_timeout,
            d("1s"),
            d("1h"),
        )?;
        within(
            "flows.active_timeout",
            self.flows.active_timeout,
            d("1s"),
            d("24h"),
        )?;
        within("flows.hint_packets", self.flows.hint_packets, 1, 255)?;
        within("flows.drain", self.flows.drain, d("100ms"), d("10s"))?;
        if self.flows.drain > self.flows.idle_timeout {
            bail!(
                "flows.drain is {}, it must not exceed flows.idle_timeout, {}",
                self.flows.drain,
                self.flows.idle_timeout
            );
        }
        if self.interfaces.lan.len() > 8 {
            bail!(
                "interfaces.lan names {} interfaces, allowed are 1 to 8",
                self.interfaces.lan.len()
            );
        }
        for name in self.interfaces.lan.iter().chain(&self.interfaces.wan) {
            if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) {
                bail!(
                    "interfaces: `{name}` is not an interface name: 1 to 15 characters without / and spaces"
                );
            }
        }
        if let Some(wan) = self
            .interfaces
            .wan
            .as_ref()
            .filter(|w| self.interfaces.lan.contains(w))
        {
            bail!("interfaces.wan is `{wan}`, which is also in interfaces.lan");
        }
        let instance = &self.gateway.instance;
        if instance.is_empty()
            || !instance
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        {
            bail!("gateway.instance is `{instance}`, allowed are letters, digits, - and _");
        }
        let own = self.devices.iter().find_map(|d| {
            let name = d.generator.as_deref()?;
            Some((d, name)).filter(|_| name == ENVELOPE || self.envelope().is_some())
        });
        if let Some((device, name)) = own {
            bail!(
                "device {}: generator is `{name}`; an envelope covers the whole tunnel, so with cover.generator \"envelope\" no \
                 device has a generator of its own",
                device.label
            );
        }
        if c.generator == ENVELOPE && self.envelope().is_none() && c.mode != Mode::Off {
            bail!("cover.generator is \"envelope\", which needs cover.mode \"tunnel\"");
        }
        if c.mode == Mode::Tunnel {
            self.tunnel.check(&self.interfaces)?;
        } else if c.mode != Mode::Off {
            if c.sink.is_none() {
                bail!(
                    "cover.sink is missing: address:port of the sink-server, needed unless cover.mode is \"off\""
                );
            }
            if c.key_file.is_none() {
                bail!(
                    "cover.key_file is missing: file with the key shared with the sink, needed unless cover.mode is \"off\""
                );
            }
        }
        if c.rate.0 < 100 {
            bail!("cover.rate is {}, at least 100B are needed", c.rate);
        }
        within("alerts.threshold", self.alerts.threshold, 5.0, 40.0)?;
        within("alerts.hourly", self.alerts.hourly, 1, 1_000)?;
        if !(1.0..=1e6).contains(&self.alerts.rate_factor) {
            bail!(
                "alerts.rate_factor is {}, allowed is 1 to 1000000",
                self.alerts.rate_factor
            );
        }
        self.telemetry.terms()?;
        self.archive.check()?;
        devices::check(&self.devices)
    }
}

/// Checks that `low <= value <= high`, which no NaN is.
///
/// # Errors
/// It is not; the error names key, value and what is allowed.
pub(crate) fn within<T: PartialOrd + std::fmt::Display>(
    key: &str,
    value: T,
    low: T,
    high: T,
) -> anyhow::Result<()> {
    if !(&low..=&high).contains(&&value) {
        bail!("{key} is {value}, allowed is {low} to {high}");
    }
    Ok(())
}
