//! NetShare's configuration file.

use serde_json::Value;

use super::column::{Column, Kind};
use super::tree::{At, defaults, expand, merge, note_unknown, wrong};
use crate::SynthError;

/// How a field is encoded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Encoding {
    /// Big-endian bits, each as one of two.
    Bits(u32),
    /// A learned vector.
    Word,
    /// One of these, or of those that occur.
    Choice(Option<Vec<String>>),
    /// A number between a smallest and a largest one, possibly of log(1 + x), on [0, 1] or [-1, 1].
    Float {
        range: [Option<f64>; 2],
        log1p: bool,
        signed: bool,
    },
}

/// A field of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spec {
    pub(crate) column: Column,
    pub(crate) encoding: Encoding,
}

/// One model of a configuration's grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `original_data_file`.
    pub data_file: Option<String>,
    /// `dp`: asked for differential privacy, which takes a budget as well.
    pub dp: bool,
    /// `dp_noise_multiplier`.
    pub noise_multiplier: Option<f64>,
    /// Whether the records are packets (`dataset_type`).
    pub packets: bool,
    /// `epochs` of the first chunk.
    pub epochs: usize,
    pub(crate) kind: Kind,
    pub(crate) chunks: usize,
    pub(crate) fixed_size: bool,
    /// Tags are all zero in the chunks after a flow's first one.
    pub(crate) first_tags_only: bool,
    /// Every record has its own time; otherwise flows start, and gaps follow.
    pub(crate) raw_time: bool,
    pub(crate) signed_time: bool,
    pub(crate) max_flow_len: Option<usize>,
    pub(crate) word_size: usize,
    pub(crate) metadata: Vec<Spec>,
    pub(crate) series: Vec<Spec>,
    pub(crate) reduce: f64,
    pub(crate) net: Net,
}

/// Sizes and training of the networks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Net {
    pub(crate) batch: usize,
    pub(crate) sample_len: usize,
    pub(crate) checkpoint: usize,
    pub(crate) critic_rounds: usize,
    pub(crate) generator_rounds: usize,
    /// Learning rate and first beta of generator, critic, attribute critic.
    pub(crate) rates: [(f64, f64); 3],
    pub(crate) epsilon: f64,
    pub(crate) penalty: [f64; 2],
    pub(crate) attribute_weight: f64,
    pub(crate) attribute_critic: bool,
    /// Hidden layers and units of the attribute generator, the critic, the attribute critic.
    pub(crate) widths: [(usize, usize); 3],
    pub(crate) units: usize,
    pub(crate) latent: [usize; 2],
    pub(crate) clip: f64,
}

/// A configuration as read: its grid, and what to tell the user.
#[derive(Clone, Debug)]
pub struct Config {
    /// One for each combination of `X_expand` lists, the first varying slowest.
    pub grid: Vec<Settings>,
    /// Keys that are not known, by path.
    pub unknown: Vec<String>,
}

/// Reads NetShare's JSON and merges it over NetShare's defaults.
///
/// # Errors
/// [`SynthError::Config`], naming the key, its value and what is allowed.
pub fn read_config(text: &str) -> Result<Config, SynthError> {
    let own: Value = serde_json::from_str(text)
        .map_err(|e| wrong("(whole file)", &Value::Null, &format!("JSON: {e}")))?;
    if !own.is_object() {
        return Err(wrong(
            "(whole file)",
            &own,
            "an object with pre_post_processor and model",
        ));
    }
    if own
        .pointer("/default")
        .and_then(Value::as_str)
        .is_some_and(|d| !["single_event_per_row.json", "netflow.json", "pcap.json"].contains(&d))
    {
        return Err(wrong(
            "default",
            &own["default"],
            "single_event_per_row.json, netflow.json or pcap.json (one record a row)",
        ));
    }
    let mut merged = defaults();
    merge(&mut merged, &own);
    let mut unknown = Vec::new();
    note_unknown(&own, &mut unknown);
    let grid = expand(merged)?;
    let grid = grid.iter().map(settings).collect::<Result<_, _>>()?;
    Ok(Config { grid, unknown })
}

const NORMALIZATIONS: [&str; 2] = ["ZERO_ONE", "MINUSONE_ONE"];

