use crate::Nanos;

/// Packets of a flow whose time, size and direction are kept one by one (first-N sequence).
pub const SEQUENCE_LEN: usize = 16;

/// What one frame contributes to its flow.
///
/// A GSO/GRO super-packet is one sample with `segments > 1`; its lengths are the sums over the wire packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sample {
    /// Frame length on the wire in bytes, link header and VLAN tags included, FCS and preamble excluded.
    pub wire: u32,
    /// IP length in bytes (IPv4 total length; IPv6 payload length + 40).
    pub bytes: u32,
    /// Transport payload in bytes (TCP, UDP); for other protocols what follows the IP headers.
    pub payload: u32,
    /// Wire packets in this frame, at least 1.
    pub segments: u16,
    /// TCP flags of RFC 9293 byte 13 (CWR is bit 7, FIN bit 0); 0 without TCP.
    pub tcp_flags: u16,
}

impl Sample {
    /// Wire packets as a number to add: `segments`, at least 1.
    #[inline(always)]
    pub const fn packets(&self) -> u64 {
        if self.segments == 0 {
            1
        } else {
            self.segments as u64
        }
    }
}

/// Statistics of one direction of a flow. 128 bytes, no padding.
///
/// All are sums, minima and maxima, so two parts of a flow merge exactly ([`Counters::merge`]). The sum of
/// inter-arrival times is `last - first`. Empty counters have `packets == 0`; their minima are then `MAX`.
/// For super-packets the segments count as packets of equal size that arrived together, so `iat_min` becomes zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Packets on the wire.
    pub packets: u64,
    /// Sum of IP lengths, bytes.
    pub bytes: u64,
    /// Sum of frame lengths, bytes.
    pub wire: u64,
    /// Sum of transport payloads, bytes.
    pub payload: u64,
    /// Sum of squared IP lengths, bytes².
    pub bytes_sq: u64,
    /// Time of the first packet.
    pub first: Nanos,
    /// Time of the last packet.
    pub last: Nanos,
    /// Sum of squared inter-arrival times, µs² (each time rounded down to a microsecond and limited to
    /// 2³² - 1 µs before squaring).
    pub iat_sq: u64,
    /// Smallest inter-arrival time, ns; `u64::MAX` with fewer than two packets.
    pub iat_min: u64,
    /// Largest inter-arrival time, ns; 0 with fewer than two packets.
    pub iat_max: u64,
    /// Smallest IP length, bytes; `u32::MAX` when empty.
    pub bytes_min: u32,
    /// Largest IP length, bytes.
    pub bytes_max: u32,
    /// Packets with each TCP flag set, by bit number: FIN, SYN, RST, PSH, ACK, URG, ECE, CWR.
    pub tcp_flags: [u32; 8],
    /// Packets with a transport payload.
    pub payload_packets: u64,
}

const _: () = assert!(size_of::<Counters>() == 128 && align_of::<Counters>() == 8);

impl Counters {
    /// No packet yet.
    pub const EMPTY: Self = Self {
        packets: 0,
        bytes: 0,
        wire: 0,
        payload: 0,
        bytes_sq: 0,
        first: Nanos::ZERO,
        last: Nanos::ZERO,
        iat_sq: 0,
        iat_min: u64::MAX,
        iat_max: 0,
        bytes_min: u32::MAX,
        bytes_max: 0,
        tcp_flags: [0; 8],
        payload_packets: 0,
    };

    /// Adds one frame that was seen at `at`. Times that go backwards count as equal to the last one.
    #[inline(always)]
    pub fn add(&mut self, at: Nanos, s: Sample) {
        self.note(at, s);
        self.packets += s.packets();
        self.bytes += s.bytes as u64;
        self.wire += s.wire as u64;
        self.payload += s.payload as u64;
    }

    /// [`Counters::add`] without the four totals `packets`, `bytes`, `wire` and `payload`: the kernel adds those
    /// afterwards with atomic instructions, so that they stay exact when several CPUs count one flow.
    #[inline(always)]
    pub fn note(&mut self, at: Nanos, s: Sample) {
        let segments = s.packets();
        if self.packets == 0 {
            self.first = at;
            self.last = at;
        } else {
            let iat = at.0.saturating_sub(self.last.0);
            self.add_iat(iat);
            self.last = Nanos(self.last.0 + iat);
        }
        if segments > 1 {
            self.iat_min = 0;
        }
        let each = if segments > 1 {
            s.bytes / s.segments as u32
        } else {
            s.bytes
        };
        self.bytes_sq += (each as u64 * each as u64) * segments;
        if each < self.bytes_min {
            self.bytes_min = each;
        }
        if each > self.bytes_max {
            self.bytes_max = each;
        }
        if s.payload > 0 {
            self.payload_packets += segments;
        }
        let flags = s.tcp_flags as u32;
        if flags != 0 {
            let n = segments as u32;
            // Unrolled by the compiler: the kernel's verifier sees a constant bound.
            let mut bit = 0;
            while bit < 8 {
                self.tcp_flags[bit] += ((flags >> bit) & 1) * n;
                bit += 1;
            }
        }
    }

    #[inline(always)]
    fn add_iat(&mut self, iat: u64) {
        // 2^32 µs are 71 minutes; without the limit the product would need 128 bits, which the BPF target lacks.
        let us = Nanos(iat).as_micros();
        let us = if us > u32::MAX as u64 {
            u32::MAX as u64
        } else {
            us
        };
        self.iat_sq = self.iat_sq.saturating_add(us * us);
        if iat < self.iat_min {
            self.iat_min = iat;
        }
        if iat > self.iat_max {
            self.iat_max = iat;
        }
    }

