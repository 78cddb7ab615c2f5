//! Reads the programs' reports; a missing key is an error that names file and key.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// A report with the file it came from, for messages.
#[derive(Clone, Debug)]
pub(crate) struct Json {
    file: String,
    value: Value,
}

impl Json {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("while reading {}", path.display()))?;
        let value =
            serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        Ok(Self {
            file: path.display().to_string(),
            value,
        })
    }

    pub(crate) fn at(&self, key: &str) -> Option<Self> {
        let value = self.value.pointer(key)?.clone();
        Some(Self {
            file: format!("{}{key}", self.file),
            value,
        })
    }

    fn want(&self, key: &str) -> Result<&Value> {
        self.value
            .pointer(key)
            .with_context(|| format!("{}: no {key}", self.file))
    }

    pub(crate) fn number(&self, key: &str) -> Result<u64> {
        self.want(key)?
            .as_u64()
            .with_context(|| format!("{}: {key} is no count", self.file))
    }

    pub(crate) fn float(&self, key: &str) -> Result<f64> {
        self.want(key)?
            .as_f64()
            .with_context(|| format!("{}: {key} is no number", self.file))
    }

    pub(crate) fn text(&self, key: &str) -> &str {
        self.value
            .pointer(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    pub(crate) fn list(&self, key: &str) -> Result<Vec<Self>> {
        let list = self
            .want(key)?
            .as_array()
            .with_context(|| format!("{}: {key} is no list", self.file))?;
        Ok(list
            .iter()
            .map(|value| Self {
                file: self.file.clone(),
                value: value.clone(),
            })
            .collect())
    }

    /// Sums `field` over the list at `key`.
    pub(crate) fn sum(&self, key: &str, field: &str) -> Result<u64> {
        self.list(key)?
            .iter()
            .map(|item| item.number(&format!("/{field}")))
            .sum()
    }

    /// Returns the counts by name at `key`.
    pub(crate) fn map(&self, key: &str) -> Result<Vec<(String, u64)>> {
        let map = self
            .want(key)?
            .as_object()
            .with_context(|| format!("{}: {key} is no map", self.file))?;
        Ok(map
            .iter()
            .map(|(name, value)| (name.clone(), value.as_u64().unwrap_or(0)))
            .collect())
    }
}

/// What flows.csv holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flows {
    /// Records with real packets.
    pub(crate) records: u64,
    /// Records of cover only: the gateway's own flow to the sink.
    pub(crate) cover_only: u64,
    /// Real packets of both directions in all records.
    pub(crate) packets: u64,
}

impl Flows {
    /// Reads flows.csv by its column names.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("while reading {}", path.display()))?;
        let mut lines = text.lines();
        let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
        let column = |name: &str| {
            let found = header.iter().position(|h| *h == name);
            found.with_context(|| format!("{}: no column {name}", path.display()))
        };
        let columns = [column("fwd_packets")?, column("bwd_packets")?];
        let mut flows = Self::default();
        for (index, line) in lines.enumerate() {
            let values: Vec<&str> = line.split(',').collect();
            let mut packets = 0;
            for column in columns {
                let text = values.get(column).copied().unwrap_or_default();
                let number: Result<u64, _> = text.parse();
                packets += number.with_context(|| {
                    let line = index + 2;
                    format!(
                        "{}:{line}: {text:?} is no number of packets",
                        path.display()
                    )
                })?;
            }
            flows.packets += packets;
            flows.records += u64::from(packets > 0);
            flows.cover_only += u64::from(packets == 0);
        }
        Ok(flows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_key_names_file_and_key() {
        let json = Json {
            file: "sink.json".to_owned(),
            value: serde_json::json!({"cover": {"packets": -1}}),
        };
        let text = |key: &str| json.number(key).unwrap_err().to_string();
        assert_eq!(text("/received"), "sink.json: no /received");
        assert_eq!(
            text("/cover/packets"),
            "sink.json: /cover/packets is no count"
        );
    }

    #[test]
    fn packets_of_flow_records_are_summed_by_column_name() {
        let path = std::env::temp_dir().join(format!("chaff-flows-{}.csv", std::process::id()));
        fs::write(
            &path,
            "id,fwd_packets,x,bwd_packets\n0,3,,4\n1,5,,0\n2,0,,0\n",
        )
        .unwrap();
        let want = Flows {
            records: 2,
            cover_only: 1,
            packets: 12,
        };
        assert_eq!(Flows::read(&path).unwrap(), want);
        fs::write(&path, "id,fwd_packets,bwd_packets\n0,3,many\n").unwrap();
        let text = format!("{:#}", Flows::read(&path).unwrap_err());
        assert!(text.contains(":2") && text.contains("\"many\""), "{text}");
        fs::remove_file(path).unwrap();
    }
}