fn settings(config: &Value) -> Result<Settings, SynthError> {
    let top = At {
        path: String::new(),
        value: config,
    };
    let global = top.key("global_config");
    let pre = top.key("pre_post_processor").key("config");
    let time = pre.key("timestamp");
    let kind = match &global.key("dataset_type") {
        // Older examples name the kind by the default file.
        at if at.value.is_null() && config["default"] == "pcap.json" => Kind::Packets,
        at if at.value.is_null() => Kind::Flows,
        at => [Kind::Flows, Kind::Packets][at.one_of(&["netflow", "pcap"], 9)?],
    };
    if !time.value.is_object() {
        return Err(time.wrong("an object with column, generation, encoding, normalization"));
    }
    if !time.key("generation").flag(true)? {
        return Err(time
            .key("generation")
            .wrong("true: records without times are not made"));
    }
    let named = time.key("column");
    let expected = kind.time_name();
    if named.value.as_str() != Some(expected) {
        return Err(named.wrong(&format!("{expected:?}, the time of this dataset_type")));
    }
    let list = |name: &str| -> Result<Vec<Spec>, SynthError> {
        let at = pre.key(name);
        let fields = at
            .value
            .as_array()
            .ok_or_else(|| at.wrong("a list of fields"))?;
        fields
            .iter()
            .enumerate()
            .map(|(i, value)| {
                spec(
                    &At {
                        path: format!("{}[{i}]", at.path),
                        value,
                    },
                    kind,
                )
            })
            .collect()
    };
    let (metadata, series) = (list("metadata")?, list("timeseries")?);
    if metadata.is_empty() {
        return Err(pre.key("metadata").wrong("a list with a field or more"));
    }
    let mut seen = Vec::new();
    for spec in metadata.iter().chain(&series) {
        if seen.contains(&spec.column) {
            let at = pre.key("timeseries");
            return Err(at.wrong(&format!(
                "free of repeated columns ({:?} is there twice)",
                spec.column
            )));
        }
        seen.push(spec.column);
    }
    let max = pre.key("max_flow_len");
    let dp = global.key("dp").flag(false)?;
    Ok(Settings {
        data_file: global
            .key("original_data_file")
            .value
            .as_str()
            .map(str::to_owned),
        dp,
        noise_multiplier: top
            .key("model")
            .key("config")
            .key("dp_noise_multiplier")
            .maybe_number()?,
        packets: kind == Kind::Packets,
        epochs: top
            .key("model")
            .key("config")
            .key("epochs")
            .count(1, 1_000_000)?,
        kind,
        chunks: global.key("n_chunks").count(1, 1000)?,
        fixed_size: pre
            .key("df2chunks")
            .one_of(&["fixed_time", "fixed_size"], 0)?
            == 1,
        first_tags_only: pre
            .key("split_name")
            .one_of(&["multichunk_dep_v2", "multichunk_dep_v1"], 0)?
            == 1,
        raw_time: time.key("encoding").one_of(&["interarrival", "raw"], 0)? == 1,
        signed_time: time.key("normalization").one_of(&NORMALIZATIONS, 0)? == 1,
        max_flow_len: if max.value.is_null() {
            None
        } else {
            Some(max.count(1, 100_000)?)
        },
        word_size: match pre.key("word2vec").key("vec_size") {
            at if at.value.is_null() => 10,
            at => at.count(2, 256)?,
        },
        metadata,
        series,
        reduce: {
            let manager = top.key("model_manager").key("config");
            if manager.key("pretrain_non_dp").flag(true)? {
                manager
                    .key("pretrain_non_dp_reduce_time")
                    .number(1.0, 1e6)?
            } else {
                1.0
            }
        },
        net: net(&top.key("model").key("config"))?,
    })
}

