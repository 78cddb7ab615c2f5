use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::counter::Counter;
use super::exporter::{Published, Tier};
use super::sparse::Moves;
use super::totals::OpenWindow;
use crate::telemetry::allowance::Used;
use crate::{Epsilon, Mechanism, Released, Rho};

const VERSION: u32 = 1;

/// What an exporter keeps over a restart.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) version: u32,
    /// Of the settings that it belongs to.
    pub(super) settings: String,
    pub(super) totals: WindowState,
    pub(super) moves: Option<Moves>,
    pub(super) leaves: Option<WindowState>,
    pub(super) counters: Vec<Counter>,
    pub(super) counters_since_s: u64,
    pub(super) published: Vec<Stored>,
}

/// Windows of one series.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowState {
    /// End of the last window that was released, seconds since 1970.
    pub(super) last_s: Option<u64>,
    /// Absent when exact numbers are not to be kept.
    pub(super) used: Option<Used>,
    pub(super) open: Option<OpenWindow>,
}

/// A number that is kept by its bits: a decimal may be read back another in its last digit, and a value must stay the same.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Exact(pub(super) f64);

impl Serialize for Exact {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(self.0.to_bits())
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        u64::deserialize(d).map(|bits| Self(f64::from_bits(bits)))
    }
}

/// A published value as it is kept. Only what this crate stored becomes a [`Released`] again.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    tier: Tier,
    from_s: u64,
    period_s: u64,
    is_partial: bool,
    predicted_error: Option<Exact>,
    value: Exact,
    unit: String,
    label: String,
    epsilon: Epsilon,
    rho: Option<Rho>,
    delta: Exact,
    mechanism: Mechanism,
    scale: Exact,
    half_width: Exact,
    relation: String,
    ledger_entry: u64,
    simulated: bool,
}

impl From<&Published> for Stored {
    fn from(p: &Published) -> Self {
        let v = p.value.clone();
        Self {
            tier: p.tier,
            from_s: p.from_s,
            period_s: p.period_s,
            is_partial: p.is_partial,
            predicted_error: p.predicted_error.map(Exact),
            value: Exact(v.value),
            unit: v.unit,
            label: v.label,
            epsilon: v.epsilon,
            rho: v.rho,
            delta: Exact(v.delta),
            mechanism: v.mechanism,
            scale: Exact(v.scale),
            half_width: Exact(v.half_width),
            relation: v.relation,
            ledger_entry: v.ledger_entry,
            simulated: v.simulated,
        }
    }
}

impl Stored {
    fn into_published(self) -> Published {
        Published {
            tier: self.tier,
            from_s: self.from_s,
            period_s: self.period_s,
            is_partial: self.is_partial,
            predicted_error: self.predicted_error.map(|e| e.0),
            value: Released {
                value: self.value.0,
                unit: self.unit,
                label: self.label,
                epsilon: self.epsilon,
                rho: self.rho,
                delta: self.delta.0,
                mechanism: self.mechanism,
                scale: self.scale.0,
                half_width: self.half_width.0,
                relation: self.relation,
                ledger_entry: self.ledger_entry,
                simulated: self.simulated,
            },
        }
    }
}

impl State {
    /// One line of JSON and its SHA-256, hexadecimal.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        self.version = VERSION;
        let mut text = serde_json::to_string(&self).expect("numbers and texts have a JSON form");
        let hash = digest(&text);
        text.push('\n');
        text.push_str(&hash);
        text.push('\n');
        text.into_bytes()
    }

    /// Reads it back.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
        let (json, hash) = text.split_once('\n').ok_or("it was cut")?;
        if digest(json) != hash.trim_end() {
            return Err("it was changed or cut");
        }
        let state: Self = serde_json::from_str(json).map_err(|_| "it is of another version")?;
        if state.version != VERSION {
            return Err("it is of another version");
        }
        Ok(state)
    }

    pub(super) fn take_published(&mut self) -> Vec<Published> {
        let stored = std::mem::take(&mut self.published);
        stored.into_iter().map(Stored::into_published).collect()
    }
}

/// SHA-256, hexadecimal.
pub(super) fn digest(text: &str) -> String {
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    hash.iter().map(|b| format!("{b:02x}")).collect()
}
