//! A fitted model: what it says of itself, and its file.

use chaff_privacy::Sampled;
use serde::{Deserialize, Serialize};

use crate::SynthError;
use crate::chain::{Chain, Level};
use crate::encode::{Encoder, FIELDS};
use crate::engine::{self, Engine};
use crate::packets::{GAP_SYMBOLS, PacketModel};
use crate::sample;
use crate::table::Table;

/// Which method a model was made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Low-dimensional tables, records drawn one by one without memory; the only one with differential privacy.
    Marginal,
    /// Record after record in time, given what source and pair of hosts did before.
    Sequence,
    /// A generator network for each chunk of time, trained against critics.
    Doppelganger,
}

/// Which method a model of tables learns and draws by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableMethod {
    /// [`Method::Marginal`].
    Marginal,
    /// [`Method::Sequence`].
    Sequence,
}

impl From<TableMethod> for Method {
    fn from(method: TableMethod) -> Self {
        match method {
            TableMethod::Marginal => Self::Marginal,
            TableMethod::Sequence => Self::Sequence,
        }
    }
}

/// Whose records the privacy guarantee hides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// One record (one-way flow).
    Record,
    /// All records with one source address, of which the first `max_records` in time are used.
    SourceHost {
        /// At most so many of a host.
        max_records: u32,
    },
    /// All records with the same addresses, ports and protocol.
    Flow,
}

impl Unit {
    /// The most records of one unit.
    pub fn most(self) -> u32 {
        match self {
            Self::Record | Self::Flow => 1,
            Self::SourceHost { max_records } => max_records,
        }
    }
}

/// One release that the model was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paid {
    /// What was counted.
    pub name: String,
    /// Cells that got noise.
    pub cells: usize,
    /// σ of the discrete Gaussian, counts.
    pub sigma: f64,
    /// Its zCDP cost.
    pub rho: f64,
}

/// What is promised, and on what it rests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Privacy {
    /// ε of the (ε, δ) guarantee, for everything in the model together.
    pub epsilon: f64,
    /// δ.
    pub delta: f64,
    /// Whose records are hidden.
    pub unit: Unit,
    /// Neighbouring inputs.
    pub relation: String,
    /// zCDP budget that (ε, δ) gives.
    pub rho: f64,
    /// Every release; nothing else of the data is in the model.
    pub releases: Vec<Paid>,
    /// Noisy gradient steps, of which a unit may take part in all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gradients: Vec<Sampled>,
    /// What was taken as known without looking at the data.
    pub public_assumptions: Vec<String>,
    /// The ledger's entry that paid.
    pub ledger_entry: Option<u64>,
    /// The noise came from a given seed and protects nobody.
    pub simulated: bool,
}

impl Privacy {
    /// Recomputes the accounting from the list of releases.
    ///
    /// # Errors
    /// [`SynthError::Model`], saying which number is wrong: a release that claims less than sensitivity² / 2σ², or a sum
    /// that costs more than (ε, δ).
    pub fn verify(&self) -> Result<(), SynthError> {
        let most = f64::from(self.unit.most());
        let mut sum = 0.0;
        for paid in &self.releases {
            let cost = most * most / (2.0 * paid.sigma * paid.sigma);
            if !(paid.sigma > 0.0 && paid.rho >= cost * (1.0 - 1e-9)) {
                return Err(SynthError::Model(format!(
                    "accounting: release {:?} with sigma {} costs rho {cost}, it claims {}",
                    paid.name, paid.sigma, paid.rho
                )));
            }
            sum += cost;
        }
        let epsilon = if self.gradients.is_empty() {
            chaff_privacy::epsilon_of_rho(sum, self.delta)
        } else {
            chaff_privacy::epsilon_of_sampled(&self.gradients, sum, self.delta)
        };
        if epsilon.is_nan() || epsilon > self.epsilon * (1.0 + 1e-9) {
            return Err(SynthError::Model(format!(
                "accounting: the releases cost epsilon {epsilon} at delta {}, the model claims {}",
                self.delta, self.epsilon
            )));
        }
        Ok(())
    }
}

/// What a model says of itself; also the side-car of what is drawn from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Version of the format: 1.
    pub version: u32,
    /// Which method.
    pub method: Method,
    /// Records that were learned from: noisy with privacy. The default number to draw.
    pub records: u64,
    /// Whether addresses are made up.
    pub fresh_addresses: bool,
    /// Packets that were learned from; 0 of flow tables and with privacy.
    pub packets: u64,
    /// The differential privacy guarantee; `None`: there is none.
    pub privacy: Option<Privacy>,
}

/// A fitted model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub(crate) info: Info,
    /// That of `info`.
    pub(crate) method: TableMethod,
    pub(crate) encoder: Encoder,
    /// Of the marginal method: the parents of each field's tables, longest first.
    pub(crate) parents: Vec<Vec<Vec<usize>>>,
    /// Weights of unknown sources and destinations, by rank; empty when all hosts are known.
    pub(crate) pools: [Vec<f64>; 2],
    /// One for each field; of captures then those of packet sizes and gaps.
    pub(crate) chains: Vec<Chain>,
    pub(crate) packets: Option<PacketModel>,
}