fn spec(at: &At<'_>, kind: Kind) -> Result<Spec, SynthError> {
    let named = at.key("column");
    let column = named
        .value
        .as_str()
        .and_then(|name| Column::find(name, kind))
        .ok_or_else(|| named.wrong(&format!("one of {}", Column::names(kind))))?;
    let encoding = at.key("encoding");
    let encoding = match encoding.value.as_str() {
        Some("bit") => {
            if column.bits() == 0 {
                return Err(encoding.wrong(&format!(
                    "for column {named}: it has no whole numbers",
                    named = named.value
                )));
            }
            let at = at.key("n_bits");
            let n = if at.value.is_null() {
                column.bits() as usize
            } else {
                at.count(1, 32)?
            };
            if (n as u32) < column.bits() {
                return Err(at.wrong(&format!(
                    "at least {}: the column's values need them",
                    column.bits()
                )));
            }
            Encoding::Bits(n as u32)
        }
        Some("word2vec_port") if matches!(column, Column::SourcePort | Column::DestinationPort) => {
            Encoding::Word
        }
        Some("word2vec_proto") if column == Column::Protocol => Encoding::Word,
        Some("categorical") => {
            let choices = at.key("choices");
            Encoding::Choice(match choices.value {
                Value::Null => None,
                Value::Array(list) if !list.is_empty() && list.len() <= 4096 => Some(
                    list.iter()
                        .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                        .collect(),
                ),
                _ => return Err(choices.wrong("a list of 1 to 4096 values")),
            })
        }
        Some(_) => {
            return Err(encoding.wrong(
                "bit, categorical, word2vec_port (srcport, dstport) or word2vec_proto (proto)",
            ));
        }
        None if at.key("type").value == "float" && column.is_number() => {
            let range = [
                at.key("min_x").maybe_number()?,
                at.key("max_x").maybe_number()?,
            ];
            if let [Some(low), Some(high)] = range
                && low >= high
            {
                return Err(at.key("max_x").wrong(&format!("above min_x, {low}")));
            }
            let log1p = at.key("log1p_norm").flag(false)?;
            if log1p && range[0].is_some_and(|low| low < 0.0) {
                return Err(at.key("min_x").wrong("0 or more with log1p_norm"));
            }
            Encoding::Float {
                range,
                log1p,
                signed: at.key("normalization").one_of(&NORMALIZATIONS, 0)? == 1,
            }
        }
        None => {
            return Err(at.key("encoding").wrong(
                "bit, categorical, word2vec_port or word2vec_proto; without encoding, type must be float and the column a number",
            ));
        }
    };
    Ok(Spec { column, encoding })
}

fn net(at: &At<'_>) -> Result<Net, SynthError> {
    for (name, allowed) in [
        (
            "self_norm",
            "false: header traces are not normalized by flow",
        ),
        ("use_adaptive_rolling", "false"),
        ("adam_amsgrad", "false"),
    ] {
        if at.key(name).flag(false)? {
            return Err(at.key(name).wrong(allowed));
        }
    }
    at.key("num_packing").count(1, 1)?;
    at.key("generator_feature_num_layers").count(1, 1)?;
    let rate = |rate: &str, beta: &str| -> Result<(f64, f64), SynthError> {
        Ok((
            at.key(rate).number(1e-9, 1.0)?,
            at.key(beta).number(0.0, 0.999)?,
        ))
    };
    // NetShare counts the layer of outputs or scores as well.
    let width = |layers: &str, units: &str| -> Result<(usize, usize), SynthError> {
        Ok((
            at.key(layers).count(2, 20)? - 1,
            at.key(units).count(1, 8192)?,
        ))
    };
    Ok(Net {
        batch: at.key("batch_size").count(2, 100_000)?,
        sample_len: at.key("sample_len").count(1, 10_000)?,
        checkpoint: at.key("epoch_checkpoint_freq").count(1, 1_000_000)?,
        critic_rounds: at.key("d_rounds").count(1, 100)?,
        generator_rounds: at.key("g_rounds").count(1, 100)?,
        rates: [
            rate("g_lr", "g_beta1")?,
            rate("d_lr", "d_beta1")?,
            rate("attr_d_lr", "attr_d_beta1")?,
        ],
        epsilon: at.key("adam_eps").number(1e-12, 1.0)?,
        penalty: [
            at.key("d_gp_coe").number(0.0, 1e6)?,
            at.key("attr_d_gp_coe").number(0.0, 1e6)?,
        ],
        attribute_weight: at.key("g_attr_d_coe").number(0.0, 1e6)?,
        attribute_critic: at.key("use_attr_discriminator").flag(true)?,
        widths: [
            width(
                "generator_attribute_num_layers",
                "generator_attribute_num_units",
            )?,
            width("discriminator_num_layers", "discriminator_num_units")?,
            width(
                "attr_discriminator_num_layers",
                "attr_discriminator_num_units",
            )?,
        ],
        units: at.key("generator_feature_num_units").count(1, 8192)?,
        latent: [
            at.key("attribute_latent_dim").count(1, 10_000)?,
            at.key("feature_latent_dim").count(1, 10_000)?,
        ],
        clip: match at.key("dp_l2_norm_clip") {
            at if at.value.is_null() => 1.0,
            at => at.number(1e-6, 1e6)?,
        },
    })
}
