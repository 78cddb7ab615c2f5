use crate::ModelError;
use crate::proto::StringStringEntryProto;

/// Version of the signature's own layout; models of another version are refused.
pub const SIGNATURE_VERSION: u32 = 1;

/// [`Signature::kind`] of iPET generators: latent vector in, `rows x columns` demands out.
pub const IPET_GENERATOR: &str = "ipet-generator";

/// [`Signature::kind`] of attackers on windows (iPET's M_seq, its discriminator): `rows x columns` slots and the silence before
/// them in, one probability a label out. The labels are in a file beside it.
pub const IPET_ATTACKER: &str = "ipet-attacker";

/// [`Signature::feature_kind`] of iPET's slots. The columns are, in this order: incoming packets, incoming payload
/// bytes, outgoing packets, outgoing payload bytes, all per slot.
pub const IPET_SLOTS: &str = "ipet-slots";

/// [`Signature::feature_kind`] of counts by size: for each slot the incoming dummies of each of [`Extras::sizes`], then the outgoing ones.
pub const SIZE_BINS: &str = "size-bins";

/// Prefix of every metadata key that belongs to the signature.
pub(crate) const PREFIX: &str = "chaff.";
pub(crate) const DIGEST: &str = "chaff.digest";
const GOLDEN: &str = "chaff.golden";
const VERSION: &str = "chaff.version";

/// Most stored test vectors in a file.
const MAX_GOLDEN: usize = 64;

/// What a model is and how it was made. Travels in the file's `metadata_props` under keys that start with `chaff.`.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// Layout version, [`SIGNATURE_VERSION`].
    pub version: u32,
    /// What the model does: lower-case words joined by `-`, such as [`IPET_GENERATOR`].
    pub kind: String,
    /// What its rows and columns mean, such as [`IPET_SLOTS`].
    pub feature_kind: String,
    /// Rows (r): slots of one window. 1 to 65,536.
    pub rows: u32,
    /// Columns (c) of a row. 1 to 65,536.
    pub columns: u32,
    /// Length of a slot, ms. 1 to 3,600,000.
    pub slot_ms: u32,
    /// Length of a window, ms; usually `rows * slot_ms`. 0 when the model has no window.
    pub window_ms: u32,
    /// Largest value of each column (generators) or divisor of each column (classifiers); one number a column.
    pub scale: Vec<f32>,
    /// Decision threshold on the model's score, for detectors.
    pub threshold: Option<f32>,
    /// Label of the device that the model was made for, at most 256 bytes, no control characters.
    pub device_label: String,
    /// Which of several independently trained series.
    pub chain: u32,
    /// Stage inside the series, counted from 1.
    pub stage: u32,
    /// Seed of the training run.
    pub seed: u64,
    /// SHA-256 of the training data in the form the trainer documents.
    pub training_digest: [u8; 32],
    /// What a generator of cover does beyond iPET's.
    pub extras: Extras,
}

/// What a generator of cover takes and makes beyond iPET's. What is off is not in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Slots of recent real traffic that it looks at, in an input `past`: the newest first, for each slot the columns of
    /// [`IPET_SLOTS`], packets as `ln(1 + n)`, bytes as `0.2 ln(1 + n)`. 0 to 1,024.
    pub past: u32,
    /// Numbers of an input `secret`, standard normal, drawn once a home and device. 0 to 1,024.
    pub secret: u32,
    /// UDP payloads of the dummies it counts, at most 3, ascending, 1 to 65,535; empty: it gives packets and bytes.
    pub sizes: Vec<u16>,
    /// Cover goes on after the device, and starts without it: mean length of such cover and mean time between such starts, ms, 1 to
    /// 86,400,000 each; `None`: whenever the user's settings say.
    pub mask_ms: Option<[u32; 2]>,
}

impl Extras {
    fn check(&self) -> Result<(), ModelError> {
        for (field, n) in [("chaff.past", self.past), ("chaff.secret", self.secret)] {
            if n > 1_024 {
                return Err(bad(field, n, "0 to 1024"));
            }
        }
        let ascending = self.sizes.windows(2).all(|w| w[0] < w[1]);
        if self.sizes.len() > 3 || !ascending || self.sizes.first() == Some(&0) {
            return Err(bad(
                "chaff.sizes",
                list(&self.sizes),
                "at most 3 sizes, ascending, above 0",
            ));
        }
        if let Some(mask) = self.mask_ms
            && mask.iter().any(|ms| !(1..=86_400_000).contains(ms))
        {
            return Err(bad("chaff.mask_ms", list(&mask), "two of 1 to 86400000"));
        }
        Ok(())
    }

