//! `gateway run`'s configuration file: one TOML, every key with a default, unknown keys refused.

mod check;
mod cover;
mod devices;
mod sections;
mod tunnel;

use std::path::{Path, PathBuf};

use anyhow::Context;
use chaff_cover::EnvelopeConfig;
use serde::{Deserialize, Serialize};

pub(crate) use self::check::within;
pub use self::cover::{Activity, Amount, Cover, ENVELOPE, Mode};
pub use self::devices::{DeviceEntry, read_devices};
pub use self::sections::{Alerts, Export, Flows, GatewaySection, HookName, Interfaces};
pub use self::tunnel::{Tunnel, WhenStopped};
use crate::archive::Archive;
use crate::telemetry::Telemetry;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Where things live and who the gateway becomes.
    pub gateway: GatewaySection,
    /// Interfaces and the meter's hook.
    pub interfaces: Interfaces,
    /// Cover traffic.
    pub cover: Cover,
    /// The gateway's own tunnel, for `cover.mode` tunnel.
    pub tunnel: Tunnel,
    /// Flow records.
    pub flows: Flows,
    /// Local alerts.
    pub alerts: Alerts,
    /// Private telemetry.
    pub telemetry: Telemetry,
    /// Flow records as Parquet.
    pub archive: Archive,
    /// Output files.
    pub export: Export,
    /// The devices of the home.
    #[serde(rename = "device")]
    pub devices: Vec<DeviceEntry>,
}

impl File {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// It cannot be read, is not TOML, has an unknown key, or a value out of range; the error names file, key, value and
    /// what is allowed.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("while reading {}", path.display()))?;
        let base = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, base).with_context(|| format!("in {}", path.display()))
    }

    /// Reads and checks the text of a file; relative input paths start at `base`.
    ///
    /// # Errors
    /// As [`File::load`].
    pub fn parse(text: &str, base: &Path) -> anyhow::Result<Self> {
        let mut file: Self =
            toml::from_str(text).map_err(|e| anyhow::anyhow!("{}", e.to_string().trim_end()))?;
        for path in [
            &mut file.gateway.devices_file,
            &mut file.cover.key_file,
            &mut file.gateway.ebpf_object,
            &mut file.tunnel.config,
            &mut file.tunnel.pause_file,
        ]
        .into_iter()
        .flatten()
        {
            *path = base.join(&*path);
        }
        if let Some(csv) = &file.gateway.devices_file {
            let mut listed = read_devices(csv)?;
            // What the TOML says about a device goes before the list.
            listed.retain(|d| !file.devices.iter().any(|have| have.label == d.label));
            file.devices.append(&mut listed);
        }
        file.resolve_generators(base);
        file.check()?;
        Ok(file)
    }

    fn resolve_generators(&mut self, base: &Path) {
        if self.cover.generator == "auto" {
            let tunnel = self.cover.mode == Mode::Tunnel;
            self.cover.generator = if tunnel { ENVELOPE } else { "random" }.into();
        }
        self.cover.generator = cover::resolve_generator(&self.cover.generator, base);
        for d in &mut self.devices {
            let named = d.generator.as_deref();
            d.generator = named.map(|name| cover::resolve_generator(name, base));
        }
    }

    /// The cover process of the whole tunnel, where that is what makes cover.
    pub fn envelope(&self) -> Option<EnvelopeConfig> {
        let chosen = self.cover.generator == ENVELOPE;
        (self.cover.mode == Mode::Tunnel && chosen).then(|| self.cover.profile.envelope())
    }

    /// A path of the state folder.
    pub fn state(&self, path: &Path) -> PathBuf {
        self.gateway.state_dir.join(path)
    }

    /// The device list as the engine wants it.
    ///
    /// # Errors
    /// A MAC address cannot be read.
    pub fn engine_devices(&self) -> anyhow::Result<Vec<chaff_engine::Device>> {
        self.devices
            .iter()
            .map(|d| {
                Ok(chaff_engine::Device {
                    label: d.label.clone(),
                    mac: d.mac()?,
                    ip: d.ip.clone(),
                    cover: d.cover,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
