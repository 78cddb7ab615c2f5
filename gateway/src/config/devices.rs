//! The devices of the home: `[[device]]` and lists in CSV.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, bail};
use chaff_abi::Mac;
use serde::{Deserialize, Serialize};

/// `[[device]]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceEntry {
    /// Name, unique; 1 to 64 characters without `,`, `"`, `/` and control characters.
    pub label: String,
    /// What devices of this sort are called in `trainer`; in a list the column `label`. Of a folder of generators the device gets
    /// `LABEL.onnx`, else `KIND.onnx`.
    #[serde(default)]
    pub kind: Option<String>,
    /// MAC address; no two devices share one.
    #[serde(default)]
    pub mac: Option<String>,
    /// IP addresses; no two devices share one.
    #[serde(default)]
    pub ip: Vec<IpAddr>,
    /// Whether it is covered.
    #[serde(default = "yes")]
    pub cover: bool,
    /// Generator of this device, overriding `[cover] generator`.
    #[serde(default)]
    pub generator: Option<String>,
}

fn yes() -> bool {
    true
}

impl DeviceEntry {
    /// Whose generator it takes of a folder, the first that is there.
    pub fn labels(&self) -> Vec<&str> {
        let kind = self.kind.as_deref().filter(|kind| *kind != self.label);
        std::iter::once(self.label.as_str()).chain(kind).collect()
    }

    pub(super) fn mac(&self) -> anyhow::Result<Option<Mac>> {
        let Some(text) = &self.mac else {
            return Ok(None);
        };
        let mac: Mac = text
            .parse()
            .map_err(|e| anyhow::anyhow!("device {}: mac `{text}`: {e}", self.label))?;
        if mac.0[0] & 1 == 1 {
            bail!(
                "device {}: mac `{text}` is a group address, no device has it",
                self.label
            );
        }
        Ok(Some(mac))
    }
}

/// Checks that labels are fit and that no two devices share a label or an address.
pub(super) fn check(devices: &[DeviceEntry]) -> anyhow::Result<()> {
    let mut labels = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for (d, number) in devices.iter().zip(1..) {
        check_label(&d.label).with_context(|| format!("device number {number}"))?;
        if let Some(other) = labels.insert(&d.label, number) {
            bail!(
                "devices number {other} and {number} both have the label {}",
                d.label
            );
        }
        let mac = d.mac()?.map(|mac| format!("MAC address {mac}"));
        // An IPv4 address and its IPv6-mapped form are the same on the wire.
        let ips =
            d.ip.iter()
                .map(|ip| format!("IP address {}", ip.to_canonical()));
        for address in mac.into_iter().chain(ips) {
            if let Some(other) = addresses.get(&address) {
                bail!("devices {other} and {} both have the {address}", d.label);
            }
            addresses.insert(address, &d.label);
        }
    }
    Ok(())
}

/// Labels go into CSV fields and file names.
fn check_label(label: &str) -> anyhow::Result<()> {
    let unfit = |c: char| c.is_control() || [',', '"', '/'].contains(&c);
    if !(1..=64).contains(&label.chars().count()) || label.contains(unfit) {
        bail!(
            "label {label:?}: allowed are 1 to 64 characters without `,`, `\"`, `/` and control characters"
        );
    }
    if label == "home" {
        bail!("label \"home\" stands for all unlisted devices; choose another");
    }
    Ok(())
}

/// Reads a device list ([`chaff_trace::read_devices`]).
///
/// # Errors
/// The file cannot be read, a column is missing, or a name or an address is malformed; the error names file and line.
pub fn read_devices(path: &Path) -> anyhow::Result<Vec<DeviceEntry>> {
    let place = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("while reading {place}"))?;
    let listed = chaff_trace::read_devices(&text).with_context(|| format!("in {place}"))?;
    let entry = |device: chaff_trace::Listed| {
        let entry = DeviceEntry {
            kind: Some(device.label).filter(|kind| *kind != device.name),
            label: device.name,
            mac: device.mac.map(|mac| mac.to_string()),
            ip: device.ips,
            cover: true,
            generator: None,
        };
        if entry.label.is_empty() {
            bail!("no device name");
        }
        check_label(&entry.label)?;
        entry.mac()?;
        Ok(entry)
    };
    listed
        .into_iter()
        .map(|device| {
            let line = device.line;
            entry(device).with_context(|| format!("in {place}: line {line}"))
        })
        .collect()
}
