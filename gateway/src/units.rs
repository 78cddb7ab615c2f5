//! Durations and sizes written with units, as the configuration file has them.

use chaff_abi::Nanos;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration such as `250us`, `100ms`, `5s`, `10min` or `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub Nanos);

/// A size or a rate in bytes such as `512B`, `20kB`, `64KiB`, `1.5MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const TIMES: [(&str, f64); 6] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("ms", 1e6),
    ("min", 60e9),
    ("h", 3600e9),
    ("s", 1e9),
];
const SIZES: [(&str, f64); 7] = [
    ("KiB", 1024.0),
    ("MiB", 1048576.0),
    ("GiB", 1073741824.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("B", 1.0),
];

impl std::str::FromStr for Duration {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let n = split(s, &TIMES).ok_or_else(|| {
            format!("`{s}` is not a duration: write a number and one of ns, us, ms, s, min, h, such as 100ms")
        })?;
        Ok(Self(Nanos(n as u64)))
    }
}

impl std::str::FromStr for Bytes {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let n = split(s, &SIZES).ok_or_else(|| {
            format!("`{s}` is not a size: write a number and one of B, kB, MB, GB, KiB, MiB, GiB, such as 20kB")
        })?;
        Ok(Self(n as u64))
    }
}

fn split(s: &str, units: &[(&str, f64)]) -> Option<f64> {
    let s = s.trim();
    let (unit, factor) = units.iter().find(|(unit, _)| s.ends_with(unit))?;
    let number: f64 = s[..s.len() - unit.len()].trim().parse().ok()?;
    let value = number * factor;
    (number.is_finite() && number >= 0.0 && value < u64::MAX as f64).then_some(value)
}

impl std::fmt::Display for Duration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ns = self.0.0;
        let (unit, size) = [
            ("h", 3_600_000_000_000),
            ("min", 60_000_000_000),
            ("s", 1_000_000_000),
            ("ms", 1_000_000),
            ("us", 1_000),
        ]
        .into_iter()
        .find(|(_, size)| ns >= *size && ns.is_multiple_of(*size))
        .unwrap_or(("ns", 1));
        write!(f, "{}{unit}", ns / size)
    }
}

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (unit, size) = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)]
            .into_iter()
            .find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / size)
    }
}

macro_rules! as_text {
    ($t:ty, $expecting:literal) => {
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $t;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<$t, E> {
                        s.parse().map_err(E::custom)
                    }
                }
                d.deserialize_str(Text)
            }
        }
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    };
}
as_text!(
    Duration,
    "a duration with its unit in quotes, such as \"100ms\""
);
as_text!(Bytes, "a size with its unit in quotes, such as \"20kB\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints() {
        for (text, ns) in [
            ("250us", 250_000),
            ("100ms", 100_000_000),
            ("90s", 90_000_000_000),
            ("1h", 3_600_000_000_000),
        ] {
            let d: Duration = text.parse().expect("valid");
            assert_eq!(d.0, Nanos(ns));
            assert_eq!(d.to_string().parse::<Duration>(), Ok(d));
        }
        assert_eq!("1.5kB".parse::<Bytes>(), Ok(Bytes(1_500)));
        assert_eq!(
            "64KiB".parse::<Bytes>().map(|b| b.to_string()),
            Ok("65536B".to_owned())
        );
    }

    #[test]
    fn a_bare_number_is_told_how_to_write_it() {
        #[derive(Debug, Deserialize)]
        struct Table {
            #[expect(dead_code, reason = "only its error is looked at")]
            slot: Duration,
        }
        let e = toml::from_str::<Table>("slot = 100").expect_err("no unit");
        assert!(e.to_string().contains("such as \"100ms\""), "{e}");
    }

    #[test]
    fn says_what_is_allowed() {
        for bad in ["", "5", "-1s", "s", "5 parsecs", "1e400s"] {
            let e = bad.parse::<Duration>().expect_err(bad);
            assert!(e.contains("such as 100ms"), "{e}");
        }
    }
}
