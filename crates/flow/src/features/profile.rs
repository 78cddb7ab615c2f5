use std::collections::BTreeMap;

use super::{FeatureError, Kind, Shape, native, netml};

/// Everything that says how rows are made, in a form that a model can carry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Profile {
    /// netml's flows; with a shape that does not depend on the capture once it is known.
    Netml {
        /// How flows are made; [`netml::Config::interval_s`] is set once it is known.
        config: netml::Config,
        /// What rows are made of.
        shape: Shape,
    },
    /// A gateway's flows.
    Native(native::Settings),
}

impl Profile {
    /// Names of the columns.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Netml { shape, .. } => shape.names(),
            Self::Native(settings) => settings.names(),
        }
    }

    /// As entries of text, for a model file; numbers read back exactly.
    pub fn to_entries(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        let mut put = |name: &str, value: String| {
            out.insert(format!("features.{name}"), value);
        };
        match self {
            Self::Netml { config, shape } => {
                put("profile", "netml".to_owned());
                put("kind", shape.kind.name().to_owned());
                put("fft", shape.fft.to_string());
                put("header", shape.header.to_string());
                put("base", shape.base.to_string());
                put("window_s", shape.window_s.to_string());
                put("min_packets", config.min_packets.to_string());
                put("timeout_s", config.timeout_s.to_string());
                put("q_interval", config.q_interval.to_string());
                if let Some(interval) = config.interval_s {
                    put("interval_s", interval.to_string());
                }
            }
            Self::Native(s) => {
                put("profile", "native".to_owned());
                put("kind", s.kind.name().to_owned());
                put("fft", s.fft.to_string());
                put("header", s.header.to_string());
                put("packets", s.packets.to_string());
                put("window_s", s.window_s.to_string());
                put("idle_s", s.idle_s.to_string());
                put("active_s", s.active_s.to_string());
                put("around", s.around.to_string());
                put("around_s", s.around_s.to_string());
            }
        }
        out
    }

    /// Reads what [`Profile::to_entries`] made; other entries do not matter.
    ///
    /// # Errors
    /// [`FeatureError::Profile`], [`FeatureError::Kind`], [`FeatureError::Range`].
    pub fn from_entries(entries: &BTreeMap<String, String>) -> Result<Self, FeatureError> {
        let text = |name: &'static str| {
            entries
                .get(&format!("features.{name}"))
                .map(String::as_str)
                .ok_or(FeatureError::Profile { name })
        };
        fn read<T: std::str::FromStr>(name: &'static str, text: &str) -> Result<T, FeatureError> {
            text.parse().map_err(|_| FeatureError::Profile { name })
        }
        let flag = |name| text(name).and_then(|t| read::<bool>(name, t));
        let number = |name| text(name).and_then(|t| read::<f64>(name, t));
        let whole = |name| text(name).and_then(|t| read::<usize>(name, t));
        let kind: Kind = text("kind")?.parse()?;
        match text("profile")? {
            "netml" => {
                let shape = Shape {
                    kind,
                    fft: flag("fft")?,
                    header: flag("header")?,
                    base: whole("base")?,
                    window_s: number("window_s")?,
                };
                shape.check()?;
                let config = netml::Config {
                    min_packets: whole("min_packets")?,
                    timeout_s: number("timeout_s")?,
                    q_interval: number("q_interval")?,
                    interval_s: number("interval_s").ok(),
                    ..netml::Config::default()
                };
                Ok(Self::Netml { config, shape })
            }
            "native" => {
                let settings = native::Settings {
                    kind,
                    fft: flag("fft")?,
                    header: flag("header")?,
                    packets: whole("packets")?,
                    window_s: number("window_s")?,
                    idle_s: number("idle_s")?,
                    active_s: number("active_s")?,
                    around: flag("around")?,
                    around_s: number("around_s")?,
                };
                settings.check()?;
                Ok(Self::Native(settings))
            }
            _ => Err(FeatureError::Profile { name: "profile" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back() {
        let native = Profile::Native(native::Settings {
            idle_s: 0.1 + 0.2,
            ..native::Settings::default()
        });
        let netml = Profile::Netml {
            config: netml::Config {
                interval_s: Some(5.776507735252384),
                ..netml::Config::default()
            },
            shape: Shape {
                kind: Kind::SampNum,
                fft: true,
                header: false,
                base: 52,
                window_s: 3.0994415283203125e-06,
            },
        };
        for profile in [native, netml] {
            assert_eq!(Profile::from_entries(&profile.to_entries()), Ok(profile));
            for name in profile
                .to_entries()
                .keys()
                .filter(|n| !n.ends_with("interval_s"))
            {
                let mut entries = profile.to_entries();
                entries.remove(name);
                assert!(Profile::from_entries(&entries).is_err(), "{name}");
            }
        }
    }
}
