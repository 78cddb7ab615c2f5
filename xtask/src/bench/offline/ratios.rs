//! What is compared with what, and the bars.

use super::contender::Contender;
use super::programs::START;

/// A ratio of two contenders.
pub(super) struct Ratio {
    pub(super) what: &'static str,
    pub(super) ours: &'static str,
    pub(super) peer: &'static str,
    pub(super) of: Of,
    /// At least this for speed, at most this for memory; `None`: no bar, a stretch or for information.
    pub(super) bar: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// Packets per CPU second, ours to the peer's.
    Speed,
    /// The same with NFStream's start-up taken off the peer's time.
    SpeedBeyondStart,
    /// Peak memory, ours to the peer's.
    Memory,
    /// CPU time, ours to the peer's.
    Time,
}

pub(super) const fn ratio(
    what: &'static str,
    ours: &'static str,
    peer: &'static str,
    of: Of,
    bar: Option<f64>,
) -> Ratio {
    Ratio {
        what,
        ours,
        peer,
        of,
        bar,
    }
}

pub(super) const RATIOS: &[Ratio] = &[
    ratio(
        "nfstream profile, statistics, CSV / NFStream, the same: packets per CPU second",
        "nfstream",
        "NFStream",
        Of::Speed,
        Some(30.0),
    ),
    ratio(
        "the same, NFStream's start-up taken off",
        "nfstream",
        "NFStream",
        Of::SpeedBeyondStart,
        None,
    ),
    ratio(
        "the same with 20 packets of SPLT",
        "nfstream-splt",
        "NFStream-splt",
        Of::Speed,
        Some(30.0),
    ),
    ratio(
        "the same with SPLT and 20 dissected packets",
        "nfstream-dissect",
        "NFStream-dissect",
        Of::Speed,
        Some(30.0),
    ),
    ratio(
        "native profile / NFStream with statistics",
        "native",
        "NFStream",
        Of::Speed,
        None,
    ),
    // nfpcapd counts packets and bytes of five-tuples: the bar is on what does at least that.
    ratio(
        "native profile / nfpcapd: packets per CPU second",
        "native",
        "nfpcapd",
        Of::Speed,
        Some(1.0),
    ),
    ratio(
        "native profile, all statistics / nfpcapd",
        "native-statistics",
        "nfpcapd",
        Of::Speed,
        None,
    ),
    ratio(
        "nfstream profile, statistics and SPLT / nfpcapd",
        "nfstream-splt",
        "nfpcapd",
        Of::Speed,
        Some(1.0),
    ),
    ratio(
        "nfstream profile, statistics and SPLT / softflowd",
        "nfstream-splt",
        "softflowd",
        Of::Speed,
        None,
    ),
    ratio(
        "native profile / softflowd",
        "native",
        "softflowd",
        Of::Speed,
        None,
    ),
    ratio(
        "nfstream profile, statistics and SPLT / a loop of libpcap",
        "nfstream-splt",
        "tcpdump",
        Of::Speed,
        None,
    ),
    ratio(
        "peak memory, nfstream profile / NFStream",
        "nfstream",
        "NFStream",
        Of::Memory,
        Some(0.2),
    ),
    ratio(
        "peak memory, with SPLT and dissection / NFStream",
        "nfstream-dissect",
        "NFStream-dissect",
        Of::Memory,
        Some(0.2),
    ),
    ratio(
        "peak memory, native with statistics / NFStream",
        "native-statistics",
        "NFStream",
        Of::Memory,
        Some(0.2),
    ),
    ratio(
        "native as JSON lines / as CSV: CPU time",
        "native-jsonl",
        "native",
        Of::Time,
        None,
    ),
    ratio(
        "native as Parquet / as CSV",
        "native-parquet",
        "native",
        Of::Time,
        None,
    ),
    ratio(
        "native as IPFIX / as CSV",
        "native-ipfix",
        "native",
        Of::Time,
        None,
    ),
];

impl Ratio {
    pub(super) fn value(&self, contenders: &[Contender]) -> Option<f64> {
        let find = |name| {
            contenders
                .iter()
                .find(|c| c.name == name && c.missing.is_none())
        };
        let (ours, peer) = (find(self.ours)?, find(self.peer)?);
        Some(match self.of {
            Of::Speed => peer.cpu()? / ours.cpu()?,
            Of::SpeedBeyondStart => (peer.cpu()? - find(START)?.cpu()?) / ours.cpu()?,
            Of::Time => ours.cpu()? / peer.cpu()?,
            Of::Memory => ours.peak()? / peer.peak()?,
        })
    }

    pub(super) fn is_met(&self, value: f64) -> bool {
        self.bar.is_none_or(|bar| match self.of {
            Of::Speed | Of::SpeedBeyondStart => value >= bar,
            Of::Time | Of::Memory => value <= bar,
        })
    }
}