impl Engine for Model {
    fn info(&self) -> &Info {
        &self.info
    }

    fn sample(&self, records: usize, seed: u64) -> Result<Table, SynthError> {
        engine::check_records(records)?;
        Ok(match self.method {
            TableMethod::Marginal => sample::marginal(self, records, seed),
            TableMethod::Sequence => sample::sequence(self, records, seed),
        })
    }

    fn to_bytes(&self) -> Result<Vec<u8>, SynthError> {
        Self::to_bytes(self)
    }

    fn tables(&self) -> Option<&Model> {
        Some(self)
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    info: Info,
    encoder: Encoder,
    parents: Vec<Vec<Vec<usize>>>,
    pools: [Vec<f64>; 2],
    packets: Option<PacketModel>,
}

impl Model {
    /// The model file: magic, header as JSON, tables, checksum; little-endian.
    ///
    /// # Errors
    /// [`SynthError::Model`] when it is larger than what is read back.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SynthError> {
        let header = Header {
            info: self.info.clone(),
            encoder: self.encoder.clone(),
            parents: self.parents.clone(),
            pools: self.pools.clone(),
            packets: self.packets.clone(),
        };
        let mut out = engine::begin(&header)?;
        let number = |out: &mut Vec<u8>, n: usize| out.extend((n as u32).to_le_bytes());
        for chain in &self.chains {
            number(&mut out, chain.levels.len());
            for level in &chain.levels {
                number(&mut out, level.keys.len());
                number(&mut out, level.symbols.len());
                level.keys.iter().for_each(|k| out.extend(k.to_le_bytes()));
                level
                    .starts
                    .iter()
                    .for_each(|k| out.extend(k.to_le_bytes()));
                level
                    .symbols
                    .iter()
                    .for_each(|k| out.extend(k.to_le_bytes()));
                level.sums.iter().for_each(|k| out.extend(k.to_le_bytes()));
                level.rest.iter().for_each(|k| out.extend(k.to_le_bytes()));
            }
        }
        Ok(engine::seal(out))
    }

    /// Reads a model file; whatever the bytes, drawing from the result is safe.
    ///
    /// # Errors
    /// [`SynthError::Model`], also when the accounting of a private model does not add up.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SynthError> {
        let bad = |what: &str| SynthError::Model(what.to_owned());
        let (json, mut input) = engine::open(bytes)?;
        let header: Header =
            serde_json::from_slice(json).map_err(|e| SynthError::Model(e.to_string()))?;
        let mut chains = Vec::new();
        let more = header.packets.as_ref().map(|p| p.sizes.len() as u32);
        for field in 0..FIELDS + if more.is_some() { 2 } else { 0 } {
            let limit = match (field.checked_sub(FIELDS), more) {
                (Some(0), Some(sizes)) => sizes,
                (Some(_), _) => GAP_SYMBOLS,
                _ => header.encoder.size(field),
            };
            let mut chain = Chain::default();
            for _ in 0..input.number()?.min(16) {
                let (keys, symbols) = (input.number()?, input.number()?);
                let level = Level {
                    keys: input.array(keys, u64::from_le_bytes)?,
                    starts: input.array(keys.saturating_add(1), u32::from_le_bytes)?,
                    symbols: input.array(symbols, u32::from_le_bytes)?,
                    sums: input.array(symbols, f32::from_le_bytes)?,
                    rest: input.array(keys, f32::from_le_bytes)?,
                };
                if !level.valid(limit) {
                    return Err(bad("a table has impossible content"));
                }
                chain.levels.push(level);
            }
            chains.push(chain);
        }
        let Header {
            info,
            encoder,
            parents,
            pools,
            packets,
        } = header;
        let known = |f: &usize| *f < FIELDS;
        if info.version != 1 {
            return Err(SynthError::Model(format!(
                "its version is {}, not 1",
                info.version
            )));
        }
        let method = match info.method {
            Method::Marginal => TableMethod::Marginal,
            Method::Sequence => TableMethod::Sequence,
            Method::Doppelganger => return Err(bad("it is a network, not tables")),
        };
        if !encoder.valid()
            || packets.as_ref().is_some_and(|p| !p.valid())
            || !input.0.is_empty()
            || !pools.iter().flatten().all(|w| w.is_finite() && *w >= 0.0)
            || !parents.iter().flatten().flatten().all(known)
            || (method == TableMethod::Marginal && parents.len() != FIELDS)
        {
            return Err(bad("its parts do not fit together"));
        }
        if let Some(privacy) = &info.privacy {
            privacy.verify()?;
        }
        Ok(Self {
            info,
            method,
            encoder,
            parents,
            pools,
            chains,
            packets,
        })
    }
}
