//! NetShare's configuration as JSON: defaults, grids, keys that nobody knows, values with their place.

use serde_json::{Map, Value, json};

use crate::SynthError;

/// The most combinations of a grid.
const MAX_GRID: usize = 64;
/// What NetShare merges every configuration over (`single_event_per_row.json`), as far as it has an effect.
pub(crate) fn defaults() -> Value {
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

pub(crate) fn wrong(key: &str, value: &Value, allowed: &str) -> SynthError {
    SynthError::Config {
        key: key.to_owned(),
        value: value.to_string().chars().take(80).collect(),
        allowed: allowed.to_owned(),
    }
}

pub(crate) fn merge(into: &mut Value, from: &Value) {
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

pub(crate) fn note_unknown(own: &Value, unknown: &mut Vec<String>) {
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
pub(crate) fn expand(merged: Value) -> Result<Vec<Value>, SynthError> {
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
pub(crate) struct At<'a> {
    pub(crate) path: String,
    pub(crate) value: &'a Value,
}

impl<'a> At<'a> {
    pub(crate) fn key(&self, name: &str) -> At<'a> {
        let dot = if self.path.is_empty() { "" } else { "." };
        At {
            path: format!("{}{dot}{name}", self.path),
            value: self.value.get(name).unwrap_or(&Value::Null),
        }
    }

    pub(crate) fn wrong(&self, allowed: &str) -> SynthError {
        wrong(&self.path, self.value, allowed)
    }

    pub(crate) fn count(&self, least: u64, most: u64) -> Result<usize, SynthError> {
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

    pub(crate) fn number(&self, least: f64, most: f64) -> Result<f64, SynthError> {
        self.value
            .as_f64()
            .filter(|v| (least..=most).contains(v))
            .ok_or_else(|| self.wrong(&format!("a number from {least} to {most}")))
    }

    pub(crate) fn maybe_number(&self) -> Result<Option<f64>, SynthError> {
        if self.value.is_null() {
            return Ok(None);
        }
        self.number(-1e18, 1e18).map(Some)
    }

    pub(crate) fn flag(&self, default: bool) -> Result<bool, SynthError> {
        match self.value {
            Value::Null => Ok(default),
            Value::Bool(b) => Ok(*b),
            _ => Err(self.wrong("true or false")),
        }
    }

    pub(crate) fn one_of(&self, names: &[&str], default: usize) -> Result<usize, SynthError> {
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
