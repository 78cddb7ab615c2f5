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

/// Sums the packets of both directions over all records of flows.csv.
pub(crate) fn flow_packets(path: &Path) -> Result<u64> {
    let text =
        fs::read_to_string(path).with_context(|| format!("while reading {}", path.display()))?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let mut columns = Vec::new();
    for name in ["fwd_packets", "bwd_packets"] {
        let found = header.iter().position(|h| *h == name);
        columns.push(found.with_context(|| format!("{}: no column {name}", path.display()))?);
    }
    let mut sum = 0;
    for (index, line) in lines.enumerate() {
        let values: Vec<&str> = line.split(',').collect();
        for column in &columns {
            let text = values.get(*column).copied().unwrap_or_default();
            let number: u64 = text.parse().with_context(|| {
                format!(
                    "{}:{}: {text:?} is no number of packets",
                    path.display(),
                    index + 2
                )
            })?;
            sum += number;
        }
    }
    Ok(sum)
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
        fs::write(&path, "id,fwd_packets,x,bwd_packets\n0,3,,4\n1,5,,0\n").unwrap();
        assert_eq!(flow_packets(&path).unwrap(), 12);
        fs::write(&path, "id,fwd_packets,bwd_packets\n0,3,many\n").unwrap();
        let text = format!("{:#}", flow_packets(&path).unwrap_err());
        assert!(text.contains(":2") && text.contains("\"many\""), "{text}");
        fs::remove_file(path).unwrap();
    }
}