    fn write(&self, entries: &mut Vec<(&'static str, String)>) {
        for (key, n) in [("chaff.past", self.past), ("chaff.secret", self.secret)] {
            if n > 0 {
                entries.push((key, n.to_string()));
            }
        }
        if !self.sizes.is_empty() {
            entries.push(("chaff.sizes", list(&self.sizes)));
        }
        if let Some(mask) = self.mask_ms {
            entries.push(("chaff.mask_ms", list(&mask)));
        }
    }

    fn read<'a>(find: impl Fn(&'static str) -> Option<&'a str>) -> Result<Self, ModelError> {
        let count = |key| find(key).map_or(Ok(0), |text| number(key, text));
        let mask_ms = match find("chaff.mask_ms") {
            None => None,
            Some(text) => {
                let both: Vec<u32> = numbers("chaff.mask_ms", text)?;
                let both = both.try_into();
                Some(both.map_err(|_| bad("chaff.mask_ms", text, "two numbers"))?)
            }
        };
        Ok(Self {
            past: count("chaff.past")?,
            secret: count("chaff.secret")?,
            sizes: match find("chaff.sizes") {
                None => Vec::new(),
                Some(text) => numbers("chaff.sizes", text)?,
            },
            mask_ms,
        })
    }
}

/// One stored test vector: what the trainer computed for these inputs. Compared element by element when the model is
/// loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Golden {
    /// Flattened inputs in the model's order.
    pub inputs: Vec<Vec<f32>>,
    /// Flattened outputs in the model's order.
    pub outputs: Vec<Vec<f32>>,
}

impl Signature {
    /// Checks the ranges given at the fields.
    ///
    /// # Errors
    /// [`ModelError::BadField`] for the first field out of range.
    pub fn check(&self) -> Result<(), ModelError> {
        if self.version != SIGNATURE_VERSION {
            return Err(bad(VERSION, self.version, SIGNATURE_VERSION.to_string()));
        }
        for (field, text) in [
            ("chaff.kind", &self.kind),
            ("chaff.features", &self.feature_kind),
        ] {
            let fits = (1..=64).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            if !fits {
                return Err(bad(field, text, "lower-case words joined by `-`"));
            }
        }
        for (field, n, low, high) in [
            ("chaff.rows", self.rows, 1, 65_536),
            ("chaff.columns", self.columns, 1, 65_536),
            ("chaff.slot_ms", self.slot_ms, 1, 3_600_000),
            ("chaff.window_ms", self.window_ms, 0, 86_400_000),
        ] {
            if !(low..=high).contains(&n) {
                return Err(bad(field, n, format!("{low} to {high}")));
            }
        }
        let scale_fits = self.scale.len() == self.columns as usize
            && self.scale.iter().all(|s| s.is_finite() && *s > 0.0);
        if !scale_fits {
            return Err(bad(
                "chaff.scale",
                list(&self.scale),
                format!("{} positive numbers", self.columns),
            ));
        }
        if self.threshold.is_some_and(|t| !t.is_finite()) {
            return Err(bad("chaff.threshold", "not finite", "a finite number"));
        }
        if self.device_label.len() > 256 || self.device_label.chars().any(char::is_control) {
            return Err(bad(
                "chaff.device",
                &self.device_label,
                "at most 256 bytes, no control characters",
            ));
        }
        self.extras.check()
    }

    /// The metadata of a model with this signature, without the digest, sorted by key.
    pub(crate) fn to_properties(&self, golden: &[Golden]) -> Vec<StringStringEntryProto> {
        let mut entries = vec![
            ("chaff.chain", self.chain.to_string()),
            ("chaff.columns", self.columns.to_string()),
            ("chaff.device", self.device_label.clone()),
            ("chaff.features", self.feature_kind.clone()),
            (GOLDEN, golden_text(golden)),
            ("chaff.kind", self.kind.clone()),
            ("chaff.rows", self.rows.to_string()),
            ("chaff.scale", list(&self.scale)),
            ("chaff.seed", self.seed.to_string()),
            ("chaff.slot_ms", self.slot_ms.to_string()),
            ("chaff.stage", self.stage.to_string()),
            ("chaff.training_digest", hex(&self.training_digest)),
            (VERSION, self.version.to_string()),
            ("chaff.window_ms", self.window_ms.to_string()),
        ];
        if let Some(t) = self.threshold {
            entries.push(("chaff.threshold", t.to_string()));
        }
        self.extras.write(&mut entries);
        entries.sort_by_key(|e| e.0);
        entries
            .into_iter()
            .map(|(key, value)| StringStringEntryProto {
                key: key.to_owned(),
                value,
            })
            .collect()
    }

