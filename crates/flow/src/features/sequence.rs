/// The packets of one flow in the order of time; all slices have one entry per packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequence<'a> {
    /// Seconds; only differences matter.
    pub at: &'a [f64],
    /// Lengths, bytes.
    pub bytes: &'a [f64],
    /// TCP flags as in the header (FIN is bit 0, CWR bit 7); 0 where there are none.
    pub flags: &'a [u8],
    /// Time to live or hop limit.
    pub ttl: &'a [u8],
    /// Packets whose flags and time to live are not known.
    pub headless: u64,
}

impl Sequence<'_> {
    /// Last time minus first, seconds; 0 with fewer than two packets.
    pub fn duration(&self) -> f64 {
        match (self.at.first(), self.at.last()) {
            (Some(first), Some(last)) => last - first,
            _ => 0.0,
        }
    }
}
