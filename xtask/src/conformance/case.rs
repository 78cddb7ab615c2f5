//! What each expected file of the NFStream reference set was made from. Also used by `crates/trace/tests/nfstream.rs`.

use std::fmt;

/// Settings of NFStream behind one expected file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// File names in the set's folder of captures, one source together.
    pub captures: Vec<String>,
    /// The setting's name.
    pub setting: String,
    /// Which size counts.
    pub accounting: u8,
    /// Seconds.
    pub idle_timeout: u32,
    /// Seconds.
    pub active_timeout: u32,
    /// With the statistical columns.
    pub statistics: bool,
    /// Packets of the sequence columns, 0 for none.
    pub splt: u16,
    /// With tunnels decoded.
    pub decode_tunnels: bool,
    /// Packets looked into for application columns, 0 for none.
    pub dissect: u8,
    /// Flows after which it stops, 0 for no limit.
    pub max_flows: u64,
    /// A plugin as `chaff_flow::plugin` reads it.
    pub plugin: Option<String>,
    /// A filter in tcpdump's syntax.
    pub filter: Option<&'static str>,
}

/// The name of an expected file says nothing that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownCase(String);

impl fmt::Display for UnknownCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is of no known setting", self.0)
    }
}

impl std::error::Error for UnknownCase {}

impl Case {
    /// The case of an expected file, named `capture.setting.csv`.
    ///
    /// # Errors
    /// The name is not of that form, or its setting is not known.
    pub fn of(name: &str) -> Result<Self, UnknownCase> {
        let unknown = || UnknownCase(name.to_owned());
        let stem = name.strip_suffix(".csv").ok_or_else(unknown)?;
        let (capture, setting) = stem.rsplit_once('.').ok_or_else(unknown)?;
        let captures = if capture == "one_flow_multi" {
            ["1_5", "6_10", "11_15", "16_19"]
                .map(|part| format!("one_flow_{part}.pcap"))
                .into()
        } else {
            vec![capture.to_owned()]
        };
        let mut case = Self {
            captures,
            setting: setting.to_owned(),
            accounting: 0,
            idle_timeout: 120,
            active_timeout: 1800,
            statistics: true,
            splt: 20,
            decode_tunnels: !setting.ends_with("_notun"),
            dissect: 0,
            max_flows: 0,
            plugin: None,
            filter: None,
        };
        match setting.strip_suffix("_notun").unwrap_or(setting) {
            "m0" => (),
            "m1" => case.accounting = 1,
            "m2" => case.accounting = 2,
            "m3" => case.accounting = 3,
            "m0_i10a60" => (case.idle_timeout, case.active_timeout) = (10, 60),
            "m1_i1a5" => {
                case.accounting = 1;
                (case.idle_timeout, case.active_timeout) = (1, 5);
            }
            "m2_i0" => (case.accounting, case.idle_timeout) = (2, 0),
            "m3_a0" => (case.accounting, case.active_timeout) = (3, 0),
            "m0_max100" => case.max_flows = 100,
            "dpi20" => {
                (case.statistics, case.splt, case.dissect) = (false, 0, 20);
            }
            other => match other.split_once('_') {
                Some(("plug", plugin)) => case.plugin(plugin),
                Some(("m0", "bpf_udp53")) => case.filter = Some("udp port 53"),
                Some(("m0", "bpf_tcp443")) => case.filter = Some("tcp and port 443"),
                _ => return Err(unknown()),
            },
        }
        Ok(case)
    }

    /// NFStream's defaults and one plugin; the expected files of the slicer have statistics too.
    fn plugin(&mut self, name: &str) {
        self.splt = 0;
        self.statistics = name.starts_with("slicer");
        let numbered = |stem: &str, option: &str| {
            let number = name.strip_prefix(stem)?;
            Some(format!("{stem},{option}={number}"))
        };
        self.plugin = Some(if name == "wf3" {
            self.active_timeout = 60;
            "wavelet,levels=3,active=60".to_owned()
        } else if let Some(plugin) = numbered("slicer", "limit").or(numbered("splt", "length")) {
            plugin
        } else {
            name.to_owned()
        });
    }
}