    /// Reads the signature, the stored vectors' text and the digest.
    pub(crate) fn from_properties(
        all: &[StringStringEntryProto],
    ) -> Result<(Self, &str, &str), ModelError> {
        let ours = all.iter().filter(|p| p.key.starts_with(PREFIX));
        if ours.clone().next().is_none() {
            return Err(ModelError::NotSigned {
                field: VERSION,
                properties: all.len(),
            });
        }
        let mut keys: Vec<&str> = ours.clone().map(|p| p.key.as_str()).collect();
        keys.sort_unstable();
        if let Some(twice) = keys.windows(2).find(|w| w[0] == w[1]) {
            return Err(ModelError::Malformed(format!(
                "metadata property {:?} occurs twice",
                twice[0]
            )));
        }
        let find = |key: &'static str| {
            ours.clone()
                .find(|p| p.key == key)
                .map(|p| p.value.as_str())
        };
        let text = |key| find(key).ok_or(ModelError::MissingField { field: key });
        let version = number(VERSION, text(VERSION)?)?;
        if version != SIGNATURE_VERSION {
            return Err(bad(VERSION, version, SIGNATURE_VERSION.to_string()));
        }
        let count = |key| number(key, text(key)?);
        let threshold = match find("chaff.threshold") {
            Some(t) => Some(number("chaff.threshold", t)?),
            None => None,
        };
        let digest_text = text("chaff.training_digest")?;
        let training_digest = unhex(digest_text)
            .and_then(|b| b.try_into().ok())
            .ok_or_else(|| {
                bad(
                    "chaff.training_digest",
                    digest_text,
                    "64 hexadecimal digits",
                )
            })?;
        let signature = Self {
            version,
            kind: text("chaff.kind")?.to_owned(),
            feature_kind: text("chaff.features")?.to_owned(),
            rows: count("chaff.rows")?,
            columns: count("chaff.columns")?,
            slot_ms: count("chaff.slot_ms")?,
            window_ms: count("chaff.window_ms")?,
            scale: numbers("chaff.scale", text("chaff.scale")?)?,
            threshold,
            device_label: text("chaff.device")?.to_owned(),
            chain: count("chaff.chain")?,
            stage: count("chaff.stage")?,
            seed: number("chaff.seed", text("chaff.seed")?)?,
            training_digest,
            extras: Extras::read(find)?,
        };
        signature.check()?;
        Ok((signature, text(GOLDEN)?, text(DIGEST)?))
    }
}

/// Reads stored vectors for a model with these input and output sizes.
pub(crate) fn golden(
    text: &str,
    inputs: &[usize],
    outputs: &[usize],
) -> Result<Vec<Golden>, ModelError> {
    let refuse = |what: &str| bad(GOLDEN, shorten(text), what);
    let vectors: Vec<&str> = text.split(';').collect();
    if text.is_empty() || vectors.len() > MAX_GOLDEN {
        return Err(refuse("1 to 64 vectors separated by `;`"));
    }
    let part = |text: &str, sizes: &[usize]| -> Result<Vec<Vec<f32>>, ModelError> {
        let bytes = unhex(text).ok_or_else(|| refuse("hexadecimal little-endian floats"))?;
        let total: usize = sizes.iter().sum();
        if bytes.len() != 4 * total {
            return Err(refuse(&format!("{total} numbers in each part of a vector")));
        }
        let mut all = bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok(sizes
            .iter()
            .map(|&n| all.by_ref().take(n).collect())
            .collect())
    };
    let read = |vector: &str| {
        let (i, o) = vector
            .split_once(':')
            .ok_or_else(|| refuse("inputs, `:`, outputs"))?;
        let g = Golden {
            inputs: part(i, inputs)?,
            outputs: part(o, outputs)?,
        };
        let mut numbers = g.inputs.iter().chain(&g.outputs).flatten();
        if numbers.any(|x| !x.is_finite()) {
            return Err(refuse("finite numbers"));
        }
        Ok(g)
    };
    vectors.into_iter().map(read).collect()
}

fn golden_text(golden: &[Golden]) -> String {
    let part = |values: &[Vec<f32>]| -> String {
        let bytes: Vec<u8> = values
            .iter()
            .flatten()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        hex(&bytes)
    };
    golden
        .iter()
        .map(|g| format!("{}:{}", part(&g.inputs), part(&g.outputs)))
        .collect::<Vec<_>>()
        .join(";")
}

fn bad(field: &'static str, found: impl ToString, want: impl Into<String>) -> ModelError {
    ModelError::BadField {
        field,
        found: shorten(&found.to_string()),
        want: want.into(),
    }
}

/// Keeps error messages readable when a field holds kilobytes.
fn shorten(text: &str) -> String {
    if text.chars().count() <= 60 {
        return text.to_owned();
    }
    text.chars().take(57).chain("...".chars()).collect()
}

fn number<T: std::str::FromStr>(field: &'static str, text: &str) -> Result<T, ModelError> {
    text.parse().map_err(|_| bad(field, text, "a number"))
}

fn numbers<T: std::str::FromStr>(field: &'static str, text: &str) -> Result<Vec<T>, ModelError> {
    text.split(',').map(|t| number(field, t)).collect()
}

fn list<T: ToString>(values: &[T]) -> String {
    let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
    texts.join(",")
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(2 * bytes.len());
    for b in bytes {
        out.push(char::from(DIGITS[usize::from(b >> 4)]));
        out.push(char::from(DIGITS[usize::from(b & 15)]));
    }
    out
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|&[a, b]| Some(digit(a)? << 4 | digit(b)?))
        .collect()
}
