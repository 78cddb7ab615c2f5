//! NetShare's configuration file.

use serde_json::{Map, Value, json};

use super::column::{Column, Kind};
use crate::SynthError;

/// The most combinations of a grid.
const MAX_GRID: usize = 64;
/// What NetShare merges every configuration over (`single_event_per_row.json`), as far as it has an effect.
fn defaults() -> Value {
    json!({
        "global_config": { "dataset_type": "netflow", "n_chunks": 10, "dp": false },
        "pre_post_processor": { "config": {
            "max_flow_len": null, "norm_option": 0, "split_name": "multichunk_dep_v2", "df2chunks": "fixed_time",
            "truncate": "per_chunk",
        } },
        "model_manager": { "config": { "pretrain_non_dp": true, "pretrain_non_dp_reduce_time": 4.0 } },
        "model": { "config": {
            "batch_size": 100, "sample_len": [1, 5, 10], "sample_len_expand": true, "epochs": 40,
            "epoch_checkpoint_freq": 1000, "d_rounds": 5, "g_rounds": 1, "num_packing": 1, "g_lr": 0.0001, "g_beta1": 0.5,
            "d_lr": 0.0001, "d_beta1": 0.5, "attr_d_lr": 0.0001, "attr_d_beta1": 0.5, "d_gp_coe": 10.0,
            "attr_d_gp_coe": 10.0, "g_attr_d_coe": 1.0, "adam_eps": 1e-8, "adam_amsgrad": false,
            "generator_feature_num_layers": 1, "generator_feature_num_units": 100, "generator_attribute_num_layers": 5,
            "generator_attribute_num_units": 512, "discriminator_num_layers": 5, "discriminator_num_units": 512,
            "attr_discriminator_num_layers": 5, "attr_discriminator_num_units": 512, "use_attr_discriminator": true,
            "self_norm": false, "use_adaptive_rolling": false, "attribute_latent_dim": 5, "feature_latent_dim": 5,
            "dp_noise_multiplier": null, "dp_l2_norm_clip": null,
        } },
    })
}

/// Keys without an effect in NetShare's own code, or here: accepted.
const IDLE: [&str; 35] = [
    "overwrite",
    "dataset_meta_type",
    "allowed_data_types",
    "allowed_data_encodings",
    "class",
    "default",
    "num_train_samples",
    "num_test_samples",
    "norm_option",
    "pretrain_dir",
    "skip_chunk0_train",
    "pretrain_dp",
    "run",
    "iteration",
    "vis_freq",
    "vis_num_sample",
    "noise",
    "attr_noise_type",
    "feature_noise_type",
    "rnn_mlp_num_layers",
    "feed_back",
    "initial_state",
    "leaky_relu",
    "fix_feature_network",
    "debug",
    "combined_disc",
    "use_gt_lengths",
    "use_uniform_lengths",
    "num_cores",
    "sn_mode",
    "scale",
    "extra_checkpoint_freq",
    "work_folder",
    "truncate",
    "pretrain_non_dp",
];

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