    /// Appends counters of a later part of the same flow and direction; the gap between the parts counts as one
    /// inter-arrival time, so `a.merge(&b)` equals adding all packets of `b` to `a`.
    pub fn merge(&mut self, later: &Self) {
        if later.packets == 0 {
            return;
        }
        if self.packets == 0 {
            *self = *later;
            return;
        }
        let gap = later.first.0.saturating_sub(self.last.0);
        self.add_iat(gap);
        self.iat_sq = self.iat_sq.saturating_add(later.iat_sq);
        self.iat_min = self.iat_min.min(later.iat_min);
        self.iat_max = self.iat_max.max(later.iat_max);
        self.packets += later.packets;
        self.bytes += later.bytes;
        self.wire += later.wire;
        self.payload += later.payload;
        self.bytes_sq += later.bytes_sq;
        self.first = self.first.min(later.first);
        self.last = self.last.max(later.last);
        self.bytes_min = self.bytes_min.min(later.bytes_min);
        self.bytes_max = self.bytes_max.max(later.bytes_max);
        self.payload_packets += later.payload_packets;
        for (a, b) in self.tcp_flags.iter_mut().zip(later.tcp_flags) {
            *a += b;
        }
    }

    /// The TCP flags seen in any packet, as RFC 9293 byte 13.
    pub fn flags_seen(&self) -> u8 {
        let mut out = 0;
        for (bit, n) in self.tcp_flags.iter().enumerate() {
            if *n > 0 {
                out |= 1 << bit;
            }
        }
        out
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// Cover packets of one direction of a flow. 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CoverCounters {
    /// Cover packets.
    pub packets: u64,
    /// Sum of IP lengths, bytes.
    pub bytes: u64,
}

/// One of the first packets of a flow. 8 bytes, no padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SequenceEntry {
    /// Time since the flow's first packet in this part, µs, saturating.
    pub offset_us: u32,
    /// IP length, bytes, saturating.
    pub bytes: u16,
    /// Bit 8: direction ([`crate::Dir`]); bits 0-7: TCP flags.
    pub dir_flags: u16,
}

/// What the kernel keeps for one flow in one map generation. No padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowValue {
    /// Per direction, indexed by [`crate::Dir`].
    pub counters: [Counters; 2],
    /// Cover (marked packets) per direction, never mixed into `counters`.
    pub cover: [CoverCounters; 2],
    /// First packets of this part of the flow, `sequence_len` of them valid.
    pub sequence: [SequenceEntry; SEQUENCE_LEN],
    /// Time of the first packet of this part, either direction, real or cover.
    pub first: Nanos,
    /// Index of the device, 0 when unknown.
    pub device: u32,
    /// Interface the first packet was seen on.
    pub ifindex: u32,
    /// MAC address of the device side.
    pub mac: [u8; 6],
    /// Direction of the first packet.
    pub first_dir: u8,
    /// Valid entries of `sequence`.
    pub sequence_len: u8,
    /// Packets of this flow that were copied up so far, those of earlier parts included ([`crate::HintHeader`]).
    pub copied: u8,
    /// Zero.
    pub pad: [u8; 7],
}

const _: () =
    assert!(size_of::<FlowValue>() == 2 * 128 + 32 + 128 + 32 && align_of::<FlowValue>() == 8);

impl FlowValue {
    /// No packet yet.
    pub const EMPTY: Self = Self {
        counters: [Counters::EMPTY; 2],
        cover: [CoverCounters {
            packets: 0,
            bytes: 0,
        }; 2],
        sequence: [SequenceEntry {
            offset_us: 0,
            bytes: 0,
            dir_flags: 0,
        }; SEQUENCE_LEN],
        first: Nanos::ZERO,
        device: 0,
        ifindex: 0,
        mac: [0; 6],
        first_dir: 0,
        sequence_len: 0,
        copied: 0,
        pad: [0; 7],
    };
}

impl Default for FlowValue {
    fn default() -> Self {
        Self::EMPTY
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    fn sample(n: u32) -> Sample {
        Sample {
            wire: n + 14,
            bytes: n,
            payload: n.saturating_sub(40),
            segments: 1,
            tcp_flags: (n % 256) as u16,
        }
    }

    #[test]
    fn merging_two_parts_equals_adding_every_packet() {
        let packets: std::vec::Vec<(u64, u32)> = (0..50u32)
            .map(|i| (i as u64 * i as u64 * 777, 40 + (i * 131) % 1400))
            .collect();
        for cut in 0..=packets.len() {
            let (mut whole, mut a, mut b) = (Counters::EMPTY, Counters::EMPTY, Counters::EMPTY);
            for (i, &(t, n)) in packets.iter().enumerate() {
                whole.add(Nanos(t), sample(n));
                if i < cut {
                    a.add(Nanos(t), sample(n))
                } else {
                    b.add(Nanos(t), sample(n))
                }
            }
            a.merge(&b);
            assert_eq!(a, whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_super_packet_counts_its_segments() {
        let mut c = Counters::EMPTY;
        c.add(
            Nanos(5),
            Sample {
                wire: 3042,
                bytes: 3000,
                payload: 2880,
                segments: 2,
                tcp_flags: 0x10,
            },
        );
        assert_eq!(
            (c.packets, c.bytes, c.bytes_min, c.bytes_max, c.tcp_flags[4]),
            (2, 3000, 1500, 1500, 2)
        );
        assert_eq!((c.iat_min, c.iat_max, c.bytes_sq), (0, 0, 2 * 1500 * 1500));
    }

    #[test]
    fn a_clock_that_goes_back_counts_as_no_gap() {
        let mut c = Counters::EMPTY;
        c.add(Nanos(100), sample(60));
        c.add(Nanos(40), sample(60));
        assert_eq!((c.iat_min, c.first, c.last), (0, Nanos(100), Nanos(100)));
    }
}
