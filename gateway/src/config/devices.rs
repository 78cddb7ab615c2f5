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

/// Reads a device list: comma-separated, with a header that names at least `device` and one of `mac` and `ip`. Several
/// IP addresses are separated by `;` or spaces; an empty field or `-` means none.
///
/// # Errors
/// The file cannot be read, a column is missing, or a name or an address is malformed; the error names file and line.
pub fn read_devices(path: &Path) -> anyhow::Result<Vec<DeviceEntry>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("while reading {}", path.display()))?;
    let mut lines = text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
    let (_, header) = lines
        .next()
        .with_context(|| format!("{}: empty, a header line is needed", path.display()))?;
    let columns: Vec<&str> = header.split(',').map(str::trim).collect();
    let column = |name: &str| columns.iter().position(|c| *c == name);
    let device = column("device")
        .with_context(|| format!("{}: no column `device` in `{header}`", path.display()))?;
    let (mac, ip) = (column("mac"), column("ip"));
    if mac.is_none() && ip.is_none() {
        bail!(
            "{}: neither a column `mac` nor `ip` in `{header}`",
            path.display()
        );
    }
    let mut out = Vec::new();
    for (i, line) in lines {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let field = |c: Option<usize>| {
            c.and_then(|c| fields.get(c))
                .copied()
                .filter(|f| !f.is_empty() && *f != "-")
        };
        let place = || format!("{} line {}", path.display(), i + 1);
        let label = field(Some(device)).with_context(|| format!("{}: no device name", place()))?;
        let ips = field(ip)
            .unwrap_or("")
            .split([';', ' '])
            .filter(|s| !s.is_empty());
        let entry = DeviceEntry {
            label: label.to_owned(),
            mac: field(mac).map(str::to_owned),
            ip: ips
                .map(|s| {
                    s.parse()
                        .with_context(|| format!("{}: `{s}` is not an IP address", place()))
                })
                .collect::<anyhow::Result<_>>()?,
            cover: true,
            generator: None,
        };
        check_label(label).with_context(place)?;
        entry.mac().with_context(place)?;
        out.push(entry);
    }
    Ok(out)
}