fn wrong(key: &str, value: &Value, allowed: &str) -> SynthError {
    SynthError::Config {
        key: key.to_owned(),
        value: value.to_string().chars().take(80).collect(),
        allowed: allowed.to_owned(),
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (k, v) in from {
                // A list without its grid key is no grid.
                if into.contains_key(&format!("{k}_expand")) && !v.is_array() {
                    into.remove(&format!("{k}_expand"));
                }
                merge(into.entry(k.clone()).or_insert(Value::Null), v);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn note_unknown(own: &Value, unknown: &mut Vec<String>) {
    let known = defaults();
    let empty = Map::new();
    let top = own.as_object().unwrap_or(&empty);
    let fields: &[&str] = &[
        "column",
        "type",
        "encoding",
        "n_bits",
        "choices",
        "normalization",
        "log1p_norm",
        "min_x",
        "max_x",
        "name",
        "categorical_mapping",
        "truncate",
    ];
    let check = |path: &str, value: &Value, names: &[&str], unknown: &mut Vec<String>| {
        for key in value.as_object().unwrap_or(&empty).keys() {
            let base = key.strip_suffix("_expand").unwrap_or(key);
            if !names.contains(&base) && !IDLE.contains(&base) {
                unknown.push(format!("{path}{key}"));
            }
        }
    };
    check(
        "",
        own,
        &[
            "global_config",
            "pre_post_processor",
            "model_manager",
            "model",
        ],
        unknown,
    );
    for (section, more) in [
        ("global_config", vec!["original_data_file"]),
        ("pre_post_processor", vec!["config"]),
        ("model_manager", vec!["config"]),
        ("model", vec!["config"]),
    ] {
        let Some(own) = top.get(section) else {
            continue;
        };
        let path = format!("{section}.");
        let names = |v: &Value| -> Vec<String> {
            v.as_object().unwrap_or(&empty).keys().cloned().collect()
        };
        let mut allowed = more;
        let of_default = names(&known[section]);
        allowed.extend(of_default.iter().map(String::as_str));
        check(&path, own, &allowed, unknown);
        let Some(inner) = own.get("config") else {
            continue;
        };
        let of_default = names(&known[section]["config"]);
        let mut allowed: Vec<&str> = of_default.iter().map(String::as_str).collect();
        if section == "pre_post_processor" {
            allowed.extend(["timestamp", "word2vec", "metadata", "timeseries"]);
        }
        check(&format!("{path}config."), inner, &allowed, unknown);
        check(
            &format!("{path}config.timestamp."),
            &inner["timestamp"],
            &["column", "generation", "encoding", "normalization", "name"],
            unknown,
        );
        check(
            &format!("{path}config.word2vec."),
            &inner["word2vec"],
            &[
                "vec_size",
                "model_name",
                "annoy_n_trees",
                "pretrain_model_path",
            ],
            unknown,
        );
        for list in ["metadata", "timeseries"] {
            for (i, field) in inner[list].as_array().into_iter().flatten().enumerate() {
                check(
                    &format!("{path}config.{list}[{i}]."),
                    field,
                    fields,
                    unknown,
                );
            }
        }
    }
}

/// One configuration for each combination of lists with `_expand`.
fn expand(merged: Value) -> Result<Vec<Value>, SynthError> {
    let config = merged["model"]["config"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let mut grid = vec![merged];
    for (key, flag) in &config {
        let Some(name) = key
            .strip_suffix("_expand")
            .filter(|_| flag == &Value::Bool(true))
        else {
            continue;
        };
        let path = format!("model.config.{name}");
        let values = match config.get(name) {
            Some(Value::Array(values)) if !values.is_empty() => values.clone(),
            Some(other) if !other.is_null() => {
                return Err(wrong(&path, other, "a list with a value or more"));
            }
            _ => return Err(wrong(&path, &Value::Null, "a list with a value or more")),
        };
        grid = grid
            .iter()
            .flat_map(|one| {
                values.iter().map(move |v| {
                    let mut one = one.clone();
                    one["model"]["config"][name] = v.clone();
                    one
                })
            })
            .collect();
        if grid.len() > MAX_GRID {
            return Err(wrong(
                &path,
                &json!(values),
                "a grid of at most 64 models in all",
            ));
        }
    }
    Ok(grid)
}

/// A place in the configuration.
struct At<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> At<'a> {
    fn key(&self, name: &str) -> At<'a> {
        let dot = if self.path.is_empty() { "" } else { "." };
        At {
            path: format!("{}{dot}{name}", self.path),
            value: self.value.get(name).unwrap_or(&Value::Null),
        }
    }

    fn wrong(&self, allowed: &str) -> SynthError {
        wrong(&self.path, self.value, allowed)
    }

    fn count(&self, least: u64, most: u64) -> Result<usize, SynthError> {
        // A list of one without its grid key is that one.
        let value = match self.value {
            Value::Array(list) if list.len() == 1 => &list[0],
            other => other,
        };
        value
            .as_u64()
            .or_else(|| {
                value
                    .as_f64()
                    .filter(|v| v.fract() == 0.0 && *v >= 0.0)
                    .map(|v| v as u64)
            })
            .filter(|v| (least..=most).contains(v))
            .map(|v| v as usize)
            .ok_or_else(|| self.wrong(&format!("a whole number from {least} to {most}")))
    }

    fn number(&self, least: f64, most: f64) -> Result<f64, SynthError> {
        self.value
            .as_f64()
            .filter(|v| (least..=most).contains(v))
            .ok_or_else(|| self.wrong(&format!("a number from {least} to {most}")))
    }

    fn maybe_number(&self) -> Result<Option<f64>, SynthError> {
        if self.value.is_null() {
            return Ok(None);
        }
        self.number(-1e18, 1e18).map(Some)
    }

    fn flag(&self, default: bool) -> Result<bool, SynthError> {
        match self.value {
            Value::Null => Ok(default),
            Value::Bool(b) => Ok(*b),
            _ => Err(self.wrong("true or false")),
        }
    }

    fn one_of(&self, names: &[&str], default: usize) -> Result<usize, SynthError> {
        if self.value.is_null() && default < names.len() {
            return Ok(default);
        }
        let text = self.value.as_str().unwrap_or("");
        names
            .iter()
            .position(|n| *n == text)
            .ok_or_else(|| self.wrong(&names.join(" or ")))
    }
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
